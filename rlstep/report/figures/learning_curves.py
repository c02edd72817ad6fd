"""The figures of learning curves: the lab's arms, and a contrast of rewards."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter

from rlstep.report import arms
from rlstep.report.arms import Arm
from rlstep.report.figures.drawing import band, label_ends, save, set_title, show_shares
from rlstep.report.style import BLACK, STYLE

PANELS = {"accuracy": "Answer right", "clean_accuracy": "Answer and every step right"}
MARKERS = {"marker": "o", "markersize": 3.5}
HEIGHT_IN = 4.4


def draw_rl_curves(curves: dict, path: str | Path, caption: str, comparison: dict | None = None) -> None:
    """Draws the accuracies of each of the lab's arms against samples used; one that no arm has gets no panel.

    Args:
        curves: {arm: {"samples": [...], key: values or {"mean", "low", "high"}}}; arms that are None are left out.
        path: the PNG.
        caption: says what is shown, and what the bands are.
        comparison: {key: `compare_arms(...)`}: where the process arm reaches the outcome arm's last level is marked.
    """
    with rc_context(STYLE):
        keys = [key for key in PANELS if any(key in curve for curve in curves.values() if curve)]
        figure, panels = _panels(len(keys), width_in=4.8 * len(keys))
        for axes, key in zip(panels, keys, strict=True):
            _draw_panel(axes, PANELS[key], arms.ARMS, curves, key, MARKERS)
            if comparison and key in comparison and comparison[key]["ratio"]:
                _mark_reach(axes, comparison[key])
        set_title(figure, "PPO with and without step rewards", caption)
        save(figure, path)


def draw_contrast(curves: dict, path: str | Path, caption: str) -> None:
    """Draws both accuracies of the contrast's arms, which differ in their rewards; arguments as in `draw_rl_curves`."""
    with rc_context(STYLE):
        figure, panels = _panels(len(PANELS), width_in=10.4)
        for axes, (key, title) in zip(panels, PANELS.items(), strict=True):
            _draw_panel(axes, title, arms.CONTRAST, curves, key)
        set_title(figure, "What is rewarded, and what is learned", caption)
        save(figure, path)


def _panels(count: int, width_in: float) -> tuple[Figure, Sequence[Axes]]:
    figure = Figure(figsize=(width_in, HEIGHT_IN), layout="constrained")
    panels = figure.subplots(1, count, sharey=True, squeeze=False)[0]
    panels[0].set_ylabel("share of test solutions")
    return figure, panels


def _draw_panel(axes: Axes, title: str, drawn: Sequence[Arm], curves: dict, key: str, markers: dict | None = None):
    """One accuracy of every arm that has a curve, each line named at its end."""
    ends, last = [], 1
    for arm in drawn:
        if not curves.get(arm.name) or key not in curves[arm.name]:
            continue
        samples, values = curves[arm.name]["samples"], curves[arm.name][key]
        curve = values if isinstance(values, dict) else {"mean": values}
        colour = arm.style.colour
        line = {"color": colour, "linestyle": arm.style.dashes, "linewidth": 2, **(markers or {})}
        axes.plot(samples, curve["mean"], clip_on=False, **line)
        band(axes, samples, curve, colour)
        ends.append((curve["mean"][-1], f"{arm.label}  {curve['mean'][-1]:.0%}", colour))
        last = max(last, samples[-1])
    label_ends(axes, ends, HEIGHT_IN)
    show_shares(axes)
    axes.set_xlim(0, last)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_xlabel("samples used for RL")
    axes.set_title(title, loc="left", fontsize=10)


def _mark_reach(axes: Axes, reach: dict) -> None:
    """A level line from where the process arm reaches the outcome arm's last accuracy to where the outcome arm does."""
    start, stop, level = reach["process_samples"], reach["outcome_samples"], reach["level"]
    if start >= stop:
        return
    arrow = {"arrowstyle": "<->", "color": BLACK, "linewidth": 1, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", (start, level), (stop, level), arrowprops=arrow)
    # Above the arrow's right end: there the arms are farthest apart.
    axes.annotate(
        f"{reach['ratio']:.1f}x fewer", (stop, level), (-8, 4), textcoords="offset points",
        fontsize=8.5, ha="right", path_effects=[withStroke(linewidth=3, foreground="white")],
    )  # fmt: skip
