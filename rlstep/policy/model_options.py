"""`PolicyModel`: which weights a policy is, and the shape of an adapter on them."""

from dataclasses import dataclass
from typing import ClassVar

from trl import ModelConfig

from rlstep.runtime.constraints import Constraint, Idle, Range, ReadBy, check, library_faults
from rlstep.runtime.trainer_settings import PLACED

LORA = (ReadBy("use_peft"),)
NOT_QUANTIZED = (Idle("policies are trained on whole weights: set dtype: bfloat16 and use_peft"),)


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
        "attn_implementation": (PLACED,),
    }

    def __post_init__(self):
        check(self, library_faults(super().__post_init__))
