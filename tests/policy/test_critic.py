"""The critic on shared weights, and what policy, critic and PRM take together."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config, set_seed

from rlstep.policy.critic import AdapterCritic, Critic, load_own, values_of
from rlstep.verifiers.adapters import save_adapter, unfreeze
from rlstep.verifiers.forward import logits_at
from rlstep.verifiers.heads import CLASS_HEADS
from rlstep.verifiers.load import load_verifier
from rlstep.verifiers.shared_base import Base, model_on_base
from rlstep.verifiers.spec import VerifierSpec
from rlstep.verifiers.training.start import new_verifier

IDS_BT = torch.tensor([[0, 0, 5, 6, 7, 8, 9], [3, 4, 5, 6, 7, 8, 0]])
MASK_BT = torch.tensor([[0, 0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 0]])


def lora(task: str = "CAUSAL_LM", r: int = 4, **options) -> LoraConfig:
    return LoraConfig(task_type=task, r=r, lora_alpha=2 * r, target_modules="all-linear", **options)


def verifier_on(base_path: str, tokenizer, folder, r: int = 4) -> str:
    """A PRM's adapter of random values."""
    model = new_verifier(base_path, VerifierSpec("prm"))
    config = lora("TOKEN_CLS", r, init_lora_weights=False, exclude_modules=list(CLASS_HEADS))
    save_adapter(get_peft_model(model, config), tokenizer, folder)
    return str(folder)


def start(critic: Critic) -> Critic:
    """Random values where an adapter and a head start at 0, which passes no gradient on."""
    for parameter in critic.own_parameters().values():
        torch.nn.init.normal_(parameter, std=0.1)
    return critic


def values(critic: AdapterCritic, last: bool = False) -> torch.Tensor:
    return values_of(critic, critic.backbone, IDS_BT, MASK_BT, 3, last)


def loss_of(critic: Critic) -> torch.Tensor:
    return values(critic).square().sum()


@pytest.fixture
def base(tiny_lm):
    return AutoModelForCausalLM.from_pretrained(tiny_lm)


def test_values_are_the_heads_of_the_states_before_each_token(base):
    with torch.no_grad():
        hidden = base.model(IDS_BT, attention_mask=MASK_BT).last_hidden_state
    critic = AdapterCritic(base, lora())
    assert not values(critic).any()
    torch.nn.init.normal_(critic.value_head.weight)
    torch.nn.init.constant_(critic.value_head.bias, 0.5)
    # The adapter starts at 0, so the states are the base's: those at 3, 4 and 5 choose the tokens at 4, 5 and 6.
    expected_BT = hidden @ critic.value_head.weight[0] + 0.5
    torch.testing.assert_close(values(critic), expected_BT[:, 3:6])
    torch.testing.assert_close(values(critic, last=True), expected_BT[:, 3:7])


def test_the_policys_adapter_and_the_critics_do_not_meet(base):
    critic = start(AdapterCritic(base, lora()))
    before = values(critic)
    logits = base(IDS_BT, attention_mask=MASK_BT).logits
    policy = get_peft_model(base, lora(init_lora_weights=False))
    torch.testing.assert_close(values(critic), before, atol=0, rtol=0)
    with policy.disable_adapter():
        torch.testing.assert_close(policy(IDS_BT, attention_mask=MASK_BT).logits, logits, atol=0, rtol=0)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_each_of_the_three_trains_its_own(base, tiny_lm, tokenizer, tmp_path, checkpointing):
    path = verifier_on(tiny_lm, tokenizer, tmp_path)
    verifier = load_verifier(path, base=Base(base, tiny_lm))
    critic = start(AdapterCritic(base, lora()))
    policy = get_peft_model(base, lora(init_lora_weights=False))
    if checkpointing:
        for model in (policy, critic.backbone, verifier.model):
            model.activation_checkpointing_enable({"use_reentrant": False})
            model.enable_input_require_grads()
    prm = verifier.model.train()
    parts = {
        "policy": {n: p for n, p in policy.named_parameters() if "lora_" in n},
        "critic": critic.own_parameters(),
        "prm": unfreeze(prm),
    }
    everything = {id(p): p for model in (policy, critic, prm) for p in model.parameters()}
    asked = {"input_ids": IDS_BT, "attention_mask": MASK_BT, "rows": torch.tensor([0, 1])}
    asked["positions"] = torch.tensor([6, 5])
    losses = {
        "policy": lambda: policy(IDS_BT, attention_mask=MASK_BT).logits.square().mean(),
        "critic": lambda: loss_of(critic),
        "prm": lambda: logits_at(prm, asked).square().sum(),
    }
    for name, loss in losses.items():
        loss().backward()
        own = {id(p) for p in parts[name].values()}
        assert {key for key, p in everything.items() if p.grad is not None and p.grad.any()} == own, name
        for parameter in everything.values():
            parameter.grad = None
    # and all in one backward pass, with the gradients that each has alone
    sum(loss() for loss in losses.values()).backward()
    together = {name: [p.grad.clone() for p in part.values()] for name, part in parts.items()}
    for name, loss in losses.items():
        for parameter in everything.values():
            parameter.grad = None
        loss().backward()
        for grad, parameter in zip(together[name], parts[name].values(), strict=True):
            torch.testing.assert_close(grad, parameter.grad)


def test_beside_a_policy_that_trains_all_of_its_weights(base):
    frozen = copy.deepcopy(base).requires_grad_(False)
    weights = {name: p.clone() for name, p in frozen.named_parameters()}
    critic = start(AdapterCritic(frozen, lora()))
    assert all(p.requires_grad for p in base.parameters())
    before = values(critic)
    own = critic.own_parameters()
    assert {name for name, p in critic.named_parameters() if p.requires_grad} == set(own)
    optimizer = torch.optim.SGD([*base.parameters(), *own.values()], lr=0.01)
    (base(IDS_BT, attention_mask=MASK_BT).logits.square().mean() + loss_of(critic)).backward()
    assert all(p.grad is not None for p in (*base.parameters(), *own.values()))
    assert all(p.grad is None for p in frozen.parameters())
    optimizer.step()
    assert all(torch.equal(p, weights[name]) for name, p in frozen.named_parameters())
    assert not torch.equal(base.model.embed_tokens.weight, frozen.model.embed_tokens.weight)
    assert not torch.allclose(values(critic), before)
    # all that it shares is the frozen model's, so it costs an adapter and a head more than the reference does
    storages = {p.data_ptr() for p in frozen.parameters()}
    assert {n for n, p in critic.named_parameters() if p.data_ptr() not in storages} == set(own)


def test_on_the_policy_itself_it_freezes_the_base(base):
    """As an adapter's base has to be; why a policy that trains all of its weights gives another model."""
    AdapterCritic(base, lora())
    assert not any(p.requires_grad for p in base.model.parameters())


def test_saved_weights_come_back_and_others_are_refused(base):
    critic = start(AdapterCritic(base, lora()))
    state = {name: p.detach().clone() for name, p in critic.own_parameters().items()}
    before = values(critic)
    again = AdapterCritic(base, lora())
    load_own(again, state)
    assert torch.equal(values(again), before)
    with pytest.raises(ValueError, match="do not match"):
        load_own(again, {name: p for name, p in state.items() if "bias" not in name})


FAMILIES = {"qwen2": Qwen2Config, "llama": LlamaConfig}


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_policy_critic_and_prm_take_little_more_than_the_base(family, tied, tokenizer, tmp_path):
    """At the shape that tests/benchmarks measure, each storage counted once; the reference is the adapter off."""
    set_seed(0)
    config = FAMILIES[family](
        vocab_size=8192, hidden_size=256, intermediate_size=768, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=4096, pad_token_id=0, tie_word_embeddings=tied,
    )  # fmt: skip
    path = str(tmp_path / "base")
    AutoModelForCausalLM.from_config(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    prm = verifier_on(path, tokenizer, tmp_path / "prm", r=16)

    base = AutoModelForCausalLM.from_pretrained(path)
    alone = base.num_parameters()
    model, reason = model_on_base(prm, Base(base, path))
    assert reason is None
    critic = AdapterCritic(base, lora(r=16))
    policy = get_peft_model(base, lora(r=16))
    counted = {p.data_ptr(): p.numel() for one in (policy, critic, model) for p in one.parameters()}
    ratio = sum(counted.values()) / alone
    adapter = sum(p.numel() for n, p in policy.named_parameters() if "lora_" in n)
    heads = (256 + 1) + 2 * 2 * (256 + 1)  # the critic's, and the PRM's with what it had before it was loaded
    assert sum(counted.values()) == alone + 3 * adapter + heads
    assert sum(p.numel() for p in load_file(tmp_path / "prm" / "adapter_model.safetensors").values()) == adapter + 514
    assert 1 < ratio <= 1.25, f"policy, critic and PRM take {ratio:.4f} times the base's {alone} parameters"
