"""completions.jsonl: which completions it has, what a row says, and what survives a kill."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from rlstep.policy.monitoring.completion_log import CompletionLog
from rlstep.policy.monitoring.completions import EVENLY, TELLINGLY, choose, completion_of
from rlstep.policy.monitoring.pages import CompletionTable
from rlstep.policy.rewards.scored import ScoredBatch, ScoredCompletion
from rlstep.runtime.errors import DataError
from rlstep.steps.boundaries import line_steps
from rlstep.steps.prompts import PromptFormat
from rlstep.steps.records import read_solutions
from rlstep.steps.sources import iter_rows

TEXT = "1 + 1 = 2\n1 + 1 = 2\nA 2"


def scored(text, **more) -> ScoredCompletion:
    plain = {"steps": line_steps(text), "step_rewards": [], "outcome": 0.0, "correct": False, "clean": False}
    return ScoredCompletion(**(plain | more))


def batch(update: int, *rows: ScoredCompletion, text: str = TEXT) -> ScoredBatch:
    count = len(rows)
    return ScoredBatch(update, ["?"] * count, [text] * count, ["2"] * count, list(rows), [True] * count, [{}] * count)


def at(step: int, main: bool = True):
    return SimpleNamespace(global_step=step, is_world_process_zero=main)


@pytest.fixture
def log(arguments):
    def make(every: int = 1) -> CompletionLog:
        return CompletionLog(CompletionTable(arguments(report_to="none"), every), PromptFormat("text"))

    return make


@pytest.fixture
def path(tmp_path):
    return tmp_path / "out" / "completions.jsonl"


def updates(path) -> list[int]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [row["extra"]["ppo"]["update"] for row in rows]


def test_a_row_is_a_solution_with_what_was_paid_for_it(log, path):
    worth = scored(
        TEXT, step_rewards=[0.5, 0.0], outcome=2.0, correct=True, step_scores=[0.9, float("nan")], labels=[1, 0, None],
        guards=[None, "repeats", None], answer="2", withheld_by="min_steps", own={"brief": 0.5}, cut_by=["prm"],
    )  # fmt: skip
    one = batch(3, *[scored(TEXT)] * 3, worth)
    log()(replace(one, extras=[{}] * 3 + [{"level": 5}], finished=[True] * 3 + [False]))
    solution = read_solutions(path)[3]
    # Batches of four completions, two samples per problem.
    assert (solution.problem_id, solution.sample) == ("update-3-problem-1", 1)
    assert (solution.prompt, solution.completion, solution.reference) == ("?", TEXT, "2")
    assert (solution.finished, solution.answer, solution.correct) == (False, "2", True)
    assert (solution.labels, solution.scores) == ([1, 0, None], {"prm": [0.9, None, None]})
    assert solution.prompt_format["form"] == "text"
    assert solution.extra == {
        "level": 5,
        "ppo": {
            "update": 3, "samples": 12, "chosen": EVENLY, "step_rewards": [0.5, 0.0], "outcome": 2.0,
            "guards": [None, "repeats", None], "withheld_by": "min_steps", "own": {"brief": 0.5}, "cut_by": ["prm"],
        },
    }  # fmt: skip


def test_what_the_run_does_not_have_is_absent(log, path):
    log()(batch(1, scored(TEXT)))
    (solution,) = read_solutions(path)
    assert (solution.labels, solution.scores, solution.answer) == (None, {}, None)


def test_completions_are_chosen_evenly_and_where_steps_are_paid_without_being_right():
    rows = [scored("a", step_rewards=[float(row)], correct=row == 48) for row in range(51)]
    chosen = choose(rows)
    assert chosen[EVENLY] == [0, 10, 20, 30, 40, 50]
    # The highest of the wrong ones that are not shown already.
    assert chosen[TELLINGLY] == [49, 47, 46]
    assert choose(rows[:2]) == {EVENLY: [0, 1], TELLINGLY: []}
    assert choose(rows[:1]) == {EVENLY: [0], TELLINGLY: []}


def test_the_pages_setting_bounds_the_file(log, path):
    many = [scored("a") for _ in range(50)]
    every_fifth = log(5)
    for update in range(1, 13):
        every_fifth(batch(update, *many))
    assert updates(path) == [1] * 9 + [6] * 9 + [11] * 9
    path.unlink()
    log(0)(batch(1, *many))
    assert not path.exists()


def test_the_main_process_alone_writes(arguments, path):
    args = arguments()
    other = SimpleNamespace(output_dir=args.output_dir, process_index=1, report_to=[], generation_batch_size=4)
    CompletionLog(CompletionTable(other, 1), PromptFormat("text"))(batch(1, scored("a")))
    assert not path.exists()


def test_a_continued_run_drops_what_came_after_its_checkpoint(arguments, log, path):
    before = log()
    for update in range(1, 6):
        before(batch(update, scored("\u00e9"), text="\u00e9\ud800"))
    with path.open("ab") as file:
        file.write('{"extra": {"ppo": {"update": 6}}, "completion": "é'.encode()[:-1])
    # Two optimizer steps on each batch: a checkpoint after the fifth lies between the two of the third.
    log().on_train_begin(arguments(), at(5), None)
    assert updates(path) == [1, 2, 3]
    assert read_solutions(path)[2].completion == "\u00e9\ud800"
    log()(batch(4, scored("a")))
    assert updates(path) == [1, 2, 3, 4]
    # Also where pages are no longer asked for.
    log(0).on_train_begin(arguments(), at(2), None)
    assert updates(path) == [1]
    log(0).on_train_begin(arguments(), at(0, main=False), None)
    assert updates(path) == [1]
    log(0).on_train_begin(arguments(), at(0), None)
    assert not path.exists()
    log().on_train_begin(arguments(), at(4), None)
    assert not path.exists()


@pytest.mark.parametrize("line", ["nonsense", '{"extra": {}}', '{"extra": {"ppo": 1}}', ""])
def test_a_run_does_not_go_on_over_a_damaged_line(arguments, log, path, line):
    log()(batch(1, scored("a")))
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    with pytest.raises(DataError, match=r"row 2, field 'extra\.ppo\.update': not a line of completions"):
        log().on_train_begin(arguments(), at(4), None)


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("update", 0, "expected a whole number from 1, got 0"),
        ("update", True, "expected a whole number from 1, got true"),
        ("step_rewards", [0.5, "1"], "expected a list of finite numbers or null"),
        ("outcome", "much", "expected a finite number or null"),
        ("guards", "repeats", "expected a list of names or null"),
        ("withheld_by", 1, "expected a name or null"),
        ("own", {"brief": []}, "expected a mapping of names to finite numbers"),
        ("cut_by", [None], "expected a list of names"),
        ("chosen", None, "expected text"),
        ("shade", 1, "unknown field"),
        ("samples", ..., "missing"),
    ],
)
def test_a_malformed_row_is_named_by_its_field(log, path, field, value, problem):
    log()(batch(1, scored("a")))
    (row,) = iter_rows(path)
    paid = row.values["extra"]["ppo"]
    paid.pop(field, None)
    paid |= {} if value is ... else {field: value}
    with pytest.raises(DataError, match=rf"row 1, field 'extra\.ppo\.{field}': {problem}"):
        completion_of(row)


def test_a_row_of_another_file_is_refused(log, path):
    log()(batch(1, scored("a")))
    (row,) = iter_rows(path)
    row.values["extra"] = {}
    with pytest.raises(DataError, match=r"row 1, field 'extra\.ppo': expected a mapping, got null"):
        completion_of(row)
