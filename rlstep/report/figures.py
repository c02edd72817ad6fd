"""The report's pictures. Colours are Okabe and Ito's, which stay apart for colour-blind readers."""

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, NullLocator, PercentFormatter

from rlstep.report.examples import ORM, PRM, SHOWN_STEPS, THRESHOLD, Example, first_wrong
from rlstep.report.style import BLACK, BLUE, GREEN, GREY, PALE, PINK, STYLE, VERMILION

DPI = 150

# name in summary.json -> (label, colour, line style, width)
PICKS = {
    "pass_at_n": ("pass@N (ceiling)", BLACK, (0, (4, 2)), 1.3),
    "prm": ("PRM", BLUE, "-", 2.4),
    "weighted": ("PRM-weighted vote", GREEN, (0, (5, 1.5, 1, 1.5)), 1.5),
    "orm": ("ORM", VERMILION, "-", 2.4),
    "majority": ("majority vote", GREY, "-", 2.4),
}
BANDS = ("prm", "orm", "majority")
ARMS = {
    "process": ("process + outcome", BLUE, "-"),
    "outcome": ("outcome only", VERMILION, "-"),
    "process_only": ("process only", PINK, (0, (4, 2))),
}
CONTRAST_STYLES = (
    (VERMILION, "-"),
    (PINK, (0, (4, 2))),
    (GREY, (0, (1, 1))),
    (GREEN, (0, (5, 1.5, 1, 1.5))),
    (BLUE, "-"),
)
PANELS = {"accuracy": "Answer right", "clean_accuracy": "Answer and every step right"}


def draw_best_of_n(curves: dict, path: str | Path, caption: str) -> None:
    """Curves {name: {"mean", "low", "high"}} against `curves["ns"]`; `caption` says what the bands are."""
    with rc_context(STYLE):
        figure = Figure(figsize=(8, 4.6), layout="constrained")
        axes = figure.subplots()
        ns, ends = curves["ns"], []
        for name, (label, colour, line, width) in PICKS.items():
            curve = curves[name]
            axes.plot(ns, curve["mean"], color=colour, linestyle=line, linewidth=width, clip_on=False)
            if name in BANDS:  # five bands on top of one another could not be told apart
                _band(axes, ns, curve, colour)
            ends.append((curve["mean"][-1], f"{label}  {curve['mean'][-1]:.0%}", colour))
        _label_ends(axes, ends, height_in=4.6)
        _shares(axes)
        axes.set_xscale("log", base=2)
        axes.set_xticks(ns, [str(n) for n in ns])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlim(ns[0] * 0.93, ns[-1])
        axes.set_xlabel("N, samples a problem to pick from")
        axes.set_ylabel("problems with the right answer picked")
        _title(figure, "Best of N", caption)
        _save(figure, path)


def draw_rl_curves(arms: dict, path: str | Path, caption: str, comparison: dict | None = None) -> None:
    """Both accuracies of each RL arm against samples used.

    Args:
        arms: {arm: {"samples": [...], key: values or {"mean", "low", "high"}}}; arms that are None are left out.
        path: the PNG.
        caption: says what is shown, and what the bands are.
        comparison: {key: `compare_arms(...)`}: where the process arm reaches the outcome arm's last level is marked.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(9.6, 4.4), layout="constrained")
        panels = figure.subplots(1, 2, sharey=True)
        for axes, (key, title) in zip(panels, PANELS.items(), strict=True):
            ends, last = [], 1
            for arm, (label, colour, line) in ARMS.items():
                if not arms.get(arm):
                    continue
                samples, values = arms[arm]["samples"], arms[arm][key]
                curve = values if isinstance(values, dict) else {"mean": values}
                style = {"color": colour, "linestyle": line, "linewidth": 2, "marker": "o", "markersize": 3.5}
                axes.plot(samples, curve["mean"], clip_on=False, **style)
                _band(axes, samples, curve, colour)
                ends.append((curve["mean"][-1], f"{label}  {curve['mean'][-1]:.0%}", colour))
                last = max(last, samples[-1])
            if comparison and comparison[key]["ratio"]:
                _mark_reach(axes, comparison[key])
            _learning_panel(axes, title, ends, last)
        panels[0].set_ylabel("share of test solutions")
        _title(figure, "PPO with and without step rewards", caption)
        _save(figure, path)


def draw_contrast(arms: dict[str, dict], path: str | Path, caption: str) -> None:
    """Both accuracies against samples for arms that differ in what pays.

    Args:
        arms: {label: {"samples": [...], key: {"mean", "low", "high"}}}, at most as many as there are styles.
        path: the PNG.
        caption: says what is shown, and what the bands are.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(10.4, 4.4), layout="constrained")
        panels = figure.subplots(1, 2, sharey=True)
        for axes, (key, title) in zip(panels, PANELS.items(), strict=True):
            ends, last = [], 1
            for (label, found), (colour, line) in zip(arms.items(), CONTRAST_STYLES, strict=False):
                curve = found[key]
                axes.plot(found["samples"], curve["mean"], color=colour, linestyle=line, linewidth=2, clip_on=False)
                _band(axes, found["samples"], curve, colour)
                ends.append((curve["mean"][-1], f"{label}  {curve['mean'][-1]:.0%}", colour))
                last = max(last, found["samples"][-1])
            _learning_panel(axes, title, ends, last)
        panels[0].set_ylabel("share of test solutions")
        _title(figure, "What pays, and what is learned", caption)
        _save(figure, path)


def _learning_panel(axes: Axes, title: str, ends: list[tuple[float, str, str]], last: int) -> None:
    """What the panels of learning curves share: shares against samples, each line named behind its end."""
    _label_ends(axes, ends, height_in=4.4)
    _shares(axes)
    axes.set_xlim(0, last)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_xlabel("samples used for RL")
    axes.set_title(title, loc="left", fontsize=10)


def draw_step_scores(examples: Sequence[Example], path: str | Path) -> None:
    """Solutions as text, a bar of the PRM's score beside every step, the exact checker's verdict before it."""
    longest = max(len(text.rstrip()) for example in examples for text in example.solution.step_texts)
    beside = longest <= 24
    prompts = [
        textwrap.wrap(" ".join(e.solution.prompt.split()), 38 if beside else 120, max_lines=4, placeholder=" \u2026")
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
        _title(figure, "Every step has its score", caption)
        _save(figure, path)


def _card(axes: Axes, example: Example, prompt: list[str], height: float, narrow: bool) -> None:
    """One solution in an axes whose y unit is a text row, counted downward."""
    solution, wrong = example.solution, first_wrong(example.solution)
    mark, text, bar = (0.0, 0.07, 0.5) if narrow else (0.0, 0.025, 0.8)
    full = (0.86 if narrow else 0.94) - bar
    axes.set(xlim=(0, 1), ylim=(height, 0))
    axes.text(0, 0.5, example.title, weight="bold", fontsize=9.5, va="center")
    for row, line in enumerate(prompt):
        axes.text(0, 1.5 + 0.8 * row, line, fontsize=8, color=GREY, va="center", parse_math=False)
    y = 2.0 + 0.8 * len(prompt)
    judged = zip(solution.step_texts, solution.scores[PRM], solution.labels, strict=True)
    for index, (step, p, label) in enumerate(judged):
        if index == SHOWN_STEPS:
            axes.text(text, y, f"\u2026 {len(solution.steps) - index} more", fontsize=8.5, color=GREY, va="center")
            y += 1
            break
        faint = 0.35 if wrong is not None and index > wrong else 1.0
        sign = {1: "\u2713", 0: "\u2717"}.get(label, "?")
        colour = VERMILION if label == 0 else GREY
        axes.text(mark, y, sign, fontsize=10, color=colour, weight="bold", va="center")
        words = _shortened(step, 24 if narrow else 100)
        axes.text(text, y, words, family="DejaVu Sans Mono", fontsize=8.5, va="center", parse_math=False)
        axes.barh(y, full, left=bar, height=0.62, color=PALE, alpha=faint)
        axes.barh(y, full * p, left=bar, height=0.62, color=BLUE if p >= THRESHOLD else VERMILION, alpha=faint)
        axes.text(bar + full + 0.015, y, f"{p:.2f}", fontsize=8, va="center", alpha=max(faint, 0.6))
        y += 1
    product = math.prod(solution.scores[PRM])
    verdict = f"PRM product {product:.2f}" if product >= 0.005 else "PRM product < 0.01"
    verdict += f" \u00b7 ORM {solution.scores[ORM][-1]:.2f} \u00b7 right answer: {_shortened(solution.reference, 20)}"
    axes.text(0, y + 0.3, verdict, fontsize=8.5, va="center", parse_math=False)


def _shortened(text: str, characters: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= characters else text[: characters - 1] + "\u2026"


def _band(axes: Axes, x: Sequence[float], curve: dict, colour: str) -> None:
    low, high = curve.get("low"), curve.get("high")
    if low and high and None not in low and None not in high:
        axes.fill_between(x, low, high, color=colour, alpha=0.13, linewidth=0)


def _mark_reach(axes: Axes, found: dict) -> None:
    """A level line from where the process arm reaches the outcome arm's last accuracy to where the outcome arm does."""
    start, stop, level = found["process_samples"], found["outcome_samples"], found["level"]
    if start >= stop:
        return
    arrow = {"arrowstyle": "<->", "color": BLACK, "linewidth": 1, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", (start, level), (stop, level), arrowprops=arrow)
    # Above the arrow's right end: there the arms are farthest apart.
    axes.annotate(
        f"{found['ratio']:.1f}x fewer", (stop, level), (-8, 4), textcoords="offset points",
        fontsize=8.5, ha="right", path_effects=[withStroke(linewidth=3, foreground="white")],
    )  # fmt: skip


def _label_ends(axes: Axes, ends: list[tuple[float, str, str]], height_in: float) -> None:
    """Names each line behind its end, moved apart where the ends are close."""
    # Ends that are equal to the eye keep the order they were drawn in, the first on top.
    ends = sorted(reversed(ends), key=lambda end: round(end[0], 2))
    gap = 0.21 / (height_in - 1.2)
    places = spread([value for value, _, _ in ends], gap, low=0.02)
    for place, (_, label, colour) in zip(places, ends, strict=True):
        axes.annotate(
            label, (1, place), (5, 0), xycoords=("axes fraction", "data"), textcoords="offset points",
            color=colour, fontsize=9, va="center", annotation_clip=False,
        )  # fmt: skip


def spread(values: Sequence[float], gap: float, low: float = 0.0, high: float = 1.0) -> list[float]:
    """Places for labels of rising `values`: at least `gap` apart and within [low, high], as near as one sweep gets.

    >>> [round(place, 2) for place in spread([0.5, 0.52, 0.98, 0.99], 0.1)]
    [0.5, 0.6, 0.9, 1.0]
    """
    places: list[float] = []
    for value in values:
        places.append(max(value, places[-1] + gap if places else low))
    ceiling = high
    for index in reversed(range(len(places))):
        places[index] = min(places[index], ceiling)
        ceiling = places[index] - gap
    return places


def _shares(axes: Axes) -> None:
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.grid(axis="x", visible=False)


def _title(figure: Figure, title: str, caption: str) -> None:
    figure.suptitle(title, x=0.006, ha="left", fontsize=12.5, weight="bold")
    figure.supxlabel(caption, x=0.006, ha="left", fontsize=8.5, color=GREY)


def _save(figure: Figure, path: str | Path) -> None:
    figure.savefig(path, dpi=DPI, facecolor="white", metadata={"Software": None})
