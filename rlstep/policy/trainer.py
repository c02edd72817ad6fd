"""`StepPPOTrainer`: TRL's GRPOTrainer with an advantage for every token.

Generation, LoRA, the reference, the clipped surrogate, KL, DeepSpeed and logging are TRL's. Two things are added: what
comes back from `_generate_and_score_completions` gets (B, T) advantages made of step rewards, which TRL's loss
supports for subclasses, and with `advantage: gae` the loss gets a critic's value loss. This is the one file that uses
TRL's private names; `tests/policy/test_trl_seam.py` holds them to what is relied on here.
"""

from importlib import import_module
from pathlib import Path

import torch
from accelerate.utils import gather_object
from peft import PeftConfig
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import pad
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback, set_seed
from transformers.integrations import is_deepspeed_zero3_enabled
from trl import GRPOTrainer
from trl.models.utils import disable_gradient_checkpointing
from trl.trainer.utils import create_model_from_path, disable_dropout_in_model

from rlstep.core.advantages import gae, group, spread_over_tokens
from rlstep.core.losses import clipped_value_loss, explained_variance
from rlstep.core.rewards import pad_steps, place_step_rewards
from rlstep.policy.config import StepPPOConfig
from rlstep.policy.critic import Critic, load_own
from rlstep.policy.rewards import Judgement, RewardSource
from rlstep.runtime.errors import UserError
from rlstep.steps.positions import step_tokens, token_ends_from_ids

CRITIC_FILE = "critic.safetensors"


class StepPPOTrainer(GRPOTrainer):
    """PPO with a reward for every reasoning step.

    Args:
        model: path, hub id or instance of a causal LM.
        reward_source: judges completions (`rlstep.policy.rewards`).
        args: the configuration.
        train_dataset, eval_dataset: rows with `prompt` (text) and `reference`.
        processing_class: the policy's tokenizer.
        peft_config: the LoRA adapter to train; needed for `advantage: gae`, whose critic shares the frozen base.
        callbacks: as in the Trainer.
    """

    _name = "StepPPO"

    def __init__(
        self,
        model: str | PreTrainedModel,
        reward_source: RewardSource,
        args: StepPPOConfig,
        train_dataset,
        eval_dataset=None,
        processing_class: PreTrainedTokenizerBase | None = None,
        peft_config: PeftConfig | None = None,
        callbacks: list[TrainerCallback] | None = None,
    ):
        self.reward_source = reward_source
        self._judged: list[Judgement] = []
        if args.advantage == "gae" and peft_config is None:
            raise UserError(
                "advantage 'gae' shares the frozen base between policy and critic and needs an adapter: set "
                "use_peft: true, or take advantage: group for a full-parameter policy."
            )
        if is_deepspeed_zero3_enabled():
            # Loading shards the weights over the ranks. Of those on CPU, DeepSpeed has not been told yet.
            import_module("deepspeed").init_distributed()
        if args.advantage == "gae" and isinstance(model, str):
            # The twin is made before TRL puts the policy's adapter on the base, so the base is loaded here.
            set_seed(args.seed)
            options = {"device_map": None, "trust_remote_code": args.trust_remote_code} | (args.model_init_kwargs or {})
            model = create_model_from_path(model, **options)
            args.model_init_kwargs = None
        critic = Critic(model, peft_config) if args.advantage == "gae" else None
        super().__init__(
            model=model,
            reward_funcs=[self.process, self.outcome],
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            peft_config=peft_config,
            callbacks=callbacks,
        )
        self.has_critic = critic is not None
        if critic is not None:
            if args.disable_dropout:
                disable_dropout_in_model(critic)
            if args.gradient_checkpointing:
                critic.backbone.gradient_checkpointing_enable(args.gradient_checkpointing_kwargs)
                critic.backbone.enable_input_require_grads()
            # A child of the policy: one engine, one optimizer and one backward pass for both, under ZeRO as without.
            self.model.critic = critic.to(self.model.device)

    # --- Rewards: two TRL reward functions, so that both returns are logged; the second reads what the first judged.

    def process(self, prompts, completions, reference, **_) -> list[float]:
        """Sum of each completion's step rewards. Judges this rank's rows and keeps that for the advantages."""
        self._judged = self.reward_source(prompts, completions, reference)
        return [float(sum(row.step_rewards)) for row in self._judged]

    def outcome(self, completions, **_) -> list[float]:
        """Each completion's outcome reward."""
        return [row.outcome for row in self._judged]

    # --- Advantages: the data hook.

    def _generate_and_score_completions(self, inputs):
        batch = super()._generate_and_score_completions(inputs)
        ids_BT, mask_BT = batch["completion_ids"], batch["completion_mask"]
        judged = gather_object(self._judged)
        # One value a row, not one a batch: a last, smaller batch of an evaluation must not weigh as much as the others.
        metrics = self._metrics["train" if self.model.training else "eval"]
        metrics["accuracy"] += [float(row.correct) for row in judged]
        metrics["clean_accuracy"] += [float(row.clean) for row in judged]
        metrics["steps"] += [float(len(row.steps)) for row in judged]
        tokens = self._step_tokens(ids_BT, mask_BT)
        if self.args.advantage == "group":
            batch["advantages"] = self._group_advantages(judged, tokens, mask_BT)
        else:
            batch |= self._gae_advantages(batch, tokens)
        return batch

    def _step_tokens(self, ids_BT: Tensor, mask_BT: Tensor) -> list[list[int]]:
        """For each completion the index of every step's last token; none where TRL masked the whole row."""
        found = []
        for ids, length, judged in zip(ids_BT.tolist(), mask_BT.sum(dim=1).tolist(), self._judged, strict=True):
            if length == 0:
                found.append([])
                continue
            found.append(step_tokens(token_ends_from_ids(self._tokenizer, ids[:length]), judged.steps))
        return found

    def _group_advantages(self, judged: list[Judgement], tokens: list[list[int]], mask_BT: Tensor) -> Tensor:
        """A group may lie on several ranks: `judged` is of all ranks, the advantages are this rank's."""
        device = mask_BT.device
        size = self.num_generations if self.model.training else self.num_generations_eval
        if size < 2:
            # Evaluation with one sample a problem: nothing to compare with, and nothing is trained.
            return torch.zeros(mask_BT.shape, device=device)
        rewards_BS, steps_BS = pad_steps([torch.tensor(row.step_rewards, dtype=torch.float32) for row in judged])
        process_BS, outcome_B = group(
            rewards_BS,
            steps_BS,
            torch.tensor([row.outcome for row in judged]),
            group_size=size,
            discount=self.args.step_discount,
            scale=self.args.scale_rewards,
            baseline=self.args.step_baseline,
        )
        # Steps that were not judged get the outcome's advantage alone.
        process_BS = pad(process_BS, (0, max(len(row.steps) for row in judged) - process_BS.shape[1]))
        start = self.accelerator.process_index * len(tokens)
        local = slice(start, start + len(tokens))
        return spread_over_tokens(process_BS[local].to(device), outcome_B[local].to(device), tokens, mask_BT)

    @torch.no_grad()
    def _gae_advantages(self, batch: dict, tokens: list[list[int]]) -> dict[str, Tensor]:
        mask_BT = batch["completion_mask"]
        lengths_B = mask_BT.sum(dim=1)
        # A row that TRL masked (truncated, with mask_truncated_completions) is paid nothing.
        rows = zip(self._judged, lengths_B.tolist(), strict=True)
        paid = [row.step_rewards if length else [] for row, length in rows]
        outcomes_B = torch.tensor([row.outcome for row in self._judged], device=mask_BT.device) * (lengths_B > 0)
        rewards_BT = place_step_rewards(
            [torch.tensor(rewards, dtype=torch.float32) for rewards in paid],
            [places[: len(rewards)] for places, rewards in zip(tokens, paid, strict=True)],
            outcomes_B,
            (lengths_B - 1).clamp_min(0),
            mask_BT.shape[1],
        )
        size = self.args.per_device_train_batch_size
        with disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs):
            values_BT = torch.cat(
                [
                    self._values(self.model, {k: batch[k][i : i + size] for k in _MODEL_INPUTS})
                    for i in range(0, len(mask_BT), size)
                ]
            )
        advantages_BT, returns_BT = gae(rewards_BT, values_BT, mask_BT, self.args.gamma, self.args.lam)
        known = explained_variance(values_BT, returns_BT, mask_BT) if mask_BT.any() else values_BT.new_tensor(torch.nan)
        self._log("critic/explained_variance", known)
        if self.args.whiten_advantages:
            advantages_BT = self._whiten(advantages_BT, mask_BT)
        return {"advantages": advantages_BT, "old_values": values_BT * mask_BT, "returns": returns_BT}

    def _whiten(self, advantages_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """Mean 0 and variance 1 over the completion tokens of all ranks."""
        kept_BT = advantages_BT * mask_BT
        sums = torch.stack([mask_BT.sum().float(), kept_BT.sum(), kept_BT.square().sum()])
        count, total, squares = self.accelerator.reduce(sums, reduction="sum")
        mean = total / count.clamp_min(1)
        variance = (squares / count.clamp_min(1) - mean.square()).clamp_min(0)
        return (advantages_BT - mean) * torch.rsqrt(variance + 1e-8) * mask_BT

    def _values(self, model, batch: dict[str, Tensor]) -> Tensor:
        critic = self.accelerator.unwrap_model(model).critic
        input_ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
        attention_mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
        with self.accelerator.autocast():
            return critic(input_ids, attention_mask, batch["completion_ids"].shape[1])

    # --- The value loss, beside TRL's policy loss and in the same backward pass.

    def _compute_loss(self, model, inputs):
        loss = super()._compute_loss(model, inputs)
        if not self.has_critic:
            return loss
        mask_BT, values_BT = inputs["completion_mask"], self._values(model, inputs)
        if mask_BT.any():
            value_loss, clipped = clipped_value_loss(
                values_BT, inputs["old_values"], inputs["returns"], mask_BT, self.args.value_clip
            )
        else:
            # Every row was cut off and masked. The critic stays in the graph: all ranks reduce the same gradients.
            value_loss, clipped = 0.0 * values_BT.sum(), values_BT.new_tensor(torch.nan)
        self._log("critic/value_loss", value_loss.detach())
        self._log("critic/clip_fraction", clipped)
        accumulation = self.current_gradient_accumulation_steps if self.model.training else 1
        return loss + self.args.vf_coef * value_loss / accumulation

    def _log(self, name: str, value: Tensor) -> None:
        """Mean over the ranks that have a value; every rank calls it, with NaN where it has none."""
        mode = "train" if self.model.training else "eval"
        self._metrics[mode][name].append(self.accelerator.gather(value.reshape(1)).nanmean().item())

    def _prepare_inputs(self, generation_batch):
        if self.model.training and self._buffered_inputs is None:
            # TRL counts slices from 0 after a resume. From a checkpoint taken between a batch's updates it would then
            # train on each batch's completions half as often as asked and skip the prompts of every second one.
            self._step = self.state.global_step * self.args.gradient_accumulation_steps
        return super()._prepare_inputs(generation_batch)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        logs["samples"] = self.args.samples_at(self.state.global_step)
        super().log(logs, start_time)

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


_MODEL_INPUTS = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")
