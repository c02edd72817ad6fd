"""Which settings of TRL's GRPOConfig are read here, in which range, and which may change when a run is resumed."""

from rlstep.runtime.constraints import Choices, Constraint, GoesWith, Idle, Range, ReadBy, ReadUnless
from rlstep.runtime.trainer_settings import MEASURED, PLACED, SHARED, SHOWN, may_change, merged

# Loss types that weigh each token by its own advantage; TRL's others (vespo, luspo) assume one per sequence.
TOKEN_LOSSES = ("grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo")

# Losses that clip the ratio of new to old probabilities at 1 - epsilon and 1 + epsilon.
CLIPPED_LOSSES = ("grpo", "bnpo", "dr_grpo", "dapo")

# What is done with a ratio of the policy's probabilities to vLLM's that is out of bounds.
CORRECTIONS = ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask")

WITH_VLLM = (ReadBy("use_vllm"),)
IN_VLLM_SERVER = (*WITH_VLLM, ReadBy("vllm_mode", "server"))
BESIDE_VLLM = (*WITH_VLLM, ReadBy("vllm_mode", "colocate"))
CORRECTED = (*WITH_VLLM, ReadBy("vllm_importance_sampling_correction"))
EVALUATED = GoesWith("eval_strategy", "eval_on_start")
ADAPTIVE_ENTROPY = (ReadBy("use_adaptive_entropy"),)
NO_LABELS = (Idle("nothing here computes a loss or metrics from labels"),)
NO_VESPO = (Idle("loss_type 'vespo' is written for one advantage per sequence"),)
NO_TOOLS = (Idle("prompts and completions are text, and call no tools"),)

# Fields inherited from TRL: their ranges, and under which conditions they are read.
_RANGES: dict[str, tuple[Constraint, ...]] = {
    "num_generations": (Range(at_least=2),),
    **dict.fromkeys(
        (
            "num_generations_eval",
            "max_completion_length",
            "generation_batch_size",
            "steps_per_generation",
            "ref_model_sync_steps",
            "num_completions_to_print",
            "vllm_max_model_length",
            "vllm_tensor_parallel_size",
        ),
        (Range(at_least=1),),
    ),
    **dict.fromkeys(
        (
            "beta",
            "epsilon",
            "epsilon_high",
            "top_k",
            "router_aux_loss_coef",
            "entropy_coef_delta",
            "entropy_target",
            "vllm_importance_sampling_clip_min",
        ),
        (Range(at_least=0),),
    ),
    **dict.fromkeys(
        (
            "temperature",
            "repetition_penalty",
            "delta",
            "sapo_temperature_neg",
            "sapo_temperature_pos",
            "vllm_server_timeout",
            "vllm_importance_sampling_clip_max",
            "vllm_importance_sampling_cap",
        ),
        (Range(above=0),),
    ),
    **dict.fromkeys(("entropy_coef", "entropy_coef_min", "entropy_coef_max"), (Range(),)),
    **dict.fromkeys(("min_p", "ref_model_mixup_alpha"), (Range(at_least=0, at_most=1),)),
    **dict.fromkeys(("top_p", "top_entropy_quantile", "vllm_gpu_memory_utilization"), (Range(above=0, at_most=1),)),
    **dict.fromkeys(("vllm_server_port", "vllm_group_port"), (Range(at_least=1, at_most=65535),)),
}
_READ: dict[str, tuple[Constraint, ...]] = {
    "loss_type": (Choices(TOKEN_LOSSES),),
    "epsilon": (ReadBy("loss_type", *CLIPPED_LOSSES),),
    "epsilon_high": (ReadBy("loss_type", *CLIPPED_LOSSES, "cispo"),),
    "delta": (ReadBy("loss_type", *CLIPPED_LOSSES),),
    "sapo_temperature_neg": (ReadBy("loss_type", "sapo"),),
    "sapo_temperature_pos": (ReadBy("loss_type", "sapo"),),
    **dict.fromkeys(("vespo_k_pos", "vespo_lambda_pos", "vespo_k_neg", "vespo_lambda_neg"), NO_VESPO),
    "importance_sampling_level": (Idle("the ratio of new to old probabilities is computed per token"),),
    "off_policy_mask_threshold": (Idle("it assumes one advantage per sequence"),),
    "reward_weights": (Idle("set process_weight and outcome_weight"),),
    "multi_objective_aggregation": (Idle("rewards are added up before TRL sees them"),),
    "sync_ref_model": (ReadBy("beta"),),
    "ref_model_mixup_alpha": (ReadBy("sync_ref_model"),),
    "ref_model_sync_steps": (ReadBy("sync_ref_model"),),
    "use_bias_correction_kl": (ReadBy("beta"), ReadBy("kl", "loss"), ReadUnless("kl_estimator", "k1", "k2")),
    **dict.fromkeys(("entropy_coef_min", "entropy_coef_max", "entropy_coef_delta", "entropy_target"), ADAPTIVE_ENTROPY),
    "chat_template_kwargs": (Idle("set chat_template_arguments"),),
    "max_tool_calling_iterations": NO_TOOLS,
    "log_multimodal": NO_TOOLS,
    "num_completions_to_print": (ReadBy("log_completions"),),
    "log_unique_prompts": (ReadBy("log_completions"),),
    "log_completions_hub_repo": (ReadBy("log_completions"),),
    **dict.fromkeys(("num_generations_eval", "per_device_eval_batch_size"), (EVALUATED,)),
    "cache_implementation": (ReadUnless("use_vllm", True),),
    "transformers_continuous_batching_config": (ReadBy("use_transformers_continuous_batching"),),
    "vllm_mode": (Choices(("server", "colocate")), *WITH_VLLM),
    "vllm_model_impl": (Choices(("vllm", "transformers")), *BESIDE_VLLM),
    "vllm_enable_sleep_mode": BESIDE_VLLM,
    "vllm_gpu_memory_utilization": BESIDE_VLLM,
    "vllm_max_model_length": BESIDE_VLLM,
    "vllm_tensor_parallel_size": BESIDE_VLLM,
    "vllm_server_base_url": IN_VLLM_SERVER,
    "vllm_server_host": IN_VLLM_SERVER,
    "vllm_server_port": IN_VLLM_SERVER,
    "vllm_server_timeout": IN_VLLM_SERVER,
    "vllm_group_port": IN_VLLM_SERVER,
    "vllm_structured_outputs_regex": WITH_VLLM,
    "vllm_importance_sampling_correction": WITH_VLLM,
    "vllm_importance_sampling_mode": (Choices(CORRECTIONS), *CORRECTED),
    "vllm_importance_sampling_clip_max": CORRECTED,
    "vllm_importance_sampling_clip_min": CORRECTED,
    "vllm_importance_sampling_cap": CORRECTED,
    **dict.fromkeys(
        ("label_smoothing_factor", "label_names", "include_for_metrics", "prediction_loss_only"), NO_LABELS
    ),
    **dict.fromkeys(("batch_eval_metrics", "eval_do_concat_batches", "average_tokens_across_devices"), NO_LABELS),
    **dict.fromkeys(("eval_accumulation_steps", "eval_use_gather_object"), NO_LABELS),
    **dict.fromkeys(("bf16_full_eval", "fp16_full_eval"), (Idle("evaluations are a part of training"),)),
    "train_sampling_strategy": (Idle("a batch has whole problems, in an order given by the seed"),),
    "length_column_name": (Idle("a batch has whole problems, whatever their length"),),
    "data_seed": (Idle("the order of the problems follows from seed"),),
    "remove_unused_columns": (Idle("the reference answers are in a column that no model reads"),),
}
_MAY_CHANGE = {
    SHOWN: (
        "log_completions", "log_completions_hub_repo", "log_multimodal", "log_unique_prompts",
        "num_completions_to_print",
    ),
    MEASURED: ("num_generations_eval",),
    PLACED: (
        "ds3_gather_for_generation", "vllm_enable_sleep_mode", "vllm_gpu_memory_utilization", "vllm_group_port",
        "vllm_max_model_length", "vllm_mode", "vllm_model_impl", "vllm_server_base_url", "vllm_server_host",
        "vllm_server_port", "vllm_server_timeout", "vllm_tensor_parallel_size",
    ),
}  # fmt: skip
INHERITED = merged(SHARED, _RANGES, _READ, may_change(_MAY_CHANGE))
