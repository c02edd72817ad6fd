"""The options that `rlstep prm` and `rlstep orm` share."""

from dataclasses import dataclass, field
from typing import Literal

from rlstep.runtime.errors import UserError
from rlstep.steps.boundaries import Boundary


@dataclass
class VerifierConfig:
    model_name_or_path: str = field(metadata={"help": "Folder or hub id of the generator to start from."})
    data: str = field(metadata={"help": "Labelled solutions to train on (JSONL, Parquet or a folder of them)."})
    eval_data: str | None = field(default=None, metadata={"help": "Labelled solutions to evaluate on."})
    resume: bool = field(
        default=False, metadata={"help": "Continue from the newest checkpoint in output_dir, where there is one."}
    )
    dtype: Literal["float32", "bfloat16", "float16"] = field(
        default="float32", metadata={"help": "The weights' type; float32 suits training, also under --bf16 autocast."}
    )
    trust_remote_code: bool = field(default=False, metadata={"help": "Run model code from the hub."})
    use_peft: bool = field(default=False, metadata={"help": "Train a LoRA adapter (and a new head whole)."})
    merge_adapter: bool = field(
        default=True,
        metadata={
            "help": "use_peft: merge the adapter into a plain checkpoint. false: save adapter and head alone, which "
            "need their base where it was; PPO from the same base then holds it once."
        },
    )
    lora_r: int | None = field(default=None, metadata={"help": "use_peft: LoRA rank; 16 by default."})
    lora_alpha: int | None = field(default=None, metadata={"help": "use_peft: LoRA alpha; 32 by default."})
    lora_target_modules: list[str] | None = field(
        default=None,
        metadata={"help": "use_peft: modules that get an adapter; all linear layers of the backbone by default."},
    )
    boundary: Literal["line", "blank_line", "tag", "heading", "sentence"] = field(
        default="line", metadata={"help": "What a step is; kept in the checkpoint for text that comes without spans."}
    )
    boundary_tag: str | None = field(default=None, metadata={"help": "boundary tag: the tag that ends a step."})

    def __post_init__(self):
        self.steps = Boundary(self.boundary, self.boundary_tag)
        for name in ("lora_r", "lora_alpha", "lora_target_modules"):
            if not self.use_peft and getattr(self, name) is not None:
                raise UserError(f"{name} is for use_peft: true; leave it out, or set it.")
        if not self.merge_adapter and not self.use_peft:
            raise UserError("merge_adapter: false is for use_peft: true; leave it out, or set it.")
        for name in ("lora_r", "lora_alpha"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least 1.")
