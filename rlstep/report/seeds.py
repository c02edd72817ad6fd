"""One experiment over several seeds: its results in tables, figures and a page."""

from collections.abc import Sequence
from pathlib import Path

from rlstep.report import tables
from rlstep.report.finished import FinishedRun, open_seeds, side_by_side
from rlstep.report.html.page import MOST, PAGE, write_page
from rlstep.report.one_run import remove_others
from rlstep.report.over_seeds import GAPS, comparison_cells, domain_cells, gap_cells, without_gaps
from rlstep.runtime.counted import counted
from rlstep.runtime.rows import write_json
from rlstep.runtime.visible import visible


def report_seeds(
    runs: Sequence[str | Path],
    out: str | Path,
    beside: FinishedRun | None = None,
    most: int = MOST,
    missing: Sequence[str] = (),
) -> dict:
    """Writes summary.json, report.md, report.html, best_of_n.png and rl_curves.png over `runs` into `out`.

    Args:
        runs: run folders, one per seed.
        out: where the report goes.
        beside: the run to set beside this one in report.html.
        most: the most solutions of each set in report.html.
        missing: what else is missing, in words.

    Returns:
        The summary.

    Raises:
        UserError: as in `open_seeds`, or the run beside is of another task.
    """
    finished = open_seeds(runs, missing)
    on_page = side_by_side(finished, beside)
    summary = finished.summary
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    _draw(summary, out)
    write_json(out / "summary.json", summary)
    (out / "report.md").write_text(visible(_text(summary)), encoding="utf-8")
    write_page(out / PAGE, on_page, most)
    return summary


def _draw(summary: dict, out: Path) -> None:
    from rlstep.report import figures

    pictures = set()
    caption = f"Lines: mean of {counted(len(summary['seeds']), 'seed')}. Shaded: 95% t-interval over seeds."
    if summary["best_of_n"]:
        figures.draw_best_of_n(without_gaps(summary["best_of_n"]), out / "best_of_n.png", caption)
        pictures.add("best_of_n.png")
    if any(summary["rl"].values()):
        figures.draw_rl_curves(summary["rl"], out / "rl_curves.png", caption)
        pictures.add("rl_curves.png")
    remove_others(pictures, out)


def _text(summary: dict) -> str:
    seeds = summary["seeds"]
    parts = [f"# {counted(len(seeds), 'seed')}"]
    parts += ["In brackets: 95% t-intervals over seeds. Gaps and ratios are taken within each seed."]
    if summary["missing"]:
        parts += ["## Missing", "\n".join(f"- {what}" for what in summary["missing"])]
    if curves := summary["best_of_n"]:
        parts += ["## Best of N", "![Best of N](best_of_n.png)"]
        parts += [tables.table(*tables.best_of_n(without_gaps(curves)))]
        parts += [tables.table(*gap_cells(curves))] if GAPS.keys() & curves.keys() else []
    if summary["domains"]:
        parts += ["## Other domains", tables.table(*domain_cells(summary["domains"]))]
    if any(summary["rl"].values()):
        parts += [
            "## Reinforcement learning",
            "![RL curves](rl_curves.png)",
            tables.table(*tables.learning_curves(summary["rl"], summary["rl_gap"])),
        ]
    if summary["rl_comparison"]:
        parts += ["Samples to the outcome arm's last accuracy, at the first evaluation at or above it:"]
        parts += [tables.table(*comparison_cells(seeds, summary["rl_comparison"]))]
    return "\n\n".join(parts) + "\n"
