"""The pictures of learning curves: the lab's arms, and a contrast of rewards."""

from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter

from rlstep.report.figures.drawing import GREEN, PINK, band, label_ends, save, set_title, show_shares
from rlstep.verifiers.reliability import BLACK, BLUE, GREY, STYLE, VERMILION

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
                band(axes, samples, curve, colour)
                ends.append((curve["mean"][-1], f"{label}  {curve['mean'][-1]:.0%}", colour))
                last = max(last, samples[-1])
            if comparison and comparison[key]["ratio"]:
                _mark_reach(axes, comparison[key])
            _learning_panel(axes, title, ends, last)
        panels[0].set_ylabel("share of test solutions")
        set_title(figure, "PPO with and without step rewards", caption)
        save(figure, path)


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
                band(axes, found["samples"], curve, colour)
                ends.append((curve["mean"][-1], f"{label}  {curve['mean'][-1]:.0%}", colour))
                last = max(last, found["samples"][-1])
            _learning_panel(axes, title, ends, last)
        panels[0].set_ylabel("share of test solutions")
        set_title(figure, "What pays, and what is learned", caption)
        save(figure, path)


def _learning_panel(axes: Axes, title: str, ends: list[tuple[float, str, str]], last: int) -> None:
    """What the panels of learning curves share: shares against samples, each line named behind its end."""
    label_ends(axes, ends, height_in=4.4)
    show_shares(axes)
    axes.set_xlim(0, last)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_xlabel("samples used for RL")
    axes.set_title(title, loc="left", fontsize=10)


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
