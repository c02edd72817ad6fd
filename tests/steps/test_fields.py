import pytest

from rlstep.runtime.errors import DataError, UserError
from rlstep.steps.fields import parse_fields, rename_fields
from rlstep.steps.sources import Row

KNOWN = ["problem_id", "answer", "reference", "scores", "scores.*"]


def renamed(values: dict, *words: str) -> dict:
    return rename_fields(Row("rows.jsonl", 3, values), parse_fields(words, KNOWN)).values


def test_fields_are_renamed_and_the_others_travel():
    row = {"id": 7, "pred": "12", "level": 5}
    assert renamed(row, "problem_id=id,answer=pred") == {"problem_id": 7, "answer": "12", "level": 5}
    assert renamed(row, "problem_id=id", "answer=pred") == renamed(row, "problem_id = id, answer = pred")
    assert row == {"id": 7, "pred": "12", "level": 5}
    assert renamed(row) == row


def test_the_mapping_wins_over_a_field_of_our_name():
    row = {"answer": "12", "pred": "13"}
    assert renamed(row, "reference=answer,answer=pred") == {"reference": "12", "answer": "13"}
    assert renamed({"answer": "a", "reference": "r"}, "answer=reference,reference=answer") == {
        "answer": "r",
        "reference": "a",
    }


def test_fields_within_fields():
    row = {"reward_model": {"ground_truth": "12", "style": "rule"}}
    assert renamed(row, "reference=reward_model.ground_truth") == {"reference": "12", "reward_model": {"style": "rule"}}
    assert row == {"reward_model": {"ground_truth": "12", "style": "rule"}}
    assert renamed({"a.b": 1, "a": {"b": 2}}, "answer=a.b") == {"a": {"b": 2}, "answer": 1}
    assert renamed({"x": {"y": 1, "z": 2}}, "answer=x,reference=x.y") == {"answer": {"y": 1, "z": 2}, "reference": 1}


def test_fields_of_text_are_joined():
    row = {"Body": "2 ducks.", "Question": "How many legs?", "meta": {"unit": "legs", "more": 1}}
    assert renamed(row, "problem_id=Body+Question,answer=meta.unit + Body") == {
        "problem_id": "2 ducks.\nHow many legs?", "answer": "legs\n2 ducks.", "meta": {"more": 1},
    }  # fmt: skip
    assert renamed({"a": None, "b": "x", "c": " "}, "answer=a+b+c") == {"answer": "x"}
    assert renamed({"a": None, "b": None}, "answer=a+b") == {"answer": None}
    assert renamed({"a+b": "one name", "a": "x"}, "answer=a+b") == {"a": "x", "answer": "one name"}
    with pytest.raises(DataError, match=r"row 3, field 'b': missing, but fields says answer=a\+b"):
        renamed({"a": "x"}, "answer=a+b")
    with pytest.raises(DataError, match=r"field 'a\+': missing, but fields says answer=a\+"):
        renamed({"a": "x"}, "answer=a+")
    with pytest.raises(DataError, match=r"row 3, field 'b': expected text, as answer is a\+b, got list"):
        renamed({"a": "x", "b": ["y"]}, "answer=a+b")


def test_a_field_can_be_put_into_another():
    assert renamed({"rm": 0.5}, "scores.qwen=rm") == {"scores": {"qwen": 0.5}}
    assert renamed({"rm": 0.5, "scores": {"a": 1}}, "scores.qwen=rm") == {"scores": {"a": 1, "qwen": 0.5}}
    assert renamed({"scores": {"majority": 1}}, "scores.mine=scores.majority") == {"scores": {"mine": 1}}
    assert renamed({"scores": [0.1]}, "scores.qwen=scores") == {"scores": {"qwen": [0.1]}}
    with pytest.raises(DataError, match=r"rows\.jsonl, row 3, field 'scores': is not an object, so scores\.qwen"):
        renamed({"rm": 0.5, "scores": [0.1]}, "scores.qwen=rm")


def test_one_field_can_be_two():
    assert renamed({"prompt": "p"}, "problem_id=prompt,reference=prompt") == {"problem_id": "p", "reference": "p"}


@pytest.mark.parametrize("theirs", ["question", "x.question", "x.y.z"])
def test_a_field_that_a_row_lacks_is_named(theirs):
    with pytest.raises(
        DataError, match=rf"row 3, field '{theirs}': missing, but fields says answer={theirs} .*: q, x\)"
    ):
        renamed({"q": 1, "x": {"y": 2}}, f"answer={theirs}")


@pytest.mark.parametrize(
    ("field", "named", "read_as"),
    [
        ("answer", "pred", "answer"),
        ("reference", "meta.gold", "reference"),
        ("scores.qwen[2]", "rm[2]", "scores.qwen"),
        ("scores.other", "values.other", "scores"),
    ],
)
def test_a_fault_found_later_has_the_files_name_and_what_it_is_read_as(field, named, read_as):
    row = Row("rows.jsonl", 3, {"pred": 1, "meta": {"gold": 2}, "rm": [], "values": {}})
    row = rename_fields(row, parse_fields(["answer=pred,reference=meta.gold", "scores=values,scores.qwen=rm"], KNOWN))
    fault = row.fault(field, "is odd.")
    assert str(fault) == f"rows.jsonl, row 3, field '{named}': is odd. It is read as {read_as}."
    assert (fault.path, fault.row, fault.field) == ("rows.jsonl", 3, named)


@pytest.mark.parametrize("field", ["answers", "problem_id", None])
def test_a_fault_in_another_field_has_its_own_name(field):
    row = rename_fields(Row("rows.jsonl", 3, {"pred": 1}), parse_fields(["answer=pred"], KNOWN))
    assert row.fault(field, "is odd.").field == field
    assert "read as" not in str(row.fault(field, "is odd."))


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("answer", "fields has 'answer'; give OURS=THEIRS"),
        ("answer=", "fields has 'answer='; give OURS=THEIRS"),
        ("answer=a,,", "fields has ''; give OURS=THEIRS"),
        ("answr=a", "no field 'answr' is read; there are problem_id, answer, reference, scores"),
        ("answer=a,answer=b", "fields gives answer twice, as a and as b"),
    ],
)
def test_what_is_no_mapping_is_refused(word, message):
    with pytest.raises(UserError, match=message):
        parse_fields([word], KNOWN)
