import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from rlstep.runtime.errors import UserError
from rlstep.steps.boundaries import Boundary, line_steps
from rlstep.steps.positions import encode
from rlstep.verifiers.scoring.implicit import ImplicitRewardModel
from rlstep.verifiers.spec import ImplicitSpec

BETA = 0.3


def shaken(tiny_lm, seed: int, scale: float = 0.05):
    """The tiny model with noise on its weights."""
    model = AutoModelForCausalLM.from_pretrained(tiny_lm)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return model.eval()


@pytest.fixture(scope="module")
def models(tiny_lm):
    return shaken(tiny_lm, 1), shaken(tiny_lm, 2)


@pytest.fixture(scope="module")
def verifier(models, tokenizer) -> ImplicitRewardModel:
    return ImplicitRewardModel(*models, tokenizer, BETA)


@pytest.fixture(scope="module")
def path(models, tokenizer, tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("implicit")
    spec = ImplicitSpec(beta=BETA, boundary=Boundary("blank_line"))
    trained, reference = models
    trained.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text()) | {"rlstep_verifier": spec.to_config()}
    (folder / "config.json").write_text(json.dumps(config))
    reference.save_pretrained(folder / "reference")
    tokenizer.save_pretrained(folder)
    return str(folder)


def texts(task, n=12) -> tuple[list[str], list[str]]:
    rows = task.demonstrations(n, seed=1)
    return [row.prompt for row in rows], [row.completion for row in rows]


def token_log_ratios(models, tokenizer, prompt, completion) -> tuple[list[float], list[int], int]:
    """Each completion token's log-ratio from all logits of one row, the ids, and where the completion begins."""
    before, behind = tokenizer(prompt)["input_ids"], tokenizer(completion)["input_ids"]
    ids = torch.tensor([before + behind])
    with torch.no_grad():
        trained_TV, reference_TV = (model(ids).logits[0].log_softmax(-1) for model in models)
    places = range(len(before), ids.shape[1])
    return [float((trained_TV - reference_TV)[t - 1, ids[0, t]]) for t in places], ids[0].tolist(), len(before)


def test_rewards_and_probabilities_against_all_logits_of_each_row(verifier, models, task, tokenizer):
    prompts, completions = texts(task)
    rewards, scores = verifier.step_log_ratios(prompts, completions), verifier.score(prompts, completions)
    for prompt, completion, actual, probabilities in zip(prompts, completions, rewards, scores, strict=True):
        ratios, _, start = token_log_ratios(models, tokenizer, prompt, completion)
        ends = [end + 1 - start for end in encode(tokenizer, prompt, completion, line_steps(completion)).step_ends]
        q = [BETA * sum(ratios[:end]) for end in ends]
        assert actual == pytest.approx([now - was for was, now in zip([0, *q], q, strict=False)], abs=1e-5)
        assert probabilities == pytest.approx(torch.tensor(q).sigmoid().tolist(), abs=1e-5)
    assert max(sum(scores, [])) - min(sum(scores, [])) > 0.2


def test_steps_add_up_to_the_whole_completion(verifier, models, task, tokenizer):
    prompts, completions = texts(task)
    wholes = [[(0, len(completion))] for completion in completions]
    for prompt, completion, steps, whole in zip(
        prompts,
        completions,
        verifier.step_log_ratios(prompts, completions),
        verifier.step_log_ratios(prompts, completions, wholes),
        strict=True,
    ):
        expected = BETA * sum(token_log_ratios(models, tokenizer, prompt, completion)[0])
        assert sum(steps) == pytest.approx(expected, abs=1e-5)
        assert whole == pytest.approx([expected], abs=1e-5)


def test_what_stands_behind_the_last_step_belongs_to_it(verifier):
    prompt, completion = "Left to right, mod 20: 7 + 3\n", "7 + 3 = 10\nAnswer: 10"
    (lines,) = verifier.step_log_ratios([prompt], [completion])
    (cut,) = verifier.step_log_ratios([prompt], [completion], [[(0, 11), (11, 13)]])
    assert cut == pytest.approx(lines, abs=1e-6)


def test_batches_packing_and_repeated_rows_do_not_matter(verifier, models, task, tokenizer):
    prompts, completions = texts(task)
    expected = sum(verifier.step_log_ratios(prompts, completions), [])
    assert verifier.packing
    for options in ({"batch_tokens": 1}, {"packing": False}, {"packing": False, "batch_tokens": 1}):
        other = ImplicitRewardModel(*models, tokenizer, BETA, **options)
        assert sum(other.step_log_ratios(prompts, completions), []) == pytest.approx(expected, abs=1e-5)
    before = verifier.rows_scored
    twice = verifier.score(prompts[:2] * 2, completions[:2] * 2)
    assert twice[:2] == twice[2:]
    assert verifier.rows_scored == before + 2


def test_a_model_that_did_not_move_knows_nothing(models, task, tokenizer):
    verifier = ImplicitRewardModel(models[0], models[0], tokenizer, BETA)
    assert set(sum(verifier.score(*texts(task)), [])) == {0.5}


def test_beta_scales_the_rewards(verifier, models, task, tokenizer):
    twice = ImplicitRewardModel(*models, tokenizer, 2 * BETA).step_log_ratios(*texts(task))
    expected = [2 * reward for reward in sum(verifier.step_log_ratios(*texts(task)), [])]
    assert sum(twice, []) == pytest.approx(expected, abs=1e-5)


def test_rows_without_steps(verifier):
    prompt = "Left to right, mod 20: 7 + 3\n"
    actual = verifier.score([prompt, prompt, prompt], ["", "\n \n", "7 + 3 = 10"])
    assert [len(values) for values in actual] == [0, 0, 1]
    assert verifier.score([], []) == []


def test_two_steps_at_one_token(verifier):
    prompt, completion = "Left to right, mod 20: 7 + 3\n", "7 + 3 = 10"
    first, second = verifier.step_log_ratios([prompt], [completion], [[(0, 10), (10, 10)]])[0]
    assert first != 0
    assert second == 0


def test_an_empty_prompt_has_no_place_to_predict_the_first_token_from(verifier):
    with pytest.raises(UserError, match="a prompt is empty"):
        verifier.score([""], ["7 + 3 = 10"])


def test_too_long_a_row_is_named(verifier):
    prompt = "Left to right, mod 20: 7 + 3\n"
    with pytest.raises(UserError, match=r"row 1: \d+ tokens exceed"):
        verifier.score([prompt, prompt], ["7 + 3 = 10", "7 + 3 = 10\n" * 200])


def test_a_checkpoint_is_read_with_its_reference(path, verifier, task):
    loaded = ImplicitRewardModel.from_pretrained(path, device="cpu", batch_tokens=100, packing=False)
    assert (loaded.beta, loaded.boundary, loaded.batch_tokens) == (BETA, Boundary("blank_line"), 100)
    assert not loaded.packing
    prompts, completions = texts(task)
    spans = [line_steps(completion) for completion in completions]
    expected = sum(verifier.score(prompts, completions), [])
    assert sum(loaded.score(prompts, completions, spans), []) == pytest.approx(expected, abs=1e-5)
    assert ImplicitRewardModel.from_pretrained(path, dtype="bfloat16").reference.dtype == torch.bfloat16
    assert ImplicitRewardModel.from_pretrained(path, boundary=Boundary()).boundary == Boundary()


def test_a_runs_checkpoint_takes_the_reference_beside_it(path, tmp_path):
    checkpoint = Path(shutil.copytree(path, tmp_path / "checkpoint-7"))
    (checkpoint / "reference").rename(tmp_path / "reference")
    assert ImplicitRewardModel.from_pretrained(str(checkpoint)).beta == BETA
    (tmp_path / "reference").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="has no subfolder 'reference'"):
        ImplicitRewardModel.from_pretrained(str(checkpoint))


def with_spec(path, tmp_path, **changes) -> str:
    copy = Path(shutil.copytree(path, tmp_path / "copy"))
    config = json.loads((copy / "config.json").read_text())
    config["rlstep_verifier"] |= changes
    (copy / "config.json").write_text(json.dumps(config))
    return str(copy)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "prm"}, "is no implicit PRM"),
        ({"format": 4}, "has verifier format 4; this rlstep reads up to 3"),
        ({"beta": 0}, "beta is 0; it must be a number above 0"),
        ({"beta": None}, "beta is None"),
    ],
)
def test_checkpoints_that_cannot_be_read(path, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        ImplicitRewardModel.from_pretrained(with_spec(path, tmp_path, **changes))


def test_a_generator_is_no_implicit_prm(tiny_lm):
    with pytest.raises(UserError, match="is no implicit PRM"):
        ImplicitRewardModel.from_pretrained(tiny_lm)


def test_both_models_need_one_vocabulary(models, tiny_lm, tokenizer):
    other = AutoModelForCausalLM.from_pretrained(tiny_lm)
    size = other.config.vocab_size
    other.resize_token_embeddings(size + 8)
    with pytest.raises(UserError, match=f"the model has {size} tokens and its reference {size + 8}"):
        ImplicitRewardModel(models[0], other, tokenizer, BETA)
