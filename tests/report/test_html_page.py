"""report.html as a file: it is complete, bounded and harmless, whatever the run holds."""

import base64
import hashlib
import html
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from rlstep.cli import main
from rlstep.report.html.page import MOST_BYTES
from rlstep.runtime.errors import UserError
from rlstep.runtime.rows import write_json, write_rows
from rlstep.stages.report import ReportConfig, report
from tests.report.runs import make_run, scored

HOSTILE = '</script><script>document.title = "taken"</script><img src=x onerror="document.title = 1"><!--'


def page(run: Path, **options) -> str:
    report(ReportConfig(str(run), **options))
    return (run / "report" / "report.html").read_text(encoding="utf-8")


def data(text: str) -> dict:
    """What the script draws. The element ends at the first end tag, as it does for a browser."""
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])


def rows_of(folder: Path, *others) -> None:
    write_rows(folder / "test" / "scored.jsonl", [one.to_row() for one in (*scored(), *others)])


def test_the_page_has_figures_and_tables_without_its_script(tmp_path):
    text = page(make_run(tmp_path / "lab" / "run", seed=7))
    body = html.unescape(re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL))
    assert "lab/run" in body
    assert "seed 7" in body
    assert "<b>0.70</b> <small>[0.65, 0.75]</small>" in body
    assert "<td>0.50 [0.45, 0.55]</td>" in body  # the table of curves
    assert [chart["title"] for chart in data(text)["charts"]] == [
        "Best of N",
        "Answer right",
        "Answer and every step right",
    ]
    assert str(tmp_path) not in text


def test_only_its_own_script_and_style_may_run(tmp_path):
    text = page(make_run(tmp_path / "run"))
    policy = html.unescape(re.search(r'Content-Security-Policy" content="(.*?)"', text)[1])
    for kind, element in (("script", "<script>"), ("style", "<style>")):
        content = text.split(element)[1].split(f"</{kind}>")[0]
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")
    assert not re.search(r'(src|href)="(?!#)', text)  # links lead within the page alone


def test_hostile_text_stays_text(tmp_path):
    run = make_run(tmp_path / "run")
    bad = replace(
        scored()[0], completion=HOSTILE, steps=[(0, len(HOSTILE))], labels=[1], answer=HOSTILE, prompt=HOSTILE
    )
    rows_of(run, replace(bad, problem_id=HOSTILE, reference=HOSTILE, scores={"prm": [0.5], "orm": [0.5]}))
    write_json(run / "prepare" / "run.json", {"stage": "prepare", "versions": {HOSTILE: HOSTILE}, "commit": HOSTILE})
    text = page(run)
    assert text.count("</script>") == 2
    assert "<img" not in text
    assert "<!--" not in text
    (made,) = data(text)["sets"]
    assert [HOSTILE, HOSTILE, HOSTILE] in made["problems"]
    assert made["columns"][0]["rows"][-1]["t"][0][:3] == [HOSTILE, 0.5, 1]


def test_a_page_of_many_long_solutions_stays_below_five_megabytes(tmp_path):
    run = make_run(tmp_path / "run")
    text = "1 + 1 = 2\n" + "é" * 4000 + "\nAnswer: 2"
    long = replace(scored()[0], completion=text, steps=[(0, 10), (10, len(text))], labels=[1, 1])
    long.scores = {"prm": [0.9, 0.9], "orm": [0.5, 0.5]}
    write_rows(run / "test" / "scored.jsonl", (replace(long, sample=k).to_row() for k in range(800)))
    made = page(run, solutions=800)
    assert 0.9 * MOST_BYTES < len(made.encode()) < MOST_BYTES
    (column,) = data(made)["sets"][0]["columns"]
    assert column["total"] == 800
    assert 500 < column["here"] == len(column["rows"]) < 650


def test_the_number_of_solutions_is_a_setting(tmp_path):
    run = make_run(tmp_path / "run")
    assert data(page(run, solutions=2))["sets"][0]["columns"][0]["here"] == 2
    assert data(page(run, solutions=0))["sets"] == []


def test_a_run_without_solutions_has_no_browser(tmp_path):
    run = make_run(tmp_path / "run", arms=("outcome",))
    (run / "test" / "scored.jsonl").unlink()
    text = page(run)
    assert 'id="browser"' not in text
    assert "step scores: no test/scored.jsonl" in text


def test_a_folder_of_seeds_is_reported_over_them(tmp_path):
    for k in range(2):
        make_run(tmp_path / f"seed-{k}", seed=k, shift=0.02 * k)
    (tmp_path / "seed-2").mkdir()
    summary = report(ReportConfig(str(tmp_path)))
    assert summary["seeds"] == [0, 1]
    assert f"{tmp_path}/seed-2: nothing to report yet" in summary["missing"]
    text = (tmp_path / "report" / "report.html").read_text()
    assert [one["label"] for one in data(text)["sets"]] == ["seed 0: test problems", "seed 1: test problems"]
    # 0.7 in both, so the interval is a point; the gap to the ORM, too.
    assert "<b>0.70</b> <small>[0.70, 0.70]</small>" in text


def test_one_finished_seed_of_several_is_reported_alone(tmp_path):
    make_run(tmp_path / "seed-3", seed=3)
    (tmp_path / "seed-4").mkdir()
    assert main(["report", str(tmp_path)]) == 0
    text = (tmp_path / "report" / "report.html").read_text()
    assert [one["label"] for one in data(text)["sets"]] == ["seed 3: test problems"]
    assert "seed-4: nothing to report yet" in text


def test_two_runs_stand_side_by_side(tmp_path):
    a, b = make_run(tmp_path / "x" / "a"), make_run(tmp_path / "x" / "b", shift=0.1)
    text = page(a, beside=str(b))
    made = data(text)
    assert made["runs"] == ["x/a", "x/b"]
    assert [len(chart["panels"]) for chart in made["charts"]] == [2, 2, 2]
    assert made["charts"][0]["panels"][1]["series"][1]["y"] == [0.3, 0.6, 0.7]
    assert [column["here"] for column in made["sets"][0]["columns"]] == [4, 4]
    plain = data(page(a))
    assert plain["runs"] == ["x/a"]


def test_runs_of_different_tasks_are_not_set_side_by_side(tmp_path, capsys):
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b")
    for run, task in ((a, "arithmetic"), (b, "gsm8k")):
        write_json(run / "prepare" / "run.json", {"stage": "prepare", "seed": 0, "config": {"task": task}})
    with pytest.raises(UserError, match=r"a is of arithmetic, .*b is of gsm8k: runs of different tasks"):
        report(ReportConfig(str(a), beside=str(b)))
    assert not (a / "report" / "summary.json").exists()
    with pytest.raises(UserError, match="beside is .*, the run itself"):
        ReportConfig(str(a), beside=str(b / ".." / "a"))
    assert main(["report", str(a), "--beside", str(tmp_path / "nowhere")]) == 2
    assert "nowhere: no such run folder" in capsys.readouterr().err
    write_json(b / "prepare" / "run.json", {"stage": "prepare", "seed": 0, "config": {"task": "arithmetic"}})
    assert len(data(page(a, beside=str(b)))["runs"]) == 2


def test_a_half_written_log_is_named_and_the_rest_shown(tmp_path):
    run = make_run(tmp_path / "run")
    log = run / "ppo_process" / "metrics.jsonl"
    log.write_text('{"update": 1, "samples": 96, "loss": 0.1, "kl": 0.5, "alarm": 0}\n{"update": 2, "sa')
    text = page(run)
    assert data(text)["charts"][-1]["panels"][0]["series"][0]["y"] == [0.5]
    assert "metrics.jsonl, row 2" in text
    assert "what is missing</a>" in text.split("</header>")[0]


def test_a_page_names_a_few_of_many_broken_rows(tmp_path):
    """As of a damaged disk: naming 50,000 of them would be half of a page's five megabytes."""
    run = make_run(tmp_path / "run")
    for name in ("metrics.jsonl", "completions.jsonl"):
        (run / "ppo_process" / name).write_text("{half\n" * 50_000)
    text = page(run)
    assert len(text) < 100_000
    for name in ("metrics.jsonl", "completions.jsonl"):
        assert f"{name}, row 5: not valid JSON" in text
        assert f"{name}, row 6: not valid JSON" not in text
        assert f"{name}: 49,995 more rows that cannot be read" in text


def test_an_empty_file_of_solutions_is_an_error(tmp_path):
    run = make_run(tmp_path / "run")
    (run / "test" / "scored.jsonl").write_text("")
    with pytest.raises(UserError, match=r"scored\.jsonl: the file has no rows"):
        report(ReportConfig(str(run)))
