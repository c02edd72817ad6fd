"""The `label` stage: marks every step and the answer of solutions, by a task's exact checker or by rollouts."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

from rlstep.runtime.config import settings
from rlstep.runtime.constraints import Idle, ReadBy, check
from rlstep.runtime.errors import UserError
from rlstep.runtime.output import Done, Output, is_one_file
from rlstep.runtime.processes import launched_processes
from rlstep.runtime.progress import track
from rlstep.runtime.record import RunRecord, digest
from rlstep.runtime.rows import ResumableRows
from rlstep.runtime.units import Unit
from rlstep.steps.answers import failed_gradings
from rlstep.steps.boundaries import Boundary, Rule
from rlstep.steps.chunks import chunk_units, chunks_of
from rlstep.steps.prompt_options import BY_CHECKPOINT, written_as
from rlstep.steps.prompts import PromptFormat
from rlstep.steps.records import Solution, iter_solutions, write_solution_rows
from rlstep.steps.sources import iter_rows
from rlstep.supervision.checker import has_step_labels, label_metrics, label_solution, name_of, refuse_step_labels
from rlstep.supervision.options import MonteCarloOptions
from rlstep.tasks import GRADER_HELP, PATTERN_HELP, TASK_HELP, Grader, get, task_faults
from rlstep.tasks.base import Task

# Rows made durable at a time, a shard of a folder: a kill loses seconds of work.
CHUNK = 512


@dataclass
class LabelConfig(MonteCarloOptions):
    data: str = field(metadata={"help": "Solutions (JSONL, Parquet or a folder of them)."})
    out: str = field(
        metadata={"help": "Where labelled solutions go: NAME.jsonl, or, by the checker, a folder of Parquet shards."}
    )
    task: str = field(metadata={"help": f"The task whose checker labels, or with rollouts checks answers. {TASK_HELP}"})
    grader: Annotated[Grader, ReadBy("task", "answers")] = field(default="math", metadata={"help": GRADER_HELP})
    answer_pattern: Annotated[str | None, ReadBy("grader", "regex")] = field(
        default=None, metadata={"help": PATTERN_HELP}
    )
    labelled: Literal["error", "keep"] = field(
        default="error",
        metadata={
            "help": "Solutions that already have step labels, such as human ones: an error, or `keep`: they keep steps"
            " and labels, and only answer and correctness are set. Labels are never replaced."
        },
    )
    task_path: Annotated[str | None, Idle("the problems come with the solutions, and a checker reads no data")] = field(
        default=None, metadata={"help": "Not used here; `rlstep prepare` has it."}
    )
    boundary: Rule = field(
        default="line", metadata={"help": "What a step is; checkers that read each step exactly know lines alone."}
    )
    boundary_tag: Annotated[str | None, ReadBy("boundary", "tag")] = field(
        default=None, metadata={"help": "boundary tag: the tag that ends a step."}
    )

    def __post_init__(self):
        check(self, [*task_faults(self.task, self.grader, self.answer_pattern), *self.rollout_faults()])
        self.steps = Boundary(self.boundary, self.boundary_tag)


def label(config: LabelConfig) -> dict:
    """Writes the solutions of `config.data` with steps, labels, answer and correctness to `config.out`.

    Metrics: counts of `rows`, `steps` and `labelled_steps`; `step_accuracy`, the share of labelled steps that are
    right; shares of rows: `accuracy` (the answer is right), `clean_accuracy` (and so is every step), `unanswered`,
    `unfinished`; `right_on_wrong_step`, the share of right answers that have a wrong step. By rollouts also those of
    `MonteCarlo.metrics`. Where there were some, `gradings_stopped` and `grading_errors`.

    Raises:
        UserError: a prompt is not of the task, a solution has no reference answer, has step labels that are not to be
            kept, or scores that belong to other steps; the policy cannot be loaded, or has no room for a continuation.
        DataError: a malformed row.
    """
    task = get(config.task, boundary=config.steps, grader=config.grader, pattern=config.answer_pattern)
    out, seed = Path(config.out), config.seed if config.by == "monte_carlo" else None
    by = _by_checker if config.by == "checker" else _by_rollouts
    with RunRecord("label", settings(config), out.parent, seed, name=out.name + ".run.json") as record:
        with failed_gradings() as failed:
            record.metrics |= by(config, task)
        record.metrics |= failed
    return record.metrics


def _asked(config: LabelConfig) -> dict:
    """The settings that labels depend on: all but the paths; a budget only ends a run."""
    return {name: value for name, value in settings(config).items() if name not in ("data", "out", "token_budget")}


def _solutions(config: LabelConfig) -> Iterator[Solution]:
    """The solutions to be labelled.

    A first pass over the data finds a malformed last row before an hour of labelling, not after.
    """
    for solution in iter_solutions(config.data, need=("reference",)):
        if config.labelled == "error":
            refuse_step_labels(solution, config.data)
        yield solution


def _by_checker(config: LabelConfig, task: Task) -> dict:
    """Several processes label together, each every so many-th chunk; the output is that of `rlstep.runtime.output`."""
    processes = launched_processes()
    output = Output(config.out, "label", settings(config), write_solution_rows, processes)
    output.check_place(sources=(config.data,))
    units = list(chunk_units(_solutions(config), CHUNK, digest(_asked(config))))

    def work(mine: list[Unit]) -> Iterator[Done]:
        chunks = chunks_of(iter_rows(config.data), units, (unit.number for unit in mine))
        rows = sum(unit.rows for unit in mine)
        for unit, chunk in track(chunks, "labelling", rows, weight=lambda chunk: chunk[0].rows):
            yield Done(unit, (label_solution(task, one.solution, config.data).to_row() for one in chunk))

    output.fill(units, work)
    # Steps that solutions of a tree share are counted once, so the metrics are of all rows together.
    return label_metrics(iter_solutions(config.out)) if processes.index == 0 else {}


def _by_rollouts(config: LabelConfig, task: Task) -> dict:
    """As long as it runs, the partial file holds what became of each batch of rollouts."""
    if launched_processes().number > 1 or not is_one_file(config.out):
        raise UserError(
            f"out is {config.out}: rollouts are drawn by one process, into one file. Give NAME.jsonl, and start label "
            "without a launcher."
        )
    # What a run writes depends on all but its path.
    fingerprint = digest(Path(config.data), _asked(config), _policy_files(config.policy))
    with ResumableRows(config.out, fingerprint) as journal:
        return _rolled_out(config, task, journal, sum(1 for _ in _solutions(config)))


def _rolled_out(config: LabelConfig, task: Task, journal: ResumableRows, total: int) -> dict:
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
    for given in track(iter_solutions(config.data), "grading", total):
        solutions.append(label_solution(task, given, config.data))
        if not has_step_labels(given):
            unlabelled.append(len(solutions) - 1)
    todo = [solutions[row] for row in unlabelled]
    continuer = Continuer(model, tokenizer, **sampling, prompt_format=_prompt_format(config.policy, tokenizer, todo))
    for start in range(0, len(todo), CHUNK):
        chunk = todo[start : start + CHUNK]
        names = [name_of(solution, config.data) for solution in chunk]
        continuer.check_room([(solution.prompt, solution.completion) for solution in chunk], names)
    rollouts = MonteCarlo(task, todo, config, continuer.draw, journal)
    for _ in track(rollouts.run(), "labelling", len(todo), weight=int):
        pass
    for row, labels in zip(unlabelled, rollouts.labels(), strict=True):
        solutions[row] = replace(solutions[row], labels=labels)
    journal.finish(solution.to_row() for solution in solutions)
    return label_metrics(solutions) | rollouts.metrics()


def _policy_files(path: str) -> list[tuple[str, int, int]]:
    from rlstep.runtime.checkpoints import checkpoint_files

    return checkpoint_files(path)


def _prompt_format(policy: str, tokenizer, solutions: list[Solution]) -> PromptFormat:
    """How prompts are written for the policy: as it was taught, else as they were for whoever wrote the solutions."""
    from rlstep.policy.prompt_files import read_prompt_format

    taught = read_prompt_format(policy)
    if taught is None and (written := written_as(solutions)) is not None:
        # Another model may have written them, with a chat template of its own.
        taught = replace(written, template=None, vocabulary=None)
    return BY_CHECKPOINT.for_model(tokenizer, [solution.prompt for solution in solutions], taught, policy)
