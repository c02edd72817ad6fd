"""Step labels by Monte-Carlo: a policy goes on from the end of each step, and the task checks where it arrives.

What a rollout is asked from is a *state*: a prompt, a beginning of a completion, and the reference answer. States that
solutions share are rolled out once. Which states are asked about, and what the labels are, says a search per solution
(`rlstep.core.step_search`). A step that ends its solution is graded as it stands; one that the length limit cut off is
continued like any other.

Rollouts are drawn in rounds, each of a few batches: the first solutions of the file ask for what they want next, their
requests are sorted by length and fill the batches, until nothing is left to ask. For hard labels a state gets 1, 1, 2,
4, ... rollouts in turn, up to K, and no more once one has reached the answer.

Every batch leaves one row in a journal, and what comes next depends on the rows before alone. So a killed run reads
its journal, asks the same again, and goes on with the batch that is not there.
"""

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from rlstep.core.step_search import StepSearch
from rlstep.policy.continuations import Beginning, Continuations
from rlstep.runtime.errors import UserError
from rlstep.runtime.resumable_rows import ResumableRows
from rlstep.steps.prompts import problem_text
from rlstep.steps.records import Solution
from rlstep.supervision.options import MonteCarloOptions
from rlstep.tasks.base import Task

# A round's requests are sorted by length before they are cut into this many batches.
BATCHES = 4


@dataclass
class Count:
    """Rollouts of a state, and those among them that reached the answer."""

    right: int = 0
    drawn: int = 0


@dataclass(frozen=True)
class Request:
    """Further rollouts of a state: that at the end of a step of a solution.

    Attributes:
        key: the state's.
        solution, step: one of those that pass through it.
        number: of rollouts.
    """

    key: str
    solution: Solution
    step: int
    number: int

    @property
    def begun(self) -> Beginning:
        return self.solution.prompt, self.solution.completion[: self.solution.steps[self.step][1]]


@dataclass
class Unlabelled:
    """A solution and the search for its labels."""

    solution: Solution
    search: StepSearch


class MonteCarlo:
    """Labels solutions by rollouts; `run` draws them, and `labels` are there afterwards.

    Args:
        task: checks answers.
        solutions: with steps, graded (`correct`).
        options: what is asked for.
        draw: (beginnings, the number of continuations of each, seed) to the continuations.
        journal: one row per batch; those of an earlier run are not drawn again.
    """

    def __init__(
        self,
        task: Task,
        solutions: Sequence[Solution],
        options: MonteCarloOptions,
        draw: Callable[[Sequence[Beginning], Sequence[int], int], Continuations],
        journal: ResumableRows,
    ):
        self.task, self.options, self.draw, self.journal = task, options, draw, journal
        self._earlier = journal.earlier()
        self.rows = [Unlabelled(solution, options.new_search(len(solution.steps))) for solution in solutions]
        self.counts: dict[str, Count] = {}
        self.tokens = self.prefix_tokens = 0
        self._open: list[Unlabelled] = []
        self._unopened = iter(self.rows)
        self._finished = self._shown = 0  # solutions whose labels are known, and those that were told

    def run(self) -> Iterator[int]:
        """Draws until all is known or the budget is spent; yields how many solutions were finished since last."""
        batch_number = 0
        while (requests := self._requests()) and not self.spent:
            for batch in self._batches(requests):
                yield self._newly_finished()
                self._take(batch_number, batch)
                batch_number += 1
                if self.spent:
                    break
        left = [*self._open, *self._unopened]
        self._finished += sum(not self._settle(row) for row in left)
        yield self._newly_finished()

    @property
    def spent(self) -> bool:
        """Whether the token budget is: no batch is begun any more."""
        return self.options.token_budget is not None and self.tokens >= self.options.token_budget

    def labels(self) -> list[list[float | None]]:
        """The labels of each solution, one per step; all None where the budget was spent before they were known.

        Else the steps that are easily found right would be labelled, and the wrong ones, which take more rollouts, left
        out.
        """
        return [_labels_if_known(row) for row in self.rows]

    def metrics(self) -> dict:
        """Rollouts, the share of them that reached the answer, states, tokens, and solutions left without labels."""
        drawn = sum(count.drawn for count in self.counts.values())
        right = sum(count.right for count in self.counts.values())
        return {
            "states": len(self.counts),
            "rollouts": drawn,
            "rollouts_right": right / drawn if drawn else None,
            "rollout_tokens": self.tokens,
            "prefix_tokens": self.prefix_tokens,
            "left_by_budget": sum(not _is_finished(row) for row in self.rows),
        }

    def _requests(self) -> list[Request]:
        """What the first unfinished solutions want to know next, as much as a round holds."""
        requests: dict[str, Request] = {}
        room = BATCHES * self.options.batch_size
        opened, self._open = deque(self._open), []
        while room > 0:
            row = opened.popleft() if opened else next(self._unopened, None)
            if row is None:
                break
            undecided = self._settle(row)
            if undecided:
                self._open.append(row)
            else:
                self._finished += 1
            for key, step in undecided:
                if key not in requests and room > 0:
                    requests[key] = Request(key, row.solution, step, min(room, self._next_number(key)))
                    room -= requests[key].number
        self._open += opened
        return list(requests.values())

    def _settle(self, row: Unlabelled) -> list[tuple[str, int]]:
        """Tells a search all that is known; returns (state's key, step) of what it wants to know beyond."""
        while wanted := row.search.wanted():
            undecided = []
            for step in wanted:
                if _ends(row.solution, step):
                    row.search.tell(step, float(bool(row.solution.correct)))
                    continue
                key = _key(row.solution, step)
                count = self.counts.get(key, Count())
                if count.drawn == self.options.rollouts or (self._early and count.right):
                    row.search.tell(step, count.right / count.drawn)
                else:
                    undecided.append((key, step))
            if undecided:
                return undecided
        return []

    @property
    def _early(self) -> bool:
        return self.options.labels == "hard"

    def _next_number(self, key: str) -> int:
        drawn = self.counts.get(key, Count()).drawn
        left = self.options.rollouts - drawn
        return min(max(drawn, 1), left) if self._early else left

    def _batches(self, requests: Sequence[Request]) -> Iterator[list[Request]]:
        """Requests of about equal length together, each batch with as many rollouts as fit."""
        batch, room = [], self.options.batch_size
        for request in sorted(requests, key=_length, reverse=True):
            left = request.number
            while left:
                batch.append(replace(request, number=min(left, room)))
                left, room = left - batch[-1].number, room - batch[-1].number
                if room == 0:
                    yield batch
                    batch, room = [], self.options.batch_size
        if batch:
            yield batch

    def _take(self, number: int, batch: Sequence[Request]) -> None:
        """Counts what came of a batch: from the journal where it was drawn before."""
        drawn = next(self._earlier, None)
        if drawn is None:
            drawn = self._drawn(number, batch)
            self.journal.append([drawn])
        if [(key, n) for key, n, _ in drawn["states"]] != [(request.key, request.number) for request in batch]:
            raise UserError(
                f"{self.journal.partial}: its batch {number} asked other states than this version of rlstep does. "
                "Finish with the version that wrote it, or remove it to start afresh."
            )
        for key, n, right in drawn["states"]:
            count = self.counts.setdefault(key, Count())
            count.drawn, count.right = count.drawn + n, count.right + right
        self.tokens += drawn["tokens"]
        self.prefix_tokens += drawn["prefix_tokens"]

    def _drawn(self, number: int, batch: Sequence[Request]) -> dict:
        beginnings = [request.begun for request in batch]
        # A batch's own seed: what is drawn after a kill is what the uninterrupted run would have drawn.
        seed = self.options.seed * 1_000_003 + number
        continuations = self.draw(beginnings, [request.number for request in batch], seed)
        states = [
            (request.key, request.number, sum(self._is_right(request, tail) for tail in tails))
            for request, tails in zip(batch, continuations.texts, strict=True)
        ]
        return {"states": states, "tokens": continuations.tokens, "prefix_tokens": continuations.prefix_tokens}

    def _is_right(self, request: Request, tail: str) -> bool:
        prompt, begun = request.begun
        return self.task.check(problem_text(prompt), begun + tail, request.solution.reference).correct

    def _newly_finished(self) -> int:
        new, self._shown = self._finished - self._shown, self._finished
        return new


def _labels_if_known(row: Unlabelled) -> list[float | None]:
    return row.search.labels() if _is_finished(row) else [None] * len(row.solution.steps)


def _is_finished(row: Unlabelled) -> bool:
    return not row.search.wanted()


def _ends(solution: Solution, step: int) -> bool:
    """Whether a solution is over with a step, and not cut off there."""
    return solution.finished and not solution.completion[solution.steps[step][1] :].strip()


def _length(request: Request) -> int:
    """In characters, which is near enough to sort by."""
    prompt, begun = request.begun
    return len(problem_text(prompt)) + len(begun)


def _key(solution: Solution, step: int) -> str:
    text = json.dumps([solution.prompt, solution.completion[: solution.steps[step][1]], solution.reference])
    return hashlib.sha256(text.encode()).hexdigest()[:16]
