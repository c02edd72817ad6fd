"""A language model small enough to train from scratch on two CPU cores: a small Qwen2, in Hugging Face classes."""

from transformers import PreTrainedTokenizerBase, Qwen2Config, Qwen2ForCausalLM, set_seed


def small_model(
    tokenizer: PreTrainedTokenizerBase,
    seed: int = 0,
    hidden_size: int = 96,
    layers: int = 3,
    heads: int = 4,
    intermediate_size: int | None = None,
    max_positions: int = 512,
) -> Qwen2ForCausalLM:
    """A randomly initialised Qwen2 of 364 thousand parameters (at the default sizes) for `tokenizer`.

    `intermediate_size` is three times `hidden_size` unless it is given.
    """
    set_seed(seed)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=3 * hidden_size if intermediate_size is None else intermediate_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=max_positions,
        tie_word_embeddings=True,
        # Qwen's 0.02 suits widths of thousands; at this one it costs hundreds of steps before anything is learned.
        initializer_range=hidden_size**-0.5,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    model = Qwen2ForCausalLM(config)
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    return model
