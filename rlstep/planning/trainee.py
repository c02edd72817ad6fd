"""The model that a recipe trains: whole, or as an adapter on frozen weights."""

from collections.abc import Mapping
from dataclasses import dataclass

from rlstep.core.memory import FLOAT, Adapter, Precision, States, Zero, cast_weights, states_of
from rlstep.planning.models import Model, Models, lora_of
from rlstep.planning.passes import CPU_TILES, TILES, Trunk
from rlstep.planning.settings import checkpointing_of, dtype_of, optimizer_states, precision_of, zero_of
from rlstep.runtime.errors import UserError
from rlstep.verifiers.pretrained import refuse_quantised


@dataclass(frozen=True)
class Trainee:
    """A model under training.

    Attributes:
        model: its whole weights.
        precision: of them.
        dtype: the type they are loaded in, by its name.
        zero: DeepSpeed's settings.
        adapter: LoRA on them; None where all of them are trained.
        adapter_parameters: of it.
        trunk: its layers in a pass with gradients.
        parameters: of the whole weights, a class head in place of the language model's if it has one.
        states_each: numbers that the optimizer keeps for a trained one.
        tiles: of logits that the fused head holds at once.
    """

    model: Model
    precision: Precision
    dtype: str
    zero: Zero
    adapter: Adapter | None
    adapter_parameters: int
    trunk: Trunk
    parameters: int
    states_each: float
    tiles: float

    @property
    def continued(self) -> bool:
        """Whether the adapter was there before."""
        return self.adapter is not None and self.model.lora is not None

    @property
    def trained(self) -> int:
        return self.adapter_parameters if self.adapter else self.parameters

    @property
    def trained_bytes(self) -> int:
        return self.adapter.weights if self.adapter else self.precision.weights

    def states(self, gpus: int, extra_trained: int = 0, extra_frozen: int = 0) -> States:
        """What stays on one GPU.

        Args:
            gpus: number of ranks.
            extra_trained: parameters that are trained beside it, with an adapter's number of bytes.
            extra_frozen: parameters of frozen models beside it that are sharded as it is.
        """
        frozen = (self.parameters if self.adapter else 0) + extra_frozen
        number = self.precision.weights
        own = states_of(frozen, self.trained, number, self.trained_bytes, self.states_each, self.zero, gpus)
        if not extra_trained:
            return own
        beside = states_of(0, extra_trained, number, self.adapter_number, self.states_each, self.zero, gpus)
        return States(own.weights + beside.weights, own.gradients + beside.gradients, own.optimizer + beside.optimizer)

    @property
    def adapter_number(self) -> int:
        """Bytes of a weight of an adapter or a new head: float32, but DeepSpeed casts them as all others."""
        return 2 if self.zero.engine and self.precision.compute == 2 else FLOAT

    def casts(self) -> int:
        """Bytes of the copies of weights that mixed precision keeps in a pass."""
        if self.trunk.checkpointing:
            return 0  # each layer's are freed with it
        matrices = self.trunk.shape.layers * self.trunk.shape.layer_matrices
        return cast_weights(matrices, self.adapter_parameters, self.precision, self.adapter_number)


def trainee_of(stage: str, values: Mapping, models: Models, class_head: int | None = None) -> Trainee:
    """The model that a recipe's settings train.

    Args:
        stage: sft, prm, orm or ppo.
        values: the recipe's settings.
        models: to find it.
        class_head: outputs of a token classifier's head; None for a language model.

    Raises:
        UserError: its configuration cannot be read, or its weights are or would be quantised.
    """
    model = models.find(values["model_name_or_path"], bool(values.get("trust_remote_code")))
    refuse_quantised(model.path, model.config)
    if quantised := [name for name in ("load_in_4bit", "load_in_8bit") if values.get(name)]:
        raise UserError(
            f"{quantised[0]} is set, and quantised weights are not trained; set dtype: bfloat16 and use_peft."
        )
    zero = zero_of(values.get("deepspeed"))
    config_dtype = str(model.config.dtype).removeprefix("torch.") if model.config.dtype else None
    precision = precision_of(stage, values, config_dtype, zero)
    parameters, shape = model.parameters, model.shape
    if class_head is not None:
        parameters -= model.vocabulary_head  # a token classifier has none
    further = model.lora if values.get("use_peft") and not values.get("merge_base") else None
    lora, adapter, adapter_parameters = further or lora_of(stage, values), None, 0
    if lora is not None:
        number = 2 if zero.engine and precision.compute == 2 else FLOAT
        dropout = lora.lora_dropout > 0 and not values.get("disable_dropout", stage in ("prm", "orm"))
        adapter, adapter_parameters = model.adapter(lora, number, dropout)
    attention = values.get("attn_implementation") or "sdpa"
    trunk = Trunk(shape, precision, adapter, attention, checkpointing_of(values))
    states_each = optimizer_states(str(getattr(values["optim"], "value", values["optim"])))
    tiles = CPU_TILES if values.get("use_cpu") else TILES
    dtype = dtype_of(values.get("dtype"), config_dtype)
    return Trainee(model, precision, dtype, zero, adapter, adapter_parameters, trunk, parameters, states_each, tiles)
