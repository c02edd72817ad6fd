"""Charts as data that the page's script draws: best-of-N and learning curves.

A chart is {"title", "note", "x", "y", "log", "share", "panels"}: `x` and `y` say what the axes are, `log` makes that of
x logarithmic, `share` that of y one from 0 to 100%. Panels stand side by side with the same axes, one per run, null for
a run without data. A panel is {"series", "marks"}; a series {"name", "colour", "dashes", "width", "x", "y", "low",
"high", "band"}, where low and high may be null, and a band is drawn between them if `band` says so. Marks are intervals
of x: {"from", "to", "colour", "text"}.
"""

from collections.abc import Sequence

from rlstep.report import arms, style
from rlstep.report.arms import Style
from rlstep.report.over_seeds import without_gaps
from rlstep.report.picks import picks

# The page's colours by name: dark mode has others.
COLOURS = {
    style.BLUE: "blue",
    style.VERMILION: "vermilion",
    style.GREY: "grey",
    style.BLACK: "ink",
    style.GREEN: "green",
    style.PINK: "pink",
    style.ORANGE: "orange",
    style.SKY: "sky",
}
PANELS = {"accuracy": "Answer right", "clean_accuracy": "Answer and every step right"}


def chart(
    title: str, note: str, x: str, y: str, panels: list[dict | None], log: bool = False, share: bool = False
) -> dict:
    """A chart as the script takes it."""
    return {"title": title, "note": note, "x": x, "y": y, "log": log, "share": share, "panels": panels}


def series(name: str, look: Style, x: Sequence, curve: dict | Sequence, width: float = 2, band: bool = True) -> dict:
    """One line of a chart.

    Args:
        name: in the legend.
        look: colour and dashes.
        x: along the axis.
        curve: {"mean", "low", "high"}, or values without intervals.
        width: of the line, in pixels.
        band: whether the interval is drawn, and not only said.
    """
    curve = curve if isinstance(curve, dict) else {"mean": curve}
    ends = [curve.get(part) for part in ("low", "high")]
    low, high = ends if all(end and None not in end for end in ends) else (None, None)
    return {
        "name": name,
        "colour": COLOURS[look.colour],
        "dashes": None if isinstance(look.dashes, str) else list(look.dashes[1]),
        "width": width,
        "x": list(x),
        "y": list(curve["mean"]),
        "low": low,
        "high": high,
        "band": band and low is not None,
    }


def best_of_n(summaries: Sequence[dict], intervals: str) -> list[dict]:
    """The chart of the runs' best-of-N curves, if there are any.

    Args:
        summaries: of runs, or over seeds.
        intervals: what their intervals are over.
    """
    panels = []
    for summary in summaries:
        curves = summary["best_of_n"] and without_gaps(summary["best_of_n"])
        lines = [
            series(pick.label, pick.style, curves["ns"], curves[name], pick.width, pick.band)
            for name, pick in (picks(curves) if curves else {}).items()
        ]
        panels.append({"series": lines, "marks": []} if lines else None)
    if not any(panels):
        return []
    x, y = "N, samples per problem to pick from", "problems with the right answer picked"
    return [chart("Best of N", f"Shaded: {intervals}.", x, y, panels, log=True, share=True)]


def learning_curves(summaries: Sequence[dict], intervals: str) -> list[dict]:
    """A chart for each accuracy of the RL arms on the test problems."""
    charts = []
    for key, title in PANELS.items():
        panels = []
        for summary in summaries:
            lines = [
                series(arm.label, arm.style, curve["samples"], curve[key])
                for arm in arms.ARMS
                if (curve := summary["rl"].get(arm.name)) and key in curve
            ]
            panels.append({"series": lines, "marks": []} if lines else None)
        if any(panels):
            x = "samples used for RL"
            charts.append(chart(title, intervals, x, "share of test solutions", panels, share=True))
    return charts
