"""The task `answers`: each grader against answers judged by hand."""

import pytest

from rlstep.runtime.errors import UserError
from rlstep.tasks import get
from rlstep.tasks.answers import Answers


@pytest.mark.parametrize(
    ("grader", "completion", "reference", "answer", "correct"),
    [
        ("math", r"So it is $\boxed{\frac12}$.", "0.5", r"\frac12", True),
        ("math", "I think 5", "5", None, False),
        ("number", "They have 3 + 4 = 7 eggs, that is 1,250 in all.", "1250", "1,250", True),
        ("number", "Answer: 7 dollars", "7", "7 dollars", True),
        ("number", "the answer is big: 5-3 gives 2.0.", "2", "2.0", True),
        ("number", "7 and then 8", "7", "8", False),
        ("number", "none", "7", None, False),
        ("number", "so it is 3.0 × 10^4", "30000", "3.0 × 10^4", True),
        ("number", r"so it is $3 \times 10^{4}$", "30000", r"3 \times 10^{4}", True),
        ("number", "x = 3e4", "30000", "3e4", True),
        ("number", "The answer is 12 (not 13).", "12", "12", True),
        ("number", "The answer is 6 * 7 = 42. I had 3 tries.", "42", "42", True),
        ("number", "Answer: 42 apples. That took 3 steps.", "42", "42 apples", True),
        ("choice", "Therefore, option (B) is correct.", "B", "(B)", True),
        ("choice", r"\boxed{\text{B. Paris}}", "B", r"\text{B. Paris}", True),
        ("choice", "It is clear.\n(b)", "B", "(b)", True),
        ("choice", "Answer: (B)", "B", "(B)", True),
        ("choice", "A) is too small.\nThe answer is b.", "(B)", "b", True),
        ("choice", "Thinking.\nC", "C", "C", True),
        ("choice", "Answer: (B)", "A", "(B)", False),
        ("choice", "it is hard", "A", None, False),
        ("exact", "Let me see.\n  New   York ", "New York", "New   York", True),
        ("exact", "Answer: new york", "New York", "new york", False),
        ("exact", "Answer: 0.5", "1/2", "0.5", False),
        ("exact", "", "x", None, False),
    ],
)
def test_graders_read_and_compare_in_their_own_way(grader, completion, reference, answer, correct):
    check = Answers(grader=grader).check("p", completion, reference)
    assert (check.answer, check.correct) == (answer, correct)
    assert len(check.labels) == len(check.steps)
    # The answer's own step is labelled by it, and no other is.
    assert [label for label in check.labels if label is not None] == ([int(correct)] if answer is not None else [])


def test_the_last_match_of_the_pattern_is_the_answer_and_goes_by_value():
    task = Answers(grader="regex", pattern=r"<answer>(.*?)</answer>")
    check = task.check("p", "<answer>3</answer>\nno:\n<answer> 0.5 </answer>\ndone", "1/2")
    assert (check.answer, check.correct, check.labels) == ("0.5", True, [None, None, 1, None])
    assert task.check("p", "0.5", "1/2").answer is None


def test_a_pattern_that_takes_exponential_time_is_stopped(no_hang, monkeypatch, caplog):
    monkeypatch.setattr("rlstep.tasks.answers.SEARCH_SECONDS", 0.05)
    check = Answers(grader="regex", pattern=r"((?:a|aa)+)$").check("p", "a" * 60 + "b", "1")
    assert (check.answer, check.correct) == (None, False)
    assert "answer_pattern took more than 0.05 s" in caplog.text


@pytest.mark.parametrize(("pattern", "message"), [("(", "no regular expression"), ("a+", "needs a group")])
def test_a_pattern_without_a_group_is_refused(pattern, message):
    with pytest.raises(UserError, match=message):
        Answers(grader="regex", pattern=pattern)


@pytest.mark.parametrize("grader", ["math", "number", "choice", "exact"])
@pytest.mark.parametrize(
    "completion", ["9" * 6000, "Answer: " + "9" * 6000, "\\boxed{" * 500, "\n\n", "A" * 5000, "\x00"]
)
def test_no_completion_raises(grader, completion, no_hang):
    assert Answers(grader=grader).check("p", completion, "7" if grader == "number" else "B").correct is False


@pytest.mark.parametrize(("grader", "reference"), [("number", "several"), ("choice", "7 eggs")])
def test_a_reference_that_the_grader_cannot_read_is_an_error(grader, reference):
    with pytest.raises(ValueError, match=f"is no {grader}"):
        Answers(grader=grader).check("p", "", reference)


@pytest.mark.parametrize("name", ["answers", "math", "gsm8k"])
def test_a_whole_solution_is_no_reference(name):
    """Graded by it, every answer would be wrong."""
    task = get(name)
    for reference in ("They earn 9 * 2.\n#### 18", r"It is $9 \cdot 2 = \boxed{18}$.", "The answer is 18."):
        with pytest.raises(ValueError, match="states the answer '18' and is no answer itself"):
            task.check("p", "Answer: 18", reference)
    for reference in (r"\boxed{18}", r"$\boxed{18}$", "$18$", "**18**"):
        assert task.check("p", "Answer: 18", reference).correct
