import pytest

from rlstep.policy.config import StepPPOConfig
from rlstep.policy.model_options import PolicyModel
from rlstep.runtime.errors import UserError


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss_type": "vespo"}, "loss_type is 'vespo'; it must be one of grpo, bnpo"),
        ({"loss_type": "luspo"}, "loss_type is 'luspo'; it must be one of grpo, bnpo"),
        ({"off_policy_mask_threshold": 0.5}, "off_policy_mask_threshold does nothing here: it assumes one"),
        ({"reward_weights": [1.0, 2.0]}, "set process_weight and outcome_weight"),
        (
            {"multi_objective_aggregation": "normalize_then_sum"},
            "multi_objective_aggregation does nothing here: rewards are added up",
        ),
        ({"scale_rewards": "batch"}, "scale_rewards is 'batch'; it must be one of none, group"),
        ({"importance_sampling_level": "sequence"}, "importance_sampling_level does nothing here: the ratio"),
        ({"loss_type": "cispo"}, "cispo cuts ratios at epsilon_high, which by default is below 1"),
        ({"loss_type": "cispo", "epsilon_high": 0.3}, "cispo cuts ratios at epsilon_high"),
        (
            {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps"},
            "set metric_for_best_model: accuracy",
        ),
        ({"advantage": "rloo", "mask_truncated_completions": True}, "as returns of 0 in the others' baseline"),
        # settings that the estimator does not read
        (
            {"advantage": "gae", "scale_rewards": "group"},
            "advantage is 'gae', so scale_rewards would do nothing; set advantage to 'group'",
        ),
        ({"advantage": "rloo", "step_discount": 0.5}, "advantage is 'rloo', so step_discount would do nothing"),
        ({"advantage": "vine", "step_baseline": "all"}, "advantage is 'vine', so step_baseline would do nothing"),
        ({"gamma": 0.9}, "advantage is 'group', so gamma would do nothing; set advantage to 'gae' or 'rloo'"),
        ({"lam": 0.9}, "advantage is 'group', so lam would do nothing; set advantage to 'gae'"),
        ({"vf_coef": 1.0}, "advantage is 'group', so vf_coef would do nothing"),
        ({"whiten_rewards": True}, "so whiten_rewards would do nothing; set advantage to 'gae' or 'rloo'"),
        ({"vine_rollouts": 3}, "so vine_rollouts would do nothing; set advantage to 'vine'"),
        ({"truncated": "bootstrap"}, "only advantage 'gae' has a critic"),
        ({"truncated": "no_process", "mask_truncated_completions": True}, "leave truncated at score"),
        ({"step_baseline": "rewards"}, "with step_discount 0 nothing is summed"),
        # a problem's right and wrong samples
        ({"keep_samples": 2}, "keep_samples 2 leaves out none of num_generations 2; lower it"),
        ({"keep_samples": 1, "num_generations": 4}, "keep_samples is 1; it must be at least 2, or null"),
        ({"keep_wrong": "any"}, "keep_samples is null, so keep_wrong would do nothing"),
        ({"advantage": "vine", "centre_wrong": True}, "centre_wrong compares a problem's samples"),
        (
            {"advantage": "vine", "keep_samples": 2, "num_generations": 4},
            "keep_samples compares a problem's samples, and the Monte-Carlo values",
        ),
        ({"centre_wrong": True, "truncated": "no_process"}, "centre_wrong shifts step rewards"),
        ({"advantage": "mean_return", "mask_truncated_completions": True}, "advantage 'mean_return' would count"),
        # token weights
        ({"token_weights": "process_set", "advantage": "gae"}, "advantage is 'gae', so token_weights would do nothing"),
        ({"token_weights": "process_set", "advantage": "vine"}, "advantage is 'vine', so token_weights would do"),
        ({"token_weights": "process_set", "num_generations": 1}, "at least 2 generations"),
        # the KL
        ({"kl": "reward"}, "beta is 0.0, so kl would do nothing; set beta, or leave it at 'loss'"),
        ({"kl_estimator": "k2"}, "beta is 0.0, so kl_estimator would do nothing"),
        ({"beta": 0.1, "kl_estimator": "k1"}, "'k1' has zero expected gradient as a loss"),
        ({"beta": 0.1, "kl": "reward", "advantage": "vine"}, "Monte-Carlo values do not include the KL"),
        # the critic
        ({"critic": "adapter"}, "advantage is 'group', so critic would do nothing; set advantage to 'gae'"),
        (
            {"advantage": "gae", "critic": "adapter", "critic_trunk_scale": 0.5},
            "critic is 'adapter', so critic_trunk_scale would do nothing",
        ),
        (
            {"advantage": "gae", "critic": "head", "critic_trunk_scale": 1.5},
            "critic_trunk_scale is 1.5; it must be at least 0 and at most 1",
        ),
        ({"advantage": "gae", "critic": "twin"}, "critic is 'twin'; it must be one of adapter, head"),
        # the token budget
        ({"tokens_per_device": 0}, "tokens_per_device is 0; it must be at least 1"),
        (
            {"tokens_per_device": 256, "max_completion_length": 256},
            "tokens_per_device 256 is no more than max_completion_length 256, and a prompt comes on top",
        ),
        ({"tokens_per_device": 4096, "top_entropy_quantile": 0.5}, "quantile of each pass, which tokens_per_device"),
        ({"tokens_per_device": 4096, "entropy_coef": 0.1}, "only loss_type 'bnpo' is a mean over them, too"),
        ({"tokens_per_device": 4096, "use_adaptive_entropy": True}, "only loss_type 'bnpo' is a mean over them, too"),
        ({"tokens_per_device": 4096, "optim": "lomo"}, "optim 'lomo' makes a step in each backward pass"),
        # ranges
        ({"advantage": "vine", "vine_rollouts": 0}, "vine_rollouts is 0; it must be at least 1"),
        ({"gamma": 1.5}, "gamma is 1.5; it must be at least 0 and at most 1"),
        ({"lam": -0.1}, "lam is -0.1; it must be at least 0 and at most 1"),
        ({"step_discount": 2}, "step_discount is 2; it must be at least 0 and at most 1"),
        ({"advantage": "gae", "value_clip": 0}, "value_clip is 0; it must be above 0"),
        ({"advantage": "gae", "vf_coef": float("nan")}, "vf_coef is nan; it must be at least 0"),
        ({"advantage": "grpo"}, "advantage is 'grpo'; it must be one of group, gae, rloo, mean_return, vine"),
        ({"kl": "los"}, "kl is 'los'; it must be one of loss, reward"),
        # TRL's settings that would do nothing
        ({"use_bias_correction_kl": False}, "beta is 0.0, so use_bias_correction_kl would do nothing"),
        (
            {"beta": 0.1, "kl_estimator": "k2", "use_bias_correction_kl": False},
            "kl_estimator to a value other than 'k1'",
        ),
        ({"sync_ref_model": True}, "beta is 0.0, so sync_ref_model would do nothing"),
        ({"ref_model_sync_steps": 3}, "sync_ref_model is false, so ref_model_sync_steps would do nothing"),
        ({"entropy_target": 1.0, "entropy_coef_max": 2.0}, "so entropy_coef_max, entropy_target would do nothing"),
        ({"sapo_temperature_neg": 2.0}, "loss_type is 'dapo', so sapo_temperature_neg would do nothing"),
        (
            {"loss_type": "sapo", "epsilon": 0.1, "delta": 2.0},
            "loss_type is 'sapo', so epsilon, delta would do nothing",
        ),
        ({"loss_type": "sapo", "epsilon_high": 0.3}, "loss_type is 'sapo', so epsilon_high would do nothing"),
        ({"vespo_k_pos": 3.0}, "vespo_k_pos does nothing here"),
        ({"chat_template_kwargs": {"a": 1}}, "chat_template_kwargs does nothing here: set chat_template_arguments"),
        ({"vllm_server_port": 1}, "use_vllm is false, so vllm_server_port would do nothing"),
        ({"use_vllm": True, "vllm_server_port": 1}, "vllm_mode is 'colocate', so vllm_server_port would do nothing"),
        ({"vllm_sync": "adapter"}, "use_vllm is false, so vllm_sync would do nothing; set use_vllm"),
        (
            {"use_vllm": True, "vllm_sync": "adapter"},
            "vllm_mode is 'colocate', so vllm_sync would do nothing; set vllm_mode to 'server'",
        ),
        (
            {"use_vllm": True, "vllm_mode": "server", "vllm_sync": "lora"},
            "vllm_sync is 'lora'; it must be one of merged, adapter",
        ),
        ({"num_completions_to_print": 3}, "log_completions is false, so num_completions_to_print would do nothing"),
        ({"data_seed": 3}, "data_seed does nothing here: the order of the problems follows from seed"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor does nothing here"),
        # what the Trainer and TRL would notice late, or never
        ({"learning_rate": -1e-5}, "learning_rate is -1e-05; it must be at least 0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan; it must be at least 0"),
        ({"per_device_train_batch_size": 0}, "per_device_train_batch_size is 0; it must be at least 1"),
        ({"gradient_accumulation_steps": -1}, "gradient_accumulation_steps is -1; it must be at least 1"),
        ({"num_generations": 0}, "num_generations is 0; it must be at least 2"),
        ({"max_steps": 0}, "max_steps is 0, which the Trainer takes for no limit"),
        ({"save_total_limit": 0}, "save_total_limit is 0; it must be at least 1, or null"),
        ({"seed": -1}, "seed is -1; it must be at least 0"),
        ({"adam_beta2": 1.0}, "adam_beta2 is 1.0; it must be at least 0 and below 1"),
        ({"max_completion_length": 0}, "max_completion_length is 0; it must be at least 1"),
        ({"max_completion_length": None}, "max_completion_length is null; give the most tokens"),
        ({"top_p": 0.0}, "top_p is 0.0; it must be above 0 and at most 1"),
        ({"top_k": -5}, "top_k is -5; it must be at least 0"),
        ({"min_p": 2.0}, "min_p is 2.0; it must be at least 0 and at most 1"),
        ({"repetition_penalty": -1.0}, "repetition_penalty is -1.0; it must be above 0"),
        ({"top_entropy_quantile": 0.0}, "top_entropy_quantile is 0.0; it must be above 0 and at most 1"),
        ({"pad_to_multiple_of": 0}, "pad_to_multiple_of is 0; it must be at least 1, auto or null"),
        ({"delta": 1.1}, "delta is 1.1, within the clip at 1.2; .* must be above that"),
        ({"use_adaptive_entropy": True, "entropy_coef_min": 2.0}, "entropy_coef_min 2.0 is above entropy_coef_max 1.0"),
        ({"cache_implementation": "foo"}, r"Invalid `cache_implementation` \(foo\)"),
        ({"generation_kwargs": {"temperature": 0.1}}, "would override temperature; set that instead"),
        ({"generation_kwargs": {"max_new_tokens": 3}}, "would override max_completion_length; set that instead"),
        ({"generation_kwargs": {"num_return_sequences": 2}}, "would override num_generations; set that instead"),
        ({"generation_kwargs": {"do_sample": False}}, "do_sample, which the trainer sets itself"),
        ({"generation_kwargs": {"no_repeat_ngramsize": 2}}, "no_repeat_ngramsize, which transformers does not know"),
        ({"generation_kwargs": "fast"}, "generation_kwargs is 'fast'; give a mapping"),
        ({"model_init_kwargs": "fast"}, "model_init_kwargs is 'fast'; give a mapping"),
        ({"vllm_mode": "offline", "use_vllm": True}, "vllm_mode is 'offline'; it must be one of server, colocate"),
        ({"accelerator_config": {"dispatch_batches": True}}, "accelerator_config has dispatch_batches"),
        ({"accelerator_config": {"split_batches": True}}, "accelerator_config has split_batches"),
        ({"report_to": "wandbb"}, "report_to is 'wandbb'; choose none, wandb"),
        ({"lr_scheduler_kwargs": {"foo": 1}}, "lr_scheduler_kwargs: .* unexpected keyword argument 'foo'"),
        ({"lr_scheduler_type": "cosine_with_min_lr"}, "lr_scheduler_type: .*min_lr"),
        ({"lr_scheduler_type": "warmup_stable_decay"}, "missing .*'num_decay_steps'; give it in lr_scheduler_kwargs"),
        (
            {"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": {"lr_end": 1e-5}, "learning_rate": 1e-6},
            r"lr_end \(1e-05\) must be smaller than initial lr \(1e-06\)",
        ),
        ({"report_to": None}, "report_to is null; choose none, wandb"),
        ({"top_p": None}, "top_p is null; it must be above 0 and at most 1"),
        ({"optim_args": "rank=4"}, "optim is 'adamw_torch_fused', which does not read optim_args"),
        ({"optim_target_modules": ["q_proj"]}, "which does not read optim_target_modules"),
        ({"torch_compile_backend": "foo"}, "torch_compile_backend is 'foo', which accelerate does not know"),
        ({"save_strategy": "best"}, "save_strategy is 'best', so metric_for_best_model must say by what"),
        ({"metric_for_best_model": "acuracy"}, "metric_for_best_model is 'acuracy', which no evaluation measures"),
        (
            {"save_strategy": "best", "metric_for_best_model": "accuracy"},
            "save_strategy is 'best' and eval_strategy is 'no', so nothing would be saved",
        ),
        ({"do_eval": True}, "do_eval does nothing without eval_strategy"),
        ({"eval_delay": 4}, "eval_strategy is 'no', so eval_delay would do nothing"),
        ({"metric_for_best_model": "accuracy"}, "eval_strategy is 'no', so metric_for_best_model would do nothing"),
        (
            {"eval_strategy": "epoch", "greater_is_better": True},
            "metric_for_best_model is null, so greater_is_better would do nothing",
        ),
        ({"hub_model_id": "me/x"}, "push_to_hub is false, so hub_model_id would do nothing"),
        ({"run_name": "x"}, "report_to has none of wandb, .* so run_name would do nothing; .* leave run_name at null"),
        ({"run_name": "x", "report_to": "tensorboard"}, "so run_name would do nothing"),
        ({"project": "x"}, "report_to has none of wandb, trackio, so project would do nothing; .* at 'rlstep'"),
        ({"trackio_space_id": "me/x", "report_to": "wandb"}, "none of trackio, so trackio_space_id would do nothing"),
        ({"trackio_bucket_id": "me/x"}, "so trackio_bucket_id would do nothing"),
        ({"trackio_static_space_id": False}, "so trackio_static_space_id would do nothing"),
        (
            {"log_completions_hub_repo": "me/x"},
            "log_completions is false, so log_completions_hub_repo would do nothing",
        ),
        ({"bf16_full_eval": True}, "bf16_full_eval does nothing here: evaluations are a part of training"),
        ({"eval_accumulation_steps": 2}, "eval_accumulation_steps does nothing here"),
        ({"liger_kernel_config": {"rope": True}}, "use_liger_kernel is false, so liger_kernel_config would do nothing"),
        (
            {"gradient_checkpointing_kwargs": {"use_reentrant": True}},
            "so activation_checkpointing_kwargs would do nothing",
        ),
        ({"log_completions": True, "log_unique_prompts": True}, "log_unique_prompts is for the tables of wandb"),
        (
            {"cast_lm_head_to_fp32": True, "kept_logits_gib": 2.0},
            "cast_lm_head_to_fp32 is true, so kept_logits_gib would do nothing",
        ),
        ({"use_transformers_continuous_batching": True, "bf16": True}, "turns the policy's own weights to half"),
        (
            {"use_transformers_continuous_batching": True, "use_vllm": True},
            "use_vllm and use_transformers_continuous_batching both say what samples",
        ),
        # what TRL itself refuses ends as the same error, with the rest
        ({"generation_batch_size": 4, "steps_per_generation": 1}, "can not be both configured at the same time"),
    ],
)
def test_combinations_that_would_compute_something_else_are_refused(arguments, changes, message):
    with pytest.raises(UserError, match=message):
        arguments(**changes)


def test_all_faults_are_shown_at_once(arguments):
    with pytest.raises(UserError, match="gamma is 2.*; value_clip is -1.*above 0; .*both configured.*; kl_est"):
        arguments(
            gamma=2, value_clip=-1, generation_batch_size=4, steps_per_generation=1, advantage="gae", beta=0.1,
            kl_estimator="k1",
        )  # fmt: skip


@pytest.mark.parametrize("advantage", ["group", "gae", "rloo", "vine"])
@pytest.mark.parametrize("settings", [{}, {"vllm_mode": "server"}, {"vllm_mode": "server", "vllm_sync": "adapter"}])
def test_every_advantage_is_admitted_with_vllm(arguments, advantage, settings):
    assert arguments(use_vllm=True, advantage=advantage, **settings).advantage == advantage


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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"lora_r": 8, "lora_dropout": 0.1},
            "use_peft is false, so lora_r, lora_dropout would do nothing; set use_peft",
        ),
        ({"use_dora": True}, "use_peft is false, so use_dora would do nothing"),
        ({"use_peft": True, "lora_r": 0}, "lora_r is 0; it must be at least 1"),
        ({"use_peft": True, "lora_dropout": 1.0}, "lora_dropout is 1.0; it must be at least 0 and below 1"),
        ({"load_in_4bit": True}, "load_in_4bit does nothing here: policies are trained on whole weights: set dtype"),
        (
            {"load_in_4bit": True, "load_in_8bit": True},
            "load_in_8bit, load_in_4bit do nothing here.*8 bit and 4 bit precision at the same time",
        ),
    ],
)
def test_model_options_that_would_do_nothing_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        PolicyModel("m", **changes)


def test_model_options_with_an_adapter_are_admitted():
    assert (
        PolicyModel("m", use_peft=True, lora_r=8, use_dora=True, lora_target_modules=["q"]).lora_target_modules == "q"
    )


def test_a_push_to_the_hub_needs_a_token_before_anything_is_loaded(arguments, monkeypatch, tmp_path):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(UserError, match="push_to_hub needs an access token"):
        arguments(push_to_hub=True)
    arguments(push_to_hub=True, hub_token="hf_x")


@pytest.mark.parametrize(
    "changes",
    [
        {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr_rate": 0.1}},
        {"optim": "sgd", "optim_args": "momentum=0.9"},
        {"run_name": "x", "project": "y", "report_to": "wandb"},
        {"generation_kwargs": {"no_repeat_ngram_size": 2}, "cache_implementation": "static"},
        {"delta": 1.5, "epsilon_high": 0.4},
        {"metric_for_best_model": "eval_rewards/outcome/mean", "eval_strategy": "steps", "eval_steps": 2},
        {"report_to": ["tensorboard"], "num_train_epochs": 0.5},
    ],
)
def test_settings_that_act_are_taken(arguments, changes):
    arguments(**changes)
