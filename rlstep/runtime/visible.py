"""Text of a model or a data set, made fit to be shown: nothing in it is unseen, or turns the text around it."""

# Control characters, and those without a width or that change the direction of writing, by their code.
_UNSEEN = [*range(32), *range(0x7F, 0xA0), 0x200B, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
_SHOWN = {code: f"\u27e8U+{code:04X}\u27e9" for code in _UNSEEN if chr(code) not in "\t\n"}


def visible(text: str) -> str:
    """Unseen characters by their codes, and halves of surrogate pairs, which UTF-8 cannot encode, as escapes.

    The end of a line is one however it is written.

    >>> visible("1\\u202e2\\ud800")
    '1\u27e8U+202E\u27e92\\\\ud800'
    >>> visible("1\\r\\n2\\r")
    '1\\n2⟨U+000D⟩'
    """
    return text.replace("\r\n", "\n").translate(_SHOWN).encode("utf-8", "backslashreplace").decode("utf-8")
