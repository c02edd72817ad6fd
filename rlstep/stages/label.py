"""The `label` stage: marks every step and the answer of solutions, or keeps those whose labels two labellers agree on.

Who labels the steps is `by`: a task's exact checker, rollouts of a policy, a teacher or a judge.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Annotated, Literal

from rlstep.runtime.config import settings
from rlstep.runtime.constraints import Idle, MayChange, ReadBy, ReadUnless, check, constraints_of
from rlstep.runtime.progress import track
from rlstep.runtime.record import RunRecord, digest
from rlstep.runtime.rows import ResumableRows
from rlstep.steps.answers import failed_gradings
from rlstep.steps.boundaries import Boundary, Rule
from rlstep.steps.prompt_options import BY_CHECKPOINT, written_as
from rlstep.steps.prompts import PromptFormat
from rlstep.steps.records import Solution, iter_solutions
from rlstep.supervision.checker import (
    has_step_labels,
    label_metrics,
    label_solution,
    name_of,
    refuse_step_labels,
)
from rlstep.supervision.options import ConsensusOptions, JudgeOptions, MonteCarloOptions, TeacherOptions
from rlstep.supervision.runs import by_consensus, by_judge, by_teacher
from rlstep.tasks import GRADER_HELP, PATTERN_HELP, TASK_HELP, Grader, get, task_faults
from rlstep.tasks.base import Task

# Rows made durable at a time: a kill loses less than a second of work.
CHUNK = 256
LABELS = ReadUnless("by", "consensus")


@dataclass
class LabelConfig(MonteCarloOptions, TeacherOptions, JudgeOptions, ConsensusOptions):
    data: str = field(metadata={"help": "Solutions (JSONL)."})
    out: str = field(metadata={"help": "Where the labelled solutions go (JSONL)."})
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
        yield from self.rollout_faults()
        yield from self.teacher_faults()
        yield from self.judge_faults()
        yield from self.consensus_faults()
        if self.disagreements in (self.data, self.out, self.other) and self.disagreements is not None:
            yield f"disagreements is {self.disagreements}, which data, out or other names, too; give another path"


def label(config: LabelConfig) -> dict:
    """Writes the solutions of `config.data` with steps, labels, answer and correctness to `config.out`.

    Metrics: counts of `rows`, `steps` and `labelled_steps`; `step_accuracy`, the share of labelled steps that are
    right; shares of rows: `accuracy` (the answer is right), `clean_accuracy` (and so is every step), `unanswered`,
    `unfinished`; `right_on_wrong_step`, the share of right answers that have a wrong step. By rollouts also those of
    `MonteCarlo.metrics`, by a judge of `JudgedLabels.metrics`, by consensus (of what is kept) of `Consensus.metrics`.
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
    with (
        RunRecord("label", settings(config), out.parent, seed, name=out.name + ".run.json") as record,
        ResumableRows(out, _fingerprint(config)) as rows,
    ):
        if config.by == "consensus":
            record.metrics |= by_consensus(config, config.data, rows)
            return record.metrics
        task = get(config.task, boundary=config.steps, grader=config.grader, pattern=config.answer_pattern)
        # A first pass over the file finds a malformed last row before an hour of labelling, not after.
        total = 0
        for solution in iter_solutions(config.data, need=("reference",)):
            total += 1
            if config.labelled == "error":
                refuse_step_labels(solution, config.data)
        by = {"checker": _by_checker, "monte_carlo": _by_rollouts, "teacher": by_teacher, "judge": by_judge}
        with failed_gradings() as failed:
            record.metrics |= by[config.by](config, config.data, task, rows, total)
        record.metrics |= failed
    return record.metrics


def _by_checker(config: LabelConfig, data: str, task: Task, rows: ResumableRows, total: int) -> dict:
    done = len(rows.rows)
    todo = islice(iter_solutions(data), done, None)
    for chunk in track(_chunks(todo), "labelling", total, done, weight=len):
        rows.append(label_solution(task, solution, data).to_row() for solution in chunk)
    rows.finish()
    return label_metrics(Solution(**row) for row in rows.rows)


def _by_rollouts(config: LabelConfig, data: str, task: Task, journal: ResumableRows, total: int) -> dict:
    """As long as it runs, the partial file holds what became of each batch of rollouts."""
    # Here, because the checker needs no torch.
    from rlstep.policy.continuations import Continuer
    from rlstep.policy.models import device, load_policy, load_policy_config, load_policy_tokenizer
    from rlstep.supervision.monte_carlo import MonteCarlo
    from rlstep.verifiers.vocabulary import check_vocabulary

    tokenizer = load_policy_tokenizer(config.policy, config.trust_remote_code)
    policy_config = load_policy_config(config.policy, config.trust_remote_code)
    check_vocabulary(tokenizer, policy_config, generates=True)
    model = load_policy(config.policy, config.dtype, config.trust_remote_code).to(device()).eval()
    sampling = {name: getattr(config, name) for name in ("max_new_tokens", "temperature", "top_p", "top_k")}
    solutions, unlabelled = [], []
    for given in track(iter_solutions(data), "grading", total):
        solutions.append(label_solution(task, given, data))
        if not has_step_labels(given):
            unlabelled.append(len(solutions) - 1)
    todo = [solutions[row] for row in unlabelled]
    continuer = Continuer(model, tokenizer, **sampling, prompt_format=_prompt_format(config.policy, tokenizer, todo))
    for start in range(0, len(todo), CHUNK):
        chunk = todo[start : start + CHUNK]
        names = [name_of(solution, data) for solution in chunk]
        continuer.check_room([(solution.prompt, solution.completion) for solution in chunk], names)
    rollouts = MonteCarlo(task, todo, config, continuer.draw, journal)
    for _ in track(rollouts.run(), "labelling", len(todo), weight=int):
        pass
    for row, labels in zip(unlabelled, rollouts.labels(), strict=True):
        solutions[row] = replace(solutions[row], labels=labels)
    journal.finish(solution.to_row() for solution in solutions)
    return label_metrics(solutions) | rollouts.metrics()


def _fingerprint(config: LabelConfig) -> str:
    """Of all that decides what a run writes: not of its path, nor of what may change in a resumed run."""
    may_change = {
        name
        for name, (_, constraints) in constraints_of(LabelConfig).items()
        if any(isinstance(constraint, MayChange) for constraint in constraints)
    }
    asked = {name: value for name, value in settings(config).items() if name not in {"data", "out"} | may_change}
    models = {"monte_carlo": config.policy, "teacher": config.teacher, "judge": config.judge}
    other = Path(config.other) if config.by == "consensus" else None
    return digest(Path(config.data), asked, _model_files(models.get(config.by)), other)


def _model_files(path: str | None) -> list[tuple[str, int, int]] | None:
    """None where no model of this machine labels."""
    if path is None or path.lower().startswith(("http://", "https://")):
        return None
    # Here, because the checker needs no transformers.
    from rlstep.runtime.checkpoints import checkpoint_files

    return checkpoint_files(path)


def _chunks(solutions: Iterator[Solution]) -> Iterator[list[Solution]]:
    while chunk := list(islice(solutions, CHUNK)):
        yield chunk


def _prompt_format(policy: str, tokenizer, solutions: list[Solution]) -> PromptFormat:
    """How prompts are written for the policy: as it was taught, else as they were for whoever wrote the solutions."""
    from rlstep.policy.prompt_files import read_prompt_format

    taught = read_prompt_format(policy)
    if taught is None and (written := written_as(solutions)) is not None:
        # Another model may have written them, with a chat template of its own.
        taught = replace(written, template=None, vocabulary=None)
    return BY_CHECKPOINT.for_model(tokenizer, [solution.prompt for solution in solutions], taught, policy)
