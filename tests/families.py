"""Tiny models of the families that people bring, each with a tokenizer that behaves as the family's does.

What matters of a tokenizer is kept: how text is split (bytes, or pieces with "▁" for spaces and bytes as a fallback),
what is put before a text, which special tokens there are, and which of <bos>, <eos>, <pad> are missing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    DeepseekV3Config,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Olmo2Config,
    Phi3Config,
    PretrainedConfig,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
    SmolLM3Config,
    set_seed,
)

DIGITS = pre_tokenizers.Split(Regex(r"\d"), "isolated")


@dataclass(frozen=True)
class Specials:
    """A tokenizer's special tokens; None is one that the family's tokenizers lack."""

    eos: str
    bos: str | None = None
    pad: str | None = None
    more: tuple[str, ...] = ()
    prepends_bos: bool = False


CHATML = Specials("<|im_end|>", pad="<|endoftext|>", more=("<|im_start|>",))
GPT2 = Specials("<|endoftext|>", bos="<|endoftext|>")
LLAMA3 = Specials("<|eot_id|>", bos="<|begin_of_text|>", more=("<|start_header_id|>",), prepends_bos=True)
PIECES = Specials("</s>", bos="<s>", more=("<unk>",), prepends_bos=True)
PHI3 = Specials("<|end|>", bos="<s>", pad="<|endoftext|>", more=("<unk>", "<|user|>", "<|assistant|>"))
GEMMA = Specials("<eos>", bos="<bos>", pad="<pad>", more=("<unk>", "<start_of_turn>"), prepends_bos=True)
DEEPSEEK = Specials("<｜end▁of▁sentence｜>", bos="<｜begin▁of▁sentence｜>", pad="<｜▁pad▁｜>", prepends_bos=True)


def byte_tokenizer(texts: list[str], specials: Specials) -> PreTrainedTokenizerBase:
    """Byte-level BPE, as the families after GPT-2 have it."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence([DIGITS, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return _trained(backend, texts, specials, initial_alphabet=sorted(alphabet), vocab_size=320)


def piece_tokenizer(texts: list[str], specials: Specials) -> PreTrainedTokenizerBase:
    """BPE over pieces in which "▁" is a space, with bytes as a fallback: Llama 2, Mistral, Gemma."""
    backend = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.pre_tokenizer = DIGITS
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    # No alphabet of the texts alone: what they do not have is written in bytes.
    some = Specials(specials.eos, specials.bos, specials.pad, specials.more, specials.prepends_bos)
    return _trained(backend, texts, some, fallback=[f"<0x{byte:02X}>" for byte in range(256)], vocab_size=400)


def _trained(backend, texts, specials: Specials, fallback: list[str] | None = None, **options):
    named = {"eos_token": specials.eos, "bos_token": specials.bos, "pad_token": specials.pad}
    tokens = list(dict.fromkeys([token for token in named.values() if token] + list(specials.more)))
    trainer = trainers.BpeTrainer(special_tokens=tokens + (fallback or []), show_progress=False, **options)
    backend.train_from_iterator(texts, trainer)
    if specials.prepends_bos:
        bos = specials.bos, backend.token_to_id(specials.bos)
        backend.post_processor = processors.TemplateProcessing(f"{bos[0]} $A", f"{bos[0]} $A $B", [bos])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        additional_special_tokens=list(specials.more),
        clean_up_tokenization_spaces=False,
        **{name: token for name, token in named.items() if token},
    )


@dataclass(frozen=True)
class Family:
    """How to make a tiny model of a family.

    Attributes:
        config: its configuration's class.
        tokenizer: from texts and special tokens to a tokenizer.
        specials: its special tokens.
        options: of the configuration, beside those of all.
        classifies: whether transformers has a token classifier of the family.
    """

    config: type[PretrainedConfig]
    tokenizer: Callable[[list[str], Specials], PreTrainedTokenizerBase]
    specials: Specials
    options: dict
    classifies: bool = True

    def write(self, folder: Path, texts: list[str], tokenizer: PreTrainedTokenizerBase | None = None) -> str:
        """Saves an untrained model, 2 layers of 32, with its tokenizer; returns the folder."""
        tokenizer = tokenizer or self.tokenizer(texts, self.specials)
        ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("eos", "bos", "pad")}
        set_seed(0)
        # Embeddings have a few rows more than there are tokens, as most families' have.
        config = self.config(vocab_size=len(tokenizer) + 7, initializer_range=0.15, **self.options, **ids)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return str(folder)


SIZES = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48,
    "max_position_embeddings": 256,
}  # fmt: skip
GROUPED = SIZES | {"num_key_value_heads": 1}
WIDE_HEADS = GROUPED | {"head_dim": 16, "sliding_window": 16}
LATENT = SIZES | {
    "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16,
    "num_key_value_heads": 2, "moe_intermediate_size": 16, "n_routed_experts": 4, "num_experts_per_tok": 2,
    "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1,
}  # fmt: skip
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 16}

FAMILIES = {
    "qwen2": Family(Qwen2Config, byte_tokenizer, CHATML, GROUPED | {"tie_word_embeddings": True}),
    "qwen3": Family(Qwen3Config, byte_tokenizer, CHATML, GROUPED | {"head_dim": 16, "tie_word_embeddings": True}),
    "llama": Family(LlamaConfig, byte_tokenizer, LLAMA3, GROUPED),
    "mistral": Family(MistralConfig, piece_tokenizer, PIECES, WIDE_HEADS),
    "gemma2": Family(Gemma2Config, piece_tokenizer, GEMMA, WIDE_HEADS),
    "gemma3": Family(Gemma3TextConfig, piece_tokenizer, GEMMA, WIDE_HEADS, classifies=False),
    "gpt2": Family(GPT2Config, byte_tokenizer, GPT2, {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 256}),
    "gpt_neox": Family(GPTNeoXConfig, byte_tokenizer, GPT2, SIZES),
    "phi3": Family(Phi3Config, piece_tokenizer, PHI3, GROUPED),
    "olmo2": Family(Olmo2Config, byte_tokenizer, GPT2, GROUPED, classifies=False),
    "mixtral": Family(MixtralConfig, piece_tokenizer, PIECES, GROUPED | {"num_local_experts": 4}),
    "qwen3_moe": Family(Qwen3MoeConfig, byte_tokenizer, CHATML, GROUPED | EXPERTS),
    "deepseek_v3": Family(DeepseekV3Config, byte_tokenizer, DEEPSEEK, LATENT),
    "smollm3": Family(SmolLM3Config, byte_tokenizer, CHATML, GROUPED | {"tie_word_embeddings": True}),
}  # fmt: skip
