"""What a run that is continued must have in common with the one before: every setting but those that may change."""

from dataclasses import dataclass, fields
from typing import Annotated

import pytest
from transformers import TrainingArguments

from rlstep.policy.config import StepPPOConfig
from rlstep.policy.model_options import PolicyModel
from rlstep.policy.monitoring.alarms import AlarmOptions
from rlstep.policy.options import PPOOptions
from rlstep.policy.refresh.labels import RefreshOptions
from rlstep.policy.rewards.guards import Guards
from rlstep.runtime.constraints import MayChange, constraints_of
from rlstep.runtime.errors import UserError
from rlstep.runtime.identity import check_checkpoint, check_same_run, identity_writer, run_identity
from rlstep.stages.orm import ORMConfig
from rlstep.stages.prm import PRMConfig
from rlstep.stages.sft import SFTArguments, SFTOptions
from rlstep.verifiers.training.arguments import VerifierArguments

# Every setting that is compared, by the class that has it; those of transformers' Trainer once, for all that train.
# A setting that is in neither list, here or `MayChange`, was classified by nobody: decide whether a run stays the same
# run when it is changed halfway.
IDENTITY = {
    TrainingArguments: """
        accelerator_config adam_beta1 adam_beta2 adam_epsilon auto_find_batch_size average_tokens_across_devices bf16
        data_seed dataloader_drop_last dataloader_in_order deepspeed fp16 fsdp fsdp_config full_determinism
        gradient_accumulation_steps label_names label_smoothing_factor learning_rate length_column_name
        liger_kernel_config lr_scheduler_kwargs lr_scheduler_type max_grad_norm neftune_noise_alpha optim optim_args
        optim_target_modules parallelism_config per_device_train_batch_size remove_unused_columns seed
        train_sampling_strategy use_cache use_liger_kernel warmup_steps weight_decay
    """,
    StepPPOConfig: """
        advantage beta cache_implementation cast_lm_head_to_fp32 centre_wrong chat_template_kwargs critic
        critic_trunk_scale delta disable_dropout entropy_coef entropy_coef_delta entropy_coef_max
        entropy_coef_min entropy_target epsilon epsilon_high gamma generation_batch_size generation_kwargs
        importance_sampling_level keep_samples keep_wrong kept_logits_gib kl kl_estimator lam loss_type
        mask_truncated_completions max_completion_length max_tool_calling_iterations min_p model_init_kwargs
        multi_objective_aggregation num_generations num_iterations off_policy_mask_threshold packing
        pad_to_multiple_of ref_model_mixup_alpha ref_model_sync_steps repetition_penalty reward_weights
        router_aux_loss_coef sapo_temperature_neg sapo_temperature_pos scale_rewards shuffle_dataset
        step_baseline step_discount steps_per_generation sync_ref_model temperature token_weights
        top_entropy_quantile top_k top_p transformers_continuous_batching_config truncated trust_remote_code
        use_adaptive_entropy use_bias_correction_kl use_transformers_continuous_batching use_transformers_paged use_vllm
        value_clip vespo_k_neg vespo_k_pos vespo_lambda_neg vespo_lambda_pos vf_coef vine_rollouts
        vllm_importance_sampling_cap vllm_importance_sampling_clip_max vllm_importance_sampling_clip_min
        vllm_importance_sampling_correction vllm_importance_sampling_mode vllm_structured_outputs_regex
        whiten_advantages whiten_rewards
    """,
    SFTArguments: """
        assistant_only_loss chat_template_path completion_only_loss dataset_kwargs dataset_text_field eos_token
        eval_packing loss_type max_length model_init_kwargs packing packing_strategy pad_to_multiple_of pad_token
        padding_free router_aux_loss_coef shuffle_dataset truncation_mode trust_remote_code
    """,
    VerifierArguments: "max_length packing",
    PolicyModel: """
        bnb_4bit_quant_storage bnb_4bit_quant_type dtype load_in_4bit load_in_8bit lora_alpha lora_dropout
        lora_modules_to_save lora_r lora_target_modules lora_target_parameters lora_task_type model_name_or_path
        model_revision use_bnb_nested_quant use_dora use_peft use_rslora
    """,
    PPOOptions: """
        answer_pattern boundary boundary_tag config_name credit credit_parameters fields first_error_threshold grader
        implicit merge_base missing_answer_reward orm outcome_weight prm problems process_weight reward share_base
        source_weights split task task_path
    """,
    Guards: """
        guard_after_answer guard_filler guard_max_step_chars guard_max_steps guard_min_steps guard_no_answer
        guard_repeats guard_restated guard_reward_clip
    """,
    AlarmOptions: "",
    RefreshOptions: """
        refresh_batch_size refresh_epochs refresh_every refresh_labels refresh_learning_rate refresh_monte_carlo
        refresh_replay refresh_replay_share refresh_rollouts refresh_rows refresh_teacher
    """,
    SFTOptions: "data merge_base",
    PRMConfig: """
        after_first_error attn_implementation boundary boundary_tag data dtype head label_tokens lora_alpha lora_r
        lora_target_modules merge_base model_name_or_path neutral trust_remote_code use_peft
    """,
    ORMConfig: """
        attn_implementation beta boundary boundary_tag data dtype loss lora_alpha lora_r lora_target_modules merge_base
        model_name_or_path trust_remote_code use_peft
    """,
}
TRAINERS = (StepPPOConfig, SFTArguments, VerifierArguments)


def compared(kind: type) -> set[str]:
    """The settings of a class that do not say that they may change."""
    return {
        name
        for name, (_, constraints) in constraints_of(kind).items()
        if not any(isinstance(constraint, MayChange) for constraint in constraints)
    }


@pytest.mark.parametrize(
    "kind", [kind for kind in IDENTITY if kind is not TrainingArguments], ids=lambda kind: kind.__name__
)
def test_every_setting_is_classified(kind):
    own = compared(kind)
    if kind in TRAINERS:
        shared = {field.name for field in fields(TrainingArguments)}
        assert sorted(own & shared) == sorted(IDENTITY[TrainingArguments].split())
        own -= shared
    assert sorted(own) == sorted(IDENTITY[kind].split())


@pytest.fixture
def identity(ppo_arguments):
    """The identity of a PPO run, given by what differs from the defaults."""

    def make(args=None, model=None, guards=None, refresh=None, alarm=None, **options):
        return run_identity(
            PPOOptions("p.jsonl", **options),
            Guards(**(guards or {})),
            AlarmOptions(**(alarm or {})),
            RefreshOptions(**(refresh or {})),
            ppo_arguments(**(args or {})),
            PolicyModel("m", **(model or {})),
        )

    return make


@pytest.mark.parametrize(
    "changes",
    [
        {"args": {"max_steps": 9, "logging_steps": 3, "output_dir": "elsewhere", "save_strategy": "no"}},
        {"args": {"dataloader_num_workers": 2, "gradient_checkpointing": True, "report_to": "tensorboard"}},
        {"args": {"hub_token": "secret", "log_completions": True}},
        {"resume": True, "completion_table_every": 4, "eval_problems": "e.jsonl"},
        {"alarm": {"alarm": "off"}},
        {"model": {"attn_implementation": "eager"}},
    ],
)
def test_what_may_change_does_not_make_another_run(identity, changes):
    assert identity(**changes) == identity()


@pytest.mark.parametrize(
    "changes",
    [
        {"args": {"beta": 0.1}},
        {"args": {"learning_rate": 1.0}},
        # Missed by the list that was kept by hand.
        {"args": {"warmup_steps": 3}},
        {"args": {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 1e-6}}},
        {"args": {"use_adaptive_entropy": True, "entropy_target": 1.0}},
        {"args": {"beta": 0.1, "sync_ref_model": True}},
        {"args": {"beta": 0.1, "use_bias_correction_kl": False}},
        {"model": {"use_peft": True, "lora_dropout": 0.1}},
        {"model": {"use_peft": True, "use_dora": True}},
        {"guards": {"guard_min_steps": 2}},
        {"refresh": {"refresh_every": 2}},
        {"missing_answer_reward": -1.0},
    ],
)
def test_any_other_setting_makes_another_run(identity, changes):
    with pytest.raises(UserError, match="is from a run with "):
        check_same_run("checkpoint-1", identity(), identity(**changes))


def test_a_checkpoint_is_compared_in_what_it_holds():
    now = {"beta": 0.1, "seed": 3, "new": 1}
    check_same_run("checkpoint-1", {}, now)
    check_same_run("checkpoint-1", {"beta": 0.1, "gone": 5}, now)
    with pytest.raises(UserError, match=r"^checkpoint-1 is from a run with beta 0.2 \(now 0.1\), seed 4 \(now 3\)"):
        check_same_run("checkpoint-1", {"beta": 0.2, "seed": 4}, now)


def test_a_folder_may_be_named_another_way(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    check_same_run("checkpoint-1", {"model": "model"}, {"model": str(tmp_path / "model")})
    with pytest.raises(UserError, match="model 'model' .now 'other'"):
        check_same_run("checkpoint-1", {"model": "model"}, {"model": "other"})


@dataclass
class Options:
    size: int = 1
    shown: Annotated[bool, MayChange("for a test")] = False


def test_a_checkpoint_keeps_its_runs_identity(tmp_path):
    checkpoint = tmp_path / "checkpoint-4"
    check_checkpoint(None, run_identity(Options()))
    checkpoint.mkdir()
    # Of an older version, which kept none.
    check_checkpoint(checkpoint, run_identity(Options(2)))
    write = identity_writer(run_identity(Options()))
    write(checkpoint, False)
    check_checkpoint(checkpoint, run_identity(Options(2)))
    write(checkpoint, True)
    check_checkpoint(checkpoint, run_identity(Options(shown=True)))
    with pytest.raises(UserError, match=r"size 1 \(now 2\)"):
        check_checkpoint(checkpoint, run_identity(Options(2)))
