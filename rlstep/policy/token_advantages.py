"""`TokenAdvantages`: how the trainer gets from a scored batch to an advantage for every token, over all ranks.

Which tokens rewards lie on, and each estimator, are in `rlstep.policy.estimators`.
"""

from functools import partial

from accelerate.utils import gather_object
from torch import Tensor

from rlstep.policy import estimators, vine
from rlstep.policy.rewards.scored import ScoredBatch, ScoredCompletion


class TokenAdvantages:
    """A mixin for `StepPPOTrainer`, whose rollouts, value function and log it uses."""

    @property
    def _compared(self) -> int:
        """Samples per problem that are trained on."""
        return self.args.keep_samples or self.num_generations

    def _token_level(
        self, batch: dict[str, Tensor], local: ScoredBatch, step_ends, kl_cost_BT, trained_B
    ) -> dict[str, Tensor]:
        """Advantages from each token's reward, with what the value loss needs beside them (gae)."""
        mask_BT = batch["completion_mask"]
        rewards_BT = estimators.token_rewards(local.scored, step_ends, mask_BT)
        if kl_cost_BT is not None:
            rewards_BT = rewards_BT - kl_cost_BT
        if self.args.whiten_rewards:
            rewards_BT = estimators.whiten(rewards_BT, mask_BT, self._sum, shift_mean=False)
        if self.value_function is not None:
            computed, explained = self.value_function.advantages(self.model, batch, rewards_BT, local.finished)
            self.training_log.log_value("critic/explained_variance", explained)
            return computed
        # A group may lie on several ranks.
        gathered = [self._gather_padded(x_BT) for x_BT in (rewards_BT, mask_BT)]
        own_rows = self._own_rows(len(mask_BT))
        advantages_BT = estimators.return_advantages(*gathered, own_rows, self._compared, self.args, trained_B)
        return {"advantages": advantages_BT[:, : mask_BT.shape[1]]}

    def _step_level(
        self, batch: dict[str, Tensor], local: ScoredBatch, step_ends, kl_cost_BT, trained_B
    ) -> dict[str, Tensor]:
        """Advantages from each step's reward."""
        mask_BT = batch["completion_mask"]
        scored = local.scored
        if kl_cost_BT is not None:
            scored = estimators.charge_kl(scored, step_ends, kl_cost_BT)
        if self.args.advantage == "vine":
            values_BS = self._vine_values(batch, local, step_ends)
            return {"advantages": estimators.vine_advantages(scored, values_BS, step_ends, mask_BT)}
        advantages_BT = estimators.group_advantages(
            gather_object(scored), self._own_rows(len(scored)), step_ends, mask_BT, self._compared, self.args, trained_B
        )
        return {"advantages": advantages_BT}

    def _vine_values(self, batch: dict[str, Tensor], local: ScoredBatch, step_ends) -> Tensor:
        """(B, S) mean returns of rollouts from the starts of this rank's steps."""
        prompts, completions = (
            [ids[mask.bool()].tolist() for ids, mask in zip(batch[f"{part}_ids"], batch[f"{part}_mask"], strict=True)]
            for part in ("prompt", "completion")
        )
        states, K = vine.states(prompts, completions, step_ends), self.args.vine_rollouts
        size, batches = self.rollouts.batches(len(states), K, len(prompts))
        sample = partial(self.rollouts.sample, K)
        completions_of = vine.roll_out(states, sample, self.max_completion_length, size, batches)

        def score(rows: list[int], ids: list[list[int]]) -> list[ScoredCompletion]:
            texts = self._tokenizer.batch_decode(ids, skip_special_tokens=True)
            columns = (local.prompts, local.references, local.extras)
            problem_prompts, references, extras = ([column[row] for row in rows] for column in columns)
            scored, finished = self._score(problem_prompts, texts, references, ids, extras)
            self.training_log.log_rollouts(scored, finished)
            return scored

        self.log_metric("vine/states", float(len(states)))
        return vine.values(states, vine.returns_of(states, completions_of, score), len(prompts))

    def _process_set_weights(self, everyone: ScoredBatch, ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """(B, T) of this rank's rows, whose process sets may have members on other ranks."""
        ids, masks = (self._gather_padded(x_BT) for x_BT in (ids_BT, mask_BT))
        weights_BT = estimators.process_set_weights(everyone.scored, ids, masks, self.num_generations)
        return weights_BT[self._own_rows(len(mask_BT)), : mask_BT.shape[1]]

    # --- The other ranks' rows.

    def _own_rows(self, rows: int) -> slice:
        """This rank's rows among those gathered from all."""
        return slice(self.accelerator.process_index * rows, (self.accelerator.process_index + 1) * rows)

    def _sum(self, x: Tensor) -> Tensor:
        return self.accelerator.reduce(x, reduction="sum")

    def _gather_padded(self, x_BT: Tensor) -> Tensor:
        return self.accelerator.gather(self.accelerator.pad_across_processes(x_BT, dim=1))
