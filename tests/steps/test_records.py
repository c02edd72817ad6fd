import json

import pytest

from rlstep.runtime.errors import DataError, UserError
from rlstep.runtime.rows import write_rows
from rlstep.steps.records import Problem, Solution, read_problems, read_solutions

GOOD = {
    "problem_id": "p-1", "sample": 3, "prompt": "7 + 3\n", "completion": "7 + 3 = 10\nAnswer: 10", "reference": "10",
    "finished": True, "steps": [[0, 11], [11, 21]], "labels": [1, None], "answer": "10", "correct": True,
    "scores": {"prm": [0.5, 0.25]},
}  # fmt: skip

MALFORMED = [
    ("prompt", 7),
    ("completion", None),
    ("reference", 10),
    ("sample", "3"),
    ("sample", True),
    ("sample", -1),
    ("finished", 1),
    ("steps", "0-11"),
    ("steps", [0, 11]),
    ("steps", [[0, 11], [11]]),
    ("steps", [[0, 11], [11, 21.0]]),
    ("steps", [[0, 11], [10, 21]]),
    ("steps", [[0, 11], [11, 22]]),
    ("steps", [[0, 11], [21, 11]]),
    ("steps", [[-1, 11], [11, 21]]),
    ("labels", 1),
    ("labels", [1]),
    ("labels", [1, 2]),
    ("labels", [1, True]),
    ("labels", [1, "0"]),
    ("labels", [1, float("nan")]),
    ("answer", 10),
    ("correct", "yes"),
    ("scores", [0.5, 0.25]),
    ("scores", {"prm": 0.5}),
    ("scores", {"prm": [0.5, None]}),
    ("scores", {"prm": [0.5, float("inf")]}),
    ("rating", 1),
]


def test_a_solution_file_gives_back_what_was_written(tmp_path, solutions):
    write_rows(tmp_path / "s.jsonl", (solution.to_row() for solution in solutions))
    assert read_solutions(tmp_path / "s.jsonl") == solutions


def test_a_good_row_is_read_with_its_spans(tmp_path):
    write_rows(tmp_path / "s.jsonl", [GOOD])
    [solution] = read_solutions(tmp_path / "s.jsonl")
    assert solution.step_texts == ["7 + 3 = 10\n", "Answer: 10"]


@pytest.mark.parametrize(("name", "value"), MALFORMED)
def test_a_malformed_field_is_named_with_its_row(tmp_path, name, value):
    write_rows(tmp_path / "s.jsonl", [GOOD, {**GOOD, name: value}])
    with pytest.raises(DataError) as caught:
        read_solutions(tmp_path / "s.jsonl")
    assert caught.value.row == 2
    assert caught.value.field.startswith(name)
    assert str(caught.value).startswith(f"{tmp_path / 's.jsonl'}, row 2, field '{name}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["problem_id", "prompt", "completion", "reference"])
def test_a_missing_field_is_named(tmp_path, name):
    write_rows(tmp_path / "s.jsonl", [{k: v for k, v in GOOD.items() if k != name}])
    with pytest.raises(DataError, match="missing") as caught:
        read_solutions(tmp_path / "s.jsonl")
    assert (caught.value.row, caught.value.field) == (1, name)


def test_a_score_list_of_another_length_is_named_by_its_verifier(tmp_path):
    write_rows(tmp_path / "s.jsonl", [{**GOOD, "scores": {"prm": [0.5, 0.25], "orm": [0.5]}}])
    with pytest.raises(DataError, match="1 values for 2 steps") as caught:
        read_solutions(tmp_path / "s.jsonl")
    assert caught.value.field == "scores.orm"


@pytest.mark.parametrize("name", ["labels", "scores"])
def test_labels_and_scores_need_steps(tmp_path, name):
    row = {**GOOD, "labels": None, "scores": {}, "steps": None, name: GOOD[name]}
    write_rows(tmp_path / "s.jsonl", [row])
    with pytest.raises(DataError, match="without 'steps'"):
        read_solutions(tmp_path / "s.jsonl")


def test_a_needed_field_that_is_null_says_which_stage_fills_it(tmp_path):
    row = {**GOOD, "labels": None}
    write_rows(tmp_path / "s.jsonl", [GOOD, row])
    with pytest.raises(DataError, match="rlstep label") as caught:
        read_solutions(tmp_path / "s.jsonl", need=("steps", "labels"))
    assert (caught.value.row, caught.value.field) == (2, "labels")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"problem_id": ', "not valid JSON"),
        (b"[1, 2]", "expected a JSON object, found list"),
        (b'{"prompt": "caf\xe9"}', "not UTF-8"),
        (b'{"sample": ' + b"9" * 5000 + b"}", "not readable JSON"),
        (b"[" * 100_000, "not readable JSON"),
    ],
)
def test_an_unreadable_line_is_named_by_its_row(tmp_path, line, reason):
    good = json.dumps(GOOD).encode()
    (tmp_path / "s.jsonl").write_bytes(good + b"\n\n" + line + b"\n")
    with pytest.raises(DataError, match=reason) as caught:
        read_solutions(tmp_path / "s.jsonl")
    assert caught.value.row == 3


@pytest.mark.parametrize("content", [None, "", "\n \n"])
def test_no_file_and_no_rows_are_errors(tmp_path, content):
    if content is not None:
        (tmp_path / "s.jsonl").write_text(content)
    with pytest.raises(UserError, match="no such file|no rows"):
        read_solutions(tmp_path / "s.jsonl")


def test_problems_are_read_and_a_repeated_id_is_named(tmp_path):
    rows = [{"id": name, "prompt": "1\n", "reference": "1"} for name in ("a", "b", "a")]
    write_rows(tmp_path / "p.jsonl", rows[:2])
    assert read_problems(tmp_path / "p.jsonl") == [Problem("a", "1\n", "1"), Problem("b", "1\n", "1")]
    write_rows(tmp_path / "p.jsonl", rows)
    with pytest.raises(DataError, match="row 1 already") as caught:
        read_problems(tmp_path / "p.jsonl")
    assert (caught.value.row, caught.value.field) == (3, "id")


@pytest.mark.parametrize(
    ("correct", "labels", "clean"),
    [(True, [1, 1], True), (True, [1, 0], False), (True, [1, None], False), (False, [1, 1], False), (True, [], False)],
)
def test_clean_is_a_right_answer_with_every_step_right(correct, labels, clean):
    assert Solution("p", "", "", "", correct=correct, labels=labels).clean is clean
