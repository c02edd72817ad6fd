"""Tables of a summary: their cells, and as Markdown.

A value is a number, or a dict {"mean", "low", "high"} with its interval.
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rlstep.evaluation.domains import ALL
from rlstep.report import arms
from rlstep.report.examples import PRM, orm_score
from rlstep.runtime.visible import visible
from rlstep.steps.prompts import problem_text
from rlstep.steps.records import Solution

CURVE_HEADS = {
    "prm": "PRM",
    "orm": "ORM",
    "majority": "majority",
    "weighted": "weighted",
    "pass_at_n": "pass@N",
    "prm_clean": "PRM, clean",
    "orm_clean": "ORM, clean",
}
# Prefixes and suffixes of a score's name in the name of its curve.
WEIGHTED, CLEAN = "weighted_", "_clean"
SIDE_BY_SIDE = ("search", "best_of_n", "difference")
KEY_HEADS = {"accuracy": "answer", "clean_accuracy": "clean"}


class Cells(NamedTuple):
    """A table's content, all of it text: its head, and rows as long as that."""

    head: list[str]
    rows: list[list[str]]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A markdown table, its first column aligned left, the others right; a cell may hold any text."""
    head, *rows = ([_cell(cell) for cell in line] for line in (head, *rows))
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def one_line(text: str) -> str:
    """Text that may be anything, such as a score's name, fit to be shown on one line."""
    return " ".join(visible(text).split())


def _cell(text: str) -> str:
    """Text without the bar and the end of a line, which would be the table's."""
    return one_line(text).replace("|", "\\|")


def number(mean: float | None, low: float | None = None, high: float | None = None, digits: int = 2) -> str:
    """
    >>> number(0.5, 0.41, 0.6), number(0.5), number(None)
    ('0.50 [0.41, 0.60]', '0.50', '-')
    """
    if mean is None:
        return "-"
    # + 0.0 turns the -0.0 that rounding may produce into 0.0.
    mean, low, high = (value if value is None else round(value, digits) + 0.0 for value in (mean, low, high))
    text = f"{mean:.{digits}f}"
    return text if low is None or high is None else f"{text} [{low:.{digits}f}, {high:.{digits}f}]"


def at(values: list | dict, place: int) -> str:
    """The value of a curve at an index, with its interval if it has one."""
    if isinstance(values, dict):
        return number(*(values[part][place] for part in ("mean", "low", "high")))
    return number(values[place])


def curve_names(curves: dict) -> list[str]:
    """The names of the curves among a result's entries, in their order."""
    return [name for name, value in curves.items() if isinstance(value, dict) and "mean" in value]


def curve_head(name: str, names: Sequence[str]) -> str:
    """The table head for a curve, which is one of `names`.

    >>> names = ["qwen", "weighted_qwen", "prm"]
    >>> [curve_head(name, names) for name in names]
    ['qwen', 'qwen, weighted', 'PRM']
    """
    if name in CURVE_HEADS:
        return CURVE_HEADS[name]
    if (score := name.removeprefix(WEIGHTED)) != name and score in names:
        return f"{score}, weighted"
    if (score := name.removesuffix(CLEAN)) != name and score in names:
        return f"{score}, clean"
    return name


def best_of_n(curves: dict) -> Cells:
    """Every curve, one row per N."""
    names = curve_names(curves)
    rows = [[str(n), *(at(curves[name], place) for name in names)] for place, n in enumerate(curves["ns"])]
    return Cells(["N", *(curve_head(name, names) for name in names)], rows)


def plain_best_of_n(curves: dict) -> str:
    """Every curve for a terminal, one line each, with the interval at the largest N."""
    names = curve_names(curves)
    heads = [one_line(curve_head(name, names)) for name in names]
    width = max(map(len, heads))
    lines = [f"{'N':<{width}}" + "".join(f"{n:>8}" for n in curves["ns"]) + "  95% interval at the last"]
    for head, curve in zip(heads, (curves[name] for name in names), strict=True):
        interval = f"[{curve['low'][-1]:.3f}, {curve['high'][-1]:.3f}]"
        lines.append(f"{head:<{width}}" + "".join(f"{value:>8.3f}" for value in curve["mean"]) + "  " + interval)
    return "\n".join(lines)


def plain_errors(ns: Sequence[int], errors: dict[str, dict]) -> str:
    """Wrong answers and right answers on a wrong step at the largest N for a terminal, one line per way to pick."""
    lines = [f"errors at N = {ns[-1]}: of the answer; of a step, among right answers"]
    names = {name: one_line(name) for name in errors}
    width = max(map(len, names.values()))
    for name, one in errors.items():
        answer, trace = one["final_answer_error"][-1], one["trace_error"][-1]
        lines.append(f"{names[name]:<{width}}{answer:>8.3f}" + (f"{trace:>8.3f}" if trace is not None else f"{'-':>8}"))
    return "\n".join(lines)


def picked_by(figures: dict) -> list[str]:
    """The curves of a table by domain whose pick is one solution's: every score and the majority.

    Left out are weighted votes, the share of picks with every step right, and the ceiling.
    """
    names = list(dict.fromkeys(name for one in figures["domains"].values() for name in one["accuracy"]))
    others = {"pass_at_n", "weighted"} | {f"{WEIGHTED}{name}" for name in names} | {f"{name}{CLEAN}" for name in names}
    return [name for name in names if name not in others]


def domains(figures: dict, gaps: Mapping[str, str] | None = None) -> Cells:
    """The accuracy of each way to pick by domain, one row per domain, and the last for all of them.

    Args:
        figures: of `rlstep.evaluation.domains.domain_figures`.
        gaps: differences that stand among the accuracies, with their heads.
    """
    gaps = gaps or {}
    picks = [name for name in picked_by(figures) if name not in gaps]
    names = [*picks, *gaps]
    rows = []
    for name, one in (figures["domains"] | {ALL: figures[ALL]}).items():
        values = [number(**one["accuracy"].get(curve, {"mean": None}), digits=3) for curve in names]
        rows.append([name, *values, f"{one['problems']:,}"])
    heads = [curve_head(name, picks) for name in picks]
    return Cells([f"best of {figures['n']}", *heads, *gaps.values(), "problems"], rows)


def equal_tokens(figures: dict) -> Cells:
    """Each search beside best-of-N at its tokens, one row per search and way to pick.

    Args:
        figures: of `rlstep.evaluation.equal_tokens.equal_tokens`.
    """
    rows = []
    for name, one in figures["searches"].items():
        n = "-" if one["n"] is None else f"{one['n']:.1f}"
        for curve, accuracy in one["accuracy"].items():
            values = [number(**(accuracy[part] or {"mean": None}), digits=3) for part in SIDE_BY_SIDE]
            picked = curve_head(curve, [*one["accuracy"]])
            rows.append([name, picked, f"{one['solutions']}", f"{one['tokens']:,.0f}", *values, n])
    return Cells(["search", "picked by", "N", "tokens", "right", "best of n", "difference", "n"], rows)


def prm_steps(measures: dict[str, float]) -> Cells:
    """How well the PRM scores single steps (`rlstep.verifiers.metrics.STEP_METRICS`), one row per measure."""
    return Cells(["measure", "value"], [[name.replace("_", " "), f"{value:.3f}"] for name, value in measures.items()])


def process_sets(measures: dict[str, dict[str, float]]) -> Cells:
    """The measures of a group's step scores beside those of verifiers on the same steps, one row per measure.

    Args:
        measures: by who judges.
    """
    names = dict.fromkeys(name for of_one in measures.values() for name in of_one)
    rows = [
        [name.replace("_", " "), *(f"{of_one[name]:.3f}" if name in of_one else "-" for of_one in measures.values())]
        for name in names
    ]
    return Cells(["measure", *(who.replace("_", " ") for who in measures)], rows)


def learning_curves(curves: dict, gap: dict | None = None) -> Cells:
    """The accuracies of every arm that has a curve, one row per evaluation; one that no arm has is left out.

    Args:
        curves: by arm, {"samples": [...], key: values}, or None.
        gap: process arm minus outcome arm, in the same form.
    """
    columns = {arm.words: curves[arm.name] for arm in arms.ARMS} | {"process - outcome": gap}
    columns = {head: curve for head, curve in columns.items() if curve}
    keys = [key for key in KEY_HEADS if any(key in curve for curve in columns.values())]
    heads = ["samples", *(f"{head}: {KEY_HEADS[key]}" for head in columns for key in keys)]
    rows = []
    for samples in sorted({count for curve in columns.values() for count in curve["samples"]}):
        row = [f"{samples:,}"]
        for curve in columns.values():
            places = [place for place, count in enumerate(curve["samples"]) if count == samples]
            row += [at(curve[key], places[0]) if places and key in curve else "-" for key in keys]
        rows.append(row)
    return Cells(heads, rows)


def steps(solution: Solution) -> str:
    """A solution as text, each step with the exact checker's verdict and the PRM's score."""
    words = {True: "right", False: "wrong", None: "?"}
    lines = [problem_text(solution.prompt).strip()]
    for text, right, p in zip(solution.step_texts, solution.verdicts, solution.scores[PRM], strict=True):
        lines.append(f"{p:.2f}  {words[right]:5}  {' '.join(text.split())}")
    orm = orm_score(solution)
    lines.append(("" if orm is None else f"ORM {orm:.2f}; ") + f"right answer {solution.reference}")
    text = visible("\n".join(lines))
    # Longer than any in the text, which would end it.
    fence = "`" * max([3, *(len(ticks) + 1 for ticks in re.findall("`+", text))])
    return f"{fence}text\n{text}\n{fence}"


def seconds(stages: dict[str, float]) -> Cells:
    """How long each stage took."""
    return Cells(["stage", "seconds"], [[name, f"{value:,.1f}"] for name, value in stages.items()])
