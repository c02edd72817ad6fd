import pytest
from trl import ModelConfig

from rlstep.policy.monitoring.alarms import AlarmOptions
from rlstep.policy.options import PPOOptions
from rlstep.policy.refresh.labels import RefreshOptions
from rlstep.policy.rewards.guards import Guards
from rlstep.policy.validation import check_together, deciding_settings
from rlstep.runtime.errors import UserError

STEPS = {"reward": ["prm"], "prm": "x"}


@pytest.fixture
def check(arguments):
    """Checks a configuration, given by what differs from the defaults."""

    def run(options=None, guards=None, alarm=None, refresh=None, args=None, model=None):
        check_together(
            PPOOptions("p.jsonl", **(options or {})),
            Guards(**(guards or {})),
            AlarmOptions(**(alarm or {})),
            RefreshOptions(**(refresh or {})),
            arguments(**(args or {})),
            ModelConfig("m", **(model or {})),
        )

    return run


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"options": STEPS | {"prm": "runs/demo/prn"}}, "prm runs/demo/prn: no such folder; run the stage that writes"),
        ({"args": {"step_discount": 0.5, "step_baseline": "all"}}, "so step_discount, step_baseline would do nothing"),
        ({"args": {"truncated": "no_process"}}, r"\['outcome'\] pays nothing for steps, so truncated would do"),
        ({"alarm": {"alarm_rise": 2.0}}, "so alarm_rise would do nothing"),
        ({"options": STEPS | {"credit": "delta"}}, "credit 'delta' means something in sums of rewards alone"),
        ({"options": STEPS, "args": {"advantage": "gae", "truncated": "bootstrap"}}, "set guard_no_answer: false"),
        (
            {
                "options": STEPS | {"missing_answer_reward": -1.0},
                "guards": {"guard_no_answer": False},
                "args": {"advantage": "gae", "truncated": "bootstrap"},
            },
            "missing_answer_reward prices an answer that has not come yet",
        ),
        ({"options": STEPS | {"credit": "clip"}}, "'clip' needs 'eta'"),
        ({"options": STEPS | {"credit": "log", "credit_parameters": {"floor": 1}}}, "floor=1 bounds log p"),
        ({"refresh": {"refresh_every": 2}}, "refresh_every trains the PRM, but reward is"),
        ({"options": STEPS, "alarm": {"alarm": "stop"}}, "set load_best_model_at_end: true and metric_for_best_model"),
        (
            {"model": {"use_peft": True}, "args": {"beta": 0.1, "sync_ref_model": True}},
            "sync_ref_model moves a reference",
        ),
    ],
)
def test_combinations_that_make_no_sense_are_refused(check, parts, message):
    with pytest.raises(UserError, match=message):
        check(**parts)


@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"guards": {"guard_repeats": False}},
        {"options": STEPS, "guards": {"guard_repeats": False}, "args": {"step_discount": 0.5}},
        {"options": STEPS | {"credit": "delta"}, "args": {"step_discount": 1.0}},
        {"options": STEPS | {"credit": "delta"}, "args": {"advantage": "gae"}},
        {"options": {"reward": ["orm"], "orm": "x"}, "alarm": {"alarm_rise": 2.0}},
        {
            "options": STEPS,
            "guards": {"guard_no_answer": False},
            "args": {"advantage": "gae", "truncated": "bootstrap"},
        },
    ],
)
def test_combinations_that_make_sense_are_not(check, parts):
    check(**parts)


def test_what_decides_a_run_and_what_does_not(arguments):
    def found(args=None, **options):
        given = PPOOptions("p.jsonl", **options)
        return deciding_settings(given, Guards(), RefreshOptions(), arguments(**(args or {})), ModelConfig("m"))

    plain = found()
    assert found({"max_steps": 9, "logging_steps": 3}, resume=True, score_cache=1) == plain
    for changed in (found({"beta": 0.1}), found({"learning_rate": 1.0}), found(missing_answer_reward=-1.0)):
        assert changed != plain
