"""Published rows as they are, against counts and trajectories made here from the raw JSON."""

import json
import re
from collections import Counter

import pytest

from rlstep.core.first_error import processbench_f1
from rlstep.stages.data import DataConfig, data
from rlstep.steps.census import Census
from rlstep.steps.labels import UNKNOWN, LabelPolicy
from rlstep.steps.readers import ReadReport, read
from rlstep.steps.trees import Beginnings
from rlstep.verifiers.metrics import RowScores, step_metrics

PRM800K = ("phase1_rows", "phase2_rows", "phase1_test_106")
ALL = ("quality_control", "screening", "give_up", "bad_problem")


def raw(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def steps_of(rows) -> list[dict]:
    return [step for row in rows for step in row["label"]["steps"]]


@pytest.mark.parametrize("name", PRM800K)
def test_every_rating_of_prm800k_counts_once(real_data, name):
    path = real_data / "prm800k" / f"{name}.jsonl"
    steps = steps_of(raw(path))
    ratings = Counter(one["rating"] for step in steps for one in step["completions"] or [])
    written = sum(step["human_completion"] is not None for step in steps)
    report, census = ReadReport(), Census()
    for solution in read("prm800k", path, keep=ALL, report=report):
        census.add(solution)
    # What the labeler wrote counts as right.
    assert census.steps["right"] == ratings[1] + written
    assert (census.steps["wrong"], census.steps["neutral"]) == (ratings[-1], ratings[0])
    assert report.seen["alternative without a rating"] + census.steps["unknown"] == ratings[None]
    assert report.seen["step written by the labeler"] == written
    if name == "phase1_test_106":
        assert (ratings[1] + written, ratings[-1], ratings[0], ratings[None], written) == (2502, 1970, 867, 110, 257)


@pytest.mark.parametrize("name", PRM800K)
def test_what_prm800k_teaches_is_every_label_once(real_data, name):
    path = real_data / "prm800k" / f"{name}.jsonl"
    policy, beginnings, taught = LabelPolicy(neutral="class", after_first_error="keep"), Beginnings(), Counter()
    for solution in read("prm800k", path, keep=ALL):
        taught.update(policy.targets(solution)[beginnings.take(solution) :])
    steps = steps_of(raw(path))
    ratings = Counter(one["rating"] for step in steps for one in step["completions"] or [])
    written = sum(step["human_completion"] is not None for step in steps)
    del taught[UNKNOWN]
    assert taught == {1: ratings[1] + written, 0: ratings[-1], 2: ratings[0]}


def trajectories(row) -> list[list[tuple[str, int | None]]]:
    """(text, rating) of the steps of each labelled trajectory of a raw row, none the beginning of another."""
    path, actual = [], []
    for step in row["label"]["steps"]:
        offered = [(one["text"].strip(), one["rating"]) for one in step["completions"] or []]
        chosen = step["chosen_completion"]
        if step["human_completion"] is not None:
            offered.append((step["human_completion"]["text"].strip(), 1))
            chosen = len(offered) - 1 if chosen is None else chosen
        actual += [[*path, one] for k, one in enumerate(offered) if k != chosen and one[1] is not None]
        if chosen is None:
            break
        path = [*path, offered[chosen]]
    longest = max(map(len, actual), default=0)
    return actual if longest > len(path) else [path, *actual]


def first_wrong(steps) -> int:
    return next((k for k, (_, rating) in enumerate(steps) if rating == -1), -1)


@pytest.mark.parametrize("name", PRM800K)
def test_a_constant_score_finds_no_first_error(real_data, name):
    """It is right of the trajectories without an error, and of no other: 1.0 on phase 2 would be every error missed."""
    path = real_data / "prm800k" / f"{name}.jsonl"
    rows = [row for row in raw(path) if row["label"]["finish_reason"] in ("solution", "found_error")]
    rows = [row for row in rows if not (row["is_quality_control_question"] or row["is_initial_screening_question"])]
    expected = [one for row in rows for one in trajectories(row)]
    solutions = list(read("prm800k", path))
    assert sorted([text.strip() for text in s.step_texts] for s in solutions) == sorted(
        [text for text, _ in one] for one in expected
    )
    beginnings, scored = Beginnings(), []
    for s in solutions:
        shared = beginnings.take(s)
        scored.append(RowScores([0.9] * len(s.steps), LabelPolicy().targets(s), s.problem_id, shared))
    judged = [row.first_error for row in scored]
    assert Counter(judged) == Counter(map(first_wrong, expected))
    without = judged.count(-1) / len(judged)
    assert 0 < without < 1
    assert step_metrics(scored)["first_error_exact"] == pytest.approx(without)
    bench = processbench_f1([(row.probs, row.first_error) for row in scored], 0.5)
    assert (bench.f1, bench.accuracy_on_errors, bench.accuracy_on_correct) == (0, 0, 1)


def test_prm800ks_answers_are_graded_by_the_reference(real_data):
    path = real_data / "prm800k" / "phase1_test_106.jsonl"
    assert data(DataConfig("prm800k", str(path)))["answers"]["right"] == 0
    answers = data(DataConfig("prm800k", str(path), grade=True))["answers"]
    assert answers["unknown"] == 0
    assert answers["right"] >= 90
    assert answers["wrong"] > 0


def test_every_sign_of_math_shepherd_is_a_label(real_data):
    path = real_data / "math_shepherd" / "rows.jsonl"
    rows, solutions = raw(path), list(read("math_shepherd", path))
    assert len(solutions) == len(rows) == 7
    for row, solution in zip(rows, solutions, strict=True):
        signs = re.findall(r"([+-])\s*(?=\n|$)", row["label"])
        assert solution.labels == [{"+": 1, "-": 0}[sign] for sign in signs]
        assert len(solution.steps) == row["input"].count("ки")
        assert solution.prompt.strip() + " " + solution.completion == row["input"].replace(" ки", "").strip()


def test_every_row_of_gsm8k_is_read(gsm8k_dir):
    for split in ("train", "test"):
        rows = raw(gsm8k_dir / f"{split}.jsonl")
        solutions = list(read("gsm8k", gsm8k_dir, split=split))
        assert [s.completion for s in solutions] == [row["answer"].rstrip() for row in rows]
        assert [s.reference for s in solutions] == [row["answer"].split("####")[1].strip() for row in rows]
