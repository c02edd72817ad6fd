"""Exports a trained LoRA policy in two forms: the adapter, and the model with the adapter merged."""

import json
import logging
import shutil
from pathlib import Path

from transformers.utils import GENERATION_CONFIG_NAME

from rlstep.policy.models import load_policy, load_policy_tokenizer
from rlstep.policy.prompt_files import PROMPT_FORMAT
from rlstep.runtime.errors import UserError
from rlstep.verifiers.merging import refuse_verifier
from rlstep.verifiers.pretrained import ADAPTER_CONFIG

logger = logging.getLogger(__name__)

ADAPTER_FILES = (ADAPTER_CONFIG, "adapter_model.safetensors")
# What belongs to an adapter as it does to whole weights: where completions end, and how prompts are written.
BESIDE = (GENERATION_CONFIG_NAME, PROMPT_FORMAT)


def check_adapter(policy: Path) -> None:
    """Refuses a folder without a LoRA adapter."""
    missing = [name for name in ADAPTER_FILES if not (policy / name).is_file()]
    if missing:
        raise UserError(
            f"{policy} holds no LoRA adapter ({missing[0]} is missing). A full model loads as it is, without an export."
        )
    refuse_verifier(str(policy))


def export_adapter(policy: Path, out: Path, dtype: str = "auto", trust_remote_code: bool = False) -> int:
    """Writes `out`/adapter (loads with AutoPeftModelForCausalLM) and `out`/merged (with AutoModelForCausalLM).

    Returns:
        The merged model's number of parameters.
    """
    tokenizer = load_policy_tokenizer(str(policy), trust_remote_code)
    (out / "adapter").mkdir(parents=True, exist_ok=True)
    for name in ADAPTER_FILES + BESIDE:
        if (policy / name).is_file():
            shutil.copyfile(policy / name, out / "adapter" / name)
    _name_base_in_full(out / "adapter" / ADAPTER_CONFIG)
    tokenizer.save_pretrained(out / "adapter")
    merged = load_policy(str(policy), dtype, trust_remote_code)
    merged.save_pretrained(out / "merged")
    tokenizer.save_pretrained(out / "merged")
    if (policy / PROMPT_FORMAT).is_file():
        shutil.copyfile(policy / PROMPT_FORMAT, out / "merged" / PROMPT_FORMAT)
    return merged.num_parameters()


def _name_base_in_full(file: Path) -> None:
    """Makes an adapter's path to its base one that is the same from every folder; a hub id stays as it is."""
    settings = json.loads(file.read_text(encoding="utf-8"))
    base = settings["base_model_name_or_path"]
    if Path(base).is_dir():
        settings["base_model_name_or_path"] = str(Path(base).resolve())
        file.write_text(json.dumps(settings, indent=2, sort_keys=True), encoding="utf-8")
        logger.warning(
            "%s needs its base, the folder %s, wherever it is loaded; share merged/ with who does not have it",
            file.parent,
            settings["base_model_name_or_path"],
        )
