import json
import time
from dataclasses import replace

import pytest
import torch
from datasets import Dataset
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, TrainerCallback

from rlstep.policy.rewards.guards import Guards
from rlstep.policy.rewards.task_rewards import TaskRewards
from rlstep.policy.trainer import StepPPOTrainer
from rlstep.policy.value_function import CRITIC_FILE
from rlstep.steps.boundaries import line_steps
from rlstep.tasks.small import small_model
from rlstep.verifiers.scoring.reward_model import RewardModel
from rlstep.verifiers.spec import VerifierSpec
from rlstep.verifiers.training.start import new_verifier
from tests.policy.gradients import token_gradients

GROUP = {"advantage": "group", "step_baseline": "all"}
# What an untrained policy writes has no answer, and is to be paid for all the same.
LENIENT = Guards(guard_no_answer=False, guard_min_steps=0)
GAE = {"advantage": "gae", "gamma": 1.0, "lam": 0.5}


@pytest.fixture
def rows(row):
    """Two problems, two samples each. Tokens: `1 \\n 2 \\n 3 <eos>`, `4 \\n 5 <eos>`, `6 <eos>` and `<eos>` alone."""
    return [row("1\n2\n3", (1.0, -1.0, 0.5), 1.0), row("4\n5", (0.5, 0.0)), row("6", (0.25,), 1.0), row("")]


def changed(rows, index: int, **fields):
    return [replace(row, **fields) if i == index else row for i, row in enumerate(rows)]


def parameter_gradients(trainer, batch) -> dict[str, torch.Tensor]:
    trainer.compute_loss(trainer.model, batch).backward()
    own = {name: p.grad for name, p in trainer.model.named_parameters() if ".default." in name}
    assert len(own) > 0
    return own


# --- Where rewards come to lie.


def test_group_advantages_by_hand(scripted, rows):
    batch = scripted(rows, **GROUP).batch()
    # First problem: five steps of mean 0.2, outcomes of mean 0.5; second: one step, outcomes of mean 0.5.
    expected = [
        [1.3, 1.3, -0.7, -0.7, 0.8, 0.8],
        [-0.2, -0.2, -0.7, -0.7, 0.0, 0.0],
        [0.5, 0.5, 0.0, 0.0, 0.0, 0.0],
        [-0.5, 0.0, 0.0, 0.0, 0.0, 0.0],
    ]
    torch.testing.assert_close(batch["advantages"], torch.tensor(expected))


def test_group_advantages_against_the_steps_at_the_same_position(scripted, rows):
    batch = scripted(rows, advantage="group").batch()
    # Means of the first problem's first, second and third steps: 0.75, -0.5 and 0.5, which one sample alone has.
    expected = [
        [0.75, 0.75, 0.0, 0.0, 0.5, 0.5],
        [-0.75, -0.75, 0.0, 0.0, 0.0, 0.0],
        [0.5, 0.5, 0.0, 0.0, 0.0, 0.0],
        [-0.5, 0.0, 0.0, 0.0, 0.0, 0.0],
    ]
    torch.testing.assert_close(batch["advantages"], torch.tensor(expected))


def test_gae_advantages_by_hand(scripted, rows):
    batch = scripted(rows, **GAE).batch()
    # The critic starts at 0, so A_t = r_t + 0.5 A_{t+1}, where r holds each step's reward and, at <eos>, the outcome.
    expected = [
        [0.4375, 0.875, -0.25, -0.5, 1.0, 1.0],
        [0.25, 0.5, 0.0, 0.0, 0.0, 0.0],
        [0.75, 1.0, 0.0, 0.0, 0.0, 0.0],
        [0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
    ]
    torch.testing.assert_close(batch["advantages"], torch.tensor(expected))
    torch.testing.assert_close(batch["returns"], torch.tensor(expected))
    assert not batch["old_values"].any()


def test_gae_counts_from_the_critics_values(scripted, rows):
    trainer = scripted(rows, advantage="gae", lam=0.0, gamma=0.5)
    torch.nn.init.constant_(trainer.model.critic.value_head.bias, 2.0)
    batch = trainer.batch()
    # lam 0: A_t = r_t + 0.5 V_{t+1} - V_t, V past the end 0.
    torch.testing.assert_close(batch["advantages"][2], torch.tensor([0.25 - 1.0, 1.0 - 2.0, 0.0, 0.0, 0.0, 0.0]))
    assert batch["old_values"][2].tolist() == [2.0, 2.0, 0.0, 0.0, 0.0, 0.0]
    torch.testing.assert_close(batch["returns"][2], torch.tensor([1.25, 1.0, 0.0, 0.0, 0.0, 0.0]))


@pytest.fixture(scope="module")
def byte_prm(tmp_path_factory) -> RewardModel:
    """An untrained PRM that reads bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(["<pad>", "<eos>", *alphabet])}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")
    path = str(tmp_path_factory.mktemp("bytes"))
    small_model(fast, hidden_size=32, layers=1, heads=2, intermediate_size=32).save_pretrained(path)
    return RewardModel(new_verifier(path, VerifierSpec("prm")), fast, "prm")


def test_rewards_of_a_verifier_with_another_tokenizer_lie_on_the_same_characters(
    scripted, row, task, tokenizer, byte_prm
):
    texts = ["7 + 3 = 10\n10 max 8 = 10\nAnswer: 10", "7 + 3 = 19\n\nAnswer: 19", "19", ""]
    problem = task.problems("train", 1, seed=0)[0]
    rewards = TaskRewards(task, {"prm": 1.0}, {"prm": byte_prm}, credit="sum", guards=LENIENT)

    def source(prompts, completions, references):
        return rewards([problem.prompt] * len(completions), completions, ["10"] * len(completions))

    # lam 0 and a critic that says 0: advantages are the token rewards.
    trainer = scripted([row(text) for text in texts], source, advantage="gae", lam=0.0)
    batch = trainer.batch()
    scores = byte_prm.score([problem.prompt] * 4, texts)
    for text, ids, paid, probs in zip(texts, batch["completion_ids"], batch["advantages"], scores, strict=True):
        expected = torch.zeros_like(paid)
        for (_, end), p in zip(line_steps(text), probs, strict=True):
            prefixes = [len(tokenizer.decode(ids[: t + 1], skip_special_tokens=True)) for t in range(len(ids))]
            expected[[n >= end for n in prefixes].index(True)] += 2 * p - 1
        torch.testing.assert_close(paid, expected)
    assert (batch["advantages"] != 0).sum() == sum(len(line_steps(text)) for text in texts)


# --- What a step's reward changes.


@pytest.mark.parametrize(
    ("config", "first_row", "second_row"),
    [
        # the step's own tokens gain 1, and all five steps of the problem lose a fifth of it to the mean
        (GROUP, [0.8, 0.8, -0.2, -0.2, -0.2, -0.2], [-0.2] * 4 + [0.0, 0.0]),
        # with later rewards counted, a step's own reward still changes no later step but through the mean
        (GROUP | {"step_discount": 1.0}, [0.8, 0.8, -0.2, -0.2, -0.2, -0.2], [-0.2] * 4 + [0.0, 0.0]),
        # the step's last token gains 1, the one before half of it; what comes later stays
        (GAE, [0.5, 1.0, 0.0, 0.0, 0.0, 0.0], [0.0] * 6),
    ],
    ids=["group", "group discounted", "gae"],
)
def test_an_early_steps_reward_moves_its_tokens_gradients(scripted, rows, config, first_row, second_row):
    perturbed = changed(rows, 0, step_rewards=(2.0, -1.0, 0.5))
    expected = torch.tensor([first_row, second_row, [0.0] * 6, [0.0] * 6])
    trainers = [scripted(rows, **config), scripted(perturbed, **config)]
    before, after = (trainer.batch() for trainer in trainers)
    torch.testing.assert_close(after["advantages"] - before["advantages"], expected, atol=1e-6, rtol=0)

    # At ratio 1 the surrogate's gradient is -A over the batch's tokens (6 + 4 + 2 + 1): each token is moved by its own.
    gradients = [token_gradients(*pair) for pair in zip(trainers, (before, after), strict=True)]
    torch.testing.assert_close(gradients[1] - gradients[0], -expected / 13, atol=1e-6, rtol=0)


@pytest.mark.parametrize("config", [GROUP, GAE])
def test_an_early_steps_reward_reaches_the_weights(scripted, rows, config):
    perturbed = changed(rows, 0, step_rewards=(2.0, -1.0, 0.5))
    before, after = (
        parameter_gradients(t, t.batch()) for t in (scripted(rows, **config), scripted(perturbed, **config))
    )
    moved = [name for name in before if not torch.allclose(before[name], after[name])]
    assert len(moved) == sum("lora_B" in name for name in before)


def test_a_later_steps_reward_reaches_earlier_tokens_as_far_as_discounts_let_it(scripted, rows):
    perturbed = changed(rows, 0, step_rewards=(1.0, -1.0, 1.5))

    def change(**config):
        first, second = (scripted(r, **config).batch()["advantages"][0] for r in (rows, perturbed))
        return second - first

    torch.testing.assert_close(change(**GAE), torch.tensor([0.0625, 0.125, 0.25, 0.5, 1.0, 0.0]))
    torch.testing.assert_close(change(**GROUP), torch.tensor([-0.2, -0.2, -0.2, -0.2, 0.8, 0.8]))
    # discount 1: G of all three steps rises by 1, the mean over the problem's five steps by 3/5
    torch.testing.assert_close(change(**GROUP, step_discount=1.0), torch.full((6,), 0.4))


@pytest.mark.parametrize(
    ("config", "first_row", "second_row"),
    [(GROUP, [0.5] * 6, [-0.5] * 4), (GAE | {"lam": 1.0}, [1.0] * 6, [0.0] * 4)],
)
def test_the_outcome_reaches_every_token(scripted, rows, config, first_row, second_row):
    first, second = (scripted(r, **config).batch()["advantages"] for r in (rows, changed(rows, 0, outcome=2.0)))
    torch.testing.assert_close((second - first)[0], torch.tensor(first_row))
    torch.testing.assert_close((second - first)[1, :4], torch.tensor(second_row))


@pytest.mark.parametrize("config", [GROUP, GAE])
def test_with_one_step_a_process_reward_is_an_outcome_reward(scripted, row, config):
    values = (0.5, -1.0, 0.25, 0.0)
    process = [row(f"{i} = {i}", (value,), finished=False) for i, value in enumerate(values)]
    outcome = [row(f"{i} = {i}", (0.0,), value, finished=False) for i, value in enumerate(values)]
    first, second = (scripted(r, **config).batch()["advantages"] for r in (process, outcome))
    torch.testing.assert_close(first, second)
    assert first.any()


def test_scale_rewards_divides_by_the_groups_deviation(scripted, row):
    rows = [row("1", (1.0,)), row("2", (0.0,))]
    plain, scaled = (scripted(rows, **GROUP, scale_rewards=how).batch()["advantages"] for how in ("none", "group"))
    torch.testing.assert_close(plain, torch.tensor([[0.5, 0.5], [-0.5, -0.5]]))
    torch.testing.assert_close(scaled, torch.tensor([[1.0, 1.0], [-1.0, -1.0]]), atol=1e-3, rtol=0)


def test_whitening_is_over_the_completions_tokens_alone(scripted, rows):
    batch = scripted(rows, **GAE | {"whiten_advantages": "full"}).batch()
    plain = scripted(rows, **GAE).batch()["advantages"]
    mask = batch["completion_mask"].bool()
    expected = (plain[mask] - plain[mask].mean()) / plain[mask].std(correction=0)
    torch.testing.assert_close(batch["advantages"][mask], expected)
    assert not batch["advantages"][~mask].any()


def test_completions_are_scored_once_and_both_returns_are_logged(scripted, rows):
    """Returns: 0.5, 0.5, 0.25, 0 by steps and 1, 0, 1, 0 by outcomes."""
    trainer = scripted(rows)
    source, asked = trainer.reward_source, []
    trainer.reward_source = lambda *texts: asked.append(texts) or source(*texts)
    trainer.batch()
    prompts, completions, references = asked.pop()
    assert not asked
    assert (list(prompts), list(completions)) == (["0\n", "0\n", "1\n", "1\n"], [row.text for row in rows])
    assert list(references) == ["1"] * 4
    metrics = trainer._metrics["train"]
    assert (metrics["rewards/process/mean"], metrics["rewards/outcome/mean"]) == ([0.3125], [0.5])
    assert list(trainer._logs["rewards"]["process"]) == [0.5, 0.5, 0.25, 0.0]


# --- Odd completions.


def test_steps_that_are_not_judged_have_the_outcomes_advantage_alone(scripted, rows):
    """The first row's judgement ends with its second step, as after a first error."""
    cut = changed(rows, 0, step_rewards=(1.0, -1.0))
    # Four steps of mean 0.125.
    expected = torch.tensor([1.375, 1.375, -0.625, -0.625, 0.5, 0.5])
    torch.testing.assert_close(scripted(cut, **GROUP | {"step_baseline": "all"}).batch()["advantages"][0], expected)
    # r holds 1, -1 and, at <eos>, the outcome: nothing at the third step.
    expected = torch.tensor([0.40625, 0.8125, -0.375, -0.75, 0.5, 1.0])
    torch.testing.assert_close(scripted(cut, **GAE).batch()["advantages"][0], expected)


@pytest.mark.parametrize("config", [GROUP, GAE])
def test_nobody_wrote_a_step(scripted, row, config):
    batch = scripted([row(""), row("", outcome=1.0)], **config).batch()
    assert batch["advantages"].tolist() == ([[-0.5], [0.5]] if config is GROUP else [[0.0], [1.0]])


@pytest.mark.parametrize("config", [GROUP, GAE])
def test_a_masked_truncated_row_is_paid_nothing_and_takes_nothing_from_others(scripted, rows, config):
    rows = changed(rows, 0, finished=False)
    plain, masked = (scripted(rows, **config, mask_truncated_completions=flag).batch() for flag in (False, True))
    assert plain["advantages"][0].any()
    assert not masked["advantages"][0].any()
    torch.testing.assert_close(masked["advantages"][1:], plain["advantages"][1:])


@pytest.mark.parametrize("config", [GROUP, GAE])
def test_a_batch_of_masked_rows_alone_has_no_gradient(scripted, row, config):
    trainer = scripted([row("1\n2", (1.0, 1.0), finished=False), row("3", (1.0,), finished=False)],
                       **config, mask_truncated_completions=True)  # fmt: skip
    batch = trainer.batch()
    assert not batch["advantages"].any()
    assert not any(grad.any() for grad in parameter_gradients(trainer, batch).values())


# --- The loss and what it trains.


def test_vf_coef_and_value_clip_shape_the_value_loss(scripted, rows):
    def losses(shift: float = 0.0, **config):
        trainer = scripted(rows, **GAE, **config)
        batch = trainer.batch()
        torch.nn.init.constant_(trainer.model.critic.value_head.bias, shift)
        return trainer.compute_loss(trainer.model, batch).item()

    returns = [0.4375, 0.875, -0.25, -0.5, 1.0, 1.0, 0.25, 0.5, 0.0, 0.0, 0.75, 1.0, 0.0]
    value_loss = 0.5 * sum(r * r for r in returns) / 13
    assert losses(vf_coef=1.0) - losses(vf_coef=0.0) == pytest.approx(value_loss, abs=1e-6)
    # Values moved from 0 to 0.5: beyond the clip the worse of both errors counts.
    moved = 0.5 * sum(max((0.5 - r) ** 2, (0.2 - r) ** 2) for r in returns) / 13
    free = 0.5 * sum((0.5 - r) ** 2 for r in returns) / 13
    policy = losses(0.5, vf_coef=0.0)
    assert losses(0.5, vf_coef=1.0, value_clip=0.2) - policy == pytest.approx(moved, abs=1e-6)
    assert losses(0.5, vf_coef=1.0, value_clip=9.0) - policy == pytest.approx(free, abs=1e-6)
    assert moved > free


def test_one_base_two_adapters_and_a_head(scripted, rows, tiny_lm):
    trainer = scripted(rows, **GAE, critic="adapter")
    base = AutoModelForCausalLM.from_pretrained(tiny_lm)
    policy = {name.replace(".base_layer", ""): p for name, p in trainer.model.base_model.model.model.named_parameters()}
    backbone = trainer.model.critic.backbone.base_model.model
    shared = {n.replace(".base_layer", ""): p for n, p in backbone.named_parameters() if "lora_" not in n}
    assert shared.keys() == {name.removeprefix("model.") for name, _ in base.named_parameters()}
    assert all(p.data_ptr() == policy[name].data_ptr() for name, p in shared.items())

    own = trainer.model.critic.own_parameters()
    adapter = sum(p.numel() for n, p in own.items() if "lora_" in n)
    total = sum(p.numel() for p in trainer.model.parameters())
    assert total == base.num_parameters() + 2 * adapter + 32 + 1


def test_an_update_moves_both_adapters_and_the_head_and_not_the_base(scripted, rows):
    gradients = {}

    class Keep(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model=None, **_):
            gradients.update({name: p.grad for name, p in model.named_parameters()})

    trainer = scripted(rows, **GAE, max_steps=1)
    torch.nn.init.normal_(trainer.model.critic.value_head.weight)  # a head of zeros passes no gradient to its adapter
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.add_callback(Keep())
    trainer.train()
    for name, parameter in trainer.model.named_parameters():
        trained = "lora_" in name or "value_head" in name
        assert (gradients[name] is not None) == trained, name
        if not trained or "lora_B" in name or "value_head" in name:  # lora_A waits for lora_B to leave 0
            assert torch.equal(parameter, before[name]) != trained, name


def test_the_reference_is_the_policy_without_its_adapter(scripted, rows):
    trainer = scripted(rows, **GAE, beta=0.1, max_steps=2)
    trainer.train()
    kl = [entry["kl"] for entry in trainer.state.log_history if "kl" in entry]
    assert kl[0] == pytest.approx(0.0, abs=1e-7)
    assert kl[1] > 1e-4
    trainer.model.train()
    batch = trainer.batch()
    with trainer.model.disable_adapter(), torch.no_grad():
        ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
        logits = trainer.model(ids[:1]).logits[0, -7:-1]
    expected = logits.log_softmax(-1).gather(1, batch["completion_ids"][0][:, None])[:, 0]
    torch.testing.assert_close(batch["ref_per_token_logps"][0], expected, atol=1e-5, rtol=0)


def test_group_trains_a_whole_model_too(arguments, tiny_lm, tokenizer, task):
    data = Dataset.from_list(
        [{"prompt": p.prompt, "reference": p.reference} for p in task.problems("train", 2, seed=0)]
    )
    rewards = TaskRewards(task, {"prm": 1.0}, {"prm": (step_counts := CountingPRM())}, guards=LENIENT)
    trainer = StepPPOTrainer(tiny_lm, rewards, arguments(beta=0.1), data, processing_class=tokenizer)
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    assert step_counts.steps > 0
    assert any(not torch.equal(p, before[name]) for name, p in trainer.model.named_parameters())


class CountingPRM:
    """Scores steps by their number of characters: something that differs between samples."""

    kind, gives = "prm", "probability"
    steps = 0

    def score(self, prompts, completions, steps=None, cut=False):
        self.steps += sum(map(len, steps))
        return [[(end - start) % 10 / 10 for start, end in spans] for spans in steps]


# --- Checkpoints.


@pytest.fixture
def real(arguments, tiny_lm, tokenizer, lora, task):
    """Makes a trainer that samples from the model; `prompts` collects those of each batch it generates."""
    data = Dataset.from_list(
        [{"prompt": p.prompt, "reference": p.reference} for p in task.problems("train", 8, seed=0)]
    )

    def make(**changes):
        rewards = TaskRewards(task, {"prm": 1.0, "outcome": 1.0}, {"prm": CountingPRM()}, guards=LENIENT)
        prompts = []

        def source(batch_prompts, completions, references):
            prompts.append(sorted(set(batch_prompts)))
            return rewards(batch_prompts, completions, references)

        options = {"advantage": "gae", "max_steps": 4, "save_strategy": "steps", "save_steps": 2} | changes
        trainer = StepPPOTrainer(
            tiny_lm, source, arguments(**options), data, processing_class=tokenizer, peft_config=replace(lora)
        )
        trainer.prompts = prompts
        return trainer

    return make


def trained(trainer) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}


def test_a_resumed_run_ends_where_the_uninterrupted_one_does(real, tmp_path):
    whole = real()
    whole.train()
    checkpoint = tmp_path / "out" / "checkpoint-2"

    keys = load_file(checkpoint / "adapter_model.safetensors").keys()
    assert keys
    assert not any("critic" in key or "value_head" in key for key in keys)
    own = whole.model.critic.own_parameters()
    assert load_file(checkpoint / CRITIC_FILE).keys() == own.keys()

    loaded = real(max_steps=2)  # which it has come to: nothing more is trained
    loaded.train(resume_from_checkpoint=str(checkpoint))
    for name, tensor in load_file(checkpoint / CRITIC_FILE).items():
        assert torch.equal(loaded.model.critic.own_parameters()[name], tensor)
        assert not torch.equal(own[name], tensor), f"{name} did not move between steps 2 and 4"

    resumed = real()
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert resumed.prompts == whole.prompts[1:]
    for name, tensor in trained(whole).items():
        torch.testing.assert_close(trained(resumed)[name], tensor, atol=1e-6, rtol=0)
    assert [entry.get("loss") for entry in resumed.state.log_history] == pytest.approx(
        [entry.get("loss") for entry in whole.state.log_history], abs=1e-5
    )


def test_a_foreign_critic_is_refused(real, tmp_path):
    from rlstep.policy.critic import load_own

    critic = real().model.critic
    state = {name: p.detach() for name, p in critic.own_parameters().items()}
    state["value_head.extra"] = state.pop("value_head.bias")
    with pytest.raises(ValueError, match=r"value_head\.bias.*value_head\.extra"):
        load_own(critic, state)


def test_the_adapter_and_the_base_make_the_trained_policy(real, tmp_path, tiny_lm):
    trainer = real(save_strategy="no", max_steps=2)
    trainer.train()
    trainer.save_model()
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_lm), tmp_path / "out")
    ids = torch.arange(1, 9)[None]
    trainer.model.eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, trainer.model(ids).logits, atol=1e-5, rtol=0)
        base = AutoModelForCausalLM.from_pretrained(tiny_lm)(ids).logits
    assert not torch.allclose(loaded(ids).logits, base, atol=1e-3)
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["base_model_name_or_path"] == tiny_lm


# --- Evaluation.


def test_evaluation_weighs_every_row_alike(scripted, row, tokenizer):
    """Three problems in batches of two: the mean of the batches' means would be 0.75."""
    right = iter([True, False, True])

    def source(prompts, completions, references):
        from rlstep.policy.rewards.scored import ScoredCompletion

        return [ScoredCompletion([], [], 0.0, correct=actual, clean=False) for actual in (next(right) for _ in prompts)]

    trainer = scripted([row(""), row("")], source, per_device_eval_batch_size=2, num_generations_eval=1)
    trainer.sample_by(lambda prompt_ids, n: [[tokenizer.eos_token_id] for _ in prompt_ids])
    data = Dataset.from_list([{"prompt": f"{n}\n", "reference": "1"} for n in range(3)])
    trainer.evaluate(data)
    assert trainer.state.log_history[-1]["eval_accuracy"] == pytest.approx(2 / 3)


def test_an_evaluation_may_draw_several_samples_of_an_odd_number_of_problems(scripted, row):
    """Three problems in batches of one: what the loader says remains is counted in problems, not in rows."""
    rows = [row("1\n2", (1.0, 0.0), 1.0), row("4", (0.5,))]
    trainer = scripted(rows, num_generations_eval=2, per_device_eval_batch_size=2)
    trainer.evaluate(Dataset.from_list([{"prompt": f"{n}\n", "reference": "1"} for n in range(3)]))
    assert trainer.state.log_history[-1]["eval_accuracy"] == 0.5


@pytest.mark.parametrize("settings", [{"beta": 0.1}, {"beta": 0.1, "kl": "reward"}, {"advantage": "gae"}])
def test_an_evaluation_computes_no_loss_and_nothing_that_it_is_made_of(settings, scripted, row):
    """Completions are written by hand, so the policy is never run, with or without its adapter."""
    rows, passes = [row("1\n2", (1.0, 0.0), 1.0), row("4", (0.5,))], []
    trainer = scripted(rows, num_generations_eval=2, per_device_eval_batch_size=2, **settings)
    trainer.model.get_base_model().register_forward_hook(lambda *_: passes.append(1))
    metrics = trainer.evaluate(Dataset.from_list([{"prompt": "0\n", "reference": "1"}]))
    assert passes == []
    logged = trainer.state.log_history[-1]
    assert (logged["eval_accuracy"], logged["eval_reward/process"]) == (0.5, 0.75)
    assert not {"eval_loss", "eval_kl", "eval_entropy", "eval_clip_ratio/region_mean"} & {*logged, *metrics}
    # Training reads as before.
    trainer.model.train()
    trainer.compute_loss(trainer.model, trainer.batch())
    assert passes


def test_samples_are_logged_beside_everything(scripted, rows):
    trainer = scripted(rows, **GROUP, max_steps=4)
    trainer.train()
    assert [e["samples"] for e in trainer.state.log_history if "loss" in e] == [4, 4, 8, 8]


def test_the_processor_time_of_an_optimizer_step_counts_its_sampling_and_all_its_micro_batches(
    scripted, rows, monkeypatch
):
    """Scoring takes 5 seconds and each of two micro-batches 1; the second step is made on the same rows."""
    clock = [0.0]
    monkeypatch.setattr(time, "process_time", lambda: clock[0])
    trainer = scripted(rows, **GROUP, max_steps=2, per_device_train_batch_size=2, gradient_accumulation_steps=2)
    score, loss = trainer.reward_source, trainer.compute_loss

    def slow_score(*args, **columns):
        clock[0] += 5.0
        return score(*args, **columns)

    def slow_loss(*args, **kwargs):
        clock[0] += 1.0
        return loss(*args, **kwargs)

    trainer.reward_source, trainer.compute_loss = slow_score, slow_loss
    trainer.train()
    logged = [entry["processor_step_time"] for entry in trainer.state.log_history if "loss" in entry]
    assert logged == [7.0, 2.0]
