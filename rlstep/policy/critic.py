"""A critic that shares the frozen base model with the policy: one set of base weights, two adapters, one value head."""

import copy

import torch
from peft import PeftConfig, get_peft_model
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.integrations import is_deepspeed_zero3_enabled

ADAPTER = "critic"


class Critic(nn.Module):
    """Values of the states before each completion token.

    The module tree of the base is copied, its weights are not: every parameter of the twin *is* the base's. The
    critic's own adapter and head train beside the policy's adapter, and no adapter is switched between a forward and
    its backward pass, so activation checkpointing stays safe.

    Args:
        base: the policy's causal LM before an adapter is put on it.
        peft_config: the adapter's shape, the policy's by custom.
    """

    def __init__(self, base: PreTrainedModel, peft_config: PeftConfig):
        super().__init__()
        shared = {id(parameter): parameter for parameter in base.base_model.parameters()}
        twin = copy.deepcopy(base.base_model, memo=shared)
        config = copy.deepcopy(peft_config)
        config.task_type = "FEATURE_EXTRACTION"
        # ZeRO-3 takes one type of weights; elsewhere what is trained is kept in float32 beside a bfloat16 base.
        uniform = is_deepspeed_zero3_enabled()
        self.backbone = get_peft_model(twin, config, adapter_name=ADAPTER, autocast_adapter_dtype=not uniform)
        dtype = base.dtype if uniform else torch.float32
        self.value_head = nn.Linear(base.config.get_text_config().hidden_size, 1, dtype=dtype)
        # Values start at zero: the first advantages are the rewards, not the noise of a random head.
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, completion_length: int) -> Tensor:
        """values_BT: what is expected before each of the last `completion_length` tokens is chosen.

        Args:
            input_ids, attention_mask: (B, P + T), prompts padded on the left.
            completion_length: T.
        """
        hidden = self.backbone(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state
        states_BTH = hidden[:, -completion_length - 1 : -1]
        return self.value_head(states_BTH.to(self.value_head.weight.dtype)).squeeze(-1).float()

    def own_parameters(self) -> dict[str, nn.Parameter]:
        """The critic's adapter and head, without the base that the policy owns."""
        return {name: p for name, p in self.named_parameters() if f".{ADAPTER}." in name or "value_head" in name}


def load_own(critic: Critic, state: dict[str, Tensor]) -> None:
    """Copies saved weights into the critic's own parameters; a missing or foreign name is an error."""
    own = critic.own_parameters()
    if set(own) != set(state):
        raise ValueError(f"critic weights do not match: {sorted(set(own) ^ set(state))[:4]} differ")
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(state[name])
