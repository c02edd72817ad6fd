"""What the trainer's further settings change: estimators, whitening, the KL, cut-off completions, who watches."""

from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from datasets import Dataset

from rlstep.core.kl import kl_estimate
from rlstep.policy.models import load_policy_tokenizer
from rlstep.policy.rewards.scored import ScoredBatch, ScoredCompletion
from rlstep.policy.trainer import StepPPOTrainer
from rlstep.runtime.errors import UserError
from tests.families import FAMILIES


@pytest.fixture
def rows(row):
    """Two problems, two samples each. Tokens: `1 \\n 2 <eos>`, `4 <eos>`, `6 <eos>` and `<eos>` alone."""
    return [row("1\n2", (1.0, -0.5), 1.0), row("4", (0.5,)), row("6", (0.25,), 1.0), row("")]


def changed(rows, index: int, **fields):
    return [replace(row, **fields) if i == index else row for i, row in enumerate(rows)]


def advantages(trainer) -> torch.Tensor:
    return trainer.batch()["advantages"]


# --- Estimators.


def test_rloo_by_hand(scripted, rows):
    """Rewards of the first row: 0, 1, -0.5, 1, where a step ends at its newline; G: 1.5, 1.5, 0.5, 1. N is 4 and 2."""
    actual = advantages(scripted(rows, advantage="rloo", whiten_advantages="none"))
    first, second = (1.5 + 1.5 + 0.5 + 1.0) / 4, (0.5 + 0.0) / 4
    third, fourth = (1.25 + 1.0) / 2, 0.0
    expected = [
        [1.5 - second, 1.5 - second, 0.5 - second, 1.0 - second],
        [0.5 - first, 0.0 - first, 0.0, 0.0],
        [1.25 - fourth, 1.0 - fourth, 0.0, 0.0],
        [0.0 - third, 0.0, 0.0, 0.0],
    ]
    torch.testing.assert_close(actual, torch.tensor(expected))


def test_gamma_discounts_rloos_returns(scripted, rows):
    actual = advantages(scripted(rows, advantage="rloo", whiten_advantages="none", gamma=0.5))
    # The fourth row has nothing, so the third's baseline is 0: 0.25 + 0.5 * 1, and 1.
    torch.testing.assert_close(actual[2], torch.tensor([0.75, 1.0, 0.0, 0.0]))


def test_an_early_steps_reward_moves_early_tokens_under_rloo(scripted, rows):
    before, after = (
        advantages(scripted(r, advantage="rloo", whiten_advantages="none"))
        for r in (rows, changed(rows, 0, step_rewards=(2.0, -0.5)))
    )
    # Its own step's two tokens gain 1, later ones nothing; the other sample's baseline rises by 2/4.
    torch.testing.assert_close(
        after - before, torch.tensor([[1.0, 1.0, 0, 0], [-0.5, -0.5, 0, 0], [0.0] * 4, [0.0] * 4])
    )


def test_step_baseline_rewards_centres_before_it_sums(scripted, row):
    """R = 1, 1, 0.5 has the mean 5/6; the first sample has two steps to sum, the other one."""
    rows = [row("1\n2", (1.0, 1.0)), row("4", (0.5,))]
    actual = advantages(scripted(rows, step_baseline="rewards", step_discount=1.0))
    torch.testing.assert_close(actual, torch.tensor([[1 / 3, 1 / 3, 1 / 6, 1 / 6], [-1 / 3, -1 / 3, 0.0, 0.0]]))


@pytest.fixture
def vine_trainer(scripted, tokenizer):
    """Makes a vine trainer whose rollouts are scripted: `continuations` maps the text so far to K completions of it.

    Texts with `too_long` in them are too long for a verifier; without it there is none. `trainer.rolled_out` lists (the
    texts that were continued, the new tokens allowed) of each call for rollouts.
    """

    def make(rows, continuations, finished=True, too_long=None, **changes):
        from rlstep.policy.rewards.scored import ScoredCompletion
        from rlstep.steps.boundaries import line_steps

        worth = {row.text: row for row in rows}

        def judge(prompts, completions, references):
            judged = []
            for text in completions:
                row = worth.get(text)
                steps = line_steps(text)
                rewards = list(row.step_rewards) if row else [0.25] * len(steps)
                outcome = row.outcome if row else float(text.endswith("9"))
                cut_by = None if too_long is None else ["prm"] * (too_long in text)
                judged.append(ScoredCompletion(steps, rewards, outcome, outcome > 0, False, cut_by=cut_by))
            return judged

        K = len(next(iter(continuations.values())))
        trainer = scripted(rows, judge, advantage="vine", vine_rollouts=K, **changes)
        end = [tokenizer.eos_token_id] * finished
        trainer.rolled_out, samples = [], iter([trainer.row_ids])

        def write(prompt_ids, n):
            # The batch's own samples are drawn first; all that is asked for after them are rollouts.
            if (own := next(samples, None)) is not None:
                return own
            texts = tokenizer.batch_decode(prompt_ids)
            assert (n, len(texts) % K) == (K, 0)
            assert all(texts[i] == texts[i - i % K] for i in range(len(texts)))
            trainer.rolled_out.append((texts[::K], trainer.generation_config.max_new_tokens))
            new = [continuations[text][i % K] for i, text in enumerate(texts)]
            return [tokenizer(text, add_special_tokens=False)["input_ids"] + end for text in new]

        trainer.sample_by(write)
        return trainer

    return make


def test_vine_by_hand(vine_trainer, row):
    rows = [row("1\n2", (1.0, -0.5), 1.0), row("4", (0.5,))]
    trainer = vine_trainer(
        rows,
        # From the prompt: two steps and right, one step and wrong, one right. Behind "1\n": right, wrong, wrong.
        {"0\n": ["3\n9", "3", "9"], "0\n1\n": ["9", "3", "3"]},
    )
    actual = advantages(trainer)
    start = ((0.5 + 1.0) + 0.25 + (0.25 + 1.0)) / 3
    # The reward of the step that lies behind the state is not the rollout's.
    middle = ((0.25 + 1.0) + 0.25 + 0.25) / 3
    first, second = 1.0 + middle - start, -0.5 + 1.0 - middle
    expected = [[first, first, second, second], [0.5 - start, 0.5 - start, 0.0, 0.0]]
    torch.testing.assert_close(actual, torch.tensor(expected))


def test_rollouts_are_given_what_is_left_of_the_completion(vine_trainer, row):
    """Of 16 tokens, two are written behind "1\\n". Two samples leave room for one state with two rollouts at a time."""
    trainer = vine_trainer([row("1\n2"), row("4")], {"0\n": ["3", "3"], "0\n1\n": ["9", "9"]})
    advantages(trainer)
    assert trainer.rolled_out == [(["0\n1\n"], 14), (["0\n"], 16)]


def test_the_limit_of_a_rollout_is_not_the_next_samples(vine_trainer, row):
    """Not even where the rollouts fail, as here, where no continuation of "1\\n" is scripted."""
    trainer = vine_trainer([row("1\n2"), row("4")], {"0\n": ["3", "3"]})
    with pytest.raises(KeyError):
        advantages(trainer)
    assert trainer.rolled_out == [(["0\n1\n"], 14)]
    assert trainer.generation_config.max_new_tokens == trainer.generation_kwargs["max_new_tokens"] == 16


def test_rollouts_are_paid_under_truncated_as_samples_are(vine_trainer, row):
    """Two samples cut off, and rollouts that are cut off like them: nobody is paid for steps, nobody stands out."""
    rows = [row("1", (1.0,), finished=False), row("1", (1.0,), finished=False)]
    continuations = {"0\n": ["3", "3"]}
    assert not advantages(vine_trainer(rows, continuations, finished=False, truncated="no_process")).any()
    # Rollouts that end by themselves keep their step's 0.25.
    actual = advantages(vine_trainer(rows, continuations, finished=True, truncated="no_process"))
    torch.testing.assert_close(actual, torch.full_like(actual, -0.25))


@pytest.mark.parametrize(
    ("too_long", "finished", "cut", "truncated"),
    # Of six rollouts two have a 7; three have a 1 from their state, which one of the two samples has as well.
    [("7", True, (2 / 6, 0), (0, 0)), ("1", False, (3 / 6, 1 / 2), (1, 0))],
)
def test_rollouts_that_are_cut_are_counted_beside_the_samples(vine_trainer, row, too_long, finished, cut, truncated):
    continuations = {"0\n": ["3", "7", "9"], "0\n1\n": ["9", "9", "7\n2"]}
    trainer = vine_trainer([row("1\n2"), row("4")], continuations, finished, too_long)
    trainer.batch()
    logged = trainer.logged()
    assert (logged["vine/cut"], logged["completions/cut"]) == pytest.approx(cut)
    assert (logged["vine/truncated"], logged["completions/truncated"]) == truncated


def test_without_a_verifier_no_rollout_is_cut(vine_trainer, row):
    trainer = vine_trainer([row("1\n2"), row("4")], {"0\n": ["3"], "0\n1\n": ["9"]})
    trainer.batch()
    assert trainer.logged().keys() & {"vine/cut", "vine/truncated"} == {"vine/truncated"}


def test_vine_rolls_out_nothing_in_an_evaluation(vine_trainer, row):
    rows = [row("1\n2", (1.0, -0.5), 1.0), row("4", (0.5,))]
    trainer = vine_trainer(rows, {"0\n": ["9"] * 3, "0\n1\n": ["9"] * 3})
    trainer.model.eval()
    trainer.batch()
    assert trainer.rolled_out == []


def test_texts_are_sampled_in_batches_and_come_back_in_order(scripted, rows, tokenizer):
    trainer, asked = scripted(rows, per_device_train_batch_size=4), []

    def write(prompt_ids, n):
        asked.append((tokenizer.batch_decode(prompt_ids), n))
        return [[*ids, tokenizer.eos_token_id] for ids in prompt_ids]

    trainer.sample_by(write)
    # A problem and what is written of its completion.
    texts = [f"{n}\n1 + {n}" for n in range(5)]
    prefixes = [(f"{n}\n", f"1 + {n}") for n in range(5)]
    sample_texts = trainer.rollouts.sample_texts
    assert sample_texts(prefixes, 2) == [[text] * 2 for text in texts]
    # Four sequences at a time, as in training: two texts with two samples each.
    assert asked == [([a, a, b, b], 2) for a, b in (texts[:2], texts[2:4])] + [([texts[4]] * 2, 2)]
    trainer.sample_by(None)
    assert [len(actual) for actual in sample_texts(prefixes, 3)] == [3] * 5


# --- Whitening.


@pytest.mark.parametrize("advantage", ["group", "gae", "rloo"])
def test_whitening_choices(scripted, rows, advantage):
    def advantages(how):
        batch = scripted(rows, advantage=advantage, whiten_advantages=how).batch()
        return batch["advantages"][batch["completion_mask"].bool()]

    plain, scaled, full = advantages("none"), advantages("scale"), advantages("full")
    deviation = plain.std(correction=0)
    torch.testing.assert_close(full, (plain - plain.mean()) / deviation)
    torch.testing.assert_close(scaled, (plain - plain.mean()) / deviation + plain.mean())


def test_the_completions_table_shows_the_advantages_that_train(scripted, rows, tmp_path):
    batch = scripted(rows).batch()
    means = (batch["advantages"].sum(dim=1) / batch["completion_mask"].sum(dim=1)).tolist()
    assert len(set(means)) == 4
    scripted(rows, max_steps=1, log_completions=True).train()
    table = pd.read_parquet(tmp_path / "out" / "completions" / "completions_00001.parquet")
    # The training shuffles its problems, and a problem's two samples with them.
    assert sorted(table["advantage"]) == pytest.approx(sorted(means))


def test_the_value_loss_does_not_depend_on_how_a_batch_is_cut(scripted, rows):
    """Four rows at once, or each alone: the sum of the micro-batches' losses is the same."""
    trainer = scripted(rows, advantage="gae", lam=0.5, whiten_advantages="none", vf_coef=1.0)
    batch = trainer.batch()
    batch["advantages"] = torch.zeros_like(batch["advantages"])  # the value loss alone is left
    whole = trainer.compute_loss(trainer.model, batch).item()
    parts = [{k: v[i : i + 1] if v.dim() else v for k, v in batch.items()} for i in range(4)]
    assert sum(trainer.compute_loss(trainer.model, part).item() for part in parts) == pytest.approx(whole)
    assert whole > 0


def test_whitened_rewards_keep_their_mean(scripted, rows):
    # lam 0 and a critic that says 0: advantages are the token rewards.
    plain, scaled = (scripted(rows, advantage="gae", lam=0.0, whiten_rewards=flag).batch() for flag in (False, True))
    mask = plain["completion_mask"].bool()
    a, b = plain["advantages"][mask], scaled["advantages"][mask]
    torch.testing.assert_close(b, (a - a.mean()) / a.std(correction=0) + a.mean())


# --- The KL.


def with_adapter(trainer):
    """Moves the policy away from its reference."""
    torch.manual_seed(0)
    for name, parameter in trainer.model.named_parameters():
        if "lora_B.default" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return trainer


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_as_a_reward_the_kl_is_taken_off_every_token(scripted, rows, estimator):
    options = {"advantage": "gae", "lam": 0.0, "beta": 0.5}
    plain = with_adapter(scripted(rows, **options)).batch()
    charged = with_adapter(scripted(rows, **options, kl="reward", kl_estimator=estimator)).batch()
    kl = kl_estimate(charged["old_per_token_logps"], charged["ref_per_token_logps"], estimator)
    mask = charged["completion_mask"]
    assert (kl * mask).abs().max() > 0.01
    torch.testing.assert_close(charged["advantages"], plain["advantages"] - 0.5 * kl * mask)


def test_as_a_reward_the_kl_is_charged_to_steps_in_groups(scripted, row):
    rows = [row("1\n2", (1.0, -0.5)), row("4", (0.5,))]
    plain, charged = (
        with_adapter(scripted(rows, beta=0.5, step_baseline="all", **kl)).batch() for kl in ({}, {"kl": "reward"})
    )
    cost = 0.5 * (charged["old_per_token_logps"] - charged["ref_per_token_logps"])
    # Tokens 0 and 1 are the first step's, 2 and 3 the second's; the other sample has one step of two tokens.
    steps = torch.stack([cost[0, :2].sum(), cost[0, 2:4].sum(), cost[1, :2].sum()])
    moved = steps.mean() - steps
    expected = plain["advantages"].clone()
    expected[0, :2] += moved[0]
    expected[0, 2:] += moved[1]
    expected[1, :2] += moved[2]
    torch.testing.assert_close(charged["advantages"], expected)


def test_as_a_reward_the_kl_is_not_in_the_loss_and_is_logged(scripted, rows):
    trainer = with_adapter(scripted(rows, beta=0.5, kl="reward"))
    batch = trainer.batch()
    kl = kl_estimate(batch["old_per_token_logps"], batch["ref_per_token_logps"], "k1")
    assert trainer.logged()["kl"] == pytest.approx(kl[batch["completion_mask"].bool()].mean().item())
    assert kl.abs().max() > 0.01
    batch["advantages"] = torch.zeros_like(batch["advantages"])
    assert trainer.compute_loss(trainer.model, batch).item() == 0.0
    assert trainer.beta == 0.5


@pytest.mark.parametrize("loss_type", ["grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo"])
def test_k2_in_the_loss_is_averaged_as_trl_averages_k3(scripted, rows, loss_type):
    """With the advantages at 0 the loss is beta times the mean KL, whichever estimate it is."""
    actual = {}
    for estimator in ("k2", "k3"):
        more = {"epsilon_high": 5.0} if loss_type == "cispo" else {}
        trainer = with_adapter(scripted(rows, beta=0.5, kl_estimator=estimator, loss_type=loss_type, **more))
        batch = trainer.batch()
        batch["advantages"] = torch.zeros_like(batch["advantages"])
        # The reference is put near the policy, where k2 and k3 agree to second order.
        with torch.no_grad():
            batch["ref_per_token_logps"] = batch["old_per_token_logps"] + 1e-2
        actual[estimator] = trainer.compute_loss(trainer.model, batch).item()
    assert actual["k2"] > 0
    assert actual["k2"] == pytest.approx(actual["k3"], rel=0.02)


def test_k2_and_k3_part_further_off(scripted, rows):
    losses = []
    for estimator in ("k2", "k3"):
        trainer = with_adapter(scripted(rows, beta=0.5, kl_estimator=estimator))
        batch = trainer.batch()
        batch["advantages"] = torch.zeros_like(batch["advantages"])
        batch["ref_per_token_logps"] = batch["old_per_token_logps"] + 1.0
        losses.append(trainer.compute_loss(trainer.model, batch).item())
    # k2 = 1/2, k3 = e - 2
    assert losses == pytest.approx([0.25, 0.5 * (2.718281828 - 2)], rel=1e-4)


# --- Completions that were cut off.


def test_no_process_takes_what_a_cut_off_completion_gained_by_its_steps(scripted, rows):
    cut = changed(rows, 0, finished=False)
    score = scripted(cut, advantage="gae", lam=0.0, whiten_advantages="none").batch()["advantages"]
    none = scripted(cut, advantage="gae", lam=0.0, whiten_advantages="none", truncated="no_process").batch()[
        "advantages"
    ]
    assert score[0].tolist() == [0.0, 1.0, 0.5]  # -0.5 and the outcome lie on the last token
    assert none[0].tolist() == [0.0, 0.0, 0.5]
    torch.testing.assert_close(score[1:], none[1:])


def test_bootstrap_counts_on_what_would_have_come(scripted, rows):
    cut = changed(rows, 0, finished=False)
    actual = []
    for how in ("score", "bootstrap"):
        trainer = scripted(cut, advantage="gae", lam=0.0, whiten_advantages="none", truncated=how)
        torch.nn.init.constant_(trainer.model.critic.value_head.bias, 2.0)
        actual.append(trainer.batch()["advantages"])
    score, bootstrap = actual
    # A_t = r_t + V_{t+1} - V_t with V = 2; behind the last token of the cut row V counts, too.
    torch.testing.assert_close(score[0], torch.tensor([0.0, 1.0, 0.5 - 2.0]))
    torch.testing.assert_close(bootstrap[0], torch.tensor([0.0, 1.0, 0.5]))
    torch.testing.assert_close(score[1:], bootstrap[1:])


# --- The critic of a policy that trains all its weights.


@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_a_full_parameter_policy_has_a_critic_on_a_frozen_base(arguments, tiny_lm, tokenizer, task, beta, tmp_path):
    from datasets import Dataset
    from safetensors.torch import load_file

    from rlstep.policy.rewards.task_rewards import TaskRewards
    from rlstep.policy.trainer import StepPPOTrainer

    data = [{"prompt": p.prompt, "reference": p.reference} for p in task.problems("train", 2, seed=0)]
    trainer = StepPPOTrainer(
        tiny_lm,
        TaskRewards(task, {"outcome": 1.0}, missing_answer_reward=-1.0),
        arguments(advantage="gae", beta=beta, lam=1.0, whiten_advantages="none"),
        Dataset.from_list(data),
        processing_class=tokenizer,
    )
    critic = trainer.model.critic
    own = set(critic.own_parameters())
    frozen = {name: p for name, p in critic.named_parameters() if name not in own}
    assert not any(p.requires_grad for p in frozen.values())
    if beta:
        # One frozen model serves as reference and under the critic.
        reference = {p.data_ptr() for p in trainer.ref_model.parameters()}
        assert all(p.data_ptr() in reference for p in frozen.values())
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    moved = {name for name, p in trainer.model.named_parameters() if not torch.equal(p, before[name])}
    assert any(not name.startswith("critic.") for name in moved)
    assert {name.removeprefix("critic.") for name in moved if name.startswith("critic.")} <= own
    assert "critic.value_head.bias" in moved
    trainer.save_model()
    assert not any("critic" in name for name in load_file(tmp_path / "out" / "model.safetensors"))


@pytest.mark.parametrize("critic", ["adapter", "head"])
def test_a_reference_follows_the_policy_and_not_its_critic(scripted, rows, critic):
    settings = {"advantage": "gae", "critic": critic, "beta": 0.1, "sync_ref_model": True}
    trainer = scripted(rows, adapter=False, ref_model_sync_steps=1, ref_model_mixup_alpha=1.0, **settings)
    torch.nn.init.normal_(trainer.model.critic.value_head.weight)
    batch = trainer.batch()
    with torch.no_grad():
        trainer.model.model.layers[0].mlp.down_proj.weight.add_(1.0)
        before = trainer.value_function._values(trainer.model, batch)
        trainer.state.global_step = 1
        trainer.callback_handler.on_step_end(trainer.args, trainer.state, trainer.control)
        # Not either where the critic is an adapter: a step of the reference's base would be none of its own.
        torch.testing.assert_close(trainer.value_function._values(trainer.model, batch), before, rtol=0, atol=0)
    for name, parameter in trainer.ref_model.named_parameters():
        assert torch.equal(parameter, trainer.model.get_parameter(name))


# --- Who watches.


def test_observers_see_every_training_batch_once_and_no_evaluation(scripted, rows):
    trainer, seen = scripted(rows, max_steps=4), []
    trainer.observers.append(seen.append)
    trainer.train()
    assert [batch.update for batch in seen] == [1, 2]
    assert all(isinstance(batch, ScoredBatch) for batch in seen)
    assert seen[0].completions == ["1\n2", "4", "6", ""]
    assert seen[0].finished == [True] * 4
    assert len(seen[0].prompts) == len(seen[0].references) == len(seen[0].scored) == 4
    trainer.model.eval()
    trainer.batch()
    assert len(seen) == 2


def test_what_an_observer_logs_is_logged(scripted, rows):
    trainer = scripted(rows, max_steps=2, logging_steps=2)
    trainer.observers.append(lambda batch: trainer.log_metric("mine", batch.update + 0.5))
    trainer.train()
    assert [entry["mine"] for entry in trainer.state.log_history if "mine" in entry] == [1.5]


def test_observers_come_when_all_that_the_batch_is_paid_is_settled(scripted, rows):
    """One may train the PRM, which this batch's advantages must not see half of."""
    trainer, logged = scripted(rows), []
    trainer.observers.append(lambda batch: logged.append(trainer.logged()))
    batch = trainer.batch()
    mean = batch["advantages"].abs()[batch["completion_mask"].bool()].mean().item()
    assert [logs["advantage/mean_abs"] for logs in logged] == [pytest.approx(mean)]


def test_rows_that_fill_the_last_batch_of_an_evaluation_are_not_counted(scripted, rows, monkeypatch):
    """Of four rows that two ranks judged, two repeat the first ones so that both have as many."""
    trainer = scripted(changed(rows, 2, outcome=0.0), num_generations_eval=1)
    trainer.model.eval()
    state = SimpleNamespace(end_of_dataloader=True, remainder=2)
    monkeypatch.setattr(trainer.accelerator, "gradient_state", state)
    trainer.batch()
    assert trainer.logged()["eval_accuracy"] == 1 / 2
    state.end_of_dataloader = False
    trainer.batch()
    assert trainer.logged()["eval_accuracy"] == 1 / 4


def test_an_evaluation_stays_one_where_the_sampler_leaves_the_model_in_training_mode(scripted, rows):
    """As transformers' continuous batching does."""
    trainer, seen = scripted(rows), []
    trainer.observers.append(seen.append)

    def write(prompt_ids, n):
        trainer.model.train()
        return [list(ids) for ids in trainer.row_ids]

    trainer.sample_by(write)
    trainer.model.eval()
    trainer.batch()
    assert not seen
    assert not trainer.model.training
    assert trainer.logged()["eval_accuracy"] == 1 / 2


@pytest.mark.parametrize("advantage", ["group", "rloo", "gae"])
def test_rewards_beyond_float32_end_the_run_before_its_weights_are_nan(scripted, rows, advantage):
    with pytest.raises(UserError, match="the advantages of update 1 are not finite"):
        scripted(changed(rows, 0, outcome=1e300), advantage=advantage).batch()


@pytest.mark.parametrize("packing", [True, False])
def test_a_head_in_float32_stays_so_under_autocast(scripted, rows, packing, monkeypatch):
    """Logits of half precision would be multiples of powers of 2; log-probabilities of float32 ones are not bounded so.

    The reference is the head's weight times the hidden states that it is given, in float32.
    """
    trainer = scripted(rows, bf16=True, cast_lm_head_to_fp32=True, packing=packing, adapter=False)
    batch, model, seen = trainer.batch(), trainer.model, []
    ids, mask = (torch.cat([batch[f"{part}_{of}"] for part in ("prompt", "completion")], 1) for of in ("ids", "mask"))
    model.base_model.register_forward_hook(lambda _, __, output: seen.append(output.last_hidden_state.float()))
    T = batch["completion_ids"].shape[1]
    with torch.no_grad(), trainer.accelerator.autocast():
        model(input_ids=ids, attention_mask=mask)
    with torch.no_grad():
        logits_BTV = seen[0][:, -T - 1 : -1] @ model.lm_head.weight.float().T
        expected = logits_BTV.log_softmax(-1).gather(-1, batch["completion_ids"][..., None])[..., 0]
        actual, *_ = trainer._get_per_token_logps_and_entropies(model, ids, mask, T)
    kept = batch["completion_mask"].bool()
    assert (actual - expected)[kept].abs().max() < 1e-3


# --- Dropout.


@pytest.mark.parametrize("advantage", ["group", "gae"])
def test_dropout_is_off_so_that_an_unchanged_policy_has_no_kl(first_kl, advantage):
    assert first_kl(advantage=advantage) == pytest.approx(0.0, abs=1e-7)
    assert first_kl(advantage=advantage, disable_dropout=False) > 1e-3


@pytest.fixture
def first_kl(arguments, lora, task, tmp_path):
    """first_kl(...): the first KL of GPT-2, which drops a tenth of everything, with an adapter that does so too."""
    problems = task.problems("train", 2, seed=0)
    policy = FAMILIES["gpt2"].write(tmp_path / "gpt2", [problem.prompt for problem in problems])
    data = Dataset.from_list([{"prompt": problem.prompt, "reference": problem.reference} for problem in problems])

    def judge(prompts, completions, references):
        return [ScoredCompletion([], [], 0.0, correct=False, clean=False) for _ in completions]

    def run(**settings) -> float:
        config = arguments(beta=0.1, max_steps=1, **settings)
        tokenizer = load_policy_tokenizer(policy)
        adapter = replace(lora, lora_dropout=0.1)
        trainer = StepPPOTrainer(policy, judge, config, data, processing_class=tokenizer, peft_config=adapter)
        trainer.train()
        return next(entry["kl"] for entry in trainer.state.log_history if "kl" in entry)

    return run
