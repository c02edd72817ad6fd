"""The report of one run: `summary.json`, `report.md`, `report.html` and the figures."""

from collections.abc import Sequence
from pathlib import Path

from rlstep.report import tables
from rlstep.report.examples import Example
from rlstep.report.finished import FinishedRun, open_one, side_by_side
from rlstep.report.glossary import GLOSSARY
from rlstep.report.html.page import MOST, PAGE, write_page
from rlstep.runtime.counted import counted
from rlstep.runtime.rows import write_json
from rlstep.runtime.visible import visible

SUMMARY, TEXT = "summary.json", "report.md"
PICTURES = ("best_of_n.png", "rl_curves.png", "step_scores.png")


def report_run(
    run: str | Path,
    out: str | Path,
    beside: FinishedRun | None = None,
    most: int = MOST,
    missing: Sequence[str] = (),
) -> tuple[dict, list[str]]:
    """Writes the report of a run folder into `out`, naming what is missing.

    Args:
        run: the folder.
        out: where the report goes.
        beside: the run to set beside this one in report.html.
        most: the most solutions of each set in report.html.
        missing: what else is missing, in words.

    Returns:
        The content of summary.json, and the names of the figures that there was data for.

    Raises:
        UserError: as in `summarize`, or the run beside is of another task.
    """
    finished, step_scores = open_one(run, missing)
    on_page = side_by_side(finished, beside)
    summary = finished.summary
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    examples = step_scores.examples if step_scores else []
    pictures = _draw(summary, examples, out)
    write_json(out / SUMMARY, summary)
    (out / TEXT).write_text(visible(_text(summary, examples)), encoding="utf-8")
    write_page(out / PAGE, on_page, most)
    return summary, sorted(pictures)


def _draw(summary: dict, examples: list[Example], out: Path) -> set[str]:
    """Draws the figures that there is data for; those of an earlier report that no longer have any are removed."""
    # matplotlib takes half a second to import, and reading a summary needs none of it.
    from rlstep.report import figures

    pictures = set()
    if summary["best_of_n"]:
        caption = f"{counted(summary['best_of_n']['problems'], 'test problem')}. Shaded: 95% interval over problems."
        figures.draw_best_of_n(summary["best_of_n"], out / "best_of_n.png", caption)
        pictures.add("best_of_n.png")
    if any(summary["rl"].values()):
        caption = "Test problems, by the exact checker. Arrow: samples to the accuracy on which the outcome arm ends."
        figures.draw_rl_curves(summary["rl"], out / "rl_curves.png", caption, summary["rl_comparison"])
        pictures.add("rl_curves.png")
    if examples:
        figures.draw_step_scores(examples, out / "step_scores.png")
        pictures.add("step_scores.png")
    remove_others(pictures, out)
    return pictures


def remove_others(pictures: set[str], out: Path) -> None:
    """Removes the figures of an earlier report that this one has no data for."""
    for name in set(PICTURES) - pictures:
        (out / name).unlink(missing_ok=True)


def _text(summary: dict, examples: list[Example]) -> str:
    parts = ["# Report", _what_was_run(summary)]
    if summary["missing"]:
        parts += ["## Missing", "\n".join(f"- {what}" for what in summary["missing"])]
    if summary["best_of_n"]:
        parts += ["## Best of N", "![Best of N](best_of_n.png)", tables.table(*tables.best_of_n(summary["best_of_n"]))]
        parts += ["In brackets: 95% intervals over problems."]
        if measures := summary["best_of_n"].get("prm_steps"):
            parts += ["The PRM on single steps, up to and including the first wrong one:"]
            parts += [tables.table(*tables.prm_steps(measures))]
    if summary["domains"]:
        parts += ["## Other domains", tables.table(*tables.domains(summary["domains"]))]
    if any(summary["rl"].values()):
        parts += ["## Reinforcement learning", "![RL curves](rl_curves.png)"]
        parts += [tables.table(*tables.learning_curves(summary["rl"]))]
    if summary["rl_comparison"]:
        parts += ["\n".join(_reach(*one) for one in summary["rl_comparison"].items())]
    if summary["step_scores"]:
        parts += ["## Step scores"]
        parts += ["![Step scores](step_scores.png)"] if examples else []
        parts += [_tally(summary["step_scores"])]
        for example in examples:
            parts += [f"{example.title} (PRM score, exact checker, step)", tables.steps(example.solution)]
    if summary["seconds"]:
        parts += ["## Time", tables.table(*tables.seconds(summary["seconds"]))]
    return "\n\n".join([*parts, "## Words", GLOSSARY]) + "\n"


def _what_was_run(summary: dict) -> str:
    lines = []
    if summary["seed"] is not None:
        lines.append(f"Seed {summary['seed']}.")
    if curves := summary["best_of_n"]:
        text = f"{counted(curves['problems'], 'test problem')} with at least "
        text += f"{counted(curves['samples_per_problem'], 'sample')} each"
        if "unanswered" in curves:  # absent if the file does not give answers
            text += f", {curves['unanswered']:.1%} of them without an answer"
        lines.append(f"{text}; PRM solution score: {curves['aggregate']}.")
    if summary["versions"]:
        lines.append(f"Versions: {', '.join(' '.join(pair) for pair in summary['versions'].items())}.")
    if summary["commits"]:
        lines.append("Code: " + ", ".join(summary["commits"]) + ".")
    return "\n".join(lines) or "The run left no record of its settings."


def _reach(key: str, reach: dict) -> str:
    """How many samples each arm needs, in words."""
    name = {"accuracy": "Answers right", "clean_accuracy": "Answer and every step right"}[key]
    start = f"- {name}: the outcome arm ends on {reach['level']:.3f}, first reached after {reach['outcome_samples']:,}"
    if reach["process_samples"] is None:
        return start + " samples; the process arm does not reach it."
    end = f" samples; the process arm reaches it after {reach['process_samples']:,}"
    return start + end + (f", {reach['ratio']:.1f} times fewer." if reach["ratio"] else ", before any training.")


def _tally(tally: dict) -> str:
    """One paragraph about all scored solutions, so that the examples are not taken as typical."""
    right = counted(tally["right_answer"], "has", "have")
    text = f"Of {counted(tally['solutions'], 'test solution')} {right} the right answer,"
    text += f" {tally['right_answer_wrong_step']:,} of these after a wrong step."
    if tally["first_wrong_step_found"] is not None:
        text += (
            f" Among the {tally['with_wrong_step']:,} with a wrong step, the first step that the PRM puts below"
            f" {tally['threshold']} is exactly the first wrong one in {tally['first_wrong_step_found']:.1%}."
        )
    if tally["all_right_unflagged"] is not None:
        text += f" Of the {tally['all_right']:,} clean ones, {tally['all_right_unflagged']:.1%} have no step below it."
    return text
