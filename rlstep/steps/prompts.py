"""The one place where a problem becomes the text and the tokens that a model reads, for policies and verifiers.

A prompt is plain text, or a list of messages in the conversational form that TRL and the hub use::

    "Left to right, mod 20: 7 + 3 * 7\\n"
    [{"role": "user", "content": "What is 7 + 3?"}]

Plain text is given to the model as it is, after the special tokens that the tokenizer opens a text with. Messages go
through a chat template, which writes its own special tokens, up to where the assistant begins to speak. A template that
opens a block of thought there (`<think>`) leaves it open: the completion begins inside it.

The special tokens that a tokenizer *closes* a text with are left out, because the completion goes on, and the token
that opens a text stands there once, whether the tokenizer adds it, the template writes it, or both would.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Literal, get_args

from rlstep.runtime.errors import UserError
from rlstep.runtime.halves import refuse_halves
from rlstep.steps.messages import Message, Prompt

PromptKey = str | tuple[tuple[str, str], ...]
Form = Literal["auto", "text", "chat"]

_SAID = "what was said"


def problem_text(prompt: Prompt) -> str:
    """The problem's text, for checkers, guards and published PRMs: the prompt itself, or the last user message's."""
    if isinstance(prompt, str):
        return prompt
    return next((message["content"] for message in reversed(prompt) if message["role"] == "user"), "")


def prompt_key(prompt: Prompt) -> PromptKey:
    """A prompt as a dictionary key."""
    if isinstance(prompt, str):
        return prompt
    return tuple((message["role"], message["content"]) for message in prompt)


def prompt_of(key: PromptKey) -> Prompt:
    """The prompt of a `prompt_key`."""
    return key if isinstance(key, str) else [{"role": role, "content": content} for role, content in key]


@dataclass(frozen=True)
class PromptFormat:
    """How prompts are written for one model. Stored in checkpoints, because the meaning of a score depends on it.

    Attributes:
        form: `text` takes plain text alone; `chat` puts messages, and plain text as a user's message, through the
            tokenizer's chat template; `auto` does with each prompt what its own form says. A checkpoint holds text or
            chat (`resolved`).
        system_prompt: a system message that is put before the messages of each problem.
        template_arguments: further variables of the chat template, for example {"enable_thinking": false}.
        template, vocabulary: digests of the chat template and of the vocabulary of the tokenizer it belongs to, where
            they are known (`of_tokenizer`): two models with one vocabulary must have one template.

    Raises:
        UserError: settings of chats with `text`.
    """

    form: Form = "auto"
    system_prompt: str | None = None
    template_arguments: dict = field(default_factory=dict)
    template: str | None = None
    vocabulary: str | None = None

    def __post_init__(self):
        if self.form == "text" and (self.system_prompt is not None or self.template_arguments):
            name = "system_prompt" if self.system_prompt is not None else "chat_template_arguments"
            raise UserError(f"prompt_format is text, so {name} would do nothing; set prompt_format: chat.")

    def resolved(self, prompts: Sequence[Prompt]) -> "PromptFormat":
        """The format with `auto` resolved by prompts that all have the same form.

        Raises:
            UserError: some are text and some are messages.
        """
        if self.form != "auto":
            return self
        forms = {"text" if isinstance(prompt, str) else "chat": row for row, prompt in enumerate(prompts)}
        if len(forms) > 1:
            raise UserError(
                f"prompt {forms['text']} is plain text and prompt {forms['chat']} a list of messages (counted from 0). "
                "Set prompt_format: chat, which makes a user's message of plain text, or give prompts of one form."
            )
        form = "chat" if self.system_prompt is not None or self.template_arguments else next(iter(forms), "text")
        return replace(self, form=form)

    def of_tokenizer(self, tokenizer) -> "PromptFormat":
        """The format with the digests of the tokenizer that prompts are written for; text needs none."""
        if self.form != "chat":
            return self
        return replace(self, template=template_digest(tokenizer), vocabulary=vocabulary_digest(tokenizer))

    def difference(self, other: "PromptFormat") -> str | None:
        """In what two formats differ, in words; None where they write a prompt alike, or one of them is not decided.

        Templates and their arguments are compared where both are of one vocabulary: another model has its own.
        """
        if "auto" in (self.form, other.form):
            return None
        if self.form != other.form:
            return f"prompt_format {self.form}, not {other.form}"
        if self.system_prompt != other.system_prompt:
            return f"system_prompt {_shown(self.system_prompt)}, not {_shown(other.system_prompt)}"
        if self.vocabulary is None or self.vocabulary != other.vocabulary:
            return None
        if self.template != other.template:
            return f"the chat template {self.template}, not {other.template} (digests)"
        if self.template_arguments != other.template_arguments:
            return f"chat_template_arguments {self.template_arguments}, not {other.template_arguments}"
        return None

    def messages(self, prompt: Prompt) -> list[Message] | None:
        """The messages that a prompt stands for, the system prompt before them; None where it is given as text.

        Raises:
            UserError: messages for `text`, two system prompts, or an assistant who has spoken last.
        """
        if isinstance(prompt, str):
            asks_chat = self.form == "chat" or self.system_prompt is not None or bool(self.template_arguments)
            if not asks_chat:
                return None
            prompt = [{"role": "user", "content": prompt}]
        elif self.form == "text":
            raise UserError(
                "prompt_format is text, and a prompt is a list of messages. Give its text, or set prompt_format: chat."
            )
        if prompt[-1]["role"] == "assistant":
            raise UserError(
                "a prompt's last message is the assistant's; the completion is the assistant's next one, so end with "
                "the user's message."
            )
        if self.system_prompt is None:
            return prompt
        if prompt[0]["role"] == "system":
            raise UserError(
                "system_prompt is set, and a prompt begins with a system message of its own; leave one of them out."
            )
        return [{"role": "system", "content": self.system_prompt}, *prompt]

    def render(self, tokenizer, prompt: Prompt) -> str:
        """The text that the model reads; for a chat, with the template's special tokens and the assistant's opening.

        Raises:
            UserError: a chat, but the tokenizer has no template, or one that refuses these messages.
        """
        messages = self.messages(prompt)
        if messages is None:
            return prompt
        name = _name(tokenizer)
        if not getattr(tokenizer, "chat_template", None):
            raise UserError(
                f"{name}: the tokenizer has no chat template, and prompts are chats. Give one (chat_template: FILE), "
                "or prompts as text with prompt_format: text."
            )
        try:
            return tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, **self.template_arguments
            )
        except Exception as error:  # a template raises Jinja's errors, and what its author wrote into it
            roles = ", ".join(message["role"] for message in messages)
            reason = " ".join(str(error).split())
            raise UserError(f"{name}: the chat template refuses a prompt with the roles {roles}: {reason}") from error

    def encode(self, tokenizer, prompts: Sequence[Prompt]) -> list[list[int]]:
        """The tokens that the model reads before a completion, for each prompt; equal prompts are tokenised once.

        Raises:
            UserError: as `render`; or the chat template leaves out what a message says.
        """
        unique = {prompt_key(prompt): prompt for prompt in prompts}
        ids = {}
        for form, keys in self._by_form(unique).items():
            rendered = [self.render(tokenizer, unique[key]) for key in keys]
            if form == "chat":
                self._refuse_left_out(tokenizer, [self.messages(unique[key]) for key in keys])
            ids |= dict(zip(keys, replace(self, form=form).encode_rendered(tokenizer, rendered), strict=True))
        return [list(ids[prompt_key(prompt)]) for prompt in prompts]

    def _refuse_left_out(self, tokenizer, chats: Sequence[list[Message]]) -> None:
        """Refuses a template that passes over messages of a role, as some do over the system's."""
        for roles in dict.fromkeys(tuple(message["role"] for message in chat) for chat in chats):
            # Not the prompts' own text: templates take words such as /no_think out of it.
            probe = [{"role": role, "content": f"{_SAID} {number}."} for number, role in enumerate(roles)]
            try:
                text = tokenizer.apply_chat_template(
                    probe, tokenize=False, add_generation_prompt=True, **self.template_arguments
                )
            except Exception:  # what such a template asks of a message's text, the prompts have
                continue
            # What the assistant said in earlier turns may be shortened.
            to_check = (message for message in probe if message["role"] != "assistant")
            if left_out := next((message["role"] for message in to_check if message["content"] not in text), None):
                raise UserError(
                    f"{_name(tokenizer)}: the chat template leaves out the {left_out} message of a prompt with the "
                    f"roles {', '.join(roles)}. Put what it says into the user's message, or give another template "
                    "(chat_template: FILE)."
                )

    def encode_rendered(self, tokenizer, rendered: Sequence[str]) -> list[list[int]]:
        """The tokens of what `render` gives, for a format that is decided.

        Raises:
            ValueError: the format is `auto`, so nothing says which special tokens stand in the texts already.
        """
        if self.form == "auto":
            raise ValueError("prompt_format is auto: decide it first (PromptFormat.resolved)")
        if self.form == "text":
            return _opened(tokenizer, list(rendered))
        if not rendered:
            return []
        refuse_halves(rendered)
        return tokenizer(list(rendered), add_special_tokens=False, verbose=False)["input_ids"]

    def _by_form(self, unique: Mapping) -> dict[str, list]:
        forms: dict[str, list] = {}
        for key, prompt in unique.items():
            forms.setdefault("text" if self.messages(prompt) is None else "chat", []).append(key)
        return {form: forms[form] for form in sorted(forms)}

    def turn_end(self, tokenizer) -> int | None:
        """The special token with which the chat template closes what the assistant has said.

        None for text, and where the template writes ordinary text there.
        """
        if self.form != "chat":
            return None
        said = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": _SAID}]
        try:
            text = tokenizer.apply_chat_template(said, tokenize=False, **self.template_arguments)
        except Exception:  # whatever the template's author raises for a conversation of this shape
            return None
        _, said_it, after = text.rpartition(_SAID)
        ids = tokenizer(after.lstrip(), add_special_tokens=False, verbose=False)["input_ids"] if said_it else []
        special = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
        return ids[0] if ids and ids[0] in special | set(tokenizer.all_special_ids) else None

    def to_dict(self) -> dict:
        """For checkpoints and rows: how the prompts were written; what has its default is left out."""
        return {"form": self.form} | {name: value for name, value in asdict(self).items() if value not in (None, {})}

    @classmethod
    def from_dict(cls, values: Mapping) -> "PromptFormat":
        """The format that `to_dict` described.

        Raises:
            UserError: no such dictionary.
        """
        if not is_prompt_format(values):
            names = ", ".join(cls.__dataclass_fields__)
            raise UserError(f"a prompt format is stored as a mapping with {names}; got {values!r}.")
        return cls(**values)

    def __str__(self) -> str:
        parts = [self.form]
        if self.system_prompt is not None:
            parts.append(f"the system prompt {self.system_prompt[:40]!r}")
        if self.template_arguments:
            parts.append(f"the template's {self.template_arguments}")
        return " with ".join(parts[:2]) + "".join(f" and {part}" for part in parts[2:])


def is_prompt_format(value: object) -> bool:
    """Whether a value is what `PromptFormat.to_dict` gives."""
    if not isinstance(value, Mapping) or value.get("form") not in get_args(Form):
        return False
    kinds = {"form": str, "template_arguments": dict}
    return all(
        name in PromptFormat.__dataclass_fields__ and isinstance(item, kinds.get(name, str | None))
        for name, item in value.items()
    )


def template_digest(tokenizer) -> str | None:
    """A short hash of a tokenizer's chat template, for comparing two checkpoints; None if it has none."""
    template = getattr(tokenizer, "chat_template", None)
    return None if not template else hashlib.sha256(str(template).encode()).hexdigest()[:12]


def vocabulary_digest(tokenizer) -> str:
    """A short hash of a tokenizer's vocabulary: tokenizers with the same one write the same special tokens."""
    tokens = sorted(tokenizer.get_vocab().items())
    return hashlib.sha256("\n".join(f"{text} {token}" for text, token in tokens).encode()).hexdigest()[:12]


def _name(tokenizer) -> str:
    return tokenizer.name_or_path or type(tokenizer).__name__


def _shown(system_prompt: str | None) -> str:
    return "null" if system_prompt is None else repr(system_prompt[:60])


def _opened(tokenizer, texts: list[str]) -> list[list[int]]:
    """Tokens of texts that continue: with the special tokens that open a text, without those that close one."""
    if not texts:
        return []
    refuse_halves(texts)
    coded = tokenizer(texts, return_special_tokens_mask=True, verbose=False)
    opened = []
    # The mask marks what the tokenizer added: a special token that the text itself ends with stays.
    for text, ids, added in zip(texts, coded["input_ids"], coded["special_tokens_mask"], strict=True):
        if all(added):
            # An empty text: nothing separates the opening tokens from the closing ones.
            closing = {tokenizer.eos_token_id, tokenizer.sep_token_id} - {tokenizer.bos_token_id}
            opened.append([token for token in ids if token not in closing])
            continue
        ids = ids[: len(ids) - added[::-1].index(0)]
        bos = tokenizer.bos_token_id
        if bos is not None and ids[:2] == [bos, bos] and text.startswith(tokenizer.bos_token):
            ids = ids[1:]  # a text that was put through a template by hand has it already
        opened.append(ids)
    return opened
