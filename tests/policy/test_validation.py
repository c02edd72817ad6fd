import pytest
from trl import ModelConfig

from rlstep.policy.monitoring.alarms import AlarmOptions
from rlstep.policy.options import PPOOptions
from rlstep.policy.refresh.labels import RefreshOptions
from rlstep.policy.rewards.guards import Guards
from rlstep.policy.validation import check_together
from rlstep.runtime.errors import UserError

SERVED = {"use_vllm": True, "vllm_mode": "server", "vllm_sync": "adapter"}
STEPS = {"reward": ["prm"], "prm": "x"}
FIRST_ERROR = {"reward": ["prm", "outcome"], "prm": "x", "credit": "first_error", "first_error_threshold": 0.5}


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
        ({"args": {"truncated": "no_process"}}, r"\['outcome'\] has no step rewards, so truncated would do"),
        ({"alarm": {"alarm_rise": 2.0}}, "so alarm_rise would do nothing"),
        ({"options": {"prm": "x"}}, r"prm is given, but reward is \['outcome'\]; add it there, set keep_samples, or"),
        ({"options": STEPS | {"credit": "delta"}}, "credit 'delta' is only meaningful in sums of rewards"),
        ({"options": FIRST_ERROR}, "credit 'first_error' is only meaningful in sums of rewards"),
        (
            {"options": FIRST_ERROR | {"first_error_threshold": None}, "args": {"advantage": "mean_return"}},
            "credit 'first_error' needs first_error_threshold",
        ),
        (
            {"options": FIRST_ERROR | {"reward": ["prm"]}, "args": {"advantage": "mean_return"}},
            "right ones by their outcome alone; add outcome to reward",
        ),
        (
            {"options": FIRST_ERROR | {"credit_parameters": {"margin": "all"}}},
            "margin='all' is not one of none, partial, prompt",
        ),
        ({"options": FIRST_ERROR | {"credit_parameters": {"eta": 1}}}, "'first_error' has no parameter 'eta'"),
        (
            {"options": STEPS | {"credit": "coherence"}, "args": {"step_discount": 1.0}},
            "would grow with the number of steps; take advantage 'group' with step_discount 0",
        ),
        ({"options": STEPS | {"credit": "coherence"}, "args": {"advantage": "gae"}}, "take advantage 'group' with"),
        ({"options": STEPS, "args": {"centre_wrong": True}}, r"reward \['prm'\] needs both steps \(prm\) and outcome"),
        ({"args": {"centre_wrong": True}}, r"reward \['outcome'\] needs both"),
        ({"args": {"keep_samples": 2, "num_generations": 4}}, "keep_samples chooses by a PRM's scores; set prm"),
        ({"options": STEPS, "args": {"advantage": "gae", "truncated": "bootstrap"}}, "set guard_no_answer: false"),
        (
            {
                "options": STEPS | {"missing_answer_reward": -1.0},
                "guards": {"guard_no_answer": False},
                "args": {"advantage": "gae", "truncated": "bootstrap"},
            },
            "missing_answer_reward prices an answer that has not come yet",
        ),
        (
            {"options": STEPS | {"reward": ["prm", "outcome"]}, "args": {"token_weights": "process_set"}},
            r"the prefix's reward, and reward \['prm', 'outcome'\] pays for steps, too; pay outcomes alone",
        ),
        ({"options": STEPS | {"credit": "clip"}}, "'clip' needs 'eta'"),
        ({"options": STEPS | {"credit": "log", "credit_parameters": {"floor": 1}}}, "floor=1 bounds log p"),
        ({"refresh": {"refresh_every": 2}}, "refresh_every trains the PRM, but reward is"),
        ({"options": STEPS, "alarm": {"alarm": "stop"}}, "set load_best_model_at_end: true and metric_for_best_model"),
        ({"model": {"lora_r": 8}}, "use_peft is false, so lora_r would do nothing"),
        ({"args": {"resume_from_checkpoint": "x"}}, "resume_from_checkpoint does nothing here: set resume"),
        ({"options": {"task": "gsm8k", "task_path": "x"}}, "task_path does nothing here: the problems come from"),
        ({"options": {"score_cache": 5}}, "uses no model, so score_cache would do nothing"),
        ({"options": {"share_base": False}}, "uses no model, so share_base would do nothing"),
        ({"model": {"use_peft": True, "lora_dropout": 0.1}}, "disable_dropout is true, so lora_dropout would do"),
        ({"args": SERVED}, "vllm_sync is 'adapter', and without use_peft the policy has none; set use_peft: true, or"),
        (
            {"args": SERVED, "model": {"use_peft": True, "use_dora": True, "lora_modules_to_save": ["lm_head"]}},
            "vLLM serves no adapter with use_dora, lora_modules_to_save; leave them out, or set vllm_sync: merged",
        ),
        (
            {"args": SERVED, "model": {"use_peft": True, "lora_target_parameters": ["w"]}},
            "vLLM serves no adapter with lora_target_parameters; leave it out",
        ),
        (
            {"model": {"use_peft": True}, "args": {"beta": 0.1, "sync_ref_model": True}},
            "sync_ref_model updates a separate reference",
        ),
    ],
)
def test_combinations_that_make_no_sense_are_refused(check, parts, message):
    with pytest.raises(UserError, match=message):
        check(**parts)


@pytest.mark.parametrize(("dropout", "disable"), [(0.0, True), (0.1, False), (ModelConfig().lora_dropout, True)])
def test_an_adapters_dropout_that_is_read_or_was_not_asked_for_is_accepted(check, dropout, disable):
    check(model={"use_peft": True, "lora_dropout": dropout}, args={"disable_dropout": disable})


def test_all_faults_are_shown_at_once(check):
    with pytest.raises(UserError, match="use_peft is false.*; alarm 'stop' ends.*; .*'clip' needs"):
        check(model={"lora_r": 8}, options=STEPS | {"credit": "clip"}, alarm={"alarm": "stop"})


@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"guards": {"guard_repeats": False}},
        {"options": STEPS, "guards": {"guard_repeats": False}, "args": {"step_discount": 0.5}},
        {"options": STEPS | {"credit": "delta"}, "args": {"step_discount": 1.0}},
        {"options": STEPS | {"credit": "delta"}, "args": {"advantage": "gae"}},
        {"options": FIRST_ERROR, "args": {"advantage": "mean_return"}},
        {"options": FIRST_ERROR, "args": {"step_discount": 1.0}},
        {"options": {"prm": "x"}, "args": {"keep_samples": 2, "num_generations": 4}},
        {"options": STEPS | {"reward": ["prm", "outcome"], "credit": "coherence"}, "args": {"centre_wrong": True}},
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
