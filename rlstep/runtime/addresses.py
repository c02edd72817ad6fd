"""Addresses of servers: what one looks like, and whether it is local to this machine."""

import ipaddress
from urllib.parse import urlsplit

from rlstep.runtime.errors import UserError
from rlstep.runtime.redaction import redacted


def checked_address(url: str, whose: str) -> tuple[str, str]:
    """The URL without a closing slash, and its host.

    Args:
        url: http(s)://HOST:PORT, perhaps with a path.
        whose: what listens there, for messages.

    Raises:
        UserError: it is something else, or holds a user name, a query or a fragment.
    """
    try:
        parts = urlsplit(url)
        plain = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and url.isprintable()
    except ValueError:  # a port that is no number, or half an IPv6 address
        plain = False
    if not plain or " " in url or parts.username is not None or parts.query or parts.fragment:
        raise UserError(f"{redacted(url)!r} is no {whose}'s address; give http://HOST:PORT or https://HOST:PORT.")
    return url.rstrip("/"), parts.hostname


def is_loopback(host: str) -> bool:
    """Whether a host name or address is reached from this machine alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
