"""From a completion's steps to rows of tokens, as published PRMs are asked: at marks that are written after the steps.

A row's text is built from parts, so the marks' characters are known, and `rlstep.steps.positions` finds their tokens.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rlstep.core.losses import right_log_odds
from rlstep.runtime.errors import UserError
from rlstep.runtime.halves import refuse_halves
from rlstep.steps.positions import step_tokens, token_ends_from_offsets
from rlstep.steps.prompts import Prompt, problem_text
from rlstep.steps.records import Span
from rlstep.verifiers.features import CHUNK, Feature, feature_at

# What other models' templates write, of which the verifier's tokenizer need not know.
_TEMPLATE_MARK = re.compile(r"<[|\uff5c][\w\u2581 ]{3,}[|\uff5c]>|<(?:start|end)_of_turn>|\[/?INST\]")


class PublishedFormat(ABC):
    """A query format that is given problems, whatever form the prompts have."""

    prompts: ClassVar[None] = None

    def features(self, prompts, completions, steps, tokenizer) -> list[Feature]:
        return self._features([statement(prompt, tokenizer) for prompt in prompts], completions, steps, tokenizer)

    @abstractmethod
    def _features(self, problems, completions, steps, tokenizer) -> list[Feature]:
        """As `QueryFormat.features`, from the problems' text."""


def statement(prompt: Prompt, tokenizer: PreTrainedTokenizerBase) -> str:
    """What the problem says.

    Raises:
        UserError: the prompt is a text that went through a chat template: it would lie inside another one.
    """
    text = problem_text(prompt)
    marks = (mark for mark in tokenizer.all_special_tokens if len(mark) > 2 and mark in text)
    written = _TEMPLATE_MARK.search(text)
    if mark := next(marks, written and written[0]):
        raise UserError(
            f"a prompt holds {mark!r}, of a chat template, and the verifier puts problems into a template of its own. "
            "Give prompts as messages, or as the problem's text with prompt_format: chat."
        )
    return text


class TwoClasses(PublishedFormat):
    """Values from logits of wrong and right: the softmax's second one."""

    def values(self, logits_NK: Tensor) -> Tensor:
        return right_log_odds(logits_NK).sigmoid()


@dataclass(frozen=True)
class Marked:
    """A row's text, and the spans of the marks in it: one per step."""

    text: str
    marks: list[Span]


def step_texts(completion: str, steps: Sequence[Span]) -> list[str]:
    """The completion from the end of each step's predecessor to its own: no text between two steps is left out."""
    return [completion[start:end] for start, end in pairwise([0, *(end for _, end in steps)])]


def clean(text: str, tag: str = "") -> str:
    """A step as the published recipes give it: without the white space around it and without a tag after it."""
    return text.strip().removesuffix(tag).rstrip()


def join_marked(parts: Sequence[str], mark: str) -> Marked:
    """The parts with a mark between each two.

    >>> join_marked(["one", "two", ""], "+")
    Marked(text='one+two+', marks=[(3, 4), (7, 8)])
    """
    marks, place = [], 0
    for part in parts[:-1]:
        marks.append((place + len(part), place + len(part) + len(mark)))
        place += len(part) + len(mark)
    return Marked(mark.join(parts), marks)


def chat_parts(tokenizer, messages: list[dict], placeholder: str, marks: int) -> list[str]:
    """A conversation as its chat template writes it, cut at the placeholders that stand for marks in it.

    Where the marks are is read off what the template wrote, for it may trim texts or put others before them.

    Raises:
        UserError: the template leaves placeholders out, or repeats them.
    """
    parts = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=False).split(placeholder)
    if len(parts) != marks + 1:
        raise UserError(
            f"the chat template writes the marks of {marks} steps {len(parts) - 1} times; it is not the published one."
        )
    return parts


def free_character(*texts: str) -> str:
    """A character that none of the texts holds, from Unicode's private use area."""
    used = set().union(*texts)
    return next(chr(code) for code in range(0xE000, 0xF900) if chr(code) not in used)


def ask_at_marks(
    tokenizer, rows: Sequence[Marked], mark_id: int, add_special_tokens: bool, before: bool = False
) -> list[Feature]:
    """Tokenises rows, to be asked at their marks.

    Args:
        tokenizer: the verifier's, a fast one.
        rows: texts with marks.
        mark_id: the mark's token.
        add_special_tokens: whether the tokenizer adds its own; not where a chat template wrote them.
        before: ask at the token before each mark, which predicts it.

    Raises:
        UserError: the tokenizer joins a mark with its neighbours.
    """
    features = []
    for start in range(0, len(rows), CHUNK):
        chunk = rows[start : start + CHUNK]
        texts = [row.text for row in chunk]
        refuse_halves(texts)
        coded = tokenizer(
            texts,
            add_special_tokens=add_special_tokens,
            return_offsets_mapping=True,
            verbose=False,
        )
        for row, ids, offsets in zip(chunk, coded["input_ids"], coded["offset_mapping"], strict=True):
            positions = step_tokens(token_ends_from_offsets(offsets), row.marks)
            for position, (first, last) in zip(positions, row.marks, strict=True):
                if ids[position] != mark_id:
                    raise UserError(
                        f"{type(tokenizer).__name__} makes no token of its own of the mark {row.text[first:last]!r} in "
                        f"{row.text[max(first - 20, 0) : last + 5]!r}; the checkpoint's tokenizer or chat template is "
                        "not the published one."
                    )
            features.append(feature_at(ids, [position - before for position in positions]))
    return features


def one_token(tokenizer: PreTrainedTokenizerBase, text: str, family: str) -> int:
    """The id of a text that must be one token.

    Raises:
        UserError: it is not.
    """
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if len(ids) != 1 or ids[0] == tokenizer.unk_token_id:
        raise UserError(
            f"{text!r} is {len(ids)} tokens in this tokenizer, or unknown to it; for a {family} PRM it must be one."
        )
    return ids[0]


@dataclass(frozen=True)
class AskedAtTags(TwoClasses):
    """Rows that are asked at a tag of one token after each step.

    Attributes:
        tag_id: the token at which the model scores.
    """

    tag_id: int

    def _features(self, problems, completions, steps, tokenizer) -> list[Feature]:
        rows = [self._row(tokenizer, *row) for row in zip(problems, completions, steps, strict=True)]
        return ask_at_marks(tokenizer, rows, self.tag_id, add_special_tokens=True)

    @abstractmethod
    def _row(self, tokenizer, problem: str, completion: str, steps: Sequence[Span]) -> Marked:
        """The row's text, with the tags' places."""


def require_chat_template(tokenizer: PreTrainedTokenizerBase, path: str) -> None:
    if tokenizer.chat_template is None:
        raise UserError(f"{path}: its tokenizer has no chat template, which this family's input is written with.")
