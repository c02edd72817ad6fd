"""Exports a trained LoRA policy in two forms: the adapter, and the model with the adapter merged."""

import shutil
from pathlib import Path

from rlstep.policy.models import ADAPTER_CONFIG, load_policy, load_policy_tokenizer
from rlstep.runtime.errors import UserError

ADAPTER_FILES = (ADAPTER_CONFIG, "adapter_model.safetensors")


def check_adapter(policy: Path) -> None:
    """Refuses a folder without a LoRA adapter."""
    missing = [name for name in ADAPTER_FILES if not (policy / name).is_file()]
    if missing:
        raise UserError(f"{policy} holds no LoRA adapter ({missing[0]} is missing). A full model needs no export.")


def export_adapter(policy: Path, out: Path, dtype: str = "auto", trust_remote_code: bool = False) -> int:
    """Writes `out`/adapter (loads with AutoPeftModelForCausalLM) and `out`/merged (with AutoModelForCausalLM).

    Returns:
        The merged model's number of parameters.
    """
    tokenizer = load_policy_tokenizer(str(policy), trust_remote_code)
    (out / "adapter").mkdir(parents=True, exist_ok=True)
    for name in ADAPTER_FILES:
        shutil.copyfile(policy / name, out / "adapter" / name)
    tokenizer.save_pretrained(out / "adapter")
    merged = load_policy(str(policy), dtype, trust_remote_code)
    merged.save_pretrained(out / "merged")
    tokenizer.save_pretrained(out / "merged")
    return merged.num_parameters()
