"""Step labels by a judge: a chat model that is asked, for each solution, for the first wrong step, k times at most.

Every batch of verdicts leaves one row in a journal; a killed run reads it and judges the rest.
"""

import logging
from collections.abc import Sequence

from rlstep.runtime.counted import counted
from rlstep.runtime.errors import UserError
from rlstep.runtime.progress import track
from rlstep.runtime.resumable_rows import ResumableRows
from rlstep.steps.prompts import Message, problem_text
from rlstep.steps.records import Solution
from rlstep.supervision.checker import name_of
from rlstep.supervision.judges import Case, Judge, Judged, LocalJudge, RemoteJudge
from rlstep.supervision.options import JudgeOptions
from rlstep.supervision.verdicts import Ballot, question

logger = logging.getLogger(__name__)


class JudgedLabels:
    """Labels solutions by a judge; `run` asks it, and `labels` are there afterwards.

    Args:
        solutions: with steps.
        options: what is asked for.
        journal: one row per batch of verdicts; those of an earlier run are not asked for again.
        path: the solutions' file, for messages.
    """

    def __init__(self, solutions: Sequence[Solution], options: JudgeOptions, journal: ResumableRows, path: str):
        self.solutions, self.options, self.journal = solutions, options, journal
        self.cases = [
            Case(row, _prompt(solution), len(solution.steps), name_of(solution, path))
            for row, solution in enumerate(solutions)
            if solution.steps
        ]
        self.ballots: dict[int, Ballot] = {}
        self.prompt_tokens = self.completion_tokens = 0
        self.uncounted = False
        for row in journal.earlier():
            self._count(_from_row(row, solutions, options.votes))

    @property
    def open(self) -> bool:
        """Whether there is anything to judge."""
        return len(self.ballots) < len(self.cases)

    def run(self, judge: Judge) -> None:
        done = frozenset(self.ballots)
        verdicts = judge.judge(self.cases, done, lambda: not self.spent)
        total = len(self.cases)
        for judged in track(verdicts, "judging", total, len(done), weight=lambda judged: len(judged.ballots)):
            self.journal.append([_to_row(judged)])
            self._count(judged)

    @property
    def spent(self) -> bool:
        """Whether the token budget is: nothing is begun any more.

        Raises:
            UserError: the server does not count tokens, and there is a budget of them.
        """
        if self.options.token_budget is None:
            return False
        if self.uncounted:
            raise UserError(
                f"{self.options.judge_url} does not say how many tokens an answer took, so token_budget cannot be "
                "kept: leave it out."
            )
        return self.prompt_tokens + self.completion_tokens >= self.options.token_budget

    def labels(self) -> list[list[float | None]]:
        """The labels of each solution, one per step; all None without a majority, or where the budget ended before."""
        return [
            self.ballots[row].labels() if row in self.ballots else [None] * len(solution.steps)
            for row, solution in enumerate(self.solutions)
        ]

    def warn_of_unread(self) -> None:
        """Says so where most answers cannot be read: the labels that are missing are then no verdict on solutions."""
        metrics = self.metrics()
        unread, answers = metrics["answers_unread"], metrics["answers"]
        if 2 * unread > answers:
            logger.warning(
                "without a step in a box at the end: %d of %s of the judge; max_new_tokens %d may cut what it writes "
                "off, or the model may be too weak",
                unread,
                counted(answers, "answer"),
                self.options.max_new_tokens,
            )

    def metrics(self) -> dict:
        """Verdicts, answers, those that could not be read, solutions without a majority, tokens, and what was left."""
        ballots = self.ballots.values()
        unread = sum(ballot.unread for ballot in ballots)
        return {
            "judged": len(ballots),
            "answers": sum(len(ballot.votes) for ballot in ballots) + unread,
            "answers_unread": unread,
            "no_majority": sum(ballot.first_error is None for ballot in ballots),
            "prompt_tokens": None if self.uncounted else self.prompt_tokens,
            "completion_tokens": None if self.uncounted else self.completion_tokens,
            "left_by_budget": len(self.cases) - len(ballots),
        }

    def _count(self, judged: Judged) -> None:
        self.ballots |= judged.ballots
        self.uncounted |= None in (judged.prompt_tokens, judged.completion_tokens)
        self.prompt_tokens += judged.prompt_tokens or 0
        self.completion_tokens += judged.completion_tokens or 0


def open_judge(options: JudgeOptions) -> Judge:
    """The judge that the options name.

    Raises:
        UserError: it cannot be loaded, or has no such address.
    """
    return LocalJudge(options) if options.judge is not None else RemoteJudge(options)


def _prompt(solution: Solution) -> list[Message]:
    return [{"role": "user", "content": question(problem_text(solution.prompt), solution.step_texts)}]


def _to_row(judged: Judged) -> dict:
    return {
        "ballots": [[row, ballot.votes, ballot.unread] for row, ballot in judged.ballots.items()],
        "prompt_tokens": judged.prompt_tokens,
        "completion_tokens": judged.completion_tokens,
    }


def _from_row(row: dict, solutions: Sequence[Solution], seats: int) -> Judged:
    ballots = {
        place: Ballot(len(solutions[place].steps), seats, votes, unread) for place, votes, unread in row["ballots"]
    }
    return Judged(ballots, row["prompt_tokens"], row["completion_tokens"])
