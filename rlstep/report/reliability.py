"""A figure of a verifier's calibration: how often steps are right, against how often it says they are."""

import re
from typing import Protocol

import matplotlib.pyplot  # noqa: F401 - wandb.Image(figure) fails where nobody has imported it
import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter
from transformers import TrainerCallback

from rlstep.core.calibration import Reliability
from rlstep.core.stats import wilson_interval
from rlstep.report.examples import PRM
from rlstep.report.style import BLUE, GREY, STYLE, VERMILION
from rlstep.runtime.counted import counted
from rlstep.runtime.record import digest
from rlstep.runtime.trackers import active_trackers
from rlstep.runtime.tracking import unharmed


def file_name(curve: str) -> str:
    """The figure's file for a curve of any name; of names that no file can have, two that differ have two files."""
    if curve == PRM:
        return "reliability.png"
    plain = re.sub(r"[^A-Za-z0-9.-]+", "_", curve)[:60]
    return f"reliability_{plain}.png" if plain == curve else f"reliability_{plain}-{digest(curve)[:6]}.png"


def reliability_figure(reliability: Reliability, title: str = "Are the probabilities right?") -> Figure:
    """Above, each bin's share of right steps with its 95% interval and its gap to the prediction; below, steps per bin.

    The intervals are Wilson's, of a binomial share: with soft labels, which vary less, they are too wide.

    Args:
        reliability: what `rlstep.core.calibration.reliability` returns.
        title: shown in bold at the top.

    Returns:
        A figure that is not attached to a window: `figure.savefig(path)`, or `wandb.Image(figure)`.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(5.4, 6.0), layout="constrained")
        figure.get_layout_engine().set(hspace=0.06)
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3.4, 1])
        _draw_shares(above, reliability)
        _draw_counts(below, reliability)
        figure.suptitle(title, x=0.012, ha="left", fontsize=12.5, weight="bold")
    return figure


def _draw_shares(axes: Axes, reliability: Reliability) -> None:
    full = reliability.counts > 0
    # A bin is drawn at its mean probability, not at its midpoint: only there is the distance to the diagonal the gap.
    said, right = reliability.confidence[full], reliability.accuracy[full]
    low, high = wilson_interval(right, reliability.counts[full])
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1.2, linestyle=(0, (4, 3)), label="right as often as predicted")
    axes.vlines(said, right, said, color=VERMILION, alpha=0.35, linewidth=6, label="gap", clip_on=False)
    axes.errorbar(
        said, right, [right - low, high - right], fmt="o-", color=BLUE, linewidth=1.4, markersize=5.5, elinewidth=1.2,
        capsize=2.5, label="right, with 95% interval", clip_on=False,
    )  # fmt: skip
    axes.set(xlim=(0, 1), ylim=(0, 1), ylabel="share of steps that are right")
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    title = f"expected calibration error {reliability.error:.4f}, {counted(reliability.counts.sum(), 'step')}"
    axes.set_title(title, loc="left", fontsize=9.5)
    axes.legend(loc="upper left", frameon=False, fontsize=8.5)


def _draw_counts(axes: Axes, reliability: Reliability) -> None:
    edges, counts = reliability.edges, reliability.counts
    axes.bar(edges[:-1], counts, np.diff(edges), align="edge", color=BLUE, edgecolor="white", linewidth=0.8)
    axes.set(xlabel="the verifier's probability that a step is right", ylabel="steps")
    axes.set_ylim(0, max(1, counts.max()) * 1.08)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


class Calibrated(Protocol):
    """Has the calibration of the last evaluation, as a `VerifierTrainer` does."""

    reliability: Reliability | None


class PlotReliability(TrainerCallback):
    """Sends the reliability figure of every evaluation to the trackers that the run reports to.

    Args:
        trainer: the trainer that evaluates.
    """

    def __init__(self, trainer: Calibrated):
        self.trainer = trainer

    def on_evaluate(self, args, state, control, **_):
        if not (state.is_world_process_zero and self.trainer.reliability):
            return
        for tracker in active_trackers(args):
            with unharmed(f"{tracker.__name__}: the reliability figure"):
                picture = tracker.Image(pixels(reliability_figure(self.trainer.reliability)))
                # The Trainer's callback sets the x axis of everything that is logged.
                tracker.log({"eval/reliability": picture, "train/global_step": state.global_step})


def pixels(figure: Figure) -> np.ndarray:
    """A figure as an image: height, width, and four channels of eight bits."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())
