"""Helpers shared by the report's figures."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from rlstep.report.style import GREY
from rlstep.report.tables import one_line

DPI = 150


def literal(text: str) -> str:
    """Text that may be anything, such as a score's name, for matplotlib, which reads formulas between dollar signs."""
    return one_line(text).replace("$", r"\$")


def band(axes: Axes, x: Sequence[float], curve: dict, colour: str) -> None:
    """Draws the interval of a curve {"mean", "low", "high"}, if it has one."""
    low, high = curve.get("low"), curve.get("high")
    if low and high and None not in low and None not in high:
        axes.fill_between(x, low, high, color=colour, alpha=0.13, linewidth=0)


def label_ends(axes: Axes, ends: list[tuple[float, str, str]], height_in: float) -> None:
    """Labels each line to the right of its end, moved apart where the ends are close."""
    # Ends that look equal keep the order they were drawn in, the first on top.
    ends = sorted(reversed(ends), key=lambda end: round(end[0], 2))
    gap = 0.21 / (height_in - 1.2)
    places = spread([value for value, _, _ in ends], gap, low=0.02)
    for place, (_, label, colour) in zip(places, ends, strict=True):
        axes.annotate(
            literal(label), (1, place), (5, 0), xycoords=("axes fraction", "data"), textcoords="offset points",
            color=colour, fontsize=9, va="center", annotation_clip=False,
        )  # fmt: skip


def spread(values: Sequence[float], gap: float, low: float = 0.0, high: float = 1.0) -> list[float]:
    """Positions of labels for rising `values`: at least `gap` apart, within [low, high], as near as one sweep gets.

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


def show_shares(axes: Axes) -> None:
    """A y axis from 0 to 100%, without vertical grid lines."""
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.grid(axis="x", visible=False)


def set_title(figure: Figure, title: str, caption: str) -> None:
    figure.suptitle(title, x=0.006, ha="left", fontsize=12.5, weight="bold")
    figure.supxlabel(caption, x=0.006, ha="left", fontsize=8.5, color=GREY)


def save(figure: Figure, path: str | Path) -> None:
    figure.savefig(path, dpi=DPI, facecolor="white", metadata={"Software": None})
