"""The figure of best-of-N curves."""

from itertools import cycle, product
from pathlib import Path
from typing import NamedTuple

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from rlstep.report import tables
from rlstep.report.arms import DASH_DOTTED, DASHED, DOTTED, SOLID, Style
from rlstep.report.figures.drawing import band, label_ends, save, set_title, show_shares
from rlstep.report.style import BLACK, BLUE, GREEN, GREY, ORANGE, PINK, SKY, STYLE, VERMILION


class Pick(NamedTuple):
    """How the curve of one way to pick is drawn."""

    label: str
    style: Style
    width: float
    band: bool  # five overlapping bands would be indistinguishable


# By their names in summary.json; those of other scores get a colour each (`_picks`).
PICKS = {
    "pass_at_n": Pick("pass@N (ceiling)", Style(BLACK, DASHED), 1.3, band=False),
    "prm": Pick("PRM", Style(BLUE), 2.4, band=True),
    "weighted": Pick("PRM-weighted vote", Style(GREEN, DASH_DOTTED), 1.5, band=False),
    "orm": Pick("ORM", Style(VERMILION), 2.4, band=True),
    "majority": Pick("majority vote", Style(GREY), 2.4, band=True),
}
# For scores other than prm and orm, which have their own.
COLOURS = (BLUE, VERMILION, PINK, ORANGE, SKY)
FEW = 3  # scores, up to which bands and weighted votes are still distinguishable


def _picks(curves: dict) -> dict[str, Pick]:
    """How each curve is drawn: the known ones, then each other score and its weighted vote; no clean picks."""
    names = tables.curve_names(curves)
    picks = {name: pick for name, pick in PICKS.items() if name in names}
    taken = [pick.style.colour for pick in picks.values()]
    derived = {f"{name}{tables.CLEAN}" for name in names} | {f"{tables.WEIGHTED}{name}" for name in names}
    scores = [name for name in names if name not in PICKS and name not in derived]
    few = len(scores) + len(picks.keys() & {"prm", "orm"}) <= FEW
    colours = [colour for colour in COLOURS if colour not in taken]
    for name, (dashes, colour) in zip(scores, cycle(product((SOLID, DOTTED, DASHED), colours)), strict=False):
        picks[name] = Pick(_short(name), Style(colour, dashes), 2.4, band=few)
        if few and (weighted := f"{tables.WEIGHTED}{name}") in names:
            picks[weighted] = Pick(f"{_short(name)}, weighted", Style(colour, DASH_DOTTED), 1.3, band=False)
    return picks


def _short(name: str) -> str:
    """A score's name, shortened to leave room for the lines next to it."""
    return name if len(name) <= 24 else f"{name[:23]}\N{HORIZONTAL ELLIPSIS}"


def draw_best_of_n(curves: dict, path: str | Path, caption: str) -> None:
    """Draws what `curves` holds of curves {name: {"mean", "low", "high"}} against its "ns".

    Args:
        curves: the content of best_of_n.json, or of a summary's part of it.
        path: the file of the figure.
        caption: says what the bands are.
    """
    with rc_context(STYLE):
        picks = _picks(curves)
        height_in = max(4.6, 1.5 + 0.21 * len(picks))  # room for each label
        figure = Figure(figsize=(8, height_in), layout="constrained")
        axes = figure.subplots()
        ns, ends = curves["ns"], []
        for name, pick in picks.items():
            curve, colour = curves[name], pick.style.colour
            line = {"color": colour, "linestyle": pick.style.dashes, "linewidth": pick.width}
            axes.plot(ns, curve["mean"], clip_on=False, **line)
            if pick.band:
                band(axes, ns, curve, colour)
            ends.append((curve["mean"][-1], f"{pick.label}  {curve['mean'][-1]:.0%}", colour))
        label_ends(axes, ends, height_in)
        show_shares(axes)
        axes.set_xscale("log", base=2)
        axes.set_xticks(ns, [str(n) for n in ns])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlim(ns[0] * 0.93, ns[-1] if len(ns) > 1 else ns[-1] * 1.07)
        axes.set_xlabel("N, samples per problem to pick from")
        axes.set_ylabel("problems with the right answer picked")
        set_title(figure, "Best of N", caption)
        save(figure, path)
