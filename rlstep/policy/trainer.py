"""`StepPPOTrainer`: TRL's GRPOTrainer with an advantage for every token.

One update, in order, is this file from top to bottom: sample, score, advantages (`token_advantages.py`), loss.
Generation, LoRA, the reference, the clipped surrogate, DeepSpeed and logging are TRL's. What is added: TRL's batch gets
(B, T) advantages made of step rewards, which its loss supports for subclasses; the KL may be charged as a reward, or
estimated otherwise.

The modules around it hold how a batch goes through a model (`passes.py`), the critic (`value_function.py`), further
samples of the policy (`rollouts.py`), vLLM (`vllm_sync.py`), the log (`monitoring/training_log.py`) and exact resume
(`resume.py`). `tests/policy/test_trl_seam.py` holds TRL's private names to what is relied on in these.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from accelerate.utils import gather_object
from peft import PeftConfig
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from trl import GRPOTrainer
from trl.trainer.callbacks import SyncRefModelCallback

from rlstep.policy import estimators
from rlstep.policy.config import StepPPOConfig
from rlstep.policy.end_tokens import write_generation_config
from rlstep.policy.forward import Tap, groups_together
from rlstep.policy.kl import kl_in_loss, kl_when_sampled, trls_kl
from rlstep.policy.models import load_base
from rlstep.policy.monitoring.training_log import TrainingLog
from rlstep.policy.passes import Passes
from rlstep.policy.prompt_files import write_prompt_format
from rlstep.policy.resume import ExactPolicyResume
from rlstep.policy.rewards.own import columns_of
from rlstep.policy.rewards.scored import RewardSource, ScoredBatch, ScoredCompletion, extra_of
from rlstep.policy.rollouts import Rollouts
from rlstep.policy.token_advantages import TokenAdvantages
from rlstep.policy.value_function import SyncPolicyAlone, ValueFunction
from rlstep.policy.vllm_sync import PolicyOnVLLM
from rlstep.runtime.errors import UserError
from rlstep.runtime.heap import give_back_freed_memory
from rlstep.runtime.processes import start_processes
from rlstep.steps.prompts import PromptFormat
from rlstep.verifiers.adapters import Adapter, name_bases_in_full
from rlstep.verifiers.generation import keep_generation_config
from rlstep.verifiers.lora_targets import refuse_trained_biases
from rlstep.verifiers.merging import put_adapter


def process(scored: list[ScoredCompletion], **_) -> list[float]:
    """TRL's reward function `process`: the sum of each completion's step rewards."""
    return [float(sum(row.step_rewards)) for row in scored]


def outcome(scored: list[ScoredCompletion], **_) -> list[float]:
    """TRL's reward function `outcome`."""
    return [row.outcome for row in scored]


class StepPPOTrainer(TokenAdvantages, ExactPolicyResume, PolicyOnVLLM, GRPOTrainer):
    """PPO with a reward for every reasoning step.

    Args:
        model: path, hub id or instance of a causal LM.
        reward_source: scores completions (`rlstep.policy.rewards.task_rewards`).
        args: the configuration.
        train_dataset, eval_dataset: rows with `prompt`, text or a list of messages, and `reference`; what else is known
            of a problem, for the reward source, as JSON in `extra`.
        processing_class: the policy's tokenizer.
        peft_config: the LoRA adapter to train. With `critic: adapter` the critic then shares the frozen base; beside a
            policy whose weights are all trained it has a frozen base of its own, the reference where there is one.
            With `critic: head` it needs none.
        adapter: one to train further, in place of a fresh one; `model` is its base.
        critic_config: the critic's adapter; the policy's by default, or one of rank 16.
        callbacks: as in the Trainer.
        run_identity: settings that a checkpoint must have been written with to be continued by this run.
        prompt_format: how prompts become tokens; by default as text or as chats, as the training data has them.

    Attributes:
        observers: called with each `ScoredBatch` drawn for training, that of all ranks on every rank, after its
            advantages are computed.
        rollouts: draws more samples of the policy.
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
        adapter: Adapter | None = None,
        critic_config: PeftConfig | None = None,
        callbacks: list[TrainerCallback] | None = None,
        run_identity: dict[str, Any] | None = None,
        prompt_format: PromptFormat | None = None,
    ):
        self.reward_source = reward_source
        self.prompt_format = (prompt_format or PromptFormat()).resolved(train_dataset["prompt"])
        self.observers: list[Callable[[ScoredBatch], None]] = []
        self.rollouts, self.training_log = Rollouts(self), TrainingLog(self)
        start_processes(args)
        self.value_function: ValueFunction | None = None
        shape = peft_config or (adapter and adapter.lora)
        if args.beta:
            refuse_trained_biases(shape, "the reference, which is the policy without its adapter,")
        if args.advantage == "gae":
            if args.critic == "head" and critic_config is not None:
                raise UserError("critic 'head' has no adapter, so critic_config would do nothing; leave it out.")
            self.value_function = ValueFunction(args, critic_config or peft_config or (adapter and adapter.shape()))
            if args.critic == "adapter" and shape is not None:
                refuse_trained_biases(shape, "the critic")
                model = load_base(model, args)
                self.value_function.share_base(model)
        if adapter is not None:
            model = put_adapter(load_base(model, args), adapter, trainable=True)
        super().__init__(
            model=model,
            reward_funcs=[process, outcome],
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            peft_config=peft_config,
            callbacks=callbacks,
            run_identity=run_identity,
        )
        keep_generation_config(self.model)
        name_bases_in_full(self.model)
        self.passes = Passes(self)
        if self.value_function is not None:
            # A reference that follows the policy would change the critic's values with every step of its own.
            moves = self.is_deepspeed_enabled or self.args.sync_ref_model
            reference = None if moves else self.ref_model
            self.value_function.attach(self.model, reference, self.accelerator, self.passes)
            if (sync := self.pop_callback(SyncRefModelCallback)) is not None:
                self.add_callback(SyncPolicyAlone(sync.ref_model, sync.accelerator))

    def _generate_and_score_completions(self, inputs):
        """One update up to its loss, from the rows of the data set to the batch that the loss is computed on."""
        # Sample and score. TRL calls `_tokenize_prompts` and `_calculate_rewards` on the way, with these rows. It sees
        # the text of a chat, not its messages, which it would write and read back in ways of its own.
        rows = [
            row | {"prompt": self.prompt_format.render(self._tokenizer, row["prompt"]), "problem_prompt": row["prompt"]}
            for row in inputs
        ]
        training = self.model.training
        batch = super()._generate_and_score_completions(rows)
        if not training:
            self.model.eval()  # continuous batching leaves it in training mode
        mask_BT, update = batch["completion_mask"], self.args.batches_at(self.state.global_step) + 1
        local, everyone = (ScoredBatch.from_rows(update, part) for part in (rows, gather_object(rows)))
        self.training_log.log_completions(everyone, gather_object(mask_BT.sum(dim=1).tolist()))
        if not training:
            return batch  # nothing is trained on an evaluation's completions
        kl_cost_BT = None
        if self.args.kl == "reward":
            kl_BT = kl_when_sampled(self, batch, self.args.kl_kind[1])
            self.training_log.log_token_mean("kl", kl_BT, mask_BT)
            kl_cost_BT = self.beta * kl_BT
        own_rows = self._own_rows(len(mask_BT))
        row_B = torch.arange(own_rows.start, own_rows.stop, device=mask_BT.device)
        batch["group"] = row_B // self.num_generations
        # What a problem's samples are worth within their outcome, and which of them are trained on.
        scored, trained_B = estimators.centre_and_select(everyone.scored, self.args)
        local = replace(local, scored=scored[own_rows])
        if trained_B is not None:
            mask_BT = mask_BT * trained_B[own_rows].to(mask_BT)[:, None]
            batch |= {"completion_mask": mask_BT, "num_items_in_batch": self._sum(mask_BT.sum())}
        # Credit: which tokens the rewards belong to. Then advantages.
        step_ends = estimators.step_end_tokens(self._tokenizer, batch["completion_ids"], mask_BT, local.scored)
        if self.args.advantage in ("gae", "rloo", "mean_return"):
            batch |= self._token_level(batch, local, step_ends, kl_cost_BT, trained_B)
        else:
            batch |= self._step_level(batch, local, step_ends, kl_cost_BT, trained_B)
        if self.args.whitening != "none":
            shift = self.args.whitening == "full"
            batch["advantages"] = estimators.whiten(batch["advantages"], mask_BT, self._sum, shift_mean=shift)
        if self.args.token_weights == "process_set":
            batch["token_weights"] = self._process_set_weights(everyone, batch["completion_ids"], mask_BT)
            batch["advantages"] = batch["advantages"] * batch["token_weights"]
        if not torch.isfinite(batch["advantages"]).all():  # the policy's weights would become NaN
            raise UserError(
                f"the advantages of update {update} are not finite: rewards are larger than float32 holds, or no "
                "numbers. Look at reward/outcome and reward/process in the log, and scale what is too large."
            )
        self.training_log.log_advantages(batch["advantages"], mask_BT)
        # Last: an observer may train the PRM, and all that this batch is paid has to come from one PRM.
        for observe in self.observers:
            observe(everyone)
        return batch

    def _tokenize_prompts(self, prompts):
        """As for verifiers and for `rlstep sample`: each special token once, and none that closes a text."""
        return self.prompt_format.encode_rendered(self._tokenizer, prompts), None, {}

    def _prepare_inputs(self, generation_batch):
        """A micro-batch; when a batch was just sampled, out of slices with each problem's samples side by side."""
        before = self._buffered_inputs
        inputs = super()._prepare_inputs(generation_batch)
        if self._buffered_inputs is before:
            return inputs
        self._buffered_inputs = groups_together(self._buffered_inputs)
        return self._buffered_inputs[self._step % self.args.steps_per_generation]

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """A batch of an evaluation is sampled and scored; TRL would spend a third of the time on a loss of 0."""
        with self.passes.left_out():
            self._prepare_inputs(inputs)
        self.training_log.forget_log_probabilities()
        return None, None, None

    # --- Score.

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        """Scores this rank's completions, once, for the advantages and for TRL's log.

        What they are worth goes back to the data hook as columns of the rows that it gave to TRL. The rows are the one
        thing that both methods see, as the batch that TRL makes holds tensors alone; and their columns are what TRL
        gives to reward functions, those of the data set and those that a rollout function added.
        """
        problem_prompts, references = ([row[name] for row in inputs] for name in ("problem_prompt", "reference"))
        extras = [extra_of(row) for row in inputs]
        scored, finished = self._score(problem_prompts, completions, references, completion_ids_list, extras)
        for row, completion, scored_row, ended in zip(inputs, completions, scored, finished, strict=True):
            row.update(completion=completion, scored=scored_row, finished=ended)
        return super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)

    def _score(
        self, prompts, completions, references, completion_ids, extras
    ) -> tuple[list[ScoredCompletion], list[bool]]:
        """What completions are worth under `truncated`, and whether the policy ended them itself."""
        scored = self.reward_source(prompts, completions, references, **columns_of(extras))
        finished = [bool(ids) and ids[-1] in self.eos_token_ids for ids in completion_ids]
        if self.args.truncated == "no_process":
            rows = zip(scored, finished, strict=True)
            scored = [row if done else estimators.without_positive_steps(row) for row, done in rows]
        return scored, finished

    # --- Loss.

    def training_step(self, *args, **kwargs):
        """TRL's, which samples and scores first where a batch is used up, with its processor time."""
        with self.training_log.processor_time():
            return super().training_step(*args, **kwargs)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The loss of a micro-batch; with `tokens_per_device` in pieces, those before the last with their backward."""
        whole, budget = partial(super().compute_loss, model), self.passes.budget
        if budget is None:
            return whole(inputs, return_outputs, num_items_in_batch)
        pieces = budget.pieces(inputs)
        if len(pieces) == 1:
            return whole(inputs)
        with self.training_log.one_value_each(inputs["completion_mask"], pieces):
            return budget.loss(model, inputs, pieces, self.loss_type, whole)

    def _compute_loss(self, model, inputs):
        """TRL's policy loss, the KL where it is not TRL's, and the value loss, in one backward pass."""
        if self.accelerator.device.type == "cpu":
            give_back_freed_memory()
        valued, mask_BT = "returns" in inputs, inputs["completion_mask"]
        tap = Tap(model, self.value_function.beside_policy if valued else None)
        with trls_kl(self, added=self.args.kl_is_trls):
            loss = super()._compute_loss(tap, inputs)
        if self.beta and self.args.kl == "loss" and not self.args.kl_is_trls:
            kl_BT = kl_in_loss(tap.log_probs_BT, inputs, self.args.kl_kind[1], self.args.use_bias_correction_kl)
            self.training_log.log_token_mean("kl", kl_BT.detach(), mask_BT)
            loss = loss + self.beta * (self._token_weights(inputs) * kl_BT).sum()
        if valued:
            value_loss, logged = self.value_function.loss(model, inputs, self._token_weights(inputs), tap.values_BT)
            for name, values_BT in logged.items():
                self.training_log.log_token_mean(name, values_BT, mask_BT)
            loss = loss + value_loss
        return loss

    def _get_per_token_logps_and_entropies(
        self, model, input_ids, attention_mask, logits_to_keep, batch_size=None, **more
    ):
        """TRL reads the policy and its reference here alone, for the loss as before it."""
        tap = model if isinstance(model, Tap) else Tap(model)
        padded = partial(super()._get_per_token_logps_and_entropies, **more)
        return self.passes.read(tap, padded, input_ids, attention_mask, logits_to_keep, batch_size)

    def _token_weights(self, inputs: dict[str, Tensor]) -> Tensor:
        """(B, T): how much each token counts in TRL's loss, for terms that stand beside it."""
        accumulation = self.current_gradient_accumulation_steps
        share = 1 / accumulation
        if self.loss_type in ("cispo", "dapo"):
            share = self.args.steps_per_generation / accumulation
        items = inputs["num_items_in_batch"] / self.accelerator.num_processes
        mask_BT = inputs["completion_mask"]
        weights_BT = estimators.token_weights(mask_BT, self.loss_type, items, self.max_completion_length, share)
        # TRL's own term has these in its advantages.
        return weights_BT * inputs["token_weights"] if "token_weights" in inputs else weights_BT

    # --- The log and checkpoints.

    def log_metric(self, name: str, value: float) -> None:
        """A number of this training step, for the next line of the log; an observer calls it on every rank."""
        self._metrics["train"][name].append(value)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        logs["samples"] = self.args.samples_at(self.state.global_step)
        super().log(logs, start_time)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        # Every rank comes here; under ZeRO-3 the first alone has whole weights, which DeepSpeed hands over.
        if not self.args.should_save:
            return super()._save(output_dir, state_dict)
        folder = output_dir or self.args.output_dir
        if self.value_function is None:
            super()._save(output_dir, state_dict)
        else:
            state = self.model.state_dict() if state_dict is None else state_dict
            super()._save(output_dir, self.value_function.without_critic(state))
            self.value_function.save(state, folder)
        write_prompt_format(folder, self.prompt_format)
        write_generation_config(self.accelerator.unwrap_model(self.model), folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model=None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self.value_function is not None:
            self.value_function.load(resume_from_checkpoint)
