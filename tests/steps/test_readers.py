import pytest

from rlstep.runtime.errors import DataError, UserError
from rlstep.runtime.rows import write_rows
from rlstep.steps.answers import extract, is_correct
from rlstep.steps.readers import FORMATS, ReadReport, options_of, read

ROW = {"question": "How many legs have 2 ducks?", "answer": "They have 2*2=<<2*2=4>>4 legs.\n#### 4"}

PRM800K = {
    "question": {"problem": "?", "ground_truth_answer": "4"}, "is_quality_control_question": False,
    "is_initial_screening_question": False,
}  # fmt: skip


def test_our_own_format_gives_solutions_back(tmp_path, solutions):
    write_rows(tmp_path / "s.jsonl", (solution.to_row() for solution in solutions))
    assert list(read("solutions", tmp_path / "s.jsonl")) == solutions


def test_gsm8k_rows_become_solutions(tmp_path):
    write_rows(tmp_path / "test.jsonl", [ROW, ROW])
    first, second = read("gsm8k", tmp_path / "test.jsonl")
    assert first.prompt == "Question: How many legs have 2 ducks?\nAnswer:\n"
    assert first.completion == ROW["answer"]
    assert first.reference == "4"
    assert (first.problem_id, second.problem_id) == ("gsm8k-test-1", "gsm8k-test-2")


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ({"answer": "#### 4"}, "question"),
        ({"question": "?"}, "answer"),
        ({"question": 4, "answer": "#### 4"}, "question"),
        ({"question": " ", "answer": "#### 4"}, "question"),
        ({"question": "?", "answer": None}, "answer"),
        ({"question": "?", "answer": "no mark"}, "answer"),
        ({"question": "?", "answer": "a mark\n#### "}, "answer"),
    ],
)
def test_a_malformed_gsm8k_row_is_named_with_its_field(tmp_path, row, field):
    write_rows(tmp_path / "x.jsonl", [ROW, row])
    with pytest.raises(DataError) as caught:
        list(read("gsm8k", tmp_path / "x.jsonl"))
    assert (caught.value.row, caught.value.field) == (2, field)


@pytest.mark.parametrize(
    ("format", "row", "fields", "field", "message"),
    [
        ("gsm8k", {"q": "?", "a": "no mark"}, "question=q,answer=a", "a", ".* It is read as answer"),
        (
            "stepwise",
            {"q": "?", "parts": ["a", "b"], "marks": [True, 2]},
            "prompt=q,completions=parts,labels=marks",
            "marks[1]",
            "expected true, .* got 2. It is read as labels",
        ),
        (
            "solutions",
            {"problem_id": "p", "prompt": "?", "text": "a", "gold": 4},
            "completion=text,reference=gold",
            "gold",
            "expected text, got 4. It is read as reference",
        ),
        (
            "solutions",
            {"problem_id": "p", "prompt": "?", "text": "a", "reference": "", "cut": [[0, 9]]},
            "completion=text,steps=cut",
            "cut",
            r"span \[0, 9\] is out of order .* It is read as steps",
        ),
        (
            "prm800k",
            PRM800K | {"verdict": {"finish_reason": "no", "steps": []}},
            "label=verdict",
            "verdict.finish_reason",
            ".* It is read as label",
        ),
        ("gsm8k", {"q": "?", "a": "#### 4"}, "question=q", "answer", "missing; this row has a, q"),
    ],
)
def test_a_fault_in_a_field_of_another_name_has_the_files_name(tmp_path, format, row, fields, field, message):
    write_rows(tmp_path / "x.jsonl", [row])
    with pytest.raises(DataError, match=message) as caught:
        list(read(format, tmp_path / "x.jsonl", fields=[fields]))
    assert (caught.value.row, caught.value.field) == (1, field)


def test_braces_in_a_question_are_text(tmp_path):
    write_rows(tmp_path / "x.jsonl", [{**ROW, "question": "What is {x} in {0}?"}])
    [solution] = read("gsm8k", tmp_path / "x.jsonl")
    assert "What is {x} in {0}?" in solution.prompt


def test_an_unknown_format_lists_the_known_ones(tmp_path):
    with pytest.raises(UserError, match=", ".join(FORMATS)):
        read("csv", tmp_path / "x.csv")


@pytest.mark.parametrize("format", FORMATS)
def test_a_missing_file_is_a_user_error(tmp_path, format):
    with pytest.raises(UserError, match="no such file"):
        list(read(format, tmp_path / "x.jsonl"))


GOOD, BAD = ROW, {"question": "How many?", "answer": "Four."}


def test_a_malformed_row_ends_the_reading_unless_it_is_skipped(tmp_path):
    path = tmp_path / "x.jsonl"
    write_rows(path, [GOOD, BAD, GOOD, {}])
    with path.open("ab") as file:
        file.write(b"{half\n[1]\n")
    report, listed = ReadReport(), []
    report.on_fault = listed.append
    solutions = list(read("gsm8k", path, on_bad_row="skip", report=report))
    assert [s.problem_id for s in solutions] == ["gsm8k-x-1", "gsm8k-x-3"]
    assert (report.rows, report.bad_rows) == ({str(path): 6}, 4)
    actual = [(fault.row, fault.field) for fault in report.faults]
    assert actual == [(2, "answer"), (4, "question"), (5, None), (6, None)]
    assert listed == report.faults
    with pytest.raises(DataError) as caught:
        list(read("gsm8k", path, on_bad_row="error"))
    assert caught.value.row == 2


def test_of_a_malformed_row_no_solution_is_taken(tmp_path):
    good = {"prompt": "p", "completions": ["a"], "labels": [1]}
    write_rows(tmp_path / "x.jsonl", [good, {**good, "labels": [2]}, good])
    solutions = list(read("stepwise", tmp_path / "x.jsonl", on_bad_row="skip"))
    assert [s.sample for s in solutions] == [0, 1]


def test_a_report_lists_the_first_faults_and_counts_all(tmp_path):
    write_rows(tmp_path / "x.jsonl", [BAD] * 30)
    report = ReadReport()
    assert list(read("gsm8k", tmp_path / "x.jsonl", on_bad_row="skip", report=report)) == []
    assert (report.bad_rows, len(report.faults)) == (30, 20)


def test_on_bad_row_is_one_of_two(tmp_path):
    with pytest.raises(UserError, match="choose error or skip"):
        read("gsm8k", tmp_path, on_bad_row="ignore")


@pytest.mark.parametrize("format", FORMATS)
def test_an_option_that_the_format_does_not_have_is_an_error(tmp_path, format):
    with pytest.raises(UserError, match=f"nonsense: the format '{format}' has no such option"):
        read(format, tmp_path, nonsense=1)


def test_the_formats_options():
    assert {format: options_of(format) for format in FORMATS} == {
        "solutions": (),
        "gsm8k": ("prompt",),
        "math": ("prompt",),
        "prm800k": ("prompt", "separator", "keep"),
        "math_shepherd": ("prompt", "separator", "tag", "first_step"),
        "stepwise": ("prompt", "separator", "close_last"),
        "processbench": ("prompt", "separator"),
        "prmbench": ("prompt", "separator"),
        "rlhflow": ("prompt", "separator", "first_step"),
        "versaprm": ("prompt", "separator"),
    }


def test_every_published_gsm8k_solution_is_graded_as_right(gsm8k_dir):
    solutions = list(read("gsm8k", gsm8k_dir / "test.jsonl"))
    assert len(solutions) == 1319
    assert all(is_correct(s.completion, s.reference) for s in solutions)
    neighbours = zip(solutions, solutions[1:], strict=False)
    assert all(
        is_correct(a.completion, b.reference)
        == (extract(a.completion).replace(",", "") == b.reference.replace(",", ""))
        for a, b in neighbours
    )
