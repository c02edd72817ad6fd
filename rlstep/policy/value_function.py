"""What the trainer uses the critic of `advantage: gae` for: values, advantages, the value loss, checkpoints."""

from pathlib import Path
from types import SimpleNamespace

import torch
from accelerate import Accelerator
from peft import LoraConfig, PeftConfig
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.integrations import is_deepspeed_zero3_enabled
from trl.models.utils import disable_gradient_checkpointing
from trl.trainer.callbacks import SyncRefModelCallback
from trl.trainer.utils import disable_dropout_in_model

from rlstep.core.advantages import gae
from rlstep.core.losses import clipped_value_error, explained_variance
from rlstep.policy.config import StepPPOConfig
from rlstep.policy.critic import AdapterCritic, Critic, HeadCritic, load_own, values_of
from rlstep.policy.forward import ReadValues
from rlstep.policy.models import load_base
from rlstep.policy.passes import Passes
from rlstep.policy.token_budget import rows_of, widened
from rlstep.verifiers.lora_targets import refuse_trained_biases

CRITIC_FILE = "critic.safetensors"
# The adapter of a full-parameter policy's critic, if none is given.
CRITIC_LORA = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"}

_MODEL_INPUTS = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")


class SyncPolicyAlone(SyncRefModelCallback):
    """TRL's `sync_ref_model` beside a critic, which is a part of the policy and of no reference."""

    @staticmethod
    def sync_target_model(model: nn.Module, target_model: nn.Module, alpha: float) -> None:
        own = [p for name, p in model.named_parameters() if not name.startswith("critic.")]
        policy = SimpleNamespace(parameters=lambda: own)
        SyncRefModelCallback.sync_target_model(policy, target_model, alpha)


class ValueFunction:
    """What the trainer needs of a critic: values, advantages, the value loss, and its part of checkpoints.

    It is built in two steps around the trainer's own construction: `share_base` before TRL puts the policy's adapter on
    the base, `attach` once the policy is there.

    Args:
        args: the trainer's settings.
        adapter: the shape of an adapter critic's adapter; `CRITIC_LORA` by default.
    """

    def __init__(self, args: StepPPOConfig, adapter: PeftConfig | None):
        self.args, self.adapter = args, adapter or LoraConfig(**CRITIC_LORA)
        if args.critic == "adapter":
            refuse_trained_biases(self.adapter, "the policy or its reference")
        self._critic: Critic | None = None

    def share_base(self, base: PreTrainedModel) -> None:
        """Builds an adapter critic on the base of a policy that trains an adapter, which has to come after its own."""
        self._critic = AdapterCritic(base, self.adapter)

    def attach(
        self,
        policy: nn.Module,
        reference: PreTrainedModel | None,
        accelerator: Accelerator,
        passes: Passes,
    ) -> None:
        """Makes the critic a part of the policy, after building it if `share_base` has not.

        As a child of the policy it shares one engine, one optimizer and one backward pass with it, under ZeRO as
        without.

        Args:
            policy: what the trainer trains.
            reference: a frozen model that a full-parameter policy's critic may use as its base; None if there is none,
                it is sharded, or follows the policy.
            accelerator: the trainer's.
            passes: how the policy's batches go through it.
        """
        self.accelerator, self._packed, self._budget = accelerator, passes.packed, passes.budget
        self._positions = passes.positions
        if self.args.critic == "head":
            critic = HeadCritic(policy, self.args.critic_trunk_scale)
        else:
            critic = self._critic or AdapterCritic(self._frozen_base(policy, reference), self.adapter)
            if self.args.disable_dropout:
                disable_dropout_in_model(critic)
            if self.args.gradient_checkpointing:
                critic.backbone.gradient_checkpointing_enable(self.args.gradient_checkpointing_kwargs)
                critic.backbone.enable_input_require_grads()
        policy.critic = self._critic = critic.to(policy.device)

    @property
    def beside_policy(self) -> ReadValues | None:
        """Reads values from the policy's own pass; None where the critic has a pass of its own."""
        return self._critic.read if isinstance(self._critic, HeadCritic) else None

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
            returns' variance that the values explain, over all ranks, NaN where there is no token.
        """
        mask_BT = batch["completion_mask"]
        values_BT, bootstrap_B = self._values_when_sampled(model, batch, finished)
        advantages_BT, returns_BT = gae(rewards_BT, values_BT, mask_BT, self.args.gamma, self.args.lam, bootstrap_B)
        # Over all ranks' tokens: the mean of the ranks' own shares would be another number.
        gathered = (self.accelerator.pad_across_processes(x_BT, dim=1) for x_BT in (values_BT, returns_BT, mask_BT))
        everyone = [self.accelerator.gather(x_BT) for x_BT in gathered]
        explained = explained_variance(*everyone) if everyone[-1].any() else values_BT.new_tensor(torch.nan)
        return {"advantages": advantages_BT, "old_values": values_BT * mask_BT, "returns": returns_BT}, explained

    @torch.no_grad()
    def _values_when_sampled(
        self, model: nn.Module, batch: dict[str, Tensor], finished: list[bool]
    ) -> tuple[Tensor, Tensor | None]:
        """Values (B, T), and with `truncated: bootstrap` (B,) of what would have come after rows that were cut off."""
        mask_BT, after = batch["completion_mask"], self.args.truncated == "bootstrap"
        inputs, width = {name: batch[name] for name in _MODEL_INPUTS}, mask_BT.shape[1] + after
        with disable_gradient_checkpointing(model, self.args.gradient_checkpointing_kwargs):
            parts = [self._values(model, rows_of(inputs, rows), after) for rows in self._passes(inputs, after)]
        values_BT = torch.cat([widened(part_BT, width) for part_BT in parts])
        if not after:
            return values_BT, None
        lengths_B1 = mask_BT.sum(dim=1, keepdim=True)
        cut_off_B = ~torch.tensor(finished, device=mask_BT.device)
        return values_BT[:, :-1], values_BT.gather(1, lengths_B1)[:, 0] * cut_off_B

    def _passes(self, batch: dict[str, Tensor], after: bool) -> list[slice]:
        """The rows of each pass without gradients."""
        if self._budget is not None:
            return self._budget.pieces(batch, after)
        rows, size = len(batch["completion_mask"]), self.args.per_device_train_batch_size
        if self._packed is not None:
            size = max(size, self._packed.group)
        return [slice(start, start + size) for start in range(0, rows, size)]

    def _values(self, model: nn.Module, batch: dict[str, Tensor], after: bool = False) -> Tensor:
        critic = self.accelerator.unwrap_model(model).critic
        input_ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
        attention_mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
        T = batch["completion_ids"].shape[1]
        with self.accelerator.autocast():
            if self._packed is not None and self._packed.fits(attention_mask):
                backbone = critic.backbone_of(model)
                return self._packed.values(backbone, critic.read, input_ids, attention_mask, T, after)
            return values_of(critic, model, input_ids, attention_mask, T, after, self._positions)

    def loss(
        self, model: nn.Module, batch: dict[str, Tensor], weights_BT: Tensor, values_BT: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The value loss of a micro-batch, for the same backward pass as the policy's.

        Where every row was cut off and masked it is 0, but the critic stays in the graph: all ranks reduce the same
        gradients.

        Args:
            model: the policy with the critic, wrapped or not.
            batch: with `old_values` and `returns`.
            weights_BT: how much each token counts.
            values_BT: what `beside_policy` read; None where there is none.

        Returns:
            the weighted loss, and per token what is to be logged of it.
        """
        if values_BT is None:
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
