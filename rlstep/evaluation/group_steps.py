"""How well the samples of a problem judge each other's steps, without a verifier: the implicit PRM of GRPO, measured.

A step's score is how often other samples with the same beginning are right (`rlstep.core.process_sets`)::

    p_k = share of right answers among the problem's samples that are equal up to the end of step k, and not to the end

Left out are the sample itself and its equals, whose outcome is its own: no verifier sees it either. Where no other
sample is left there is no score. Fewer samples share each further step, so only a solution's first steps have scores.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from rlstep.core.process_sets import process_sets, set_rewards
from rlstep.core.rewards import pad_steps
from rlstep.evaluation import scored_rows
from rlstep.evaluation.sample_columns import ScoredSamples
from rlstep.evaluation.sample_rows import sample_rows
from rlstep.evaluation.samples import ScoreChoice
from rlstep.runtime.errors import UserError
from rlstep.steps.records import Span
from rlstep.steps.sources import Row, iter_rows
from rlstep.steps.trees import Beginnings, prefix_numbers
from rlstep.verifiers.metrics import step_metrics
from rlstep.verifiers.step_table import StepTable

GROUP = "process_sets"


@dataclass(frozen=True)
class Judged:
    """What is read of a sample.

    Attributes:
        completion: its text.
        steps: S spans of it.
        targets: (S,) 1 right, 0 wrong, NaN without a label; empty for a row without labels.
        probs: the verifiers' scores by curve, (S,) each; None for a step that did not fit.
        shared: steps that are counted with an earlier row of a tree.
    """

    completion: str
    steps: list[Span]
    targets: list[float]
    probs: dict[str, list[float | None]]
    shared: int


def group_steps(
    path: str | Path, scored: ScoredSamples, choice: ScoreChoice, fields: dict[str, str] | None = None
) -> dict:
    """The measures of the group's step scores, and of every verifier's, on the same steps.

    Args:
        path: a file of samples, or a folder of shards.
        scored: what `rlstep.evaluation.samples.read_samples` read there.
        choice, fields: as it was given.

    Returns:
        `steps`, labelled ones up to the first wrong one; `judged`, the share of them that has a score of the group, and
        of each verifier, as rows may be too long for one; `solutions`, those with such a step; `measures`, by who
        judges (`process_sets`, and the curves of verifiers): `rlstep.verifiers.metrics.step_metrics` on these
        solutions' beginnings, as far as all of them have scores.

    Raises:
        DataError: a row has no completion, or no spans.
        UserError: no step has a label.
    """
    tables = {name: StepTable() for name in (GROUP, *scored.steps)}
    steps = judged = 0
    problems = _read(path, list(scored.steps), choice, fields or {})
    for (problem, samples), correct in zip(problems.items(), scored.by_problem(scored.correct), strict=True):
        for sample, values in zip(samples, step_values(samples, correct), strict=True):
            scores = {GROUP: values, **sample.probs}
            length = min(_known(of_steps) for of_steps in scores.values())
            labelled = ~np.isnan(sample.targets)
            steps += int(labelled[sample.shared :].sum())
            judged += int(labelled[sample.shared : length].sum())
            if labelled[:length].any():
                for name, table in tables.items():
                    shared = min(sample.shared, length)
                    table.add(scores[name][:length], sample.targets[:length], problem, shared)
    if not steps:
        raise UserError(
            f"{path}: no step has a label, by which process_sets are measured; label it, or leave them out."
        )
    measures = {name: step_metrics(table) for name, table in tables.items()} if judged else {}
    return {"steps": steps, "judged": judged / steps, "solutions": len(tables[GROUP]), "measures": measures}


def step_values(samples: Sequence[Judged], correct: np.ndarray) -> list[list[float | None]]:
    """For each sample of a problem a score per step, None from the first step on that no other sample has.

    Args:
        samples: N.
        correct: (N,) whether the answer is right.
    """
    numbers = prefix_numbers([one.completion for one in samples], [one.steps for one in samples])
    ids_NS, mask_NS = pad_steps([torch.tensor(of_row, dtype=torch.long) for of_row in numbers])
    texts: dict[str, int] = {}
    alike_N = torch.tensor([texts.setdefault(one.completion, len(texts)) for one in samples])
    sets_NS = process_sets(ids_NS, mask_NS, torch.zeros(len(samples), dtype=torch.long))
    values_NS = set_rewards(sets_NS, torch.tensor(correct), alike_N)
    rows = zip(values_NS.tolist(), samples, strict=True)
    return [[None if value != value else value for value in row[: len(one.steps)]] for row, one in rows]


def _known(values: Sequence[float | None]) -> int:
    """How many of the first steps have a score."""
    return next((k for k, value in enumerate(values) if value is None), len(values))


def _read(
    path: str | Path, curves: Sequence[str], choice: ScoreChoice, fields: dict[str, str]
) -> dict[str, list[Judged]]:
    """The samples by problem, both in the order of the file."""
    problems: dict[str, list[Judged]] = {}
    beginnings = Beginnings()
    for row in (sample for one in iter_rows(path) for sample in sample_rows(one, fields)):
        labels = scored_rows.labels_of(row)
        targets = scored_rows.targets_of(row, labels)
        scores, probs = scored_rows.scores_of(row), {}
        if labels:
            names = choice.curves(list(scores))
            for curve in curves:
                values = scored_rows.values_of(row, names[curve], scores)
                probs[curve] = scored_rows.probabilities(values, choice.logits)
        shared = scored_rows.shared_steps(row, labels, beginnings)
        sample = Judged(*_steps_of(row), targets, probs, shared)
        problems.setdefault(scored_rows.problem_id_of(row), []).append(sample)
    return problems


def _steps_of(row: Row) -> tuple[str, list[Span]]:
    """The completion, and its steps' spans."""
    completion, steps = (row.values.get(name) for name in ("completion", "steps"))
    if completion is None:
        problem = "missing, and process sets are samples that begin alike; give it, or leave process_sets out."
        raise row.fault("completion", problem)
    scored_rows.check_spans(row, steps, "as process sets are of samples that begin with the same steps")
    return scored_rows.expect(row, "completion", completion, (str,), "text"), steps
