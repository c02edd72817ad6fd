"""What verifiers read before a completion: what the policy reads, as they were taught it, and nothing else."""

import json
import shutil
from dataclasses import replace
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from tokenizers import processors
from transformers import AutoTokenizer, set_seed

from rlstep.runtime.errors import UserError
from rlstep.runtime.rows import write_rows
from rlstep.stages.orm import ORMConfig, orm
from rlstep.stages.prm import PRMConfig, prm
from rlstep.stages.score import ScoreConfig, score
from rlstep.steps.boundaries import line_steps
from rlstep.steps.prompt_options import PromptOptions
from rlstep.steps.prompts import PromptFormat
from rlstep.steps.records import read_solutions
from rlstep.tasks.base import checked
from rlstep.verifiers.features import score_features, train_features
from rlstep.verifiers.load import load_verifier
from rlstep.verifiers.pretrained import load_config
from rlstep.verifiers.scoring.reward_model import RewardModel
from rlstep.verifiers.serving.client import RemoteRewardModel
from rlstep.verifiers.spec import ImplicitSpec, VerifierSpec
from rlstep.verifiers.training.implicit_trainer import ImplicitTrainer
from rlstep.verifiers.training.start import new_verifier
from rlstep.verifiers.training.trainer import ORMTrainer, PRMTrainer
from tests.verifiers.serving.servers import serving

SYSTEM = {"role": "system", "content": "Work step by step."}


def as_chat(solution):
    return replace(solution, prompt=[{"role": "user", "content": solution.prompt}])


@pytest.fixture(scope="module")
def chat_solutions(task):
    return [as_chat(checked(task, solution)) for solution in task.demonstrations(12, seed=3)]


@pytest.fixture(scope="module")
def chat_tokenizer(chat_lm):
    return AutoTokenizer.from_pretrained(chat_lm)


@pytest.fixture(scope="module")
def chat_prm(chat_lm, chat_tokenizer, tmp_path_factory) -> str:
    """A PRM that was taught chats with a system prompt; untrained."""
    prompts = PromptFormat("chat", SYSTEM["content"]).of_tokenizer(chat_tokenizer)
    path = tmp_path_factory.mktemp("chat_prm")
    set_seed(1)
    new_verifier(chat_lm, VerifierSpec("prm", prompts=prompts)).save_pretrained(path)
    chat_tokenizer.save_pretrained(path)
    return str(path)


def rows_of(solutions):
    return [s.prompt for s in solutions], [s.completion for s in solutions], [s.steps for s in solutions]


def own_ids(tokenizer, messages) -> list[int]:
    return tokenizer.apply_chat_template(messages, tokenize=True, add_generation_prompt=True, return_dict=True)[
        "input_ids"
    ]


# --- One prompt for all.


def test_a_chat_is_asked_behind_the_templates_own_tokens(chat_prm, chat_solutions, chat_tokenizer):
    verifier = RewardModel.from_pretrained(chat_prm)
    features = verifier.query_format.features(*rows_of(chat_solutions), verifier.tokenizer)
    for solution, feature in zip(chat_solutions, features, strict=True):
        prompt = own_ids(chat_tokenizer, [SYSTEM, *solution.prompt])
        completion = chat_tokenizer(solution.completion, add_special_tokens=False)["input_ids"]
        assert feature.ids.tolist() == prompt + completion
        # The last step ends with the completion, and every position is a step's last token.
        assert feature.positions[-1] == len(prompt + completion) - 1
        ends = [chat_tokenizer.decode(feature.ids[len(prompt) : place + 1]) for place in feature.positions]
        assert ends == [solution.completion[:end] for _, end in solution.steps]


@pytest.mark.parametrize("closing", ["<eos>", "<|im_end|>"])
def test_special_tokens_of_the_tokenizer_stand_once_and_none_closes_the_prompt(closing, tokenizer, chat_lm):
    """Today's Gemma opens a text with <bos>, its templates too, and some tokenizers close every text."""
    opened = AutoTokenizer.from_pretrained(chat_lm)
    opened.bos_token = "<|im_start|>"
    first, last = opened.bos_token_id, opened.convert_tokens_to_ids(closing)
    opened.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"<|im_start|> $A {closing}", special_tokens=[("<|im_start|>", first), (closing, last)]
    )
    text, completion = "7 + 3\n", "7 + 3 = 10\n"
    assert opened(text)["input_ids"][0] == first
    assert opened(text)["input_ids"][-1] == last
    plain = opened(text, add_special_tokens=False)["input_ids"]
    written = opened(completion, add_special_tokens=False)["input_ids"]
    (feature,) = score_features("prm", [text], [completion], [line_steps(completion)], opened)
    assert feature.ids.tolist() == [first, *plain, *written]
    chat = [{"role": "user", "content": text}]
    (feature,) = score_features("prm", [chat], [completion], [line_steps(completion)], opened)
    assert feature.ids.tolist() == [*own_ids(opened, chat), *written]
    # A template that writes the opening token, put into the text by hand.
    (feature,) = score_features("prm", ["<|im_start|>" + text], [completion], [line_steps(completion)], opened)
    assert feature.ids.tolist() == [first, *plain, *written]


# --- Kept.


@pytest.mark.parametrize("trainer_class", [PRMTrainer, ORMTrainer, ImplicitTrainer])
def test_training_keeps_how_prompts_were_written(trainer_class, chat_lm, chat_solutions, chat_tokenizer, arguments):
    trainer = trainer_class(chat_lm, arguments(max_steps=1), chat_solutions, processing_class=chat_tokenizer)
    prompt = own_ids(chat_tokenizer, chat_solutions[0].prompt)
    # Each unit is a list of rows that share a prefix.
    rows = [row for unit in trainer.train_dataset for row in unit]
    assert any(row.ids[: len(prompt)].tolist() == prompt for row in rows)
    trainer.train()
    trainer.save_model()
    kept = load_config(trainer.args.output_dir).rlstep_verifier["prompt_format"]
    assert kept == PromptFormat("chat").of_tokenizer(chat_tokenizer).to_dict()
    chat_tokenizer.save_pretrained(trainer.args.output_dir)
    verifier = load_verifier(trainer.args.output_dir)
    assert verifier.prompt_format.to_dict() == kept
    assert all(verifier.score(*rows_of(chat_solutions[:2])))


def test_training_reads_what_the_policy_read(chat_lm, chat_solutions, chat_tokenizer, arguments):
    """The rows say with which system prompt they were sampled."""
    written = PromptFormat("chat", SYSTEM["content"]).of_tokenizer(chat_tokenizer).to_dict()
    sampled = [replace(s, prompt_format=written) for s in chat_solutions]
    trainer = PRMTrainer(chat_lm, arguments(), sampled, processing_class=chat_tokenizer)
    assert trainer.spec.prompts.to_dict() == written
    features, _ = train_features(
        "prm", sampled[:1], chat_tokenizer, None, trainer.spec.policy, prompt_format=trainer.spec.prompts
    )
    prompt = own_ids(chat_tokenizer, [SYSTEM, *sampled[0].prompt])
    assert features[0].ids[: len(prompt)].tolist() == prompt


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"system_prompt": "Other."}, "system_prompt 'Work step by step.', not 'Other.', which the verifier would"),
        ({"prompt_format": "text"}, "prompt_format is text, and|sampled with prompt_format chat, not text"),
    ],
)
def test_training_refuses_to_read_something_else(chat_solutions, chat_tokenizer, options, message):
    written = PromptFormat("chat", SYSTEM["content"]).of_tokenizer(chat_tokenizer).to_dict()
    sampled = [replace(s, prompt_format=written) for s in chat_solutions]
    assert PromptOptions(prompt_format="chat").for_rows(chat_tokenizer, sampled).to_dict() == written
    with pytest.raises(UserError, match=message):
        PromptOptions(**options).for_rows(chat_tokenizer, sampled)


def test_rows_of_two_ways_are_refused(chat_solutions, chat_tokenizer):
    ways = [PromptFormat("chat"), PromptFormat("chat", "S")]
    rows = [replace(s, prompt_format=way.to_dict()) for s, way in zip(chat_solutions, ways, strict=False)]
    with pytest.raises(UserError, match="sampled in two ways: with system_prompt null, not 'S'"):
        PromptOptions().for_rows(chat_tokenizer, rows)


# --- Asked as it was taught.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt_format": "text"}, "was taught prompt_format chat, not text"),
        ({"system_prompt": "Other."}, "was taught system_prompt 'Work step by step.', not 'Other.'"),
        ({"chat_template_arguments": {"thinking": True}}, "was taught chat_template_arguments"),
    ],
)
def test_a_verifier_refuses_to_be_asked_otherwise(chat_prm, options, message):
    with pytest.raises(UserError, match=message):
        RewardModel.from_pretrained(chat_prm, prompts=PromptOptions(**options))
    same = PromptOptions(prompt_format="chat", system_prompt=SYSTEM["content"])
    assert RewardModel.from_pretrained(chat_prm, prompts=same).prompt_format.system_prompt == SYSTEM["content"]


def test_a_checkpoint_whose_template_was_replaced_is_refused(chat_prm, tmp_path):
    path = shutil.copytree(chat_prm, tmp_path / "prm")
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.chat_template = "{{ messages[0].content }}"
    tokenizer.save_pretrained(path)
    with pytest.raises(UserError, match="was taught with another chat template than the chat template of"):
        RewardModel.from_pretrained(str(path))


def test_a_verifier_taught_text_refuses_messages(verifier_paths, chat_solutions, tmp_path):
    """As those of before prompts could be messages were: their configuration says nothing."""
    path = shutil.copytree(verifier_paths["prm"], tmp_path / "old")
    config = json.loads((path / "config.json").read_text())
    del config["rlstep_verifier"]["prompt_format"]
    config["rlstep_verifier"]["format"] = 2
    (path / "config.json").write_text(json.dumps(config))
    verifier = RewardModel.from_pretrained(str(path))
    assert verifier.prompt_format == PromptFormat("text")
    with pytest.raises(UserError, match="prompt_format is text, and a prompt is a list of messages"):
        verifier.score(*rows_of(chat_solutions[:1]))
    with pytest.raises(UserError, match="was taught prompt_format text, not chat"):
        RewardModel.from_pretrained(str(path), prompts=PromptOptions(prompt_format="chat"))


def test_an_implicit_prm_is_asked_as_it_was_taught(chat_lm, chat_solutions, chat_tokenizer, arguments):
    spec = ImplicitSpec(prompts=PromptFormat("chat", SYSTEM["content"]).of_tokenizer(chat_tokenizer))
    trainer = ImplicitTrainer(
        chat_lm, arguments(max_steps=1), chat_solutions, processing_class=chat_tokenizer, spec=spec
    )
    trainer.save_model()
    chat_tokenizer.save_pretrained(trainer.args.output_dir)
    with pytest.raises(UserError, match="was taught system_prompt"):
        load_verifier(trainer.args.output_dir, gives="reward", prompts=PromptOptions(system_prompt="Other."))
    verifier = load_verifier(trainer.args.output_dir, gives="reward")
    (feature,) = verifier.query_format.features(*rows_of(chat_solutions[:1]), chat_tokenizer)
    assert feature.positions[0] == len(own_ids(chat_tokenizer, [SYSTEM, *chat_solutions[0].prompt])) - 1


# --- Over HTTP.


def test_messages_are_scored_over_http_to_the_last_bit(chat_prm, chat_solutions):
    verifier = RewardModel.from_pretrained(chat_prm)
    with serving(verifier) as server:
        client = RemoteRewardModel(server.url)
        assert client.prompt_format == verifier.prompt_format
        assert client.score(*rows_of(chat_solutions)) == verifier.score(*rows_of(chat_solutions))
        request = Request(server.url + "/score", b'{"prompts": ["a", [{"role": "user"}]], "completions": ["", ""]}')
        with pytest.raises(HTTPError) as refused:
            urlopen(request)
        reason = "field 'prompts', row 1: message 1 has no content (it has role)."
        assert json.load(refused.value) == {"error": reason}


# --- The settings.


@pytest.mark.parametrize("stage", ["prm", "orm"])
def test_the_settings_decide_what_rows_of_others_are_read_as(stage, chat_lm, task, chat_tokenizer, arguments, tmp_path):
    """Rows that do not say how their prompts were written: texts here, made chats."""
    rows = [checked(task, solution).to_row() for solution in task.demonstrations(12, seed=3)]
    write_rows(tmp_path / "rows.jsonl", rows)
    run, config = (prm, PRMConfig) if stage == "prm" else (orm, ORMConfig)
    prompts = PromptOptions(system_prompt=SYSTEM["content"])
    run(config(chat_lm, str(tmp_path / "rows.jsonl")), arguments(max_steps=1, save_strategy="no"), prompts)
    verifier = load_verifier(str(tmp_path / "out"))
    assert verifier.prompt_format == PromptFormat("chat", SYSTEM["content"]).of_tokenizer(chat_tokenizer)
    (feature,) = verifier.query_format.features([rows[0]["prompt"]], ["1"], [[(0, 1)]], verifier.tokenizer)
    prompt = own_ids(chat_tokenizer, [SYSTEM, {"role": "user", "content": rows[0]["prompt"]}])
    assert feature.ids[:-1].tolist() == prompt


def test_the_settings_decide_how_a_foreign_classifier_is_asked(chat_lm, chat_tokenizer, task, tmp_path):
    """In `score` and `serve`: one that rlstep did not train may be asked anything, and each setting counts."""
    model = new_verifier(chat_lm, VerifierSpec("prm"))
    del model.config.rlstep_verifier
    model.save_pretrained(tmp_path / "foreign")
    chat_tokenizer.save_pretrained(tmp_path / "foreign")
    solution = checked(task, task.demonstrations(1, seed=3)[0])
    write_rows(tmp_path / "rows.jsonl", [solution.to_row()])
    (tmp_path / "mine.jinja").write_text("{{ messages[0].content }}Answer: ")
    seen = []
    for number, options in enumerate(
        (
            {},
            {"prompt_format": "chat"},
            {"system_prompt": SYSTEM["content"]},
            {"chat_template_arguments": {"thinking": True}},
            {"chat_template": str(tmp_path / "mine.jinja")},
        )
    ):
        out = tmp_path / f"{number}.jsonl"
        config = ScoreConfig(str(tmp_path / "foreign"), str(tmp_path / "rows.jsonl"), str(out), kind="prm")
        score(config, PromptOptions(**options))
        seen.append(tuple(read_solutions(out)[0].scores["prm"]))
    assert len(set(seen)) == 5
