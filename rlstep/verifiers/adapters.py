"""Verifiers saved without their base: a LoRA adapter and, where it classifies, a head.

The folder holds PEFT's two files, the tokenizer, and a `config.json` that is the base's configuration with what the
verifier's outputs mean (`VerifierSpec`). Its `rlstep_verifier.base_weights` are a few of the base's weights: an adapter
on a base that was trained again since gives scores that look like scores.

The base is where `adapter_config.json` says: a folder, by its whole path where rlstep wrote it (elsewhere a relative
path counts from the working directory), or a hub id with the commit that it had in training.
"""

import copy
import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.utils import cached_file, find_adapter_config_file

from rlstep.runtime.errors import UserError
from rlstep.verifiers.heads import CLASS_HEADS, head_of, keep_own_type
from rlstep.verifiers.model_files import ADAPTER_CONFIG, check_files
from rlstep.verifiers.pretrained import auto_class_of, load_weights
from rlstep.verifiers.sharded import whole, whole_shape
from rlstep.verifiers.spec import Head, config_entry

ADAPTER_WEIGHTS = "adapter_model.safetensors"
PEFT_PREFIX = "base_model.model."  # of the names in PEFT's files
SAMPLED_MATRICES = 32


@dataclass(frozen=True)
class Adapter:
    """An adapter's files.

    Attributes:
        path: folder or hub id, as it was given.
        folder: where the files are.
        lora: what `adapter_config.json` says.
    """

    path: str
    folder: Path
    lora: LoraConfig

    @property
    def base(self) -> str:
        """Folder or hub id of what it was trained on."""
        return self.lora.base_model_name_or_path

    def shape(self, **changes) -> LoraConfig:
        """The settings of a fresh adapter on the same layers, with some of them changed."""
        shape = copy.deepcopy(self.lora)
        shape.inference_mode = False
        for name, value in changes.items():
            setattr(shape, name, value)
        return shape

    def weights(self) -> dict[str, torch.Tensor]:
        """The adapter's and the head's tensors, by their names in the model without an adapter's name.

        Raises:
            UserError: they are a pickle or missing, or some would change the base's own.
        """
        file = self.folder / ADAPTER_WEIGHTS
        if not file.is_file():
            raise UserError(f"{self.path} has no {ADAPTER_WEIGHTS}; rlstep opens weights in no other format.")
        weights = {name.removeprefix(PEFT_PREFIX): tensor for name, tensor in load_file(file).items()}
        for name in weights:
            if "lora_" not in name and name.split(".")[0] not in CLASS_HEADS:
                raise UserError(
                    f"{self.path} holds '{name}', which is neither LoRA nor a class head: it would change the base for "
                    "all that share it. Merge this adapter into a checkpoint of its own."
                )
        return weights


def find_adapter(path: str) -> Adapter | None:
    """The adapter at a folder or hub id; None where there is none.

    Raises:
        UserError: it is no LoRA adapter, is damaged, does not say what its base is, or is on another adapter.
    """
    try:
        file = find_adapter_config_file(path)
    except (OSError, ValueError):
        return None  # nothing is there, which loading it will say
    if file is None:
        return None
    if not Path(path).is_dir():
        cached_file(path, ADAPTER_WEIGHTS, _raise_exceptions_for_missing_entries=False)  # fetched beside it
    folder = Path(file).parent
    check_files(str(folder))
    try:
        kind = json.loads(Path(file).read_text(encoding="utf-8")).get("peft_type")
        lora = LoraConfig.from_pretrained(str(folder)) if kind == "LORA" else None
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{file} is damaged ({error}). Copy it from the run that wrote it.") from None
    if lora is None:
        raise UserError(f"{path} is an adapter of the kind {kind}; rlstep reads LoRA adapters.")
    if not (base := lora.base_model_name_or_path):
        raise UserError(f"{path}: its {ADAPTER_CONFIG} names no base_model_name_or_path; write it there.")
    if (Path(base) / ADAPTER_CONFIG).is_file():
        raise UserError(
            f"{path} is an adapter on another adapter, {base}, and rlstep puts one on whole weights. Merge that one "
            f"(`rlstep export --policy {base} --what merged --out FOLDER`), and name FOLDER as base_model_name_or_path "
            f"in {ADAPTER_CONFIG}."
        )
    return Adapter(path, folder, lora)


def is_verifier(path: str, trust_remote_code: bool = False) -> bool:
    """Whether a folder or hub id holds a PRM or an ORM of rlstep's, whole or as an adapter."""
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
    except (OSError, ValueError):
        return False  # a policy's adapter has no configuration of its own
    return config_entry(config).get("kind") in ("prm", "orm")


def save_adapter(
    model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, folder: str | Path, writes: bool = True
) -> None:
    """Writes a verifier without its base.

    Args:
        model: a verifier with an adapter, wrapped by PEFT or not, with `rlstep_verifier` in its configuration.
        tokenizer: the verifier's.
        folder: made where it is missing.
        writes: whether this process writes; where ZeRO-3 shards the model, all of them have to call this.
    """
    model = _inner(model)
    config = described(model)
    with whole(own_parameters(model).values()):
        weights = get_peft_model_state_dict(model, save_embedding_layers=False)
        # Copies: what is gathered is taken back at the end.
        weights = {PEFT_PREFIX + name: tensor.detach().cpu().clone().contiguous() for name, tensor in weights.items()}
    if not writes:
        return
    Path(folder).mkdir(parents=True, exist_ok=True)
    name_bases_in_full(model)
    (lora,) = (copy.deepcopy(config) for config in model.peft_config.values())
    lora.inference_mode = True
    if isinstance(lora.target_modules, set):
        lora.target_modules = sorted(lora.target_modules)  # the same file from the same run
    lora.revision = lora.revision or _commit(lora.base_model_name_or_path)
    save_file(weights, Path(folder) / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    lora.save_pretrained(str(folder))
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def described(model: PreTrainedModel | PeftModel) -> PretrainedConfig:
    """The configuration by which an adapter's folder is a verifier; all ranks call it where ZeRO-3 shards the model."""
    model = _inner(model)
    config = copy.deepcopy(model.config)
    config.architectures, config.dtype = [type(model).__name__], model.dtype
    config.rlstep_verifier = config.rlstep_verifier | {"base_weights": weight_sample(model.base_model)}
    return config


def _inner(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    return model.get_base_model() if isinstance(model, PeftModel) else model


def load_adapter(
    adapter: Adapter, config: PretrainedConfig, head: Head, dtype: str = "auto", trust_remote_code: bool = False
) -> PeftModel:
    """A verifier with its adapter on a base of its own.

    Args:
        adapter: of `find_adapter`.
        config: of `load_config`.
        head: where the labels come from.
        dtype: the base's type; that of training by default. Adapter and class head are in float32.
        trust_remote_code: run model code from the hub.

    Raises:
        UserError: the base is not there, or is no longer what the adapter was trained on, or the adapter is damaged.
    """
    with torch.random.fork_rng([]):  # weights that will be replaced are drawn first
        try:
            options = {"fresh_head": True, "revision": adapter.lora.revision}
            model = load_weights(auto_class_of(head), adapter.base, config, dtype, trust_remote_code, **options)
        except UserError as error:
            raise UserError(
                f"{adapter.path}: the base of this adapter cannot be loaded. {error} If it was moved, correct "
                f"base_model_name_or_path in {ADAPTER_CONFIG}; a relative path counts from the working directory."
            ) from error
        if fault := trained_since(config, model.base_model):
            raise UserError(f"{adapter.path}: its base, {adapter.base}, {fault}. Train the verifier on it again.")
        return attach_adapter(model, adapter, head)


def attach_adapter(model: PreTrainedModel, adapter: Adapter, head: Head) -> PeftModel:
    """Puts an adapter's layers into a model, in place, and the head's weights into its head; all of it is frozen.

    Raises:
        UserError: the files do not fit the model.
    """
    own_type = not is_deepspeed_zero3_enabled()  # which takes one type for all
    if head == "classification":
        keep_own_type(head_of(model).float() if own_type else head_of(model))
    weights = adapter.weights()
    lora = copy.deepcopy(adapter.lora)
    lora.inference_mode = True
    try:
        wrapper = PeftModel(model, lora, autocast_adapter_dtype=own_type)
        set_peft_model_state_dict(wrapper, {PEFT_PREFIX + name: tensor for name, tensor in weights.items()})
    except (RuntimeError, ValueError, KeyError) as error:
        raise UserError(f"{adapter.path} does not fit its base: {str(error).strip().splitlines()[-1]}") from error
    if differing := set(get_peft_model_state_dict(model, save_embedding_layers=False)) ^ set(weights):
        raise UserError(f"{adapter.path} is incomplete or of another model: {min(differing)} has no counterpart.")
    return wrapper.requires_grad_(False).eval()


def load_layers(model: PeftModel, adapter: Adapter) -> None:
    """Copies the layers of a policy's adapter into a verifier's fresh one of the same shape; its head stays as it is.

    Raises:
        UserError: the adapter holds more than layers, or those of another model.
    """
    layers = {PEFT_PREFIX + name: tensor for name, tensor in adapter.weights().items()}
    own = get_peft_model_state_dict(model, save_embedding_layers=False)
    if differing := {name for name in own if "lora_" in name} ^ set(layers):
        raise UserError(f"{adapter.path} is incomplete or of another model: {min(differing)} has no counterpart.")
    set_peft_model_state_dict(model, own | layers)


# --- What a model has of its own, beside the base


def own_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that a verifier does not share with its base: the adapter's and a class head's."""
    return {name: p for name, p in model.named_parameters() if "lora_" in name or ".modules_to_save." in name}


def unfreeze(model: nn.Module) -> dict[str, nn.Parameter]:
    """Lets `own_parameters` be trained, and returns them; the base stays frozen."""
    own = own_parameters(model)
    for parameter in own.values():
        parameter.requires_grad_(True)
    return own


# --- What the base is


def in_full(base: str) -> str:
    """A base's name that means the same in every working directory: a folder's whole path; a hub id as it is."""
    return str(Path(base).resolve()) if base and Path(base).is_dir() else base


def name_bases_in_full(model: nn.Module) -> None:
    """Makes a model's adapters, however they are saved, name their bases so that they load from anywhere."""
    for adapter in getattr(model, "peft_config", {}).values():
        adapter.base_model_name_or_path = in_full(adapter.base_model_name_or_path)


def resolve_folder(path: str, revision: str | None = None) -> Path | None:
    """Where a model's files are: its folder, or that of a hub id's commit in the cache; None where there is none."""
    if Path(path).is_dir():
        return Path(path).resolve()
    try:
        return Path(cached_file(path, "config.json", revision=revision)).parent.resolve()
    except (OSError, ValueError):
        return None


def _commit(path: str) -> str | None:
    """The commit that a hub id stands for now; None of a folder."""
    folder = None if Path(path).is_dir() else resolve_folder(path)
    return folder.name if folder is not None and folder.parent.name == "snapshots" else None


def weight_sample(backbone: nn.Module) -> list[float]:
    """The middle weight of each of up to `SAMPLED_MATRICES` matrices, spread over the backbone; adapters left out."""
    matrices = [p for name, p in backbone.named_parameters() if "lora_" not in name and len(whole_shape(p)) > 1]
    count = min(SAMPLED_MATRICES, len(matrices))
    chosen = (matrices[index * len(matrices) // count] for index in range(count))
    return [_middle(matrix) for matrix in chosen]


def _middle(matrix: nn.Parameter) -> float:
    with whole([matrix]):
        return matrix.detach().reshape(-1)[matrix.numel() // 2].item()


def trained_since(config: PretrainedConfig, backbone: PreTrainedModel) -> str | None:
    """What is wrong with a base whose weights are not those of the sample in a verifier's configuration.

    They are compared to the precision of the coarser of two types, the base's in training and its type now.
    """
    sample, now = config.rlstep_verifier.get("base_weights"), weight_sample(backbone)
    if sample is None:
        return None
    precision = max(torch.finfo(kind).eps for kind in (config.dtype, backbone.dtype))
    if len(sample) == len(now) and all(
        math.isclose(one, other, rel_tol=precision, abs_tol=1e-7) for one, other in zip(sample, now, strict=True)
    ):
        return None
    return "has other weights than when the verifier was trained on it"
