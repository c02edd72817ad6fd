"""The figure of solutions with a score next to every step."""

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlstep.report.examples import PRM, SHOWN_STEPS, THRESHOLD, Example, first_wrong, orm_score
from rlstep.report.figures.drawing import save, set_title
from rlstep.report.style import BLUE, GREY, PALE, STYLE, VERMILION
from rlstep.report.tables import one_line
from rlstep.steps.prompts import problem_text


def draw_step_scores(examples: Sequence[Example], path: str | Path) -> None:
    """Draws solutions as text, the exact checker's verdict before each step and a bar of its PRM score after it."""
    longest = max(len(text.rstrip()) for example in examples for text in example.solution.step_texts)
    beside = longest <= 24
    prompts = [
        textwrap.wrap(
            one_line(problem_text(e.solution.prompt)), 38 if beside else 120, max_lines=4, placeholder=" \u2026"
        )
        for e in examples
    ]
    steps = [min(len(example.solution.steps), SHOWN_STEPS + 1) for example in examples]
    rows = [3.4 + 0.8 * len(prompt) + count for prompt, count in zip(prompts, steps, strict=True)]
    heights = [max(rows)] if beside else rows
    with rc_context(STYLE):
        figure = Figure(figsize=(9.6, 0.23 * sum(heights) + 0.95), layout="constrained")
        # Always three columns, so that two narrow cards are not stretched.
        grid = figure.subplots(len(heights), 3 if beside else 1, squeeze=False, height_ratios=heights).ravel()
        for axes in grid:
            axes.axis("off")
        for axes, example, prompt, height in zip(grid, examples, prompts, rows, strict=False):
            _card(axes, example, prompt, heights[0] if beside else height, beside)
        caption = (
            f"Bars: the PRM's probability that the step is right, orange below {THRESHOLD}.  "
            "\u2713 \u2717: the exact checker.\nPale: after the first wrong step, which the PRM is not trained on.  "
            "Examples are chosen to be telling, not at random."
        )
        set_title(figure, "Every step has its score", caption)
        save(figure, path)


def _card(axes: Axes, example: Example, prompt: list[str], height: float, narrow: bool) -> None:
    """Draws one solution in an axes whose y unit is a text row, counted downward."""
    solution, wrong = example.solution, first_wrong(example.solution)
    mark, text, bar = (0.0, 0.07, 0.5) if narrow else (0.0, 0.025, 0.8)
    full = (0.86 if narrow else 0.94) - bar
    axes.set(xlim=(0, 1), ylim=(height, 0))
    axes.text(0, 0.5, example.title, weight="bold", fontsize=9.5, va="center")
    for row, line in enumerate(prompt):
        axes.text(0, 1.5 + 0.8 * row, line, fontsize=8, color=GREY, va="center", parse_math=False)
    y = 2.0 + 0.8 * len(prompt)
    judged = zip(solution.step_texts, solution.scores[PRM], solution.verdicts, strict=True)
    for index, (step, p, right) in enumerate(judged):
        if index == SHOWN_STEPS:
            axes.text(text, y, f"\u2026 {len(solution.steps) - index} more", fontsize=8.5, color=GREY, va="center")
            y += 1
            break
        faint = 0.35 if wrong is not None and index > wrong else 1.0
        sign = {True: "\u2713", False: "\u2717", None: "?"}[right]
        colour = VERMILION if right is False else GREY
        axes.text(mark, y, sign, fontsize=10, color=colour, weight="bold", va="center")
        words = _shortened(step, 24 if narrow else 100)
        axes.text(text, y, words, family="DejaVu Sans Mono", fontsize=8.5, va="center", parse_math=False)
        axes.barh(y, full, left=bar, height=0.62, color=PALE, alpha=faint)
        axes.barh(y, full * p, left=bar, height=0.62, color=BLUE if p >= THRESHOLD else VERMILION, alpha=faint)
        axes.text(bar + full + 0.015, y, f"{p:.2f}", fontsize=8, va="center", alpha=max(faint, 0.6))
        y += 1
    product = math.prod(solution.scores[PRM])
    verdict = f"PRM product {product:.2f}" if product >= 0.005 else "PRM product < 0.01"
    if (orm := orm_score(solution)) is not None:
        verdict += f" \u00b7 ORM {orm:.2f}"
    verdict += f" \u00b7 right answer: {_shortened(solution.reference, 20)}"
    axes.text(0, y + 0.3, verdict, fontsize=8.5, va="center", parse_math=False)


def _shortened(text: str, characters: int) -> str:
    text = one_line(text)
    return text if len(text) <= characters else text[: characters - 1] + "\u2026"
