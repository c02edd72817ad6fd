"""The interface that every verifier has, whatever it is and wherever it runs."""

from collections.abc import Sequence
from typing import Protocol

from rlstep.steps.boundaries import Boundary
from rlstep.steps.prompts import Prompt, PromptFormat
from rlstep.steps.records import Span
from rlstep.verifiers.spec import Gives, Kind


class Verifier(Protocol):
    """A model that scores the steps of solutions: in this process, on a shared base, or on another machine.

    Attributes:
        kind: "prm", which scores single steps, or "orm", which scores the text up to the end of a step.
        gives: what its scores are: "probability", in [0, 1], from which step rewards follow by a credit scheme, or
            "reward", of either sign, which is paid as it is.
        boundary: how a completion is split into steps when no spans are given.
        prompt_format: how it reads prompts; None if it reads the problem's text in a way of its own.
    """

    kind: Kind
    gives: Gives
    boundary: Boundary
    prompt_format: PromptFormat | None

    def score(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[str],
        steps: Sequence[list[Span]] | None = None,
        cut: bool = False,
    ) -> list[list[float]]:
        """One value for each step of each completion, in the order given.

        Args:
            prompts, completions: one pair per row.
            steps: character spans in the completions; by default the boundary rule splits them.
            cut: a row that is longer than the model is read up to the last step that fits, as if it ended there, and
                has values of these steps alone; otherwise such a row is an error.
        """
