"""The model of the critic of `advantage: gae`: an adapter and a value head on a base that it does not own."""

import copy

import torch
from peft import PeftConfig, get_peft_model
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.integrations import is_deepspeed_zero3_enabled

from rlstep.verifiers.forward import inputs_of
from rlstep.verifiers.share_weights import share_weights

ADAPTER = "critic"


class Critic(nn.Module):
    """Values of the states before each completion token.

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
        super().__init__()
        config = copy.deepcopy(peft_config)
        config.task_type = "FEATURE_EXTRACTION"
        # ZeRO-3 needs one dtype for all weights; otherwise trained weights stay in float32 on a bfloat16 base.
        uniform = is_deepspeed_zero3_enabled()
        backbone = share_weights(base.base_model)
        self.backbone = get_peft_model(backbone, config, adapter_name=ADAPTER, autocast_adapter_dtype=not uniform)
        dtype = base.dtype if uniform else torch.float32
        self.value_head = nn.Linear(base.config.get_text_config().hidden_size, 1, dtype=dtype)
        # Values start at zero: the first advantages are the rewards, not the noise of a random head.
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, completion_length: int, after: bool = False) -> Tensor:
        """The expected return before each of the last `completion_length` tokens is chosen.

        Args:
            input_ids, attention_mask: (B, P + T), prompts padded on the left.
            completion_length: T.
            after: also return the value after the last token.

        Returns:
            (B, T) values; with `after` (B, T + 1), the value after n tokens in column n.
        """
        hidden = self.backbone(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state
        states_BTH = hidden[:, -completion_length - 1 :]
        if not after:
            states_BTH = states_BTH[:, :-1]
        return self.value_head(states_BTH.to(self.value_head.weight.dtype)).squeeze(-1).float()

    def packed(self, batch: dict[str, Tensor]) -> Tensor:
        """(N,) the expected returns at the places that a batch of `rlstep.verifiers.forward.collate` is asked at."""
        hidden_BLH = self.backbone(**inputs_of(self.backbone, batch)).last_hidden_state
        states_NH = hidden_BLH[batch["rows"], batch["positions"]]
        return self.value_head(states_NH.to(self.value_head.weight.dtype)).squeeze(-1).float()

    def own_parameters(self) -> dict[str, nn.Parameter]:
        """The critic's adapter and head, without the shared base."""
        return {name: p for name, p in self.named_parameters() if f".{ADAPTER}." in name or "value_head" in name}


def load_own(critic: Critic, state: dict[str, Tensor]) -> None:
    """Copies saved weights into the critic's own parameters; a missing or foreign name is an error."""
    own = critic.own_parameters()
    if set(own) != set(state):
        raise ValueError(f"critic weights do not match: {sorted(set(own) ^ set(state))[:4]} differ")
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(state[name])
