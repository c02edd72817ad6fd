"""What the policies wrote during PPO, on the page: which sets there are, what they tell, and what is missing."""

import json

import pytest

from rlstep.report.finished import open_run
from rlstep.report.html.page import MOST, MOST_BYTES, write_page
from rlstep.report.html.solutions import as_json, solution_sets
from rlstep.report.html.sources import policy_sources
from rlstep.stages.report import ReportConfig, report
from tests.report.runs import make_run, write_completions
from tests.report.test_html_page import HOSTILE, data


def page(*runs, most: int = MOST) -> str:
    """The page of a run, or of two: `report` without its figures, which take most of its time."""
    path = runs[0] / "report.html"
    write_page(path, [open_run(run) for run in runs], most)
    return path.read_text(encoding="utf-8")


@pytest.fixture
def run(tmp_path):
    """A run with a process arm and an outcome arm, both of which kept completions."""
    run = make_run(tmp_path / "run", arms=("process", "outcome"))
    write_completions(run / "ppo_process")
    write_completions(run / "ppo_outcome", prm=False)
    return run


def test_each_arm_is_a_set_of_its_own(run):
    test, process, outcome = data(page(run))["sets"]
    assert test["label"] == "seed 0: test problems"
    assert process["label"] == "seed 0: process + outcome, during PPO"
    assert outcome["label"] == "seed 0: outcome only, during PPO"
    (column,) = process["columns"]
    assert (column["file"], column["total"], column["here"]) == ("ppo_process/completions.jsonl", 12, 12)
    assert column["guards"] == "as PPO applied them"
    assert column["counts"] == {
        "right_on_wrong": [6, 6], "scored_high": [3, 3], "scored_low": [0, 0], "guarded": [3, 3], "wrong": [3, 3],
        "clean": [3, 3],
    }  # fmt: skip
    missed = dict(column["rows"][5])  # the second of the second update
    assert process["problems"][missed.pop("p")] == ["update-2-problem-0", "1 + 1 + 1\n", "3"]
    steps = [["1 + 1 = 3\n", 0.9, 0, None, 0.8], ["3 + 1 = 3\n", 0.2, 0, "repeats", -0.6]]
    kinds = 1 << 0 | 1 << 1 | 1 << 3  # right on a wrong step, a wrong step scored high, guarded
    assert missed.pop("t") == [*steps, ["Answer: 3", 0.9, 1, None, 0.8]]
    # 0.9 x 0.2 x 0.9; 0.8 - 0.6 + 0.8
    assert missed == {"n": 1, "k": kinds, "a": "3", "c": True, "s": 0.162, "w": 0, "e": 2, "v": 1.0, "r": 1.0}


def test_without_a_prm_nothing_is_told_of_one(run):
    column = data(page(run))["sets"][2]["columns"][0]
    assert list(column["counts"]) == ["right_on_wrong", "guarded", "wrong", "clean"]
    # No reward is shown where none is paid.
    assert column["rows"][0]["t"][0] == ["1 + 1 = 2\n", None, 1]
    assert not {"s", "r"} & column["rows"][0].keys()
    assert column["rows"][0]["v"] == 1.0


def test_a_completion_chosen_for_its_step_rewards_says_so(run):
    for arm in ("process", "outcome"):
        path = run / f"ppo_{arm}" / "completions.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        rows[3]["extra"]["ppo"]["chosen"] = "wrong, with the highest step rewards"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    _, process, outcome = (one["columns"][0]["rows"] for one in data(page(run))["sets"])
    assert [row.get("y") for row in process[2:5]] == [None, True, None]
    assert [row.get("y") for row in outcome[2:5]] == [None] * 3  # none of its steps is paid


def test_lines_that_cannot_be_read_are_named_and_the_others_shown(run):
    path = run / "ppo_process" / "completions.jsonl"
    first, second, *others = path.read_text().splitlines()
    broken = json.loads(second)
    broken["extra"]["ppo"]["step_rewards"] = "many"
    path.write_text("\n".join([first, "{nonsense}", json.dumps(broken), *others, first[:50]]))
    text = page(run)
    (column,) = data(text)["sets"][1]["columns"]
    assert (column["total"], column["here"]) == (11, 11)
    # The places of the rows are those of the file, though some have none.
    assert [row["n"] for row in column["rows"]] == [0, 2, 3] + [0, 1, 2, 3] * 2
    for row, what in ((2, "not valid JSON"), (14, "not valid JSON")):
        assert f"ppo_process/completions.jsonl, row {row}: {what}" in text
    assert "row 3, field &#x27;extra.ppo.step_rewards&#x27;: expected a list of finite numbers or null" in text


def test_a_run_that_is_still_writing_its_first_line_has_no_set_yet(run):
    path = run / "ppo_process" / "completions.jsonl"
    path.write_text('{"problem_id": "update-1-problem-0",')
    text = page(run)
    assert [one["label"] for one in data(text)["sets"]] == [
        "seed 0: test problems",
        "seed 0: outcome only, during PPO",
    ]
    assert "ppo_process/completions.jsonl" in text


def test_arms_without_completions_are_named(run):
    (run / "ppo_process" / "completions.jsonl").unlink()
    (run / "ppo_outcome" / "completions.jsonl").write_text("")
    sources, missing = policy_sources({"seed 0": run})
    assert sources == []
    assert missing == [
        "what the policy wrote: no seed 0/ppo_process/completions.jsonl (PPO writes it with completion_table_every)",
        "what the policy wrote: seed 0/ppo_outcome/completions.jsonl is empty",
    ]
    assert "no seed 0/ppo_process/completions.jsonl" in page(run)


def test_a_run_without_test_solutions_shows_what_its_policies_wrote(run):
    (run / "test" / "scored.jsonl").unlink()
    text = page(run)
    assert 'id="browser"' in text
    assert len(data(text)["sets"]) == 2
    assert data(page(run, most=0))["sets"] == []


def test_two_runs_have_what_their_policies_wrote_apart(run, tmp_path):
    other = make_run(tmp_path / "other", shift=0.1)
    write_completions(other / "ppo_process", updates=1)
    sets = data(page(run, other))["sets"]
    assert [[column and column["here"] for column in one["columns"]] for one in sets] == [
        [4, 4], [12, None], [12, None], [None, 4],
    ]  # fmt: skip


def test_seeds_have_a_set_each(tmp_path):
    for seed in range(2):
        run = make_run(tmp_path / f"seed-{seed}", seed, arms=("process", "outcome"))
        write_completions(run / "ppo_process", updates=1 + seed)
    report(ReportConfig(str(tmp_path)))
    sets = data((tmp_path / "report" / "report.html").read_text())["sets"]
    assert [(one["label"], one["columns"][0]["here"]) for one in sets[2:]] == [
        ("seed 0: process + outcome, during PPO", 4),
        ("seed 1: process + outcome, during PPO", 8),
    ]


def test_sets_share_the_page_and_leave_to_others_what_they_do_not_need(run):
    for arm in ("process", "outcome"):
        write_completions(run / f"ppo_{arm}", updates=40)
    budget = 30_000
    sets = solution_sets([{"seed 0": run}], 10**6, budget, [policy_sources({"seed 0": run})[0]])
    sizes = [len(as_json(one).encode()) for one in sets]
    # The test solutions need far less than a third, so the policies' sets may have more.
    assert sizes[0] < budget / 10
    assert min(sizes[1:]) > budget / 3
    assert sum(sizes) < budget + 600  # but for the frame of the last one
    assert [one["columns"][0]["here"] < one["columns"][0]["total"] for one in sets] == [False, True, True]


def test_the_page_stays_below_five_megabytes_however_much_was_written(tmp_path):
    run = make_run(tmp_path / "run", arms=("process",))
    path = write_completions(run / "ppo_process", updates=100, text="1 + 1 = 2\n" + "é" * 8000 + "\nAnswer: 2")
    assert path.stat().st_size > 1_500_000
    path.write_text(path.read_text() * 8)
    text = page(run, most=5000)
    assert 0.9 * MOST_BYTES < len(text.encode()) < MOST_BYTES
    column = data(text)["sets"][1]["columns"][0]
    assert column["total"] == 3200
    assert column["here"] < 3200


def test_hostile_text_of_a_policy_stays_text(run):
    (run / "ppo_process" / "completions.jsonl").unlink()
    path = write_completions(run / "ppo_process", text=HOSTILE + " x")
    path.write_text(path.read_text().replace('"repeats"', json.dumps(HOSTILE)))
    text = page(run)
    assert text.count("</script>") == 2
    assert "<img" not in text
    rows = data(text)["sets"][1]["columns"][0]["rows"]
    assert rows[0]["t"][0][0] == HOSTILE + " x"
    assert rows[1]["t"][1][3] == HOSTILE
