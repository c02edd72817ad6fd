"""Access to a server: its token, on either side."""

import os
import re

from rlstep.runtime.errors import UserError

TOKEN_VARIABLE = "RLSTEP_SERVE_TOKEN"
ANNOTATE_TOKEN_VARIABLE = "RLSTEP_ANNOTATE_TOKEN"
NO_HUB_TOKEN = "push_to_hub needs an access token: run `hf auth login`, or set HF_TOKEN"


def find_token(given: str | None = None, variable: str = TOKEN_VARIABLE) -> str | None:
    """The token that was given, or the environment's; None where neither is set.

    Args:
        given: the setting `token`.
        variable: the environment variable that is read where it is not set.

    Raises:
        UserError: it is empty, or cannot stand in an HTTP header.
    """
    name, token = ("token", given) if given is not None else (variable, os.environ.get(variable))
    # The message does not repeat the token: it may be a real one with a line break at its end.
    if token is not None and not re.fullmatch("[!-~]+", token):
        raise UserError(
            f"{name} is empty or has characters other than visible ASCII. Take one from "
            f"`python -c 'import secrets; print(secrets.token_urlsafe())'`, or leave {name} unset."
        )
    return token
