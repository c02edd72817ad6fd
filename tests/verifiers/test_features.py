from dataclasses import replace

import pytest
import torch

from rlstep.runtime.errors import UserError
from rlstep.steps.records import Solution
from rlstep.verifiers import features as collate
from rlstep.verifiers.features import score_features, train_features
from rlstep.verifiers.forward import collate as collate_rows

PROMPT = "Left to right, mod 20: 7 + 3 * 7\n"
COMPLETION = "7 + 3 = 10\n10 * 7 = 10\nAnswer: 10"
STEPS = [(0, 11), (11, 23), (23, 33)]


def solution(labels=None, correct=True) -> Solution:
    return Solution("p", PROMPT, COMPLETION, "10", steps=STEPS, labels=labels, correct=correct)


def one(kind, tokenizer, max_length=None, **given):
    (feature,), counts = train_features(kind, [solution(**given)], tokenizer, max_length)
    return feature, counts


def texts_up_to(tokenizer, feature) -> list[str]:
    """The text read when each position has been read."""
    return [tokenizer.decode(feature.ids[: position + 1]) for position in feature.positions.tolist()]


def test_prm_speaks_at_the_step_ends(tokenizer):
    feature, counts = one("prm", tokenizer, labels=[1, 1, 1])
    assert texts_up_to(tokenizer, feature) == [PROMPT + COMPLETION[:end] for _, end in STEPS]
    assert feature.targets.tolist() == [1, 1, 1]
    assert (counts["rows"], counts["positions"]) == (1, 3)


def test_supervision_includes_the_first_wrong_step_and_stops(tokenizer):
    feature, counts = one("prm", tokenizer, labels=[1, 0, 1])
    assert feature.targets.tolist() == [1, 0]
    assert tokenizer.decode(feature.ids) == PROMPT + COMPLETION[:23]
    assert counts["positions"] == 2


def test_unknown_labels_teach_nothing_and_stop_nothing(tokenizer):
    feature, _ = one("prm", tokenizer, labels=[1, None, 0])
    assert feature.targets.tolist() == [1, 0]
    assert texts_up_to(tokenizer, feature) == [PROMPT + COMPLETION[:11], PROMPT + COMPLETION]


@pytest.mark.parametrize(("labels", "targets"), [([0.75, 0.2, 0.01], [0.75, 0.2, 0.01]), ([True, False, True], [1, 0])])
def test_soft_and_boolean_labels_keep_their_value(tokenizer, labels, targets):
    assert one("prm", tokenizer, labels=labels)[0].targets.tolist() == pytest.approx(targets)


@pytest.mark.parametrize("label", [-100, 2, "1", float("nan")])
def test_labels_outside_zero_to_one_are_refused(tokenizer, label):
    with pytest.raises(UserError, match=r"solution 1 \(problem 'p', sample 0\): label"):
        one("prm", tokenizer, labels=[1, label, 1])


@pytest.mark.parametrize("correct", [True, False])
def test_orm_speaks_at_every_completion_token_and_only_there(tokenizer, correct):
    feature, _ = one("orm", tokenizer, correct=correct)
    prompt_length = len(tokenizer(PROMPT)["input_ids"])
    total = prompt_length + len(tokenizer(COMPLETION)["input_ids"])
    assert feature.positions.tolist() == list(range(prompt_length, total))
    assert feature.targets.tolist() == [float(correct)] * (total - prompt_length)


def test_orm_is_read_at_the_step_ends_and_at_the_last_token(tokenizer):
    # the spans leave the last character out, as a checker's may
    feature = score_features("orm", [PROMPT], [COMPLETION], [[(0, 11), (11, 22)]], tokenizer)[0]
    assert texts_up_to(tokenizer, feature) == [PROMPT + COMPLETION[:11], PROMPT + COMPLETION]


def test_missing_labels_are_an_error(tokenizer):
    with pytest.raises(UserError, match="step labels"):
        one("prm", tokenizer, labels=None)
    with pytest.raises(UserError, match="true or false"):
        one("orm", tokenizer, correct=None)


def test_what_is_dropped_is_counted(tokenizer):
    whole, _ = one("prm", tokenizer, labels=[1, 1, 1])
    third_end = whole.positions.tolist()[2]  # its token is the first that does not fit
    feature, counts = one("prm", tokenizer, max_length=third_end, labels=[1, 1, 0])
    assert (feature.targets.tolist(), counts["positions_too_long"], counts["rows_too_long"]) == ([1, 1], 1, 0)
    rows = [solution([1, 1, 1]), solution([None, None, None]), replace(solution([]), steps=[])]
    features, counts = train_features("prm", rows, tokenizer, max_length=5)
    assert features == []
    assert counts == {
        "rows": 0, "positions": 0, "positions_too_long": 3, "rows_too_long": 1, "rows_unlabelled": 2,
    }  # fmt: skip


def test_chunks_do_not_change_the_rows(tokenizer, solutions, monkeypatch):
    whole, _ = train_features("prm", solutions, tokenizer, None)
    monkeypatch.setattr(collate, "CHUNK", 5)
    parts, _ = train_features("prm", solutions, tokenizer, None)
    assert len(whole) == len(solutions)
    assert all(
        torch.equal(a.ids, b.ids) and torch.equal(a.positions, b.positions) for a, b in zip(whole, parts, strict=True)
    )


def asked_tokens(batch) -> list[int]:
    return batch["input_ids"][batch["rows"], batch["positions"]].tolist()


@pytest.mark.parametrize("packing", [True, False])
def test_batches_point_at_the_same_tokens(tokenizer, solutions, packing):
    features, _ = train_features("prm", solutions, tokenizer, None)
    batch = collate_rows(features, tokenizer.pad_token_id, packing)
    assert asked_tokens(batch) == [token for feature in features for token in feature.ids[feature.positions].tolist()]
    assert batch["labels"].tolist() == [target for feature in features for target in feature.targets.tolist()]
    owners = [index for index, feature in enumerate(features) for _ in feature.positions]
    assert batch["owners"].tolist() == owners
    assert batch["problems"].tolist() == [feature.problem for feature in features]


def test_padding_is_masked(tokenizer, solutions):
    features, _ = train_features("prm", solutions, tokenizer, None)
    batch = collate_rows(features, tokenizer.pad_token_id, packing=False)
    assert batch["input_ids"][batch["rows"], batch["positions"]].tolist() == [
        token for feature in features for token in feature.ids[feature.positions].tolist()
    ]
    assert batch["attention_mask"].sum(dim=1).tolist() == [len(feature.ids) for feature in features]
    assert (batch["input_ids"][batch["attention_mask"] == 0] == tokenizer.pad_token_id).all()
    assert batch["labels"].tolist() == [target for feature in features for target in feature.targets.tolist()]
