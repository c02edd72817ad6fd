"""Constraints on the settings that every training stage inherits from transformers' Trainer.

transformers checks few of its numbers: a learning rate below 0 or a batch of 0 rows would be noticed when a model is
loaded, or never.
"""

from collections.abc import Iterable, Iterator

from huggingface_hub import get_token

from rlstep.runtime.access import NO_HUB_TOKEN
from rlstep.runtime.constraints import (
    Constraint,
    Idle,
    MayChange,
    Range,
    ReadBy,
    changed,
    default_of,
    library_faults,
    plain,
    shown,
)

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
    **dict.fromkeys(("eval_delay", "metric_for_best_model"), (ReadBy("eval_strategy", "steps", "epoch"),)),
    "greater_is_better": (ReadBy("metric_for_best_model"),),
    "dataloader_persistent_workers": (ReadBy("dataloader_num_workers"),),
    **dict.fromkeys(("hub_strategy", "hub_always_push", "hub_revision"), (ReadBy("push_to_hub"),)),
    **dict.fromkeys(
        ("fsdp", "fsdp_config"),
        (Idle("weights are sharded by DeepSpeed; set deepspeed, for example to ds_configs/zero3.json"),),
    ),
    # Flags of transformers' example scripts.
    **dict.fromkeys(("do_train", "do_predict"), (Idle("which stage runs decides whether it trains"),)),
    "liger_kernel_config": (ReadBy("use_liger_kernel"),),
    "activation_checkpointing_kwargs": (ReadBy("activation_checkpointing"),),
    "gradient_checkpointing_kwargs": (ReadBy("gradient_checkpointing"),),
}

_RANGES: dict[str, tuple[Constraint, ...]] = {
    **dict.fromkeys(
        (
            "per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps",
            "eval_accumulation_steps", "save_total_limit", "dataloader_prefetch_factor", "ddp_bucket_cap_mb",
            "ddp_timeout",
        ),
        (Range(at_least=1),),
    ),
    **dict.fromkeys(
        (
            "learning_rate", "weight_decay", "max_grad_norm", "warmup_steps", "adam_epsilon", "logging_steps",
            "save_steps", "eval_delay", "dataloader_num_workers",
        ),
        (Range(at_least=0),),
    ),
    **dict.fromkeys(("num_train_epochs", "eval_steps", "neftune_noise_alpha"), (Range(above=0),)),
    **dict.fromkeys(("adam_beta1", "adam_beta2"), (Range(at_least=0, below=1),)),
    "max_steps": (Range(at_least=-1),),
    **dict.fromkeys(("seed", "data_seed"), (Range(at_least=0, below=2**32),)),
}  # fmt: skip

# Optimizers of transformers that read `optim_args`, and those that read `optim_target_modules`, by how they begin.
_TAKE_ARGUMENTS = (
    "ademamix", "paged_ademamix", "adamw_anyprecision", "adamw_torch_4bit", "adamw_torch_8bit", "sgd", "adagrad",
    "rmsprop", "grokadamw", "stable_adamw", "galore_", "apollo_", "schedule_free_",
)  # fmt: skip
_TAKE_MODULES = ("galore_", "apollo_")
# The trackers that read a setting, as a name of `report_to`.
_SHOWN_BY = {
    "run_name": ("wandb", "trackio", "mlflow", "comet_ml", "swanlab", "dagshub"),
    "project": ("wandb", "trackio"),
    **dict.fromkeys(("trackio_space_id", "trackio_bucket_id", "trackio_static_space_id"), ("trackio",)),
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


def trainer_faults(args) -> Iterator[str]:
    """What is wrong with the Trainer's settings together, which the Trainer would say late, or not at all.

    Args:
        args: transformers' TrainingArguments, initialised.
    """
    from accelerate.utils import DynamoBackend  # with torch

    if args.max_steps == 0:
        yield "max_steps is 0, which the Trainer takes for no limit; give how many updates, or -1 for no limit"
    yield from _optimizer_faults(args)
    given = changed(args, ("lr_scheduler_type", "lr_scheduler_kwargs"))
    if given and (args.learning_rate or 0) >= 0:  # one below 0 is out of its range
        for fault in library_faults(lambda: _try_schedule(args)):
            where = "; give it in lr_scheduler_kwargs" if "missing" in fault else ""
            yield f"{' and '.join(given)}: {fault.rstrip('.')}{where}"
    if args.save_strategy == "best" and args.metric_for_best_model is None:
        yield "save_strategy is 'best', so metric_for_best_model must say by what; set it"
    if args.save_strategy == "best" and args.eval_strategy == "no":
        yield "save_strategy is 'best' and eval_strategy is 'no', so nothing would be saved; change one of them"
    if args.do_eval and args.eval_strategy == "no":
        yield "do_eval does nothing without eval_strategy; leave it out, or set that"
    backend = args.torch_compile_backend
    if backend is not None and backend.upper() not in DynamoBackend.__members__:
        yield f"torch_compile_backend is '{backend}', which accelerate does not know; take inductor, or leave it out"
    yield from _hub_faults(args)
    yield from _tracker_faults(args)


def evaluation_faults(args, data: str, given: bool, at_the_end: bool, batches: Iterable[str]) -> Iterator[str]:
    """What is wrong with when a run evaluates, and on what.

    Args:
        args: the Trainer's arguments.
        data: the setting that names what is evaluated on.
        given: whether it is set.
        at_the_end: whether a run evaluates at its end whenever that is given.
        batches: the settings that say how it is evaluated.
    """
    strategy = plain(args.eval_strategy)
    if strategy != "no" and not given:
        yield f"eval_strategy is '{strategy}' but {data} is not given"
    if args.eval_on_start and not given:
        yield f"eval_on_start is true but {data} is not given"
    evaluates = strategy != "no" or args.eval_on_start
    if given and not evaluates and not at_the_end:
        yield (
            f"{data} is given, and nothing would be evaluated: set eval_strategy to 'steps' or 'epoch', or "
            f"eval_on_start to true, or leave {data} at null"
        )
    if not given and not evaluates and (names := changed(args, batches)):
        fields, them = args.__dataclass_fields__, "it" if len(names) == 1 else "them"
        # What a recipe sets can only be set back to its default on the command line.
        defaults = ", ".join(shown(plain(default_of(fields[name]))) for name in names)
        yield f"{data} is null, so {', '.join(names)} would do nothing; set {data}, or leave {them} at {defaults}"


def _hub_faults(args) -> Iterator[str]:
    if args.push_to_hub:
        if args.hub_token is None and get_token() is None:
            yield NO_HUB_TOKEN
    elif args.hub_model_id is not None and getattr(args, "log_completions_hub_repo", None) is None:
        yield "push_to_hub is false, so hub_model_id would do nothing; set push_to_hub to true, or leave it at null"


def _optimizer_faults(args) -> Iterator[str]:
    name = str(plain(args.optim))
    for setting, readers in (("optim_args", _TAKE_ARGUMENTS), ("optim_target_modules", _TAKE_MODULES)):
        if getattr(args, setting) and not name.startswith(readers):
            yield f"optim is '{name}', which does not read {setting}; leave it out, or take another optimizer"


def _try_schedule(args) -> None:
    """Makes the learning-rate schedule of the settings, from their learning rate, for a parameter of its own."""
    import torch
    from transformers import get_scheduler

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=args.learning_rate)
    get_scheduler(args.lr_scheduler_type, optimizer, 1, 10, scheduler_specific_kwargs=args.lr_scheduler_kwargs)


def _tracker_faults(args) -> Iterator[str]:
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    places = [args.report_to] if isinstance(args.report_to, str) else args.report_to or []
    for place in places:
        if place not in ("none", "all") and place not in INTEGRATION_TO_CALLBACK:
            yield f"report_to is {shown(place)}; choose none, wandb, trackio or tensorboard"
    if "all" in places:
        return
    for name, readers in _SHOWN_BY.items():
        if changed(args, (name,)) and not {*readers} & {*places}:
            yield (
                f"report_to has none of {', '.join(readers)}, so {name} would do nothing; set one, or leave {name} at "
                f"{shown(default_of(args.__dataclass_fields__[name]))}"
            )


SHARED = merged(_READ, _RANGES, may_change(_MAY_CHANGE))
