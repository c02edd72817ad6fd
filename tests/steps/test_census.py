"""What is counted of solutions, against counts made by hand."""

from collections import Counter

from rlstep.steps.census import Census, readable, table
from rlstep.steps.readers import ReadReport
from rlstep.steps.records import Solution


def solution(labels, **given):
    steps = [(2 * k, 2 * k + 2) for k in range(len(labels))]
    text = "".join(f"{letter}\n" for letter in "abcdef"[: len(labels)])
    return Solution("p", "What?\n", text, "1", steps=steps, labels=labels, **given)


def census_of(*solutions) -> Census:
    census = Census()
    for s in solutions:
        census.add(s)
    return census


def test_steps_are_counted_by_what_their_label_says():
    census = census_of(solution([1, 0, 0.5, None, None, 1.0], neutral=[3], correct=True), solution([0.0, None]))
    assert census.steps == {"right": 2, "wrong": 2, "soft": 1, "neutral": 1, "unknown": 2}
    assert census.answers == {"right": 1, "wrong": 0, "unknown": 1}


def test_the_beginning_that_a_branch_shares_is_not_counted_again():
    path = solution([1, None, 1], tree="t")
    branches = [solution([1, None, 0], tree="t"), solution([1, None], neutral=[1], tree="t")]
    census = census_of(path, *branches, solution([None, 1], tree="u"))
    # The last step of a branch is its own, whatever its text.
    assert census.steps == {"right": 3, "wrong": 1, "soft": 0, "neutral": 1, "unknown": 2}
    assert census.shared_steps == 3
    assert (census.metrics()["trees"], census.metrics()["problems"]) == (2, 1)


def test_solutions_without_steps_or_labels_are_counted_too():
    unlabelled = solution([1, 1])
    unlabelled.labels = None
    census = census_of(unlabelled, Solution("q", "", "", "", finished=False, correct=False))
    assert census.steps["unknown"] == 2
    assert (census.solutions, census.finished, census.metrics()["problems"], census.answers["wrong"]) == (2, 1, 2, 1)


def test_the_table_has_a_line_for_every_count():
    report = ReadReport(rows=Counter({"a.jsonl": 6, "b.jsonl": 2}), dropped=Counter({"give_up": 2}), bad_rows=1)
    report.seen["finish reason: solution"] = 5
    lines = [" ".join(line.split()) for line in table(census_of(solution([1, 0, 0, 0])), report).splitlines()]
    assert lines == [
        "rows 8",
        "a.jsonl 6 75.0%",
        "b.jsonl 2 25.0%",
        "left out: give_up 2 25.0%",
        "malformed, skipped 1 12.5%",
        "finish reason: solution 5",
        "problems 1",
        "solutions 1",
        "finished 1 100.0%",
        "answer unknown 1 100.0%",
        "steps 4",
        "right 1 25.0%",
        "wrong 3 75.0%",
    ]


def test_a_solution_for_people():
    shown = readable(solution([1, 0.25, None, None], neutral=[2], tree="t", answer="1", correct=False))
    assert shown.splitlines() == [
        "--- p, sample 0, tree t, answer 1 (wrong)",
        "What?",
        "   right  a",
        "    0.25  b",
        " neutral  c",
        " unknown  d",
    ]
    without_steps = readable(Solution("p", "?", "a\nb", ""))
    assert without_steps.splitlines() == ["--- p, sample 0", "?", " " * 10 + "a", " " * 10 + "b"]


def test_of_a_chat_the_problem_is_shown():
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What?\n"}]
    plain = solution([1, 0])
    assert readable(Solution(**{**plain.to_row(), "prompt": chat})) == readable(plain)
