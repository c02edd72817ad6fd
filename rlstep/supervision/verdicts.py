r"""What a judge is asked, what its answer says, and when its votes decide.

The task is ProcessBench's (Zheng et al., 2412.06559): the first wrong paragraph of a solution, or none. An answer is
text and nothing else: its last box is read, and has to hold the index of a step or -1.
"""

import re
from dataclasses import dataclass, field

from rlstep.core.first_error import NONE, labels_to_first_error

_QUESTION = r"""Below are a math problem and a solution of it, whose paragraphs are numbered from 0.

<problem>
{problem}
</problem>

<solution>
{paragraphs}
</solution>

Check the paragraphs one after the other. Find the first one that contains an error: a wrong calculation, a false claim,
a step that does not follow from the problem and the paragraphs before it. A paragraph that is only clumsy, or that
could have been left out, is no error.

Say briefly what you find in each paragraph up to there. Then end with the number of the first paragraph that contains
an error, or with -1 if there is none, in a box: \boxed{{number}}"""

_BOX = re.compile(r"\\boxed\s*\{([^{}]*)\}")
_INDEX = re.compile(r"-1|\d{1,4}", re.ASCII)


def question(problem: str, steps: list[str]) -> str:
    """What the judge of a solution reads: the problem, the steps in numbered tags, and what to answer."""
    paragraphs = (f"<paragraph_{k}>\n{step.strip()}\n</paragraph_{k}>" for k, step in enumerate(steps))
    return _QUESTION.format(problem=problem.strip(), paragraphs="\n".join(paragraphs))


def verdict(answer: str, steps: int) -> int | None:
    r"""The first wrong step that an answer names, -1 for none; None where it names nothing that can be read.

    Its last box counts, and has to hold -1 or the index of one of the steps, nothing more.

    >>> verdict(r"Paragraph 1 adds wrongly. \boxed{1}", 3), verdict(r"\boxed{-1}", 3), verdict(r"\boxed{3}", 3)
    (1, -1, None)
    """
    box = _BOX.match(answer, max(answer.rfind(r"\boxed"), 0))
    index = _INDEX.fullmatch(box[1].strip()) if box else None
    first = None if index is None else int(index[0])
    return first if first is not None and first < steps else None


@dataclass
class Ballot:
    """The votes on a solution's first wrong step.

    Attributes:
        steps: of the solution.
        seats: answers that may be asked for; a verdict takes more than half of them.
        votes: what those say that can be read.
        unread: how many cannot.

    >>> ballot = Ballot(steps=3, seats=3)
    >>> ballot.wanted
    2
    >>> ballot.add([r"\\boxed{1}", "I do not know."])
    >>> ballot.wanted, ballot.first_error
    (1, None)
    >>> ballot.add([r"\\boxed{1}"])
    >>> ballot.wanted, ballot.first_error, ballot.labels()
    (0, 1, [1.0, 0.0, None])
    """

    steps: int
    seats: int
    votes: list[int] = field(default_factory=list)
    unread: int = 0

    def add(self, answers: list[str]) -> None:
        verdicts = [verdict(answer, self.steps) for answer in answers]
        self.votes += [vote for vote in verdicts if vote is not None]
        self.unread += sum(vote is None for vote in verdicts)

    @property
    def wanted(self) -> int:
        """The fewest further answers that could decide; 0 where the verdict is known, or can no longer be reached."""
        missing = self.seats // 2 + 1 - self._most()[1]
        left = self.seats - len(self.votes) - self.unread
        return missing if 0 < missing <= left else 0

    @property
    def first_error(self) -> int | None:
        """The step that more than half of the seats name, -1 for none; None where no majority does."""
        place, most = self._most()
        return place if most > self.seats // 2 else None

    def labels(self) -> list[float | None]:
        """One label per step, up to and including the first wrong one; all None without a majority."""
        first = self.first_error
        return [None] * self.steps if first is None else labels_to_first_error(first, self.steps)

    def _most(self) -> tuple[int, int]:
        """(the most frequent vote, how many gave it)"""
        counts = {vote: self.votes.count(vote) for vote in self.votes}
        return max(counts.items(), key=lambda item: item[1], default=(NONE, 0))
