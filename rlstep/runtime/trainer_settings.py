"""Constraints on the settings that every training stage inherits from transformers' Trainer."""

from rlstep.runtime.constraints import Constraint, Idle, MayChange, ReadBy

SHOWN = MayChange("what is logged, and where, does not affect the updates")
MEASURED = MayChange("evaluations, and which checkpoint is best, do not affect the updates")
WRITTEN = MayChange("where and how often a run is saved does not affect the updates")
LENGTH = MayChange("a run may be made longer")
LOADED = MayChange("how fast rows are loaded does not change which ones")
PLACED = MayChange("where and how fast the same computation runs")
ASKED = MayChange("what a run is asked to do, not how it trains")

_MAY_CHANGE: dict[MayChange, tuple[str, ...]] = {
    SHOWN: (
        "disable_tqdm", "include_num_input_tokens_seen", "log_level", "log_level_replica", "log_on_each_node",
        "logging_first_step", "logging_nan_inf_filter", "logging_steps", "logging_strategy", "project", "report_to",
        "run_name", "skip_memory_metrics", "trackio_bucket_id", "trackio_space_id", "trackio_static_space_id", "debug",
    ),
    MEASURED: (
        "batch_eval_metrics", "bf16_full_eval", "eval_accumulation_steps", "eval_delay", "eval_do_concat_batches",
        "eval_on_start", "eval_steps", "eval_strategy", "eval_use_gather_object", "fp16_full_eval", "greater_is_better",
        "include_for_metrics", "load_best_model_at_end", "metric_for_best_model", "per_device_eval_batch_size",
        "prediction_loss_only",
    ),
    WRITTEN: (
        "enable_jit_checkpoint", "hub_always_push", "hub_model_id", "hub_private_repo", "hub_revision", "hub_strategy",
        "hub_token", "output_dir", "push_to_hub", "save_on_each_node", "save_only_model", "save_steps", "save_strategy",
        "save_total_limit",
    ),
    LENGTH: ("max_steps", "num_train_epochs"),
    LOADED: (
        "dataloader_multiprocessing_context", "dataloader_num_workers", "dataloader_persistent_workers",
        "dataloader_pin_memory", "dataloader_prefetch_factor",
    ),
    PLACED: (
        "activation_checkpointing", "activation_checkpointing_kwargs", "ddp_backend", "ddp_broadcast_buffers",
        "ddp_bucket_cap_mb", "ddp_find_unused_parameters", "ddp_static_graph", "ddp_timeout", "gradient_checkpointing",
        "gradient_checkpointing_kwargs", "local_rank", "tf32", "torch_compile", "torch_compile_backend",
        "torch_compile_mode", "torch_empty_cache_steps", "use_cpu",
    ),
    ASKED: (
        "do_eval", "do_predict", "do_train", "ignore_data_skip", "restore_callback_states_from_checkpoint",
        "resume_from_checkpoint",
    ),
}  # fmt: skip

_READ: dict[str, tuple[Constraint, ...]] = {
    # Switching logging or saving off overrides a recipe that says how often.
    "logging_steps": (ReadBy("logging_strategy", "steps", "no"),),
    "save_steps": (ReadBy("save_strategy", "steps", "no"),),
    # Off by default: how often to evaluate, on its own, would not cause any evaluation.
    "eval_steps": (ReadBy("eval_strategy", "steps"),),
    "dataloader_persistent_workers": (ReadBy("dataloader_num_workers"),),
    **dict.fromkeys(("hub_strategy", "hub_always_push", "hub_revision"), (ReadBy("push_to_hub"),)),
    **dict.fromkeys(
        ("fsdp", "fsdp_config"),
        (Idle("weights are sharded by DeepSpeed; set deepspeed, for example to ds_configs/zero3.json"),),
    ),
    # Flags of transformers' example scripts.
    **dict.fromkeys(("do_train", "do_predict"), (Idle("which stage runs decides whether it trains"),)),
}


def may_change(names: dict[MayChange, tuple[str, ...]]) -> dict[str, tuple[Constraint, ...]]:
    """Turns reason -> settings into setting -> constraints."""
    return {name: (reason,) for reason, listed in names.items() for name in listed}


def merged(*tables: dict[str, tuple[Constraint, ...]]) -> dict[str, tuple[Constraint, ...]]:
    """The constraints of several tables; a setting that several of them name gets the constraints of all."""
    total: dict[str, tuple[Constraint, ...]] = {}
    for table in tables:
        for name, constraints in table.items():
            total[name] = total.get(name, ()) + constraints
    return total


SHARED = merged(_READ, may_change(_MAY_CHANGE))
