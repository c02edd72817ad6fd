"""What must not reach a run's record or a terminal: access tokens and passwords, also inside values and addresses."""

import re

# Tokens of a vocabulary, not access tokens.
VOCABULARY = ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token", "image_token")
_SECRET = re.compile(r"(^|_)(token|password|secret|api_key)$", re.IGNORECASE)
_USER_OF_URL = re.compile(r"(?<=://)[^/@\s]+(?=@)")


def is_secret(name: str) -> bool:
    """Whether a setting, or a key inside one, holds credentials: `hub_token`, not `eos_token`."""
    return _SECRET.search(name) is not None and name not in VOCABULARY


def redacted(value):
    """A plain value without its secrets: keys that hold one are dropped, and so is the user part of addresses."""
    if isinstance(value, dict):
        return {key: redacted(item) for key, item in value.items() if not is_secret(str(key))}
    if isinstance(value, list):
        return [redacted(item) for item in value]
    return _USER_OF_URL.sub("redacted", value) if isinstance(value, str) else value
