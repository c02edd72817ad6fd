"""The figures of the paper's experiments: what series of verifiers reach, against the number of their labels."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, PercentFormatter

from rlstep.report.figures.drawing import band, label_ends, save, set_title
from rlstep.report.paper.series import Experiment, Series
from rlstep.report.style import STYLE

HEIGHT_IN = 4.6
TITLES: dict[Experiment, tuple[str, str]] = {
    "synthetic": ("Who labels: process and outcome supervision", "solutions labelled per problem"),
    "active": ("Which solutions are labelled", "labelled steps"),
    "monte_carlo": ("Labels by rollouts, at equal tokens", "K, rollouts of a step at most"),
}


def draw_series(all_series: Sequence[Series], measured: Mapping[str, dict], path: str | Path, caption: str) -> None:
    """Draws the accuracy of each series of one experiment over the logarithm of its sizes.

    A series of one size is a point with a bar; one without sizes a level line.

    Args:
        all_series: of one experiment.
        measured: by their names, {"accuracy": {"mean", "low", "high"}}, and of active ones {"labels_of_seeds"}.
        path: the PNG.
        caption: says what the intervals are.
    """
    title, words = TITLES[all_series[0].experiment]
    with rc_context(STYLE):
        figure = Figure(figsize=(8.6, HEIGHT_IN), layout="constrained")
        axes = figure.subplots()
        axes.set_xscale("log")
        for series in all_series:
            _draw(axes, series, measured[series.name])
        sizes = sorted({size for series in all_series for size in series.sizes if size is not None})
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axes.xaxis.set_minor_locator(NullLocator())
        _fit(axes, [measured[series.name]["accuracy"] for series in all_series])
        low, high = axes.get_ylim()
        # The labels keep their distances in shares of the axis, whatever part of the scale it shows.
        ends = [
            ((mean - low) / (high - low), f"{series.label}  {mean:.0%}", series.style.colour)
            for series in all_series
            for mean in [measured[series.name]["accuracy"]["mean"][-1]]
        ]
        beside = axes.twinx()
        beside.set_ylim(0, 1)
        beside.axis("off")
        label_ends(beside, ends, HEIGHT_IN)
        axes.set_xlabel(words)
        axes.set_ylabel("best of N: answer right")
        set_title(figure, title, caption)
        save(figure, path)


def _draw(axes: Axes, series: Series, measured: dict) -> None:
    curve, colour, dashes = measured["accuracy"], series.style.colour, series.style.dashes
    if series.sizes == (None,):
        axes.axhline(curve["mean"][0], color=colour, linestyle=dashes, linewidth=1.3)
        return
    if len(series.sizes) == 1:
        mean, low, high = (curve[part] for part in ("mean", "low", "high"))
        spread = None if None in low else [[mean[0] - low[0]], [high[0] - mean[0]]]
        axes.errorbar(series.sizes, mean, yerr=spread, color=colour, marker="D", markersize=5, capsize=3)
        return
    axes.plot(series.sizes, curve["mean"], color=colour, linestyle=dashes, linewidth=2, marker="o", markersize=3.5)
    band(axes, series.sizes, curve, colour)


def _fit(axes: Axes, curves: Sequence[dict]) -> None:
    """A y axis that shows every mean with some room, for the differences are a few points."""
    means = [mean for curve in curves for mean in curve["mean"]]
    room = max(0.05, 0.35 * (max(means) - min(means)))
    axes.set_ylim(max(0, min(means) - room), min(1, max(means) + room))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.grid(axis="x", visible=False)
