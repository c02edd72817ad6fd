"""Marks become rows of PRM800K that read back as the same steps and labels."""

import json

import pytest

from rlstep.annotation.items import read_items
from rlstep.annotation.rows import Marks, parse_row, row_of
from rlstep.runtime.errors import DataError, UserError
from rlstep.runtime.rows import write_rows
from rlstep.steps.boundaries import Boundary
from rlstep.steps.readers.values import Field
from rlstep.steps.records import Solution, write_solutions
from rlstep.steps.sources import Row, iter_rows
from tests.annotation.conftest import read_back

ROW = {
    "labeler", "timestamp", "generation", "is_quality_control_question", "is_initial_screening_question", "question",
    "label",
}  # fmt: skip
QUESTION = {
    "problem", "ground_truth_solution", "ground_truth_answer", "pre_generated_steps", "pre_generated_answer",
    "pre_generated_verifier_score",
}  # fmt: skip


def written(out, *named):
    write_rows(out, (row_of(item, "ada", marks) for item, marks in named))
    return out


def test_an_error_reads_back_with_the_steps_up_to_it(items, out):
    (solution,) = read_back(written(out, (items[0], Marks((1, -1), "found_error", 8200))))
    assert solution.prompt == "What is $2 + 3 \\cdot 4$?\n"
    assert solution.reference == "14"
    assert [text.strip() for text in solution.step_texts] == ["3 * 4 = 12", "2 + 12 = 15"]
    assert solution.labels == [1, 0]
    assert not solution.finished


def test_a_whole_solution_reads_back_with_its_neutral_step(items, out):
    (solution,) = read_back(written(out, (items[2], Marks((1, 0, 1), "solution"))))
    assert [text.strip() for text in solution.step_texts] == ["6 / 3 = 2", "That is a whole number.", "Answer: 2"]
    assert solution.labels == [1, None, 1]
    assert solution.neutral == [1]
    assert solution.finished


def test_what_was_given_up_reads_back_only_if_it_is_kept(items, out):
    written(out, (items[0], Marks((1,), "give_up")), (items[2], Marks((), "bad_problem")))
    assert read_back(out) == []
    given_up = read_back(out, keep=("give_up", "bad_problem"))
    assert [one.labels for one in given_up] == [[1]]
    shown = [row["label"]["steps"][-1] for row in map(json.loads, out.read_text().splitlines())]
    assert [step["completions"][0] for step in shown] == [
        {"text": "2 + 12 = 15", "rating": None, "flagged": None},
        {"text": "6 / 3 = 2", "rating": None, "flagged": None},
    ]


def test_the_fields_are_those_of_the_published_rows(items):
    row = row_of(items[0], "ada", Marks((1, -1), "found_error", 8200))
    assert set(row) == ROW
    assert set(row["question"]) == QUESTION
    assert set(row["label"]) == {"steps", "total_time", "finish_reason"}
    assert row["label"]["total_time"] == 8200
    assert row["question"]["pre_generated_answer"] == "15"
    assert [step["chosen_completion"] for step in row["label"]["steps"]] == [0, None]


def test_the_fields_are_those_of_published_rows_on_this_machine(items, real_data):
    published = next(iter_rows(real_data / "prm800k" / "phase2_rows.jsonl")).values
    row = row_of(items[0], "ada", Marks((1, -1), "found_error"))
    assert set(row) == set(published)
    assert set(row["question"]) == set(published["question"])
    assert set(row["label"]) == set(published["label"])
    assert set(row["label"]["steps"][0]) == set(published["label"]["steps"][0])
    assert set(row["label"]["steps"][0]["completions"][0]) == set(published["label"]["steps"][0]["completions"][0])


@pytest.mark.parametrize(
    ("ratings", "reason", "message"),
    [
        ((1, 1, 1, 1), None, "4 ratings for 3 steps"),
        ((-1, 1), None, "after the first negative"),
        ((1, -1), None, "as found_error"),
        ((1, 1), "found_error", "as found_error"),
        ((1, -1), "give_up", "as found_error"),
        ((1, 1, 1), None, "ends as solution"),
        ((1, 1), "solution", "ends as solution"),
        ((1, 1, 1), "bad_problem", "ends as solution"),
    ],
)
def test_marks_that_the_protocol_does_not_allow(ratings, reason, message):
    assert message in Marks(ratings, reason).fault(3)


@pytest.mark.parametrize(
    ("ratings", "reason"),
    [((), None), ((1, 0), None), ((1, 0, -1), "found_error"), ((-1,), "found_error"), ((0, 0, 1), "solution"),
     ((), "give_up"), ((1, 1), "bad_problem")],
)  # fmt: skip
def test_a_row_gives_its_marks_back(items, ratings, reason):
    marks = Marks(ratings, reason, 17)
    assert marks.fault(3) is None
    if reason is not None:
        row = row_of(items[0], "ada", marks)
        assert parse_row(Field.of(Row("f", 1, row))) == ("ada", items[0].problem, list(items[0].steps), marks)


def test_a_text_that_is_no_unicode_reads_back(tmp_path, out):
    """A model's token may be half a surrogate pair; JSON can write it, UTF-8 cannot."""
    half = json.loads('"half \\ud83d of a pair"')
    (tmp_path / "odd.jsonl").write_text(
        json.dumps({"problem_id": "p", "prompt": "Q?", "completion": f"{half}\nend", "reference": "1"}) + "\n"
    )
    items, _ = read_items(tmp_path / "odd.jsonl", Boundary())
    (solution,) = read_back(written_ascii(out, row_of(items[0], "ada", Marks((1, 1), "solution"))))
    assert solution.step_texts[0].strip() == half


def written_ascii(out, row):
    out.write_text(json.dumps(row) + "\n")
    return out


def test_steps_that_the_data_has_are_kept_and_others_are_split_by_the_rule(tmp_path):
    text = "First. Second.\nThird."
    write_solutions(
        tmp_path / "d.jsonl", [Solution("a", "Q", text, "", steps=[(0, 7), (7, 21)]), Solution("b", "R", text, "")]
    )
    by_line, _ = read_items(tmp_path / "d.jsonl", Boundary())
    by_sentence, _ = read_items(tmp_path / "d.jsonl", Boundary("sentence"))
    assert [item.steps for item in by_line] == [("First.", "Second.\nThird."), ("First. Second.", "Third.")]
    assert by_sentence[1].steps == ("First.", "Second.", "Third.")
    assert by_line[0].reference is None


def test_solutions_without_a_step_and_equal_ones_are_left_out_and_counted(tmp_path):
    same = [Solution("a", "Q", "x\ny", "1", sample=k) for k in range(3)]
    write_solutions(tmp_path / "d.jsonl", [Solution("a", "Q", " \n", "1"), *same, Solution("b", "R", "x\ny", "1")])
    items, left_out = read_items(tmp_path / "d.jsonl", Boundary())
    assert [item.problem for item in items] == ["Q", "R"]
    assert left_out == {"without a step": 1, "equal to an earlier one": 2}


def test_data_without_any_step(tmp_path):
    write_solutions(tmp_path / "d.jsonl", [Solution("a", "Q", "\n", "1")])
    with pytest.raises(UserError, match="of 1 solution, none has a step"):
        read_items(tmp_path / "d.jsonl", Boundary())


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ({"prompt": " ", "completion": "x"}, "prompt"),
        ({"prompt": "Q", "completion": "x\n \ny", "steps": [[0, 2], [2, 4], [4, 5]]}, "steps"),
        ({"prompt": "Q", "completion": " x", "steps": [[0, 1], [1, 2]]}, "steps"),
    ],
)
def test_rows_that_nobody_can_label(tmp_path, row, field):
    write_rows(tmp_path / "d.jsonl", [{"problem_id": "a", "reference": ""} | row])
    with pytest.raises(DataError) as error:
        read_items(tmp_path / "d.jsonl", Boundary())
    assert (error.value.row, error.value.field) == (1, field)


def test_messages_show_what_the_user_asked(tmp_path):
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 1 + 1?"}]
    write_solutions(tmp_path / "d.jsonl", [Solution("a", chat, "2", "2")])
    items, _ = read_items(tmp_path / "d.jsonl", Boundary())
    assert items[0].problem == "What is 1 + 1?"
