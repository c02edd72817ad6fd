"""Step positions on three kinds of tokenizer, built here from nothing."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from rlstep.runtime.errors import UserError
from rlstep.steps.boundaries import line_steps
from rlstep.steps.positions import (
    encode,
    step_tokens,
    token_ends_from_ids,
    token_ends_from_offsets,
)

CORPUS = ["the sum is 12\n", "the café has 数 of them\nso the answer is 7\n", "12 + 7 = 19\n\nAnswer: 19\n"]
HARD = "café é\n数学 is 🙂🙂\n\n12 + 7 = 19\nAnswer: 19 🙂"


def fast(tokenizer: Tokenizer, **special) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **special)


def byte_level(trim_offsets: bool = False, vocabulary: int = 300) -> PreTrainedTokenizerFast:
    """GPT-2's kind: é, 数 and 🙂 are two, three and four tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if trim_offsets:
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=["<eos>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([text.replace("é", "e").replace("数", "") for text in CORPUS], trainer)
    return fast(tokenizer, eos_token="<eos>", pad_token="<eos>")


def metaspace(prepend: bool = False) -> PreTrainedTokenizerFast:
    """SentencePiece's kind with byte fallback: a space is part of the word after it.

    As Llama 2's, it may put a space before the text and take the first one off again when it decodes.
    """
    pieces = ["<unk>", "<eos>", "\u2581", "\n", *"abcdefghijklmnopqrstuvwxyzA0123456789+=:"]
    vocabulary = {piece: i for i, piece in enumerate([*pieces, *(f"<0x{byte:02X}>" for byte in range(256))])}
    merges = [("\u2581", "t"), ("h", "e"), ("\u2581t", "he"), ("1", "2"), ("i", "s"), ("\u2581", "is")]
    for left, right in merges:
        vocabulary.setdefault(left + right, len(vocabulary))
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", byte_fallback=True))
    space_first = [normalizers.Prepend("\u2581")] if prepend else []
    tokenizer.normalizer = normalizers.Sequence([*space_first, normalizers.Replace(" ", "\u2581")])
    strip_first = [decoders.Strip(" ", 1, 0)] if prepend else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), *strip_first]
    )
    return fast(tokenizer, eos_token="<eos>", unk_token="<unk>")


def word_piece() -> PreTrainedTokenizerFast:
    """BERT's kind: newlines are in no token, so the decoded text is another one."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789+=:"
    pieces = ["[UNK]", "[CLS]", "[SEP]", *letters, *(f"##{letter}" for letter in letters), "the", "answer"]
    tokenizer = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(strip_accents=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 1), ("[SEP]", 2)])
    return fast(tokenizer, unk_token="[UNK]", cls_token="[CLS]", eos_token="[SEP]")


TOKENIZERS = {
    "byte level": byte_level(),
    "bytes alone": byte_level(vocabulary=257),
    "byte level, trimmed offsets": byte_level(trim_offsets=True),
    "metaspace": metaspace(),
    "metaspace, space first": metaspace(prepend=True),
    "word piece": word_piece(),
}
ROUND_TRIP = [name for name in TOKENIZERS if name != "word piece"]
LINES = st.lists(st.text(alphabet="the12 +é数🙂", min_size=1, max_size=12), min_size=1, max_size=6)


def ends_both_ways(tokenizer, text: str) -> tuple[list[int], list[int]]:
    coded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return token_ends_from_offsets(coded["offset_mapping"]), token_ends_from_ids(tokenizer, coded["input_ids"])


def oracle(tokenizer, ids: list[int], step_end: int) -> int:
    """The first token after which the whole decoding is as long as the step and shows no half character."""
    whole = tokenizer.decode(ids)
    for index in range(len(ids)):
        read = tokenizer.decode(ids[: index + 1])
        if len(read) >= step_end and read[:step_end] == whole[:step_end]:
            return index
    return len(ids) - 1


@pytest.mark.parametrize("name", ["byte level", "bytes alone", "metaspace", "metaspace, space first"])
def test_offsets_and_decoding_give_the_same_token_ends(name):
    from_offsets, from_ids = ends_both_ways(TOKENIZERS[name], HARD)
    assert from_offsets == from_ids
    assert from_ids[-1] == len(HARD)


def test_split_characters_are_complete_with_their_last_token():
    tokenizer = TOKENIZERS["bytes alone"]
    assert ends_both_ways(tokenizer, "é数🙂\n") == ([0, 1, 1, 1, 2, 2, 2, 2, 3, 4],) * 2
    assert encode(tokenizer, "", "é\n数\n", [(0, 2), (2, 4)]).step_ends == [2, 6]


@pytest.mark.parametrize("name", ROUND_TRIP)
@settings(max_examples=40, deadline=None)
@given(lines=LINES)
def test_a_step_ends_where_decoding_first_shows_all_of_it(name, lines):
    tokenizer, text = TOKENIZERS[name], "\n".join(lines)
    steps = line_steps(text)
    from_offsets, from_ids = ends_both_ways(tokenizer, text)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text
    expected = [oracle(tokenizer, ids, end) for _, end in steps]
    assert step_tokens(from_offsets, steps) == expected
    assert step_tokens(from_ids, steps) == expected


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=40, deadline=None)
@given(lines=LINES)
def test_every_step_has_one_end_inside_the_completion_and_keeps_its_place(name, lines):
    completion = "\n".join(lines)
    steps = line_steps(completion)
    encoded = encode(TOKENIZERS[name], "the sum: ", completion, steps)
    assert len(encoded.step_ends) == len(steps)
    assert encoded.step_ends == sorted(encoded.step_ends)
    assert all(encoded.prompt_length <= end < len(encoded.ids) for end in encoded.step_ends)


def test_a_dropped_newline_does_not_push_a_step_onto_the_next_ones_first_token():
    completion = "the 12\nanswer 7\n\n7"
    encoded = encode(TOKENIZERS["word piece"], "the", completion, line_steps(completion))
    pieces = TOKENIZERS["word piece"].convert_ids_to_tokens(encoded.ids)
    assert pieces[encoded.prompt_length :] == ["the", "1", "##2", "answer", "7", "7"]
    assert [end - encoded.prompt_length for end in encoded.step_ends] == [2, 4, 5]


def test_the_prompt_keeps_its_special_tokens_but_is_not_closed():
    encoded = encode(TOKENIZERS["word piece"], "the", "answer", [(0, 6)])
    assert TOKENIZERS["word piece"].convert_ids_to_tokens(encoded.ids) == ["[CLS]", "the", "answer"]
    assert encoded.prompt_length == 2


def test_closing_tokens_are_known_without_an_eos_token():
    # BERT's own tokenizers close a text with [SEP] and have no end-of-sequence token.
    tokenizer = fast(word_piece().backend_tokenizer, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]")
    assert tokenizer.eos_token_id is None
    assert tokenizer.convert_ids_to_tokens(encode(tokenizer, "the", "7", [(0, 1)]).ids) == ["[CLS]", "the", "7"]


def test_a_special_token_that_the_prompt_ends_with_stays():
    pieces = TOKENIZERS["word piece"].convert_ids_to_tokens(
        encode(TOKENIZERS["word piece"], "the[SEP]", "7", [(0, 1)]).ids
    )
    assert pieces == ["[CLS]", "the", "[SEP]", "7"]


def test_an_empty_prompt_is_opened_but_not_closed():
    encoded = encode(TOKENIZERS["word piece"], "", "7", [(0, 1)])
    assert TOKENIZERS["word piece"].convert_ids_to_tokens(encoded.ids) == ["[CLS]", "7"]
    assert (encoded.prompt_length, encoded.step_ends) == (1, [1])
    # OPT's kind: one token opens texts and ends them
    tokenizer = byte_level()
    opening = processors.TemplateProcessing("<eos> $A", None, [("<eos>", tokenizer.eos_token_id)])
    tokenizer.backend_tokenizer.post_processor = opening
    tokenizer = fast(tokenizer.backend_tokenizer, bos_token="<eos>", eos_token="<eos>")
    assert tokenizer.convert_ids_to_tokens(encode(tokenizer, "", "7", [(0, 1)]).ids) == ["<eos>", "7"]


def test_a_completion_without_tokens_is_refused_with_a_remedy():
    with pytest.raises(UserError, match=r"no token for the completion '\\u200b'.*Leave the row out"):
        encode(TOKENIZERS["word piece"], "the", "\u200b", line_steps("\u200b"))
    assert encode(TOKENIZERS["word piece"], "the", "", []).step_ends == []


def test_offsets_of_normalised_text_are_those_of_the_text_itself():
    tokenizer = metaspace()
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Strip(), normalizers.NFKC(), normalizers.Lowercase(), normalizers.Replace(" ", "\u2581")]
    )
    # "ﬁ" is one character and two tokens, "THE" three and maybe two, the outer spaces are in none
    text = "  \ufb01 THE\n12  \n "
    encoded = encode(tokenizer, "", text, [(0, 3), (3, 8), (8, len(text))])
    pieces = tokenizer.convert_ids_to_tokens(encoded.ids)
    assert pieces == ["f", "i", "\u2581the", "\n", "12"]
    assert encoded.step_ends == [1, 3, 4]


def test_trailing_spaces_belong_to_the_last_step():
    tokenizer = TOKENIZERS["metaspace"]
    encoded = encode(tokenizer, "", "12\n7  ", line_steps("12\n7  "))
    assert tokenizer.convert_ids_to_tokens(encoded.ids) == ["12", "\n", "7", "\u2581", "\u2581"]
    assert encoded.step_ends == [1, 4]


def test_an_empty_step_ends_where_the_one_before_it_does():
    assert step_tokens([1, 2, 5], [(0, 2), (2, 2), (2, 5)]) == [1, 1, 2]


def test_a_character_is_incomplete_while_a_later_token_has_a_part_of_it():
    # the middle token has no characters of its own, for example a space that the tokenizer trimmed
    assert token_ends_from_offsets([(0, 2), (2, 2), (1, 3)]) == [1, 1, 3]
    assert token_ends_from_offsets([(0, 1), (1, 1), (3, 4)]) == [1, 3, 4]
    assert token_ends_from_offsets([]) == []


def test_special_tokens_among_sampled_ones_complete_nothing():
    tokenizer = TOKENIZERS["byte level"]
    ids = tokenizer("12\n7\n", add_special_tokens=False)["input_ids"]
    eos = tokenizer.eos_token_id
    ends = token_ends_from_ids(tokenizer, ids)
    assert token_ends_from_ids(tokenizer, [eos, *ids, eos, eos]) == [0, *ends, ends[-1], ends[-1]]


def test_text_cut_inside_a_character_ends_its_step_at_the_last_token():
    tokenizer = TOKENIZERS["bytes alone"]
    ids = tokenizer("1\n数", add_special_tokens=False)["input_ids"][:-1]
    text = tokenizer.decode(ids)
    ends = token_ends_from_ids(tokenizer, ids)
    assert ends == [1, 2, 2, 2]
    assert step_tokens(ends, line_steps(text)) == [1, 3]


def test_broken_bytes_in_the_middle_do_not_shift_what_follows():
    tokenizer = TOKENIZERS["bytes alone"]
    first, _, last = tokenizer("数", add_special_tokens=False)["input_ids"]
    one, newline = tokenizer("1\n", add_special_tokens=False)["input_ids"]
    ids = [one, first, last, newline, one]
    ends = token_ends_from_ids(tokenizer, ids)
    text = tokenizer.decode(ids)
    assert ends[-1] == len(text)
    assert step_tokens(ends, line_steps(text)) == [3, 4]


def joined_bytes() -> PreTrainedTokenizerFast:
    """Byte-level with one merge that crosses a character: "." and the first byte of "é"."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {byte: index for index, byte in enumerate([*alphabet, ".\u00c3"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[(".", "\u00c3")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return fast(tokenizer)


def test_a_token_that_begins_the_next_character_completes_what_stands_before_it():
    tokenizer = joined_bytes()
    ids = tokenizer("a.é", add_special_tokens=False)["input_ids"]
    assert [tokenizer.decode(token) for token in ids] == ["a", ".\ufffd", "\ufffd"]
    assert ends_both_ways(tokenizer, "a.é") == ([1, 2, 3],) * 2
    assert step_tokens(token_ends_from_ids(tokenizer, ids), [(0, 2), (2, 3)]) == [1, 2]


def test_a_broken_byte_may_cost_the_run_of_byte_tokens_before_it():
    # SentencePiece's decoder replaces the whole run of byte tokens when it is no text: six for ñññ, one for the byte.
    tokenizer = TOKENIZERS["metaspace"]
    ids = tokenizer("a\u00f1\u00f1\u00f1", add_special_tokens=False)["input_ids"]
    ids += [tokenizer.convert_tokens_to_ids("<0xE6>"), *tokenizer("12\nis", add_special_tokens=False)["input_ids"]]
    text = tokenizer.decode(ids)
    assert text == "a" + 7 * "\ufffd" + "12\nis"
    ends = token_ends_from_ids(tokenizer, ids)
    assert ends == [1, 1, 1, 1, 1, 1, 1, 1, 10, 11, 13]
    assert step_tokens(ends, line_steps(text)) == [9, 10]


class Counting:
    """A tokenizer that counts the tokens it decodes."""

    def __init__(self, tokenizer):
        self.tokenizer, self.decoded = tokenizer, 0

    def decode(self, ids, **options):
        self.decoded += len(ids)
        return self.tokenizer.decode(ids, **options)

    def batch_decode(self, rows, **options):
        return [self.decode(row, **options) for row in rows]


@pytest.mark.parametrize("name", ["bytes alone", "metaspace, space first"])
@pytest.mark.parametrize("broken", [False, True], ids=["whole", "broken"])
def test_the_work_is_linear_in_the_tokens(name, broken):
    tokenizer = TOKENIZERS[name]
    text = "the café 数学 is 🙂\n" * 40
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if broken:
        # First bytes of characters, which are never followed by the rest.
        first = tokenizer("数", add_special_tokens=False)["input_ids"][-3]
        ids = [first] * len(ids) + tokenizer.convert_tokens_to_ids(["\n", "i"] if "space" in name else ["Ċ", "i"])
        text = tokenizer.decode(ids)
    counting = Counting(tokenizer)
    ends = token_ends_from_ids(counting, ids)
    assert ends[-3:] == ([0, len(text) - 1, len(text)] if broken else [len(text) - 2, len(text) - 1, len(text)])
    assert counting.decoded < 40 * len(ids)


def test_two_steps_may_end_with_the_same_token():
    assert step_tokens([1, 5, 6], [(0, 3), (3, 5), (5, 6)]) == [1, 1, 2]


def test_steps_without_tokens_are_refused():
    with pytest.raises(ValueError, match="no tokens"):
        step_tokens([], [(0, 1)])


def test_a_slow_tokenizer_is_refused_with_a_remedy():
    class Slow:
        is_fast = False

    with pytest.raises(UserError, match="fast version"):
        encode(Slow(), "a", "b", [(0, 1)])
