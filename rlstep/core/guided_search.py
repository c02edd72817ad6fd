"""Which beams of a search survive, and how often each is continued: search for solutions guided by a PRM, step by step.

Beam search (Snell et al., 2408.03314): N beams write one step each; the N / M that a PRM scores highest are kept, and
each of them goes on M times, so there are N again. M = 1 drops nothing: N samples. Diverse verifier tree search
(Beeching, Tunstall and Rush, "Scaling test-time compute with open models", Hugging Face, 2024; its code is
huggingface/search-and-learn) divides the N into N / M subtrees of M beams that do not compete: each goes on from its
best one, M times. So it is N / M beam searches with M beams and width M.

Neither text says what happens when beams end at different depths. Here a beam that has ended leaves the search as one
of its N solutions, whatever its score, as in search-and-learn's beam search, and the others share the places that are
left. In its DVTS a subtree ends as soon as its best beam has ended, and the unfinished beams beside it are returned as
solutions; here they go on.
"""

import math
from collections.abc import Sequence
from typing import Literal

__all__ = ["Search", "continuations", "groups"]

Search = Literal["beam", "dvts"]


def groups(search: Search, beams: int, width: int) -> list[int]:
    """The numbers of beams of the searches that do not compete with each other.

    >>> groups("beam", 8, 4), groups("dvts", 8, 4)
    ([8], [4, 4])

    Args:
        search: beam or dvts.
        beams: N, a multiple of `width`.
        width: M.

    Raises:
        ValueError: `beams` is not a multiple of `width`.
    """
    if width < 1 or beams < 1 or beams % width:
        raise ValueError(f"beams={beams} must be a multiple of width={width}, and both at least 1.")
    return [beams] if search == "beam" else [width] * (beams // width)


def continuations(scores: Sequence[float], width: int) -> list[int]:
    """How often each beam goes on, 0 for one that is dropped; as many in all as there are beams.

    Of R beams the ceil(R / M) best are kept: all N / M of N, and as many as the places allow once some have ended. They
    share the R places equally, and what is left over goes to the best ones. Of equal scores the first is better.

    >>> continuations([0.2, 0.9, 0.4, 0.8], width=2)
    [0, 2, 0, 2]
    >>> continuations([0.2, 0.9, 0.4], width=2)  # one of four has ended: three places for the two best
    [0, 2, 1]

    Args:
        scores: (R,) of the beams that have not ended; minus infinity is allowed, NaN is not.
        width: M, at least 1.

    Returns:
        (R,) whole numbers whose sum is R.

    Raises:
        ValueError: a NaN, or a width below 1.
    """
    if width < 1:
        raise ValueError(f"width={width} must be at least 1.")
    if any(math.isnan(score) for score in scores):
        raise ValueError("a score is NaN; a beam without a score has the lowest, minus infinity.")
    R = len(scores)
    kept = -(-R // width)
    numbers = [0] * R
    for rank, beam in enumerate(sorted(range(R), key=lambda beam: -scores[beam])[:kept]):
        numbers[beam] = R // kept + (rank < R % kept)
    return numbers
