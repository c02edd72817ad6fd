"""The figures of the paper's experiments: what series of verifiers reach, against the number of their labels."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, PercentFormatter

from rlstep.report.figures.drawing import label_ends, save, set_title
from rlstep.report.paper.series import Experiment, Series
from rlstep.report.style import STYLE

HEIGHT_IN = 4.6
TITLES: dict[Experiment, tuple[str, str]] = {
    "synthetic": ("Who labels: process and outcome supervision", "solutions labelled per problem"),
    "active": ("Which solutions are labelled", "labelled steps"),
    "monte_carlo": ("Labels by rollouts, at equal tokens", "K, rollouts of a step at most"),
}


def draw_series(
    all_series: Sequence[Series], measured: Mapping[str, dict], path: str | Path, best_of: int, caption: str
) -> None:
    """Draws the accuracy of each series of one experiment over the logarithm of its sizes.

    A series of one size is a point with a bar; one without sizes a level line. What was not measured leaves a gap.

    Args:
        all_series: of one experiment.
        measured: by their names, {"accuracy": {"mean", "low", "high"}}, in lists along their sizes; None where it was
            not measured.
        path: the PNG.
        best_of: of how many samples the verifiers pick.
        caption: says what the intervals are.
    """
    title, words = TITLES[all_series[0].experiment]
    curves = {series.name: _as_floats(measured[series.name]["accuracy"]) for series in all_series}
    with rc_context(STYLE):
        figure = Figure(figsize=(8.6, HEIGHT_IN), layout="constrained")
        axes = figure.subplots()
        axes.set_xscale("log")
        for series in all_series:
            _draw(axes, series, curves[series.name])
        sizes = sorted({size for series in all_series for size in series.sizes if size is not None})
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axes.xaxis.set_minor_locator(NullLocator())
        _fit(axes, np.concatenate([curve["mean"] for curve in curves.values()]))
        beside = axes.twinx()
        beside.set_ylim(0, 1)
        beside.axis("off")
        ends = [_end(series, curves[series.name]["mean"], *axes.get_ylim()) for series in all_series]
        label_ends(beside, ends, HEIGHT_IN)
        axes.set_xlabel(words)
        axes.set_ylabel(f"best of {best_of}: answer right")
        set_title(figure, title, caption)
        save(figure, path)


def _as_floats(curve: dict) -> dict[str, np.ndarray]:
    return {part: np.array(curve[part], dtype=float) for part in ("mean", "low", "high")}


def _end(series: Series, mean_K: np.ndarray, low: float, high: float) -> tuple[float, str, str]:
    """(place, label, colour) beside the last measured point; the place is a share of the axis, whatever it shows."""
    measured = np.flatnonzero(np.isfinite(mean_K))
    if not len(measured):
        return 0.0, f"{series.label}  not measured", series.style.colour
    mean = mean_K[measured[-1]]
    return (mean - low) / (high - low), f"{series.label}  {mean:.0%}", series.style.colour


def _draw(axes: Axes, series: Series, curve: dict[str, np.ndarray]) -> None:
    colour, dashes, mean = series.style.colour, series.style.dashes, curve["mean"]
    if series.sizes == (None,):
        axes.axhline(mean[0], color=colour, linestyle=dashes, linewidth=1.3)
        return
    if len(series.sizes) == 1:
        spread = [mean - curve["low"], curve["high"] - mean]
        bars = None if np.isnan(spread).any() else spread
        axes.errorbar(series.sizes, mean, yerr=bars, color=colour, marker="D", markersize=5, capsize=3)
        return
    axes.plot(series.sizes, mean, color=colour, linestyle=dashes, linewidth=2, marker="o", markersize=3.5)
    if series.shaded:
        axes.fill_between(series.sizes, curve["low"], curve["high"], color=colour, alpha=0.13, linewidth=0)


def _fit(axes: Axes, means: np.ndarray) -> None:
    """A y axis that shows every mean with some room, for the differences are a few points."""
    low, high = np.nanmin(means), np.nanmax(means)
    room = max(0.05, 0.35 * (high - low))
    axes.set_ylim(max(0, low - room), min(1, high + room))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.grid(axis="x", visible=False)
