"""A picture of a verifier's calibration: how often steps are right, against how often it says they are."""

import matplotlib.pyplot  # noqa: F401 - wandb.Image(figure) fails where nobody has imported it
import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from rlstep.core.calibration import Reliability
from rlstep.core.stats import wilson_interval

# Okabe and Ito's colours, which stay apart for colour-blind readers.
BLUE, VERMILION, GREY, BLACK, PALE = "#0072B2", "#D55E00", "#767676", "#222222", "#E9E9E9"
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "text.color": BLACK,
    "axes.labelcolor": BLACK,
    "axes.edgecolor": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": PALE,
    "grid.linewidth": 0.8,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": BLACK,
    "ytick.labelcolor": BLACK,
}


def reliability_figure(reliability: Reliability, title: str = "Are the probabilities right?") -> Figure:
    """Above, each bin's share of right steps with its 95% interval and its gap to what was said; below, steps a bin.

    The intervals are Wilson's, of a binomial share: with soft labels, which vary less, they are too wide.

    Args:
        reliability: of `rlstep.core.calibration.reliability`.
        title: in bold, above.

    Returns:
        A figure that no window system knows: `figure.savefig(path)`, or `wandb.Image(figure)`.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(5.4, 6.0), layout="constrained")
        figure.get_layout_engine().set(hspace=0.06)
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3.4, 1])
        _draw_shares(above, reliability)
        _draw_counts(below, reliability)
        figure.suptitle(title, x=0.012, ha="left", fontsize=12.5, weight="bold")
    return figure


def _draw_shares(axes: Axes, found: Reliability) -> None:
    full = found.counts > 0
    # A bin stands where its probabilities are, not in its middle: only there is the distance to the diagonal the gap.
    said, right = found.confidence[full], found.accuracy[full]
    low, high = wilson_interval(right, found.counts[full])
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1.2, linestyle=(0, (4, 3)), label="right as often as said")
    axes.vlines(said, right, said, color=VERMILION, alpha=0.35, linewidth=6, label="gap", clip_on=False)
    axes.errorbar(
        said, right, [right - low, high - right], fmt="o-", color=BLUE, linewidth=1.4, markersize=5.5, elinewidth=1.2,
        capsize=2.5, label="right, with 95% interval", clip_on=False,
    )  # fmt: skip
    axes.set(xlim=(0, 1), ylim=(0, 1), ylabel="share of steps that are right")
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_title(
        f"expected calibration error {found.error:.4f}, {found.counts.sum():,} steps", loc="left", fontsize=9.5
    )
    axes.legend(loc="upper left", frameon=False, fontsize=8.5)


def _draw_counts(axes: Axes, found: Reliability) -> None:
    axes.bar(
        found.edges[:-1], found.counts, np.diff(found.edges), align="edge", color=BLUE, edgecolor="white", linewidth=0.8
    )
    axes.set(xlabel="the verifier's probability that a step is right", ylabel="steps")
    axes.set_ylim(0, max(1, found.counts.max()) * 1.08)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
