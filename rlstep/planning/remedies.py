"""What to change in a recipe that does not fit: each proposal is planned before it is made."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rlstep.planning.parts import StagePlan
from rlstep.runtime.describe import as_yaml

Changes = dict[str, Any]
TRAINS = ("sft", "prm", "orm", "ppo")


def remedies(plan: StagePlan, values: Mapping, plan_with: Callable[[Mapping], StagePlan]) -> list[str]:
    """Lines that say what to set, each with the total that it gives.

    The first change that is enough by itself, else all of them together.

    Args:
        plan: that does not fit.
        values: its settings.
        plan_with: plans the same recipe with other settings.
    """
    if plan.total <= plan.limit:
        return list(plan.faults)
    together: Changes = {}
    for changes in proposals(plan.stage, values):
        alone = plan_with({**values, **changes})
        if alone.fits:
            return [f"set {_written(changes)}: {alone.total:.1f} GiB"]
        if plan_with({**values, **together, **changes}).total < plan_with({**values, **together}).total:
            together |= changes
    if not together:
        return [f"no setting of {plan.stage} brings it down; take a GPU with {plan.total:.0f} GiB free"]
    best = plan_with({**values, **together})
    enough = "" if best.fits else ", which is still too much: take more GPUs with deepspeed, or a smaller model"
    return [f"set {_written(together)}: {best.total:.1f} GiB{enough}"]


def proposals(stage: str, values: Mapping) -> Iterator[Changes]:
    """Changes from the least to the most intrusive."""
    if stage == "sample":
        yield from ({"batch_size": size} for size in _halves(values["batch_size"]))
        yield {"dtype": "bfloat16"}
        if values["engine"] == "vllm":
            shares = [tenths / 10 for tenths in range(9, 0, -1) if tenths / 10 < values["gpu_memory_utilization"]]
            yield from ({"gpu_memory_utilization": share} for share in shares)
    if stage == "score":
        yield from ({"batch_tokens": size} for size in _halves(values["batch_tokens"]))
        yield {"dtype": "bfloat16"}
    if stage not in TRAINS:
        return
    if not (values.get("activation_checkpointing") or values.get("gradient_checkpointing")):
        yield {"activation_checkpointing" if stage in ("prm", "orm") else "gradient_checkpointing": True}
    if stage == "ppo":
        yield from _ppo(values)
    yield from _smaller_batches(stage, values)
    if not values.get("deepspeed"):
        yield {"deepspeed": "ds_configs/zero2.json"}
    if not values.get("use_peft"):
        layers = {} if stage in ("prm", "orm") else {"lora_target_modules": ["all-linear"]}
        yield {"use_peft": True, **layers, "dtype": "bfloat16", "bf16": True}
    elif values.get("dtype") != "bfloat16":
        yield {"dtype": "bfloat16", "bf16": True}
    if not values.get("use_peft") and values.get("deepspeed") != "ds_configs/zero3.json":
        yield {"deepspeed": "ds_configs/zero3.json"}


def _ppo(values: Mapping) -> Iterator[Changes]:
    if not values["packing"]:
        yield {"packing": True}
    elif values["kept_logits_gib"] > 0:
        yield {"kept_logits_gib": 0.0}
    if values["use_vllm"] and values["vllm_mode"] == "colocate" and not values["vllm_enable_sleep_mode"]:
        yield {"vllm_enable_sleep_mode": True}
    if values["advantage"] == "gae" and values["critic"] == "adapter":
        yield {"critic": "head"}


def _smaller_batches(stage: str, values: Mapping) -> Iterator[Changes]:
    """Smaller micro-batches for the same global batch."""
    rows, accumulation = values["per_device_train_batch_size"], values["gradient_accumulation_steps"]
    for size in _halves(rows):
        times = rows // size
        changes = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulation * times}
        if stage == "ppo" and values["steps_per_generation"]:
            changes["steps_per_generation"] = values["steps_per_generation"] * times
        yield changes


def _halves(number: int) -> Iterator[int]:
    while number > 1 and number % 2 == 0:
        number //= 2
        yield number


def _written(changes: Changes) -> str:
    return ", ".join(f"{name}: {as_yaml(value)}" for name, value in changes.items())
