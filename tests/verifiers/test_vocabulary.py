"""A tokenizer and a model of different vocabularies are told from one another before anything is trained."""

import pytest
from transformers import AutoTokenizer, Qwen2Config

from rlstep.runtime.errors import UserError
from rlstep.verifiers.vocabulary import check_texts, check_tokens, check_vocabulary


@pytest.fixture
def own(tiny_lm):
    """A tokenizer to change."""
    return AutoTokenizer.from_pretrained(tiny_lm)


def test_a_tokenizer_of_a_larger_vocabulary_is_refused(own):
    check_vocabulary(own, Qwen2Config(vocab_size=len(own)))
    check_vocabulary(own, Qwen2Config(vocab_size=len(own) + 100))  # models pad their embeddings
    with pytest.raises(UserError, match=rf"has {len(own)} tokens and the model's embedding 200 rows; '.+' \(200\) has"):
        check_vocabulary(own, Qwen2Config(vocab_size=200))


def test_a_pad_token_that_was_added_without_a_row_is_refused(own):
    rows = len(own)
    own.add_special_tokens({"pad_token": "<padding>"})
    with pytest.raises(UserError, match=rf"'<padding>' \({rows}\) has none.*resize_token_embeddings\({rows + 1}\)"):
        check_vocabulary(own, Qwen2Config(vocab_size=rows))


def test_an_added_token_counts_where_it_is_written(own):
    """Gemma 3's text models have a token for images beyond their embedding, which no text here has."""
    config = Qwen2Config(vocab_size=len(own))
    own.add_tokens(["<image>"])
    check_vocabulary(own, config)
    check_texts(["7 + 3\n"], own, config)
    with pytest.raises(UserError, match=r"text 2 has the token '<image>'"):
        check_texts(["7 + 3\n", "7 <image> 3\n"], own, config)
    with pytest.raises(UserError, match="resize_token_embeddings"):
        check_tokens([[0, 1], [], [len(own) - 1]], own, config)


def test_completions_need_an_end(own):
    own.eos_token = None
    check_vocabulary(own, Qwen2Config(vocab_size=len(own)))
    with pytest.raises(UserError, match="the tokenizer has no <eos>, so completions would never end"):
        check_vocabulary(own, Qwen2Config(vocab_size=len(own)), generates=True)
