import pytest

from rlstep.policy.config import StepPPOConfig


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss_type": "vespo"}, "loss_type 'vespo' is written for one advantage a sequence"),
        ({"loss_type": "luspo"}, "loss_type 'luspo' is written for one advantage a sequence"),
        ({"off_policy_mask_threshold": 0.5}, "off_policy_mask_threshold is written for one advantage a sequence"),
        ({"reward_weights": [1.0, 2.0]}, "set process_weight and outcome_weight"),
        ({"multi_objective_aggregation": "normalize_then_sum"}, "multi_objective_aggregation does nothing here"),
        ({"scale_rewards": "batch"}, "scale_rewards 'batch' is not one of none, group"),
        ({"importance_sampling_level": "sequence"}, "importance_sampling_level 'sequence' has one ratio a sequence"),
        ({"advantage": "gae", "use_vllm": True}, "use_vllm does not go with advantage 'gae'"),
        ({"advantage": "vine", "use_vllm": True, "vllm_mode": "server"}, "set vllm_mode: colocate"),
        ({"loss_type": "cispo"}, "cispo cuts ratios at epsilon_high, which by default is below 1"),
        ({"loss_type": "cispo", "epsilon_high": 0.3}, "cispo cuts ratios at epsilon_high"),
        (
            {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps"},
            "set metric_for_best_model: accuracy",
        ),
        ({"advantage": "rloo", "mask_truncated_completions": True}, "as returns of 0 in the others' baseline"),
        # settings that the estimator does not read
        ({"advantage": "gae", "scale_rewards": "group"}, "scale_rewards belongs to advantage group, not 'gae'"),
        ({"advantage": "rloo", "step_discount": 0.5}, "step_discount belongs to advantage group, not 'rloo'"),
        ({"advantage": "vine", "step_baseline": "all"}, "step_baseline belongs to advantage group, not 'vine'"),
        ({"gamma": 0.9}, "gamma belongs to advantage gae and rloo, not 'group'"),
        ({"lam": 0.9}, "lam belongs to advantage gae, not 'group'"),
        ({"vf_coef": 1.0}, "vf_coef belongs to advantage gae"),
        ({"whiten_rewards": True}, "whiten_rewards belongs to advantage gae and rloo, not 'group'"),
        ({"vine_rollouts": 3}, "vine_rollouts belongs to advantage vine, not 'group'"),
        ({"truncated": "bootstrap"}, "only advantage 'gae' has a critic"),
        ({"truncated": "no_process", "mask_truncated_completions": True}, "leave truncated at score"),
        ({"step_baseline": "rewards"}, "with step_discount 0 nothing is summed"),
        # the KL
        ({"kl": "reward"}, "kl and kl_estimator do nothing with beta 0"),
        ({"kl_estimator": "k2"}, "kl and kl_estimator do nothing with beta 0"),
        ({"beta": 0.1, "kl_estimator": "k1"}, "'k1' has no expected gradient as a loss"),
        ({"beta": 0.1, "kl": "reward", "advantage": "vine"}, "Monte-Carlo values know no KL"),
        # ranges
        ({"advantage": "vine", "vine_rollouts": 0}, "vine_rollouts is 0; it must be at least 1"),
        ({"gamma": 1.5}, "gamma is 1.5; it must be between 0 and 1"),
        ({"lam": -0.1}, "lam is -0.1; it must be between 0 and 1"),
        ({"step_discount": 2}, "step_discount is 2; it must be between 0 and 1"),
        ({"value_clip": 0}, "value_clip is 0; it must be above 0"),
    ],
)
def test_combinations_that_would_compute_something_else_are_refused(arguments, changes, message):
    with pytest.raises(ValueError, match=message):
        arguments(**changes)


def test_all_faults_are_shown_at_once(arguments):
    with pytest.raises(ValueError, match="gamma is 2.*; value_clip is -1.*above 0.$"):
        arguments(gamma=2, value_clip=-1)


@pytest.mark.parametrize("loss_type", ["grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo"])
def test_losses_that_weigh_each_token_are_admitted(arguments, loss_type):
    more = {"epsilon_high": 5.0} if loss_type == "cispo" else {}
    assert arguments(loss_type=loss_type, **more).loss_type == loss_type


@pytest.mark.parametrize(
    ("advantage", "whitening"), [("group", "none"), ("vine", "none"), ("gae", "full"), ("rloo", "full")]
)
def test_whitening_by_default(arguments, advantage, whitening):
    assert arguments(advantage=advantage).whitening == whitening
    assert arguments(advantage=advantage, whiten_advantages="scale").whitening == "scale"


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, ("loss", "k3")),
        ({"kl": "reward"}, ("reward", "k1")),
        ({"kl": "reward", "kl_estimator": "k3"}, ("reward", "k3")),
        ({"kl_estimator": "k2"}, ("loss", "k2")),
    ],
)
def test_the_kl_estimator_by_default(arguments, changes, kind):
    config = arguments(beta=0.1, **changes)
    assert config.kl_kind == kind
    assert config.kl_is_trls == (kind == ("loss", "k3"))


def test_group_without_scale_is_the_default(tmp_path):
    config = StepPPOConfig(str(tmp_path), use_cpu=True, bf16=False)
    assert (config.advantage, config.scale_rewards, config.num_iterations, config.report_to) == ("group", "none", 2, [])


@pytest.mark.parametrize(
    ("changes", "samples"),
    [
        # two updates on each batch of 4
        ({}, [0, 4, 4, 8, 8, 12]),
        ({"num_iterations": 1}, [0, 4, 8, 12, 16, 20]),
        # a batch of 8 in two slices, each an update, gone through twice
        ({"steps_per_generation": 2}, [0, 8, 8, 8, 8, 16]),
        # two slices make one update
        ({"gradient_accumulation_steps": 2}, [0, 8, 8, 16, 16, 24]),
        # an update spans two batches
        ({"gradient_accumulation_steps": 4, "steps_per_generation": 1}, [0, 8, 16, 24, 32, 40]),
    ],
)
def test_samples_at_counts_the_batches_that_were_generated(arguments, changes, samples):
    config = arguments(**changes)
    assert [config.samples_at(step) for step in range(6)] == samples
    assert [config.batches_at(step) * config.generation_batch_size for step in range(6)] == samples
