"""The one place where step positions are computed, characters -> tokens, for training, scoring and RL.

A step is a span of characters (`rlstep.steps.boundaries`). A token sequence is described by its *token ends*: for each
token, the number of characters of the text that are complete after it. A step's position is the first token after
which the step's last character is complete. Text that is tokenised (verifiers) gets its token ends from the
tokenizer's offsets; sampled tokens get them from decoding, because tokenising the decoded text again may give other
tokens.

The offsets must refer to the original text, which fast tokenizers guarantee whatever they normalise (NFKC, lower case,
stripped spaces). If characters produce no token, their step ends with the token before them.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from rlstep.runtime.errors import UserError
from rlstep.runtime.halves import refuse_halves
from rlstep.steps.prompts import Prompt, PromptFormat
from rlstep.steps.records import Span

__all__ = ["Encoded", "encode", "encode_batch", "step_tokens", "token_ends_from_ids", "token_ends_from_offsets"]

REPLACEMENT = "\ufffd"
PENDING = 16  # tokens; a character has at most four bytes, so text that is still broken after them stays broken


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


def encode(
    tokenizer, prompt: Prompt, completion: str, steps: list[Span], prompt_format: PromptFormat | None = None
) -> Encoded:
    """`encode_batch` of one row.

    Args:
        tokenizer: a fast Hugging Face tokenizer (offsets are needed).
        prompt: the completion's.
        completion: the text that the steps are spans of.
        steps: its character spans, in order.
        prompt_format: how the prompt becomes tokens; by default according to its own form.
    """
    return encode_batch(tokenizer, [prompt], [completion], [steps], prompt_format)[0]


def encode_batch(
    tokenizer,
    prompts: Sequence[Prompt],
    completions: Sequence[str],
    steps: Sequence[list[Span]],
    prompt_format: PromptFormat | None = None,
) -> list[Encoded]:
    """Tokenises prompts and completions separately, as a policy sees them, so that no token spans both.

    Args:
        tokenizer: a fast Hugging Face tokenizer (offsets are needed).
        prompts: the prompt of each completion.
        completions: the texts that the steps are spans of.
        steps: for each completion its character spans, in order.
        prompt_format: how prompts become tokens; by default according to each prompt's own form.

    Raises:
        UserError: the tokenizer is slow, or produces no token for a completion that has steps.
    """
    if not tokenizer.is_fast:
        raise UserError(
            f"{type(tokenizer).__name__} is a slow tokenizer and gives no character offsets, which step positions need."
            " Load the fast version (AutoTokenizer does so where one exists)."
        )
    if not prompts:
        return []
    # The caller checks lengths, so the tokenizer's warning is off.
    prompt_ids = (prompt_format or PromptFormat()).encode(tokenizer, prompts)
    refuse_halves(completions)
    coded = tokenizer(list(completions), add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    rows = zip(prompt_ids, completions, coded["input_ids"], coded["offset_mapping"], steps, strict=True)
    encoded = []
    for before, completion, ids, offsets, spans in rows:
        if spans and not ids:
            raise UserError(
                f"{type(tokenizer).__name__} produces no token for the completion {completion[:60]!r}, so its step "
                "cannot be scored. Leave the row out, or use a verifier whose tokenizer drops no characters."
            )
        step_ends = [len(before) + index for index in step_tokens(token_ends_from_offsets(offsets), spans)]
        encoded.append(Encoded(before + ids, len(before), step_ends))
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
    following = None  # start of the first character that a later token is part of
    for index in reversed(range(len(offsets))):
        start, end = offsets[index]
        if following is not None:
            next_start, next_end = offsets[index + 1]
            ends[index] = following if next_end > next_start else min(end, following)
        # A token without characters (a space that the tokenizer added or trimmed) does not say where it is.
        if end > start:
            following = start
    # Nested pieces: token ends must never decrease from one token to the next.
    return list(accumulate(ends, max))


def token_ends_from_ids(tokenizer, ids: list[int]) -> list[int]:
    """Token ends of sampled tokens in `tokenizer.decode(ids, skip_special_tokens=True)`.

    A character split over tokens is complete after its last one; special tokens add nothing. Bytes that form no
    character are complete after the token that reveals it. If the tokens' own texts add up to the whole, their lengths
    are summed; otherwise (split characters, spaces that depend on the neighbours) the text is decoded in a sliding
    window from the last position where it was whole. Both are linear in the number of tokens. If the window does not
    arrive at the length of the whole text (broken bytes can turn a long run of byte tokens before them into replacement
    characters), every prefix is decoded, which is quadratic.
    """
    unique = list(dict.fromkeys(ids))
    pieces = dict(zip(unique, tokenizer.batch_decode([[i] for i in unique], skip_special_tokens=True), strict=True))
    text = tokenizer.decode(ids, skip_special_tokens=True)
    if REPLACEMENT not in text and text == "".join(pieces[i] for i in ids):
        return list(accumulate(len(pieces[i]) for i in ids))
    ends, length = _token_ends_by_window(tokenizer, ids)
    return ends if length == len(text) else _token_ends_by_prefix(tokenizer, ids, text)


def _token_ends_by_window(tokenizer, ids: list[int]) -> tuple[list[int], int]:
    """Token ends from the growth of the text since the last-but-one whole position; and the text's length so far."""
    ends: list[int] = []
    window, read, length, grown, before = 0, 0, 0, 0, ""
    for index in range(len(ids)):
        now = tokenizer.decode(ids[window : index + 1], skip_special_tokens=True)
        grown = length + len(now) - len(before)
        # Replacement characters at the end may be a character's first bytes.
        whole = now.rstrip(REPLACEMENT)
        ends.append(grown - len(now) + len(whole) if whole else 0)
        if grown > length and (whole == now or index - read >= PENDING):
            window, read, length = read, index + 1, grown
            before = tokenizer.decode(ids[window:read], skip_special_tokens=True)
    return list(accumulate(ends, max)), grown


def _token_ends_by_prefix(tokenizer, ids: list[int], text: str) -> list[int]:
    """For each prefix, how much of `text` its decoding contains."""
    ends, shown = [], 0
    for index in range(len(ids)):
        now = tokenizer.decode(ids[: index + 1], skip_special_tokens=True).rstrip(REPLACEMENT)
        while shown < min(len(now), len(text)) and now[shown] == text[shown]:
            shown += 1
        ends.append(shown)
    return ends


def step_tokens(token_ends: list[int], steps: list[Span]) -> list[int]:
    """For each step, the index of the first token after which its last character is complete.

    A step that the tokens never complete (text truncated inside a character) ends at the last token. Steps keep their
    order; two steps may end at the same token if it spans both.

    Args:
        token_ends: for each token, how many characters of the completion are complete after it.
        steps: character spans, in order.

    >>> step_tokens([2, 3, 8, 9], [(0, 3), (3, 7)])
    [1, 2]
    """
    if steps and not token_ends:
        raise ValueError(f"{len(steps)} steps but no tokens to place them on")
    last = len(token_ends) - 1
    return [min(bisect_left(token_ends, end), last) for _, end in steps]
