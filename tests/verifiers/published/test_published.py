import json
import shutil

import pytest
import torch
from transformers import AutoConfig

from rlstep.runtime.errors import UserError
from rlstep.steps.boundaries import Boundary
from rlstep.steps.prompt_options import PromptOptions
from rlstep.verifiers import published
from rlstep.verifiers.published.rows import clean, free_character, join_marked, step_texts
from rlstep.verifiers.published.weights import published_name
from rlstep.verifiers.scoring.reward_model import RewardModel


@pytest.mark.parametrize("family", ["qwen", "reasonflux", "math_shepherd", "rlhflow", "skywork", "versa"])
def test_a_checkpoint_tells_its_family(family, request):
    path = str(request.getfixturevalue(f"{family}_path"))
    config = AutoConfig.from_pretrained(path)
    assert published.detect(config, path) == published.detect(config.to_dict(), path) == family
    model, tokenizer, query_format = published.load(path)
    assert not model.training
    assert type(query_format).__module__.endswith("qwen" if family == "reasonflux" else family)
    assert RewardModel.from_pretrained(path, device="cpu").kind == "prm"


def test_value_heads_are_told_by_the_weights(skywork_path, changed):
    path = changed(skywork_path, architectures=["Qwen2ForRewardModel"])
    assert published.detect(AutoConfig.from_pretrained(path), path) == "skywork"
    path = changed(
        skywork_path,
        lambda weights: {k: v for k, v in weights.items() if "v_head" not in k},
        name="lm",
        architectures=None,
    )
    assert published.detect(AutoConfig.from_pretrained(path), path) is None


def test_sharded_weights_are_looked_up_in_their_index(skywork_path, tmp_path):
    shutil.copy(skywork_path / "config.json", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | {"architectures": None}
    index = {"weight_map": {"v_head.summary.weight": "model-00002-of-00002.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert published.detect(config, str(tmp_path)) == "skywork"


def test_causal_lms_are_told_by_their_published_names_alone(math_shepherd_path, rlhflow_path, versa_path, tmp_path):
    for actual in (math_shepherd_path, rlhflow_path, versa_path):
        path = shutil.copytree(actual, tmp_path / f"generator-{actual.name}")
        assert published.detect(AutoConfig.from_pretrained(path), str(path)) is None
    name = "math-shepherd-mistral-7b-prm"
    for path in (
        f"peiyi9979/{name}",
        f"/models/{name}/",
        f"/hub/models--peiyi9979--{name}/snapshots/0123abc",
        name.upper(),
    ):
        assert published_name(path, name)
    for path in (f"{name}-sft", f"/models/{name}/generator", f"my-{name}", "/snapshots"):
        assert not published_name(path, name)


@pytest.mark.parametrize("name", ["GenPRM-7B", "ThinkPRM-14B", "ReasonFlux-PRM-Qwen-2.5-7B"])
def test_language_models_that_judge_in_words_are_refused_with_what_asks_them(name, rlhflow_path, tmp_path):
    path = str(shutil.copytree(rlhflow_path, tmp_path / name))
    with pytest.raises(UserError, match=rf"{name} is no rlstep verifier.*judges in words.*--by judge --judge .*{name}"):
        RewardModel.from_pretrained(path, device="cpu")


def test_reward_models_of_whole_texts_are_refused_with_where_their_scores_go(trl_path, changed):
    path = changed(trl_path, architectures=["Qwen2ForSequenceClassification"], name="Skywork-Reward-V2")
    with pytest.raises(UserError, match="a reward model of whole texts has no score of a step.*--scores logits"):
        RewardModel.from_pretrained(path, device="cpu")


def test_a_named_family_is_taken(math_shepherd_path, tmp_path, solutions):
    path = shutil.copytree(math_shepherd_path, tmp_path / "mine")
    named = RewardModel.from_pretrained(str(path), device="cpu", layout="math_shepherd").score(*solutions[:3])
    assert named == RewardModel.from_pretrained(str(math_shepherd_path), device="cpu").score(*solutions[:3])


def test_token_classifiers_of_trl_are_named_by_the_user(trl_path):
    assert published.detect(AutoConfig.from_pretrained(trl_path), str(trl_path)) is None
    with pytest.raises(UserError, match=r"my-prm \(Qwen2ForTokenClassification\) is not a published PRM.*qwen.*trl"):
        published.load(str(trl_path))


def test_an_unknown_family_is_refused_with_the_known_ones(qwen_path):
    with pytest.raises(UserError, match=r"layout is 'qwn'.*qwen.*math_shepherd.*rlhflow.*skywork.*trl"):
        published.load(str(qwen_path), "qwn")


def without(*endings: str):
    return lambda actual: {name: tensor for name, tensor in actual.items() if not name.endswith(endings)}


@pytest.mark.parametrize(
    ("family", "names", "first"),
    [
        ("qwen", ("score.2.weight", "score.0.bias"), "score.0.bias"),
        ("skywork", ("v_head.summary.bias",), "v_head.summary.bias"),
        ("trl", ("score.weight",), "score.weight"),
        ("math_shepherd", ("lm_head.weight",), "lm_head.weight"),
        ("rlhflow", ("layers.1.mlp.up_proj.weight",), "model.layers.1.mlp.up_proj.weight"),
    ],
)
def test_missing_weights_are_named(family, names, first, request, changed):
    path = changed(request.getfixturevalue(f"{family}_path"), without(*names))
    with pytest.raises(UserError, match=rf"lacks {len(names)} weights of .*, {first} first"):
        published.load(path, family)


def test_weights_without_a_place_are_named(qwen_path, math_shepherd_path, changed):
    path = changed(math_shepherd_path, lambda actual: actual | {"v_head.summary.weight": torch.zeros(1, 32)})
    with pytest.raises(UserError, match=r"1 weights that MistralForCausalLM has no place for, v_head.summary.weight"):
        published.load(path)
    # the head of the language model that the PRM was made of is published, too, and nothing reads it
    assert published.load(changed(qwen_path, without("lm_head.weight")))


def test_weights_of_another_shape_are_refused(qwen_path, changed):
    path = changed(
        qwen_path, lambda actual: actual | {"score.2.weight": torch.zeros(3, 32), "score.2.bias": torch.zeros(3)}
    )
    with pytest.raises(UserError, match="cannot be loaded as a Qwen2ForProcessRewardModel"):
        published.load(path)


def test_another_familys_checkpoint_is_refused(qwen_path, math_shepherd_path, rlhflow_path, skywork_path):
    with pytest.raises(UserError, match="is a llama model; PRMs of this family are built on qwen2"):
        published.load(str(rlhflow_path), "skywork")
    with pytest.raises(UserError, match="its tokenizer has no chat template"):
        published.load(str(math_shepherd_path), "rlhflow")
    with pytest.raises(UserError, match="'<extra_0>' is .* tokens in this tokenizer"):
        published.load(str(skywork_path), "qwen")
    with pytest.raises(UserError, match="is .* tokens in this tokenizer, or unknown to it; for a math_shepherd PRM"):
        published.load(str(qwen_path), "math_shepherd")
    with pytest.raises(UserError, match="has no bos_token"):
        published.load(str(qwen_path), "skywork")


def test_a_trl_prm_has_two_labels(trl_path, changed):
    path = changed(trl_path, id2label={"0": "a", "1": "b", "2": "c"}, label2id={"a": 0, "b": 1, "c": 2})
    with pytest.raises(UserError, match="has 3 labels; a trl PRM has two"):
        published.load(path, "trl")


def test_pickles_are_not_opened(qwen_path, changed, tmp_path):
    path = changed(qwen_path)
    (tmp_path / qwen_path.name / "model.safetensors").rename(tmp_path / qwen_path.name / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"as a pickle \(pytorch_model.bin\), which rlstep does not open"):
        published.load(path)


def test_the_weights_type_is_the_checkpoints_or_the_one_asked_for(qwen_path):
    assert published.load(str(qwen_path))[0].dtype == torch.float32
    assert published.load(str(qwen_path), dtype="bfloat16")[0].dtype == torch.bfloat16


def test_a_chat_template_that_drops_turns_is_refused(qwen_path, rlhflow_path, solutions):
    for path in (qwen_path, rlhflow_path):
        _, tokenizer, query_format = published.load(str(path))
        tokenizer.chat_template = "{{- messages[0]['content'] }}"
        with pytest.raises(UserError, match=r"writes the marks of 3 steps 0 times"):
            query_format.features(*solutions[:3], tokenizer)


def test_a_tokenizer_that_joins_marks_is_refused(rlhflow_path):
    _, tokenizer, query_format = published.load(str(rlhflow_path))
    tokenizer.add_tokens(["+!"])
    tokenizer.chat_template = "{%- for m in messages %}{{- m['content'] + '!' }}{%- endfor %}"
    with pytest.raises(UserError, match=r"makes no token of its own of the mark '\+' in 'What\? one!\+!'"):
        query_format.features(["What?"], ["one"], [[(0, 3)]], tokenizer)


@pytest.mark.parametrize("family", ["qwen", "reasonflux", "math_shepherd", "rlhflow", "skywork", "versa", "trl"])
def test_what_stands_around_the_steps_does_not_matter(family, request, solutions):
    verifier = RewardModel.from_pretrained(
        str(request.getfixturevalue(f"{family}_path")), device="cpu", layout=family if family == "trl" else None
    )
    assert verifier.boundary == Boundary("blank_line" if family in ("qwen", "reasonflux") else "line")
    verifier.boundary = Boundary("line")
    prompt, texts = solutions[0][0], solutions[3][0]
    plain = verifier.score([prompt], ["\n".join(texts)])[0]
    wide = f"{texts[0]}\n{texts[1]}\n{texts[2]}\n"
    assert verifier.score([f"\n{prompt} \n"], [wide])[0] == pytest.approx(plain, abs=1e-6)
    tag = {
        "qwen": "<extra_0>",
        "reasonflux": "<extra_0>",
        "math_shepherd": " \u043a\u0438",
        "rlhflow": " \u043a\u0438",
    }.get(family)
    if tag:
        tagged = "".join(f"{text}{tag}\n\n" for text in texts)
        ends = [tagged.index(text) + len(text) + len(tag) + 2 for text in texts]
        spans = list(zip([0, *ends], ends, strict=False))
        assert verifier.score([prompt], [tagged], [spans])[0] == pytest.approx(plain, abs=1e-6)
    # a text between two steps belongs to the one behind it
    gap = verifier.score([prompt], ["\n".join(texts)], [[(0, len(texts[0])), (len(texts[0]) + 9, len(wide) - 1)]])[0]
    assert gap[0] == pytest.approx(plain[0], abs=1e-6)
    assert gap[1] != pytest.approx(plain[1], abs=1e-3)


@pytest.mark.parametrize("family", ["qwen", "reasonflux", "math_shepherd", "rlhflow", "skywork", "versa", "trl"])
def test_rows_without_steps_and_empty_steps(family, request):
    path = str(request.getfixturevalue(f"{family}_path"))
    verifier = RewardModel.from_pretrained(path, device="cpu", layout=family if family == "trl" else None)
    actual = verifier.score(["What?", "What?", "What?"], ["", "\n \n", "4"], [[], [(0, 0), (0, 3)], [(0, 1)]])
    assert [len(values) for values in actual] == [0, 2, 1]
    assert all(0 <= value <= 1 for values in actual for value in values)
    assert verifier.score([], []) == []


def test_texts_of_steps():
    text = "\nzero\n one two"
    assert step_texts(text, []) == []
    assert step_texts(text, [(1, 6), (6, 10), (11, 14)]) == ["\nzero\n", " one", " two"]
    assert clean(" a step \u043a\u0438\n\n", "\u043a\u0438") == "a step"
    assert clean(" a step\n", "\u043a\u0438") == clean("a step") == "a step"
    assert free_character("\ue000\ue001", "a\ue003") == "\ue002"
    assert join_marked([""], "+").marks == []


@pytest.mark.parametrize("family", ["qwen", "reasonflux", "math_shepherd", "rlhflow", "skywork", "versa"])
def test_of_a_chat_it_is_given_the_problem(family, request):
    path = str(request.getfixturevalue(f"{family}_path"))
    verifier = RewardModel.from_pretrained(path, device="cpu")
    completions, problems = ["4 + 9 = 13\nSo 13"] * 2, ["What is 4 + 9?", "What is 9 + 4?"]
    chats = [[{"role": "system", "content": "S"}, {"role": "user", "content": problem}] for problem in problems]
    assert verifier.prompt_format is None
    assert verifier.score(chats, completions) == verifier.score(problems, completions)
    for text in ("<|im_start|>user\nWhat?<|im_end|>\n", "[INST] What? [/INST]", "<start_of_turn>user\nWhat?"):
        with pytest.raises(UserError, match="of a chat template, and the verifier puts problems into a template"):
            verifier.score([text], completions[:1])
    with pytest.raises(UserError, match="which is asked as its authors ask it; leave out system_prompt"):
        RewardModel.from_pretrained(path, prompts=PromptOptions(system_prompt="S"))
