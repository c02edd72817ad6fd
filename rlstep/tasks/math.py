r"""MATH, competition problems (Hendrycks et al. 2021): answers are graded exactly, steps cannot be.

A published solution, one step per line::

    The two numbers are 3 and 4.
    Their product is $3 \cdot 4 = \boxed{12}$.

The checker grades the last answer that a solution states, by value (`rlstep.steps.grading`). It reads no other
mathematics: only the step in which that answer is complete has a label. Labels of the others are a PRM's business.
"""

import re

from rlstep.steps.answers import extract, reference_fault, same_answer
from rlstep.steps.extraction import stated
from rlstep.steps.records import Solution
from rlstep.tasks.base import Check
from rlstep.tasks.published import PublishedTask

DRAWING = "[asy]"

_FORMULA = re.compile(
    r"\\begin\{([^{}\n]*)\}.*?\\end\{\1\}|(?<!\\)\\\[.*?\\\]|\$\$.*?\$\$|(?<!\\)\$(?:\\.|[^$\\\n]|\n(?!\s*\n))*\$",
    re.DOTALL,
)
_BREAK = re.compile(r"\s*\n\s*")


class MATH(PublishedTask):
    """The task `math`. Splits: train, test.

    The default on the hub has PRM800K's 12,000 and 500 problems, as the folder `math_splits` of that repository does;
    `HuggingFaceH4/MATH-500` has the 500 as its test split, and no other.
    """

    name = "math"
    hub_id = "nlile/hendrycks-MATH-benchmark"

    def demonstrations(self, n: int, seed: int) -> list[Solution]:
        """n reference solutions of the training split, one step per line; none of those that come with a drawing."""
        rows = [s for s in self.published("train") if DRAWING not in s.completion] if n else []
        return [
            Solution(s.problem_id, s.prompt, demonstration(s.completion, s.reference), s.reference)
            for s in self.draw(rows, "train", n, seed)
        ]

    def check(self, prompt: str, completion: str, reference: str) -> Check:
        """The step in which the last stated answer ends is right when that is; others are unknown.

        Raises:
            ValueError: the reference is a whole solution.
        """
        if fault := reference_fault(reference):
            raise ValueError(fault)
        spans = self.boundary.split(completion)
        labels: list[int | None] = [None] * len(spans)
        final = stated(completion)
        if final is None:
            return Check(spans, labels, None, False)
        correct = same_answer(final.answer, reference)
        labels[next(k for k, (_, end) in enumerate(spans) if end >= final.end)] = int(correct)
        return Check(spans, labels, final.answer, correct)


def demonstration(solution: str, reference: str) -> str:
    r"""A reference solution with one step per line and the reference in a box.

    A formula's line breaks, which mean nothing to LaTeX, become spaces, and blank lines go. Where the last box does not
    hold the reference, a line that does is added.

    >>> print(demonstration("So\n\\[\nx = 3 \\cdot 4.\n\\]\n\nThat is 12.", "12"))
    So
    \[ x = 3 \cdot 4. \]
    That is 12.
    The answer is $\boxed{12}$.
    """
    text = _FORMULA.sub(lambda formula: _BREAK.sub(" ", formula[0]), solution)
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    answer = extract("\n".join(lines))
    if answer is None or not same_answer(answer, reference):
        lines.append(f"The answer is $\\boxed{{{reference}}}$.")
    return "\n".join(lines)
