"""The packed pass over completions against a plain pass over padded rows: the same values and the same gradients."""

from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.distributions import Categorical
from transformers import AutoModelForCausalLM, GraniteConfig, set_seed
from trl.trainer.utils import add_fused_lm_head

from rlstep.policy.forward import PackedForward, groups_together
from rlstep.verifiers import packing
from tests.families import FAMILIES

ALL, NONE = 2**30, 0  # logits that are kept
TEMPERATURE = 0.8

# Two problems of three samples; prompts of 12 and 9 tokens on the left, completions of 0 to 7.
P, T, GROUP = 12, 7, 3
LENGTHS = ((12, 7), (12, 3), (12, 5), (9, 1), (9, 0), (9, 6))


def padded_rows(vocabulary: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    prompts = torch.randint(5, vocabulary, (2, P), generator=generator)
    ids = torch.randint(5, vocabulary, (len(LENGTHS), P + T), generator=generator)
    mask = torch.zeros(ids.shape, dtype=torch.long)
    for row, (prompt, completion) in enumerate(LENGTHS):
        ids[row, P - prompt : P] = prompts[row // GROUP, :prompt]
        mask[row, P - prompt : P + completion] = 1
    return ids.masked_fill(mask == 0, 0), mask


def family(name: str, **config) -> torch.nn.Module:
    set_seed(0)
    chosen = FAMILIES[name]
    model = AutoModelForCausalLM.from_config(
        chosen.config(**{"vocab_size": 101, "initializer_range": 0.15, "pad_token_id": 0} | chosen.options | config)
    )
    add_fused_lm_head(model, TEMPERATURE, outputs=("log_probs", "entropy"))
    return model.eval()


def with_lora(model) -> torch.nn.Module:
    adapter = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    return get_peft_model(model, adapter)


def plain(model, ids, mask) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, T) from a pass over padded rows and torch's own distributions."""
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    logits = model(input_ids=ids, attention_mask=mask, position_ids=positions).logits[:, -T - 1 : -1].float()
    drawn_from = Categorical(logits=logits / TEMPERATURE)
    asked = mask[:, -T:]
    return drawn_from.log_prob(ids[:, -T:]) * asked, drawn_from.entropy() * asked


def gradients(model, read, ids, mask, entropies: float = 0.1) -> list[torch.Tensor]:
    """Of a loss in which every token weighs differently."""
    log_probs_BT, entropies_BT = read(model, ids, mask)
    weights_BT = torch.linspace(-1, 1, len(ids) * T).view(-1, T)
    model.zero_grad()
    (weights_BT * log_probs_BT - entropies * weights_BT.flip(0) * entropies_BT).sum().backward()
    return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


def packed(model, kept_logits=ALL) -> PackedForward:
    return PackedForward(model, 0, TEMPERATURE, kept_logits, GROUP)


PACKS = ["qwen2", "qwen3", "llama", "mistral", "mixtral", "qwen3_moe"]


@pytest.fixture(autouse=True)
def share_short_prompts(monkeypatch):
    monkeypatch.setattr(packing, "WORTH_SHARING", 4)


@pytest.mark.parametrize("kept_logits", [ALL, NONE], ids=["logits kept", "logits again"])
@pytest.mark.parametrize("weights", ["lora", "all weights"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", PACKS)
def test_values_and_gradients_are_those_of_padded_rows(name, attention, weights, kept_logits):
    model = family(name)
    model.set_attn_implementation(attention)
    if weights == "lora":
        model = with_lora(model)
    assert PackedForward.refusal(model) is None
    ids, mask = padded_rows(101)
    # A window of 16 is shorter than the longest row of 19.
    if (window := packing.window_of(model.config)) is not None:
        assert not packed(model).fits(mask)
        mask[:, P + window - 12 :] = 0
    forward = packed(model, kept_logits)
    assert forward.fits(mask)
    ours, theirs = forward(model, ids, mask, T), plain(model, ids, mask)
    torch.testing.assert_close(ours, theirs, atol=3e-6, rtol=1e-5)
    read = [lambda *args: forward(*args, T), plain]
    for left, right in zip(*(gradients(model, one, ids, mask) for one in read), strict=True):
        torch.testing.assert_close(left, right, atol=1e-5 * right.abs().max().item() + 1e-7, rtol=1e-4)


def saved_sizes(model, forward, ids, mask) -> list[int]:
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x, lambda x: x):
        forward(model, ids, mask, T)
    return sizes


@pytest.mark.parametrize("name", PACKS)
def test_a_frozen_head_keeps_no_logits_and_gives_the_same_gradients(name):
    model, (ids, mask) = with_lora(family(name, vocab_size=1009)), padded_rows(1009)
    if (window := packing.window_of(model.config)) is not None:
        mask[:, P + window - 12 :] = 0
    forward = PackedForward(model, 0, TEMPERATURE, ALL, GROUP, frozen_head=True)
    torch.testing.assert_close(forward(model, ids, mask, T), plain(model, ids, mask), atol=3e-6, rtol=1e-5)
    read = [lambda *args: forward(*args, T), plain]
    for left, right in zip(*(gradients(model, one, ids, mask, 0.0) for one in read), strict=True):
        torch.testing.assert_close(left, right, atol=1e-5 * right.abs().max().item() + 1e-7, rtol=1e-4)
    logits = int(mask[:, -T:].sum()) * 1009
    assert logits in saved_sizes(model, packed(model), ids, mask)
    assert logits not in saved_sizes(model, forward, ids, mask)


@pytest.mark.parametrize("trained", ["all weights", "an adapter on the head", "scaled logits"])
def test_a_head_that_is_trained_or_not_the_last_is_read_within_the_models_forward(trained):
    model, (ids, mask) = family("llama"), padded_rows(101)
    if trained == "scaled logits":
        sizes = {name: model.config.to_dict()[name] for name in ("hidden_size", "intermediate_size", "vocab_size")}
        heads = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
        model = AutoModelForCausalLM.from_config(GraniteConfig(**sizes, **heads, logits_scaling=0.25, pad_token_id=0))
        add_fused_lm_head(model.eval(), TEMPERATURE, outputs=("log_probs", "entropy"))
    if trained != "all weights":
        targets = ["lm_head"] if trained == "an adapter on the head" else ["q_proj"]
        model = get_peft_model(model, LoraConfig(r=4, target_modules=targets, init_lora_weights=False))
    forward = PackedForward(model, 0, TEMPERATURE, ALL, GROUP, frozen_head=True)
    torch.testing.assert_close(forward(model, ids, mask, T), plain(model, ids, mask), atol=3e-6, rtol=1e-5)
    read = [lambda *args: forward(*args, T), plain]
    for left, right in zip(*(gradients(model, one, ids, mask) for one in read), strict=True):
        torch.testing.assert_close(left, right, atol=1e-5 * right.abs().max().item() + 1e-7, rtol=1e-4)


@pytest.mark.parametrize("name", ["gpt2", "gemma2", "gemma3"])
def test_other_families_are_right_or_refused(name):
    model = family(name)
    if PackedForward.refusal(model) is not None:
        return
    ids, mask = padded_rows(101)
    forward = packed(model)
    if not forward.fits(mask):
        mask[:, P + 4 :] = 0
    torch.testing.assert_close(forward(model, ids, mask, T), plain(model, ids, mask), atol=1e-5, rtol=1e-4)


def test_a_prompt_is_computed_once_for_its_samples():
    """19 + 12 places: prompts of 12 and 9, completions of 7, 3, 5 and 1, 6, without their last tokens."""
    model, seen = family("llama"), []
    model.base_model.register_forward_pre_hook(
        lambda _, __, kwargs: seen.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    packed(model)(model, *padded_rows(101), T)
    [(bins, length)] = seen
    assert bins * length <= 12 + 6 + 2 + 4 + 9 + 0 + 5


def test_the_head_sees_the_places_before_completion_tokens_alone():
    model, seen = family("llama"), []
    model.lm_head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[:-1].numel()))
    packed(model)(model, *padded_rows(101), T)
    assert seen == [sum(completion for _, completion in LENGTHS)]


def test_rows_at_once_is_whole_groups_at_least():
    model, seen = family("llama"), []
    model.lm_head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[:-1].numel()))
    ids, mask = padded_rows(101)
    torch.testing.assert_close(packed(model)(model, ids, mask, T, rows_at_once=1), packed(model)(model, ids, mask, T))
    assert seen == [15, 7, 22]


@pytest.mark.parametrize("kept_logits", [ALL, NONE])
def test_no_completion_left_keeps_the_graph(kept_logits):
    model = with_lora(family("llama"))
    ids, mask = padded_rows(101)
    mask[:, P:] = 0
    log_probs_BT, entropies_BT = packed(model, kept_logits)(model, ids, mask, T)
    assert not log_probs_BT.any()
    (log_probs_BT.sum() + entropies_BT.sum()).backward()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in trained)


def test_activation_checkpointing_changes_nothing():
    model = with_lora(family("qwen2")).train()
    ids, mask = padded_rows(101)
    forward, actual = packed(model), []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        actual.append(gradients(model, lambda *args: forward(*args, T), ids, mask))
    for left, right in zip(*actual, strict=True):
        torch.testing.assert_close(left, right)


def test_under_bf16_autocast_the_difference_is_bf16s():
    """At most what lies between two orders of summation of the padded pass, about 2^-7 of a logit of a few units."""
    model = with_lora(family("qwen2"))
    ids, mask = padded_rows(101)
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = packed(model)(model, ids, mask, T), plain(model, ids, mask)
    for left, right in zip(ours, theirs, strict=True):
        assert (left - right).abs().max() < 0.06
    assert ours[0].dtype == torch.float32


def test_groups_stay_together_in_the_order_of_the_shuffle():
    group = torch.tensor([2, 0, 2, 1, 0, 1])
    rows = torch.arange(6)
    slices = [
        {"group": group[i : i + 3], "rows": rows[i : i + 3], "items": torch.tensor(9.0), "none": None} for i in (0, 3)
    ]
    first, second = groups_together(slices)
    assert first["group"].tolist() + second["group"].tolist() == [2, 2, 0, 0, 1, 1]
    assert first["rows"].tolist() + second["rows"].tolist() == [0, 2, 1, 4, 3, 5]
    assert (first["items"].item(), first["none"]) == (9.0, None)


# --- In the trainer.


@pytest.fixture
def rows(row):
    """Two problems, two samples each."""
    return [row("1\n2\n3", (1.0, -1.0, 0.5), 1.0), row("4\n5", (0.5, 0.0)), row("6", (0.25,), 1.0), row("")]


def loss_and_gradients(trainer) -> tuple[torch.Tensor, list[torch.Tensor]]:
    batch = trainer.batch()
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    trained = [parameter for parameter in trainer.model.parameters() if parameter.requires_grad]
    return loss.detach(), [parameter.grad for parameter in trained]


@pytest.mark.parametrize(
    "settings",
    [
        {"advantage": "group", "beta": 0.1},
        {"advantage": "gae", "critic": "adapter", "beta": 0.1, "kl": "reward", "truncated": "bootstrap"},
        {"advantage": "gae", "mask_truncated_completions": True},
        {"loss_type": "grpo", "entropy_coef": 0.05},
        {"loss_type": "dr_grpo", "entropy_coef": 0.05, "top_entropy_quantile": 0.5},
    ],
)
def test_training_packed_is_training_padded(scripted, rows, settings):
    rows[1] = replace(rows[1], finished=False)
    actual = []
    for packing_on in (True, False):
        set_seed(0)
        # The group's prompt is one token, and so are the beginnings.
        trainer = scripted(rows, packing=packing_on, **settings)
        assert (trainer.passes.packed is not None) == packing_on
        set_seed(1)
        for parameter in trainer.model.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.1)
        actual.append(loss_and_gradients(trainer))
    (left_loss, left), (right_loss, right) = actual
    torch.testing.assert_close(left_loss, right_loss, atol=1e-6, rtol=1e-5)
    assert any(gradient.abs().max() > 1e-4 for gradient in right)
    for ours, theirs in zip(left, right, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    ("settings", "frozen"),
    [
        ({}, True),
        ({"loss_type": "bnpo", "entropy_coef": 0.05}, False),
        ({"use_adaptive_entropy": True, "loss_type": "bnpo"}, False),
        ({"fp16": True}, False),
    ],
)
def test_heads_keep_no_logits_unless_the_loss_has_entropies(scripted, rows, settings, frozen):
    trainer = scripted(rows, **settings)
    assert (trainer.passes.packed._frozen_head(trainer.model) is not None) == frozen


def test_freed_memory_is_given_back_before_a_pass_with_gradients_on_a_cpu(scripted, rows, monkeypatch):
    given_back = []
    monkeypatch.setattr("rlstep.policy.trainer.give_back_freed_memory", lambda: given_back.append(1))
    trainer = scripted(rows)
    batch = trainer.batch()
    assert given_back == []
    trainer.compute_loss(trainer.model, batch)
    assert given_back == [1]


def test_a_problems_samples_are_trained_in_one_micro_batch(scripted, row):
    rows = [row(str(number)) for number in range(8)]
    trainer = scripted(
        rows, per_device_train_batch_size=2, gradient_accumulation_steps=4, steps_per_generation=4, num_iterations=1
    )
    first = trainer._prepare_inputs([{"prompt": f"{n // 2}\n", "reference": "1"} for n in range(8)])
    slices = trainer._buffered_inputs
    assert first is slices[0]
    for part in slices:
        assert part["group"][0] == part["group"][1]
        assert torch.equal(part["prompt_ids"][0], part["prompt_ids"][1])
    assert sorted(part["group"][0].item() for part in slices) == [0, 1, 2, 3]


def test_why_rows_are_padded_is_said(scripted, rows, monkeypatch, caplog):
    monkeypatch.setattr(PackedForward, "refusal", staticmethod(lambda model: "its attention is unknown"))
    trainer = scripted(rows)
    assert trainer.passes.packed is None
    assert "completions are padded, which takes longer: its attention is unknown" in caplog.text
