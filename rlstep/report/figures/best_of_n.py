"""The picture of best-of-N curves."""

from pathlib import Path
from typing import NamedTuple

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from rlstep.report.arms import DASH_DOTTED, DASHED, Style
from rlstep.report.figures.drawing import band, label_ends, save, set_title, show_shares
from rlstep.report.style import BLACK, BLUE, GREEN, GREY, STYLE, VERMILION


class Pick(NamedTuple):
    """How the curve of one way to pick is drawn."""

    label: str
    style: Style
    width: float
    band: bool  # five bands on top of one another could not be told apart


# By their names in summary.json.
PICKS = {
    "pass_at_n": Pick("pass@N (ceiling)", Style(BLACK, DASHED), 1.3, band=False),
    "prm": Pick("PRM", Style(BLUE), 2.4, band=True),
    "weighted": Pick("PRM-weighted vote", Style(GREEN, DASH_DOTTED), 1.5, band=False),
    "orm": Pick("ORM", Style(VERMILION), 2.4, band=True),
    "majority": Pick("majority vote", Style(GREY), 2.4, band=True),
}


def draw_best_of_n(curves: dict, path: str | Path, caption: str) -> None:
    """Curves {name: {"mean", "low", "high"}} against `curves["ns"]`; `caption` says what the bands are."""
    with rc_context(STYLE):
        figure = Figure(figsize=(8, 4.6), layout="constrained")
        axes = figure.subplots()
        ns, ends = curves["ns"], []
        for name, pick in PICKS.items():
            curve, colour = curves[name], pick.style.colour
            line = {"color": colour, "linestyle": pick.style.dashes, "linewidth": pick.width}
            axes.plot(ns, curve["mean"], clip_on=False, **line)
            if pick.band:
                band(axes, ns, curve, colour)
            ends.append((curve["mean"][-1], f"{pick.label}  {curve['mean'][-1]:.0%}", colour))
        label_ends(axes, ends, height_in=4.6)
        show_shares(axes)
        axes.set_xscale("log", base=2)
        axes.set_xticks(ns, [str(n) for n in ns])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlim(ns[0] * 0.93, ns[-1])
        axes.set_xlabel("N, samples per problem to pick from")
        axes.set_ylabel("problems with the right answer picked")
        set_title(figure, "Best of N", caption)
        save(figure, path)
