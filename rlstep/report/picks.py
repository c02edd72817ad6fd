"""How the curves of best-of-N are drawn: one style per way to pick, in every figure and chart."""

from itertools import cycle, product
from typing import NamedTuple

from rlstep.report import tables
from rlstep.report.arms import DASH_DOTTED, DASHED, DOTTED, SOLID, Style
from rlstep.report.style import BLACK, BLUE, GREEN, GREY, ORANGE, PINK, SKY, VERMILION


class Pick(NamedTuple):
    """How the curve of one way to pick is drawn."""

    label: str
    style: Style
    width: float
    band: bool  # five overlapping bands would be indistinguishable


# By their names in summary.json; those of other scores get a colour each (`picks`).
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


def picks(curves: dict) -> dict[str, Pick]:
    """How each curve is drawn: the known ones, then each other score and its weighted vote; no clean picks."""
    names = tables.curve_names(curves)
    chosen = {name: pick for name, pick in PICKS.items() if name in names}
    taken = [pick.style.colour for pick in chosen.values()]
    derived = {f"{name}{tables.CLEAN}" for name in names} | {f"{tables.WEIGHTED}{name}" for name in names}
    scores = [name for name in names if name not in PICKS and name not in derived]
    few = len(scores) + len(chosen.keys() & {"prm", "orm"}) <= FEW
    colours = [colour for colour in COLOURS if colour not in taken]
    for name, (dashes, colour) in zip(scores, cycle(product((SOLID, DOTTED, DASHED), colours)), strict=False):
        chosen[name] = Pick(_short(name), Style(colour, dashes), 2.4, band=few)
        if few and (weighted := f"{tables.WEIGHTED}{name}") in names:
            chosen[weighted] = Pick(f"{_short(name)}, weighted", Style(colour, DASH_DOTTED), 1.3, band=False)
    return chosen


def _short(name: str) -> str:
    """A score's name, shortened to leave room for the lines next to it."""
    return name if len(name) <= 24 else f"{name[:23]}\N{HORIZONTAL ELLIPSIS}"
