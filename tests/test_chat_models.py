"""Prompts as messages through every stage: what the model reads, what is kept of it, and what is refused."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from tokenizers import processors
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    GenerationMixin,
    PreTrainedTokenizerFast,
)
from trl import SFTTrainer

from rlstep.policy.export import write_adapter, write_merged
from rlstep.policy.first_batch import Look, warn_of_first_batch
from rlstep.policy.model_options import PolicyModel
from rlstep.policy.monitoring.alarms import AlarmOptions
from rlstep.policy.options import PPOOptions
from rlstep.policy.refresh.labels import RefreshOptions
from rlstep.policy.rewards import guards
from rlstep.policy.rewards.guards import Guards
from rlstep.policy.trainer import StepPPOTrainer
from rlstep.runtime.errors import UserError
from rlstep.runtime.rows import write_rows
from rlstep.stages.label import LabelConfig, label
from rlstep.stages.orm import ORMConfig, orm
from rlstep.stages.ppo import ppo
from rlstep.stages.prm import PRMConfig, prm
from rlstep.stages.sample import SampleConfig, sample
from rlstep.stages.score import ScoreConfig, score
from rlstep.stages.sft import SFTArguments, SFTOptions, sft
from rlstep.steps.boundaries import Boundary
from rlstep.steps.problems import read_problems
from rlstep.steps.prompt_options import PromptOptions
from rlstep.steps.prompts import PromptFormat
from rlstep.steps.records import Solution, read_solutions
from rlstep.tasks.arithmetic import Arithmetic
from rlstep.tasks.base import checked
from rlstep.verifiers.scoring.reward_model import RewardModel
from rlstep.verifiers.spec import VerifierSpec
from rlstep.verifiers.training.arguments import VerifierArguments
from rlstep.verifiers.training.start import new_verifier

SYSTEM = "Work step by step."
TRAINING = {
    "per_device_train_batch_size": 8, "learning_rate": 3e-3, "gradient_checkpointing": False, "bf16": False,
    "use_cpu": True, "disable_tqdm": True, "dataloader_pin_memory": False, "save_strategy": "no", "logging_steps": 1,
}  # fmt: skip


def as_chat(text: str) -> list[dict]:
    return [{"role": "user", "content": text}]


@pytest.fixture
def chats(task, tmp_path):
    """The files of demonstrations and problems whose prompts are messages."""
    problems = [replace(p, prompt=as_chat(p.prompt)) for p in task.problems("train", 4, seed=0)]
    demonstrations = [replace(s, prompt=as_chat(s.prompt)) for s in task.demonstrations(16, seed=0)]
    write_rows(tmp_path / "problems.jsonl", (asdict(p) for p in problems))
    write_rows(tmp_path / "demonstrations.jsonl", (s.to_row() for s in demonstrations))
    return tmp_path


@pytest.fixture
def model(chat_lm):
    def make(**changes) -> PolicyModel:
        return PolicyModel(**({"model_name_or_path": chat_lm, "dtype": "float32"} | changes))

    return make


def teach(chats: Path, model, prompts: PromptOptions | None = None, **changes) -> Path:
    out = chats / "sft"
    args = SFTArguments(**(TRAINING | {"output_dir": str(out), "max_steps": 2} | changes))
    sft(SFTOptions(data=str(chats / "demonstrations.jsonl")), args, model, prompts or PromptOptions())
    return out


def draw(chats: Path, policy, prompts: PromptOptions | None = None, **changes) -> list[Solution]:
    plain = {
        "n": 2,
        "max_new_tokens": 8,
        "out": str(chats / "samples.jsonl"),
        "problems": str(chats / "problems.jsonl"),
    }
    config = SampleConfig(**({"model": str(policy)} | plain | changes))
    sample(config, prompts or PromptOptions())
    return read_solutions(config.out)


@pytest.fixture
def read(monkeypatch):
    """The prompts' tokens that reach `generate`, without their padding."""
    seen: list[list[int]] = []
    plain = GenerationMixin.generate

    def watched(self, *args, **options):
        rows = zip(options["input_ids"].tolist(), options["attention_mask"].tolist(), strict=True)
        seen.extend([token for token, kept in zip(ids, mask, strict=True) if kept] for ids, mask in rows)
        return plain(self, *args, **options)

    monkeypatch.setattr(GenerationMixin, "generate", watched)
    return seen


def own_tokens(path, messages, **arguments) -> list[int]:
    """What the tokenizer makes of messages by itself."""
    tokenizer = AutoTokenizer.from_pretrained(path)
    coded = tokenizer.apply_chat_template(
        messages, tokenize=True, add_generation_prompt=True, return_dict=True, **arguments
    )
    return coded["input_ids"]


def test_a_chat_is_taught_and_sampled_with_the_templates_own_tokens(chats, model, read):
    """The system prompt is given once, to sft; afterwards the checkpoint says it."""
    policy = teach(chats, model(), PromptOptions(system_prompt=SYSTEM))
    kept = json.loads((policy / "prompt_format.json").read_text())
    assert (kept["form"], kept["system_prompt"]) == ("chat", SYSTEM)
    solutions = draw(chats, policy)
    assert [s.prompt_format for s in solutions] == [kept] * 8
    problems = [p.prompt for p in read_problems(chats / "problems.jsonl")]
    assert read == [
        own_tokens(policy, [{"role": "system", "content": SYSTEM}, *problem]) for problem in problems for _ in range(2)
    ]
    assert [s.prompt for s in solutions] == [problem for problem in problems for _ in range(2)]


def test_a_demonstration_is_the_templates_prompt_the_completion_and_the_templates_end(chats, model, monkeypatch):
    seen, plain = [], SFTTrainer.compute_loss

    def kept(self, net, inputs, **options):
        rows = zip(inputs["input_ids"].tolist(), inputs["labels"].tolist(), strict=True)
        seen.extend(rows)
        return plain(self, net, inputs, **options)

    monkeypatch.setattr(SFTTrainer, "compute_loss", kept)
    policy = teach(chats, model(), max_steps=1, per_device_train_batch_size=16)
    tokenizer = AutoTokenizer.from_pretrained(policy)
    end, pad = tokenizer.convert_tokens_to_ids("<|im_end|>"), tokenizer.pad_token_id
    expected = [
        own_tokens(policy, s.prompt) + tokenizer(s.completion, add_special_tokens=False)["input_ids"] + [end]
        for s in read_solutions(chats / "demonstrations.jsonl")
    ]
    actual = [[token for token in ids if token != pad] for ids, _ in seen]
    assert sorted(actual) == sorted(expected)
    for _, labels in seen:
        taught = [token for token in labels if token != -100]
        assert taught.count(end) == 1
        assert taught[-1] == end
    assert GenerationConfig.from_pretrained(policy).eos_token_id == [end, tokenizer.eos_token_id]


def test_text_becomes_a_users_message_where_chats_are_asked_for(task, chats, chat_lm, read):
    problem = task.problems("train", 1, seed=0)[0]
    write_rows(chats / "problems.jsonl", [asdict(problem)])
    for number, (options, expected) in enumerate(
        [
            ({}, AutoTokenizer.from_pretrained(chat_lm)(problem.prompt)["input_ids"]),
            ({"prompt_format": "chat"}, own_tokens(chat_lm, as_chat(problem.prompt))),
            (
                {"chat_template_arguments": '{"thinking": true}'},
                own_tokens(chat_lm, as_chat(problem.prompt), thinking=True),
            ),
        ]
    ):
        draw(chats, chat_lm, PromptOptions(**options), n=1, out=str(chats / f"{number}.jsonl"))
        assert read[-1] == expected
    tokenizer = AutoTokenizer.from_pretrained(chat_lm)
    assert tokenizer.decode(read[-1]).endswith("<think>\n")


def test_a_template_file_takes_the_place_of_the_tokenizers(chats, model, read):
    (chats / "mine.jinja").write_text("{% for m in messages %}{{ m.content }}\n{% endfor %}Answer: ")
    policy = teach(chats, model(), PromptOptions(chat_template=str(chats / "mine.jinja")))
    (first, *_) = draw(chats, policy)
    tokenizer = AutoTokenizer.from_pretrained(policy)
    assert read[0] == tokenizer(first.prompt[0]["content"] + "\nAnswer: ", add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize(
    ("taught", "asked", "message"),
    [
        ({}, {"prompt_format": "text"}, "was taught prompt_format chat, not text"),
        ({}, {"system_prompt": SYSTEM}, "was taught system_prompt null, not 'Work step by step.'"),
        ({"system_prompt": SYSTEM}, {"system_prompt": "No."}, "system_prompt 'Work step by step.', not 'No.'"),
        (
            {},
            {"chat_template_arguments": {"thinking": True}},
            r"chat_template_arguments \{\}, not \{'thinking': True\}",
        ),
        ({}, {"chat_template": "other.jinja"}, "was taught with another chat template than chat_template"),
    ],
)
def test_a_checkpoint_is_asked_as_it_was_taught(chats, model, monkeypatch, taught, asked, message):
    monkeypatch.chdir(chats)
    Path("other.jinja").write_text("{{ messages[0].content }}")
    policy = teach(chats, model(), PromptOptions(**taught), max_steps=1)
    with pytest.raises(UserError, match=message):
        draw(chats, policy, PromptOptions(**asked))
    draw(chats, policy, PromptOptions(**({"prompt_format": "chat"} | taught)))


@pytest.mark.parametrize("taught", [True, False])
def test_rollouts_are_asked_as_the_policy_was(chats, chat_lm, model, read, taught):
    """By its checkpoint; of one that says nothing, by the samples."""
    asked = PromptOptions(system_prompt=SYSTEM)
    policy = teach(chats, model(), asked) if taught else chat_lm
    for solution in (solutions := draw(chats, policy, asked, n=1)):
        solution.completion = "7 + 3 = 10\n"
        solution.prompt_format = None if taught else solution.prompt_format
    write_rows(chats / "samples.jsonl", (solution.to_row() for solution in solutions))
    read.clear()
    options = {"by": "monte_carlo", "policy": str(policy), "max_new_tokens": 4, "rollouts": 2}
    label(LabelConfig(str(chats / "samples.jsonl"), str(chats / "labelled.jsonl"), "arithmetic", **options))
    prompts = [own_tokens(policy, [{"role": "system", "content": SYSTEM}, *s.prompt]) for s in solutions]
    assert read
    assert all(any(ids[: len(prompt)] == prompt for prompt in prompts) for ids in read)


def test_a_policy_taught_text_refuses_messages(task, chats, model):
    text = [replace(s, prompt=s.prompt[0]["content"]) for s in read_solutions(chats / "demonstrations.jsonl")]
    write_rows(chats / "demonstrations.jsonl", (s.to_row() for s in text))
    policy = teach(chats, model(), max_steps=1)
    assert json.loads((policy / "prompt_format.json").read_text()) == {"form": "text"}
    with pytest.raises(UserError, match="prompt_format is text, and a prompt is a list of messages"):
        draw(chats, policy)


def test_an_adapter_stops_where_it_was_taught_to(chats, model, chat_lm):
    """Its base ends with <eos>; the adapter was taught another end, which it has to be stopped at."""
    lora = {"use_peft": True, "lora_r": 16, "lora_alpha": 64, "lora_target_modules": "all-linear"}
    text = [
        Solution(s.problem_id, s.prompt[0]["content"], "Answer: ", s.reference)
        for s in read_solutions(chats / "demonstrations.jsonl")
    ]
    write_rows(chats / "demonstrations.jsonl", (s.to_row() for s in text))
    write_rows(
        chats / "problems.jsonl",
        ({"id": s.problem_id, "prompt": s.prompt, "reference": s.reference} for s in text[:4]),
    )
    policy = teach(
        chats, model(**lora), eos_token="<|im_end|>", max_steps=40, learning_rate=3e-2, save_strategy="steps",
        save_steps=40,
    )  # fmt: skip
    solutions = draw(chats, policy, n=1, temperature=0.0)
    assert [(s.completion, s.finished) for s in solutions] == [("Answer: ", True)] * 4
    tokenizer = AutoTokenizer.from_pretrained(chat_lm)
    ends = [tokenizer.convert_tokens_to_ids(token) for token in ("<|im_end|>", "<eos>")]
    for folder in (policy, policy / "checkpoint-40"):
        assert GenerationConfig.from_pretrained(folder).eos_token_id == ends
        assert json.loads((folder / "prompt_format.json").read_text()) == {"form": "text"}

    write_adapter(policy, chats / "export" / "adapter")
    write_merged(policy, chats / "export" / "merged")
    for form in ("adapter", "merged"):
        exported = draw(chats, chats / "export" / form, n=1, temperature=0.0, out=str(chats / f"{form}.jsonl"))
        assert [row.finished for row in exported] == [True] * 4
        assert GenerationConfig.from_pretrained(chats / "export" / form).eos_token_id == ends


def test_an_end_token_of_another_vocabulary_is_refused(chats, model):
    with pytest.raises(UserError, match="eos_token is '</s>', which is no token of"):
        teach(chats, model(), eos_token="</s>")


# --- PPO.


@pytest.fixture
def improve(chats, model, ppo_arguments):
    def run(policy, prompts: PromptOptions | None = None, lora: bool = True, options=None, **changes) -> Path:
        """Two updates on the chats; where the policy is left."""
        adapter = {"use_peft": True, "lora_r": 4, "lora_target_modules": "all-linear"} if lora else {}
        net = model(model_name_or_path=str(policy), **adapter)
        options = {"reward": ["checker", "outcome"]} | (options or {})
        args = ppo_arguments(**({"output_dir": str(chats / "ppo"), "max_completion_length": 8} | changes))
        parts = PPOOptions(str(chats / "problems.jsonl"), **options), Guards(guard_no_answer=False, guard_min_steps=0)
        ppo(*parts, AlarmOptions(), RefreshOptions(), args, net, prompts or PromptOptions())
        return chats / "ppo"

    return run


@pytest.mark.parametrize("advantage", ["group", "vine"])
def test_the_policy_of_ppo_reads_the_templates_own_tokens(chats, improve, chat_lm, read, advantage):
    vine = {"vine_rollouts": 2} if advantage == "vine" else {}
    prompts = PromptOptions(system_prompt=SYSTEM, chat_template_arguments={"thinking": True})
    policy = improve(
        chat_lm, prompts, advantage=advantage, whiten_advantages="none", save_strategy="steps", save_steps=2, **vine
    )
    problems = [p.prompt for p in read_problems(chats / "problems.jsonl")]
    system = {"role": "system", "content": SYSTEM}
    expected = [own_tokens(chat_lm, [system, *problem], thinking=True) for problem in problems]
    assert AutoTokenizer.from_pretrained(chat_lm).decode(expected[0]).endswith("<|im_start|>assistant\n<think>\n")
    assert len(read) >= 4
    # A rollout goes on from a prompt and the first steps of its completion.
    assert all(any(ids[: len(prompt)] == prompt for prompt in expected) for ids in read)
    if advantage == "group":
        assert all(ids in expected for ids in read)
    for folder in (policy, policy / "checkpoint-2"):
        assert json.loads((folder / "prompt_format.json").read_text())["system_prompt"] == SYSTEM
        assert (folder / "generation_config.json").is_file()


@pytest.mark.parametrize("form", ["chat", "text"])
def test_a_tokenizer_that_opens_and_closes_every_text_spoils_no_prompt(chats, chat_lm, improve, read, form):
    """Of a chat the template writes all special tokens; a text is opened once, and goes on."""
    plain, path = AutoTokenizer.from_pretrained(chat_lm), chats / "closing"
    first, last = (plain.convert_tokens_to_ids(token) for token in ("<|im_start|>", "<eos>"))
    closing = PreTrainedTokenizerFast(
        tokenizer_object=plain.backend_tokenizer, bos_token="<|im_start|>", eos_token="<eos>", pad_token="<pad>"
    )
    closing.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A <eos>", special_tokens=[("<|im_start|>", first), ("<eos>", last)]
    )
    closing.chat_template = plain.chat_template
    AutoModelForCausalLM.from_pretrained(chat_lm).save_pretrained(path)
    closing.save_pretrained(path)
    problems = [p.prompt for p in read_problems(chats / "problems.jsonl")]
    if form == "text":
        rows = [asdict(p) | {"prompt": p.prompt[0]["content"]} for p in read_problems(chats / "problems.jsonl")]
        write_rows(chats / "problems.jsonl", rows)
        texts = [row["prompt"] for row in rows]
        expected = [[first, *plain(text, add_special_tokens=False)["input_ids"]] for text in texts]
        loaded = AutoTokenizer.from_pretrained(path)(texts[0])["input_ids"]
        assert (loaded[0], loaded[-1]) == (first, last)
    else:
        expected = [own_tokens(chat_lm, problem) for problem in problems]
    draw(chats, path, n=1)
    assert read == expected
    read.clear()
    improve(path)
    assert read
    assert all(ids in expected for ids in read)


def test_the_checker_and_the_guards_read_the_problem_and_the_log_the_chat(chats, improve, chat_lm, monkeypatch):
    checked, guarded = [], []
    check, reasons = Arithmetic.check, guards.guard_reasons
    monkeypatch.setattr(Arithmetic, "check", lambda self, *row: (checked.append(row[0]), check(self, *row))[1])
    monkeypatch.setattr(guards, "guard_reasons", lambda *row: (guarded.append(row[0]), reasons(*row))[1])
    improve(chat_lm, PromptOptions(system_prompt=SYSTEM), options={"completion_table_every": 1})
    problems = {
        json.loads(line)["prompt"][0]["content"] for line in (chats / "problems.jsonl").read_text().splitlines()
    }
    assert set(checked) == problems
    assert set(guarded) <= problems
    assert guarded
    page = next((chats / "ppo").rglob("00001.html")).read_text()
    assert "Left to right, mod 20" in page
    assert "im_start" not in page


def test_ppo_goes_on_as_the_checkpoint_was_taught(chats, model, improve, read):
    policy = teach(chats, model(), PromptOptions(system_prompt=SYSTEM), max_steps=1)
    improve(policy)
    system = {"role": "system", "content": SYSTEM}
    problems = [p.prompt for p in read_problems(chats / "problems.jsonl")]
    assert {tuple(ids) for ids in read} <= {tuple(own_tokens(policy, [system, *problem])) for problem in problems}
    with pytest.raises(UserError, match="was taught system_prompt"):
        improve(policy, PromptOptions(system_prompt="Other."), output_dir=str(chats / "again"))


# --- The whole way.


def test_the_whole_way_on_messages(chats, model, improve, read):
    """sft, sample, label, prm, score, ppo with that PRM, export: one system prompt, said once, to sft."""
    policy = teach(chats, model(), PromptOptions(system_prompt=SYSTEM), max_steps=60, learning_rate=1e-2)
    draw(chats, policy, n=4, max_new_tokens=24)
    label(LabelConfig(str(chats / "samples.jsonl"), str(chats / "labelled.jsonl"), "arithmetic"))
    # Solutions of which some steps are right and some are wrong, whatever the policy has learned.
    demonstrations = [replace(s, prompt_format=read_solutions(chats / "labelled.jsonl")[0].prompt_format)
                      for s in read_solutions(chats / "demonstrations.jsonl")]  # fmt: skip
    write_rows(chats / "more.jsonl", (checked(Arithmetic(), s).to_row() for s in demonstrations))
    verifier_args = VerifierArguments(**(TRAINING | {"output_dir": str(chats / "prm"), "max_steps": 2}))
    prm(PRMConfig(str(policy), str(chats / "more.jsonl")), verifier_args)
    kept = json.loads((chats / "prm" / "config.json").read_text())["rlstep_verifier"]["prompt_format"]
    assert kept == json.loads((policy / "prompt_format.json").read_text())
    score(ScoreConfig(str(chats / "prm"), str(chats / "labelled.jsonl"), str(chats / "scored.jsonl")))
    scored = read_solutions(chats / "scored.jsonl")
    verifier = RewardModel.from_pretrained(str(chats / "prm"))
    rows = [s.prompt for s in scored], [s.completion for s in scored], [s.steps for s in scored]
    assert [s.scores["prm"] for s in scored] == [pytest.approx(row, abs=1e-5) for row in verifier.score(*rows)]
    assert any(scored[0].scores["prm"])

    read.clear()
    paid = {"reward": ["prm", "outcome"], "prm": str(chats / "prm")}
    improved = improve(policy, options=paid)
    tokens = [own_tokens(policy, [{"role": "system", "content": SYSTEM}, *p.prompt])
              for p in read_problems(chats / "problems.jsonl")]  # fmt: skip
    assert read
    assert all(ids in tokens for ids in read)
    # What the verifier reads are the same tokens.
    (feature,) = verifier.query_format.features([scored[0].prompt], ["a"], [[(0, 1)]], verifier.tokenizer)
    assert feature.ids.tolist()[: len(tokens[0])] == tokens[0]

    write_adapter(improved, chats / "export" / "adapter")
    write_merged(improved, chats / "export" / "merged")
    merged = chats / "export" / "merged"
    assert json.loads((merged / "prompt_format.json").read_text()) == kept
    read.clear()
    draw(chats, merged, n=1, out=str(chats / "final.jsonl"))
    assert read == tokens


@pytest.mark.parametrize("kind", ["prm", "orm"])
@pytest.mark.parametrize("asked", [None, "Other."])
def test_solutions_that_do_not_say_are_read_as_the_generator_was_taught(chats, model, kind, asked):
    """As people's own demonstrations are; what is asked counts more."""
    policy = teach(chats, model(), PromptOptions(system_prompt=SYSTEM))
    rows = [checked(Arithmetic(), s).to_row() for s in read_solutions(chats / "demonstrations.jsonl")]
    write_rows(chats / "labelled.jsonl", rows)
    args = VerifierArguments(**(TRAINING | {"output_dir": str(chats / kind), "max_steps": 1}))
    stage, config = {"prm": (prm, PRMConfig), "orm": (orm, ORMConfig)}[kind]
    stage(config(str(policy), str(chats / "labelled.jsonl")), args, PromptOptions(system_prompt=asked))
    kept = json.loads((chats / kind / "config.json").read_text())["rlstep_verifier"]["prompt_format"]
    assert kept == json.loads((policy / "prompt_format.json").read_text()) | {"system_prompt": asked or SYSTEM}


@pytest.mark.parametrize(
    ("taught", "message"),
    [
        (PromptFormat("chat", "Other."), "the prm was taught system_prompt 'Other.', not 'Work step by step.', as the"),
        (PromptFormat("text"), "the prm was taught prompt_format text, not chat"),
        (PromptFormat("chat", SYSTEM, {"thinking": True}), r"the prm was taught chat_template_arguments \{'thinking'"),
    ],
)
def test_a_prm_that_reads_something_else_than_the_policy_is_refused(chats, chat_lm, improve, taught, message):
    tokenizer = AutoTokenizer.from_pretrained(chat_lm)
    spec = VerifierSpec("prm", prompts=taught.of_tokenizer(tokenizer))
    new_verifier(chat_lm, spec).save_pretrained(chats / "prm")
    tokenizer.save_pretrained(chats / "prm")
    with pytest.raises(UserError, match=message):
        improve(chat_lm, PromptOptions(system_prompt=SYSTEM), options={"reward": ["prm"], "prm": str(chats / "prm")})


def test_a_prm_of_the_same_vocabulary_with_another_template_is_refused(chats, chat_lm, improve):
    tokenizer = AutoTokenizer.from_pretrained(chat_lm)
    tokenizer.chat_template += " "
    spec = VerifierSpec("prm", prompts=PromptFormat("chat").of_tokenizer(tokenizer))
    new_verifier(chat_lm, spec).save_pretrained(chats / "prm")
    tokenizer.save_pretrained(chats / "prm")
    with pytest.raises(UserError, match="the prm was taught the chat template .* as the policy reads its prompts"):
        improve(chat_lm, options={"reward": ["prm"], "prm": str(chats / "prm")})


def test_scoring_refuses_samples_of_another_way(chats, chat_lm):
    tokenizer = AutoTokenizer.from_pretrained(chat_lm)
    spec = VerifierSpec("prm", prompts=PromptFormat("chat", "Other.").of_tokenizer(tokenizer))
    new_verifier(chat_lm, spec).save_pretrained(chats / "prm")
    tokenizer.save_pretrained(chats / "prm")
    draw(chats, chat_lm, PromptOptions(system_prompt=SYSTEM))
    with pytest.raises(UserError, match="the verifier was taught system_prompt 'Other.', not 'Work step by step.'"):
        score(ScoreConfig(str(chats / "prm"), str(chats / "samples.jsonl"), str(chats / "scored.jsonl")))


# --- The boundary.


@pytest.fixture
def words(chats):
    """The chats as word problems, whose checker takes any step."""
    rows = [{"id": p.id, "prompt": p.prompt, "reference": "1"} for p in read_problems(chats / "problems.jsonl")]
    write_rows(chats / "problems.jsonl", rows)
    return {"task": "math", "reward": ["prm", "outcome"], "prm": str(chats / "prm")}


def save_prm(chats, chat_lm, boundary: Boundary) -> None:
    tokenizer = AutoTokenizer.from_pretrained(chat_lm)
    spec = VerifierSpec("prm", boundary=boundary, prompts=PromptFormat("chat").of_tokenizer(tokenizer))
    new_verifier(chat_lm, spec).save_pretrained(chats / "prm")
    tokenizer.save_pretrained(chats / "prm")


def test_the_policys_steps_are_those_that_the_prm_was_taught(words, chats, chat_lm, improve, monkeypatch, caplog):
    save_prm(chats, chat_lm, Boundary("tag", "u"))
    asked, plain = [], RewardModel.score

    def watched(self, prompts, completions, steps=None, cut=False):
        asked.extend(zip(completions, steps, strict=True))
        return plain(self, prompts, completions, steps, cut)

    monkeypatch.setattr(RewardModel, "score", watched)
    improve(chat_lm, options=words, max_steps=1, num_iterations=1)
    assert asked
    assert all(steps == Boundary("tag", "u").split(completion) for completion, steps in asked)
    assert "taught steps" not in caplog.text
    same = words | {"boundary": "tag", "boundary_tag": "u"}
    improve(chat_lm, options=same, max_steps=1, num_iterations=1, output_dir=str(chats / "same"))
    with pytest.raises(UserError, match="was taught steps by tag 'u', not line"):
        improve(chat_lm, options=words | {"boundary": "line"}, output_dir=str(chats / "other"))


def test_a_boundary_can_be_asked_for_without_a_prm(words, chats, chat_lm, improve, monkeypatch):
    seen, plain = [], StepPPOTrainer._score

    def watched(self, prompts, completions, *rest):
        scored = plain(self, prompts, completions, *rest)
        seen.extend(zip(completions, [row.steps for row in scored[0]], strict=True))
        return scored

    monkeypatch.setattr(StepPPOTrainer, "_score", watched)
    options = {"task": "math", "reward": ["outcome"], "boundary": "tag", "boundary_tag": "u"}
    improve(chat_lm, options=options, max_steps=1, num_iterations=1)
    assert seen
    assert all(steps == Boundary("tag", "u").split(completion) for completion, steps in seen)


def test_an_exact_checker_takes_lines_alone(words, chats, chat_lm, improve, task):
    save_prm(chats, chat_lm, Boundary("sentence"))
    problems = [replace(p, prompt=as_chat(p.prompt)) for p in task.problems("train", 4, seed=0)]
    write_rows(chats / "problems.jsonl", (asdict(p) for p in problems))
    with pytest.raises(
        UserError, match="the steps are by sentence, and the checker of task 'arithmetic' reads exactly"
    ):
        improve(chat_lm, options=words | {"task": "arithmetic"})


# --- The first batch.


def test_a_first_batch_that_cannot_be_paid_is_told_in_one_line(chats, chat_lm, improve, caplog):
    draw(chats, chat_lm)
    (line,) = [r.getMessage() for r in caplog.records if "of the first" in r.getMessage()]
    assert line.startswith("of the first 8 completions 8 are cut off (max_new_tokens too low")
    assert "8 have no answer that is found" in line
    assert "One of them: '" in line
    assert "\n" not in line
    caplog.clear()
    improve(chat_lm)
    (line,) = [r.getMessage() for r in caplog.records if "of the first" in r.getMessage()]
    assert line.startswith("of the first 4 completions 4 are cut off (max_completion_length too low")


def test_a_first_batch_of_which_half_is_right_is_not(caplog):
    good, bad = Look("Answer: 1", True, 1, True), Look("", False, 0, False)
    warn_of_first_batch([good, bad], "max_new_tokens")
    assert not caplog.records
    warn_of_first_batch([good, bad, bad], "max_new_tokens")
    assert "2 are cut off" in caplog.text
    assert "2 have no step" in caplog.text
    caplog.clear()
    warn_of_first_batch([replace(good, finished=False)] * 2 + [good], "max_new_tokens")
    assert "no answer" not in caplog.text
    assert "2 are cut off" in caplog.text
