"""`token_weights: process_set` (lambda-GRPO), from sampled tokens to gradients."""

import pytest
import torch

from rlstep.policy.rewards.scored import ScoredCompletion
from rlstep.runtime.errors import UserError
from tests.policy.gradients import token_gradients

# Of one problem: two begin alike, a third is the first one again, the fourth goes its own way from the start.
TEXTS = ["7 + 3 = 10\n10 * 7 = 10", "7 + 3 = 10\n10 * 7 = 11", "7 + 3 = 10\n10 * 7 = 10", "3 * 7 = 1\n1 + 7 = 8"]
OUTCOMES = [1.0, 0.0, 1.0, 0.0]


def source(prompts, completions, references, step_reward=0.0):
    scored = zip(completions, OUTCOMES, strict=True)
    return [ScoredCompletion([(0, len(text))], [step_reward], o, correct=o > 0, clean=o > 0) for text, o in scored]


@pytest.fixture
def trainer_of(scripted, row):
    def make(source=source, **settings):
        defaults = {"num_generations": 4, "max_completion_length": 64}
        trainer = scripted([row(text) for text in TEXTS], source, **(defaults | settings))
        # Another policy than the reference, so that the KL has a gradient.
        torch.manual_seed(0)
        for name, weights in trainer.model.named_parameters():
            if "lora_" in name:
                weights.data = 0.3 * torch.randn_like(weights)
        return trainer

    return make


def expected_weights(trainer, mask_BT) -> torch.Tensor:
    """One over the number of samples with the same tokens so far, counted one by one."""
    weights_BT = torch.zeros(mask_BT.shape)
    for number, ids in enumerate(trainer.row_ids):
        for t in range(len(ids)):
            weights_BT[number, t] = 1 / sum(other[: t + 1] == ids[: t + 1] for other in trainer.row_ids)
    return weights_BT * mask_BT


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"beta": 0.5},
        {"beta": 0.5, "use_bias_correction_kl": False},
        {"beta": 0.5, "kl_estimator": "k2"},
        {"loss_type": "grpo", "beta": 0.5},
        {"advantage": "rloo"},
        {"advantage": "mean_return"},
    ],
)
def test_every_tokens_loss_is_divided_by_the_size_of_its_process_set(trainer_of, settings):
    plain, weighted = trainer_of(**settings), trainer_of(**settings, token_weights="process_set")
    batches = plain.batch(), weighted.batch()
    weights_BT = expected_weights(weighted, batches[1]["completion_mask"])
    assert {round(1 / w) for w in weights_BT[weights_BT > 0].tolist()} == {1, 2, 3}
    torch.testing.assert_close(batches[1]["advantages"], batches[0]["advantages"] * weights_BT)
    for batch in batches:
        if "old_per_token_logps" in batch:  # as in the second epoch, but none is clipped
            batch["old_per_token_logps"] = batch["old_per_token_logps"] + 0.1
    before, after = token_gradients(plain, batches[0]), token_gradients(weighted, batches[1])
    assert before.abs().sum() > 0
    torch.testing.assert_close(after, before * weights_BT)


def test_what_is_not_trained_on_is_in_no_process_set(trainer_of, row, scripted):
    """With mask_truncated_completions the third sample has no loss, so that the first one has to share it less."""
    rows = [row(text, finished=number != 2) for number, text in enumerate(TEXTS)]
    settings = {"num_generations": 4, "max_completion_length": 64, "mask_truncated_completions": True}
    batch = scripted(rows, source, token_weights="process_set", **settings).batch()
    plain = scripted(rows, source, **settings).batch()
    assert not batch["completion_mask"][2].any()
    ratio = batch["advantages"][0, 0] / plain["advantages"][0, 0]
    assert ratio.item() == pytest.approx(1 / 2)


def test_rewards_for_steps_are_refused(trainer_of):
    def pays_steps(*columns):
        return source(*columns, step_reward=0.5)

    trainer = trainer_of(pays_steps, token_weights="process_set")
    with pytest.raises(UserError, match="this reward source pays for steps, too; pay outcomes alone"):
        trainer.batch()
    trainer_of(pays_steps).batch()
