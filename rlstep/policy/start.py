"""What a policy's training starts from: whole weights, or an adapter that is trained further or merged first."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from accelerate import PartialState
from peft import LoraConfig
from transformers import PreTrainedModel
from trl import GRPOConfig, ModelConfig, SFTConfig, get_peft_config

from rlstep.policy.models import load_base, model_init_kwargs
from rlstep.runtime.constraints import changed
from rlstep.runtime.errors import UserError
from rlstep.verifiers.adapters import Adapter, find_adapter
from rlstep.verifiers.lora_targets import (
    as_targets,
    check_targets,
    refuse_adapted_head,
    refuse_another_shape,
    skeleton,
    touches_tied_embeddings,
)
from rlstep.verifiers.merging import load_config_of, put_adapter, refuse_verifier, remove_merged_base, write_merged_base
from rlstep.verifiers.model_files import check_files
from rlstep.verifiers.pretrained import load_config, refuse_quantised

# The adapter, and the folder, in which TRL keeps a copy of an adapter as it was given.
TRLS_REFERENCE = "ref"
OF_THE_ADAPTER = (
    "lora_r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "lora_target_modules", "lora_modules_to_save",
    "lora_target_parameters",
)  # fmt: skip


@dataclass(frozen=True)
class PolicyStart:
    """Where a policy's training starts.

    Attributes:
        path: folder or hub id of whole weights: the model's, or an adapter's base.
        revision: of a hub id.
        adapter: trained further on those weights.
        lora: the shape of a fresh adapter on them; at most one of the two is there.
        to_merge: the adapter that `prepare` still has to merge into `path`.
    """

    path: str
    revision: str
    adapter: Adapter | None = None
    lora: LoraConfig | None = None
    to_merge: Adapter | None = None

    def prepare(self, model: ModelConfig, args: GRPOConfig | SFTConfig) -> "PolicyStart":
        """The same start with nothing left to merge, and `args` ready for TRL to load the weights by itself."""
        start, trust = self, args.trust_remote_code
        if self.to_merge is not None:
            folder = write_merged_base(self.to_merge, args.output_dir, model.dtype or "auto", trust)
            start = replace(self, path=folder, revision="main", to_merge=None)
        args.model_init_kwargs = model_init_kwargs(model, args) | {"revision": start.revision}
        if hasattr(load_config(start.path, trust), "output_router_logits"):
            # TRL asks for them itself where it trains with them; generation cannot have them.
            args.model_init_kwargs["output_router_logits"] = False
        return start

    def model(self, args: GRPOConfig | SFTConfig) -> str | PreTrainedModel:
        """What TRL's trainers take as their model: a path, or a model with the adapter that is trained further."""
        if self.adapter is None:
            return self.path
        return put_adapter(load_base(self.path, args), self.adapter, trainable=True)

    def finish(self, args: GRPOConfig | SFTConfig) -> None:
        """Removes what was needed for training alone: merged weights without an adapter on them, TRL's reference."""
        if self.lora is None:
            remove_merged_base(args.output_dir)
        if self.adapter is not None and PartialState().is_main_process:
            shutil.rmtree(Path(args.output_dir) / TRLS_REFERENCE, ignore_errors=True)


def policy_start(model: ModelConfig, merge_base: bool, trust_remote_code: bool = False) -> PolicyStart:
    """What the options name, checked as far as configurations tell, before weights or data are read.

    Args:
        model: the options; a folder or hub id of whole weights or of a LoRA adapter.
        merge_base: an adapter is merged into its base first.
        trust_remote_code: run model code from the hub.

    Raises:
        UserError: there is no policy, or the options do not fit what is there.
    """
    path = model.model_name_or_path
    if path is None:
        raise UserError("model_name_or_path is missing: a hub id or a folder with a causal LM or a LoRA adapter.")
    refuse_verifier(path, trust_remote_code)
    adapter, lora = find_adapter(path), lora_config(model)
    _check_use(path, adapter, model, merge_base)
    start = PolicyStart(path, model.model_revision, lora=lora)
    if adapter is not None:
        start = replace(start, path=adapter.base, revision=adapter.lora.revision or "main")
        start = replace(start, to_merge=adapter) if merge_base else replace(start, adapter=adapter, lora=None)
    config = load_config_of(path, adapter, trust_remote_code)
    check_files(start.path)
    refuse_quantised(start.path, config)
    if start.lora is not None:
        check_targets(start.lora, path, skeleton(config, trust_remote_code=trust_remote_code))
    if start.adapter is not None:
        refuse_adapted_head(adapter, skeleton(config, trust_remote_code=trust_remote_code))
        refuse_another_shape(adapter, {name: getattr(model, name) for name in changed(model, OF_THE_ADAPTER)})
    return start


def lora_config(model: ModelConfig) -> LoraConfig | None:
    """The shape of a fresh adapter as the options say; None without use_peft."""
    config = get_peft_config(model)
    if config is not None:
        targets = as_targets(model.lora_target_modules)
        config.target_modules = set(targets) if isinstance(targets, list) else targets
        # The base's own revision, without which the adapter would be read on whatever is newest.
        config.revision = None if model.model_revision == "main" else model.model_revision
    return config


def check_tied(start: PolicyStart, trust_remote_code: bool = False) -> None:
    """Refuses adapters on tied embeddings where vLLM samples: it keeps one matrix for both.

    Raises:
        UserError: the adapter is on one of two tied embeddings.
    """
    lora = start.lora or (start.adapter and start.adapter.lora)
    if lora is None:
        return
    model = skeleton(load_config(start.path, trust_remote_code), trust_remote_code=trust_remote_code)
    if touches_tied_embeddings(lora, model):
        raise UserError(
            f"{start.path}: input and output embeddings are one matrix, and the adapter changes one of them alone, "
            "which vLLM cannot follow. Leave embeddings out of the adapter, or sample without use_vllm."
        )


def check_head(start: PolicyStart, args: GRPOConfig) -> None:
    """Refuses settings of the policy's head and router that TRL cannot follow for this model.

    Raises:
        UserError: router_aux_loss_coef without a router, or cast_lm_head_to_fp32 where TRL does not find the parts.
    """
    config = load_config(start.path, args.trust_remote_code)
    text_config = config.get_text_config()
    if args.router_aux_loss_coef and not hasattr(text_config, "output_router_logits"):
        raise UserError(
            f"router_aux_loss_coef is {args.router_aux_loss_coef}, and {start.path} is no mixture of experts with a "
            "router; leave it out."
        )
    if not args.cast_lm_head_to_fp32:
        return
    model, trains_adapter = skeleton(config, trust_remote_code=args.trust_remote_code), start.lora or start.adapter
    if not hasattr(model, "lm_head") or (
        text_config.tie_word_embeddings
        and (trains_adapter or not hasattr(getattr(model, "model", None), "embed_tokens"))
    ):
        raise UserError(
            f"cast_lm_head_to_fp32 works where lm_head is not tied to the embeddings, or whole weights are trained; "
            f"{start.path} is neither. Leave it out: log-probabilities are computed in float32 from the head's logits."
        )


def _check_use(path: str, adapter: Adapter | None, model: ModelConfig, merge_base: bool) -> None:
    """Refuses options that do not fit what is at the path."""
    if adapter is None:
        if merge_base:
            raise UserError(f"{path} holds whole weights and no adapter, so merge_base would do nothing; leave it out.")
        return
    if model.model_revision != "main":
        raise UserError(
            f"{path} is a LoRA adapter, whose own files name its base's revision; leave out model_revision."
        )
    if merge_base:
        return
    if not model.use_peft:
        raise UserError(
            f"{path} is a LoRA adapter. Set use_peft: true to train it further, or merge_base: true to merge it into "
            "its base first and train the whole."
        )
