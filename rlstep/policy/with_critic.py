"""`WithCritic`: what `advantage: gae` adds to the trainer. It builds a critic, asks it, trains it and keeps it."""

from pathlib import Path

import torch
from peft import LoraConfig, PeftConfig
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel
from transformers.integrations import is_deepspeed_zero3_enabled
from trl.models.utils import disable_gradient_checkpointing
from trl.trainer.utils import disable_dropout_in_model

from rlstep.core.advantages import gae
from rlstep.core.losses import clipped_value_error, explained_variance
from rlstep.policy.config import StepPPOConfig
from rlstep.policy.critic import Critic, load_own
from rlstep.policy.models import load_base

CRITIC_FILE = "critic.safetensors"
# The adapter of a full-parameter policy's critic, where none is given.
CRITIC_LORA = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"}

_MODEL_INPUTS = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")


class WithCritic:
    """A mixin for a subclass of TRL's GRPOTrainer; it comes before GRPOTrainer in the list of bases.

    The subclass calls `_plan_critic` before the trainer's own `__init__` and `_add_critic` behind it.
    """

    has_critic = False

    def _plan_critic(
        self,
        model: str | PreTrainedModel,
        args: StepPPOConfig,
        peft_config: PeftConfig | None,
        critic_config: PeftConfig | None,
    ) -> str | PreTrainedModel:
        """The model to give to the trainer. A critic on a base shared with an adapter is made here already."""
        self.has_critic = args.advantage == "gae"
        self._critic_config = critic_config or peft_config or LoraConfig(**CRITIC_LORA)
        self._planned: Critic | None = None
        if self.has_critic and peft_config is not None:
            # The twin is made before TRL puts the policy's adapter on the base, so the base is loaded here.
            model = load_base(model, args)
            self._planned = Critic(model, self._critic_config)
        return model

    def _add_critic(self) -> None:
        if not self.has_critic:
            return
        critic, self._planned = self._planned or Critic(self._frozen_base(), self._critic_config), None
        if self.args.disable_dropout:
            disable_dropout_in_model(critic)
        if self.args.gradient_checkpointing:
            critic.backbone.gradient_checkpointing_enable(self.args.gradient_checkpointing_kwargs)
            critic.backbone.enable_input_require_grads()
        # A child of the policy: one engine, one optimizer and one backward pass for both, under ZeRO as without.
        self.model.critic = critic.to(self.model.device)

    def _frozen_base(self) -> PreTrainedModel:
        """What the critic of a full-parameter policy stands on: the reference, or a frozen copy of the policy."""
        if self.ref_model is not None and not (self.is_deepspeed_enabled or self.is_fsdp_enabled):
            return self.accelerator.unwrap_model(self.ref_model).requires_grad_(False)
        if is_deepspeed_zero3_enabled():
            return load_base(self.model.config._name_or_path, self.args).requires_grad_(False)
        copied = type(self.model)(self.model.config).to(self.model.dtype)
        copied.load_state_dict(self.model.state_dict())
        return copied.requires_grad_(False)

    def _gae(self, batch: dict[str, Tensor], rewards_BT: Tensor) -> dict[str, Tensor]:
        """What `advantage: gae` adds to a batch: advantages, and what the value loss needs."""
        mask_BT = batch["completion_mask"]
        values_BT, bootstrap_B = self._values_when_sampled(batch)
        found_BT, returns_BT = gae(rewards_BT, values_BT, mask_BT, self.args.gamma, self.args.lam, bootstrap_B)
        known = explained_variance(values_BT, returns_BT, mask_BT) if mask_BT.any() else values_BT.new_tensor(torch.nan)
        self._log("critic/explained_variance", known)
        return {"advantages": found_BT, "old_values": values_BT * mask_BT, "returns": returns_BT}

    @torch.no_grad()
    def _values_when_sampled(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """The critic's values (B, T), and (B,) of what would have come behind rows that were cut off."""
        mask_BT, size = batch["completion_mask"], self.args.per_device_train_batch_size
        after = self.args.truncated == "bootstrap"
        with disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs):
            values_BT = torch.cat(
                [
                    self._values(self.model, {k: batch[k][i : i + size] for k in _MODEL_INPUTS}, after)
                    for i in range(0, len(mask_BT), size)
                ]
            )
        if not after:
            return values_BT, None
        lengths_B1 = mask_BT.sum(dim=1, keepdim=True)
        cut_B = ~torch.tensor(self._ended, device=mask_BT.device)
        return values_BT[:, :-1], values_BT.gather(1, lengths_B1)[:, 0] * cut_B

    def _values(self, model, batch: dict[str, Tensor], after: bool = False) -> Tensor:
        critic = self.accelerator.unwrap_model(model).critic
        input_ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
        attention_mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
        with self.accelerator.autocast():
            return critic(input_ids, attention_mask, batch["completion_ids"].shape[1], after)

    def _value_loss(self, model, batch: dict[str, Tensor]) -> Tensor:
        """The value loss of a micro-batch, averaged as TRL averages the policy's, for the same backward pass.

        Where every row was cut off and masked it is 0, but the critic stays in the graph: all ranks reduce the same
        gradients.
        """
        mask_BT, values_BT = batch["completion_mask"], self._values(model, batch)
        error_BT, clipped_BT = clipped_value_error(
            values_BT, batch["old_values"], batch["returns"], self.args.value_clip
        )
        self._log_mean("critic/value_loss", error_BT.detach(), mask_BT)
        self._log_mean("critic/clip_fraction", clipped_BT.float(), mask_BT)
        return self.args.vf_coef * (self._token_weights(batch) * error_BT).sum()

    # --- Checkpoints hold the critic too: the adapter file alone would resume with a critic that knows nothing.

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        # Every rank comes here; under ZeRO-3 the first alone has whole weights, which DeepSpeed hands over.
        if not self.has_critic or not self.args.should_save:
            return super()._save(output_dir, state_dict)
        state = self.model.state_dict() if state_dict is None else state_dict
        # PEFT would write every adapter in the state into the policy's file.
        super()._save(output_dir, {name: tensor for name, tensor in state.items() if not name.startswith("critic.")})
        own = {name: state[f"critic.{name}"].cpu().contiguous() for name in self.model.critic.own_parameters()}
        save_file(own, Path(output_dir or self.args.output_dir) / CRITIC_FILE)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model=None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self.has_critic:
            load_own(self.model.critic, load_file(Path(resume_from_checkpoint) / CRITIC_FILE))
