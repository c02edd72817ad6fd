"""Exports a trained policy: its LoRA adapter, and the model with the adapter merged. Nothing of a critic goes along."""

import json
import logging
import shutil
from pathlib import Path

from transformers.utils import GENERATION_CONFIG_NAME

from rlstep.policy.models import load_policy, load_policy_tokenizer
from rlstep.policy.prompt_files import PROMPT_FORMAT
from rlstep.runtime.errors import UserError
from rlstep.verifiers.adapters import in_full, is_verifier
from rlstep.verifiers.model_files import ADAPTER_CONFIG

logger = logging.getLogger(__name__)

ADAPTER_FILES = (ADAPTER_CONFIG, "adapter_model.safetensors")
# What belongs to an adapter as it does to whole weights: where completions end, and how prompts are written.
BESIDE = (GENERATION_CONFIG_NAME, PROMPT_FORMAT)


def check_adapter(policy: Path) -> None:
    """Refuses a folder without a policy's LoRA adapter."""
    if is_verifier(str(policy)):
        raise UserError(f"{policy} is a verifier, not a policy; what: prm writes it.")
    if not policy.is_dir():
        raise UserError(f"{policy}: no such folder. Give the folder that a run wrote.")
    missing = [name for name in ADAPTER_FILES if not (policy / name).is_file()]
    if missing:
        raise UserError(
            f"{policy} holds no LoRA adapter ({missing[0]} is missing). A full model loads as it is, without an "
            "export; with a model card, or in another dtype, what: merged writes it."
        )


def write_adapter(policy: Path, folder: Path, trust_remote_code: bool = False) -> None:
    """Writes a policy's adapter, which AutoPeftModelForCausalLM loads.

    Args:
        policy: a folder that `check_adapter` accepts.
        folder: made where it is missing.
        trust_remote_code: run a tokenizer's code from the hub.
    """
    tokenizer = load_policy_tokenizer(str(policy), trust_remote_code)
    folder.mkdir(parents=True, exist_ok=True)
    for name in ADAPTER_FILES + BESIDE:
        if (policy / name).is_file():
            shutil.copyfile(policy / name, folder / name)
    _name_base_in_full(folder / ADAPTER_CONFIG, policy)
    tokenizer.save_pretrained(folder)


def write_merged(policy: Path, folder: Path, dtype: str = "auto", trust_remote_code: bool = False) -> int:
    """Writes a policy as one plain model, which AutoModelForCausalLM loads.

    Args:
        policy: folder of a LoRA policy, or of whole weights.
        folder: made where it is missing.
        dtype: the weights' type; auto: that of the checkpoint.
        trust_remote_code: run model code from the hub.

    Returns:
        The number of parameters.

    Raises:
        UserError: it is a verifier, or it or its base cannot be loaded.
    """
    tokenizer = load_policy_tokenizer(str(policy), trust_remote_code)
    merged = load_policy(str(policy), dtype, trust_remote_code)
    merged.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if (policy / PROMPT_FORMAT).is_file():
        shutil.copyfile(policy / PROMPT_FORMAT, folder / PROMPT_FORMAT)
    return merged.num_parameters()


def _name_base_in_full(file: Path, policy: Path) -> None:
    """Makes an adapter's path to its base one that is the same from every folder; a hub id stays as it is."""
    settings = json.loads(file.read_text(encoding="utf-8"))
    base = settings["base_model_name_or_path"]
    if Path(base).is_dir():
        settings["base_model_name_or_path"] = in_full(base)
        file.write_text(json.dumps(settings, indent=2, sort_keys=True), encoding="utf-8")
        logger.warning(
            "the adapter of %s needs its base, the folder %s, wherever it is loaded; share the merged model with who "
            "does not have it",
            policy,
            settings["base_model_name_or_path"],
        )
