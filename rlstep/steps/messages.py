"""Prompts as rows hold them: text, or a list of messages in one of the forms in which tables have it."""

import json
import re
from collections.abc import Iterable, Mapping

Message = dict[str, str]
Prompt = str | list[Message]

ROLES = ("system", "user", "assistant", "tool", "developer")
# ShareGPT's form, {"from": ..., "value": ...}, and what it calls the roles.
SHAREGPT = {"human": "user", "gpt": "assistant"}
_MESSAGES_AS_TEXT = re.compile(r"""\s*\[\s*\{\s*["'](role|content|from|value)["']\s*:""")


def is_messages(value: object) -> bool:
    """Whether a value is a list of messages: mappings with a role and a content, both of them text."""
    return isinstance(value, list) and bool(value) and not any(map(_message_fault, value))


def read_prompt(value: object) -> Prompt:
    """A prompt as rows hold it.

    Beside what a prompt is, tables give messages in forms of their own, which are read: every message with the fields
    of all of them, null where it has none (Parquet), a content as a list of parts that are all text, the list
    written out as JSON (tables of text alone, such as CSV), and `from` and `value` for role and content (ShareGPT).

    Raises:
        ValueError: it is no prompt; the message says why.
    """
    messages = value
    if isinstance(value, str):
        if not _MESSAGES_AS_TEXT.match(value):
            return value
        try:
            messages = json.loads(value)
        except ValueError as error:
            raise ValueError(
                f"is a list of messages as text, and no JSON ({error}); write it with json.dumps"
            ) from None
    messages = [_bare(message) for message in messages] if isinstance(messages, list) else messages
    if is_messages(messages):
        return messages
    wanted, got = "text or a list of messages with a role and a content each", json.dumps(value, default=str)
    why = messages_fault(messages)
    raise ValueError(f"expected {wanted}, got {_short(got)}{f': {why}' if why else ''}")


def messages_fault(value: object) -> str | None:
    """What is wrong with the first message of a list that is no list of messages; None of anything else."""
    for number, message in enumerate(value if isinstance(value, list) else [], start=1):
        if fault := _message_fault(message):
            return f"message {number} {fault}"
    return None


def _bare(message: object) -> object:
    """A message without the fields that are null, and with parts of text as one text, in our names."""
    if not isinstance(message, Mapping):
        return message
    bare = {name: value for name, value in message.items() if value is not None}
    if {*bare} == {"from", "value"}:
        role = bare["from"]
        bare = {"role": SHAREGPT.get(role, role) if isinstance(role, str) else role, "content": bare["value"]}
    if isinstance(parts := bare.get("content"), list) and parts and all(map(_is_text_part, parts)):
        bare["content"] = "".join(part["text"] for part in parts)
    return bare


def _is_text_part(part: object) -> bool:
    return isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str)


def _message_fault(message: object) -> str | None:
    if not isinstance(message, Mapping):
        return "is no mapping"
    if missing := [name for name in ("role", "content") if name not in message]:
        return f"has no {missing[0]} (it has {_listed(message) or 'nothing'})"
    if message["role"] not in ROLES:
        return f"has the role {_short(repr(message['role']))}; roles are {', '.join(ROLES)}"
    if not isinstance(message["content"], str):
        return f"has a content that is no text but of the type {type(message['content']).__name__}"
    if more := [name for name in message if name not in ("role", "content")]:
        return f"has {_listed(more)} beside role and content, which would not reach the model; leave it out"
    return None


def _listed(names: Iterable) -> str:
    """Names on one line; those of a request may be anything."""
    texts = map(str, names)
    return _short(", ".join(text if text.isprintable() else repr(text) for text in texts))


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:60] + "..."
