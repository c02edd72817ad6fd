"""Summaries of a set of solutions: counts of steps by label, for people and the run record, and readable solutions."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from rlstep.runtime.visible import visible
from rlstep.steps.prompts import problem_text
from rlstep.steps.readers.base import ReadReport
from rlstep.steps.records import Solution
from rlstep.steps.trees import Beginnings

KINDS = ("right", "wrong", "soft", "neutral", "unknown")


def kind_of(solution: Solution, step: int) -> str:
    """The kind of a step's label, one of `KINDS`; "soft" is between right and wrong."""
    label = None if solution.labels is None else solution.labels[step]
    if label is None:
        return "neutral" if step in (solution.neutral or ()) else "unknown"
    return {1: "right", 0: "wrong"}.get(label, "soft")


@dataclass
class Census:
    """Counts over the solutions that were added.

    Attributes:
        steps: number of steps by kind of label, each counted once: not the beginning that a branch shares with another
            solution of its tree.
        shared_steps: number of steps in those beginnings.
        answers: number of solutions by whether their answer is right.
    """

    solutions: int = 0
    finished: int = 0
    shared_steps: int = 0
    steps: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    answers: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("right", "wrong", "unknown"), 0))
    _problems: set[str] = field(default_factory=set)
    _trees: set[str] = field(default_factory=set)
    _beginnings: Beginnings = field(default_factory=Beginnings)

    def add(self, solution: Solution) -> None:
        self.solutions += 1
        self.finished += solution.finished
        self._problems.add(solution.problem_id)
        if solution.tree is not None:
            self._trees.add(solution.tree)
        shared = self._beginnings.take(solution)
        self.shared_steps += shared
        for step in range(shared, len(solution.steps or ())):
            self.steps[kind_of(solution, step)] += 1
        self.answers[{True: "right", False: "wrong", None: "unknown"}[solution.correct]] += 1

    def metrics(self) -> dict:
        return {
            "solutions": self.solutions,
            "problems": len(self._problems),
            "trees": len(self._trees),
            "finished": self.finished,
            "steps": dict(self.steps),
            "shared_steps": self.shared_steps,
            "answers": dict(self.answers),
        }


def table(census: Census, report: ReadReport) -> str:
    """The counts of what was read, one per line."""
    metrics = census.metrics()
    rows = sum(report.rows.values())
    lines = [("rows", rows, None)]
    if len(report.rows) > 1:
        lines += [(f"  {source}", count, rows) for source, count in report.rows.items()]
    lines += [(f"  left out: {why}", count, rows) for why, count in report.dropped.most_common()]
    if report.bad_rows:
        lines.append(("  malformed, skipped", report.bad_rows, rows))
    lines += [(f"  {what}", count, None) for what, count in sorted(report.seen.items())]
    lines += [(name, metrics[name], None) for name in ("problems", "trees", "solutions") if metrics[name]]
    lines.append(("  finished", census.finished, census.solutions))
    lines += [(f"  answer {what}", count, census.solutions) for what, count in census.answers.items() if count]
    steps = sum(census.steps.values())
    lines.append(("steps", steps, None))
    lines += [(f"  {what}", count, steps) for what, count in census.steps.items() if count]
    if census.shared_steps:
        lines.append(("beginnings that branches share", census.shared_steps, None))
    width = max(len(name) for name, _, _ in lines)
    return "\n".join(f"{name:<{width}} {count:>12,}{_share(count, whole)}" for name, count, whole in lines)


def _share(count: int, whole: int | None) -> str:
    return f" {count / whole:>7.1%}" if whole else ""


def readable(solution: Solution) -> str:
    """A solution as readable text: its problem, then each step after its label."""
    answer = {True: "right", False: "wrong", None: "not graded"}[solution.correct]
    about = [f"{solution.problem_id}, sample {solution.sample}"]
    about += [f"tree {solution.tree}"] * (solution.tree is not None)
    about += [f"answer {solution.answer} ({answer})"] * (solution.answer is not None)
    lines = ["--- " + ", ".join(about), problem_text(solution.prompt).rstrip(), *_labelled(solution)]
    return visible("\n".join(lines))  # as a terminal obeys some characters, and cannot be sent others


def _labelled(solution: Solution) -> Iterator[str]:
    if solution.steps is None:
        yield from (f"          {line}" for line in solution.completion.splitlines())
    for step, text in enumerate(solution.step_texts):
        kind = kind_of(solution, step)
        mark = f"{solution.labels[step]:.2f}" if kind == "soft" else kind
        first, *more = text.strip().splitlines() or [""]
        yield f"{mark:>8}  {first}"
        yield from (f"          {line}" for line in more)
