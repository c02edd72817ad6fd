"""`StepPPOTrainer`: TRL's GRPOTrainer with an advantage for every token.

Generation, LoRA, the reference, the clipped surrogate, DeepSpeed and logging are TRL's. What is added: what comes back
from `_generate_and_score_completions` gets (B, T) advantages made of step rewards, which TRL's loss supports for
subclasses; the KL may be charged as a reward, or estimated otherwise. A critic (`with_critic.py`) and exact resume
(`resume.py`) are mixed in. `tests/policy/test_trl_seam.py` holds TRL's private names to what is relied on in the three.
"""

import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module

import torch
from accelerate.utils import gather_object
from peft import PeftConfig
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from transformers.integrations import is_deepspeed_zero3_enabled
from trl import GRPOTrainer
from trl.models.utils import disable_gradient_checkpointing

from rlstep.core.kl import kl_estimate
from rlstep.core.masked import masked_mean
from rlstep.policy import estimators, vine
from rlstep.policy.config import StepPPOConfig
from rlstep.policy.monitoring.metrics import batch_metrics
from rlstep.policy.resume import ExactResume
from rlstep.policy.rewards.scored import RewardSource, ScoredCompletion
from rlstep.policy.with_critic import WithCritic
from rlstep.steps.positions import step_tokens, token_ends_from_ids


@dataclass(frozen=True)
class Batch:
    """A batch of completions drawn for training: the rows of all ranks, in one order on each of them."""

    update: int
    prompts: list[str]
    completions: list[str]
    references: list[str]
    judged: list[ScoredCompletion]
    finished: list[bool]


class StepPPOTrainer(ExactResume, WithCritic, GRPOTrainer):
    """PPO with a reward for every reasoning step.

    Args:
        model: path, hub id or instance of a causal LM.
        reward_source: judges completions (`rlstep.policy.rewards.task_rewards`).
        args: the configuration.
        train_dataset, eval_dataset: rows with `prompt` (text) and `reference`.
        processing_class: the policy's tokenizer.
        peft_config: the LoRA adapter to train. With `advantage: gae` the critic then shares the frozen base; beside a
            policy whose weights are all trained it has a frozen base of its own, the reference where there is one.
        critic_config: the critic's adapter; the policy's by default, or one of rank 16.
        callbacks: as in the Trainer.

    Attributes:
        observers: called with each `Batch` drawn for training, on every rank, after its rewards are settled.
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
        critic_config: PeftConfig | None = None,
        callbacks: list[TrainerCallback] | None = None,
    ):
        self.reward_source = reward_source
        self.observers: list[Callable[[Batch], None]] = []
        self._judged: list[ScoredCompletion] = []
        self._completions: list[str] = []
        self._batch_start: float | None = None
        if is_deepspeed_zero3_enabled():
            # Loading shards the weights over the ranks. Of those on CPU, DeepSpeed has not been told yet.
            import_module("deepspeed").init_distributed()
        model = self._plan_critic(model, args, peft_config, critic_config)
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
        self._add_critic()

    # --- Rewards: two TRL reward functions, so that both returns are logged; the second reads what the first judged.

    def process(self, prompts, completions, completion_ids, reference, **_) -> list[float]:
        """Sum of each completion's step rewards. Judges this rank's rows and keeps that for the advantages."""
        self._completions = list(completions)
        self._judged, self._ended = self._judge(prompts, completions, completion_ids, reference)
        return [float(sum(row.step_rewards)) for row in self._judged]

    def _judge(self, prompts, completions, completion_ids, references) -> tuple[list[ScoredCompletion], list[bool]]:
        """What completions are worth under `truncated`, and whether the policy ended them itself."""
        judged = self.reward_source(prompts, completions, references)
        ended = [bool(ids) and ids[-1] in self.eos_token_ids for ids in completion_ids]
        if self.args.truncated == "no_process":
            rows = zip(judged, ended, strict=True)
            judged = [row if done else estimators.without_positive_steps(row) for row, done in rows]
        return judged, ended

    def outcome(self, completions, **_) -> list[float]:
        """Each completion's outcome reward."""
        return [row.outcome for row in self._judged]

    # --- Advantages: the data hook.

    def _generate_and_score_completions(self, inputs):
        batch = super()._generate_and_score_completions(inputs)
        ids_BT, mask_BT = batch["completion_ids"], batch["completion_mask"]
        tokens = self._step_tokens(ids_BT, mask_BT)
        judged = self._judged
        if self.args.kl == "reward":
            cost_BT = self.beta * self._kl_when_sampled(batch)
        lengths = mask_BT.sum(dim=1).tolist()
        everyone = gather_object(list(zip(inputs, judged, self._completions, self._ended, lengths, strict=True)))
        self._log_rows(everyone)
        if not self.model.training:
            # Nothing is trained on an evaluation's completions.
            return batch | {"advantages": torch.zeros(mask_BT.shape, device=mask_BT.device)}
        if self.args.advantage in ("gae", "rloo"):
            rewards_BT = estimators.token_rewards(judged, tokens, mask_BT)
            if self.args.kl == "reward":
                rewards_BT = rewards_BT - cost_BT
            if self.args.whiten_rewards:
                rewards_BT = estimators.whiten(rewards_BT, mask_BT, self._sum, shift_mean=False)
            batch |= self._token_level(batch, rewards_BT)
        else:
            if self.args.kl == "reward":
                judged = estimators.charge_kl(judged, tokens, cost_BT)
            batch["advantages"] = self._step_level(inputs, batch, judged, tokens)
        if self.args.whitening != "none":
            shift = self.args.whitening == "full"
            batch["advantages"] = estimators.whiten(batch["advantages"], mask_BT, self._sum, shift_mean=shift)
        self._log_mean("advantage/mean_abs", batch["advantages"].abs(), mask_BT)
        self._show_advantages(batch["advantages"], mask_BT)
        # Last: an observer may train the PRM, and all that this batch is paid has to come from one PRM.
        self._tell_observers(everyone)
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

    def _token_level(self, batch: dict[str, Tensor], rewards_BT: Tensor) -> dict[str, Tensor]:
        mask_BT = batch["completion_mask"]
        if self.args.advantage == "rloo":
            # A group may lie on several ranks.
            every_BT, masks_BT = (self._gather_padded(x_BT) for x_BT in (rewards_BT, mask_BT))
            local = self._local(len(mask_BT))
            found_BT = estimators.rloo_advantages(every_BT, masks_BT, local, self.num_generations, self.args.gamma)
            return {"advantages": found_BT[:, : mask_BT.shape[1]]}
        return self._gae(batch, rewards_BT)

    def _step_level(self, inputs, batch: dict[str, Tensor], judged: list[ScoredCompletion], tokens) -> Tensor:
        mask_BT = batch["completion_mask"]
        if self.args.advantage == "vine":
            return estimators.vine_advantages(judged, self._vine_values(inputs, batch, tokens), tokens, mask_BT)
        local = self._local(len(tokens))
        return estimators.group_advantages(
            gather_object(judged), local, tokens, mask_BT, self.num_generations, self.args
        )

    def _local(self, rows: int) -> slice:
        """This rank's rows among those gathered from all."""
        return slice(self.accelerator.process_index * rows, (self.accelerator.process_index + 1) * rows)

    def _sum(self, x: Tensor) -> Tensor:
        return self.accelerator.reduce(x, reduction="sum")

    def _gather_padded(self, x_BT: Tensor) -> Tensor:
        return self.accelerator.gather(self.accelerator.pad_across_processes(x_BT, dim=1))

    # --- Monte-Carlo values.

    def _vine_values(self, inputs, batch: dict[str, Tensor], tokens) -> Tensor:
        """(B, S) mean returns of rollouts from the starts of this rank's steps."""
        prompts, completions = (
            [ids[mask.bool()].tolist() for ids, mask in zip(batch[f"{part}_ids"], batch[f"{part}_mask"], strict=True)]
            for part in ("prompt", "completion")
        )
        todo, K = vine.states(prompts, completions, tokens), self.args.vine_rollouts
        # As many sequences at a time as the policy's own samples are.
        size = max(1, len(prompts) // K)
        batches = max(gather_object([-(-len(todo) // size)]))
        rollouts = vine.roll_out(todo, partial(self._sample_on, K), self.max_completion_length, size, batches)
        flat = [(state.row, ids) for state, found in zip(todo, rollouts, strict=True) for ids in found]
        texts = self._tokenizer.batch_decode([ids for _, ids in flat], skip_special_tokens=True)
        asked, references = ([inputs[row][name] for row, _ in flat] for name in ("prompt", "reference"))
        judged, _ = self._judge(asked, texts, [ids for _, ids in flat], references)
        earned = [vine.returns(judged[i * K : (i + 1) * K], state.steps) for i, state in enumerate(todo)]
        self._metrics["train"]["vine/states"].append(float(len(todo)))
        return vine.values(todo, earned, len(prompts))

    def sample_texts(self, prefixes: list[str], n: int) -> list[list[str]]:
        """n continuations of each text by the policy as it is; the same ones on every rank, which share the work."""
        ranks, rank = self.accelerator.num_processes, self.accelerator.process_index
        size = max(1, self.args.per_device_train_batch_size // n)
        share = -(-len(prefixes) // ranks)
        ids = [self._tokenizer(text)["input_ids"] for text in prefixes]
        # Every rank generates equally often; what is too much is dropped below.
        mine = (ids + ids[:1] * (ranks * share - len(ids)))[rank * share : (rank + 1) * share]
        found = []
        for start in range(0, share, size):
            found += self._sample_on(n, mine[start : start + size], self.max_completion_length)
        texts = [self._tokenizer.batch_decode(rows, skip_special_tokens=True) for rows in found]
        return gather_object(texts)[: len(prefixes)]

    def _sample_on(self, K: int, prefixes: list[list[int]], new_tokens: int) -> list[list[list[int]]]:
        """K completions of each prefix, by whatever generates the policy's own."""
        with self._at_most(new_tokens):
            found, _ = self._generate_single_turn([ids for ids in prefixes for _ in range(K)], None, {}, K)
        return [found[i * K : (i + 1) * K] for i in range(len(prefixes))]

    @contextmanager
    def _at_most(self, new_tokens: int):
        """Generates fewer tokens for a while; vLLM, whose engine holds the limit, is cut afterwards."""
        config = getattr(self, "generation_config", None)
        if config is None:
            yield
            return
        before, config.max_new_tokens = config.max_new_tokens, new_tokens
        self.generation_kwargs["max_new_tokens"] = new_tokens
        try:
            yield
        finally:
            config.max_new_tokens = self.generation_kwargs["max_new_tokens"] = before

    # --- The KL, where it is not TRL's.

    @torch.no_grad()
    def _kl_when_sampled(self, batch: dict[str, Tensor]) -> Tensor:
        """(B, T) estimates at the policy that sampled, 0 behind a completion's end.

        Its log-probabilities are kept in the batch, where the loss needs the same ones.
        """
        mask_BT = batch["completion_mask"]
        if "old_per_token_logps" not in batch:
            ids, attention = (
                torch.cat([batch[f"prompt_{part}"], batch[f"completion_{part}"]], dim=1) for part in ("ids", "mask")
            )
            with disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs):
                batch["old_per_token_logps"], *_ = self._get_per_token_logps_and_entropies(
                    self.model, ids, attention, mask_BT.shape[1], self.args.per_device_train_batch_size
                )
        kl_BT = kl_estimate(batch["old_per_token_logps"], batch["ref_per_token_logps"], self.args.kl_kind[1])
        self._log_mean("kl", kl_BT, mask_BT)
        return kl_BT * mask_BT

    def _get_per_token_logps_and_entropies(self, *args, **kwargs):
        found = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        self._newest_logps = found[0]
        return found

    @contextmanager
    def _beta_for_trl(self):
        """TRL adds beta times k3 to the loss; what is charged as a reward or estimated otherwise is not its to add."""
        beta = self.beta
        if not self.args.kl_is_trls:
            self.beta = 0.0
        try:
            yield
        finally:
            self.beta = beta

    def _kl_loss(self, inputs: dict[str, Tensor]) -> Tensor:
        """beta times the mean k2, averaged as TRL averages its own."""
        kl_BT = kl_estimate(self._newest_logps, inputs["ref_per_token_logps"], self.args.kl_kind[1])
        self._log_mean("kl", kl_BT.detach(), inputs["completion_mask"])
        return self.beta * (self._token_weights(inputs) * kl_BT).sum()

    def _token_weights(self, inputs: dict[str, Tensor]) -> Tensor:
        """(B, T): how much each token counts in TRL's loss, for terms that stand beside it."""
        accumulation = self.current_gradient_accumulation_steps if self.model.training else 1
        share = 1 / accumulation
        if self.model.training and self.loss_type in ("cispo", "dapo"):
            share = self.args.steps_per_generation / accumulation
        items = inputs["num_items_in_batch"] / self.accelerator.num_processes
        mask_BT = inputs["completion_mask"]
        return estimators.token_weights(mask_BT, self.loss_type, items, self.max_completion_length, share)

    # --- The value loss, beside TRL's policy loss and in the same backward pass.

    def _compute_loss(self, model, inputs):
        with self._beta_for_trl():
            loss = super()._compute_loss(model, inputs)
        if self.beta and self.args.kl == "loss" and not self.args.kl_is_trls:
            loss = loss + self._kl_loss(inputs)
        self._newest_logps = None
        # An evaluation's completions have no returns: nothing is trained on them.
        return loss + self._value_loss(model, inputs) if "returns" in inputs else loss

    # --- What is logged, and who else sees the samples.

    def _log_rows(self, everyone: list[tuple]) -> None:
        """One value a row, not one a batch: a last, smaller batch of an evaluation must not weigh as much as others."""
        training, loader = self.model.training, self.accelerator.gradient_state
        if not training and loader.end_of_dataloader and loader.remainder > 0:
            # So that the ranks have batches of one size, the last one repeats rows of the first.
            everyone = everyone[: loader.remainder]
        _, judged, completions, finished, lengths = (list(part) for part in zip(*everyone, strict=True))
        size = self.num_generations if training else self.num_generations_eval
        metrics = self._metrics["train" if training else "eval"]
        for name, values in batch_metrics(judged, completions, size, lengths, finished).items():
            metrics[name] += values
        if training:
            now = time.perf_counter()
            if self._batch_start is not None:
                metrics["tokens_per_second"].append(self._batch_tokens / (now - self._batch_start))
            self._batch_start, self._batch_tokens = now, sum(lengths)

    def _show_advantages(self, advantages_BT: Tensor, mask_BT: Tensor) -> None:
        """Puts each completion's mean advantage in the place of TRL's in the completions that it shows."""
        means_B = (advantages_BT * mask_BT).sum(dim=1) / mask_BT.sum(dim=1).clamp_min(1)
        means, shown = self.accelerator.gather(means_B).tolist(), self._logs["advantages"]
        for _ in range(min(len(means), len(shown))):
            shown.pop()
        shown.extend(means)

    def _tell_observers(self, everyone: list[tuple]) -> None:
        if not self.observers:
            return
        inputs, judged, completions, finished, _ = (list(part) for part in zip(*everyone, strict=True))
        batch = Batch(
            update=self.args.batches_at(self.state.global_step) + 1,
            prompts=[row["prompt"] for row in inputs],
            completions=completions,
            references=[row["reference"] for row in inputs],
            judged=judged,
            finished=finished,
        )
        for observe in self.observers:
            observe(batch)

    def log_metric(self, name: str, value: float) -> None:
        """A number of this training step, for the next line of the log; an observer calls it on every rank."""
        self._metrics["train"][name].append(value)

    def _log(self, name: str, value: Tensor) -> None:
        """Mean over the ranks that have a value; every rank calls it, with NaN where it has none."""
        mode = "train" if self.model.training else "eval"
        self._metrics[mode][name].append(self.accelerator.gather(value.reshape(1)).nanmean().item())

    def _log_mean(self, name: str, values_BT: Tensor, mask_BT: Tensor) -> None:
        self._log(name, masked_mean(values_BT, mask_BT) if mask_BT.any() else values_BT.new_tensor(torch.nan))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        logs["samples"] = self.args.samples_at(self.state.global_step)
        super().log(logs, start_time)
