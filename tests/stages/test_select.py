import json
from dataclasses import replace
from pathlib import Path

import pytest

from rlstep.cli import main
from rlstep.runtime.errors import DataError, UserError
from rlstep.runtime.rows import write_rows
from rlstep.stages.select import SelectConfig, select
from rlstep.steps.records import Solution, read_solutions


def solution(problem: str, sample: int, probs: list[float], correct: bool | None = None, **more) -> Solution:
    """A solution of as many one-letter steps as there are probabilities, named by its letter."""
    text = chr(ord("a") + sample) * len(probs)
    given = {"answer": None if correct is None else "1", "scores": {"prm": probs}} | more
    steps = [(k, k + 1) for k in range(len(probs))]
    return Solution(problem, f"{problem}?", text, "1", sample, steps=steps, correct=correct, **given)


# In falling order of the product: p1 b (right), a (wrong), c (wrong), e (right), d (wrong).
POOL = [
    solution("p1", 0, [0.9, 0.9], False),
    solution("p1", 1, [0.99], True),
    solution("p1", 2, [0.9, 0.8, 0.9], False),
    solution("p1", 3, [0.1], False),
    solution("p1", 4, [0.6], True),
]


@pytest.fixture
def config(tmp_path):
    return configured(tmp_path, POOL)


def configured(tmp_path, solutions, **options) -> SelectConfig:
    data = tmp_path / "scored.jsonl"
    write_rows(data, (one.to_row() for one in solutions))
    options = {"per_problem": 2} | options if "budget" not in options else options
    return SelectConfig(data=str(data), out=str(tmp_path / "selected.jsonl"), **options)


def letters(config: SelectConfig) -> str:
    """The selected, each by the first letter of its text, in order."""
    return "".join(one.completion[0] for one in read_solutions(config.out))


def test_the_most_convincing_wrong_answers_and_the_best_of_the_rest(config):
    """One problem, so the quotas of wrong answers are floor(0.8 n + 1/2): 1, 2, 2, 3."""
    metrics = select(replace(config, per_problem=4))
    assert letters(config) == "acbd"
    assert metrics == {
        "rows": 5, "candidates": 5, "repeated": 0, "unanswered": 0, "cut": 0, "without_steps": 0, "problems": 1,
        "selected": 4, "steps_to_label": 2 + 3 + 1 + 1, "wrong_share": 3 / 4,
    }  # fmt: skip


def test_selected_rows_are_those_of_the_file(config):
    select(config)
    assert [one.to_row() for one in read_solutions(config.out)] == [POOL[0].to_row(), POOL[2].to_row()]
    record = json.loads(Path(config.out + ".run.json").read_text())
    assert (record["stage"], record["seed"], record["config"]["per_problem"]) == ("select", 0, 2)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"wrong_share": 0.0}, "ba"),
        ({"wrong_share": 0.5}, "ab"),
        ({"wrong_share": 1.0, "per_problem": 3}, "acd"),
        ({"aggregate": "minimum"}, "ac"),
        ({"strategy": "uncertainty"}, "ec"),
        ({"score": "other"}, "da"),
    ],
)
def test_settings_change_what_is_selected(tmp_path, options, expected):
    pool = [replace(one, scores=one.scores | {"other": [p / 2] * len(one.steps)}) for one, p in zip(
        POOL, (0.5, 0.1, 0.2, 0.9, 0.3), strict=True)]  # fmt: skip
    config = configured(tmp_path, pool, **options)
    select(config)
    assert letters(config) == expected


def test_an_ensemble_is_uncertain_where_it_disagrees(tmp_path):
    pool = [
        solution("p", 0, [0.5], scores={"prm": [0.5], "more": [0.5]}),
        solution("p", 1, [0.9], scores={"prm": [0.9], "more": [0.5]}),
    ]
    config = configured(tmp_path, pool, strategy="uncertainty", ensemble=["more"])
    select(config)
    assert letters(config) == "ba"
    select(replace(config, ensemble=None))
    assert letters(config) == "ab"


def test_problems_take_turns_and_a_smaller_budget_is_a_beginning(tmp_path):
    pool = [solution(f"p{number}", sample, [0.5] * 3, sample % 2 == 0) for number in range(6) for sample in range(4)]
    config = configured(tmp_path, pool, budget=1000)
    select(config)
    whole = [(one.problem_id, one.sample) for one in read_solutions(config.out)]
    assert len(whole) == 24
    assert all(len({name for name, _ in whole[start : start + 6]}) == 6 for start in (0, 6, 12, 18))
    metrics = select(replace(config, budget=3 * 7 + 2))
    assert [(one.problem_id, one.sample) for one in read_solutions(config.out)] == whole[:7]
    assert (metrics["selected"], metrics["steps_to_label"]) == (7, 21)


def test_the_share_of_wrong_answers_is_kept_with_one_of_each_problem(tmp_path):
    """Ten problems, one solution each: eight are wrong answers, two the most convincing of all, which are right."""
    pool = [one for n in range(10) for one in (solution(f"p{n}", 0, [0.9], True), solution(f"p{n}", 1, [0.5], False))]
    assert select(configured(tmp_path, pool, per_problem=1))["wrong_share"] == 0.8


def test_labels_that_are_known_cost_what_they_cost(tmp_path):
    pool = [replace(solution("p", 0, [0.5] * 4, False), labels=[1, 0, None, None])]
    assert select(configured(tmp_path, pool))["steps_to_label"] == 2


def test_two_problems_under_one_id_are_refused(tmp_path):
    """They would share the places of one problem. The same answer in another form is the same problem's."""
    same = [solution("p1", 0, [0.5], True, answer="1"), replace(solution("p1", 1, [0.4], False), reference="1.0")]
    assert select(configured(tmp_path, same))["problems"] == 1
    other = replace(solution("p1", 2, [0.5], False), reference="7")
    with pytest.raises(DataError, match=r"row 3, field 'reference': '7', and earlier rows of problem 'p1' have '1'"):
        select(configured(tmp_path, [*same, other]))


def test_equal_solutions_are_one_candidate(tmp_path):
    pool = [*POOL, replace(POOL[0], sample=7), replace(POOL[0], problem_id="p2")]
    config = configured(tmp_path, pool, per_problem=2)
    metrics = select(config)
    assert (metrics["repeated"], metrics["candidates"]) == (1, 6)
    assert sorted(letters(config)) == ["a", "a", "c"]
    select(replace(config, repeats="all"))
    assert sorted(letters(config)) == ["a", "a", "a"]


def test_copies_of_a_text_are_as_likely_as_the_text_was_sampled(tmp_path):
    """Of each of 200 problems one solution was sampled nine times, another once: one in ten, -/+ 3 standard errors."""
    pool = [
        replace(solution(f"p{number}", 0, [0.5], False), sample=sample, completion="r" if sample == 4 else "o")
        for number in range(200)
        for sample in range(10)
    ]
    config = configured(tmp_path, pool, strategy="uniform", repeats="all", per_problem=1)
    select(config)
    rare = letters(config).count("r")
    assert 20 - 13 <= rare <= 20 + 13


def test_solutions_that_state_no_answer_are_left_out(tmp_path):
    cut_off = solution("p1", 6, [0.999], False, answer=None, finished=False)
    config = configured(tmp_path, [*POOL, cut_off])
    assert select(config)["unanswered"] == 1
    assert letters(config) == "ac"
    select(replace(config, unanswered="keep"))
    assert letters(config) == "ga"


def test_solutions_that_did_not_fit_into_the_verifier_are_left_out(tmp_path):
    pool = [solution("p", 0, [0.9, None], False), solution("p", 1, [0.2, 0.2], False)]
    config = configured(tmp_path, pool)
    assert select(config)["cut"] == 1
    assert letters(config) == "b"
    assert select(replace(config, strategy="uniform"))["cut"] == 0


def test_the_seed_decides_between_equals(tmp_path):
    pool = [solution(f"p{n}", sample, [0.5], False) for n in range(4) for sample in range(4)]
    config = configured(tmp_path, pool)

    def chosen(seed: int, **options) -> list:
        select(replace(config, seed=seed, **options))
        return [(one.problem_id, one.sample) for one in read_solutions(config.out)]

    for options in ({}, {"strategy": "uniform"}):
        assert chosen(0, **options) == chosen(0, **options) != chosen(1, **options)
    # Not the order of the rows, either.
    before = chosen(0)
    write_rows(config.data, (one.to_row() for one in reversed(pool)))
    assert chosen(0) == before


def test_uniform_needs_neither_scores_nor_correctness(tmp_path):
    pool = [solution("p", sample, [0.5], scores={}) for sample in range(4)]
    assert select(configured(tmp_path, pool, strategy="uniform", per_problem=3))["selected"] == 3


def test_uniform_is_uniform(tmp_path):
    pool = [solution(f"p{n}", sample, [0.5], scores={}) for n in range(400) for sample in range(4)]
    config = configured(tmp_path, pool, strategy="uniform", per_problem=1)
    select(config)
    counts = [sum(one.sample == sample for one in read_solutions(config.out)) for sample in range(4)]
    assert all(abs(count - 100) < 40 for count in counts)  # 4.6 standard deviations


def test_answers_are_graded_where_a_task_is_given(tmp_path):
    """The scores say that the wrong one is less convincing; the labels of no step are touched."""
    texts = ("7 + 3 = 10\nAnswer: 10", "7 + 3 = 11\nAnswer: 11")
    pool = [
        Solution("p", "Left to right, mod 20: 7 + 3\n", text, "10", sample, steps=[(0, 11), (11, len(text))],
                 scores={"prm": [p, p]})
        for sample, (text, p) in enumerate(zip(texts, (0.9, 0.5), strict=True))
    ]  # fmt: skip
    config = configured(tmp_path, pool, per_problem=1, wrong_share=1.0)
    with pytest.raises(DataError, match=r"row 1, field 'correct': is null, and wrong answers .* \(task: answers"):
        select(config)
    select(replace(config, task="answers"))
    (chosen,) = read_solutions(config.out)
    assert (chosen.sample, chosen.answer, chosen.correct, chosen.labels) == (1, "11", False, None)


def test_a_run_of_before_is_not_taken_over(config):
    select(config)
    before = letters(config)
    select(replace(config, wrong_share=0.0))
    assert letters(config) != before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strategy": "best"}, "strategy is 'best'; it must be one of convincing, uncertainty, uniform"),
        ({"budget": 0}, "budget is 0; it must be at least 1"),
        ({"per_problem": 0}, "per_problem is 0; it must be at least 1"),
        ({"per_problem": None}, "per_problem and budget are null; give one"),
        ({"wrong_share": 1.1}, "wrong_share is 1.1; it must be at least 0 and at most 1"),
        ({"strategy": "uniform", "wrong_share": 0.5}, "strategy is 'uniform', so wrong_share would do nothing"),
        ({"strategy": "uniform", "score": "x"}, "strategy is 'uniform', so score would do nothing"),
        ({"strategy": "uncertainty", "aggregate": "mean"}, "so aggregate would do nothing"),
        ({"ensemble": ["x"]}, "strategy is 'convincing', so ensemble would do nothing"),
        ({"strategy": "uncertainty", "ensemble": ["prm"]}, "name each of the scores once"),
        ({"task": "arithmetics"}, "task 'arithmetics'|'arithmetics'"),
        ({"grader": "number"}, "so grader would do nothing"),
        ({"out": "selected.parquet"}, "out is selected.parquet; its rows are JSON"),
    ],
)
def test_settings_that_make_no_sense_are_refused(config, options, message):
    with pytest.raises(UserError, match=message):
        replace(config, **options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": {"orm": [0.5]}}, r"row 2, field 'scores.prm': missing \(scores present: orm\); run `rlstep score"),
        ({"correct": None}, "row 2, field 'correct': is null"),
        ({"scores": {"prm": [2.0]}}, "row 2, field 'scores.prm': step 0 has p=2.0"),
        ({"steps": None, "scores": {}}, "row 2, field 'steps': is null"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(tmp_path, changes, message):
    config = configured(tmp_path, [POOL[0], replace(solution("p", 1, [0.5], True), **changes)])
    with pytest.raises(DataError, match=message):
        select(config)


def test_a_budget_below_the_first_solution_is_refused(tmp_path):
    config = configured(tmp_path, [solution("p", 0, [0.5] * 4, False)], budget=3)
    with pytest.raises(UserError, match="budget is 3, and the first solution to be labelled has 4 steps"):
        select(config)


def test_a_file_without_candidates_is_refused(tmp_path):
    pool = [solution("p", 0, [0.5], False, answer=None), solution("p", 1, [], False)]
    pool.append(solution("p", 2, [0.5, None], False, answer="1"))
    reasons = "Without an answer: 1 .*; without steps: 1; with a step without a score, .*: 1"
    with pytest.raises(UserError, match=f"of 3 solutions, none is a candidate. {reasons}"):
        select(configured(tmp_path, pool))


def test_the_command_says_what_it_selected(config, capsys):
    assert main(["select", "--data", config.data, "--out", config.out, "--budget", "6"]) == 0
    assert "selected 3, steps_to_label 6" in capsys.readouterr().out
    assert main(["select", "--data", config.data, "--out", config.out, "--budget", "0"]) == 2
    assert "budget is 0; it must be at least 1" in capsys.readouterr().err
