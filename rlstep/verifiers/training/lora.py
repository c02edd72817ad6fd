"""A verifier that is trained as a LoRA adapter: putting it on, and saving it merged or without its base."""

from pathlib import Path

from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from transformers import PreTrainedModel, TrainerCallback
from transformers.integrations import is_deepspeed_zero3_enabled

from rlstep.runtime.errors import UserError
from rlstep.verifiers.adapters import describe_adapter, find_adapter
from rlstep.verifiers.heads import CLASS_HEADS, head_of, keep_own_type
from rlstep.verifiers.spec import VerifierSpec
from rlstep.verifiers.training.arguments import VerifierArguments
from rlstep.verifiers.training.options import VerifierConfig


def with_lora(model: PreTrainedModel, spec: VerifierSpec, config: VerifierConfig, args: VerifierArguments) -> PeftModel:
    """The model with a fresh adapter; a class head is trained whole beside it.

    Raises:
        UserError: the weights are sharded by ZeRO-3.
    """
    if is_deepspeed_zero3_enabled():
        raise UserError("use_peft under ZeRO-3 is not supported for verifiers: take ZeRO-2, or train all weights.")
    new_head = spec.head == "classification"
    lora = LoraConfig(
        # PEFT trains a token classifier's head whole and saves it; a language model's label tokens are there already.
        task_type=TaskType.TOKEN_CLS if new_head else TaskType.CAUSAL_LM,
        exclude_modules=list(CLASS_HEADS) if new_head else None,
        r=config.lora_r or 16,
        lora_alpha=config.lora_alpha or 32,
        target_modules=config.lora_target_modules or "all-linear",
    )
    if args.activation_checkpointing:
        model.enable_input_require_grads()
    wrapped = get_peft_model(model, lora)
    if new_head:
        # Small updates of a weight in bfloat16 are rounded away: a new head is trained in float32 on any backbone.
        for head in head_of(wrapped).modules_to_save.values():
            keep_own_type(head.float())
    return wrapped


def check_base(base: str, output_dir: str) -> None:
    """Refuses bases that an adapter saved alone could not be read on.

    Raises:
        UserError: the base is itself an adapter, or would be overwritten.
    """
    if find_adapter(base):
        raise UserError(
            f"{base} is itself an adapter, which cannot be the base of another. Start from its base, or leave out "
            "merge_adapter."
        )
    if Path(base).resolve() == Path(output_dir).resolve():
        raise UserError(
            f"output_dir is the base itself, {base}, which the adapter needs as it is; give another folder, or leave "
            "out merge_adapter."
        )


class DescribeCheckpoints(TrainerCallback):
    """Makes the adapters of a run's checkpoints verifiers, which can be scored as whole checkpoints can."""

    def on_save(self, args, state, control, model=None, **_):
        if state.is_world_process_zero:
            describe_adapter(model, Path(args.output_dir) / f"checkpoint-{state.global_step}")
