"""The critics of `advantage: gae`: what gives a value to the state before each completion token.

`AdapterCritic` sees the states through an adapter of its own, in a pass of its own; `HeadCritic` reads the policy's
hidden states, in the policy's pass. Neither owns a base.
"""

import copy
from abc import ABC, abstractmethod

import torch
from peft import PeftConfig, get_peft_model
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.integrations import is_deepspeed_zero3_enabled

from rlstep.policy.backbone import backbone_of, positions_of
from rlstep.verifiers.share_weights import share_weights

ADAPTER = "critic"


class Critic(nn.Module, ABC):
    """What both critics are to the value function: a child of the policy that reads values from hidden states.

    Args:
        base: a causal LM with hidden states of the size that is read.
    """

    def __init__(self, base: PreTrainedModel):
        super().__init__()
        # ZeRO-3 needs one dtype for all weights; otherwise trained weights stay in float32 on a bfloat16 base.
        dtype = base.dtype if is_deepspeed_zero3_enabled() else torch.float32
        self.value_head = nn.Linear(base.config.get_text_config().hidden_size, 1, dtype=dtype)
        # Values start at zero: the first advantages are the rewards, not the noise of a random head.
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)

    @abstractmethod
    def backbone_of(self, policy: nn.Module) -> nn.Module:
        """The model whose hidden states are read, beside a policy that may be wrapped."""

    def read(self, states: Tensor) -> Tensor:
        """(...) the expected return from each state on, of the backbone's hidden states (..., H)."""
        return self.value_head(states.to(self.value_head.weight.dtype)).squeeze(-1).float()

    @abstractmethod
    def own_parameters(self) -> dict[str, nn.Parameter]:
        """What is trained and saved, without the weights that it shares."""


class AdapterCritic(Critic):
    """A critic with an adapter on a base that it does not own.

    It reads the base's own weights through a second module tree (`rlstep.verifiers.share_weights`). Its adapter and
    head train beside whatever the base's tree is used for, and no adapter is switched between a forward and its
    backward pass, so activation checkpointing stays safe.

    PEFT freezes the base. For a policy with an adapter that is what it does anyway, and `base` is the policy. A policy
    that trains all of its weights would stand still: there `base` is a model that nothing trains, the reference or a
    frozen copy of the policy's start, and values come from how that model sees the states.

    Args:
        base: a causal LM before an adapter is put on it.
        peft_config: the adapter's configuration, usually the policy's.
    """

    def __init__(self, base: PreTrainedModel, peft_config: PeftConfig):
        config = copy.deepcopy(peft_config)
        config.task_type = "FEATURE_EXTRACTION"
        tree, autocast = share_weights(base.base_model), not is_deepspeed_zero3_enabled()
        backbone = get_peft_model(tree, config, adapter_name=ADAPTER, autocast_adapter_dtype=autocast)
        super().__init__(base)
        self.backbone = backbone

    def backbone_of(self, policy: nn.Module) -> nn.Module:
        return self.backbone

    def own_parameters(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self.named_parameters() if f".{ADAPTER}." in name or "value_head" in name}


class HeadCritic(Critic):
    """A critic that is a value head on the policy's hidden states, whichever of the policy's weights are trained.

    Args:
        policy: gives the size of the hidden states; it is not kept.
        trunk_scale: what the value loss's gradients into the policy are multiplied by; 0 trains the head alone.
    """

    def __init__(self, policy: PreTrainedModel, trunk_scale: float):
        super().__init__(policy)
        self.trunk_scale = trunk_scale

    def backbone_of(self, policy: nn.Module) -> nn.Module:
        return backbone_of(policy)

    def read(self, states: Tensor) -> Tensor:
        return super().read(scale_gradient(states, self.trunk_scale))

    def own_parameters(self) -> dict[str, nn.Parameter]:
        return dict(self.named_parameters())


def scale_gradient(x: Tensor, scale: float) -> Tensor:
    """x itself, to the last bit, whose gradient arrives multiplied by `scale`."""
    if scale == 0:
        return x.detach()
    return x if scale == 1 else x.detach() + scale * (x - x.detach())


def values_of(
    critic: Critic,
    policy: nn.Module,
    input_ids: Tensor,
    attention_mask: Tensor,
    T: int,
    last: bool = False,
    positions: bool = False,
) -> Tensor:
    """The expected return before each of the last T tokens is chosen, from a pass over padded rows.

    Args:
        critic: reads the states.
        policy: whose critic it is, wrapped or not.
        input_ids, attention_mask: (B, P + T), prompts padded on the left.
        T: the completions' padded length.
        last: also return the value after the last token.
        positions: tell the model each token's index in its own row.

    Returns:
        (B, T) values; with `last` (B, T + 1), the value after n tokens in column n.
    """
    backbone = critic.backbone_of(policy)
    told = {"position_ids": positions_of(attention_mask)} if positions else {}
    hidden_BSH = backbone(input_ids=input_ids, attention_mask=attention_mask, use_cache=False, **told).last_hidden_state
    states_BTH = hidden_BSH[:, -T - 1 :]
    return critic.read(states_BTH if last else states_BTH[:, :-1])


def load_own(critic: Critic, state: dict[str, Tensor]) -> None:
    """Copies saved weights into the critic's own parameters; a missing or foreign name is an error."""
    own = critic.own_parameters()
    if set(own) != set(state):
        raise ValueError(f"critic weights do not match: {sorted(set(own) ^ set(state))[:4]} differ")
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(state[name])
