import json

import pytest

from rlstep.runtime.errors import DataError, UserError
from rlstep.runtime.rows import write_rows
from rlstep.steps.problems import read_problems
from rlstep.steps.records import Problem, Solution, iter_solutions, read_solutions, write_solutions

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
    ("scores", {"prm": [0.5, "0.5"]}),
    ("scores", {"prm": [0.5, float("inf")]}),
    ("neutral", 1),
    ("neutral", [True]),
    ("neutral", ["1"]),
    ("neutral", [1.0]),
    ("neutral", [0]),
    ("neutral", [1, 1]),
    ("neutral", [2]),
    ("neutral", [-1]),
    ("tree", 7),
    ("prompt_format", "chat"),
    ("prompt_format", {"system_prompt": "S"}),
    ("prompt_format", {"form": "chat", "other": 1}),
    ("prompt_format", {"form": "chat", "template_arguments": "no"}),
    ("rating", 1),
]


def test_messages_in_other_forms_are_read_as_problems_read_them(tmp_path):
    chat = [{"role": "user", "content": "1 + 1?"}]
    row = {"problem_id": "a", "completion": "2", "reference": "2"}
    parts = [{"role": "user", "content": [{"type": "text", "text": "1 + 1?"}]}]
    write_rows(tmp_path / "s.jsonl", [row | {"prompt": prompt} for prompt in (chat, json.dumps(chat), parts)])
    assert [solution.prompt for solution in read_solutions(tmp_path / "s.jsonl")] == [chat] * 3


def test_a_solution_file_gives_back_what_was_written(tmp_path, solutions):
    write_rows(tmp_path / "s.jsonl", (solution.to_row() for solution in solutions))
    assert read_solutions(tmp_path / "s.jsonl") == solutions


# What the fields can hold, nulls and empty lists in each of them.
VARIED = [
    Solution("p", "?\n", "a\nb", "1", steps=[(0, 2), (2, 3)], labels=[None, 0.25], neutral=[0], tree="t"),
    Solution("p", "?\n", "", "", sample=1, finished=False),
    Solution("p", "?\n", "", "1", sample=2, steps=[], labels=[], neutral=[], answer="", correct=False),
    Solution("数", "\u2028", "a", "1", steps=[(0, 1)], labels=[1], correct=True, scores={"a": [0.1], "b": [1]}),
]


@pytest.mark.parametrize("name", ["s.jsonl", "s.parquet"])
def test_every_file_type_gives_back_what_was_written(tmp_path, solutions, name):
    assert write_solutions(tmp_path / name, VARIED + solutions) == 4 + len(solutions)
    read = read_solutions(tmp_path / name)
    assert read == VARIED + solutions
    # Equality would take True for 1.
    assert not any(isinstance(label, bool) for s in read for label in s.labels or ())
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_folder_of_shards_is_read_as_one_file(tmp_path, solutions):
    write_solutions(tmp_path / "b.parquet", solutions[4:8])
    write_solutions(tmp_path / "a.jsonl", solutions[:4])
    write_solutions(tmp_path / "c.jsonl", solutions[8:])
    (tmp_path / "README.md").write_text("not a shard")
    assert read_solutions(tmp_path) == solutions


def test_an_error_in_a_shard_names_it(tmp_path, solutions):
    write_solutions(tmp_path / "a.parquet", solutions)
    write_rows(tmp_path / "b.jsonl", [GOOD, {**GOOD, "sample": -1}])
    with pytest.raises(DataError) as caught:
        list(iter_solutions(tmp_path))
    assert (caught.value.path, caught.value.row, caught.value.field) == (str(tmp_path / "b.jsonl"), 2, "sample")


def test_solutions_go_to_a_known_file_type(tmp_path):
    with pytest.raises(UserError, match=r"ends in \.jsonl or \.parquet"):
        write_solutions(tmp_path / "s.csv", [])


def test_a_row_is_the_solutions_fields():
    solution = VARIED[0]
    assert Solution(**solution.to_row()) == solution
    assert list(solution.to_row()) == list(Solution.__dataclass_fields__)


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
    with pytest.raises(DataError, match="1 value for 2 steps") as caught:
        read_solutions(tmp_path / "s.jsonl")
    assert caught.value.field == "scores.orm"


@pytest.mark.parametrize("name", ["labels", "neutral", "scores"])
def test_labels_and_scores_need_steps(tmp_path, name):
    row = {**GOOD, "labels": None, "scores": {}, "steps": None, name: {**GOOD, "neutral": [1]}[name]}
    write_rows(tmp_path / "s.jsonl", [row])
    with pytest.raises(DataError, match="without 'steps'"):
        read_solutions(tmp_path / "s.jsonl")


def test_neutral_steps_need_labels(tmp_path):
    write_rows(tmp_path / "s.jsonl", [{**GOOD, "labels": None, "neutral": [1]}])
    with pytest.raises(DataError, match="without 'labels'"):
        read_solutions(tmp_path / "s.jsonl")


def test_neutral_steps_rise_and_have_no_label(tmp_path):
    row = {**GOOD, "labels": [None, None], "tree": "t-1"}
    write_rows(tmp_path / "s.jsonl", [{**row, "neutral": [0, 1]}, {**row, "neutral": []}])
    first, second = read_solutions(tmp_path / "s.jsonl")
    assert (first.neutral, second.neutral, first.tree) == ([0, 1], [], "t-1")
    assert (first.verdicts, second.verdicts) == ([True, True], [None, None])
    for change, match in (
        ({"neutral": [1, 0]}, "out of order"),
        ({"neutral": [0], "labels": [1, None]}, "its label is 1, not null"),
    ):
        write_rows(tmp_path / "s.jsonl", [row | change])
        with pytest.raises(DataError, match=match):
            read_solutions(tmp_path / "s.jsonl")


def test_a_needed_field_that_is_null_says_which_stage_fills_it(tmp_path):
    row = {**GOOD, "labels": None}
    write_rows(tmp_path / "s.jsonl", [GOOD, row])
    with pytest.raises(DataError, match="rlstep label") as caught:
        read_solutions(tmp_path / "s.jsonl", need=("steps", "labels"))
    assert (caught.value.row, caught.value.field) == (2, "labels")


@pytest.mark.usefixtures("without_gc")
@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"problem_id": ', "not valid JSON"),
        (b"[1, 2]", "expected a JSON object, got list"),
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


@pytest.mark.parametrize(("content", "message"), [(None, "no such file"), ("", "no rows"), ("\n \n", "no rows")])
def test_no_file_and_no_rows_are_errors(tmp_path, content, message):
    if content is not None:
        (tmp_path / "s.jsonl").write_text(content)
    with pytest.raises(UserError, match=message):
        read_solutions(tmp_path / "s.jsonl")


def test_problems_are_read_and_a_repeated_id_is_named(tmp_path):
    rows = [{"id": name, "prompt": "1\n", "reference": "1"} for name in ("a", "b", "a")]
    write_rows(tmp_path / "p.jsonl", rows[:2])
    assert read_problems(tmp_path / "p.jsonl") == [Problem("a", "1\n", "1"), Problem("b", "1\n", "1")]
    write_rows(tmp_path / "p.jsonl", rows)
    with pytest.raises(DataError, match="is already in row 1") as caught:
        read_problems(tmp_path / "p.jsonl")
    assert (caught.value.row, caught.value.field) == (3, "id")


@pytest.mark.parametrize(
    ("correct", "labels", "neutral", "verdicts", "clean"),
    [
        (True, [1, 1], None, [True, True], True),
        (True, [1, 0], None, [True, False], False),
        (True, [1, None], None, [True, None], False),
        (False, [1, 1], None, [True, True], False),
        (True, [], None, [], False),
        (True, None, None, [], False),
        (True, [0.5, 0.9], None, [True, True], True),
        (True, [0.9, 0.49], None, [True, False], False),
        (True, [1, None], [1], [True, True], True),
        (True, [None, None], [1], [None, True], False),
        (False, [1, None], [1], [True, True], False),
    ],
)
def test_clean_is_a_right_answer_with_every_step_right(correct, labels, neutral, verdicts, clean):
    solution = Solution("p", "", "", "", correct=correct, labels=labels, neutral=neutral)
    assert (solution.verdicts, solution.clean) == (verdicts, clean)
