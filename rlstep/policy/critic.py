"""The critic of `advantage: gae`: its model, and what the trainer uses it for.

The model is an adapter and a value head on a base that it does not own: the policy's, or a reference's.
"""

import copy
from pathlib import Path

import torch
from accelerate import Accelerator
from peft import LoraConfig, PeftConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.integrations import is_deepspeed_zero3_enabled
from trl.models.utils import disable_gradient_checkpointing
from trl.trainer.utils import disable_dropout_in_model

from rlstep.core.advantages import gae
from rlstep.core.losses import clipped_value_error, explained_variance
from rlstep.policy.config import StepPPOConfig
from rlstep.policy.forward import PackedForward
from rlstep.policy.models import load_base
from rlstep.verifiers.forward import inputs_of
from rlstep.verifiers.share_weights import share_weights

ADAPTER = "critic"
CRITIC_FILE = "critic.safetensors"
# The adapter of a full-parameter policy's critic, if none is given.
CRITIC_LORA = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"}

_MODEL_INPUTS = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")


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


class ValueFunction:
    """What the trainer needs of a critic: values, advantages, the value loss, and its part of checkpoints.

    It is built in two steps around the trainer's own construction: `share_base` before TRL puts the policy's adapter on
    the base, `attach` once the policy is there.

    Args:
        args: the trainer's settings.
        adapter: the shape of the critic's adapter; `CRITIC_LORA` by default.
    """

    def __init__(self, args: StepPPOConfig, adapter: PeftConfig | None):
        self.args, self.adapter = args, adapter or LoraConfig(**CRITIC_LORA)
        self._critic: Critic | None = None

    def share_base(self, base: PreTrainedModel) -> None:
        """Builds the critic on the base of a policy that trains an adapter, which has to come after the critic's."""
        self._critic = Critic(base, self.adapter)

    def attach(
        self,
        policy: nn.Module,
        reference: PreTrainedModel | None,
        accelerator: Accelerator,
        packed: PackedForward | None,
    ) -> None:
        """Makes the critic a part of the policy, after building it if `share_base` has not.

        As a child of the policy it shares one engine, one optimizer and one backward pass with it, under ZeRO as
        without.

        Args:
            policy: what the trainer trains.
            reference: a frozen model that a full-parameter policy's critic may use as its base; None if there is none
                or it is sharded.
            accelerator: the trainer's.
            packed: how the policy's batches are read without padding; None where they are padded.
        """
        self.accelerator, self._packed = accelerator, packed
        critic = self._critic or Critic(self._frozen_base(policy, reference), self.adapter)
        if self.args.disable_dropout:
            disable_dropout_in_model(critic)
        if self.args.gradient_checkpointing:
            critic.backbone.gradient_checkpointing_enable(self.args.gradient_checkpointing_kwargs)
            critic.backbone.enable_input_require_grads()
        policy.critic = self._critic = critic.to(policy.device)

    def _frozen_base(self, policy: PreTrainedModel, reference: PreTrainedModel | None) -> PreTrainedModel:
        """The base of a full-parameter policy's critic: the reference, or a frozen copy of the policy."""
        if reference is not None:
            return self.accelerator.unwrap_model(reference).requires_grad_(False)
        if is_deepspeed_zero3_enabled():
            return load_base(policy.config._name_or_path, self.args).requires_grad_(False)
        copied = type(policy)(policy.config).to(policy.dtype)
        copied.load_state_dict(policy.state_dict())
        return copied.requires_grad_(False)

    # --- Values, advantages and the loss of a batch.

    def advantages(
        self, model: nn.Module, batch: dict[str, Tensor], rewards_BT: Tensor, finished: list[bool]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """GAE against the critic's values when the batch was sampled.

        Args:
            model: the policy with the critic, wrapped or not.
            batch: TRL's, with the model's inputs.
            rewards_BT: each token's reward.
            finished: (B,) whether the policy ended the completion itself.

        Returns:
            what is added to the batch, `advantages`, `old_values` and `returns`, all (B, T); and the share of the
            returns' variance that the values explain, NaN where there is no token.
        """
        mask_BT = batch["completion_mask"]
        values_BT, bootstrap_B = self._values_when_sampled(model, batch, finished)
        advantages_BT, returns_BT = gae(rewards_BT, values_BT, mask_BT, self.args.gamma, self.args.lam, bootstrap_B)
        explained = values_BT.new_tensor(torch.nan)
        if mask_BT.any():
            explained = explained_variance(values_BT, returns_BT, mask_BT)
        return {"advantages": advantages_BT, "old_values": values_BT * mask_BT, "returns": returns_BT}, explained

    @torch.no_grad()
    def _values_when_sampled(
        self, model: nn.Module, batch: dict[str, Tensor], finished: list[bool]
    ) -> tuple[Tensor, Tensor | None]:
        """Values (B, T), and with `truncated: bootstrap` (B,) of what would have come after rows that were cut off."""
        mask_BT, size = batch["completion_mask"], self.args.per_device_train_batch_size
        if self._packed is not None:
            size = max(size, self._packed.group)
        after = self.args.truncated == "bootstrap"
        with disable_gradient_checkpointing(model, self.args.gradient_checkpointing_kwargs):
            values_BT = torch.cat(
                [
                    self._values(model, {k: batch[k][i : i + size] for k in _MODEL_INPUTS}, after)
                    for i in range(0, len(mask_BT), size)
                ]
            )
        if not after:
            return values_BT, None
        lengths_B1 = mask_BT.sum(dim=1, keepdim=True)
        cut_off_B = ~torch.tensor(finished, device=mask_BT.device)
        return values_BT[:, :-1], values_BT.gather(1, lengths_B1)[:, 0] * cut_off_B

    def _values(self, model: nn.Module, batch: dict[str, Tensor], after: bool = False) -> Tensor:
        critic = self.accelerator.unwrap_model(model).critic
        input_ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
        attention_mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
        T = batch["completion_ids"].shape[1]
        with self.accelerator.autocast():
            if self._packed is not None and self._packed.fits(attention_mask):
                return self._packed.values(critic, input_ids, attention_mask, T, after)
            return critic(input_ids, attention_mask, T, after)

    def loss(self, model: nn.Module, batch: dict[str, Tensor], weights_BT: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The value loss of a micro-batch, for the same backward pass as the policy's.

        Where every row was cut off and masked it is 0, but the critic stays in the graph: all ranks reduce the same
        gradients.

        Args:
            model: the policy with the critic, wrapped or not.
            batch: with `old_values` and `returns`.
            weights_BT: how much each token counts.

        Returns:
            the weighted loss, and per token what is to be logged of it.
        """
        values_BT = self._values(model, batch)
        error_BT, clipped_BT = clipped_value_error(
            values_BT, batch["old_values"], batch["returns"], self.args.value_clip
        )
        logged = {"critic/value_loss": error_BT.detach(), "critic/clip_fraction": clipped_BT.float()}
        return self.args.vf_coef * (weights_BT * error_BT).sum(), logged

    # --- Checkpoints include the critic: with the policy's file only, a run would resume with an untrained critic.

    @staticmethod
    def without_critic(state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The policy's part of a state; PEFT would write every adapter in it into the policy's file."""
        return {name: tensor for name, tensor in state.items() if not name.startswith("critic.")}

    def save(self, state: dict[str, Tensor], folder: str) -> None:
        """Writes the critic's part of the policy's state to `CRITIC_FILE`."""
        own = {name: state[f"critic.{name}"].cpu().contiguous() for name in self._critic.own_parameters()}
        save_file(own, Path(folder) / CRITIC_FILE)

    def load(self, folder: str) -> None:
        load_own(self._critic, load_file(Path(folder) / CRITIC_FILE))
