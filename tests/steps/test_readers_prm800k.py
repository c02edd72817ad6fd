"""PRM800K's schema and its traps: rows written by hand from the published schema, solutions worked out by hand."""

import copy

import pytest

from rlstep.runtime.errors import DataError, UserError
from rlstep.runtime.rows import write_rows
from rlstep.steps.labels import LabelPolicy
from rlstep.steps.readers import ReadReport, read
from rlstep.steps.trees import Beginnings


def step(*completions, chosen=None, human=None):
    """One labelled step: completions are (text, rating) or (text, rating, flagged)."""
    named = [dict(zip(("text", "rating", "flagged"), (*c, None)[:3], strict=True)) for c in completions]
    return {"completions": named, "human_completion": human, "chosen_completion": chosen}


def row(*steps, reason="solution", problem="What is 2 + 3 * 4?", answer="14", **flags):
    return {
        "labeler": "340d89bc", "timestamp": "2023-01-22T04:34:27.052924", "generation": 9,
        "is_quality_control_question": flags.get("quality_control", False),
        "is_initial_screening_question": flags.get("screening", False),
        "question": {
            "problem": problem, "ground_truth_solution": "...", "ground_truth_answer": answer,
            "pre_generated_steps": ["..."], "pre_generated_answer": "15", "pre_generated_verifier_score": 0.01,
        },
        "label": {"steps": list(steps), "total_time": 278270, "finish_reason": reason},
    }  # fmt: skip


WORKED = row(
    step(("3 * 4 = 12", 1), chosen=0),
    step(("Let me think.", 0), chosen=0),
    step(("2 + 12 = 14\n\n# Answer\n\n14", 1), chosen=0),
)
# Two alternatives at each of two steps, then an error that nobody was asked to continue.
BRANCHING = row(
    step(("a1", 1), ("a2", -1), chosen=0),
    step(("b1", -1), ("b2", 0), ("b3", 1), chosen=2),
    step(("c1", -1), ("c2", -1)),
    reason="found_error",
)


def solutions_of(tmp_path, *rows, name="phase2_train.jsonl", **options):
    write_rows(tmp_path / name, rows)
    return list(read("prm800k", tmp_path / name, **options))


def test_a_chosen_path_is_a_solution(tmp_path):
    [solution] = solutions_of(tmp_path, WORKED)
    assert solution.prompt == "What is 2 + 3 * 4?\n"
    assert solution.completion == "3 * 4 = 12\nLet me think.\n2 + 12 = 14\n\n# Answer\n\n14"
    assert solution.step_texts == ["3 * 4 = 12\n", "Let me think.\n", "2 + 12 = 14\n\n# Answer\n\n14"]
    assert (solution.labels, solution.neutral) == ([1, None, 1], [1])
    # The finish reason "solution" does not say that the answer is right: that is up to the reference.
    assert (solution.reference, solution.answer, solution.correct) == ("14", "14", None)
    assert (solution.finished, solution.sample) == (True, 0)


def test_alternatives_follow_the_chosen_steps_and_are_never_recombined(tmp_path):
    actual = {s.completion: (s.labels, s.neutral) for s in solutions_of(tmp_path, BRANCHING)}
    # After each beginning each rated step that was not chosen: 5 solutions, each with all its labels. The chosen path
    # a1 b3 is no solution of its own: it goes on to c1. The Cartesian product would have 2 * 3 * 2 = 12 solutions,
    # among them a2 b1, which nobody labelled.
    assert actual == {
        "a1\nb3\nc1\n": ([1, 1, 0], None),
        "a2\n": ([0], None),
        "a1\nb1\n": ([1, 0], None),
        "a1\nb2\n": ([1, None], [1]),
        "a1\nb3\nc2\n": ([1, 1, 0], None),
    }


def test_a_row_of_phase_2_is_one_solution(tmp_path):
    steps = (step(("a", 1), chosen=0), step(("b", 0), chosen=0), step(("c", -1)))
    [solution] = solutions_of(tmp_path, row(*steps, reason="found_error"))
    assert (solution.completion, solution.labels, solution.neutral) == ("a\nb\nc\n", [1, None, 0], [1])
    assert not solution.finished


@pytest.mark.parametrize("order", [1, -1])
def test_every_rating_is_counted_once(tmp_path, order):
    beginnings, labels, neutral = Beginnings(), [], 0
    for solution in solutions_of(tmp_path, BRANCHING)[::order]:
        own = range(beginnings.take(solution), len(solution.steps))
        labels += [solution.labels[k] for k in own if solution.labels[k] is not None]
        neutral += sum(k in (solution.neutral or ()) for k in own)
    ratings = [r["rating"] for s in BRANCHING["label"]["steps"] for r in s["completions"]]
    assert sorted(labels) == sorted({-1: 0, 1: 1}[r] for r in ratings if r)
    assert neutral == ratings.count(0)


def test_alternatives_with_one_text_have_a_label_each(tmp_path):
    same = row(step(("a", 1), chosen=0), step(("b", -1), ("b", 0), ("b", -1)), reason="found_error")
    beginnings = Beginnings()
    assert [beginnings.take(s) for s in solutions_of(tmp_path, same)] == [0, 1, 1]


def test_a_trees_solutions_share_problem_and_tree_and_differ_in_sample(tmp_path):
    solutions = solutions_of(tmp_path, BRANCHING, WORKED, row(step(("x", 1), chosen=0), problem="Another?"))
    assert [s.tree for s in solutions] == ["prm800k-phase2_train-1"] * 5 + [
        "prm800k-phase2_train-2", "prm800k-phase2_train-3",
    ]  # fmt: skip
    assert [s.sample for s in solutions] == [0, 1, 2, 3, 4, 5, 0]
    assert len({s.problem_id for s in solutions[:6]}) == 1
    assert solutions[6].problem_id != solutions[0].problem_id


def test_a_problems_id_depends_on_its_text_alone(tmp_path):
    [first] = solutions_of(tmp_path, WORKED, name="a.jsonl")
    second = solutions_of(tmp_path, BRANCHING, name="b.jsonl", prompt="Q: {problem} A:")[0]
    assert first.problem_id == second.problem_id
    assert second.prompt == "Q: What is 2 + 3 * 4? A:"


def test_a_step_before_another_ends_in_a_separator_whether_its_labelling_went_on_or_not(tmp_path):
    # Else the last token of a rejected step would differ from that of a chosen one, and a model could learn that.
    solutions = solutions_of(tmp_path, BRANCHING, separator="\n\n")
    assert all(text.endswith("\n\n") for s in solutions for text in s.step_texts)
    assert not any(s.finished for s in solutions)


@pytest.mark.parametrize("rating", [1, -1])
def test_a_last_step_ends_without_a_separator_chosen_or_not(tmp_path, rating):
    last = step(("So 14.\n\n# Answer\n\n14", 1), ("So 15.\n\n# Answer\n\n15", rating), chosen=0)
    path, branch = solutions_of(tmp_path, row(step(("x", 1), chosen=0), last))
    assert path.step_texts[-1] == "So 14.\n\n# Answer\n\n14"
    assert branch.step_texts == ["x\n", "So 15.\n\n# Answer\n\n15"]
    assert (branch.finished, branch.answer, branch.correct) == (True, "15", None)


HUMAN = {"text": "2 + 12 = 14", "rating": None, "source": "human", "flagged": False, "corrected_rating": None}


@pytest.mark.parametrize(
    ("human", "label", "neutral"),
    [
        (HUMAN, 1, None),
        ("2 + 12 = 14", 1, None),
        ({**HUMAN, "rating": 1}, 1, None),
        ({**HUMAN, "rating": -1}, 0, None),
        ({**HUMAN, "rating": 0}, None, [1]),
    ],
)
def test_a_step_that_the_labeler_wrote_continues_the_path(tmp_path, human, label, neutral):
    steps = (step(("a", 1), chosen=0), step(("b1", -1), ("b2", -1), human=human), step(("c", 1), ("d", -1), chosen=0))
    path, *branches = solutions_of(tmp_path, row(*steps))
    assert path.completion == "a\n2 + 12 = 14\nc"
    assert (path.labels, path.neutral) == ([1, label, 1], neutral)
    assert [b.completion for b in branches] == ["a\nb1\n", "a\nb2\n", "a\n2 + 12 = 14\nd\n"]


def test_a_written_step_that_was_not_chosen_is_an_alternative(tmp_path):
    path, branch = solutions_of(tmp_path, row(step(("a", 1), human=HUMAN, chosen=0)))
    assert (path.completion, branch.completion, branch.labels) == ("a", "2 + 12 = 14\n", [1])


def test_without_a_chosen_step_the_path_ends(tmp_path):
    report = ReadReport()
    steps = (step(("a", 1), chosen=0), step(("b", -1)), step(("c", 1), chosen=0))
    [path] = solutions_of(tmp_path, row(*steps, reason="found_error"), report=report)
    assert (path.completion, path.labels) == ("a\nb\n", [1, 0])
    assert report.seen["step after the end of the path"] == 1


def test_a_path_before_unrated_steps_alone_is_a_solution(tmp_path):
    steps = (step(("a", 1), chosen=0), step(("b", None)))
    [path] = solutions_of(tmp_path, row(*steps, reason="found_error"))
    assert (path.completion, path.labels) == ("a\n", [1])


def test_an_error_in_the_first_step_leaves_no_path(tmp_path):
    [branch] = solutions_of(tmp_path, row(step(("a", -1)), reason="found_error"))
    assert (branch.completion, branch.labels) == ("a\n", [0])


def test_null_ratings_are_unknown_and_null_completions_are_none(tmp_path):
    report = ReadReport()
    end = {"completions": None, "human_completion": None, "chosen_completion": None}
    steps = (step(("a", None), ("b", None), ("c", -1), chosen=0), end)
    path, branch = solutions_of(tmp_path, row(*steps, reason="found_error"), report=report)
    assert (path.completion, path.labels, path.neutral) == ("a\n", [None], None)
    assert branch.completion == "c\n"
    assert report.seen["alternative without a rating"] == 1


def test_a_flagged_rating_is_kept_only_when_asked(tmp_path):
    flagged = row(step(("a", 1, True), ("b", 0, True), ("c", -1, False), chosen=0))
    report = ReadReport()
    path, branch = solutions_of(tmp_path, flagged, report=report)
    assert (path.labels, branch.completion) == ([None], "c\n")
    assert report.seen["flagged step"] == 2
    path, *branches = solutions_of(tmp_path, flagged, keep=("flagged",))
    assert (path.labels, [(b.labels, b.neutral) for b in branches]) == ([1], [([None], [0]), ([0], None)])


LEFT_OUT = {
    "quality_control": row(step(("a", 1), chosen=0), quality_control=True),
    "screening": row(step(("b", 1), chosen=0), screening=True),
    "give_up": row(step(("c", 1), chosen=0), reason="give_up"),
    "bad_problem": row(step(("d", 1), chosen=0), reason="bad_problem"),
}


def test_rows_that_the_paper_discards_are_left_out_and_counted(tmp_path):
    report = ReadReport()
    assert len(solutions_of(tmp_path, *LEFT_OUT.values(), WORKED, report=report)) == 1
    assert report.dropped == dict.fromkeys(LEFT_OUT, 1)
    assert report.seen["finish reason: give_up"] == 1


@pytest.mark.parametrize("why", LEFT_OUT)
def test_each_kind_of_row_can_be_kept(tmp_path, why):
    kept, _ = solutions_of(tmp_path, *LEFT_OUT.values(), WORKED, keep=(why,))
    assert kept.completion.strip() == LEFT_OUT[why]["label"]["steps"][0]["completions"][0]["text"]


def test_a_row_without_steps_is_left_out(tmp_path):
    report = ReadReport()
    assert solutions_of(tmp_path, row(reason="found_error"), report=report) == []
    assert report.dropped == {"no step": 1}


def test_an_unknown_word_in_keep_is_an_error(tmp_path):
    with pytest.raises(UserError, match="'giveup'; choose from quality_control"):
        solutions_of(tmp_path, WORKED, keep=("giveup",))


def changed(path: str, value):
    """WORKED with another value at a dotted path."""
    row = copy.deepcopy(WORKED)
    *keys, last = (int(k) if k.isdigit() else k for k in path.split("."))
    at = row
    for key in keys:
        at = at[key]
    if value is ...:
        del at[last]
    else:
        at[last] = value
    return row


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        ("question", ..., "question"),
        ("question", "What?", "question"),
        ("question.problem", " ", "question.problem"),
        ("question.ground_truth_answer", 14, "question.ground_truth_answer"),
        ("is_quality_control_question", None, "is_quality_control_question"),
        ("is_initial_screening_question", ..., "is_initial_screening_question"),
        ("label.finish_reason", "done", "label.finish_reason"),
        ("label.steps", {}, "label.steps"),
        ("label.steps.1", "Let me think.", "label.steps[1]"),
        ("label.steps.1.completions", ..., "label.steps[1].completions"),
        ("label.steps.1.completions.0.text", "", "label.steps[1].completions[0].text"),
        ("label.steps.1.completions.0.rating", 2, "label.steps[1].completions[0].rating"),
        ("label.steps.1.completions.0.rating", True, "label.steps[1].completions[0].rating"),
        ("label.steps.1.completions.0.rating", float("nan"), "label.steps[1].completions[0].rating"),
        ("label.steps.1.completions.0.rating", [1], "label.steps[1].completions[0].rating"),
        ("label.steps.1.completions.0.flagged", "no", "label.steps[1].completions[0].flagged"),
        ("label.steps.1.chosen_completion", 1, "label.steps[1].chosen_completion"),
        ("label.steps.1.chosen_completion", -1, "label.steps[1].chosen_completion"),
        ("label.steps.1.chosen_completion", False, "label.steps[1].chosen_completion"),
        ("label.steps.1.chosen_completion", ..., "label.steps[1].chosen_completion"),
        ("label.steps.1.human_completion", 3, "label.steps[1].human_completion"),
    ],
)
def test_a_malformed_row_is_named_down_to_the_field(tmp_path, path, value, field):
    with pytest.raises(DataError) as caught:
        solutions_of(tmp_path, WORKED, changed(path, value))
    assert (caught.value.row, caught.value.field) == (2, field)
    assert str(tmp_path / "phase2_train.jsonl") in str(caught.value)


def test_the_solutions_are_what_training_expects(tmp_path):
    path, *branches = solutions_of(tmp_path, BRANCHING)
    targets = LabelPolicy(neutral="class").targets
    assert targets(path) == [1, 1, 0]
    assert [targets(b) for b in branches] == [[0], [1, 0], [1, 2], [1, 1, 0]]


def test_supervision_ends_with_the_first_wrong_step_in_branches_too(tmp_path):
    # A path may go on after a step that a policy takes for wrong; so do the alternatives after it.
    solutions = solutions_of(tmp_path, row(step(("a", 0), chosen=0), step(("b", 1), ("c", 1), chosen=0)))
    assert [LabelPolicy(neutral="negative").targets(s) for s in solutions] == [[0, -1], [0, -1]]
