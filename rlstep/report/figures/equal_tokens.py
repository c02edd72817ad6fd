"""The figure of searches beside best-of-N: accuracy against generated tokens."""

from itertools import cycle
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from rlstep.report import tables
from rlstep.report.figures.drawing import band, label_ends, literal, save, set_title, show_shares
from rlstep.report.picks import picks
from rlstep.report.style import GREEN, ORANGE, PINK, STYLE, VERMILION

HEIGHT_IN, ROW_IN, COLUMNS = 5.2, 0.2, 4  # ROW_IN, COLUMNS: of the legend
MARKERS, COLOURS = ("D", "s", "^", "v", "P"), (VERMILION, GREEN, PINK, ORANGE)


def draw_equal_tokens(curves: dict, tokens: list[float], figures: dict, path: str | Path, caption: str) -> None:
    """Draws best-of-N as lines against the tokens that the samples take, and each search as a point.

    Args:
        curves: the content of best_of_n.json.
        tokens: per problem, for each of its "ns".
        figures: of `rlstep.evaluation.equal_tokens.equal_tokens`.
        path: the file of the figure.
        caption: says what the bands are.
    """
    searched = {name for one in figures["searches"].values() for name in one["accuracy"]}
    with rc_context(STYLE):
        figure = Figure(figsize=(8, HEIGHT_IN), layout="constrained")
        axes = figure.subplots()
        ends = []
        for name, pick in picks(curves).items():
            if name not in searched:
                continue
            curve, colour = curves[name], pick.style.colour
            axes.plot(
                tokens, curve["mean"], clip_on=False, color=colour, linestyle=pick.style.dashes, linewidth=pick.width
            )
            if pick.band:
                band(axes, tokens, curve, colour)
            ends.append((curve["mean"][-1], f"{pick.label}  {curve['mean'][-1]:.0%}", colour))
        label_ends(axes, ends, HEIGHT_IN)
        by = _picked_by(figures)
        styles = zip(cycle(MARKERS), cycle(COLOURS), strict=False)
        for (name, one), (marker, colour) in zip(figures["searches"].items(), styles, strict=False):
            _point(axes, one["tokens"], one["accuracy"][by]["search"], marker, colour, literal(name))
        title = literal(f"searches, picked by {tables.curve_head(by, tables.curve_names(curves))}")
        # Between title and axes, whose layout leaves the room: within the axes there may be points anywhere.
        rows = 1 + -(-len(figures["searches"]) // COLUMNS)
        figure.get_layout_engine().set(rect=(0, 0, 1, 1 - rows * ROW_IN / HEIGHT_IN))
        place = {"loc": "upper left", "bbox_to_anchor": (0, 0.955), "ncols": COLUMNS, "alignment": "left"}
        figure.legend(**place, frameon=False, fontsize=8.5, title=title)
        show_shares(axes)
        axes.set_xscale("log", base=2)
        axes.set_xticks(tokens)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.xaxis.set_minor_locator(NullLocator())
        points = [one["tokens"] for one in figures["searches"].values()]
        axes.set_xlim(min(*tokens, *points) * 0.93, max(*tokens, *points) * 1.07)
        axes.set_xlabel("generated tokens per problem")
        axes.set_ylabel("problems with the right answer picked")
        set_title(figure, "Search beside best of N", caption)
        save(figure, path)


def _picked_by(figures: dict) -> str:
    """The first curve that all searches have: a score, unless they have none in common."""
    first, *others = figures["searches"].values()
    return next(name for name in first["accuracy"] if all(name in one["accuracy"] for one in others))


def _point(axes, tokens: float, accuracy: dict, marker: str, colour: str, label: str) -> None:
    mean, low, high = accuracy["mean"], accuracy["low"], accuracy["high"]
    ends = None if low is None else [[mean - low], [high - mean]]
    axes.errorbar(
        [tokens], [mean], ends, fmt=marker, color=colour, markersize=6.5, capsize=2.5, elinewidth=1.2, label=label,
        clip_on=False, zorder=3,
    )  # fmt: skip
