"""Runs of the labellers over a data set: checker, teacher, rollouts, a judge, the consensus of two.

A killed run continues. Checker and teacher label chunk by chunk, by any number of processes (`rlstep.runtime.output`);
rollouts and judges, which ask about steps in an order of their own, keep a journal until all is known.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rlstep.runtime.errors import UserError
from rlstep.runtime.output import Output, is_one_file
from rlstep.runtime.processes import launched_processes
from rlstep.runtime.progress import track
from rlstep.runtime.record import digest
from rlstep.runtime.resumable_rows import ResumableRows
from rlstep.runtime.rows import write_rows
from rlstep.runtime.unit_files import Done
from rlstep.runtime.units import Unit
from rlstep.steps.chunks import chunk_units, chunks_of
from rlstep.steps.prompt_options import BY_CHECKPOINT, written_as
from rlstep.steps.prompts import PromptFormat
from rlstep.steps.records import Solution, iter_solutions, write_solution_rows
from rlstep.steps.sources import iter_rows
from rlstep.supervision.checker import (
    grade_solution,
    has_step_labels,
    label_metrics,
    label_solution,
    name_of,
    refuse_step_labels,
)
from rlstep.supervision.consensus import Consensus
from rlstep.supervision.flips import flip_labels
from rlstep.supervision.judge import JudgedLabels, open_judge
from rlstep.supervision.options import CheckerOptions, ConsensusOptions, JudgeOptions, MonteCarloOptions, TeacherOptions
from rlstep.supervision.teacher import TeacherLabels, open_teacher
from rlstep.tasks.base import Task

# Rows made durable at a time, a shard of a folder: a kill loses seconds of work.
CHUNK = 512

Label = Callable[[Sequence[Solution]], list[Solution]]


@dataclass(frozen=True)
class LabelRun:
    """What is labelled, to where.

    Attributes:
        data: solutions; a file or a folder of shards.
        out: NAME.jsonl, or a folder of shards.
        settings: of the run, for the folder's manifest.
        made_by: a digest of what decides the labels, but for the rows.
        keeps_labels: whether solutions that have step labels keep them; else they are refused.
    """

    data: str
    out: str
    settings: dict
    made_by: str
    keeps_labels: bool

    def solutions(self) -> Iterator[Solution]:
        """The solutions to be labelled.

        A first pass over the data finds a malformed last row before an hour of labelling, not after.
        """
        for solution in iter_solutions(self.data, need=("reference",)):
            if not self.keeps_labels:
                refuse_step_labels(solution, self.data)
            yield solution

    def refuse_shards(self, what: str) -> None:
        """Refuses several processes, and a folder, where one process writes one file.

        Args:
            what: is done so, for the message.
        """
        if launched_processes().number > 1 or not is_one_file(self.out):
            raise UserError(
                f"out is {self.out}: {what} by one process, in one file. Give NAME.jsonl, and start label without a "
                "launcher."
            )

    def journal(self) -> ResumableRows:
        """Where a labeller keeps what it was told until all labels are known; it ends as the output."""
        return ResumableRows(self.out, digest(self.made_by, Path(self.data)))


def by_checker(options: CheckerOptions, run: LabelRun, task: Task) -> dict:
    """Labels by the task's exact checker; returns their metrics.

    Args:
        options: how many of its labels are flipped.
        run: what is labelled.
        task: whose checker.
    """

    def label(chunk: list[Solution]) -> list[Solution]:
        labelled = [label_solution(task, solution, run.data) for solution in chunk]
        return [flip_labels(solution, options.flip) for solution in labelled] if options.flip else labelled

    return _by_chunks(run, lambda: label)


def by_teacher(options: TeacherOptions, run: LabelRun, task: Task) -> dict:
    """Labels by a PRM; returns their metrics.

    Args:
        options: which, and how its probabilities become labels.
        run: what is labelled.
        task: grades answers, and says what a step is.
    """

    def opened() -> Label:
        teacher = TeacherLabels(options, open_teacher(options, task.boundary), run.data)
        return lambda chunk: teacher.label([grade_solution(task, solution, run.data) for solution in chunk])

    return _by_chunks(run, opened)


def _by_chunks(run: LabelRun, open_labeller: Callable[[], Label]) -> dict:
    """Several processes label together: each of R processes takes every R-th chunk.

    Args:
        run: what is labelled.
        open_labeller: called in each process that has something to do.
    """
    processes = launched_processes()
    output = Output(run.out, "label", run.settings, write_solution_rows, processes)
    output.check_place(sources=(run.data,))
    units = list(chunk_units(run.solutions(), CHUNK, run.made_by))

    def work(mine: list[Unit]) -> Iterator[Done]:
        labelled = open_labeller()
        chunks = chunks_of(iter_rows(run.data), units, (unit.number for unit in mine))
        rows = sum(unit.rows for unit in mine)
        for unit, chunk in track(chunks, "labelling", rows, weight=lambda chunk: chunk[0].rows):
            yield Done(unit, (solution.to_row() for solution in labelled([one.solution for one in chunk])))

    output.fill(units, work)
    # Steps that solutions of a tree share are counted once, so the metrics are of all rows together.
    return label_metrics(iter_solutions(run.out)) if processes.index == 0 else {}


def by_rollouts(options: MonteCarloOptions, run: LabelRun, task: Task) -> dict:
    """Labels by rollouts of a policy; as long as it runs, the journal holds what became of each batch of them."""
    # Here, because the checker needs no torch.
    from rlstep.policy.continuations import Continuer
    from rlstep.policy.models import device, load_policy, load_policy_config, load_policy_tokenizer
    from rlstep.supervision.monte_carlo import MonteCarlo
    from rlstep.verifiers.vocabulary import check_vocabulary

    run.refuse_shards("rollouts are drawn")
    with run.journal() as journal:
        solutions, unlabelled = _graded(run, lambda given: label_solution(task, given, run.data))
        tokenizer = load_policy_tokenizer(options.policy, options.trust_remote_code)
        policy_config = load_policy_config(options.policy, options.trust_remote_code)
        check_vocabulary(tokenizer, policy_config, generates=True)
        model = load_policy(options.policy, options.dtype, options.trust_remote_code).to(device()).eval()
        sampling = {name: getattr(options, name) for name in ("max_new_tokens", "temperature", "top_p", "top_k")}
        todo = [solutions[row] for row in unlabelled]
        written = _prompt_format(options.policy, tokenizer, todo)
        continuer = Continuer(model, tokenizer, **sampling, prompt_format=written)
        for start in range(0, len(todo), CHUNK):
            chunk = todo[start : start + CHUNK]
            names = [name_of(solution, run.data) for solution in chunk]
            continuer.check_room([(solution.prompt, solution.completion) for solution in chunk], names)
        rollouts = MonteCarlo(task, todo, options, continuer.draw, journal)
        for _ in track(rollouts.run(), "labelling", len(todo), weight=int):
            pass
        return _finish(journal, solutions, unlabelled, rollouts.labels()) | rollouts.metrics()


def by_judge(options: JudgeOptions, run: LabelRun, task: Task) -> dict:
    """Labels by a chat model; as long as it runs, the journal holds the verdicts that were given."""
    run.refuse_shards("a judge's verdicts are written")
    with run.journal() as journal:
        solutions, unlabelled = _graded(run, lambda given: grade_solution(task, given, run.data))
        judged = JudgedLabels([solutions[row] for row in unlabelled], options, journal, run.data)
        if judged.open:
            judged.run(open_judge(options))
        judged.warn_of_unread()
        return _finish(journal, solutions, unlabelled, judged.labels()) | judged.metrics()


def _graded(run: LabelRun, grade: Callable[[Solution], Solution]) -> tuple[list[Solution], list[int]]:
    """The solutions with their grades, and the indices of those without step labels."""
    solutions, unlabelled = [], []
    for given in track(run.solutions(), "grading", None):
        solutions.append(grade(given))
        if not has_step_labels(given):
            unlabelled.append(len(solutions) - 1)
    return solutions, unlabelled


def _finish(
    journal: ResumableRows, solutions: list[Solution], unlabelled: list[int], labels: list[list[float | None]]
) -> dict:
    """Writes the solutions with their labels; returns the labels' metrics."""
    for row, of_row in zip(unlabelled, labels, strict=True):
        solutions[row] = replace(solutions[row], labels=of_row)
    journal.finish(solution.to_row() for solution in solutions)
    return label_metrics(solutions)


def by_consensus(options: ConsensusOptions, run: LabelRun) -> dict:
    """Keeps the solutions whose first error another file of labels sees at the same place.

    Raises:
        UserError: as `Consensus.compare`; or there are none.
    """
    run.refuse_shards("the consensus of two files is kept")
    consensus = Consensus(run.data, options.other)
    kept: list[Solution] = []
    aside: list[Solution] = []
    for solution, agreed in track(consensus.compare(), "comparing", None):
        (kept if agreed else aside).append(solution)
    if options.disagreements is not None:
        write_rows(options.disagreements, (solution.to_row() for solution in aside))
    metrics = label_metrics(kept) | consensus.metrics()
    if not kept:
        raise UserError(
            f"{run.data} and {options.other} agree on no solution: {metrics['compared']} were compared, and of "
            f"{metrics['undecided']} a labeller leaves the first error open."
        )
    write_rows(run.out, (solution.to_row() for solution in kept))
    return metrics


def _prompt_format(policy: str, tokenizer, solutions: list[Solution]) -> PromptFormat:
    """How prompts are written for the policy: as it was taught, else as in the solutions."""
    from rlstep.policy.prompt_files import read_prompt_format

    taught = read_prompt_format(policy)
    if taught is None and (written := written_as(solutions)) is not None:
        # Another model may have written them, with a chat template of its own.
        taught = replace(written, template=None, vocabulary=None)
    return BY_CHECKPOINT.for_model(tokenizer, [solution.prompt for solution in solutions], taught, policy)
