"""The figures of process against outcome-only PPO: learning curves, and best-of-N before and after RL."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from rlstep.report.arms import DASHED, OUTCOME, PROCESS
from rlstep.report.figures.drawing import band, label_ends, save, set_title, show_shares
from rlstep.report.opponents_plan import ARMS, SOURCES
from rlstep.report.picks import PICKS
from rlstep.report.style import STYLE
from rlstep.runtime.counted import counted

HEIGHT_IN = 4.6


def draw_opponents(summary: dict, path: str | Path) -> None:
    """Draws clean accuracy of every variant against samples, and of the best ones against processor seconds.

    Args:
        summary: that of `report_opponents`.
        path: the PNG.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(10.4, HEIGHT_IN), layout="constrained")
        by_samples, by_seconds = figure.subplots(1, 2, sharey=True)
        best = {arm.name: summary["arms"][arm.name][summary["best"][arm.name]]["curve"] for arm in ARMS}
        for arm in ARMS:
            for variant in summary["arms"][arm.name].values():
                x, y = variant["curve"]["samples"], variant["curve"]["clean_accuracy"]["mean"]
                by_samples.plot(x, y, color=arm.style.colour, linewidth=0.9, alpha=0.5)
        label_ends(by_samples, _best(by_samples, best, "samples"), HEIGHT_IN)
        _best(by_seconds, best, "seconds")
        _with_prm(by_seconds, best, summary["prm_seconds"]["mean"])
        for axes, title, label in (
            (by_samples, "At equal samples; thin: other variants", "samples used for RL"),
            (by_seconds, "At equal compute; dashed: with the PRM's making", "processor seconds"),
        ):
            show_shares(axes)
            axes.set_xlim(left=0)
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
            axes.set_title(title, loc="left", fontsize=10)
            axes.set_xlabel(label)
        by_samples.set_ylabel("answer and every step right")
        caption = f"The best variant of each arm: mean of {_seeds(summary)}, test problems. Shaded: 95% t-interval."
        set_title(figure, "Process against outcome-only PPO, both tuned", caption)
        save(figure, path)


def _best(axes: Axes, best: dict[str, dict], x: str) -> list[tuple[float, str, str]]:
    """Draws the best variant of each arm; returns (end, name, colour) of each line."""
    ends = []
    for arm in ARMS:
        curve, colour = best[arm.name], arm.style.colour
        clean = curve["clean_accuracy"]
        axes.plot(curve[x], clean["mean"], color=colour, linewidth=2.2, clip_on=False)
        band(axes, curve[x], clean, colour)
        ends.append((clean["mean"][-1], f"{arm.label}  {clean['mean'][-1]:.0%}", colour))
    return ends


def _with_prm(axes: Axes, best: dict[str, dict], seconds: float) -> None:
    """The process arm's curve from when its PRM is there, as far as the outcome arm's and its own go."""
    curve = best[PROCESS.name]
    longest = max(curve["seconds"][-1], best[OUTCOME.name]["seconds"][-1])
    after = [0.0, *(seconds + at for at in curve["seconds"])]
    mean = curve["clean_accuracy"]["mean"]
    axes.plot(after, [mean[0], *mean], color=PROCESS.style.colour, linewidth=1.5, linestyle=DASHED)
    axes.set_xlim(right=max(longest, after[-1]))


def draw_before_and_after(summary: dict, path: str | Path) -> None:
    """Draws best-of-N of the generator's samples and of each arm's policy, one panel each.

    Args:
        summary: that of `report_opponents`.
        path: the PNG.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(11.4, 4.2), layout="constrained")
        panels: Sequence[Axes] = figure.subplots(1, len(SOURCES), sharey=True)
        for axes, source in zip(panels, SOURCES, strict=True):
            curves = summary["best_of_n"][source.name]
            for name in ("pass_at_n", "prm", "majority"):
                if name not in curves:
                    continue
                pick, curve = PICKS[name], curves[name]
                line = {"color": pick.style.colour, "linestyle": pick.style.dashes, "linewidth": pick.width}
                axes.plot(curves["ns"], curve["mean"], label=pick.label, clip_on=False, **line)
                if pick.band:
                    band(axes, curves["ns"], curve, pick.style.colour)
            show_shares(axes)
            axes.set_xscale("log", base=2)
            axes.set_xticks(curves["ns"], [str(n) for n in curves["ns"]])
            axes.xaxis.set_minor_locator(NullLocator())
            axes.set_xlabel("N, samples per problem to pick from")
            axes.set_title(source.label[0].upper() + source.label[1:], loc="left", fontsize=10)
        panels[0].set_ylabel("problems with the right answer picked")
        # Beside the panels: a curve may lie anywhere in them.
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize=9)
        caption = f"One PRM, trained on samples from before RL. Mean of {_seeds(summary)}. Shaded: 95% t-interval."
        set_title(figure, "Best of N before and after RL", caption)
        save(figure, path)


def _seeds(summary: dict) -> str:
    seeds = len(summary["seeds"])
    return counted(seeds, "seed")
