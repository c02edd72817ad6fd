"""The `export` stage: a trained LoRA policy as an adapter to share and as a merged model to serve."""

import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rlstep.policy.models import load_policy, load_policy_tokenizer
from rlstep.runtime.errors import UserError
from rlstep.runtime.record import RunRecord
from rlstep.verifiers.model import ADAPTER_CONFIG

ADAPTER_FILES = (ADAPTER_CONFIG, "adapter_model.safetensors")


@dataclass
class ExportConfig:
    policy: str = field(metadata={"help": "Folder that `rlstep ppo` or `rlstep sft` wrote with use_peft."})
    out: str = field(metadata={"help": "Folder for adapter/ and merged/."})
    dtype: str = field(default="auto", metadata={"help": "Type of the merged weights: auto, float32, bfloat16."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Run model code from the hub."})


def export(config: ExportConfig) -> dict:
    """Writes `out`/adapter (loads with AutoPeftModelForCausalLM) and `out`/merged (with AutoModelForCausalLM)."""
    policy, out = Path(config.policy), Path(config.out)
    missing = [name for name in ADAPTER_FILES if not (policy / name).is_file()]
    if missing:
        raise UserError(
            f"{policy} holds no LoRA adapter ({missing[0]} is missing). A full model loads as it is, without an export."
        )
    with RunRecord("export", asdict(config), out) as record:
        tokenizer = load_policy_tokenizer(config.policy, config.trust_remote_code)
        (out / "adapter").mkdir(parents=True, exist_ok=True)
        for name in ADAPTER_FILES:
            shutil.copyfile(policy / name, out / "adapter" / name)
        tokenizer.save_pretrained(out / "adapter")
        merged = load_policy(config.policy, config.dtype, config.trust_remote_code)
        merged.save_pretrained(out / "merged")
        tokenizer.save_pretrained(out / "merged")
        record.metrics["parameters"] = merged.num_parameters()
    return record.metrics
