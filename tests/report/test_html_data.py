"""What the HTML report shows, as data: kinds and choice of solutions, training charts, headline figures."""

import json
from dataclasses import replace

import pytest

from rlstep.policy.rewards.guards import Guards
from rlstep.report import arms
from rlstep.report.finished import open_one, open_seeds
from rlstep.report.html import charts
from rlstep.report.html.choice import KINDS, choose, kinds_of, spread, withheld
from rlstep.report.html.headline import cards
from rlstep.report.html.solutions import as_json, row, solution_sets
from rlstep.report.html.training import MOST_POINTS, Training, read_arms, read_training, training_charts
from rlstep.runtime.rows import write_json, write_rows
from tests.report.runs import make_run, scored, solution

BITS = {kind.name: 1 << bit for bit, kind in enumerate(KINDS)}


def test_kinds_by_hand():
    clean, missed, caught, wrong = scored()
    assert kinds_of(clean, False) == BITS["clean"]
    assert kinds_of(missed, False) == BITS["right_on_wrong"] | BITS["scored_high"]
    # Its second wrong step is scored 0.6, but a PRM is not trained on what follows the first.
    assert kinds_of(caught, False) == BITS["right_on_wrong"]
    assert kinds_of(wrong, True) == BITS["wrong"] | BITS["guarded"]
    low = replace(clean, scores={"prm": [0.4, 0.8, 0.9]})
    assert kinds_of(low, False) == BITS["clean"] | BITS["scored_low"]
    soft = replace(clean, labels=[0.9, 0.4, None], scores={"prm": [0.3, 0.6, 0.9]})
    assert kinds_of(soft, False) == BITS["right_on_wrong"] | BITS["scored_high"] | BITS["scored_low"]
    neutral = replace(clean, labels=[1, None, 1], neutral=[1], scores={"prm": [0.9, 0.3, 0.9]})
    assert kinds_of(neutral, False) == BITS["clean"] | BITS["scored_low"]
    bare = replace(clean, labels=None, scores={}, correct=None)
    assert kinds_of(bare, False) == 0


def test_a_step_without_a_score_is_no_mistake_of_the_prm():
    """The solution was cut to what fits into the verifier: its score as a whole is not known either."""
    cut = replace(scored()[1], scores={"prm": [0.9, None, None], "orm": [0.9, 0.5, None]})
    assert kinds_of(cut, False) == BITS["right_on_wrong"] | BITS["scored_high"]
    assert kinds_of(replace(cut, scores={"prm": [None] * 3}), False) == BITS["right_on_wrong"]
    shown = row(cut, withheld(cut, Guards()), 0)
    assert not {"s", "o"} & shown.keys()
    assert [piece[1:3] for piece in shown["t"]] == [[0.9, 0], [None, 0], [None, 1]]


def test_guards_are_read_from_the_text():
    twice = solution(0, "1 + 1 = 2\n1 + 1 = 2\nAnswer: 2", [1, 1, 1], [0.9] * 3, 0.5, True)
    held = withheld(twice, Guards())
    assert (held.steps, held.whole, bool(held)) == ([None, "repeats", None], None, True)
    assert not withheld(twice, Guards(guard_repeats=False))
    unanswered = replace(twice, completion="1 + 1 = 2\n", steps=[(0, 10)], answer=None)
    assert withheld(unanswered, Guards()).whole == "no_answer"


def test_a_choice_takes_each_kind_in_turn_and_spreads_it():
    assert spread(8) == [0, 4, 2, 6, 1, 5, 3, 7]
    assert spread(1) == [0]
    assert spread(0) == []
    wrong, rare = BITS["wrong"], BITS["scored_low"]
    kinds = [wrong] * 100 + [rare] + [0] * 3
    chosen = choose(kinds, 6)
    assert chosen == [100, 0, 101, 64, 103, 32]
    assert sorted(choose(kinds, 1000)) == list(range(104))
    assert choose([wrong | rare] * 2, 5) == [0, 1]
    assert choose(kinds, 0) == []


def test_a_row_by_hand():
    wrong = scored()[3]
    assert row(wrong, withheld(wrong, Guards(guard_min_steps=3, guard_max_steps=4)), 7) == {
        "p": 7,
        "n": 3,
        "k": BITS["wrong"] | BITS["guarded"],
        "a": "4",
        "c": False,
        "s": 0.243,  # 0.9 * 0.3 * 0.9
        "o": 0.8,
        "w": 1,
        "g": "min_steps",
        "t": [["1 + 1 = 2\n", 0.9, 1], ["2 + 1 = 4\n", 0.3, 0], ["Answer: 4", 0.9, 1]],
    }


@pytest.mark.parametrize(("how", "score"), [("minimum", 0.3), ("last", 0.9), ("mean", 0.7)])
def test_a_solutions_score_is_that_of_the_runs_evaluation(tmp_path, how, score):
    run = make_run(tmp_path / "run")
    path = run / "evaluate" / "best_of_n.json"
    write_json(path, json.loads(path.read_text()) | {"aggregate": how})
    (made,) = solution_sets([{"seed 0": run}], 10, 10**6)
    assert made["columns"][0]["rows"][3]["s"] == score


def test_the_product_of_many_steps_keeps_its_digits():
    """Else the longest solutions would tie in the orders by their score."""
    many = replace(scored()[0], completion="a" * 30, steps=[(k, k + 1) for k in range(30)], labels=[1] * 30)
    many.scores = {"prm": [0.5] * 30}
    assert row(many, withheld(many, Guards()), 0)["s"] == pytest.approx(0.5**30, rel=1e-3)


def test_a_row_without_labels_or_scores_and_with_text_between_its_steps():
    text = "Well:\n1 + 1 = 2\n\u202eend"
    plain = replace(
        scored()[0], completion=text, steps=[(6, 16)], labels=None, scores={}, finished=False, answer=None, correct=None
    )
    made = row(plain, withheld(plain, Guards(guard_no_answer=False)), 0)
    assert made == {"p": 0, "n": 0, "k": 0, "u": True, "t": ["Well:\n", ["1 + 1 = 2\n"], "\u27e8U+202E\u27e9end"]}
    none = replace(plain, steps=None)
    assert row(none, withheld(none, Guards()), 0)["t"] == ["Well:\n1 + 1 = 2\n\u27e8U+202E\u27e9end"]


def test_json_cannot_end_its_element():
    text = "</script><!-- \u2028 é"
    assert "<" not in as_json([text])
    assert json.loads(as_json([text])) == [text]
    with pytest.raises(ValueError, match="Out of range"):
        as_json(float("nan"))


def test_two_runs_are_paired_by_problem_and_sample(tmp_path):
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b")
    others = [replace(one, scores={**one.scores, "prm": [0.5] * 3}) for one in reversed(scored())]
    write_rows(b / "test" / "scored.jsonl", [one.to_row() for one in others[:3]])
    (made,) = solution_sets([{"seed 0": a}, {"seed 0": b}], 10, 10**6)
    left, right = made["columns"]
    assert [one["n"] for one in left["rows"]] == [one["n"] for one in right["rows"]] == [1, 2, 3]
    assert (left["total"], left["here"], right["total"], right["here"]) == (4, 3, 3, 3)
    assert right["rows"][0]["t"][0][1] == 0.5
    # A problem with the same id and another text is another problem.
    write_rows(b / "test" / "scored.jsonl", [replace(one, prompt="2 + 2\n").to_row() for one in others])
    alone = solution_sets([{"seed 0": a}, {"seed 0": b}], 10, 10**6)
    assert [[column is None for column in one["columns"]] for one in alone] == [[False, True], [True, False]]


def test_counts_are_of_the_whole_file(tmp_path):
    run = make_run(tmp_path / "run")
    (two,) = solution_sets([{"seed 0": run}], 2, 10**6)
    assert two["columns"][0]["counts"]["right_on_wrong"] == [1, 2]
    assert (two["columns"][0]["here"], two["columns"][0]["total"]) == (2, 4)
    assert solution_sets([{"seed 0": run}], 0, 10**6) == []


def test_a_budget_leaves_rows_out(tmp_path):
    run = make_run(tmp_path / "run")
    long = solution(99, "1 + 1 = 2\n" * 400 + "Answer: 2", [1] * 401, [0.9] * 401, 0.5, True)
    many = [long, *(replace(scored()[0], sample=k) for k in range(40))]
    write_rows(run / "test" / "scored.jsonl", [one.to_row() for one in many])
    (made,) = solution_sets([{"seed 0": run}], 100, 2000)
    rows = made["columns"][0]["rows"]
    assert 10 < len(rows) < 20
    assert 99 not in [one["n"] for one in rows]
    assert len(as_json(rows)) <= 2000
    assert len(solution_sets([{"seed 0": run}], 100, 10**6)[0]["columns"][0]["rows"]) == 41


def test_guards_are_those_of_the_process_arm(tmp_path):
    run = make_run(tmp_path / "run")
    twice = solution(0, "1 + 1 = 2\n1 + 1 = 2\nAnswer: 2", [1, 1, 1], [0.9] * 3, 0.5, True)
    write_rows(run / "test" / "scored.jsonl", [twice.to_row()])
    (made,) = solution_sets([{"seed 0": run}], 10, 10**6)
    assert made["columns"][0]["rows"][0]["t"][1][3] == "repeats"
    assert made["columns"][0]["guards"] == "what PPO's guards would withhold, with their default settings"
    write_json(run / "ppo_process" / "run.json", {"config": {"guard_repeats": False}})
    (made,) = solution_sets([{"seed 0": run}], 10, 10**6)
    assert made["columns"][0]["counts"]["guarded"] == [0, 0]
    assert made["columns"][0]["guards"] == "what PPO's guards would withhold, as the process arm had them"


def test_an_unfinished_run_shows_what_it_has(tmp_path):
    run = make_run(tmp_path / "run")
    (run / "test" / "scored.jsonl").unlink()
    assert solution_sets([{"seed 0": run}], 10, 10**6) == []
    write_rows(run / "test" / "labelled.jsonl", [replace(one, scores={}).to_row() for one in scored()])
    (made,) = solution_sets([{"seed 0": run}], 10, 10**6)
    assert made["columns"][0]["file"] == "test/labelled.jsonl"
    assert made["columns"][0]["rows"][3]["t"][1] == ["2 + 1 = 4\n", None, 0]
    # Without scores nothing is told of a PRM's mistakes, and without labels of wrong steps either.
    assert list(made["columns"][0]["counts"]) == ["right_on_wrong", "guarded", "wrong", "clean"]
    write_rows(run / "test" / "labelled.jsonl", [replace(one, scores={}, labels=None).to_row() for one in scored()])
    (made,) = solution_sets([{"seed 0": run}], 10, 10**6)
    assert list(made["columns"][0]["counts"]) == ["guarded", "wrong"]


def log(path, values: list[float], alarms=(), start=1):
    rows = [
        {"update": k, "samples": 10 * k, "loss": 0.1, "kl": value, "alarm": float(k in alarms)}
        for k, value in enumerate(values, start)
    ]
    write_rows(path, [{"update": 0, "samples": 0, "eval_accuracy": 0.5, "kl": 9.0}, *rows])


def test_a_log_is_read_by_update(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log(path, [1.0, 2.0, 3.0, 4.0, 5.0], alarms=(2, 3, 5))
    with path.open("a") as file:
        file.write(json.dumps({"update": 4, "samples": 40, "loss": 0.1, "kl": 8.0, "alarm": 0.0}) + "\n")
        file.write(json.dumps({"update": 6, "samples": 60, "loss": 0.1, "kl": None, "alarm": None}) + "\n")
        file.write('{"update": 7, "sam')
    training = read_training(path)
    assert training.values == {"kl": {1: 1.0, 2: 2.0, 3: 3.0, 4: 8.0, 5: 5.0}}
    assert training.alarms == [(2, 3), (5, 5)]
    assert training.samples[6] == 60
    (fault,) = training.faults
    assert "row 9" in fault


def test_training_over_seeds_by_hand():
    one = Training({1: 10, 2: 20}, {"kl": {1: 1.0, 2: 5.0}}, [(2, 2)])
    two = Training({1: 10, 2: 20, 3: 30}, {"kl": {1: 3.0, 2: 5.0, 3: 9.0}})
    (chart,) = training_charts([{arms.PROCESS.name: {"seed 0": one, "seed 1": two}}])
    (line,) = chart["panels"][0]["series"]
    assert (line["x"], line["y"]) == ([10, 20], [2.0, 5.0])
    # s = sqrt(2), so half the interval at the first update is t_{0.975, 1} = 12.7062.
    assert (line["low"][0], line["high"][0]) == pytest.approx((-10.7062, 14.7062), abs=1e-4)
    (mark,) = chart["panels"][0]["marks"]
    assert (mark["from"], mark["to"]) == (20, 20)
    assert "seed 0, update 2" in mark["text"]
    assert "below 0.1 per token" in chart["note"]


def test_long_training_is_thinned_and_says_so():
    updates = range(1, 1001)
    training = Training({k: 10 * k for k in updates}, {"kl": {k: k / 1000 for k in updates}})
    (chart,) = training_charts([{arms.PROCESS.name: {"seed 0": training}}])
    (line,) = chart["panels"][0]["series"]
    assert len(line["x"]) <= MOST_POINTS + 1
    assert (line["x"][:2], line["x"][-1]) == ([10, 40], 10000)
    assert "1 update in 3" in line["name"]


def test_a_users_own_reward_has_a_chart():
    training = Training({1: 10}, {"reward/own/brevity": {1: 0.5}, "kl": {1: 0.1}})
    made = training_charts([{arms.OUTCOME.name: {"seed 0": training}}, {}])
    assert [chart["title"] for chart in made] == ["KL to the reference", "Own reward: brevity"]
    assert made[0]["panels"][1] is None


def test_missing_and_empty_logs_are_named(tmp_path):
    run = make_run(tmp_path / "run", arms=("process", "outcome"))
    (run / "ppo_outcome" / "metrics.jsonl").touch()
    trainings, missing = read_arms({"seed 0": run})
    assert trainings == {}
    assert missing == [
        "training charts: no seed 0/ppo_process/metrics.jsonl",
        "training charts: seed 0/ppo_outcome/metrics.jsonl is empty",
    ]


def test_headline_figures_by_hand(tmp_path):
    run = make_run(tmp_path / "run")
    log(run / "ppo_process" / "metrics.jsonl", [1.0, 2.0], alarms=(2,))
    finished, _ = open_one(run)
    trainings, _ = read_arms(finished.folders)
    shown = {card.title: dict(card.rows) for card in cards([finished], [trainings])}
    assert shown["Best of 4: answer right"]["PRM"] == ["0.70 [0.65, 0.75]"]
    assert shown["After 500 RL samples: answer right"]["outcome only"] == ["0.60"]
    assert shown["Times fewer samples than outcome-only RL, to its end"]["answer right"] == ["2.5"]
    assert shown["Alarm for reward hacking"] == {"process + outcome": ["update 2"]}


def test_headline_figures_of_seeds_and_of_a_run_beside_them(tmp_path):
    seeds = open_seeds([make_run(tmp_path / f"seed-{k}", k, shift=0.02 * (k - 1)) for k in range(3)])
    other, _ = open_one(make_run(tmp_path / "other", arms=("outcome",)))
    shown = {card.title: dict(card.rows) for card in cards([seeds, other], [{}, {}])}
    assert shown["Best of 4: answer right"]["PRM - ORM"] == ["0.20 [0.20, 0.20]", "-"]
    assert shown["After 500 RL samples: answer right"]["process + outcome"] == ["0.80 [0.80, 0.80]", "-"]
    assert shown["Times fewer samples than outcome-only RL, to its end"]["answer right"][1] == "-"
    (chart,) = charts.best_of_n([seeds.summary, other.summary], "")
    assert [line["name"] for line in chart["panels"][0]["series"]][:2] == ["pass@N (ceiling)", "PRM"]
    assert all("minus" not in line["name"] for line in chart["panels"][0]["series"])
    assert chart["panels"][1]["series"][1]["low"] == pytest.approx([0.25, 0.45, 0.65])
