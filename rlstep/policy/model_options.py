"""`PolicyModel`: which weights a policy is, and the shape of an adapter on them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

from trl import ModelConfig

from rlstep.runtime.constraints import Choices, Constraint, Idle, Range, ReadBy, check, library_faults
from rlstep.runtime.trainer_settings import PLACED

LORA = (ReadBy("use_peft"),)
INSTEAD = "policies are trained on whole weights: set dtype: bfloat16 and use_peft"
NOT_QUANTIZED = (Idle(INSTEAD),)
# Of what a model may be loaded with, the settings that have a name of their own.
NAMED = {
    "dtype": "dtype",
    "torch_dtype": "dtype",
    "attn_implementation": "attn_implementation",
    "revision": "model_revision",
    "trust_remote_code": "trust_remote_code",
}
QUANTIZED = ("quantization_config", "load_in_8bit", "load_in_4bit")


@dataclass
class PolicyModel(ModelConfig):
    """TRL's model options, refused where they would do nothing: adapters without `use_peft`, and quantization.

    Raises:
        UserError: every setting that would do nothing.
    """

    inherited: ClassVar[dict[str, tuple[Constraint, ...]]] = {
        "lora_r": (Range(at_least=1), *LORA),
        "lora_alpha": (Range(at_least=1), *LORA),
        "lora_dropout": (Range(at_least=0, below=1), *LORA),
        **dict.fromkeys(("lora_target_modules", "lora_target_parameters", "lora_modules_to_save"), LORA),
        **dict.fromkeys(("use_rslora", "use_dora"), LORA),
        "lora_task_type": (Idle("a policy is a causal LM"),),
        **dict.fromkeys(("load_in_8bit", "load_in_4bit", "bnb_4bit_quant_type"), NOT_QUANTIZED),
        **dict.fromkeys(("use_bnb_nested_quant", "bnb_4bit_quant_storage"), NOT_QUANTIZED),
        "dtype": (Choices(("auto", "float32", "bfloat16", "float16")),),
        "attn_implementation": (PLACED,),
    }

    def __post_init__(self):
        check(self, library_faults(super().__post_init__))


def loading_faults(model_init_kwargs: Mapping | None) -> Iterator[str]:
    """What the trainer's `model_init_kwargs` must not have beside the model options."""
    for name in model_init_kwargs or {}:
        if name in NAMED:
            yield f"model_init_kwargs has {name}, which would override {NAMED[name]}; set that instead"
        elif name in QUANTIZED:
            yield f"model_init_kwargs has {name}; {INSTEAD}"
