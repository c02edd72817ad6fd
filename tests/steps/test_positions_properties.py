"""What holds of step positions for every text, every boundary rule and every family of tokenizers.

The oracles know nothing of token ends: of text that was tokenised, a step is complete with the last token that has a
character before the step's end; of tokens that were sampled, with the first prefix whose decoding shows the step.
"""

import json

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from rlstep.core.rewards import place_step_rewards
from rlstep.steps.boundaries import Boundary
from rlstep.steps.positions import REPLACEMENT, encode, step_tokens, token_ends_from_ids, token_ends_from_offsets

CORPUS = [
    "Step 1: the café has 数 of them.\nStep 2: so the sum is 12. 🙂🙂\n",
    "Let $x = 3.5$. Then \\(x + 1 = 4.5\\), e.g. ки\n\n数学数学 12 + 7 = 19\n",
    "### Step 3\nThe answer is \\boxed{19}.  ки\n",
] * 4
SPECIAL = ["<unk>", "<pad>", "<eos>"]
RULES = [Boundary(rule) for rule in ("line", "blank_line", "heading", "sentence")] + [
    Boundary("tag", "ки"),
    Boundary("tag", "数"),
]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def trained(tokenizer: Tokenizer, trainer) -> PreTrainedTokenizerFast:
    tokenizer.train_from_iterator(CORPUS, trainer)
    return wrapped(tokenizer)


def wrapped(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    names = {"unk_token": "<unk>", "pad_token": "<pad>", "eos_token": "<eos>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **names)


def byte_level_bpe() -> PreTrainedTokenizerFast:
    # Words are not cut apart before the merges, so that tokens cross step boundaries and characters.
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    options = {"special_tokens": SPECIAL, "initial_alphabet": pre_tokenizers.ByteLevel.alphabet()}
    return trained(tokenizer, trainers.BpeTrainer(vocab_size=420, show_progress=False, **options))


def sentencepiece(prepend: str, normalizer=None) -> PreTrainedTokenizerFast:
    """A Unigram model with byte fallback over text whose spaces are a part of the next word."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend)
    trainer = trainers.UnigramTrainer(vocab_size=160, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    pieces = [tuple(piece) for piece in json.loads(tokenizer.to_str())["model"]["vocab"]]
    tokenizer.model = models.Unigram(pieces + [(byte, -30.0) for byte in BYTES], unk_id=0, byte_fallback=True)
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme=prepend)])
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    return wrapped(tokenizer)


def word_piece() -> PreTrainedTokenizerFast:
    """Lower case, no accents, no control characters, no spaces: much of the text is in no token."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    fast = trained(
        tokenizer, trainers.WordPieceTrainer(vocab_size=120, special_tokens=[*SPECIAL, "[CLS]"], show_progress=False)
    )
    ids = [("[CLS]", fast.convert_tokens_to_ids("[CLS]")), ("<eos>", fast.eos_token_id)]
    fast.backend_tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A <eos>", None, ids)
    return fast


def word_level() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Strip(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return trained(tokenizer, trainers.WordLevelTrainer(special_tokens=SPECIAL, show_progress=False))


FAMILIES = {
    "byte-level BPE": byte_level_bpe,
    "sentencepiece": lambda: sentencepiece("never"),
    "sentencepiece, space first, NFKC": lambda: sentencepiece("always", normalizers.NFKC()),
    "WordPiece": word_piece,
    "word level": word_level,
}

PIECES = [
    *(
        "the",
        " sum",
        " is",
        " 12",
        "3.5",
        " café",
        "e\u0301",
        "數",
        "数学",
        "🙂",
        "👩‍🚀",
        "ﬁ",
        "½",
        "İ",
        "\u0323",
        "\u200b",
    ),
    # In no vocabulary, so bytes, of which those before a broken one may be lost with it.
    *("ñ", "ø", "ßßß", "🎉"),
    *("\n", "\n", "\n\n", "\r\n", " ", "  ", "\t", "\u3000", "\ufffd"),
    *("ки", " ки\n", "Step 3: ", "\nStep 4. ", "\n**Step 5**", "\n### Step 6\n"),
    *(". ", ".", "? ", "。", "...", " e.g. ", "$", "$x = 1. Y$", "$$", "\\(", "\\)", "\\[", "\\]", "\\begin{a}"),
    *("\\end{a}", "\\text{if. So}", "{", "}", " The"),
]
TEXTS = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=3)), min_size=1, max_size=14).map("".join)
bounded = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


@pytest.fixture(scope="session")
def families() -> dict[str, PreTrainedTokenizerFast]:
    return {name: build() for name, build in FAMILIES.items()}


@pytest.fixture(params=FAMILIES, scope="session")
def tokenizer(request, families) -> PreTrainedTokenizerFast:
    return families[request.param]


every_rule = pytest.mark.parametrize("boundary", RULES, ids=lambda boundary: boundary.tag or boundary.rule)


def check_positions(tokens: list[int], steps: list, length: int) -> None:
    """One token a step, inside the completion, in order; and rewards placed there are all there."""
    assert len(tokens) == len(steps)
    assert tokens == sorted(tokens)
    assert all(0 <= token < length for token in tokens)
    padded = length + 3
    rewards_BT = place_step_rewards(
        [torch.ones(len(steps))], [tokens], torch.zeros(1), torch.tensor([length - 1]), padded
    )
    assert rewards_BT.sum() == len(steps)
    assert not rewards_BT[0, length:].any()


@every_rule
@bounded
@given(text=TEXTS)
def test_text_that_is_tokenised(tokenizer, boundary, text):
    steps = boundary.split(text)
    coded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    offsets = coded["offset_mapping"]
    assume(offsets)
    encoded = encode(tokenizer, "the sum: ", text, steps)
    assert encoded.ids[encoded.prompt_length :] == coded["input_ids"]
    tokens = [end - encoded.prompt_length for end in encoded.step_ends]
    assert tokens == step_tokens(token_ends_from_offsets(offsets), steps)
    check_positions(tokens, steps, len(offsets))
    for token, (_, end) in zip(tokens, steps, strict=True):
        assert token == max((i for i, (start, _) in enumerate(offsets) if start < end), default=0)
    for index in range(len(steps) - 1):
        if tokens[index] == tokens[index + 1]:
            start, end = offsets[tokens[index]]
            spans_both = start < steps[index][1] < end
            assert spans_both or any(not any(s < stop and begin < e for s, e in offsets) for begin, stop in steps)


def first_to_show(prefixes: list[str], step: str) -> int:
    """The first of the decoded prefixes that begins with all up to the step's end; the last one where none does."""
    return next((index for index, shown in enumerate(prefixes) if shown.startswith(step)), len(prefixes) - 1)


def check_sampled(tokenizer, boundary: Boundary, ids: list[int]) -> None:
    text = tokenizer.decode(ids, skip_special_tokens=True)
    steps = boundary.split(text)
    ends = token_ends_from_ids(tokenizer, ids)
    assert len(ends) == len(ids)
    assert ends == sorted(ends)
    tokens = step_tokens(ends, steps)
    check_positions(tokens, steps, len(ids))
    rows = [ids[: index + 1] for index in range(len(ids))]
    prefixes = [shown.rstrip(REPLACEMENT) for shown in tokenizer.batch_decode(rows, skip_special_tokens=True)]
    assert tokens == [first_to_show(prefixes, text[:end]) for _, end in steps]


@every_rule
@bounded
@given(text=TEXTS)
def test_tokens_of_a_text(tokenizer, boundary, text):
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assume(ids)
    check_sampled(tokenizer, boundary, [*ids, tokenizer.eos_token_id])


@every_rule
@bounded
@given(
    pieces=st.lists(st.tuples(st.sampled_from(PIECES), st.booleans(), st.floats(0, 1, exclude_max=True)), max_size=14)
)
def test_tokens_that_make_no_sense(tokenizer, boundary, pieces):
    ids: list[int] = []
    for piece, cut, share in pieces:
        ids += tokenizer(piece, add_special_tokens=False)["input_ids"]
        if cut:
            # A character may lose its end, and any token follow.
            ids[-1:] = [int(share * len(tokenizer))]
    assume(ids)
    check_sampled(tokenizer, boundary, ids)
