"""The fields of one row of scored samples, each validated; `rlstep.evaluation.samples` lists them."""

import math

from rlstep.core.aggregate import Aggregate, logit_solution_score, solution_score
from rlstep.runtime.counted import counted
from rlstep.steps.labels import UNKNOWN, LabelPolicy
from rlstep.steps.records import Solution, shown
from rlstep.steps.sources import Row
from rlstep.steps.trees import Beginnings

UNNAMED = "score"

# After the first wrong step, a PRM's scores mean nothing: it was not trained on such steps.
TAUGHT = LabelPolicy(after_first_error="mask")


def value_of(row: Row, name: str):
    """A field's value; None where it is null, absent or NaN."""
    value = row.values.get(name)
    return None if isinstance(value, float) and math.isnan(value) else value


def problem_id_of(row: Row) -> str:
    value = value_of(row, "problem_id")
    if value is None or (isinstance(value, str) and not value.strip()):
        what = "missing" if value is None else "blank"
        problem = (
            f"{what}; it says which rows are samples of one problem. If another field does, name it:"
            f" --fields problem_id=NAME. The row has {', '.join(sorted(row.names))}."
        )
        raise row.fault("problem_id", problem)
    return str(expect(row, "problem_id", value, (str, int), "text or a whole number"))


def sample_of(row: Row) -> int:
    """The sample's number among those of its problem, -1 where the row does not say."""
    value = value_of(row, "sample")
    if value is None:
        return -1
    expect(row, "sample", value, (int,), "a whole number")
    if not 0 <= value < 1 << 63:
        raise row.fault("sample", f"expected a whole number from 0, got {shown(value)}.")
    return value


def expect(row: Row, name: str, value, kinds: tuple[type, ...], wanted: str):
    """The value, if it has one of the types; true and false do not count as numbers."""
    if isinstance(value, bool) or not isinstance(value, kinds):
        raise row.fault(name, f"expected {wanted}, got {shown(value)}.")
    return value


def text_of(row: Row, name: str) -> str | None:
    """Text, or a number as text; None if it is null, absent, NaN or blank."""
    value = value_of(row, name)
    if value is None:
        return None
    return str(expect(row, name, value, (str, int, float), "text or a number")).strip() or None


def labels_of(row: Row) -> list[float | None] | None:
    labels = value_of(row, "labels")
    if labels is None:
        return None
    if not isinstance(labels, list) or not all(label is None or _is_share(label) for label in labels):
        problem = f"expected a list of labels from 0 to 1 or null each, got {shown(labels)}."
        raise row.fault("labels", problem)
    if isinstance(steps := row.values.get("steps"), list) and len(steps) != len(labels):
        raise row.fault("labels", f"{counted(len(labels), 'value')} for {counted(len(steps), 'step')}.")
    return labels


def _is_share(value) -> bool:
    return isinstance(value, (int, float)) and 0 <= value <= 1


def neutral_of(row: Row, labels: list[float | None]) -> list[int]:
    """Indices of the steps that were rated neutral."""
    neutral = row.values.get("neutral") or []
    if not isinstance(neutral, list) or not all(isinstance(k, int) and 0 <= k < len(labels) for k in neutral):
        problem = f"expected a list of indices of {counted(len(labels), 'step')}, got {shown(neutral)}."
        raise row.fault("neutral", problem)
    return neutral


def targets_of(row: Row, labels: list[float | None] | None) -> list[float]:
    """The PRM's training target for each step; NaN for steps without one."""
    if labels is None:
        return []
    solution = Solution("", "", "", "", labels=labels, neutral=neutral_of(row, labels))
    return [math.nan if target == UNKNOWN else target for target in TAUGHT.targets(solution)]


def shared_steps(row: Row, labels: list[float | None] | None, beginnings: Beginnings) -> int:
    """How many of the row's first labelled steps were already in earlier rows; 0 if it does not name a tree."""
    tree, completion, steps = (row.values.get(name) for name in ("tree", "completion", "steps"))
    if labels is None or not isinstance(tree, str) or not isinstance(completion, str) or not isinstance(steps, list):
        return 0
    check_spans(row, steps, "as the row has a 'tree'")
    return beginnings.take(Solution("", "", completion, "", steps=steps, tree=tree))


def check_spans(row: Row, steps, why: str) -> None:
    """Refuses steps that are not spans of a text."""
    if not isinstance(steps, list) or not all(
        isinstance(span, list) and len(span) == 2 and all(isinstance(k, int) for k in span) for span in steps
    ):
        problem = f"expected a list of [start, end] pairs, {why}; got {shown(steps)}."
        raise row.fault("steps", problem)


def scores_of(row: Row) -> dict[str, list[float | None] | float | None]:
    """The row's scores by name; None for a solution or a step without one."""
    scores = row.values.get("scores")
    if scores is None:
        return {}
    named = scores if isinstance(scores, dict) else {UNNAMED: scores}
    for name, value in named.items():
        if not all(v is None or _is_number(v) for v in (value if isinstance(value, list) else [value])):
            place = f"scores.{name}" if isinstance(scores, dict) else "scores"
            problem = f"expected a number, or a list of one number per step, got {shown(value)}."
            raise row.fault(place, problem)
        if isinstance(value, list) and isinstance(steps := row.values.get("steps"), list):
            check_length(row, name, len(value), len(steps), "step")
    return named


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def check_length(row: Row, name: str, values: int, steps: int, of: str) -> None:
    if values != steps:
        problem = f"{counted(values, 'value')} for {counted(steps, of)}"
        problem += "; give one per step, or a number for the whole solution."
        raise row.fault(f"scores.{name}", problem)


def values_of(row: Row, name: str, scores: dict[str, list[float | None] | float | None]) -> list[float | None]:
    """A sample's values of a score: one per step, or one of all; None for what it did not fit."""
    if name == UNNAMED and not scores and "scores" in row.values:
        return [None]
    if name not in scores:
        present = ", ".join(sorted(scores)) or "none"
        problem = (
            f"missing (scores present: {present}); run `rlstep score --name {name}` on this file first, or give null"
            " for a sample that could not be scored."
        )
        raise row.fault(f"scores.{name}", problem)
    return scores[name] if isinstance(scores[name], list) else [scores[name]]


def probabilities(values: list[float | None], logits: bool) -> list[float | None]:
    """Scores as probabilities, without what rounding puts above 1."""
    return [None if value is None else _sigmoid(value) if logits else min(value, 1.0) for value in values]


def _sigmoid(logit: float) -> float:
    # exp overflows for a large number, but not for its negative.
    return 1 / (1 + math.exp(-logit)) if logit >= 0 else math.exp(logit) / (1 + math.exp(logit))


def aggregated(row: Row, name: str, values: list[float], how: Aggregate, logits: bool) -> float:
    if logits:
        return logit_solution_score(values, how)
    try:
        return solution_score(values, how)
    except ValueError as error:
        problem = f"{error} If they are log-odds, or rewards on any scale: --scores logits."
        raise row.fault(f"scores.{name}", problem) from None
