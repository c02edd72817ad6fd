"""Writes report.html: one file, which loads nothing and stays under 5 MB.

Its data is JSON in a script element that is not run; its one script and its style sheet are named by their hashes in
the page's content security policy, so nothing that a model or a data set wrote can run, whatever escapes the escaping.
"""

import base64
import hashlib
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

from rlstep.report.finished import FinishedRun
from rlstep.report.html import charts
from rlstep.report.html.body import body
from rlstep.report.html.choice import KINDS
from rlstep.report.html.headline import Trainings, cards
from rlstep.report.html.solutions import as_json, solution_sets
from rlstep.report.html.sources import policy_sources
from rlstep.report.html.training import read_arms, training_charts
from rlstep.runtime.rows import atomic
from rlstep.runtime.visible import visible

PAGE = "report.html"
MOST = 500  # solutions per set
MOST_BYTES = 5_000_000
_FILES = files("rlstep.report.html") / "page_files"
_SCRIPTS = ("dom.js", "charts.js", "solutions.js", "page.js")


def write_page(path: Path, runs: Sequence[FinishedRun], most: int = MOST) -> None:
    """Writes the page of a run, or of two side by side.

    Args:
        path: the file.
        runs: one, or two of one task; what they lack is named.
        most: solutions per set; fewer where the page would grow beyond `MOST_BYTES`.
    """
    trainings, missing = zip(*(read_arms(run.folders) for run in runs), strict=True)
    read = [policy_sources(run.folders) if most else ([], []) for run in runs]
    policies = [written for written, _ in read]
    missing = [[*of_logs, *of_policies] for of_logs, (_, of_policies) in zip(missing, read, strict=True)]
    sections = _charts(runs, trainings)
    drawn = [chart for of_section in sections.values() for chart in of_section]
    places = {name: [drawn.index(chart) for chart in of_section] for name, of_section in sections.items()}
    names = [run.name for run in runs]
    data = {"runs": names, "charts": drawn, "kinds": [[kind.name, kind.title] for kind in KINDS], "sets": []}
    headline, named = cards(runs, trainings), _missing(runs, missing)

    def page() -> str:
        return render(" and ".join(names), body(runs, headline, places, named, bool(data["sets"])), data)

    room = MOST_BYTES - len(page().encode()) - 10_000  # the last for the browser's frame
    data["sets"] = solution_sets([run.folders for run in runs], most, room, policies)
    with atomic(path) as temporary:
        temporary.write_text(page(), encoding="utf-8")


def _charts(runs: Sequence[FinishedRun], trainings: Sequence[Trainings]) -> dict[str, list[dict]]:
    """The charts by section of the page."""
    summaries = [run.summary for run in runs]
    return {
        "best_of_n": charts.best_of_n(summaries, _over(runs, "95% interval over problems")),
        "rl": charts.learning_curves(summaries, f"Test problems, by the exact checker. {_bands(runs)}"),
        "training": training_charts(trainings),
    }


def _missing(runs: Sequence[FinishedRun], more: Sequence[Sequence[str]]) -> list[list[str]]:
    """What each run's summary and logs lack; of two runs, with the run's name."""
    return [
        [(f"{run.name}: " if len(runs) > 1 else "") + what for what in (*run.summary["missing"], *of_logs)]
        for run, of_logs in zip(runs, more, strict=True)
    ]


def _over(runs: Sequence[FinishedRun], one: str) -> str:
    several = "95% t-interval over seeds"
    over = {run.over_seeds for run in runs}
    return several if over == {True} else one if over == {False} else f"{one}, of several seeds {several}"


def _bands(runs: Sequence[FinishedRun]) -> str:
    return "Shaded: 95% t-interval over seeds." if any(run.over_seeds for run in runs) else ""


def render(title: str, content: str, data: dict) -> str:
    """The whole page.

    Args:
        title: of the window, plain text.
        content: HTML of the body.
        data: what the script draws.
    """
    style = _read("page.css")
    script = "\n".join(_read(name) for name in _SCRIPTS)
    return Template(_read("page.html")).substitute(
        title=escape(visible(title)),
        policy="; ".join(
            [
                "default-src 'none'",
                f"script-src '{_hash(script)}'",
                f"style-src '{_hash(style)}'",
                "base-uri 'none'",
                "form-action 'none'",
                "require-trusted-types-for 'script'",
            ]
        ),
        style=style,
        script=script,
        content=content,
        data=as_json(data),
    )


def _read(name: str) -> str:
    return (_FILES / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
