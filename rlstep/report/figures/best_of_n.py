"""The picture of best-of-N curves."""

from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from rlstep.report.figures.drawing import GREEN, band, label_ends, save, set_title, show_shares
from rlstep.verifiers.reliability import BLACK, BLUE, GREY, STYLE, VERMILION

# name in summary.json -> (label, colour, line style, width)
PICKS = {
    "pass_at_n": ("pass@N (ceiling)", BLACK, (0, (4, 2)), 1.3),
    "prm": ("PRM", BLUE, "-", 2.4),
    "weighted": ("PRM-weighted vote", GREEN, (0, (5, 1.5, 1, 1.5)), 1.5),
    "orm": ("ORM", VERMILION, "-", 2.4),
    "majority": ("majority vote", GREY, "-", 2.4),
}
BANDS = ("prm", "orm", "majority")


def draw_best_of_n(curves: dict, path: str | Path, caption: str) -> None:
    """Curves {name: {"mean", "low", "high"}} against `curves["ns"]`; `caption` says what the bands are."""
    with rc_context(STYLE):
        figure = Figure(figsize=(8, 4.6), layout="constrained")
        axes = figure.subplots()
        ns, ends = curves["ns"], []
        for name, (label, colour, line, width) in PICKS.items():
            curve = curves[name]
            axes.plot(ns, curve["mean"], color=colour, linestyle=line, linewidth=width, clip_on=False)
            if name in BANDS:  # five bands on top of one another could not be told apart
                band(axes, ns, curve, colour)
            ends.append((curve["mean"][-1], f"{label}  {curve['mean'][-1]:.0%}", colour))
        label_ends(axes, ends, height_in=4.6)
        show_shares(axes)
        axes.set_xscale("log", base=2)
        axes.set_xticks(ns, [str(n) for n in ns])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlim(ns[0] * 0.93, ns[-1])
        axes.set_xlabel("N, samples a problem to pick from")
        axes.set_ylabel("problems with the right answer picked")
        set_title(figure, "Best of N", caption)
        save(figure, path)
