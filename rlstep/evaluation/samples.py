"""Reads any file of scored samples into what best-of-N curves need.

A row is one sample of one problem, in JSONL or Parquet or a folder of such shards::

    {"problem_id": "algebra-17", "answer": "12", "reference": "12", "scores": {"qwen": [0.98, 0.97], "skywork": 0.61}}

    problem_id   text or a whole number; the only field that every row needs
    sample       its number among the problem's samples; a duplicate is an error
    scores       by name, one value per step, or one number for the whole solution; a list or a number without a name
                 is a score named `score`. Null is a solution, or in a list a step, that did not fit into the verifier:
                 the sample has the lowest score, as its last steps are not known, and is left out where single steps
                 are measured
    correct      true or false; if it is null or absent, the answer is graded against the reference
    answer       text or a number; null or blank is a sample without an answer. If the field is absent, or null in a
                 row that is not graded either, the answer is extracted from the completion. Where most samples that
                 the file calls right have none, they are graded by something else (code by its tests), and answers
                 are left out: every sample may be picked, and none votes
    reference    the right answer, the same in all rows of a problem
    completion   the sample's text
    labels       one per step: 1 right, 0 wrong, null unknown, or in between; `neutral`: indices of those rated neutral,
                 which count as right
    steps        the steps; there must be as many scores and labels
    tree         the same for labelled rows that branch off one another: if `steps` are spans [start, end] of
                 `completion`, the steps that they share are measured once
    generated_tokens  how many were generated for the sample, where searches are compared (`equal_tokens`)

`rlstep.evaluation.sample_rows` says in which other forms these may be. NaN, which other programs write for a gap, is
null in every field but the scores. Other fields are ignored. Curves whose data is missing are left out
(`rlstep.evaluation.best_of_n`).
"""

from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rlstep.core.aggregate import LOWEST, Aggregate
from rlstep.evaluation import scored_rows
from rlstep.evaluation.sample_columns import ScoredSamples
from rlstep.evaluation.sample_rows import sample_rows
from rlstep.runtime.errors import UserError
from rlstep.runtime.progress import track
from rlstep.steps.answers import extract, reference_fault, same_answer
from rlstep.steps.records import shown, verdicts_of
from rlstep.steps.sources import Row, iter_rows
from rlstep.steps.trees import Beginnings
from rlstep.verifiers.step_table import StepTable, column

FIELDS = (
    "problem_id", "sample", "scores", "scores.*", "correct", "answer", "reference", "completion", "labels", "neutral",
    "steps", "tree", "generated_tokens",
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
    return read_parts([path], choice, fields, lambda _: "")[""]


def read_parts(
    paths: Sequence[str | Path], choice: ScoreChoice, fields: dict[str, str] | None, part_of: Callable[[Row], str]
) -> dict[str, ScoredSamples]:
    """The samples of several files, divided into parts that are read like a file each, in the order of their first row.

    Samples with the same problem id in different parts are of different problems.

    Args:
        paths: files, or folders of shards.
        choice, fields: as in `read_samples`.
        part_of: the part of a row as it is in its file.

    Raises:
        As `read_samples`.
    """
    parts: dict[str, _Columns] = {}
    for row in track(_rows(paths), "reading", None):
        columns = parts.setdefault(part_of(row), _Columns(choice))
        for sample in sample_rows(row, fields or {}):
            columns.add(sample)
    for name, columns in parts.items():
        columns.refuse_without_scores(paths[0])
        rows = (row for row in _rows(paths) if part_of(row) == name)
        _refuse_repeated(columns, (sample for row in rows for sample in sample_rows(row, fields or {})))
    return {name: columns.sorted() for name, columns in parts.items()}


def _rows(paths: Sequence[str | Path]) -> Iterator[Row]:
    for path in paths:
        yield from iter_rows(path)


class _Columns:
    """The samples in the order of the file."""

    def __init__(self, choice: ScoreChoice):
        self.choice = choice
        self.curves: dict[str, str] = {}
        self._names: set[str] = set()
        self.problems: dict[str, int] = {}
        self._references: dict[str, str] = {}
        self._spellings: dict[str, int] = {}
        self.problem, self._answer = array("i"), array("i")
        self.sample = array("q")  # -1 where the row does not say
        self._correct, self._clean = array("b"), array("b")
        self._scores: dict[str, array] = {}
        self._steps: dict[str, StepTable] = {}
        self._cut: dict[str, int] = {}
        self._beginnings = Beginnings()
        self._labelled = self._open = self._graded = self._extracted = self._right = self._right_unanswered = 0
        self._any_label = self._gives_answers = False

    def add(self, row: Row) -> None:
        """Adds a row, whose fields have our names."""
        scores = scored_rows.scores_of(row)
        self._check_names(row, scores)
        problem_id = scored_rows.problem_id_of(row)
        self.sample.append(scored_rows.sample_of(row))
        self.problem.append(self.problems.setdefault(problem_id, len(self.problems)))
        self._check_reference(row, problem_id)
        correct = self._add_answer(row)
        labels = self._add_labels(row, correct)
        targets = scored_rows.targets_of(row, labels)
        shared = scored_rows.shared_steps(row, labels, self._beginnings)
        for curve, name in self.curves.items():
            values = scored_rows.values_of(row, name, scores)
            if None in values:
                self._scores[curve].append(LOWEST)
                self._cut[curve] = self._cut.get(curve, 0) + 1
                continue
            how, logits = self.choice.how(curve), self.choice.logits
            self._scores[curve].append(scored_rows.aggregated(row, name, values, how, logits))
            if labels and curve != ORM and isinstance(scores[name], list):
                scored_rows.check_length(row, name, len(values), len(labels), "label")
                table = self._steps.setdefault(curve, StepTable())
                table.add(scored_rows.probabilities(values, logits), targets, problem_id, shared)

    def sorted(self) -> ScoredSamples:
        """The samples by problem, in the order of each problem's first row."""
        problem = column(self.problem)
        order = np.argsort(problem, kind="stable")
        sizes = np.bincount(problem, minlength=len(self.problems))
        return ScoredSamples(
            ids=list(self.problems),
            starts=np.concatenate([[0], np.cumsum(sizes)]),
            spellings=list(self._spellings),
            answers=column(self._answer)[order],
            correct=column(self._correct)[order].astype(bool),
            clean=column(self._clean)[order].astype(bool),
            scores={curve: column(values)[order] for curve, values in self._scores.items()},
            aggregates={curve: self.choice.how(curve) for curve in self.curves},
            logits=self.choice.logits,
            steps=self._steps,
            cut=self._cut,
            labelled=self._labelled,
            graded=self._graded,
            extracted=self._extracted,
            right_unanswered=self._right_unanswered if self._gives_answers else 0,
            any_label=self._any_label,
            open=self._open,
            gives_answers=self._gives_answers and not 2 * self._right_unanswered > self._right,
        )

    def refuse_without_scores(self, path: str | Path) -> None:
        """Refuses a score that is null in every row, by which all samples would be equally good."""
        for curve, number in self._cut.items():
            if number == len(self.problem):
                raise UserError(
                    f"{path}: no row has a score of {self.curves[curve]}, it is null in each. Name others with"
                    " scores_of, or score the file."
                )

    def _check_names(self, row: Row, scores: dict) -> None:
        """Takes the curves from the first row, and refuses scores that it does not have."""
        if not self.problem:
            self._names, self.curves = set(scores), self.choice.curves(list(scores))
            _refuse_clashes(row, self.curves)
            self._scores = {curve: array("d") for curve in self.curves}
        elif self.choice.takes_all and (more := sorted(set(scores) - self._names)):
            problem = "the first row has no such score; give every row the same scores, or choose some with scores_of."
            raise row.fault(f"scores.{more[0]}", problem)

    def _check_reference(self, row: Row, problem_id: str) -> None:
        """Refuses two problems under one id, as in a file of several data sets that number their problems alike."""
        reference = scored_rows.value_of(row, "reference")
        if not isinstance(reference, (str, int, float)):
            return  # there is none, or one that grading refuses where it is needed
        reference = str(reference).strip()
        first = self._references.setdefault(problem_id, reference)
        if first != reference and not same_answer(reference, first):
            problem = (
                f"'{reference}', and earlier rows of problem '{problem_id}' have '{first}': two problems have one "
                "problem_id. Make it unique, or evaluate the data sets apart (--domain FIELD, or a file each)."
            )
            raise row.fault("reference", problem)

    def _add_answer(self, row: Row) -> bool:
        """Adds the row's answer and whether it is right, which it returns: as given in the file, else extracted and
        graded here."""
        values, correct = row.values, scored_rows.value_of(row, "correct")
        answer, completion = scored_rows.text_of(row, "answer"), values.get("completion")
        stated = scored_rows.value_of(row, "answer") is not None
        states_answer = "answer" in values and (stated or correct is not None)
        self._gives_answers |= states_answer or completion is not None
        if not states_answer and completion is not None:
            answer = extract(scored_rows.expect(row, "completion", completion, (str,), "text"))
            self._extracted += 1
        if correct is None:
            reference = scored_rows.text_of(row, "reference")
            if reference is None or (completion is None and "answer" not in values):
                problem = (
                    "missing, and there is nothing to grade; give it, or 'reference' and 'answer' or 'completion'. For"
                    f" other names: --fields reference=NAME,answer=NAME. The row has {', '.join(sorted(row.names))}."
                )
                raise row.fault("correct", problem)
            if fault := reference_fault(reference):
                raise row.fault("reference", f"{fault}.")
            correct = answer is not None and same_answer(answer, reference)
            self._graded += 1
        elif correct not in (0, 1):
            raise row.fault("correct", f"expected true or false, got {shown(correct)}.")
        self._right += bool(correct)
        self._right_unanswered += bool(correct) and answer is None
        self._answer.append(-1 if answer is None else self._spellings.setdefault(answer, len(self._spellings)))
        self._correct.append(bool(correct))
        return bool(correct)

    def _add_labels(self, row: Row, correct: bool) -> list[float | None] | None:
        """Adds whether the row is clean; returns its labels."""
        labels = scored_rows.labels_of(row)
        verdicts = verdicts_of(labels, scored_rows.neutral_of(row, labels)) if labels else []
        self._clean.append(correct and bool(verdicts) and all(verdicts))
        self._open += correct and labels is not None and False not in verdicts and not self._clean[-1]
        self._any_label |= any(right is not None for right in verdicts)
        self._labelled += labels is not None
        return labels


def _refuse_clashes(row: Row, curves: dict[str, str]) -> None:
    """Refuses a score whose name is that of another curve, or of another entry of the result."""
    names = ["ns", "majority", "weighted", "pass_at_n", "problems", "samples_per_problem", "unanswered", "aggregate"]
    names += ["errors", "sample", "process_sets"]
    names += [name for curve in curves for name in (f"weighted_{curve}", f"{curve}_clean", f"{curve}_steps")]
    if clash := next((curve for curve in curves if curve in names), None):
        raise UserError(
            f"{row.source}: a score is called '{clash}', which is the name of another result. Rename it:"
            f" --fields scores.NAME=scores.{clash}"
        )


def _refuse_repeated(columns: _Columns, samples: Iterator[Row]) -> None:
    """Refuses two rows with the same sample of the same problem: the first row that repeats another is named.

    Args:
        columns: what was read.
        samples: the same ones, read again where they are needed.
    """
    problem, sample = column(columns.problem), column(columns.sample)
    order = np.lexsort((sample, problem))  # stable: of equal ones the first row comes first
    same = (problem[order[1:]] == problem[order[:-1]]) & (sample[order[1:]] == sample[order[:-1]])
    same &= sample[order[1:]] >= 0
    if not same.any():
        return
    later, earlier = min(zip(order[1:][same].tolist(), order[:-1][same].tolist(), strict=True))
    places = {index: row for index, row in enumerate(samples) if index in (earlier, later)}
    first, row = places[earlier], places[later]
    place = f"row {first.number}" if first.source == row.source else f"{first.source}, row {first.number}"
    name = next(name for name, number in columns.problems.items() if number == problem[later])
    raise row.fault("sample", f"sample {sample[later]} of '{name}' is already in {place}.")
