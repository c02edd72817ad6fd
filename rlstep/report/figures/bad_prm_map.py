"""The map of bad PRMs: samples to a clean accuracy and runs that are lost, by way and by PRM."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlstep.report.bad_prm_plan import OUTCOME, Plan
from rlstep.report.figures.drawing import save, set_title
from rlstep.report.style import BLACK, STYLE
from rlstep.runtime.counted import counted

# Light where things go well; each cell has its number, so that nothing hangs on the shade.
SHADES = {"samples": "Blues", "lost": "Oranges"}
ROW_IN = 0.27


def draw_bad_prm_map(summary: dict, plan: Plan, path: str | Path) -> None:
    """Draws a heat map each of the samples and of the lost runs; columns from the worst PRM to the best.

    Args:
        summary: that of `report_bad_prm`.
        plan: what was run.
        path: the PNG.
    """
    quality = {level.name: summary["prms"][level.name]["balanced_accuracy"]["mean"] for level in plan.levels}
    levels = sorted(quality, key=quality.get)
    rows = [(OUTCOME.label, {level: summary["outcome"] for level in levels})]
    rows += [(way.label, summary["ways"][way.name]) for way in plan.ways]
    names, cells_RL = [name for name, _ in rows], [[of_level[level] for level in levels] for _, of_level in rows]
    columns = [f"{quality[level]:.2f}" for level in levels]
    seeds, target = len(summary["seeds"]), summary["target"]
    with rc_context(STYLE | {"axes.grid": False}):
        figure = Figure(figsize=(3.4 + 1.3 * len(levels), 1.9 + ROW_IN * len(names)), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        texts_RL = [[_samples(cell["samples"]) for cell in row] for row in cells_RL]
        values_RL = np.array([[cell["samples"]["mean"] / summary["samples"] for cell in row] for row in cells_RL])
        _heat(left, f"Samples to {target:.0%} clean", values_RL, texts_RL, names, columns, SHADES["samples"])
        values_RL = np.array([[cell["lost"]["mean"] for cell in row] for row in cells_RL])
        texts_RL = [[f"{round(cell['lost']['mean'] * seeds)} of {seeds}" for cell in row] for row in cells_RL]
        _heat(right, "Runs lost", values_RL, texts_RL, names, columns, SHADES["lost"])
        # Below both maps, as a label of each would be wider than a map of one or two PRMs.
        caption = (
            "Columns: PRMs, by the steps that they judge right (balanced).\n"
            f"{counted(seeds, 'seed')}, {counted(summary['samples'], 'sample')} each; "
            f"> where some seed never gets there."
        )
        set_title(figure, "Process rewards from a bad PRM", caption)
        save(figure, path)


def _samples(cell: dict) -> str:
    return f"{'>' if cell['bound'] else ''}{cell['mean']:,.0f}"


def _heat(
    axes: Axes,
    title: str,
    values_RL: np.ndarray,
    texts_RL: Sequence[Sequence[str]],
    rows: Sequence[str],
    columns: Sequence[str],
    shades: str,
) -> None:
    """Shades of values in [0, 1], with a text in each cell."""
    axes.imshow(values_RL, cmap=shades, vmin=0, vmax=1.6, aspect="auto")
    for row, texts in enumerate(texts_RL):
        for column, text in enumerate(texts):
            axes.text(column, row, text, ha="center", va="center", color=BLACK, fontsize=8)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xticks(range(len(columns)), columns)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(title, loc="left", fontsize=10)
