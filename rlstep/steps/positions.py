"""The one place where step positions are computed: characters -> tokens, for training, scoring and RL alike.

A step is a span of characters (`rlstep.steps.boundaries`). A token sequence is described by its *token ends*: for each
token the number of characters of the text that are complete once it has been read. A step's position is the first
token with which the step's last character is complete. Text that is tokenised (verifiers) gets its token ends from the
tokenizer's offsets; tokens that a policy sampled get them from decoding, because tokenising the decoded text again
need not give the same tokens.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from rlstep.runtime.errors import UserError
from rlstep.steps.records import Span

REPLACEMENT = "\ufffd"


@dataclass(frozen=True)
class Encoded:
    """A prompt and a completion as tokens.

    Attributes:
        ids: prompt tokens, then completion tokens.
        prompt_length: how many of `ids` belong to the prompt.
        step_ends: for each step, the index in `ids` of its last token.
    """

    ids: list[int]
    prompt_length: int
    step_ends: list[int]


def encode(tokenizer, prompt: str, completion: str, steps: list[Span]) -> Encoded:
    """`encode_batch` of one row."""
    return encode_batch(tokenizer, [prompt], [completion], [steps])[0]


def encode_batch(
    tokenizer, prompts: Sequence[str], completions: Sequence[str], steps: Sequence[list[Span]]
) -> list[Encoded]:
    """Tokenises prompts and completions apart, as a policy sees them, so that no token crosses from one to the other.

    Args:
        tokenizer: a fast Hugging Face tokenizer (offsets are needed).
        prompts: the text before each completion; gets the tokenizer's usual special tokens.
        completions: the texts that the steps are spans of.
        steps: for each completion its character spans, in order.

    Raises:
        UserError: the tokenizer is a slow one.
    """
    if not tokenizer.is_fast:
        raise UserError(
            f"{type(tokenizer).__name__} is a slow tokenizer and gives no character offsets, which step positions need."
            " Load the fast version (AutoTokenizer does so where one exists)."
        )
    if not prompts:
        return []
    # Many completions share a prompt: each is tokenised once. Lengths are the caller's business, hence no warning here.
    unique = list(dict.fromkeys(prompts))
    prompt_ids = dict(zip(unique, tokenizer(unique, verbose=False)["input_ids"], strict=True))
    coded = tokenizer(list(completions), add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    rows = zip(prompts, coded["input_ids"], coded["offset_mapping"], steps, strict=True)
    encoded = []
    for prompt, completion_ids, offsets, spans in rows:
        before = prompt_ids[prompt]
        # A tokenizer that closes every text with a special token would put it between prompt and completion.
        if before and before[-1] == tokenizer.eos_token_id:
            before = before[:-1]
        n = len(before)
        step_ends = [n + index for index in step_tokens(token_ends_from_offsets(offsets), spans)]
        encoded.append(Encoded(before + completion_ids, n, step_ends))
    return encoded


def token_ends_from_offsets(offsets: list[Span]) -> list[int]:
    """Token ends from a fast tokenizer's offsets.

    Byte-level tokenizers give every piece of a split character the whole character's span; only the last piece
    completes it, so the pieces before it end where the character begins. Characters that belong to no token
    (whitespace that the tokenizer drops) are complete with the token before them, not with the next step's first.

    >>> token_ends_from_offsets([(0, 1), (1, 2), (1, 2), (2, 5), (6, 9)])
    [1, 1, 2, 6, 9]
    """
    ends = [end for _, end in offsets]
    for index in range(len(offsets) - 1):
        start, end = offsets[index]
        next_start, next_end = offsets[index + 1]
        if end > start and next_end > next_start:
            ends[index] = next_start
    # Pieces of pieces: what is complete never shrinks from one token to the next.
    for index in range(1, len(ends)):
        ends[index] = max(ends[index], ends[index - 1])
    return ends


def token_ends_from_ids(tokenizer, ids: list[int]) -> list[int]:
    """Token ends of sampled tokens in `tokenizer.decode(ids, skip_special_tokens=True)`.

    A character split over tokens is complete with its last one; special tokens add nothing. Where the tokens' own texts
    make up the whole, their lengths are added; otherwise (split characters, spaces that depend on the neighbours) the
    text is decoded in a sliding window from the last place where it was whole. Both are linear in the number of tokens.
    """
    unique = list(dict.fromkeys(ids))
    pieces = dict(zip(unique, tokenizer.batch_decode([[i] for i in unique], skip_special_tokens=True), strict=True))
    text = "".join(pieces[i] for i in ids)
    if REPLACEMENT not in text and text == tokenizer.decode(ids, skip_special_tokens=True):
        return list(accumulate(len(pieces[i]) for i in ids))
    return _token_ends_by_window(tokenizer, ids)


def _token_ends_by_window(tokenizer, ids: list[int]) -> list[int]:
    ends: list[int] = []
    window, read, length = 0, 0, 0

    def text(start: int, stop: int) -> str:
        return tokenizer.decode(ids[start:stop], skip_special_tokens=True)

    for index in range(len(ids)):
        before, now = text(window, read), text(window, index + 1)
        if len(now) > len(before) and not now.endswith(REPLACEMENT):
            length += len(now) - len(before)
            window, read = read, index + 1
        ends.append(length)
    return ends


def step_tokens(token_ends: list[int], steps: list[Span]) -> list[int]:
    """For each step, the index of the first token with which its last character is complete.

    A step that the tokens never complete (text cut inside a character) ends at the last token. Steps keep their order;
    two steps may end at one token when it spans them both.

    >>> step_tokens([2, 3, 8, 9], [(0, 3), (3, 7)])
    [1, 2]
    """
    if steps and not token_ends:
        raise ValueError(f"{len(steps)} steps but no tokens to place them on")
    last = len(token_ends) - 1
    return [min(bisect_left(token_ends, end), last) for _, end in steps]
