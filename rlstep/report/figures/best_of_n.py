"""The figure of best-of-N curves."""

from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from rlstep.report.figures.drawing import band, label_ends, save, set_title, show_shares
from rlstep.report.picks import picks
from rlstep.report.style import STYLE


def draw_best_of_n(curves: dict, path: str | Path, caption: str) -> None:
    """Draws what `curves` holds of curves {name: {"mean", "low", "high"}} against its "ns".

    Args:
        curves: the content of best_of_n.json, or of a summary's part of it.
        path: the file of the figure.
        caption: says what the bands are.
    """
    with rc_context(STYLE):
        drawn = picks(curves)
        height_in = max(4.6, 1.5 + 0.21 * len(drawn))  # room for each label
        figure = Figure(figsize=(8, height_in), layout="constrained")
        axes = figure.subplots()
        ns, ends = curves["ns"], []
        for name, pick in drawn.items():
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
