import json
from dataclasses import replace
from pathlib import Path

import pytest

from rlstep.runtime.errors import DataError, UserError
from rlstep.runtime.rows import write_rows
from rlstep.stages.label import LabelConfig, label
from rlstep.steps.records import Solution, read_solutions
from rlstep.supervision.checker import label_metrics
from rlstep.supervision.flips import flip_labels
from rlstep.tasks.increasing import Increasing

METRICS = {
    "rows", "steps", "labelled_steps", "step_accuracy", "accuracy", "clean_accuracy", "right_on_wrong_step",
    "unanswered", "unfinished",
}  # fmt: skip


@pytest.fixture
def config(tmp_path) -> LabelConfig:
    data = tmp_path / "samples.jsonl"
    write_rows(data, (solution.to_row() for solution in Increasing().demonstrations(30, seed=0)))
    return LabelConfig(data=str(data), out=str(tmp_path / "out" / "labelled.jsonl"), task="increasing")


def test_every_solution_comes_out_labelled_and_otherwise_as_it_was(config):
    label(config)
    before, after = read_solutions(config.data), read_solutions(config.out, need=("steps", "labels", "correct"))
    assert [(s.problem_id, s.sample, s.completion) for s in before] == [
        (s.problem_id, s.sample, s.completion) for s in after
    ]
    for solution in after:
        actual = Increasing().check(solution.prompt, solution.completion, solution.reference)
        assert (solution.steps, solution.labels) == (actual.steps, actual.labels)
        assert (solution.answer, solution.correct) == (actual.answer, actual.correct)


def test_the_record_beside_the_output_holds_config_and_metrics(config, tmp_path):
    metrics = label(config)
    record = json.loads((tmp_path / "out" / "labelled.jsonl.run.json").read_text())
    assert record["stage"] == "label"
    assert record["config"]["data"] == config.data
    assert record["metrics"] == metrics
    assert set(metrics) == METRICS


def test_a_share_of_the_step_labels_is_flipped_and_the_answers_stay(config, tmp_path):
    label(config)
    metrics = label(replace(config, flip=0.25, out=str(tmp_path / "flipped.jsonl")))
    exact, flipped = read_solutions(config.out), read_solutions(tmp_path / "flipped.jsonl")
    pairs = [pair for a, b in zip(exact, flipped, strict=True) for pair in zip(a.labels, b.labels, strict=True)]
    wrong = sum(a != b for a, b in pairs)
    # 5 standard deviations of a share of one quarter
    assert abs(wrong / len(pairs) - 0.25) < 5 * (0.25 * 0.75 / len(pairs)) ** 0.5
    assert {b for _, b in pairs} == {0, 1}
    assert [s.correct for s in exact] == [s.correct for s in flipped]
    assert metrics["step_accuracy"] == pytest.approx(sum(b for _, b in pairs) / len(pairs))
    again = tmp_path / "again.jsonl"
    label(replace(config, flip=0.25, out=str(again)))
    assert [s.labels for s in read_solutions(again)] == [s.labels for s in flipped]


def test_a_flip_depends_on_what_was_written_up_to_there_alone():
    def labels(completion, steps):
        return flip_labels(Solution("p", "1 + 1", completion, "2", steps=steps, labels=[1] * len(steps)), 0.5).labels

    lines = [f"step {k}\n" for k in range(40)]
    ends = [sum(map(len, lines[: k + 1])) for k in range(40)]
    spans = [(end - len(line), end) for end, line in zip(ends, lines, strict=True)]
    whole = labels("".join(lines), spans)
    assert labels("".join(lines[:20]), spans[:20]) == whole[:20]
    assert set(whole) == {0, 1}
    unknown = flip_labels(Solution("p", "1 + 1", "a", "2", steps=[(0, 1)], labels=[None]), 1.0)
    assert unknown.labels == [None]


@pytest.mark.parametrize("by", [{}, {"by": "judge", "judge": "m"}, {"by": "monte_carlo", "policy": "m"}])
def test_labels_do_not_replace_what_they_are_made_from(config, by, tmp_path):
    with pytest.raises(UserError, match="out is .*, which data names, too"):
        replace(config, out=str(tmp_path / "out" / ".." / "samples.jsonl"), **by)


def test_metrics_by_hand():
    def solution(labels, correct, answer="1", finished=True):
        return Solution("p", "", "", "", labels=labels, correct=correct, answer=answer, finished=finished)

    actual = label_metrics(
        [
            solution([1, 1], True),
            solution([1, 0, 1], True),
            solution([1, None], True),
            solution([0], False),
            solution([], False, answer=None, finished=False),
        ]
    )
    assert actual == {
        "rows": 5, "steps": 8, "labelled_steps": 7, "step_accuracy": 5 / 7, "accuracy": 3 / 5, "clean_accuracy": 1 / 5,
        "right_on_wrong_step": 1 / 3, "unanswered": 1 / 5, "unfinished": 1 / 5,
    }  # fmt: skip


def test_a_soft_label_of_one_half_or_more_is_right():
    """As in the measures of verifiers, in consensus and in select."""
    solutions = [Solution("p", "", "", "", labels=labels, correct=True) for labels in ([0.9, 0.5], [0.75, 0.25])]
    actual = label_metrics(solutions)
    measures = ("step_accuracy", "clean_accuracy", "right_on_wrong_step")
    assert [actual[name] for name in measures] == [3 / 4, 1 / 2, 1 / 2]


def test_a_neutral_step_is_right():
    """As where PRMs are taught by default, and in consensus, evaluate and the report."""
    solutions = [
        Solution("p", "", "", "", labels=labels, neutral=neutral, correct=True)
        for labels, neutral in (([1, None], [1]), ([None, 0], [0]), ([1, None], None))
    ]
    actual = label_metrics(solutions)
    measures = ("steps", "labelled_steps", "step_accuracy", "clean_accuracy", "right_on_wrong_step")
    assert [actual[name] for name in measures] == [6, 5, 4 / 5, 1 / 3, 1 / 3]


def test_a_share_of_nothing_is_null():
    actual = label_metrics([Solution("p", "", "", "", labels=[], correct=False)])
    assert (actual["step_accuracy"], actual["right_on_wrong_step"], actual["unanswered"]) == (None, None, 1.0)


def test_a_killed_run_continues_where_it_stopped(config, tmp_path, monkeypatch):
    """Killed after 900 of 1,000 rows: what is written by then is not checked again."""
    write_rows(config.data, (solution.to_row() for solution in Increasing().demonstrations(1000, seed=0)))
    whole, out = label(config), tmp_path / "out" / "labelled.jsonl"
    expected = out.read_text()
    out.unlink()
    check, calls = Increasing.check, []

    def killed(self, *row):
        calls.append(row)
        if len(calls) == 901:
            raise KeyboardInterrupt
        return check(self, *row)

    monkeypatch.setattr(Increasing, "check", killed)
    with pytest.raises(KeyboardInterrupt):
        label(config)
    assert not out.exists()
    written = sum(len(part.read_text().splitlines()) for part in (tmp_path / "out").glob("*.partial/*.jsonl"))
    assert 500 < written <= 900
    calls.clear()
    monkeypatch.setattr(Increasing, "check", lambda self, *row: calls.append(row) or check(self, *row))
    assert label(config) == whole
    assert len(calls) == 1000 - written
    assert out.read_text() == expected


def test_rows_of_other_data_are_labelled_again(config, tmp_path, monkeypatch):
    label(config)
    expected = (tmp_path / "out" / "labelled.jsonl").read_text()
    rows = (Path(config.data)).read_text().splitlines(keepends=True)
    with monkeypatch.context() as patch:
        patch.setattr("rlstep.supervision.runs.Output._join", lambda *_: None)  # killed when all rows are written
        label(config)
    (Path(config.data)).write_text("".join(rows[1:]))
    assert label(config)["rows"] == 29
    assert (tmp_path / "out" / "labelled.jsonl").read_text() == "".join(expected.splitlines(keepends=True)[1:])


def test_completions_without_steps_or_answer_are_kept_and_counted(tmp_path):
    prompt = "Increasing? 3 8\n"
    rows = [Solution("p", prompt, text, "yes", finished=False).to_row() for text in ("", "gibberish", "\n\n")]
    write_rows(tmp_path / "s.jsonl", rows)
    metrics = label(LabelConfig(str(tmp_path / "s.jsonl"), str(tmp_path / "l.jsonl"), "increasing"))
    assert (metrics["rows"], metrics["unanswered"], metrics["unfinished"]) == (3, 1.0, 1.0)
    assert [s.labels for s in read_solutions(tmp_path / "l.jsonl")] == [[], [0], []]


def test_the_wrong_task_is_a_user_error_that_names_the_solution(config):
    config.task = "arithmetic"
    with pytest.raises(
        UserError,
        match=r"problem 'increasing-train-0-\d+', sample 0.*the task that the problems belong to, or task: answers",
    ):
        label(config)


PROMPT = "Increasing? 3 8\n"


def by_people(**given) -> Solution:
    """A solution whose labels the checker would not give: it says that 8 is greater than 3."""
    plain = {"completion": "3 is first\n8 > 3\nAnswer: no", "steps": [(0, 17), (17, 27)], "labels": [0, None]}
    return Solution("p", PROMPT, reference="yes", **plain | given)


@pytest.mark.parametrize("given", [{}, {"labels": [None, None], "neutral": [1]}, {"labels": [0.25, None]}])
def test_step_labels_are_never_replaced(tmp_path, given):
    unlabelled = Solution("q", PROMPT, "3 is first\nAnswer: yes", "yes", steps=[(0, 11), (11, 22)], labels=[None, None])
    data, out = tmp_path / "s.jsonl", tmp_path / "l.jsonl"
    write_rows(data, [unlabelled.to_row(), by_people(**given).to_row()])
    with pytest.raises(UserError, match=r"problem 'p', sample 0: it has step labels already.*labelled: keep"):
        label(LabelConfig(str(data), str(out), "increasing"))
    assert not out.exists()
    label(LabelConfig(str(data), str(out), "increasing", labelled="keep"))
    checked, kept = read_solutions(out)
    actual = Increasing().check(PROMPT, checked.completion, "yes")
    assert (checked.steps, checked.labels, checked.correct) == (actual.steps, actual.labels, True)
    mine = by_people(**given)
    assert (kept.steps, kept.labels, kept.neutral) == (mine.steps, mine.labels, mine.neutral)
    assert (kept.answer, kept.correct) == ("no", False)


def test_kept_solutions_are_graded_by_the_answer_that_their_data_set_states(tmp_path):
    stated = by_people(completion="8 > 3\n# Answer\n\nyes", steps=[(0, 6), (6, 19)], answer="yes")
    ended = by_people(completion="3 is first\n", steps=[(0, 11)], labels=[1], finished=False)
    failed = by_people(completion="3 is first\n", steps=[(0, 11)], labels=[1])
    write_rows(tmp_path / "s.jsonl", [one.to_row() for one in (stated, ended, failed)])
    metrics = label(LabelConfig(str(tmp_path / "s.jsonl"), str(tmp_path / "l.jsonl"), "increasing", labelled="keep"))
    # One that ended with its labelling is no attempt that failed.
    assert [(s.answer, s.correct) for s in read_solutions(tmp_path / "l.jsonl")] == [
        ("yes", True), (None, None), (None, False),
    ]  # fmt: skip
    assert metrics["accuracy"] == 1 / 3


def test_labels_that_a_tree_shares_count_once(tmp_path):
    first, second = by_people(tree="t", labels=[1, 1]), by_people(tree="t", labels=[1, 0], sample=1)
    second.completion = second.completion.replace("no", "NO")
    write_rows(tmp_path / "s.jsonl", [first.to_row(), second.to_row()])
    metrics = label(LabelConfig(str(tmp_path / "s.jsonl"), str(tmp_path / "l.jsonl"), "increasing", labelled="keep"))
    assert (metrics["steps"], metrics["labelled_steps"], metrics["step_accuracy"]) == (3, 3, 2 / 3)


def test_a_solution_without_a_reference_is_not_called_wrong(config):
    write_rows(config.data, [Solution("p", PROMPT, "Answer: yes", " ").to_row()])
    with pytest.raises(UserError, match="row 1, field 'reference': is empty"):
        label(config)


def test_scores_of_other_steps_are_not_carried_over(config):
    solution = Increasing().demonstrations(1, seed=0)[0]
    solution.steps, solution.scores = [(0, len(solution.completion))], {"prm": [0.5]}
    write_rows(config.data, [solution.to_row()])
    with pytest.raises(UserError, match="Label solutions first"):
        label(config)


def test_scores_of_the_same_steps_are_kept(config):
    solution = Increasing().demonstrations(1, seed=0)[0]
    solution.steps = Increasing().check(solution.prompt, solution.completion, solution.reference).steps
    solution.scores = {"prm": [0.5] * len(solution.steps)}
    write_rows(config.data, [solution.to_row()])
    label(config)
    assert read_solutions(config.out)[0].scores == solution.scores


def test_a_malformed_last_row_is_found_before_anything_is_written(config, tmp_path):
    with open(config.data, "a") as file:
        file.write('{"problem_id": 3}\n')
    with pytest.raises(DataError, match="row 31"):
        label(config)
    assert not (tmp_path / "out" / "labelled.jsonl.partial").exists()


def test_a_missing_file_is_a_user_error(config):
    config.data += ".gone"
    with pytest.raises(UserError, match="no such file"):
        label(config)


def test_real_rows_of_gsm8k_are_labelled(gsm8k_dir, tmp_path):
    from rlstep.steps.readers import read

    solutions = [solution for solution, _ in zip(read("gsm8k", gsm8k_dir / "test.jsonl"), range(100), strict=False)]
    write_rows(tmp_path / "s.jsonl", (solution.to_row() for solution in solutions))
    metrics = label(LabelConfig(str(tmp_path / "s.jsonl"), str(tmp_path / "l.jsonl"), "gsm8k"))
    assert (metrics["rows"], metrics["step_accuracy"], metrics["accuracy"]) == (100, 1.0, 1.0)
    assert metrics["right_on_wrong_step"] == 0


def test_the_boundary_decides_what_is_labelled(tmp_path):
    """A checker of answers takes any step; one that reads each step exactly refuses all but lines."""
    completion = "We get\n\\[\nx = 3.\n\\]\nSo \\boxed{3}."
    write_rows(tmp_path / "in.jsonl", [Solution("p", "What is x?", completion, "3").to_row()])
    steps = {}
    for rule in ("line", "math_line"):
        label(LabelConfig(str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl"), "math", boundary=rule))
        (solution,) = read_solutions(tmp_path / "out.jsonl")
        steps[rule] = (solution.step_texts, solution.labels)
    assert steps["line"] == (["We get\n", "\\[\n", "x = 3.\n", "\\]\n", "So \\boxed{3}."], [None] * 4 + [1])
    assert steps["math_line"] == ([completion[:-13], "So \\boxed{3}."], [None, 1])
    with pytest.raises(UserError, match="the steps are by math_line, and the checker of task 'increasing' reads"):
        label(LabelConfig(str(tmp_path / "in.jsonl"), str(tmp_path / "o.jsonl"), "increasing", boundary="math_line"))
    with pytest.raises(UserError, match="boundary is 'line', so boundary_tag would do nothing"):
        LabelConfig("a", "b", "math", boundary_tag="x")


def test_a_checker_reads_the_problem_of_a_chat(config, tmp_path):
    label(config)
    chats = [
        replace(s, prompt=[{"role": "system", "content": "S"}, {"role": "user", "content": s.prompt}])
        for s in read_solutions(config.data)
    ]
    write_rows(tmp_path / "chats.jsonl", (s.to_row() for s in chats))
    label(replace(config, data=str(tmp_path / "chats.jsonl"), out=str(tmp_path / "chats-labelled.jsonl")))
    of_chats, plain = (read_solutions(path) for path in (tmp_path / "chats-labelled.jsonl", config.out))
    assert [(s.steps, s.labels, s.correct) for s in of_chats] == [(s.steps, s.labels, s.correct) for s in plain]
