"""Optional packages: what a setting needs and is not installed is said at once, not after models are loaded.

So is an `attn_implementation` that there is not.
"""

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

from rlstep.runtime.constraints import plain, raise_faults, shown

# Where a run is reported to: the module of each place that needs one.
LOGGERS = {
    "wandb": "wandb", "tensorboard": "tensorboard", "trackio": "trackio", "mlflow": "mlflow", "comet_ml": "comet_ml",
    "clearml": "clearml", "neptune": "neptune", "swanlab": "swanlab", "dvclive": "dvclive", "codecarbon": "codecarbon",
}  # fmt: skip
# Settings that need a module as soon as they are on.
SWITCHES = {
    "use_vllm": "vllm",
    "load_in_4bit": "bitsandbytes",
    "load_in_8bit": "bitsandbytes",
    "use_liger_kernel": "liger_kernel",
    "deepspeed": "deepspeed",
}
# Values of the setting `engine` that need a module of their own.
ENGINES = {"vllm": "vllm"}
# Optimizers that torch does not have, by what their names begin with.
OPTIMIZERS = {
    **dict.fromkeys(("adamw_bnb", "adamw_8bit", "ademamix", "lion_", "paged_", "rmsprop_bnb"), "bitsandbytes"),
    **dict.fromkeys(("adamw_torch_4bit", "adamw_torch_8bit"), "torchao"),
    "galore_": "galore_torch",
    "lomo": "lomo_optim",
    "adalomo": "lomo_optim",
    "grokadamw": "grokadamw",
    "schedule_free_": "schedulefree",
    "apollo_": "apollo_torch",
    "stable_adamw": "optimi",
}
# Flash attention by its names in transformers.
FLASH = {
    "flash_attention_2": "flash_attn",
    "flash_attention_3": "flash_attn_interface",
    "flash_attention_4": "flash_attn",
}
# How a package is installed, where that is not by the module's name.
INSTALL = {
    "vllm": "'rlstep[vllm]'", "liger_kernel": "liger-kernel", "comet_ml": "comet-ml", "flash_attn": "flash-attn",
    "flash_attn_interface": "kernels",
    "galore_torch": "galore-torch", "lomo_optim": "lomo-optim", "apollo_torch": "apollo-torch",
    "optimi": "torch-optimi",
}  # fmt: skip


def check_packages(*configs) -> None:
    """Refuses settings that need packages which are not installed, all of them in one message.

    Raises:
        UserError: there are some; says how to install each.
    """
    raise_faults(fault for config in configs for fault in package_faults(config))


def package_faults(config) -> Iterator[str]:
    """The settings of a configuration that need a package which is not installed, with how to install it; an attention
    that does not exist.
    """
    for name, value, module in _needed(config):
        if find_spec(module) is None:
            package, given = INSTALL.get(module, module), shown(plain(value))
            yield f"{name} is {given}, which needs {module}, and that is not installed: pip install {package}"
    attention = getattr(config, "attn_implementation", None)
    if attention is not None and not _is_attention(attention):
        yield (
            f"attn_implementation is {attention!r}, which transformers does not have; choose sdpa, eager, "
            f"flex_attention, {', '.join(FLASH)}, or a kernel of the hub by its name, OWNER/NAME"
        )


def _is_attention(name: str) -> bool:
    from transformers import AttentionInterface  # with torch

    return name == "eager" or "/" in name or name in AttentionInterface()


def _needed(config) -> Iterator[tuple[str, Any, str]]:
    """(setting, its value, the module that it needs)."""
    for name, module in SWITCHES.items():
        if value := getattr(config, name, None):
            yield name, value, module
    if (engine := getattr(config, "engine", None)) in ENGINES:
        yield "engine", engine, ENGINES[engine]
    places = getattr(config, "report_to", None) or []
    for place in [places] if isinstance(places, str) else places:
        if place in LOGGERS:
            yield "report_to", place, LOGGERS[place]
    optimizer = str(plain(getattr(config, "optim", None)))
    for beginning, module in OPTIMIZERS.items():
        if optimizer.startswith(beginning):
            yield "optim", optimizer, module
    attention = getattr(config, "attn_implementation", None)
    if attention in FLASH and find_spec("kernels") is None:  # transformers takes kernels' build where there is none
        yield "attn_implementation", attention, FLASH[attention]
    elif "/" in (attention or ""):
        yield "attn_implementation", attention, "kernels"
