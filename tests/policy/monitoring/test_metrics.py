"""Metrics of a batch against numbers worked by hand; the glossary against what is logged."""

import math
from fnmatch import fnmatchcase
from statistics import mean

import pytest

from rlstep.policy.monitoring.glossary import METRICS, glossary_table
from rlstep.policy.monitoring.metrics import STEP_GUARDS, batch_metrics
from rlstep.policy.rewards.guards import Guards
from rlstep.policy.rewards.scored import ScoredCompletion
from rlstep.policy.rewards.task_rewards import TaskRewards
from rlstep.steps.answers import extract
from rlstep.steps.boundaries import line_steps
from rlstep.tasks.base import Check


def judged(text: str, step_rewards=(), outcome=0.0, **more) -> ScoredCompletion:
    """A judgement of a text whose lines are its steps; right where it has an outcome."""
    right = outcome > 0
    defaults = {"correct": right, "clean": right, "answered": right}
    return ScoredCompletion(line_steps(text), list(step_rewards), outcome, **(defaults | more))


# Two problems with two samples each; the second problem's samples are empty and cut off.
TEXTS = ["1 + 1 = 2\n  2 * 2 = 4\nA 4", "1 + 1 = 3\n1 +  1 = 3", "", "7"]
ROWS = [
    judged(
        TEXTS[0],
        [0.5, 0.25, 1.0],
        2.0,
        step_scores=[0.8, 0.5, 0.9],
        labels=[1, 1, 1],
        guards=[None, None, None],
    ),
    judged(TEXTS[1], [-0.5], 0.0, step_scores=[0.2, 0.5], labels=[0, 0], guards=[None, "repeats"]),
    judged(TEXTS[2], [], 0.0, step_scores=[]),
    judged(TEXTS[3], [0.0], -1.0, step_scores=[1.0], labels=[None], guards=["no_letters"], answered=True),
]
TOKENS, FINISHED = [12, 10, 0, 3], [True, True, False, False]


def metrics_of(rows=ROWS, texts=TEXTS, size=2, tokens=TOKENS, finished=FINISHED):
    return batch_metrics(rows, texts, size, tokens, finished)


def test_rewards():
    metrics = metrics_of()
    assert metrics["reward/process"] == [1.75, -0.5, 0, 0]
    assert metrics["reward/outcome"] == [2, 0, 0, -1]
    # Only what was judged: the second row's second step was not.
    assert metrics["reward/step_at_01"] == [0.5, -0.5, 0]
    assert metrics["reward/step_at_02"] == [0.25]
    assert metrics["reward/step_at_03"] == [1]
    assert "reward/step_at_04" not in metrics


def test_late_steps_share_one_metric():
    metrics = metrics_of([judged("s\n" * 15, range(1, 16))], ["s\n" * 15], 1, [30], None)
    assert metrics["reward/step_at_12"] == [12]
    assert metrics["reward/step_at_13_on"] == [13, 14, 15]
    assert sum(name.startswith("reward/step_at") for name in metrics) == 13


def test_accuracy():
    metrics = metrics_of()
    assert metrics["accuracy"] == [1, 0, 0, 0]
    assert metrics["completions/without_answer"] == [0, 1, 1, 0]
    assert metrics["completions/truncated"] == [0, 0, 1, 1]
    assert "completions/truncated" not in metrics_of(finished=None)


def test_all_steps_right_is_reported_where_the_checker_knows_all_of_them():
    rows = [judged("a\nb", outcome=1.0, labels=[1, 0], clean=False), judged("a", outcome=1.0, labels=[1]), judged("")]
    metrics = metrics_of(rows, ["a\nb", "a", ""], 1, [2, 1, 0], None)
    assert metrics["accuracy"] == [1, 1, 0]
    assert metrics["clean_accuracy"] == [0, 1, 0]
    # The fourth row's only label is unknown: of the others alone the share would be another one.
    assert "clean_accuracy" not in metrics_of()
    # A checker of answers alone: completions without steps, of which nothing is unknown, are no exception.
    assert "clean_accuracy" not in metrics_of([judged(""), judged("")], ["", ""], 1, [0, 0], None)


def test_how_far_the_prm_is_off():
    metrics = metrics_of()
    # Products of the steps' scores; without steps 0.
    assert metrics["prm/score"] == pytest.approx([0.36, 0.1, 0, 1])
    assert metrics["prm/gap"] == pytest.approx([0.36 - 1, 0.1, 0, 1])
    assert mean(metrics["prm/gap"]) == pytest.approx(mean(metrics["prm/score"]) - mean(metrics["accuracy"]))
    assert metrics["prm/step_gap"] == pytest.approx([-0.2, -0.5, -0.1, 0.2, 0.5])
    # mean score 2.9 / 5 of the labelled steps, share of right ones 3 / 5
    assert mean(metrics["prm/step_gap"]) == pytest.approx(2.9 / 5 - 3 / 5)


def test_no_prm_no_gap():
    metrics = metrics_of([judged("a", [1.0], 1.0, labels=[1])], ["a"], 1, [1], None)
    assert not [name for name in metrics if name.startswith("prm/")]


def test_a_prm_that_was_asked_for_the_first_steps_alone():
    metrics = metrics_of([judged("a\nb", [1.0], step_scores=[0.5], labels=[1, 1])], ["a\nb"], 1, [2], None)
    assert metrics["prm/step_gap"] == [-0.5]


def test_completions_that_a_verifier_did_not_read_whole():
    rows = [
        judged("a\nb", [1.0], step_scores=[0.5], labels=[1, 1], cut_by=["prm"]),
        judged("a\nb", [1.0, 1.0], step_scores=[0.5, 0.5], cut_by=["orm"]),
        judged("a", [1.0], step_scores=[0.75], cut_by=[]),
    ]
    metrics = metrics_of(rows, ["a\nb", "a\nb", "a"], 1, [2, 2, 1], None)
    assert metrics["completions/cut"] == [1, 1, 0]
    # Of the first one nobody knows the product; what is known of its first step counts.
    assert metrics["prm/score"] == [0.25, 0.75]
    assert metrics["prm/step_gap"] == [-0.5]
    assert "completions/cut" not in metrics_of(), "no verifier"


def test_steps():
    metrics = metrics_of()
    assert metrics["steps/count"] == [3, 2, 0, 1]
    # With their newlines; the second step has its two spaces, too.
    assert metrics["steps/characters"] == [10, 12, 3, 10, 10, 1]
    # 25 tokens of the completions with steps, 6 steps.
    assert metrics["steps/tokens"] == [4, 4, 4, 5, 5, 3]
    assert mean(metrics["steps/tokens"]) == pytest.approx(25 / 6)


def test_repeated_steps_are_counted_within_a_completion_with_white_space_folded():
    text = "a b\n a  b \nc\na\tb\n"
    metrics = metrics_of([judged(text), judged("a b")], [text, "a b"], 1, [9, 2], None)
    assert metrics["steps/repeated"] == [0, 1, 0, 1, 0]


def test_guards():
    metrics = metrics_of()
    assert metrics["steps/withheld"] == [0, 0, 0, 0, 1, 1]
    assert metrics["steps/withheld_repeats"] == [0, 0, 0, 0, 1, 0]
    # A guard of another source is reported, too; one that never acted has its zeros.
    assert metrics["steps/withheld_no_letters"] == [0, 0, 0, 0, 0, 1]
    assert metrics["steps/withheld_filler"] == [0] * 6
    assert {name for name in metrics if name.startswith("steps/withheld_")} == {
        f"steps/withheld_{name}" for name in (*STEP_GUARDS, "no_letters")
    }
    assert not [name for name in metrics_of([judged("a")], ["a"], 1, [1], None) if "withheld" in name]


def test_the_guards_of_single_steps_are_all_known():
    class Lines:
        def check(self, prompt, completion, reference):
            steps = line_steps(completion)
            return Check(steps, [None] * len(steps), extract(completion), False)

    fired = set()
    long = "x" * 30
    cases = [  # completion, settings
        ("a 1\n...\n#### 1\nb 2", {}),
        (f"{long}\na 1\na 1\nb", {"guard_max_step_chars": 20, "guard_max_steps": 3}),
        ("how many apples has tom got now", {}),
    ]
    for text, settings in cases:
        rewards = TaskRewards(Lines(), guards=Guards(**settings))
        fired |= set(rewards(["How many apples has Tom got now?"], [text], ["1"])[0].guards)
    assert fired == {None, *STEP_GUARDS}


def test_groups_without_signal():
    same, other = judged("a\nb", [0.5, 0.1], 1.0), judged("a\nb", [0.5, 0.2], 1.0)

    def no_signal(*rows, size):
        return metrics_of(list(rows), ["a\nb"] * len(rows), size, [2] * len(rows), None).get("reward/no_signal")

    assert no_signal(same, same, same, other, size=2) == [1, 0]
    # A PRM's score of one text varies by rounding with the batch it is scored in.
    assert no_signal(same, judged("a\nb", [0.5, 0.1 + 1e-8], 1.0), size=2) == [1]
    assert no_signal(same, judged("a\nb", [0.5, 0.1], 0.0), size=2) == [0]  # another outcome
    assert no_signal(same, judged("a\nb", [0.5], 1.0), size=2) == [0]  # fewer steps judged
    assert no_signal(judged("a\nb", [0.5], 1.0), same, size=2) == [0]
    assert no_signal(judged("a\nb"), judged("a\nb"), size=2) == [1]  # nothing paid at all
    # One sample a problem: no group to be without signal.
    assert no_signal(same, other, size=1) is None


def test_steps_of_which_some_of_a_group_say_something():
    """Of four samples: two begin alike, a third comes back to the same line by another way, one has no step."""
    texts = ["1 + 1 = 2\n2 * 2 = 4\nA 4", "1 + 1 = 2\n2 * 2 = 4\nA 5", "1 * 1 = 1\n2 * 2 = 4", ""]

    def shared(texts, size):
        rows = [judged(text) for text in texts]
        return metrics_of(rows, texts, size, [1] * len(texts), None).get("group/shared_steps")

    assert shared(texts, 4) == [1, 1, 0, 1, 1, 0, 0, 0]
    # what all samples have, or the other problem's, tells none of them apart
    assert shared([texts[0]] * 3 + [texts[1]] * 3, 3) == [0] * 18
    assert shared(texts, 2) is None


def test_nothing_but_empty_completions():
    metrics = metrics_of([judged(""), judged("")], ["", ""], 2, [0, 0], [True, True])
    assert metrics == {
        "reward/process": [0, 0],
        "reward/outcome": [0, 0],
        "reward/no_signal": [1],
        "accuracy": [0, 0],
        "steps/count": [0, 0],
        "completions/without_answer": [1, 1],
        "completions/truncated": [0, 0],
    }


def test_what_does_not_fit_together_is_refused():
    with pytest.raises(ValueError, match="3 rows are not a multiple of 2 samples"):
        metrics_of([judged("")] * 3, [""] * 3, 2, [0] * 3, None)
    with pytest.raises(ValueError, match="4 scored completions, 4 completions, 3 tokens, 4 finished flags"):
        metrics_of(tokens=[1, 2, 3])


# --- The glossary.


def entries(name: str) -> list[str]:
    return [key for key in METRICS if fnmatchcase(name, key)]


def test_every_metric_has_an_entry():
    more = {"step_scores": [0.5] * 15, "labels": [1] * 15, "guards": [None] * 15, "own": {"my:r": 0.5}, "cut_by": []}
    late = judged("s\n" * 15, range(15), **more)
    names = {*metrics_of(), *metrics_of([late] * 3, ["s\n" * 15] * 3, 3, [30] * 3, [True] * 3)}
    assert "clean_accuracy" in names
    assert not [name for name in names if not entries(name)]
    # ... and every entry that is not TRL's, the trainer's or a callback's is one of ours.
    elsewhere = (
        "critic/*",
        "clip_ratio/*",
        "prm_refresh/*",
        "alarm",
        "samples",
        "tokens_per_second",
        "processor_step_time",
        "advantage/*",
        "vine/*",
    )
    elsewhere += ("kl", "entropy", "grad_norm", "completions/mean_length", "completions/clipped_ratio")
    ours = [key for key in METRICS if not any(fnmatchcase(key, pattern) for pattern in elsewhere)]
    assert not [key for key in ours if not any(fnmatchcase(name, key) for name in names)]


def test_what_trl_logs_has_an_entry_and_is_what_the_entry_says(scripted, row):
    """Four rows of 4, 2, 2 and 1 tokens, of which the second was cut off. The second update is made on the same rows
    after a step of a rate that moves every token's ratio far beyond the clip."""
    rows = [row("1\n2", (1.0, -0.5), 1.0), row("4 = ", (0.5,), finished=False), row("6", (0.25,), 1.0), row("")]
    trainer = scripted(rows, advantage="rloo", beta=0.1, max_steps=2, learning_rate=1.0)
    trainer.train()
    first, second = (entry for entry in trainer.state.log_history if "loss" in entry)
    names = ["kl", "entropy", *(f"clip_ratio/{part}_mean" for part in ("region", "low", "high"))]
    names += [f"completions/{name}" for name in ("mean_length", "clipped_ratio")]
    assert all(entries(name) for name in names)
    assert set(names) <= first.keys()
    lengths = [len(ids) for ids in trainer.row_ids]
    assert first["completions/mean_length"] == mean(lengths)
    assert first["completions/clipped_ratio"] == first["completions/truncated"] == 1 / 4
    # An untrained model's tokens are all but equally likely, and the policy still is its reference.
    assert first["entropy"] == pytest.approx(math.log(trainer.model.config.vocab_size), rel=0.1)
    assert first["kl"] == pytest.approx(0, abs=1e-6)
    assert [first[f"clip_ratio/{part}_mean"] for part in ("region", "low", "high")] == [0, 0, 0]
    assert second["kl"] > 0.1
    low, high = second["clip_ratio/low_mean"], second["clip_ratio/high_mean"]
    assert second["clip_ratio/region_mean"] == pytest.approx(low + high)
    assert low > 0


def test_the_table_has_a_row_a_metric():
    head, rule, *rows = glossary_table().splitlines()
    columns = head.count("|")
    assert rule.count("|") == columns == 5
    assert len(rows) == len(METRICS)
    for row, (name, metric) in zip(rows, METRICS.items(), strict=True):
        cells = [cell.strip().replace("\0", "|") for cell in row.replace("\\|", "\0").split("|")[1:-1]]
        assert cells == [f"`{name}`", *metric]
        assert all(metric)


def test_values_are_plain_finite_floats():
    values = [value for values in metrics_of().values() for value in values]
    assert all(type(value) is float and math.isfinite(value) for value in values)
