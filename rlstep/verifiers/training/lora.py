"""A verifier that is trained as a LoRA adapter: putting it on, and saving it merged or without its base."""

from dataclasses import dataclass
from pathlib import Path

from peft import LoraConfig, PeftModel, TaskType
from transformers import PretrainedConfig, PreTrainedModel
from transformers.integrations import is_deepspeed_zero3_enabled

from rlstep.runtime.constraints import changed
from rlstep.runtime.errors import UserError
from rlstep.verifiers.adapters import (
    Adapter,
    described,
    find_adapter,
    is_verifier,
    load_adapter,
    load_layers,
    unfreeze,
)
from rlstep.verifiers.heads import CLASS_HEADS, head_of, keep_own_type
from rlstep.verifiers.lora_targets import (
    ALL_LINEAR,
    as_targets,
    check_targets,
    put_fresh,
    refuse_another_shape,
    skeleton,
    touches_tied_embeddings,
)
from rlstep.verifiers.merging import load_config_of, remove_merged_base, write_merged_base
from rlstep.verifiers.pretrained import refuse_quantised, require_token_classifier
from rlstep.verifiers.spec import VerifierSpec
from rlstep.verifiers.training.arguments import VerifierArguments
from rlstep.verifiers.training.options import VerifierConfig
from rlstep.verifiers.training.start import new_verifier, verifier_config

OF_THE_ADAPTER = ("lora_r", "lora_alpha", "lora_target_modules")


@dataclass(frozen=True)
class VerifierStart:
    """Where a verifier's training starts.

    Attributes:
        path: folder or hub id of the generator, of an adapter, or of a verifier.
        described: the configuration of the whole weights there, or of an adapter's base.
        adapter: what is there, where that is an adapter to train further.
        to_merge: the adapter that `prepare` still has to merge into `path`.
    """

    path: str
    described: PretrainedConfig
    adapter: Adapter | None = None
    to_merge: Adapter | None = None

    def prepare(self, config: VerifierConfig, args: VerifierArguments) -> "VerifierStart":
        """The same start with nothing left to merge."""
        if self.to_merge is None:
            return self
        folder = write_merged_base(self.to_merge, args.output_dir, config.dtype, config.trust_remote_code)
        return VerifierStart(folder, self.described)

    def model(self, spec: VerifierSpec, config: VerifierConfig, args: VerifierArguments) -> PreTrainedModel | PeftModel:
        """The model to train, with its adapter where it gets one.

        Raises:
            UserError: it cannot be loaded, or its adapter does not fit.
        """
        options = (config.dtype, config.trust_remote_code)
        if self.adapter is None:
            model = new_verifier(self.path, spec, *options)
            return with_lora(model, spec, fresh_shape(config), args) if config.use_peft else model
        if is_verifier(self.path, config.trust_remote_code):
            described = verifier_config(self.path, spec, config.trust_remote_code)
            model = load_adapter(self.adapter, described, spec.head, *options)
            model.get_base_model().config.rlstep_verifier = spec.to_config()
            unfreeze(model)
            if args.activation_checkpointing:
                model.enable_input_require_grads()
            return model
        model = new_verifier(self.adapter.base, spec, *options, self.adapter.lora.revision)
        model = with_lora(model, spec, self.adapter.shape(), args)
        load_layers(model, self.adapter)
        return model

    def finish(self, config: VerifierConfig, args: VerifierArguments) -> None:
        """Removes merged weights that the verifier does not need."""
        if not config.use_peft or config.merge_adapter:
            remove_merged_base(args.output_dir)


def verifier_start(config: VerifierConfig, implicit: bool, output_dir: str) -> VerifierStart:
    """What the options name, checked as far as configurations tell, before weights or data are read.

    Args:
        config: the options.
        implicit: the verifier is a causal LM whose reference is the model at the start.
        output_dir: where the verifier will be.

    Raises:
        UserError: the options do not fit what is there.
    """
    path, trust = config.model_name_or_path, config.trust_remote_code
    adapter = find_adapter(path)
    _check_use(config, adapter, implicit)
    if not config.merge_adapter and Path(path).resolve() == Path(output_dir).resolve():
        raise UserError(
            f"output_dir is the base itself, {path}, which the adapter needs as it is; give another folder, or leave "
            "out merge_adapter."
        )
    # A verifier's adapter says itself what its base is; a policy's has no configuration.
    described = load_config_of(path, None if is_verifier(path, trust) else adapter, trust)
    refuse_quantised(path, described)
    if config.classifies:
        require_token_classifier(path, described)
    if adapter is not None and not config.merge_base:
        refuse_another_shape(adapter, {name: getattr(config, name) for name in changed(config, OF_THE_ADAPTER)})
        return VerifierStart(path, described, adapter)
    if config.use_peft:
        check_targets(fresh_shape(config), path, skeleton(described, trust_remote_code=trust))
    return VerifierStart(path, described, to_merge=adapter)


def _check_use(config: VerifierConfig, adapter: Adapter | None, implicit: bool) -> None:
    path = config.model_name_or_path
    if adapter is None:
        if config.merge_base:
            raise UserError(f"{path} holds whole weights and no adapter, so merge_base would do nothing; leave it out.")
    elif not config.merge_base and implicit:
        raise UserError(
            f"{path} is a LoRA adapter, and an implicit PRM's reference is one whole model, that of the start: set "
            "merge_base: true, which merges the adapter into its base first."
        )
    elif not config.merge_base and not config.use_peft:
        raise UserError(
            f"{path} is a LoRA adapter. Set use_peft: true to train it further, or merge_base: true to merge it into "
            "its base first."
        )


def fresh_shape(config: VerifierConfig) -> LoraConfig:
    """A fresh adapter's settings as the options say."""
    targets = as_targets(config.lora_target_modules) or ALL_LINEAR
    return LoraConfig(r=config.lora_r or 16, lora_alpha=config.lora_alpha or 32, target_modules=targets)


def with_lora(model: PreTrainedModel, spec: VerifierSpec, lora: LoraConfig, args: VerifierArguments) -> PeftModel:
    """The model with a fresh adapter; a class head is trained whole beside it.

    Args:
        model: a verifier.
        spec: what its outputs mean.
        lora: the adapter's size and layers.
        args: the Trainer's arguments.

    Raises:
        UserError: a token head's adapter would be on tied embeddings, or PEFT refuses it for this model.
    """
    own_type = not is_deepspeed_zero3_enabled()  # which takes one type for all
    new_head = spec.head == "classification"
    if not new_head and touches_tied_embeddings(lora, model):
        raise UserError(
            f"{model.config._name_or_path}: input and output embeddings are one matrix, so once merged, an adapter on "
            "the input would change the label tokens' logits too; leave it out of lora_target_modules, or take head: "
            "classification."
        )
    # PEFT trains a token classifier's head whole and saves it; a language model's label tokens are there already.
    lora.task_type = TaskType.TOKEN_CLS if new_head else TaskType.CAUSAL_LM
    lora.exclude_modules = list(CLASS_HEADS) if new_head else None
    if args.activation_checkpointing:
        model.enable_input_require_grads()
    wrapped = put_fresh(model, lora, model.config._name_or_path, autocast_adapter_dtype=own_type)
    if new_head:
        # Small updates of a weight in bfloat16 are rounded away: a new head is trained in float32 on any backbone.
        for head in head_of(wrapped).modules_to_save.values():
            keep_own_type(head.float() if own_type else head)
    return wrapped


def describe_checkpoint(model: PeftModel, checkpoint: Path, writes: bool) -> None:
    """Makes the adapter of a run's checkpoint a verifier, which can be scored as whole checkpoints can.

    It is one of `WholeCheckpoints.checkpoint_writers`.
    """
    config = described(model)  # all processes, for what ZeRO-3 shards
    if writes:
        config.save_pretrained(checkpoint)
