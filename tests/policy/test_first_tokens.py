"""Models whose passes in an update would not give the policy's own values: read otherwise, or refused in one line.

The oracle reads each row alone, by the model's own forward.
"""

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from torch.distributions import Categorical
from transformers import (
    AutoModelForCausalLM,
    BartConfig,
    Gemma3nTextConfig,
    ModernBertDecoderConfig,
    OPTConfig,
    RecurrentGemmaConfig,
    RwkvConfig,
    set_seed,
)

from rlstep.policy.trainer import StepPPOTrainer
from rlstep.runtime.errors import UserError
from rlstep.verifiers import packing
from tests.families import FAMILIES
from tests.policy.test_forward import GROUP, TEMPERATURE, T, padded_rows

SIZES = {"vocab_size": 101, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
OPT = OPTConfig(**SIZES, ffn_dim=48, word_embed_proj_dim=32, max_position_embeddings=256)
GEMMA3N = Gemma3nTextConfig(
    **SIZES, num_key_value_heads=1, intermediate_size=48, head_dim=16, hidden_size_per_layer_input=8,
    vocab_size_per_layer_input=101, num_kv_shared_layers=0, activation_sparsity_pattern=[0.0, 0.0],
    layer_types=["full_attention", "full_attention"], laurel_rank=4, altup_num_inputs=2,
)  # fmt: skip
OTHERS = {"opt": OPT, "gemma3n": GEMMA3N}


def model_of(config) -> torch.nn.Module:
    config = OTHERS.get(config, config) if isinstance(config, str) else config
    if isinstance(config, str):
        family = FAMILIES[config]
        config = family.config(vocab_size=101, initializer_range=0.15, **family.options)
    config.pad_token_id, config.bos_token_id, config.eos_token_id = 0, 1, 2
    set_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        if parameter.dim() > 1:  # so that what stands where is seen in the logits
            torch.nn.init.normal_(parameter, std=0.15)
    return model


@pytest.fixture
def trainer_of(arguments, tokenizer):
    def make(config, peft_config=None, critic_config=None, **settings) -> StepPPOTrainer:
        trainer = StepPPOTrainer(
            model_of(config),
            lambda prompts, completions, references: [],
            arguments(temperature=TEMPERATURE, num_generations=GROUP, per_device_train_batch_size=6, **settings),
            Dataset.from_list([{"prompt": "1\n", "reference": "1"}] * 2),
            processing_class=tokenizer,
            peft_config=peft_config,
            critic_config=critic_config,
        )
        trainer.model.eval()
        return trainer

    return make


def alone(model, ids, mask) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, T) log-probabilities and entropies of each row in a pass of its own."""
    both = torch.zeros(2, len(ids), T)
    for row, (ids_S, mask_S) in enumerate(zip(ids, mask.bool(), strict=True)):
        completion = int(mask_S[-T:].sum())
        if not completion:
            continue
        tokens = ids_S[mask_S]
        logits = model(input_ids=tokens[None], use_cache=False).logits[0, len(tokens) - completion - 1 : -1].float()
        drawn_from = Categorical(logits=logits / TEMPERATURE)
        both[0, row, :completion] = drawn_from.log_prob(tokens[len(tokens) - completion :])
        both[1, row, :completion] = drawn_from.entropy()
    return both[0], both[1]


@pytest.mark.parametrize("kept_logits_gib", [1.0, 0.0])
@pytest.mark.parametrize("config", ["gpt2", "llama", "opt", "gemma3n"])
def test_packed_rows_have_their_own_values(trainer_of, config, kept_logits_gib):
    """OPT's own forward goes past the module that the head's hook is on; Gemma 3n has an inner size for each layer."""
    trainer, (ids, mask) = trainer_of(config, kept_logits_gib=kept_logits_gib), padded_rows(101)
    assert trainer.passes.packed is not None
    with torch.no_grad():
        actual = trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, T, compute_entropy=True)
        torch.testing.assert_close(tuple(actual[:2]), alone(trainer.model, ids, mask), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("config", ["gpt2", "llama", "gemma2", "opt"])
def test_padded_rows_have_their_own_values(trainer_of, config):
    """GPT-2 has absolute positions, and a prompt of 9 tokens stands behind 3 of padding."""
    trainer, (ids, mask) = trainer_of(config, packing=False), padded_rows(101)
    with torch.no_grad():
        actual = trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, T, compute_entropy=True)
        expected = alone(trainer.model, ids, mask)
    asked = mask[:, -T:].bool()
    for left, right in zip(actual, expected, strict=False):
        torch.testing.assert_close(left[asked], right[asked], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("critic", ["adapter", "head"])
def test_values_of_padded_rows_are_those_of_packed_ones(trainer_of, critic):
    ids, mask = padded_rows(101)
    batch = {"prompt_ids": ids[:, :-T], "completion_ids": ids[:, -T:]}
    batch |= {"prompt_mask": mask[:, :-T], "completion_mask": mask[:, -T:]}
    values = []
    for packed in (True, False):
        trainer = trainer_of("gpt2", packing=packed, advantage="gae", critic=critic)
        set_seed(1)
        torch.nn.init.normal_(trainer.model.critic.value_head.weight)
        with torch.no_grad():
            values.append(trainer.value_function._values(trainer.model, batch) * mask[:, -T:])
    assert values[0].abs().max() > 0.1
    torch.testing.assert_close(*values, atol=1e-5, rtol=1e-4)


BART = BartConfig(
    vocab_size=101, d_model=32, decoder_layers=2, decoder_attention_heads=2, decoder_ffn_dim=48,
    max_position_embeddings=256, is_decoder=True, is_encoder_decoder=False,
)  # fmt: skip
RWKV = RwkvConfig(vocab_size=101, hidden_size=32, num_hidden_layers=2, attention_hidden_size=32, intermediate_size=48)


@pytest.mark.parametrize("config", [BART, RWKV], ids=["positions of their own", "a state that reads padding"])
def test_models_that_can_be_neither_packed_nor_padded_are_refused(trainer_of, config):
    with pytest.raises(UserError, match="gives a row other values when padding stands before it.*Take") as error:
        trainer_of(config)
    assert "\n" not in str(error.value)


DECODER = ModernBertDecoderConfig(**SIZES, intermediate_size=48, local_attention=256)
CAPPED = RecurrentGemmaConfig(**SIZES, intermediate_size=48, lru_width=32, attention_window_size=64)


@pytest.mark.parametrize("config", [DECODER, CAPPED], ids=["a layer before the logits", "a cap that TRL does not know"])
def test_models_whose_head_trl_does_not_know_are_refused(trainer_of, config):
    with pytest.raises(UserError, match="computes its logits by more than its output embedding") as error:
        trainer_of(config)
    assert "\n" not in str(error.value)


def test_trained_tokens_of_tied_embeddings_are_refused(trainer_of):
    """TRL's fused head reads the weights below them; adapters on the output embedding TRL refuses itself."""
    lora = LoraConfig(r=2, task_type="CAUSAL_LM", target_modules=["q_proj"], trainable_token_indices=[7, 8])
    with pytest.raises(UserError, match="adapter has a layer on the output embedding"):
        trainer_of("qwen2", lora)


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("llama", {"target_modules": "all-linear", "modules_to_save": ["lm_head"]}),
        ("llama", {"target_modules": ["q_proj", "embed_tokens"], "ensure_weight_tying": True}),
        ("llama", {"target_modules": ["q_proj"], "trainable_token_indices": [7, 8]}),
        ("qwen2", {"target_modules": ["q_proj", "embed_tokens"]}),
    ],
)
@pytest.mark.filterwarnings("ignore:.*tie_word_embeddings", "ignore:.*ensure_weight_tying", "ignore:.*embedding")
def test_other_adapters_have_their_own_values(trainer_of, family, options):
    lora = LoraConfig(r=2, task_type="CAUSAL_LM", init_lora_weights=False, **options)
    trainer, (ids, mask) = trainer_of(family, lora, kept_logits_gib=0.0), padded_rows(101)
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    with torch.no_grad():
        actual = trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, T, compute_entropy=True)
        torch.testing.assert_close(tuple(actual[:2]), alone(trainer.model, ids, mask), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("bias", "critic_bias", "settings"),
    [
        ("all", "none", {"beta": 0.1}),
        ("lora_only", None, {"advantage": "gae", "critic": "adapter"}),
        ("all", "none", {"advantage": "gae", "critic": "adapter"}),
        ("none", "all", {"advantage": "gae", "critic": "adapter"}),
    ],
)
def test_biases_of_a_base_that_others_read_are_not_trained(trainer_of, bias, critic_bias, settings):
    """They are no part of an adapter that can be off: the reference would follow the policy, and a critic train it."""
    shape, critic_shape = (
        of and LoraConfig(r=2, task_type="CAUSAL_LM", target_modules="all-linear", bias=of)
        for of in (bias, critic_bias)
    )
    if critic_shape is not None and "critic" in settings:
        settings = settings | {"critic_config": critic_shape}
    with pytest.raises(
        UserError, match="trains biases of the base itself, and the (reference|critic|policy).*bias: none"
    ):
        trainer_of("qwen2", shape, **settings)


@pytest.mark.parametrize("settings", [{}, {"advantage": "gae", "critic": "head"}])
def test_biases_of_a_base_that_nothing_else_reads_are_trained(trainer_of, settings):
    shape = LoraConfig(r=2, task_type="CAUSAL_LM", target_modules="all-linear", bias="all")
    trainer = trainer_of("qwen2", shape, **settings)
    assert any(name.endswith("bias") and p.requires_grad for name, p in trainer.model.named_parameters())


def test_trying_leaves_the_model_as_it_was(trainer_of, arguments):
    assert packing.can_pack(get_peft_model(model_of("llama").train(), LoraConfig(target_modules=["q_proj"]))) is None
    trainer = trainer_of("gpt2", packing=False)
    assert not trainer.model._forward_pre_hooks
    assert all(parameter.grad is None for parameter in trainer.model.parameters())
