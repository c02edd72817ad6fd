"""Each family against its published recipe: one row, one forward pass of a plain backbone, written out here."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config, Qwen2Model

from rlstep.steps.boundaries import Boundary
from rlstep.verifiers import published
from rlstep.verifiers.scoring.reward_model import RewardModel

CLOSE = {"abs": 1e-5, "rel": 0}
SHEPHERD_TAG = "\u043a\u0438"


def check(path, solutions, recipe) -> None:
    """Scores of all rows at once equal the recipe's of each; they differ from step to step."""
    prompts, completions, spans, texts = solutions
    verifier = RewardModel.from_pretrained(str(path), device="cpu")
    assert verifier.packing
    actual = verifier.score(prompts, completions, spans)
    for prompt, steps, values in zip(prompts, texts, actual, strict=True):
        assert values == pytest.approx(recipe(prompt, steps), **CLOSE)
    every = sum(actual, [])
    assert max(every) - min(every) > 0.05
    assert all(abs(a - b) > 1e-4 for row in actual for a, b in zip(row, row[1:], strict=False))


def asked_tokens(path, solutions, family: str | None = None) -> set[str]:
    """The texts of the tokens that the model is asked at."""
    _, tokenizer, query_format = published.load(str(path), family)
    features = query_format.features(*solutions[:3], tokenizer)
    assert [len(feature.positions) for feature in features] == [len(spans) for spans in solutions[2]]
    return {tokenizer.decode([feature.ids[position]]) for feature in features for position in feature.positions}


def qwen2_hidden(weights: dict[str, torch.Tensor], config: Qwen2Config, ids: list[int]) -> torch.Tensor:
    backbone = Qwen2Model(config).eval()
    backbone.load_state_dict({k.removeprefix("model."): v for k, v in weights.items() if k.startswith("model.")})
    with torch.no_grad():
        return backbone(torch.tensor([ids])).last_hidden_state[0]


QWEN_SYSTEM = {"role": "system", "content": "Please reason step by step, and put your final answer within \\boxed{}."}


@pytest.mark.parametrize(("family", "system"), [("qwen", [QWEN_SYSTEM]), ("reasonflux", [])])
def test_qwen(family, system, request, solutions):
    """ReasonFlux's model card gives the same weights a conversation without a system turn."""
    qwen_path = request.getfixturevalue(f"{family}_path")
    tokenizer, weights = AutoTokenizer.from_pretrained(qwen_path), load_file(qwen_path / "model.safetensors")
    config = Qwen2Config.from_pretrained(qwen_path)

    def recipe(problem, steps):
        messages = [
            *system,
            {"role": "user", "content": problem},
            {"role": "assistant", "content": "<extra_0>".join(steps) + "<extra_0>"},
        ]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=False)
        ids = tokenizer.encode(text)
        hidden = qwen2_hidden(weights, config, ids)
        inner = (hidden @ weights["score.0.weight"].T + weights["score.0.bias"]).relu()
        right = (inner @ weights["score.2.weight"].T + weights["score.2.bias"]).softmax(-1)[:, 1]
        return right[torch.tensor(ids) == tokenizer.encode("<extra_0>")[0]].tolist()

    check(qwen_path, solutions, recipe)
    assert asked_tokens(qwen_path, solutions) == {"<extra_0>"}


def test_math_shepherd(math_shepherd_path, solutions):
    tokenizer = AutoTokenizer.from_pretrained(math_shepherd_path)
    model = AutoModelForCausalLM.from_pretrained(math_shepherd_path).eval()
    signs, tag = tokenizer.encode("+ -")[1:], tokenizer.encode(SHEPHERD_TAG)[-1]

    def recipe(problem, steps):
        output = "\n".join(f"{step} {SHEPHERD_TAG}" for step in steps)
        ids = torch.tensor([tokenizer.encode(f"{problem} {output}")])
        with torch.no_grad():
            right = model(ids).logits[:, :, signs].softmax(-1)[:, :, 0]
        return right[ids == tag].tolist()

    check(math_shepherd_path, solutions, recipe)
    assert asked_tokens(math_shepherd_path, solutions) == {SHEPHERD_TAG}


def test_rlhflow_in_one_pass_equals_the_growing_conversation(rlhflow_path, solutions):
    tokenizer = AutoTokenizer.from_pretrained(rlhflow_path)
    model = AutoModelForCausalLM.from_pretrained(rlhflow_path).eval()
    signs = [tokenizer.encode("+")[-1], tokenizer.encode("-")[-1]]

    def recipe(problem, steps):
        conversation, values = [], []
        for step in [f"{problem} {steps[0]}", *steps[1:]]:
            conversation += [{"role": "user", "content": step}, {"role": "assistant", "content": "+"}]
            ids = tokenizer.apply_chat_template(conversation, return_tensors="pt")["input_ids"]
            with torch.no_grad():
                # behind it come "+" and the end of the turn
                values.append(model(ids).logits[0, -3, signs].softmax(-1)[0].item())
        return values

    check(rlhflow_path, solutions, recipe)
    assert asked_tokens(rlhflow_path, solutions) == {"\n\n"}


def test_versa(versa_path, solutions):
    tokenizer = AutoTokenizer.from_pretrained(versa_path)
    model = AutoModelForCausalLM.from_pretrained(versa_path).eval()
    signs, tag = [tokenizer.encode(sign)[-1] for sign in "-+"], tokenizer.encode("x \n\n\n\n")[-1]

    def recipe(problem, steps):
        text = problem + " \n\n" + " \n\n\n\n".join(steps) + " \n\n\n\n"
        ids = torch.tensor([tokenizer.encode(text)])
        with torch.no_grad():
            right = model(ids).logits[:, :, signs].softmax(-1)[:, :, 1]
        return right[ids == tag].tolist()

    check(versa_path, solutions, recipe)
    assert asked_tokens(versa_path, solutions) == {" \n\n\n\n"}


def test_rlhflow_asks_for_the_answers_own_plus(rlhflow_path):
    _, tokenizer, query_format = published.load(str(rlhflow_path))
    (feature,) = query_format.features(["What?"], ["+ 1\n+\n"], [[(0, 4), (4, 6)]], tokenizer)
    for position in feature.positions:
        so_far = tokenizer.decode(feature.ids[: position + 1])
        assert so_far.endswith("<|start_header_id|>assistant<|end_header_id|>\n\n")


def skywork_recipe(path):
    tokenizer, weights = AutoTokenizer.from_pretrained(path), load_file(path / "model.safetensors")
    config = Qwen2Config.from_pretrained(path)

    def recipe(problem: str, response: str) -> list[float]:
        ids = tokenizer.encode(tokenizer.bos_token + problem + "\n")
        asked = []
        for line in response.split("\n"):
            ids += tokenizer.encode(line) if line else []
            ids += tokenizer.encode("\n")[-1:]
            asked.append(len(ids) - 1)
        hidden = qwen2_hidden(weights, config, ids)
        values = hidden @ weights["v_head.summary.weight"][0] + weights["v_head.summary.bias"][0]
        return values.sigmoid()[asked].tolist()

    return recipe


def test_skywork(skywork_path, solutions):
    recipe = skywork_recipe(skywork_path)
    check(skywork_path, solutions, lambda problem, steps: recipe(problem, "\n".join(steps)))
    assert asked_tokens(skywork_path, solutions) == {"\n"}


def test_skywork_reads_blank_lines_and_asks_visible_ones(skywork_path):
    recipe, verifier = skywork_recipe(skywork_path), RewardModel.from_pretrained(str(skywork_path), device="cpu")
    completion = "\n\nSo 4 + 9 = 13.\n\n\n  Step 2: indented \nStep 3\n"
    every = recipe("What?", completion)
    lines = verifier.score(["What?"], [completion])[0]
    assert lines == pytest.approx([every[2], every[5], every[6]], **CLOSE)
    blocks = verifier.score(["What?"], [completion], [Boundary("blank_line").split(completion)])[0]
    assert blocks == pytest.approx([every[2], every[6]], **CLOSE)


@pytest.mark.parametrize("family", ["qwen", "skywork", "rlhflow"])
def test_samples_of_one_problem_read_it_once(family, request, solutions):
    path, problem = str(request.getfixturevalue(f"{family}_path")), solutions[0][0]
    completions = [completion for completion in solutions[1] for _ in range(2)]
    completions = [f"{number}. {completion}" for number, completion in enumerate(completions)]
    problems = [problem] * len(completions)
    shared, padded = (RewardModel.from_pretrained(path, device="cpu", packing=packing) for packing in (True, False))
    together = shared.score(problems, completions)
    alone = [padded.score([problem], [completion])[0] for completion in completions]
    assert sum(together, []) == pytest.approx(sum(alone, []), **CLOSE)
    assert shared.tokens_scored < padded.tokens_scored  # which has no padding, row by row


@pytest.mark.parametrize("separator", ["\n", "\n\n"])
def test_trl(trl_path, solutions, separator):
    tokenizer, weights = AutoTokenizer.from_pretrained(trl_path), load_file(trl_path / "model.safetensors")
    config = Qwen2Config.from_pretrained(trl_path)

    def recipe(problem, steps):
        ids = [tokenizer.bos_token_id] + tokenizer(problem, add_special_tokens=False)["input_ids"]
        labelled = []
        for step in steps:
            ids += tokenizer(step, add_special_tokens=False)["input_ids"]
            ids += tokenizer.encode(separator, add_special_tokens=False)
            labelled.append(len(ids) - 1)
        logits = qwen2_hidden(weights, config, ids) @ weights["score.weight"].T + weights["score.bias"]
        return logits.softmax(-1)[labelled, 1].tolist()

    model, tokenizer_, query_format = published.load(str(trl_path), "trl")
    prompts, completions, spans, texts = solutions
    actual = RewardModel(model, tokenizer_, "prm", query_format=type(query_format)(separator)).score(
        prompts, completions, spans
    )
    for problem, steps, values in zip(prompts, texts, actual, strict=True):
        assert values == pytest.approx(recipe(problem, steps), **CLOSE)
    if separator == query_format.separator:
        named = RewardModel.from_pretrained(str(trl_path), device="cpu", layout="trl")
        assert named.score(prompts, completions, spans) == actual
        assert asked_tokens(trl_path, solutions, "trl") == {"\n"}
