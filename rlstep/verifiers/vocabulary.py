"""Whether a tokenizer fits a model's embedding, before a token without a row in it stops the training."""

from collections.abc import Iterable, Sequence

from transformers import PretrainedConfig, PreTrainedTokenizerBase

from rlstep.runtime.errors import UserError
from rlstep.runtime.halves import refuse_halves


def check_vocabulary(tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig, generates: bool = False) -> None:
    """Refuses a tokenizer whose tokens the model has no rows for.

    Tokens that were added for other uses, as Gemma 3 has one for images, may lie beyond; `check_tokens` finds them
    where a text has one.

    Args:
        tokenizer: what will read the texts.
        config: the model's.
        generates: texts end with <eos>, so there has to be one.

    Raises:
        UserError: tokens of the vocabulary proper, or of <eos>, <pad>, <bos>, lie beyond the embedding; there is no
            <eos> and one is needed.
    """
    name, rows = tokenizer.name_or_path, config.get_text_config().vocab_size
    if generates and tokenizer.eos_token_id is None:
        raise UserError(
            f"{name}: the tokenizer has no <eos>, so completions would never end. Set eos_token in its "
            "tokenizer_config.json to the token that ends a text, for example '<|im_end|>'."
        )
    added = set(tokenizer.added_tokens_decoder)
    used = {id for id in (tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.bos_token_id) if id is not None}
    beyond = {
        id: token for token, id in tokenizer.get_vocab().items() if id >= rows and (id not in added or id in used)
    }
    if beyond:
        first = min(beyond)
        raise UserError(
            f"{name}: the tokenizer has {len(tokenizer)} tokens and the model's embedding {rows} rows; "
            f"'{beyond[first]}' ({first}) has none. Take the model's own tokenizer, or save the model after "
            f"resize_token_embeddings({max(tokenizer.get_vocab().values()) + 1})."
        )


def check_texts(
    texts: Iterable[str],
    tokenizer: PreTrainedTokenizerBase,
    config: PretrainedConfig,
    names: Sequence[str] | None = None,
) -> None:
    """Like `check_tokens` for texts, which are tokenised only if the tokenizer has tokens beyond the embedding."""
    if max(tokenizer.get_vocab().values()) >= config.get_text_config().vocab_size:
        texts = list(texts)
        refuse_halves(texts)
        check_tokens(tokenizer(texts, add_special_tokens=False)["input_ids"], tokenizer, config, names)


def check_tokens(
    rows: Iterable[Sequence[int]],
    tokenizer: PreTrainedTokenizerBase,
    config: PretrainedConfig,
    names: Sequence[str] | None = None,
) -> None:
    """Refuses texts with a token that the model's embedding has no row for.

    Args:
        rows: token ids of each text.
        tokenizer: it made them.
        config: the model's.
        names: what each text is called in the message; by default its number from 1.

    Raises:
        UserError: one has such a token.
    """
    limit = config.get_text_config().vocab_size
    for number, ids in enumerate(rows):
        if len(ids) and (largest := int(max(ids))) >= limit:
            name = names[number] if names else f"text {number + 1}"
            raise UserError(
                f"{name} has the token '{tokenizer.convert_ids_to_tokens(largest)}' ({largest}), and the "
                f"model's embedding has {limit} rows. Save the model after resize_token_embeddings, or take that token "
                "out of the texts."
            )
