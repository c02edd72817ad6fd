"""What the servers share: a port, its address, the form of their answers, and the token that requests must bring."""

import json
import secrets
import socket
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import Depends, HTTPException, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from rlstep.runtime.errors import UserError


def bind(host: str, port: int) -> socket.socket:
    """A socket that holds a port; it does not listen yet.

    Args:
        host, port: where; port 0 takes a free one.

    Raises:
        UserError: the port cannot be had.
    """
    if not host:  # to the system, every address of the machine
        raise UserError("host is empty. Give 127.0.0.1 for this machine alone, or 0.0.0.0 for all of its addresses.")
    held = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        held.bind((host, port))
    except (OSError, UnicodeError) as error:  # UnicodeError: a name that no host can have
        held.close()
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"cannot listen at {host}, port {port} ({reason}). Give a host of this machine and a "
            "port that is free, or port 0."
        ) from error
    return held


def address(host: str, port: int) -> str:
    """The URL at which clients find a server that listens at a host and port."""
    host = socket.gethostname() if host in ("0.0.0.0", "::") else host
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


class AsciiJson(Response):
    """JSON in which every character has a form: what a request or a model wrote may hold half a surrogate pair, which
    UTF-8 has no place for.
    """

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return json.dumps(content).encode()


Bearer = Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))]


def check_token(given: HTTPAuthorizationCredentials | None, token: str, hint: str) -> None:
    """Refuses a request that does not bring the token, as `Authorization: Bearer TOKEN`.

    Args:
        given: what it brings.
        token: what it must bring.
        hint: what the refusal says of where to set it.

    Raises:
        HTTPException: 401.
    """
    # In constant time: how long a refusal takes must not tell how much of a guess is right.
    if given is None or not secrets.compare_digest(given.credentials.encode(), token.encode()):
        reason = f"this server asks for its token (Authorization: Bearer TOKEN; {hint})."
        raise HTTPException(401, reason, {"WWW-Authenticate": "Bearer"})


def require_token(token: str, hint: str) -> Callable:
    """A dependency that lets through the requests that bring the token (`check_token`)."""

    def check(given: Bearer) -> None:
        check_token(given, token, hint)

    return check
