import pytest
import torch

from rlstep.runtime.errors import UserError
from rlstep.steps.boundaries import line_steps
from rlstep.steps.positions import encode
from rlstep.verifiers.batches import packed_batches, padded_batches
from rlstep.verifiers.scoring.reward_model import RewardModel


@pytest.fixture(scope="module", params=["prm", "orm"])
def verifier(verifier_paths, request) -> RewardModel:
    return RewardModel.from_pretrained(verifier_paths[request.param])


def rows(task, n=40) -> tuple[list[str], list[str]]:
    solutions = task.demonstrations(n, seed=1)
    return [s.prompt for s in solutions], [s.completion for s in solutions]


def full_pass(verifier: RewardModel, prompt: str, completion: str) -> list[float]:
    """Every token's logits, read where the steps end."""
    encoded = encode(verifier.tokenizer, prompt, completion, line_steps(completion))
    with torch.no_grad():
        values_T = verifier.model(torch.tensor([encoded.ids])).logits.softmax(-1)[0, :, 1]
    return values_T[encoded.step_ends].tolist()


def test_batches_equal_the_full_pass_of_each_row(verifier, task):
    prompts, completions = rows(task)
    actual = verifier.score(prompts, completions)
    for prompt, completion, values in zip(prompts, completions, actual, strict=True):
        assert values == pytest.approx(full_pass(verifier, prompt, completion), abs=1e-5)


def test_batch_size_does_not_matter(verifier, task):
    prompts, completions = rows(task)
    together = verifier.score(prompts, completions)
    alone = RewardModel(verifier.model, verifier.tokenizer, verifier.kind, batch_tokens=1).score(prompts, completions)
    assert sum(alone, []) == pytest.approx(sum(together, []), abs=1e-5)


def test_equal_rows_are_computed_once_and_answered_in_order(verifier, task):
    prompts, completions = rows(task, 6)
    order = [3, 0, 3, 5, 0, 1, 3]
    before = verifier.tokens_scored
    once = verifier.score(prompts, completions)
    spent = verifier.tokens_scored - before
    actual = verifier.score([prompts[i] for i in order], [completions[i] for i in order])
    assert [len(values) for values in actual] == [len(once[i]) for i in order]
    for index, values in zip(order, actual, strict=True):
        assert values == pytest.approx(once[index], abs=1e-5)
    assert verifier.tokens_scored - before - spent < spent


def test_no_steps_have_no_values(verifier):
    prompt = "Left to right, mod 20: 7 + 3\n"
    assert verifier.score([prompt, prompt, prompt], ["", "\n \n", "7 + 3 = 10"])[:2] == [[], []]
    assert verifier.score([], []) == []


def test_given_steps_are_used(verifier):
    prompt, completion = "Left to right, mod 20: 7 + 3\n", "7 + 3 = 10\nAnswer: 10"
    lines = verifier.score([prompt], [completion])[0]
    assert verifier.score([prompt], [completion], steps=[[(0, len(completion))]])[0] == pytest.approx(
        lines[1:], abs=1e-6
    )


def test_foreign_text_is_scored(verifier):
    (values,) = verifier.score(["What is \u00e9 \U0001f600?"], ["So be it.\nYes \U0001f600"])
    assert len(values) == 2
    assert all(0 <= value <= 1 for value in values)


def test_too_long_a_row_is_named(verifier):
    prompt = "Left to right, mod 20: 7 + 3\n"
    with pytest.raises(UserError, match=r"row 1: \d+ tokens exceed the verifier's 512 positions"):
        verifier.score([prompt, prompt], ["7 + 3 = 10", "7 + 3 = 10\n" * 200])


def test_too_long_a_row_is_cut_where_that_is_asked_for(verifier):
    prompt = "Left to right, mod 20: 7 + 3\n"
    long = "7 + 3 = 10\n" * 200
    values, short, nothing = verifier.score([prompt, prompt, "7 " * 600], [long, "7 + 3 = 10", "7"], cut=True)
    steps = verifier.boundary.split(long)
    assert 0 < len(values) < len(steps)
    beginning = long[: steps[len(values) - 1][1]]
    assert values == pytest.approx(verifier.score([prompt], [beginning])[0], abs=1e-5)
    assert verifier.fitting_steps(prompt, long, steps) == len(values)
    assert short == pytest.approx(verifier.score([prompt], ["7 + 3 = 10"])[0], abs=1e-5)
    assert nothing == [], "the prompt alone is too long"


def test_lists_of_different_lengths_are_refused(verifier):
    with pytest.raises(UserError, match="2 prompts, 1 completion"):
        verifier.score(["a", "b"], ["c"])


def test_a_generator_is_no_verifier(tiny_lm):
    with pytest.raises(UserError, match="is no rlstep verifier"):
        RewardModel.from_pretrained(tiny_lm)


def test_kind_opens_a_foreign_token_classifier(verifier_paths, tmp_path, tokenizer):
    from transformers import AutoModelForTokenClassification

    model = AutoModelForTokenClassification.from_pretrained(verifier_paths["prm"])
    del model.config.rlstep_verifier
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="is no rlstep verifier"):
        RewardModel.from_pretrained(str(tmp_path))
    assert RewardModel.from_pretrained(str(tmp_path), kind="orm").kind == "orm"


def test_batches_keep_to_the_budget_and_miss_nothing():
    rows = [[index] * length for index, length in enumerate([5, 1, 90, 5, 30, 31, 7])]
    for actual in (list(padded_batches(rows, 60)), list(packed_batches(rows, 60))):
        assert sorted(sum(actual, [])) == list(range(7))
        assert actual[0] == [2]  # longer than the budget: alone
    assert all(
        len(batch) == 1 or len(batch) * max(len(rows[i]) for i in batch) <= 60 for batch in padded_batches(rows, 60)
    )
    assert all(len(batch) == 1 or sum(len(rows[i]) for i in batch) <= 60 for batch in packed_batches(rows, 60))


def test_a_run_of_shared_prefixes_is_cut_at_the_budget():
    rows = [[*range(20), 30 + index] for index in range(10)]
    actual = list(packed_batches(rows, 24))
    # the prefix counts once a batch: 21 + 3 x 1
    assert [len(batch) for batch in actual] == [4, 4, 2]
