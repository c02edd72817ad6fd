"""Grading of published rows, against the labels that came with them, and of ways to write their references."""

import json
from collections import Counter
from pathlib import Path

import pytest

from rlstep.steps.answers import GRADER, extract, group_by_value, is_correct, same_answer
from tests.steps.equal_forms import equal_forms, unequal_forms


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def graded(real_data) -> list[dict]:
    return rows_of(real_data / "best_of_n" / "math500_500x32_scores.jsonl")


@pytest.fixture(scope="module")
def references(graded) -> list[str]:
    return list(dict.fromkeys(row["reference"] for row in graded))


def test_sixteen_thousand_answers_are_graded_as_their_labels_say(graded):
    """All but 17 rows, each looked at: in 11 the label is wrong, in 6 the base is left out, which is another number."""
    pairs = Counter((row["answer"], row["reference"], row["correct"]) for row in graded)
    failed = GRADER.counts()
    wrong = {
        (answer, reference): count
        for (answer, reference, correct), count in pairs.items()
        if (answer is not None and same_answer(answer, reference)) != correct
    }
    assert wrong == {
        (r"12^{\text{th}}", "12"): 3,
        (r"12^{\text{th}} \text{ grade}", "12"): 3,
        (r"\text{12th grade}", "12"): 1,
        (r"4 \sin 80^\circ - \tan 80^\circ", r"-\sqrt{3}"): 1,
        (r"\frac{\sin 80^\circ (4 \cos 80^\circ - 1)}{\cos 80^\circ}", r"-\sqrt{3}"): 3,
        ("2516", "2516_8"): 1,
        ("4210", "4210_{5}"): 1,
        ("4343", "4343_6"): 4,
    }
    assert GRADER.counts() == failed


def test_a_vote_by_value_unites_spellings(graded):
    """Of 50 problems; by a grader that takes 4343 for 4343_6, and no radians for degrees, they are 51."""
    answers = {}
    for row in graded:
        answers.setdefault(row["problem_id"], []).append(row["answer"])
    groups = {problem: group_by_value(texts) for problem, texts in answers.items()}
    united = [name for name, texts in answers.items() if len(set(groups[name])) < len(set(texts))]
    assert len(united) == 50
    grades = ["12", r"12\text{th}", r"12\text{th grade}", "12th", r"12^{\text{th}}", r"12^{\text{th}} \text{ grade}"]
    assert {groups["math500_379"][answers["math500_379"].index(text)] for text in grades} == {0}


@pytest.mark.parametrize(("forms", "same"), [(equal_forms, True), (unequal_forms, False)])
def test_ways_to_write_a_reference_are_told_from_changes_to_it(references, forms, same):
    made = [(kind, text, reference) for reference in references for kind, text in dict.fromkeys(forms(reference))]
    wrong = [row for row in made[:: 1 if same else 3] if same_answer(*row[1:]) != same]
    assert len(made) > 3500
    assert not wrong


def test_references_of_different_problems_are_the_same_only_by_value(references):
    """Every reference against every other, in neighbouring hundreds of an ordering by their text."""
    same = {
        frozenset((left, right))
        for k, left in enumerate(sorted(references))
        for right in sorted(references)[k + 1 : k + 100]
        if same_answer(left, right)
    }
    known = [
        ("(-2,1)", "-2,1"),
        ("-2,1", "1,-2"),
        (r"10,\!080", "10080"),
        (r"\frac{1}{4}", r"\frac14"),
        ("30", r"30^\circ"),
    ]
    known += [("120", r"120^\circ"), ("15", r"15\mbox{ cm}^2"), (r"2 \sqrt{5}", r"2\sqrt{5}"), (r"\$36", "36")]
    known += [("36", r"36^\circ"), ("90", r"90^\circ")]
    assert same == set(map(frozenset, known))


def test_the_final_answers_of_prm800k_are_found_and_right(real_data):
    """Of 90 finished solutions 88; 4210 for 4210_5 states no base, and 585000 is not 58,500."""
    outcomes, wrong = Counter(), []
    for row in rows_of(real_data / "prm800k" / "phase1_test_106.jsonl"):
        solution, reference = "\n".join(map(chosen, row["label"]["steps"])), row["question"]["ground_truth_answer"]
        finished, right = row["label"]["finish_reason"] == "solution", is_correct(solution, reference)
        outcomes[finished, right] += 1
        if finished and not right:
            wrong.append((extract(solution), reference))
    assert outcomes == {(True, True): 88, (True, False): 2, (False, False): 16}
    assert sorted(wrong) == [("4210", "4210_{5}"), ("585000", "58,500")]


def chosen(step: dict) -> str:
    if step["chosen_completion"] is None:
        return (step["human_completion"] or {}).get("text") or ""
    return step["completions"][step["chosen_completion"]]["text"]


FORMS = ["**Answer:** {}", "Answer: **{}**", "### Answer: ${}$", "The answer is {} apples.", "# Answer\n\n{}"]
FORMS += ["So the final answer is: \\boxed{{{}}}", "#### Step 3: Add\nIt is so.\n\nThe answer is: **{} dollars**."]


def test_every_solution_of_gsm8k_is_right_however_it_states_its_answer(gsm8k_dir):
    rows = rows_of(gsm8k_dir / "train.jsonl") + rows_of(gsm8k_dir / "test.jsonl")
    assert len(rows) == 8792
    for row in rows:
        reference = row["answer"].split("#### ")[1]
        assert is_correct(row["answer"], reference)
        assert not is_correct(row["answer"] + "1", reference)
        for form in FORMS:
            assert is_correct(form.format(reference), reference)
