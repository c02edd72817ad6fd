"""`critic: head`: values from the policy's own hidden states, in the policy's own pass."""

from functools import partial

import pytest
import torch
from datasets import Dataset
from peft import AutoPeftModelForCausalLM, LoraConfig
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, set_seed

from rlstep.policy.critic import HeadCritic, values_of
from rlstep.policy.export import write_adapter, write_merged
from rlstep.policy.trainer import StepPPOTrainer
from rlstep.policy.value_function import CRITIC_FILE
from rlstep.runtime.errors import UserError
from tests.policy.test_resume import judge
from tests.policy.test_resume import new_trainer as run_of_four_problems

IDS_BT = torch.tensor([[0, 0, 5, 6, 7, 8, 9], [3, 4, 5, 6, 7, 8, 0]])
MASK_BT = torch.tensor([[0, 0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 0]])
HEAD = {"advantage": "gae", "critic": "head"}


@pytest.fixture
def new_trainer(tiny_lm, tokenizer):
    return partial(run_of_four_problems, tiny_lm, tokenizer)


@pytest.fixture
def policy(tiny_lm):
    return AutoModelForCausalLM.from_pretrained(tiny_lm)


@pytest.fixture
def rows(row):
    """Two problems, two samples each, one of them cut off."""
    return [
        row("1\n2\n3", (1.0, -1.0, 0.5), 1.0),
        row("4\n5", (0.5, 0.0), finished=False),
        row("6", (0.25,), 1.0),
        row(""),
    ]


def randomise(trainer) -> None:
    """Adapter and head start at 0, which passes no gradient on."""
    set_seed(1)
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)


def gradients(trainer, loss) -> dict[str, torch.Tensor]:
    trainer.model.zero_grad()
    loss.backward()
    return {name: p.grad for name, p in trainer.model.named_parameters() if p.grad is not None}


# --- The model.


def test_values_are_the_heads_of_the_policys_states(policy):
    critic = HeadCritic(policy, 1.0)
    assert not values_of(critic, policy, IDS_BT, MASK_BT, 3).any()
    torch.nn.init.normal_(critic.value_head.weight)
    torch.nn.init.constant_(critic.value_head.bias, 0.5)
    hidden = policy.model(IDS_BT, attention_mask=MASK_BT).last_hidden_state
    expected_BT = hidden @ critic.value_head.weight[0] + 0.5
    torch.testing.assert_close(values_of(critic, policy, IDS_BT, MASK_BT, 3), expected_BT[:, 3:6])
    torch.testing.assert_close(values_of(critic, policy, IDS_BT, MASK_BT, 3, last=True), expected_BT[:, 3:7])


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0])
def test_the_trunks_gradient_is_scaled_and_the_heads_is_not(scale, policy):
    """V = w h + b with w = (2, 2, ...): dV/dw = h, dV/db = 1, dV/dh = 2, of which `scale` arrives."""
    critic = HeadCritic(policy, scale)
    torch.nn.init.constant_(critic.value_head.weight, 2.0)
    states = torch.linspace(-1, 1, policy.config.hidden_size).requires_grad_()
    value = critic.read(states)
    assert value.item() == pytest.approx(0.0, abs=1e-5)
    value.backward()
    torch.testing.assert_close(critic.value_head.weight.grad[0], states.detach())
    assert critic.value_head.bias.grad.item() == 1.0
    expected = None if scale == 0 else torch.full_like(states, 2.0 * scale)
    torch.testing.assert_close(states.grad, expected)


# --- In the trainer.


@pytest.mark.parametrize(
    "settings",
    [{}, {"truncated": "bootstrap"}, {"critic_trunk_scale": 0.5}, {"mask_truncated_completions": True}],
)
def test_training_packed_is_training_padded(scripted, rows, settings):
    losses, actual, batches = [], [], []
    for packing in (True, False):
        set_seed(0)
        trainer = scripted(rows, packing=packing, **HEAD, **settings)
        assert (trainer.passes.packed is not None) == packing
        randomise(trainer)
        batches.append(trainer.batch())
        losses.append(trainer.compute_loss(trainer.model, batches[-1]))
        actual.append(gradients(trainer, losses[-1]))
    for name in ("old_values", "advantages", "returns"):
        torch.testing.assert_close(batches[0][name], batches[1][name], atol=1e-5, rtol=1e-4)
    assert batches[1]["old_values"].abs().max() > 0.01
    torch.testing.assert_close(losses[0], losses[1], atol=1e-6, rtol=1e-5)
    assert actual[1]["critic.value_head.weight"].abs().max() > 1e-3
    for name, gradient in actual[1].items():
        torch.testing.assert_close(actual[0][name], gradient, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0])
def test_the_value_loss_reaches_the_policy_as_the_scale_says(scripted, rows, scale, packing):
    """Against a pass over padded rows and a value loss written out: 0.5 (V - R)^2 a token, vf_coef 0.5, in the mean."""
    set_seed(0)
    trainer = scripted(rows, packing=packing, value_clip=100.0, critic_trunk_scale=scale, **HEAD)
    randomise(trainer)
    batch = trainer.batch()
    batch["advantages"] = torch.zeros_like(batch["advantages"])
    actual = gradients(trainer, trainer.compute_loss(trainer.model, batch))

    ids, attention = (
        torch.cat([batch[f"prompt_{part}"], batch[f"completion_{part}"]], dim=1) for part in ("ids", "mask")
    )
    T = batch["completion_ids"].shape[1]
    states = trainer.model.get_base_model().model(ids, attention_mask=attention).last_hidden_state[:, -T - 1 : -1]
    head, mask = trainer.model.critic.value_head, batch["completion_mask"]
    error = (states @ head.weight[0] + head.bias - batch["returns"]).square()
    expected = gradients(trainer, 0.5 * 0.5 * (error * mask).sum() / mask.sum())
    adapters = [name for name in expected if "lora" in name]
    assert max(expected[name].abs().max() for name in adapters) > 1e-3
    for name, gradient in expected.items():
        factor = scale if "lora" in name else 1.0
        torch.testing.assert_close(actual[name], factor * gradient, atol=1e-6, rtol=1e-3)


def test_values_come_out_of_the_policys_pass(scripted, rows):
    passes = {}
    for critic in ("head", "adapter"):
        trainer, seen = scripted(rows, advantage="gae", critic=critic), []
        batch = trainer.batch()
        for module in trainer.model.modules():
            if "embed_tokens" in dict(module.named_children()):
                module.register_forward_hook(lambda *_, seen=seen: seen.append(1))
        trainer.compute_loss(trainer.model, batch)
        passes[critic] = len(seen)
    assert passes == {"head": 1, "adapter": 2}


def test_a_policy_that_trains_all_of_its_weights_needs_no_second_base(new_trainer, tmp_path):
    trainer = new_trainer(tmp_path, lora=False, **HEAD)
    own = {name for name, _ in trainer.model.named_parameters() if name.startswith("critic.")}
    assert own == {"critic.value_head.weight", "critic.value_head.bias"}
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    assert all(not torch.equal(p, before[name]) for name, p in trainer.model.named_parameters())


def test_checkpoints_and_exports_hold_the_head_beside_the_policy(new_trainer, tmp_path):
    new_trainer(tmp_path, max_steps=2, save_strategy="no", **HEAD).save_model()
    critic, adapter = load_file(tmp_path / CRITIC_FILE), load_file(tmp_path / "adapter_model.safetensors")
    assert {name: tuple(tensor.shape) for name, tensor in critic.items()} == {
        "value_head.weight": (1, 32),
        "value_head.bias": (1,),
    }
    assert not any("critic" in name for name in adapter)
    write_adapter(tmp_path, tmp_path / "export" / "adapter")
    write_merged(tmp_path, tmp_path / "export" / "merged")
    assert not any("critic" in name for name in load_file(tmp_path / "export" / "merged" / "model.safetensors"))
    AutoPeftModelForCausalLM.from_pretrained(tmp_path / "export" / "adapter")


def test_an_adapter_for_a_critic_without_one_is_refused(tiny_lm, tokenizer, arguments):
    data, shape = Dataset.from_list([{"prompt": "1\n", "reference": "1"}]), LoraConfig(target_modules="all-linear")
    with pytest.raises(UserError, match="critic 'head' has no adapter, so critic_config would do nothing"):
        StepPPOTrainer(tiny_lm, judge, arguments(**HEAD), data, processing_class=tokenizer, critic_config=shape)
