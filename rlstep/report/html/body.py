"""The HTML of a page, as far as it can be read without its script: what was run, headline figures, tables.

The script draws charts in the elements with `data-chart`, the index of a chart, and solutions in `#browser`.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from rlstep.report import tables
from rlstep.report.finished import FinishedRun
from rlstep.report.glossary import GLOSSARY
from rlstep.report.html.headline import Card
from rlstep.report.over_seeds import comparison_cells, gap_cells, without_gaps
from rlstep.report.tables import Cells
from rlstep.runtime.counted import counted
from rlstep.runtime.visible import visible

LETTERS = "AB"  # two runs, side by side
DOT = " &middot; "


@dataclass(frozen=True)
class Section:
    """A part of the page, which is left out if it has no content."""

    name: str
    title: str
    parts: list[str]


def body(
    runs: Sequence[FinishedRun],
    cards: Sequence[Card],
    charts: dict[str, list[int]],
    missing: Sequence[Sequence[str]],
    browser: bool,
) -> str:
    """The page between its header's tools and its end.

    Args:
        runs: one, or two that stand side by side.
        cards: the headline figures.
        charts: indices of the charts of the sections best_of_n, rl and training.
        missing: what each run lacks, in words.
        browser: whether there are solutions to browse.
    """
    sections = [
        Section("headline", "Headline figures", [_cards(cards, runs), _what_intervals_are(runs)] if cards else []),
        Section("best_of_n", "Best of N", _charts(charts["best_of_n"]) + _per_run(runs, _best_of_n_tables)),
        Section("rl", "Reinforcement learning", _charts(charts["rl"]) + _per_run(runs, _rl_tables)),
        Section("training", "Training", _charts(charts["training"])),
        Section("solutions", "Solutions", ['<div id="browser"></div>'] if browser else []),
        Section(
            "about",
            "About",
            [_missing([what for of_run in missing for what in of_run]), *_per_run(runs, _about), _words()],
        ),
    ]
    shown = [section for section in sections if section.parts]
    links = "".join(f'<a href="#{section.name}">{_text(section.title)}</a>' for section in shown)
    nav = f'<nav aria-label="Sections">{links}</nav>'
    main = "\n".join(_section(section) for section in shown)
    return f"<header><h1>{_title(runs)}</h1>{_what_was_run(runs, missing)}{nav}</header>\n<main>\n{main}\n</main>"


def _text(text: str) -> str:
    """Text as HTML, in elements and attributes alike."""
    return escape(visible(text), quote=True)


def _section(section: Section) -> str:
    name = section.name
    title = f'<h2 id="{name}-title">{_text(section.title)}</h2>'
    return f'<section id="{name}" aria-labelledby="{name}-title">{title}' + "\n".join(section.parts) + "</section>"


def _title(runs: Sequence[FinishedRun]) -> str:
    if len(runs) == 1:
        return _text(runs[0].name)
    return " and ".join(
        f'<span class="run">{letter}</span> {_text(run.name)}' for letter, run in zip(LETTERS, runs, strict=False)
    )


def _what_was_run(runs: Sequence[FinishedRun], missing: Sequence[Sequence[str]]) -> str:
    lines = []
    for place, (run, lacks) in enumerate(zip(runs, missing, strict=True)):
        parts = []
        if run.over_seeds:
            parts.append(
                f"{counted(len(run.summaries), 'seed')}: " + ", ".join(str(seed) for seed in run.summary["seeds"])
            )
        elif run.summary["seed"] is not None:
            parts.append(f"seed {run.summary['seed']}")
        if curves := run.summaries[0]["best_of_n"]:
            each = counted(curves["samples_per_problem"], "sample")
            parts.append(f"{counted(curves['problems'], 'test problem')} with {each} each")
            parts.append(f"PRM solution score: {curves['aggregate']}")
        says = [_text(part) for part in parts]
        if lacks:
            says.append('<a href="#missing">what is missing</a>')
        who = f'<span class="run">{LETTERS[place]}</span> ' if len(runs) > 1 else ""
        lines.append(f"<p>{who}{DOT.join(says)}</p>" if says else "")
    return "".join(lines)


def _what_intervals_are(runs: Sequence[FinishedRun]) -> str:
    over = {run.over_seeds for run in runs}
    says = []
    if True in over:
        says.append("over several seeds: means and 95% t-intervals over them")
    if False in over:
        says.append(
            "of one seed: best-of-N intervals are 95% over problems; RL is one run, whose spread over seeds is unknown"
        )
    return f'<p class="note">In brackets, {_text("; ".join(says))}.</p>'


def _cards(cards: Sequence[Card], runs: Sequence[FinishedRun]) -> str:
    head = ""
    if len(runs) > 1:
        head = (
            "<thead><tr><th></th>" + "".join(f'<th scope="col">{letter}</th>' for letter in LETTERS) + "</tr></thead>"
        )
    return '<div class="cards">' + "".join(_card(card, head) for card in cards) + "</div>"


def _card(card: Card, head: str) -> str:
    rows = "".join(
        f'<tr><th scope="row">{_text(label)}</th>' + "".join(f"<td>{_figure(text)}</td>" for text in texts) + "</tr>"
        for label, texts in card.rows
    )
    return f'<div class="card"><h3>{_text(card.title)}</h3><table>{head}<tbody>{rows}</tbody></table></div>'


def _figure(text: str) -> str:
    """A figure, its interval smaller."""
    value, bracket, rest = text.partition(" [")
    return f"<b>{_text(value)}</b>" + (f" <small>{_text(bracket.strip() + rest)}</small>" if bracket else "")


def _charts(places: Sequence[int]) -> list[str]:
    if not places:
        return []
    figures = "".join(f'<figure data-chart="{place}"></figure>' for place in places)
    return [f'<div class="charts">{figures}</div><noscript><p class="note">Charts need JavaScript.</p></noscript>']


def _per_run(runs: Sequence[FinishedRun], content: Callable[[FinishedRun], str]) -> list[str]:
    """What `content` makes of each run, under the run's name if there are two."""
    parts = []
    for letter, run in zip(LETTERS, runs, strict=False):
        if made := content(run):
            name = f'<h3><span class="run">{letter}</span> {_text(run.name)}</h3>' if len(runs) > 1 else ""
            parts += [f"<div>{name}{made}</div>"]
    return [f'<div class="side">{"".join(parts)}</div>'] if parts else []


def _best_of_n_tables(run: FinishedRun) -> str:
    if not (curves := run.summary["best_of_n"]):
        return ""
    made = _details("Table", tables.best_of_n(without_gaps(curves)))
    if run.over_seeds and len((gaps := gap_cells(curves)).head) > 1:
        made += _details("Differences, taken within each seed", gaps)
    elif measures := curves.get("prm_steps"):
        made += _details("The PRM on single steps, up to and including the first wrong one", tables.prm_steps(measures))
    return made


def _rl_tables(run: FinishedRun) -> str:
    if not any(run.summary["rl"].values()):
        return ""
    made = _details("Table", tables.learning_curves(run.summary["rl"], run.summary.get("rl_gap")))
    if run.over_seeds and run.summary["rl_comparison"]:
        title = "Samples to the outcome arm's last accuracy, at the first evaluation at or above it"
        made += _details(title, comparison_cells(run.summary["seeds"], run.summary["rl_comparison"]))
    return made


def _details(title: str, cells: Cells) -> str:
    head = "".join(f'<th scope="col">{_text(cell)}</th>' for cell in cells.head)
    rows = "".join(
        f'<tr><th scope="row">{_text(first)}</th>' + "".join(f"<td>{_text(cell)}</td>" for cell in rest) + "</tr>"
        for first, *rest in cells.rows
    )
    return (
        f'<details><summary>{_text(title)}</summary><div class="wide"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div></details>"
    )


def _missing(missing: Sequence[str]) -> str:
    if not missing:
        return ""
    return '<h3 id="missing">Missing</h3><ul>' + "".join(f"<li>{_text(what)}</li>" for what in missing) + "</ul>"


def _about(run: FinishedRun) -> str:
    made = ""
    for label, summary in zip(run.folders, run.summaries, strict=True):
        if summary["seconds"]:
            made += _details(f"Time of {label}", tables.seconds(summary["seconds"]))
    versions = run.summaries[0]["versions"]
    if versions:
        made += _details("Versions", Cells(["package", "version"], [list(pair) for pair in versions.items()]))
    commits = sorted({commit for summary in run.summaries for commit in summary["commits"]})
    return made + (f"<p>Code: {_text(', '.join(commits))}</p>" if commits else "")


def _words() -> str:
    items = _text(GLOSSARY).removeprefix("- ").split("\n- ")
    marked = (re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", item) for item in items)
    return "<h3>Words</h3><ul>" + "".join(f"<li>{item}</li>" for item in marked) + "</ul>"
