import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, Qwen2Config

from rlstep.tasks.wordlevel import word_level_tokenizer

PIECES = ["Answer: ", "1", "10", " + 1", " + 10", " = ", "\n"]
TEXT = "10 + 1 = 11\n1 + 10 = 11\nAnswer: 11"
TOKENS = ["10", " + 1", " = ", "1", "1", "\n", "1", " + 10", " = ", "1", "1", "\n", "Answer: ", "1", "1"]
TOKENIZER = word_level_tokenizer(PIECES)


def test_each_piece_is_one_token_and_the_longest_wins():
    assert [TOKENIZER.decode([i]) for i in TOKENIZER(TEXT)["input_ids"]] == TOKENS


def test_offsets_are_exact():
    coded = TOKENIZER(TEXT, return_offsets_mapping=True)
    assert [TEXT[start:end] for start, end in coded["offset_mapping"]] == TOKENS


@given(st.one_of(st.text(), st.lists(st.sampled_from([*PIECES, " ", "é", "  "]), max_size=12).map("".join)))
@settings(max_examples=200, deadline=None)
def test_decoding_is_the_inverse_whatever_the_text(text):
    text = unicodedata.normalize("NFC", text)
    ids = TOKENIZER(text)["input_ids"]
    assert TOKENIZER.decode(ids) == TOKENIZER.decode(ids, skip_special_tokens=True) == text


def test_special_tokens_are_added_by_nobody_and_skipped_when_asked():
    ids = TOKENIZER("1")["input_ids"]
    assert len(ids) == 1
    closed = [TOKENIZER.pad_token_id, *ids, TOKENIZER.eos_token_id]
    assert TOKENIZER.decode(closed) == "<pad>1<eos>"
    assert TOKENIZER.decode(closed, skip_special_tokens=True) == "1"
    assert TOKENIZER.pad_token_id != TOKENIZER.eos_token_id


def test_pads_left():
    batch = TOKENIZER(["1", "10 + 1"], padding=True)
    assert batch["input_ids"][0] == [TOKENIZER.pad_token_id, *TOKENIZER("1")["input_ids"]]
    assert batch["attention_mask"] == [[0, 1], [1, 1]]


def test_auto_tokenizer_beside_a_qwen2_configuration_gives_the_same_ids(tmp_path):
    """AutoTokenizer chooses its class by the model's configuration, and not by what the tokenizer's files say."""
    Qwen2Config(vocab_size=len(TOKENIZER)).save_pretrained(tmp_path)
    TOKENIZER.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    for text in (TEXT, "free text: 3 é\n\n"):
        before, after = (t(text, return_offsets_mapping=True) for t in (TOKENIZER, loaded))
        assert (after["input_ids"], after["offset_mapping"]) == (before["input_ids"], before["offset_mapping"])
        assert loaded.decode(after["input_ids"]) == text
    assert (len(loaded), loaded.padding_side) == (len(TOKENIZER), "left")
    assert (loaded.pad_token, loaded.eos_token) == ("<pad>", "<eos>")


def test_a_piece_twice_is_refused():
    with pytest.raises(ValueError, match="given twice"):
        word_level_tokenizer(["1", "1"])
