"""Rewards for a PRM that is not to be trusted, from texts to gradients: first error, centring, consistency filter."""

import pytest
import torch

from rlstep.policy.rewards.guards import Guards
from rlstep.policy.rewards.task_rewards import TaskRewards
from tests.policy.gradients import token_gradients

PROBLEM = "Left to right, mod 20: 7 + 3 * 7\n"
# Of one problem: two right answers, of which the PRM doubts one, and two wrong ones, of which it likes one.
TEXTS = [
    "7 + 3 = 10\n10 * 7 = 10\nAnswer: 10",
    "7 + 3 = 12\n12 * 7 = 4\nAnswer: 10",
    "7 + 3 = 10\n10 * 7 = 11\nAnswer: 11",
    "7 + 3 = 19\n19 * 7 = 13\nAnswer: 13",
]
SCORES = [[0.9, 0.9, 0.9], [0.2, 0.3, 0.7], [0.8, 0.8, 0.2], [0.1, 0.2, 0.3]]
GUARDS = Guards(guard_no_answer=False, guard_min_steps=0, guard_repeats=False)


class PRM:
    kind, gives = "prm", "probability"

    def score(self, prompts, completions, steps=None, cut=False):
        return [SCORES[TEXTS.index(text)] for text in completions]


@pytest.fixture
def batch_of(scripted, row, task):
    """The batch of the four texts and their token gradients, by what the rewards and the trainer are given."""

    def make(weights=None, rewards=None, **settings):
        reward_source = TaskRewards(
            task,
            weights or {"prm": 1.0, "outcome": 1.0},
            {"prm": PRM()},
            guards=GUARDS,
            **{"credit": "sum"} | (rewards or {}),
        )

        def source(prompts, completions, references):
            return reward_source([PROBLEM] * 4, completions, ["10"] * 4)

        trainer = scripted(
            [row(text) for text in TEXTS], source, num_generations=4, max_completion_length=64, **settings
        )
        batch = trainer.batch()
        return batch, token_gradients(trainer, batch)

    return make


def of_steps(batch, row: int) -> list[float]:
    """A row's distinct advantages, in order; within a step they are equal."""
    values = batch["advantages"][row][batch["completion_mask"][row].bool()].tolist()
    return [v for k, v in enumerate(values) if k == 0 or v != values[k - 1]]


def test_only_the_suffix_bears_the_penalty(batch_of):
    """VPPO: the third text is good up to its third line, the fourth nowhere. Tokens are lines of equal length here."""
    rewards = {"credit": "first_error", "credit_parameters": {"margin": "none"}, "first_error_threshold": 0.5}
    batch, gradients = batch_of(None, rewards | {"process_weight": 0.5}, advantage="mean_return")
    mask = batch["completion_mask"].bool()
    lengths = mask.sum(dim=1)
    # the prefix is what comes before the third line
    (good,) = [int((batch["advantages"][2] == batch["advantages"][2, 0]).sum())]
    baseline = (1 + 1 + 0.5 * good / lengths[2].item() + 0) / 4
    assert of_steps(batch, 0) == of_steps(batch, 1) == [pytest.approx(1 - baseline)]
    assert of_steps(batch, 2) == [pytest.approx(0.5 - baseline), pytest.approx(-baseline)]
    assert of_steps(batch, 3) == [pytest.approx(-baseline)]
    # with the outcome alone the prefix is pushed down as far as the rest
    _, alone = batch_of({"outcome": 1.0, "prm": 0.0}, None, advantage="mean_return")
    assert (alone[2][:good] == alone[2][good]).all()
    assert (gradients[2][:good] < gradients[2][good]).all()


def test_a_convincing_wrong_solution_is_paid_no_more_than_its_like(batch_of):
    """PROGRS: the wrong ones' mean rewards are 0.2 and -0.6 (2p - 1), so each of their steps is raised by 0.2."""
    shared = {"advantage": "group", "step_baseline": "all"}
    plain, before = batch_of(**shared)
    centred, after = batch_of(**shared, centre_wrong=True)
    difference = (centred["advantages"] - plain["advantages"])[:, 0]
    # 6 of 12 steps are raised by 0.2, and so is the mean of all of them by 0.1
    torch.testing.assert_close(difference, torch.tensor([-0.1, -0.1, 0.1, 0.1]))
    assert not torch.equal(before, after)


def test_what_the_scores_contradict_is_not_trained_on(batch_of):
    """PROF: the doubted right answer and the liked wrong one are left out; the PRM pays nothing."""
    batch, gradients = batch_of({"outcome": 1.0, "prm": 0.0}, advantage="group", keep_samples=2)
    assert batch["completion_mask"].any(dim=1).tolist() == [True, False, False, True]
    assert batch["num_items_in_batch"] == batch["completion_mask"].sum()
    assert (of_steps(batch, 0), of_steps(batch, 3)) == ([0.5], [-0.5])
    assert gradients.any(dim=1).tolist() == [True, False, False, True]
    everyone, _ = batch_of({"outcome": 1.0, "prm": 0.0}, advantage="group")
    assert everyone["completion_mask"].any(dim=1).all()


@pytest.mark.parametrize("settings", [{"advantage": "rloo"}, {"advantage": "gae"}, {"advantage": "mean_return"}])
def test_the_filter_serves_every_estimator(batch_of, settings):
    batch, gradients = batch_of({"outcome": 1.0, "prm": 0.0}, keep_samples=2, **settings)
    assert batch["advantages"].any(dim=1).tolist() == [True, False, False, settings["advantage"] != "gae"]
    assert not gradients[1:3].any()
    assert gradients.isfinite().all()
