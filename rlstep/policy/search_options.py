"""The settings of a search for solutions that a PRM guides (`rlstep.policy.guided_search`)."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated

from rlstep.core.aggregate import Aggregate
from rlstep.core.guided_search import Search
from rlstep.runtime.constraints import Range, ReadBy, changed

SEARCHING = ReadBy("search")


@dataclass(kw_only=True)
class SearchOptions:
    """Whether solutions are searched for, and how."""

    search: Search | None = field(
        default=None,
        metadata={
            "help": "Write step by step, and go on from the steps that a PRM scores highest. beam: beam search over n "
            "beams; dvts: n / beam_width subtrees that do not compete. By default n independent samples."
        },
    )
    prm: Annotated[str | None, SEARCHING] = field(
        default=None,
        metadata={"help": "search: the PRM that guides it: folder, hub id, or the address of a server."},
    )
    beam_width: Annotated[int, Range(at_least=1), SEARCHING] = field(
        default=4,
        metadata={"help": "search: continuations of each beam that is kept, so n / beam_width are kept."},
    )
    search_score: Annotated[Aggregate, SEARCHING] = field(
        default="product", metadata={"help": "search: how a beam's score is made of those of its steps."}
    )
    search_steps: Annotated[int, Range(at_least=1), SEARCHING] = field(
        default=40, metadata={"help": "search: steps of a beam at most; the last is written to the solution's end."}
    )

    def search_faults(self, n: int, prompts_as: str) -> Iterator[str]:
        """What is wrong with the settings together.

        Args:
            n: solutions per problem.
            prompts_as: what a server is sent.
        """
        if self.search is None:
            return
        if self.prm is None:
            yield f"search is '{self.search}', so prm must be set: the folder, hub id or address of a PRM"
        if self.beam_width >= 1 and n % self.beam_width:
            yield f"n is {n} and beam_width {self.beam_width}, of which n must be a multiple with search"
        if self.beam_width == 1 and (names := changed(self, ("search_score", "search_steps"))):
            yield f"beam_width is 1, which drops no beam, so {' and '.join(names)} would do nothing; raise it"
        if self.search_steps == 1 and changed(self, ("search_score",)):
            yield "search_steps is 1, the solution's end, so search_score would do nothing; raise it"
        if prompts_as == "text":
            yield "search goes on from tokens, and prompts_as is 'text'; set prompts_as: tokens, or leave search out"
