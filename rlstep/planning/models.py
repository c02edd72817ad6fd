"""The models that a recipe names: their sizes and numbers of parameters, from configurations without any weights."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.utils import CONFIG_NAME

from rlstep.core.memory import Adapter, Shape
from rlstep.planning.quantised import quantised_bits
from rlstep.runtime.errors import UserError
from rlstep.verifiers.adapters import find_adapter
from rlstep.verifiers.lora_targets import ALL_LINEAR, adapted_skeleton, as_targets, skeleton
from rlstep.verifiers.merging import load_config_of
from rlstep.verifiers.model_files import ADAPTER_CONFIG
from rlstep.verifiers.spec import IMPLICIT, config_entry

# Matrices of a layer that read the same tensor, by the last part of their names.
_SAME_INPUT = {
    "q_proj": "attention",
    "k_proj": "attention",
    "v_proj": "attention",
    "gate_proj": "mlp",
    "up_proj": "mlp",
}
# What TRL's fused head, and so every policy that can be trained here, may do to the logits of the output embedding.
SCALES = ("logit_scale", "output_multiplier", "lm_head_multiplier", "logits_scaling")
CAP = "final_logit_softcapping"
# Matrices whose input the attention keeps anyway.
_KEPT_ANYWAY = ("o_proj", "out_proj", "dense")


@dataclass(frozen=True)
class Source:
    """Where a folder comes from that a recipe of the plan will write.

    Attributes:
        start: folder or hub id that its training starts from.
        lora: the adapter that is put on it and kept apart; None where the folder will hold whole weights.
        implicit: whether it will hold an implicit PRM, which is the trained model and its reference.
    """

    start: str
    lora: LoraConfig | None = None
    implicit: bool = False


@dataclass(frozen=True)
class Model:
    """A model, as far as its configuration tells.

    Attributes:
        path: folder or hub id of the whole weights.
        config: transformers'.
        lora: the adapter that the recipe's folder holds beside them; None where it holds whole weights.
        implicit: whether the folder holds an implicit PRM, which is such weights twice.
    """

    path: str
    config: PretrainedConfig
    lora: LoraConfig | None = None
    implicit: bool = False
    trust_remote_code: bool = False
    _adapters: dict = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def skeleton(self) -> PreTrainedModel:
        return skeleton(self.config, AutoModelForCausalLM, self.trust_remote_code)

    @cached_property
    def parameters(self) -> int:
        """Tied embeddings count once."""
        return sum(p.numel() for p in self.skeleton.parameters())

    @cached_property
    def vocabulary_head(self) -> int:
        """Parameters that are the language model's head's alone: none of a matrix tied to the input embeddings."""
        head, embeddings = self.skeleton.get_output_embeddings(), self.skeleton.get_input_embeddings()
        return sum(p.numel() for p in head.parameters() if p is not embeddings.weight)

    @property
    def plain_head(self) -> bool:
        """Whether logits are what the output embedding gives, neither scaled nor capped."""
        config = self.config.get_text_config()
        scales = (getattr(config, name, None) for name in SCALES)
        return getattr(config, CAP, None) is None and all(scale in (None, 1) for scale in scales)

    def weight_bytes(self, number: int) -> float:
        """Bytes of the whole weights in memory.

        Args:
            number: bytes of a weight that is not quantised.

        Raises:
            UserError: they are quantised by a method that is not known.
        """
        if (bits := quantised_bits(self.path, self.config)) is None:
            return self.parameters * number
        # The embeddings at both ends stay as they are, and with them norms and biases.
        head = self.skeleton.get_output_embeddings()
        layers = (module for module in self.skeleton.modules() if isinstance(module, nn.Linear) and module is not head)
        matrices = sum(module.weight.numel() for module in layers)
        return matrices * bits / 8 + (self.parameters - matrices) * number

    @cached_property
    def shape(self) -> Shape:
        return shape_of(self.config, {name.rpartition(".")[2] for name, _ in self.skeleton.named_modules()})

    def adapter(self, lora: LoraConfig, number: int, dropout: bool = False) -> tuple[Adapter, int]:
        """What a LoRA adapter of this shape is on the model, and its number of parameters.

        Args:
            lora: the adapter's settings.
            number: bytes of one of its weights.
            dropout: whether its inputs go through dropout.

        Raises:
            UserError: the model has no such layers, or they cannot have this adapter.
        """
        key = (str(lora.to_dict()), number, dropout)
        if key not in self._adapters:
            self._adapters[key] = self._adapter(lora, number, dropout)
        return self._adapters[key]

    def _adapter(self, lora: LoraConfig, number: int, dropout: bool) -> tuple[Adapter, int]:
        wrapped = adapted_skeleton(lora, self.path, self.skeleton)
        adapted = {name: one for name, one in wrapped.named_modules() if isinstance(one, BaseTunerLayer)}
        parameters = sum(p.numel() for p in wrapped.parameters() if p.requires_grad)
        layers = max(self.shape.layers, 1)
        inputs, distinct = [], {}
        for name, module in adapted.items():
            # One of a layer's modules stands for those of all layers.
            if ".0." not in name and layers > 1:
                continue
            last = name.rpartition(".")[2]
            inputs.append(module.in_features)
            if last not in _KEPT_ANYWAY:
                distinct[_SAME_INPUT.get(last, last)] = module.in_features
        return Adapter(lora.r, tuple(inputs), sum(distinct.values()), number, dropout), parameters


def shape_of(config: PretrainedConfig, modules: set[str]) -> Shape:
    """A model's sizes.

    Args:
        config: transformers' configuration.
        modules: the last parts of its modules' names, which tell whether its MLP has a gate.

    Raises:
        UserError: the configuration lacks a size that every decoder has.
    """
    text = config.get_text_config()
    try:
        hidden, heads, layers = text.hidden_size, text.num_attention_heads, text.num_hidden_layers
    except AttributeError as error:
        raise UserError(f"{config._name_or_path or 'the model'}: its configuration has no {error.name}.") from None
    inner = getattr(text, "intermediate_size", None) or getattr(text, "n_inner", None) or 4 * hidden
    if isinstance(inner, list):  # Gemma 3n: one per layer
        inner = round(sum(inner) / len(inner))
    experts = getattr(text, "num_experts_per_tok", None)
    if experts:
        inner = (getattr(text, "moe_intermediate_size", None) or inner) * experts
    return Shape(
        layers=layers,
        hidden=hidden,
        inner=inner,
        heads=heads,
        kv_heads=getattr(text, "num_key_value_heads", None) or heads,
        head_size=getattr(text, "head_dim", None) or hidden // heads,
        vocabulary=text.vocab_size,
        gated=bool({"gate_proj", "gate_up_proj", "experts", "block_sparse_moe"} & modules),
        qk_norm="q_norm" in modules,
    )


def lora_of(stage: str, values: Mapping) -> LoraConfig | None:
    """The adapter that a recipe's settings ask for; None without `use_peft`."""
    if not values.get("use_peft"):
        return None
    targets = as_targets(values.get("lora_target_modules"))
    if targets is None and stage in ("prm", "orm"):
        targets = ALL_LINEAR  # a policy's default is PEFT's own
    return LoraConfig(
        r=values.get("lora_r") or 16,
        lora_dropout=values.get("lora_dropout") or 0.0,
        target_modules=targets,
        target_parameters=values.get("lora_target_parameters"),
        modules_to_save=values.get("lora_modules_to_save"),
        use_dora=bool(values.get("use_dora")),
        task_type="CAUSAL_LM",
    )


class Models:
    """Finds the configurations of the models that recipes name, also of those that are still to be trained.

    Args:
        sources: the folders that the recipes will write, by their paths.
        stand_in: folder or hub id used for a model that neither is there nor comes from one of the recipes; None: such
            a model is an error.
    """

    def __init__(self, sources: Mapping[str, Source], stand_in: str | None = None):
        self._sources, self._stand_in, self._found = sources, stand_in, {}

    def find(self, path: str, trust_remote_code: bool = False) -> Model:
        """The model at a path.

        Raises:
            UserError: there is no configuration, here or at the hub.
        """
        if path not in self._found:
            self._found[path] = self._find(path, trust_remote_code, ())
        return self._found[path]

    def _find(self, path: str, trust: bool, seen: tuple[str, ...]) -> Model:
        here = any((Path(path) / name).is_file() for name in (CONFIG_NAME, ADAPTER_CONFIG))
        source = self._sources.get(str(Path(path)))
        if here or source is None or path in seen:
            return self._load(path, here, trust)
        start = self._find(source.start, trust, (*seen, path))
        if source.lora:
            return replace(start, lora=source.lora)
        return replace(start, path=path, lora=None, implicit=source.implicit)

    def _load(self, path: str, here: bool, trust: bool) -> Model:
        if not here and self._stand_in is not None:
            path = self._stand_in
        adapter = find_adapter(path)
        try:
            config = load_config_of(path, adapter, trust)
            implicit = config_entry(config).get("kind") == IMPLICIT
            whole = path if adapter is None else adapter.base
            return Model(whole, config, adapter and adapter.lora, implicit, trust)
        except UserError as error:
            if here or path == self._stand_in:
                raise
            raise UserError(
                f"{path}: there is no {CONFIG_NAME}, no recipe of the plan writes it, and the hub does not give it. "
                "Name a folder or hub id of its size with --model."
            ) from error
