"""The options that `rlstep prm` and `rlstep orm` share."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Literal

from rlstep.runtime.constraints import Range, ReadBy, check
from rlstep.runtime.trainer_settings import ASKED, MEASURED, WRITTEN
from rlstep.steps.boundaries import Boundary, Rule

WITH_ADAPTER = ReadBy("use_peft")


@dataclass
class VerifierConfig:
    model_name_or_path: str = field(
        metadata={"help": "Folder or hub id to start from: a generator, a LoRA adapter on one, or a verifier."}
    )
    data: str = field(metadata={"help": "Labelled solutions to train on (JSONL, Parquet or a folder of them)."})
    eval_data: Annotated[str | None, MEASURED] = field(
        default=None, metadata={"help": "Labelled solutions to evaluate on."}
    )
    resume: Annotated[bool, ASKED] = field(
        default=False, metadata={"help": "Continue from the newest checkpoint in output_dir, if there is one."}
    )
    dtype: Literal["float32", "bfloat16", "float16"] = field(
        default="float32", metadata={"help": "The weights' type; float32 suits training, also under --bf16 autocast."}
    )
    attn_implementation: str | None = field(
        default=None,
        metadata={
            "help": "How attention is computed: sdpa, eager, flex_attention, flash_attention_2, a kernel of the hub; "
            "transformers' choice by default, mostly sdpa. Flash attention packs rows without sharing prefixes."
        },
    )
    trust_remote_code: bool = field(default=False, metadata={"help": "Run model code from the hub."})
    merge_base: bool = field(
        default=False,
        metadata={
            "help": "model_name_or_path is a LoRA adapter: merge it into its base first, and start from that. Without, "
            "use_peft trains it further, with the new head."
        },
    )
    use_peft: bool = field(default=False, metadata={"help": "Train a LoRA adapter (and a new head whole)."})
    merge_adapter: Annotated[bool, WITH_ADAPTER, WRITTEN] = field(
        default=True,
        metadata={
            "help": "use_peft: merge the adapter into a plain checkpoint. false: save adapter and head alone, which "
            "need their base where it was; PPO from the same base then holds it once."
        },
    )
    lora_r: Annotated[int | None, Range(at_least=1), WITH_ADAPTER] = field(
        default=None, metadata={"help": "use_peft: LoRA rank; 16 by default."}
    )
    lora_alpha: Annotated[int | None, Range(at_least=1), WITH_ADAPTER] = field(
        default=None, metadata={"help": "use_peft: LoRA alpha; 32 by default."}
    )
    lora_target_modules: Annotated[list[str] | None, WITH_ADAPTER] = field(
        default=None,
        metadata={"help": "use_peft: modules that get an adapter; all linear layers of the backbone by default."},
    )

    boundary: Rule = field(
        default="line", metadata={"help": "What a step is; kept in the checkpoint for text that comes without spans."}
    )
    boundary_tag: Annotated[str | None, ReadBy("boundary", "tag")] = field(
        default=None, metadata={"help": "boundary tag: the tag that ends a step."}
    )

    def __post_init__(self):
        check(self, self._faults())
        self.steps = Boundary(self.boundary, self.boundary_tag)

    @property
    def classifies(self) -> bool:
        """Whether the verifier has a head of classes, which not every family has in transformers."""
        return True

    def _faults(self) -> Iterator[str]:
        """Invalid combinations of a subclass's settings."""
        yield from ()
