"""Reads any file of scored samples into what best-of-N curves need.

A row is one sample of one problem, in JSONL or Parquet or a folder of such shards::

    {"problem_id": "algebra-17", "answer": "12", "reference": "12", "scores": {"qwen": [0.98, 0.97], "skywork": 0.61}}

    problem_id   text or a whole number; the only field that every row needs
    sample       its number among the problem's samples; a duplicate is an error
    scores       by name, one value per step, or one number for the whole solution; a list or a number without a name
                 is a score named `score`
    correct      true or false; if it is null or absent, the answer is graded against the reference
    answer       text or a number; null or blank is a sample without an answer. If the field is absent, or null in a
                 row that is not graded either, the answer is extracted from the completion
    reference    the right answer
    completion   the sample's text
    labels       one per step: 1 right, 0 wrong, null unknown, or in between; `neutral`: indices of those rated neutral
    steps        the steps; there must be as many scores and labels
    tree         the same for labelled rows that branch off one another: if `steps` are spans [start, end] of
                 `completion`, the steps that they share are measured once

Other fields are ignored. Curves whose data is missing are left out (`rlstep.evaluation.best_of_n`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rlstep.core.aggregate import Aggregate
from rlstep.evaluation import scored_rows
from rlstep.runtime.errors import DataError, UserError
from rlstep.runtime.progress import track
from rlstep.steps.answers import extract, same_answer
from rlstep.steps.fields import rename_fields
from rlstep.steps.records import shown
from rlstep.steps.sources import Row, iter_rows
from rlstep.steps.trees import Beginnings
from rlstep.verifiers.metrics import RowScores

FIELDS = (
    "problem_id", "sample", "scores", "scores.*", "correct", "answer", "reference", "completion", "labels", "neutral",
    "steps", "tree",
)  # fmt: skip
PRM, ORM = "prm", "orm"


@dataclass(frozen=True)
class ScoreChoice:
    """Which of a file's scores are evaluated, and how.

    Attributes:
        prm, orm: names of the scores whose curves are called prm and orm; None: the scores with these names.
        names: the other scores to evaluate; None: every one in the file, or only prm and orm if either was given.
        aggregate: how a solution's score is computed from its values per step; for the ORM it is the last.
        logits: whether the values are log-odds rather than probabilities.
    """

    prm: str | None = None
    orm: str | None = None
    names: Sequence[str] | None = None
    aggregate: Aggregate = "product"
    logits: bool = False

    def curves(self, present: Sequence[str]) -> dict[str, str]:
        """Curve -> score, for a file that has the scores `present`."""
        curves = {role: name for role, name in ((PRM, self.prm), (ORM, self.orm)) if name is not None}
        others = present if self.names is None else self.names
        if curves and self.names is None:
            others = [name for name in present if name in (PRM, ORM)]
        others = [name for name in others if name not in curves and name not in curves.values()]
        curves |= {name: name for name in others}
        return {curve: curves[curve] for curve in sorted(curves, key=lambda curve: (curve != PRM, curve != ORM))}

    @property
    def takes_all(self) -> bool:
        return self.prm is self.orm is self.names is None

    def how(self, curve: str) -> Aggregate:
        return "last" if curve == ORM else self.aggregate


@dataclass
class Samples:
    """The samples of one problem as columns; only what the curves need, so that large files fit in memory.

    Attributes:
        answers: as text; None for a sample without one.
        correct: whether the answer is right.
        clean: whether the answer and every step are right.
        scores: by curve, solution scores (`rlstep.core.aggregate`).
    """

    answers: list[str | None] = field(default_factory=list)
    correct: list[bool] = field(default_factory=list)
    clean: list[bool] = field(default_factory=list)
    scores: dict[str, list[float]] = field(default_factory=dict)


@dataclass
class ScoredSamples:
    """A file's samples, and which fields it has.

    Attributes:
        problems: by id.
        aggregates: by curve, how its solution scores were computed.
        steps: by curve, except the ORM's, the values per step of each labelled solution, with its PRM training targets.
        rows: number of rows; of these, `labelled` have labels, `graded` were graded here, and `extracted` had their
            answer extracted here.
        any_label: whether the label of any step is known.
        gives_answers: whether any row states its answer, or that it has none; if none does, every sample may be picked.
    """

    problems: dict[str, Samples] = field(default_factory=dict)
    aggregates: dict[str, Aggregate] = field(default_factory=dict)
    steps: dict[str, list[RowScores]] = field(default_factory=dict)
    rows: int = 0
    labelled: int = 0
    graded: int = 0
    extracted: int = 0
    any_label: bool = False
    gives_answers: bool = False

    @property
    def answered(self) -> int:
        """Rows with an answer."""
        return sum(answer is not None for samples in self.problems.values() for answer in samples.answers)

    @property
    def has_clean(self) -> bool:
        """Whether the labels say which solutions are right in every step."""
        return self.any_label and self.labelled == self.rows


def read_samples(path: str | Path, choice: ScoreChoice, fields: dict[str, str] | None = None) -> ScoredSamples:
    """A file's samples, by problem.

    Args:
        path: the file, or a folder of shards.
        choice: which scores to use.
        fields: our names of fields -> the file's (`rlstep.steps.fields`).

    Raises:
        DataError: a row that lacks its problem's id, one of the scores or what is needed to grade it; values of another
            type than the module docstring says; a duplicate sample.
        UserError: a score has the name of another curve.
    """
    scored, curves, names, first_rows, beginnings = ScoredSamples(), {}, set(), {}, Beginnings()
    for row in track(iter_rows(path), "reading", None):
        row = rename_fields(row, fields or {})
        scores = scored_rows.scores_of(row)
        if not scored.rows:
            names, curves = set(scores), choice.curves(list(scores))
            _refuse_clashes(row, curves)
            scored.aggregates = {curve: choice.how(curve) for curve in curves}
        elif choice.takes_all and (more := sorted(set(scores) - names)):
            problem = "the first row has no such score; give every row the same scores, or choose some with scores_of."
            raise DataError(row.source, row.number, f"scores.{more[0]}", problem)
        problem_id = scored_rows.problem_id_of(row)
        _refuse_repeated(row, problem_id, first_rows)
        samples = scored.problems.setdefault(problem_id, Samples(scores={curve: [] for curve in curves}))
        _add_answer(row, samples, scored)
        labels = _add_labels(row, samples, scored)
        targets, shared = scored_rows.targets_of(row, labels), scored_rows.shared_steps(row, labels, beginnings)
        for curve, name in curves.items():
            probs = scored_rows.probabilities(row, name, scores, choice.logits)
            samples.scores[curve].append(scored_rows.aggregated(row, name, probs, choice.how(curve)))
            if labels is not None and curve != ORM and isinstance(scores[name], list):
                scored_rows.check_length(row, name, len(probs), len(labels), "labels")
                measured = RowScores([min(p, 1.0) for p in probs], targets, problem_id, shared)
                scored.steps.setdefault(curve, []).append(measured)
        scored.rows += 1
    return scored


def _refuse_clashes(row: Row, curves: dict[str, str]) -> None:
    """Refuses a score whose name is that of another curve, or of another entry of the result."""
    names = ["ns", "majority", "weighted", "pass_at_n", "problems", "samples_per_problem", "unanswered", "aggregate"]
    names += ["errors", "sample"]
    names += [name for curve in curves for name in (f"weighted_{curve}", f"{curve}_clean", f"{curve}_steps")]
    if clash := next((curve for curve in curves if curve in names), None):
        raise UserError(
            f"{row.source}: a score is called '{clash}', which is the name of another result. Rename it:"
            f" --fields scores.NAME=scores.{clash}"
        )


def _refuse_repeated(row: Row, problem_id: str, first_rows: dict[tuple[str, int], tuple[str, int]]) -> None:
    if (sample := row.values.get("sample")) is None:
        return
    scored_rows.expect(row, "sample", sample, (int,), "a whole number")
    source, number = first_rows.setdefault((problem_id, sample), (row.source, row.number))
    if (source, number) != (row.source, row.number):
        place = f"row {number}" if source == row.source else f"{source}, row {number}"
        problem = f"sample {sample} of '{problem_id}' is already in {place}."
        raise DataError(row.source, row.number, "sample", problem)


def _add_answer(row: Row, samples: Samples, scored: ScoredSamples) -> None:
    """Adds the row's answer and whether it is right: as given in the file, else extracted and graded here."""
    values, correct = row.values, row.values.get("correct")
    answer, completion = scored_rows.text_of(row, "answer"), values.get("completion")
    states_answer = "answer" in values and (values["answer"] is not None or correct is not None)
    scored.gives_answers |= states_answer or completion is not None
    if not states_answer and completion is not None:
        answer = extract(scored_rows.expect(row, "completion", completion, (str,), "text"))
        scored.extracted += 1
    if correct is None:
        reference = scored_rows.text_of(row, "reference")
        if reference is None or (completion is None and "answer" not in values):
            problem = (
                "missing, and there is nothing to grade; give it, or 'reference' and 'answer' or 'completion'. For"
                f" other names: --fields reference=NAME,answer=NAME. The row has {', '.join(sorted(values))}."
            )
            raise DataError(row.source, row.number, "correct", problem)
        correct = answer is not None and same_answer(answer, reference)
        scored.graded += 1
    elif correct not in (0, 1):
        raise DataError(row.source, row.number, "correct", f"expected true or false, got {shown(correct)}.")
    samples.answers.append(answer)
    samples.correct.append(bool(correct))


def _add_labels(row: Row, samples: Samples, scored: ScoredSamples) -> list[float | None] | None:
    """Adds whether the row, whose answer was added before, is clean; returns its labels."""
    labels = scored_rows.labels_of(row)
    samples.clean.append(samples.correct[-1] and bool(labels) and all(label == 1 for label in labels))
    scored.any_label |= any(label is not None for label in labels or ())
    scored.labelled += labels is not None
    return labels
