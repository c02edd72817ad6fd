"""Small finished runs for the tests of reports."""

from pathlib import Path
from types import SimpleNamespace

from rlstep.policy.monitoring.completion_log import CompletionLog
from rlstep.policy.monitoring.pages import CompletionTable
from rlstep.policy.rewards.scored import ScoredBatch, ScoredCompletion
from rlstep.runtime.rows import write_json, write_rows
from rlstep.steps.boundaries import line_steps
from rlstep.steps.prompts import PromptFormat
from rlstep.steps.records import Solution


def solution(sample: int, completion: str, labels, prm, orm_last: float, correct: bool) -> Solution:
    steps = line_steps(completion)
    orm = [0.5] * (len(steps) - 1) + [orm_last]
    answer = completion.rsplit(" ", 1)[1]
    scores = {"prm": prm, "orm": orm}
    return Solution("p", "1 + 1 + 1\n", completion, "3", sample, True, steps, labels, answer, correct, scores)


def scored() -> list[Solution]:
    """One of each kind and, of right answers on a wrong step, one that the PRM does not see."""
    return [
        solution(0, "1 + 1 = 2\n2 + 1 = 3\nAnswer: 3", [1, 1, 1], [0.9, 0.8, 0.9], 0.4, True),
        solution(1, "1 + 1 = 3\n3 + 1 = 3\nAnswer: 3", [0, 0, 1], [0.9, 0.2, 0.9], 0.9, True),
        solution(2, "1 + 1 = 3\n3 + 1 = 3\nAnswer: 3", [0, 0, 1], [0.1, 0.6, 0.9], 0.7, True),
        solution(3, "1 + 1 = 2\n2 + 1 = 4\nAnswer: 4", [1, 0, 1], [0.9, 0.3, 0.9], 0.8, False),
    ]


def curve(*means: float) -> dict:
    return {"mean": list(means), "low": [m - 0.05 for m in means], "high": [m + 0.05 for m in means]}


def make_run(folder: Path, seed: int = 0, shift: float = 0.0, arms=("process", "outcome", "process_only")) -> Path:
    """A finished run as the lab leaves it. The outcome arm ends on 0.6, which the process arm has third."""
    curves = {
        "ns": [1, 2, 4],
        "prm": curve(0.3, 0.5 + shift, 0.7),
        "orm": curve(0.3, 0.4, 0.5),
        "majority": curve(0.3, 0.3, 0.3),
        "weighted": curve(0.3, 0.45, 0.6),
        "pass_at_n": curve(0.3, 0.6, 0.8),
    }
    about = {"problems": 10, "samples_per_problem": 4, "unanswered": 0.1, "aggregate": "product"}
    write_json(folder / "evaluate" / "best_of_n.json", {**curves, **about})
    values = {
        "process": [0.3, 0.5, 0.6 + shift, 0.7, 0.8, 0.8],
        "outcome": [0.3, 0.35, 0.4, 0.5, 0.55, 0.6],
        "process_only": [0.3, 0.2, 0.1, 0.0, 0.0, 0.0],
    }
    for arm in arms:
        rows = [
            {"samples": 100 * k, "update": k, "accuracy": value, "clean_accuracy": value / 2}
            for k, value in enumerate(values[arm])
        ]
        write_rows(folder / f"ppo_{arm}" / "eval.jsonl", rows)
        write_json(folder / f"ppo_{arm}" / "run.json", {"stage": "ppo", "seed": seed, "seconds": 10.5})
    write_rows(folder / "test" / "scored.jsonl", (s.to_row() for s in scored()))
    record = {"stage": "prepare", "seed": seed, "seconds": 2.0, "versions": {"torch": "2.13.0"}, "commit": "abc"}
    write_json(folder / "prepare" / "run.json", record)
    write_json(folder / "test" / "scored.jsonl.run.json", {**record, "stage": "score", "seconds": 3.0})
    return folder


def write_completions(folder: Path, updates: int = 3, prm: bool = True, text: str | None = None) -> Path:
    """What PPO leaves in an arm's folder: the four completions of `scored` at each update, as PPO itself writes them.

    A guard withholds the second step of the second. Without a PRM no step is paid. `text` replaces the first.
    """
    args = SimpleNamespace(output_dir=str(folder), process_index=0, generation_batch_size=4, num_generations=4)
    log = CompletionLog(CompletionTable(args, 1), PromptFormat("text"))
    for update in range(1, updates + 1):
        solutions = scored()
        if text is not None:
            solutions[0] = solution(0, text, [1] * len(line_steps(text)), [0.5] * len(line_steps(text)), 0.5, True)
        worths = [
            ScoredCompletion(
                steps=one.steps,
                step_rewards=[2 * p - 1 if prm else 0.0 for p in one.scores["prm"]],
                outcome=float(one.correct),
                correct=one.correct,
                clean=one.clean,
                step_scores=one.scores["prm"] if prm else None,
                labels=one.labels,
                guards=[None, "repeats", None] if k == 1 else [None] * len(one.steps),
                answer=one.answer,
                cut_by=[] if prm else None,
            )
            for k, one in enumerate(solutions)
        ]
        columns = ["prompt", "completion", "reference"]
        prompts, completions, references = ([getattr(one, name) for one in solutions] for name in columns)
        log(ScoredBatch(update, prompts, completions, references, worths, [True] * 4, [{}] * 4))
    return folder / "completions.jsonl"
