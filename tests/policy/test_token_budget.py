"""`tokens_per_device`: however a micro-batch is cut, its gradients are those of one pass over all of it."""

import itertools
from dataclasses import replace

import pytest
import torch
from transformers import set_seed

from rlstep.policy import token_budget
from rlstep.policy.token_budget import check_budget
from rlstep.runtime.errors import UserError

# Prompts are one token; with them rows have 7, 5, 3, 2, 4 and 4.
LONGEST = 7


@pytest.fixture
def rows(row):
    """Three problems, two samples each, one of them cut off and one empty but for its end."""
    return [
        row("1\n2\n3", (1.0, -1.0, 0.5), 1.0),
        row("4\n5", (0.5, 0.0)),
        row("6", (0.25,), 1.0),
        row(""),
        row("7\n8", (1.0, 0.5), finished=False),
        row("9\n1", (0.0, 1.0), 1.0, finished=False),
    ]


@pytest.fixture
def make(scripted, rows):
    """A trainer and its batch; adapters and heads do not start at 0, which passes no gradient on."""

    def trainer_of(**changes):
        set_seed(0)
        trainer = scripted(rows, max_completion_length=6, **changes)
        set_seed(1)
        for parameter in trainer.model.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.1)
        trainer.logged()
        return trainer

    return trainer_of


def passes_of(trainer) -> list[int]:
    """Filled with the places of each pass over the policy or the critic."""
    seen = []
    for module in trainer.model.modules():
        if "embed_tokens" in dict(module.named_children()):
            module.embed_tokens.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].numel()))
    return seen


def moved(trainer) -> dict:
    """A batch whose ratios are not 1: the policy has moved since it was sampled."""
    batch = trainer.batch()
    if "old_per_token_logps" in batch:
        noise = torch.randn(batch["old_per_token_logps"].shape, generator=torch.Generator().manual_seed(2))
        batch["old_per_token_logps"] = batch["old_per_token_logps"] + 0.3 * noise
    return batch


def gradients(trainer, batch) -> tuple[float, dict[str, torch.Tensor]]:
    trainer.model.zero_grad()
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    return loss.item(), {n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.grad is not None}


GROUP, ADAPTER = {"advantage": "group"}, {"advantage": "gae", "critic": "adapter"}
HEAD = {"advantage": "gae", "critic": "head", "critic_trunk_scale": 1.0}
CASES = {
    "dapo": HEAD | {"loss_type": "dapo"},
    "cispo": HEAD | {"loss_type": "cispo", "epsilon_high": 5.0},
    "grpo": HEAD | {"loss_type": "grpo"},
    "sapo": HEAD | {"loss_type": "sapo"},
    "dr_grpo": HEAD | {"loss_type": "dr_grpo"},
    "bnpo": HEAD | {"loss_type": "bnpo"},
    "group": GROUP | {"loss_type": "grpo"},
    "adapter": ADAPTER | {"loss_type": "dr_grpo"},
    "padded group": GROUP | {"loss_type": "bnpo", "packing": False},
    "padded adapter": ADAPTER | {"loss_type": "grpo", "packing": False},
    "padded head": HEAD | {"loss_type": "dapo", "packing": False},
}


@pytest.mark.parametrize("settings", CASES.values(), ids=CASES)
def test_any_cut_gives_the_gradients_of_one_pass(make, settings):
    trainer = make(beta=0.1, kl_estimator="k2", **settings)
    batch = moved(trainer)
    trainer.logged()
    whole_loss, whole = gradients(trainer, batch)
    logged = trainer.logged()
    assert max(gradient.abs().max() for gradient in whole.values()) > 1e-3
    seen, numbers = passes_of(trainer), []
    for budget in (LONGEST, 12, 18, 1000):
        trainer.passes.budget = token_budget.TokenBudget(budget, trainer.passes.packed, trainer.accelerator)
        seen.clear()
        found_loss, actual = gradients(trainer, batch)
        numbers.append(len(seen))
        assert max(seen) <= budget
        assert found_loss == pytest.approx(whole_loss, abs=1e-6)
        for name, gradient in whole.items():
            torch.testing.assert_close(actual[name], gradient, atol=1e-6, rtol=1e-5, msg=f"{budget}: {name}")
        again = trainer.logged()
        assert {name: again[name] for name in logged} == pytest.approx(logged, abs=1e-5, nan_ok=True)
    assert numbers == sorted(numbers, reverse=True)
    assert numbers[0] > 2 * numbers[-1] > 0


@pytest.mark.parametrize("bonus", [{"entropy_coef": 0.05}, {"use_adaptive_entropy": True, "entropy_target": 9.0}])
def test_the_entropy_bonus_is_the_whole_micro_batchs(make, bonus):
    actual = []
    for budget in (None, LONGEST):
        trainer = make(loss_type="bnpo", tokens_per_device=budget, **bonus)
        trainer.entropy_coef, trainer._last_world_entropy = 0.05, 0.0
        loss, of_parameters = gradients(trainer, trainer.batch())
        actual.append((loss, *of_parameters.values(), torch.tensor(trainer.entropy_coef)))
    torch.testing.assert_close(actual[0], actual[1], atol=1e-6, rtol=1e-5)


def test_passes_without_gradients_keep_to_it_too(make):
    settings = {"advantage": "gae", "critic": "adapter", "beta": 0.1, "kl": "reward", "truncated": "bootstrap"}
    for packing in (True, False):
        plain, cut = (make(packing=packing, tokens_per_device=budget, **settings) for budget in (None, LONGEST + 1))
        seen = passes_of(cut)
        batch, expected = cut.batch(), plain.batch()
        assert max(seen) <= LONGEST + 1
        assert len(seen) >= 3 * 3  # three passes or more each for the policy, the reference and the critic
        for name in ("old_per_token_logps", "ref_per_token_logps", "old_values", "advantages"):
            torch.testing.assert_close(batch[name], expected[name], atol=1e-5, rtol=1e-5)


def test_groups_stay_whole_where_they_fit(make):
    """Padded, groups have 2 * 7, 2 * 3 and 2 * 4 places, the last two together 4 * 4; the first one's rows 7 and 5."""
    trainer = make(packing=False)
    batch = trainer.batch()
    for budget, expected in ((16, [2, 4]), (15, [2, 2, 2]), (13, [1, 1, 2, 2])):
        cut = token_budget.TokenBudget(budget, None, trainer.accelerator).pieces(batch)
        assert [rows.stop - rows.start for rows in cut] == expected


def test_every_rank_makes_passes_over_as_many_rows(make, monkeypatch):
    """Another rank has longer rows, and gets as far as one row, then two more, then one."""
    trainer = make(tokens_per_device=24, advantage="gae")
    batch = trainer.batch()
    alone = trainer.passes.budget.pieces(batch)
    expected = gradients(trainer, batch)
    others = itertools.cycle([1, 3, 4, 6])
    monkeypatch.setattr(token_budget, "gather_object", lambda ends: [*ends, (next(others), None)])
    assert len(alone) < 4
    assert trainer.passes.budget.pieces(batch) == [slice(0, 1), slice(1, 3), slice(3, 4), slice(4, 6)]
    actual = gradients(trainer, batch)
    assert actual[0] == pytest.approx(expected[0], abs=1e-6)
    torch.testing.assert_close(actual[1], expected[1], atol=1e-6, rtol=1e-5)


def test_a_row_of_another_rank_that_does_not_fit_ends_the_run_here_too(make, monkeypatch):
    trainer = make(tokens_per_device=24)
    batch = trainer.batch()
    monkeypatch.setattr(token_budget, "gather_object", lambda ends: [*ends, (None, "one row has 90 tokens")])
    with pytest.raises(UserError, match="one row has 90 tokens"):
        trainer.passes.budget.pieces(batch)


def test_gradients_are_reduced_with_the_last_piece_alone(make):
    trainer, reduced = make(tokens_per_device=LONGEST), []
    batch, compute = trainer.batch(), trainer._compute_loss
    trainer._compute_loss = lambda *args: (reduced.append(trainer.accelerator.sync_gradients), compute(*args))[1]
    trainer.compute_loss(trainer.model, batch)
    assert len(reduced) > 2
    assert reduced == [False] * (len(reduced) - 1) + [True]


def test_a_row_that_does_not_fit_is_named(make, rows):
    rows[0] = replace(rows[0], text="1\n2\n3\n4")
    trainer = make(tokens_per_device=7, num_iterations=1)
    with pytest.raises(UserError, match=r"one row has 1 prompt and 8 completion tokens; set it to 8 or more"):
        trainer.compute_loss(trainer.model, trainer.batch())


def test_problems_that_could_exceed_it_are_refused_before_anything_is_sampled():
    check_budget({"a": 10, "b": 12}, 20, 32)
    with pytest.raises(UserError, match=r"problem 'b': 12 prompt tokens and a completion of 20 exceed .*, 31\."):
        check_budget({"a": 10, "b": 12}, 20, 31)
