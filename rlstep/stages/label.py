"""The `label` stage: marks every step and the answer of solutions, or keeps those whose labels two labellers agree on.

Who labels the steps is `by`: a task's exact checker, rollouts of a policy, a teacher or a judge.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from rlstep.runtime.config import settings
from rlstep.runtime.constraints import Idle, MayChange, ReadBy, ReadUnless, check, constraints_of
from rlstep.runtime.record import RunRecord, digest
from rlstep.steps.answers import failed_gradings
from rlstep.steps.boundaries import Boundary, Rule
from rlstep.supervision.options import CheckerOptions, ConsensusOptions, JudgeOptions, MonteCarloOptions, TeacherOptions
from rlstep.supervision.runs import LabelRun, by_checker, by_consensus, by_judge, by_rollouts, by_teacher
from rlstep.tasks import GRADER_HELP, PATTERN_HELP, TASK_HELP, Grader, get, task_faults
from rlstep.verifiers.serving.addresses import is_url

LABELS = ReadUnless("by", "consensus")


@dataclass
class LabelConfig(CheckerOptions, MonteCarloOptions, TeacherOptions, JudgeOptions, ConsensusOptions):
    data: str = field(metadata={"help": "Solutions (JSONL, Parquet or a folder of them)."})
    out: str = field(
        metadata={
            "help": "Where labelled solutions go: NAME.jsonl, or, by checker and teacher, a folder of Parquet shards."
        }
    )
    task: Annotated[str | None, LABELS] = field(
        default=None,
        metadata={
            "help": f"The task whose checker labels, or where others label the steps checks answers. {TASK_HELP}"
        },
    )
    grader: Annotated[Grader, ReadBy("task", "answers")] = field(default="math", metadata={"help": GRADER_HELP})
    answer_pattern: Annotated[str | None, ReadBy("grader", "regex")] = field(
        default=None, metadata={"help": PATTERN_HELP}
    )
    labelled: Annotated[Literal["error", "keep"], LABELS] = field(
        default="error",
        metadata={
            "help": "Solutions that already have step labels, such as human ones: an error, or `keep`: they keep steps"
            " and labels, and only answer and correctness are set. Labels are never replaced."
        },
    )
    task_path: Annotated[str | None, Idle("the problems come with the solutions, and a checker reads no data")] = field(
        default=None, metadata={"help": "Not used here; `rlstep prepare` has it."}
    )
    boundary: Annotated[Rule, LABELS] = field(
        default="line", metadata={"help": "What a step is; checkers that read each step exactly know lines alone."}
    )
    boundary_tag: Annotated[str | None, ReadBy("boundary", "tag")] = field(
        default=None, metadata={"help": "boundary tag: the tag that ends a step."}
    )

    def __post_init__(self):
        check(self, self._faults())
        self.steps = Boundary(self.boundary, self.boundary_tag)

    def _faults(self) -> Iterator[str]:
        if self.task is not None:
            yield from task_faults(self.task, self.grader, self.answer_pattern)
        elif self.by != "consensus":
            yield f"by '{self.by}' needs task, whose checker grades the answers; task: answers grades any"
        if self.flip and self.labelled == "keep":
            yield "flip would flip labels that were there already; leave labelled at error, or flip at 0"
        yield from self._path_faults()
        yield from self.rollout_faults()
        yield from self.teacher_faults()
        yield from self.judge_faults()
        yield from self.consensus_faults()

    def _path_faults(self) -> Iterator[str]:
        """Files that are read and would be replaced, however their paths are spelled."""
        data, out, other, disagreements = (
            None if path is None else Path(path).resolve()
            for path in (self.data, self.out, self.other, self.disagreements)
        )
        if out in (data, other):
            yield f"out is {self.out}, which {'data' if out == data else 'other'} names, too; give another path"
        if other == data:
            yield f"other is {self.other}, the path that data names: a file agrees with itself; give another labeller's"
        if disagreements is not None and disagreements in (data, out, other):
            yield f"disagreements is {self.disagreements}, which data, out or other names, too; give another path"
        if disagreements is not None and disagreements.suffix != ".jsonl":
            yield f"disagreements is {self.disagreements}; its rows are JSON, so its name must end in .jsonl"


def label(config: LabelConfig) -> dict:
    """Writes the solutions of `config.data` with steps, labels, answer and correctness to `config.out`.

    Metrics: counts of `rows`, `steps` and `labelled_steps`; `step_accuracy`, the share of labelled steps that are
    right (neutral ones are); shares of rows: `accuracy` (the answer is right), `clean_accuracy` (and so is every step),
    `unanswered`, `unfinished`; `right_on_wrong_step`, the share of right answers that have a wrong step. By rollouts
    also those of `MonteCarlo.metrics`, by a judge of `JudgedLabels.metrics`, by consensus (of what is kept) of
    `Consensus.metrics`.
    Where there were some, `gradings_stopped` and `grading_errors`.

    Raises:
        UserError: a prompt is not of the task, a solution has no reference answer, has step labels that are not to be
            kept, or scores that belong to other steps; the model that labels cannot be loaded or reached, or has no
            room for a solution; or labellers agree on nothing.
        DataError: a malformed row.
    """
    # A server's sampling is its own.
    out, samples_here = Path(config.out), config.by == "monte_carlo" or config.judge is not None
    seed = config.seed if samples_here else None
    run = LabelRun(config.data, config.out, settings(config), _made_by(config), keeps_labels=config.labelled == "keep")
    with RunRecord("label", settings(config), out.parent, seed, name=out.name + ".run.json") as record:
        if config.by == "consensus":
            record.metrics |= by_consensus(config, run)
            return record.metrics
        task = get(config.task, boundary=config.steps, grader=config.grader, pattern=config.answer_pattern)
        by = {"checker": by_checker, "monte_carlo": by_rollouts, "teacher": by_teacher, "judge": by_judge}
        with failed_gradings() as failed:
            record.metrics |= by[config.by](config, run, task)
        record.metrics |= failed
    return record.metrics


def _made_by(config: LabelConfig) -> str:
    """A digest of what decides the labels, but for the rows: not of paths, nor of what may change in a resumed run."""
    may_change = {
        name
        for name, (_, constraints) in constraints_of(LabelConfig).items()
        if any(isinstance(constraint, MayChange) for constraint in constraints)
    }
    elsewhere = {"data", "out", "teacher"} | may_change
    deciding = {name: value for name, value in settings(config).items() if name not in elsewhere}
    other = Path(config.other) if config.by == "consensus" else None
    return digest(deciding, _model_identity(config), other)


def _model_identity(config: LabelConfig):
    """What tells the model that labels from others; None where none does that is known here."""
    # Imported here, because the checker needs no transformers.
    if config.by == "teacher" and config.teacher is not None:
        from rlstep.verifiers.serving.identity import verifier_identity

        return verifier_identity(config.teacher)
    path = {"monte_carlo": config.policy, "judge": config.judge}.get(config.by)
    if path is None or is_url(path):
        return None
    from rlstep.runtime.checkpoints import checkpoint_files

    return checkpoint_files(path)
