"""Markdown tables of a summary. A value is a number, or a dict {"mean", "low", "high"} with its interval."""

from collections.abc import Sequence

from rlstep.report.examples import ORM, PRM
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
ARM_HEADS = {
    "process": "process",
    "outcome": "outcome",
    "process_only": "process only",
    "process_minus_outcome": "process - outcome",
}
KEY_HEADS = {"accuracy": "answer", "clean_accuracy": "clean"}


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A markdown table: the first column to the left, the others to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def number(mean: float | None, low: float | None = None, high: float | None = None, digits: int = 2) -> str:
    """
    >>> number(0.5, 0.41, 0.6), number(0.5), number(None)
    ('0.50 [0.41, 0.60]', '0.50', '-')
    """
    if mean is None:
        return "-"
    # + 0.0 turns the -0.0 that rounding may leave into 0.0
    mean, low, high = (value if value is None else round(value, digits) + 0.0 for value in (mean, low, high))
    text = f"{mean:.{digits}f}"
    return text if low is None or high is None else f"{text} [{low:.{digits}f}, {high:.{digits}f}]"


def at(values: list | dict, place: int) -> str:
    if isinstance(values, dict):
        return number(*(values[part][place] for part in ("mean", "low", "high")))
    return number(values[place])


def best_of_n(curves: dict) -> str:
    names = [name for name in CURVE_HEADS if name in curves]
    rows = [[str(n), *(at(curves[name], place) for name in names)] for place, n in enumerate(curves["ns"])]
    return table(["N", *(CURVE_HEADS[name] for name in names)], rows)


def prm_steps(measures: dict[str, float]) -> str:
    """How well the PRM judges single steps (`rlstep.verifiers.metrics.STEP_METRICS`), one measure a row."""
    return table(["measure", "value"], [[name.replace("_", " "), f"{value:.3f}"] for name, value in measures.items()])


def rl(arms: dict) -> str:
    """Both accuracies of every arm that is there, a row for each evaluated number of samples."""
    present = [arm for arm in ARM_HEADS if arms.get(arm)]
    head = ["samples", *(f"{ARM_HEADS[arm]}: {KEY_HEADS[key]}" for arm in present for key in KEY_HEADS)]
    rows = []
    for samples in sorted({count for arm in present for count in arms[arm]["samples"]}):
        row = [f"{samples:,}"]
        for arm in present:
            places = [place for place, count in enumerate(arms[arm]["samples"]) if count == samples]
            row += [at(arms[arm][key], places[0]) if places else "-" for key in KEY_HEADS]
        rows.append(row)
    return table(head, rows)


def steps(solution: Solution) -> str:
    """A solution as text, every step with the exact checker's verdict and the PRM's score."""
    verdicts = {1: "right", 0: "wrong"}
    lines = [solution.prompt.strip()]
    for text, label, p in zip(solution.step_texts, solution.labels, solution.scores[PRM], strict=True):
        lines.append(f"{p:.2f}  {verdicts.get(label, '?'):5}  {' '.join(text.split())}")
    lines.append(f"ORM {solution.scores[ORM][-1]:.2f}; right answer {solution.reference}")
    return "```text\n" + "\n".join(lines) + "\n```"


def seconds(stages: dict[str, float]) -> str:
    return table(["stage", "seconds"], [[name, f"{value:,.1f}"] for name, value in stages.items()])
