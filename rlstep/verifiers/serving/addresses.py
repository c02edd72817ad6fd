"""Addresses of verifiers: http://HOST:PORT of an `rlstep serve`, vllm+http://HOST:PORT/NAME of a `vllm serve`."""

from rlstep.runtime.addresses import checked_address
from rlstep.runtime.errors import UserError
from rlstep.runtime.redaction import redacted

POOLING = "vllm+"


def is_url(text: str) -> bool:
    """Whether a verifier's path is the address of a server, of either kind."""
    return text.lower().removeprefix(POOLING).startswith(("http://", "https://"))


def is_pooling_address(text: str) -> bool:
    """Whether a verifier's path is the address of a vLLM server."""
    return is_url(text) and text.lower().startswith(POOLING)


def pooling_parts(address: str) -> tuple[str, str]:
    """The URL of a vLLM server, and the model's name there.

    Raises:
        UserError: it is no such address.
    """
    scheme, _, rest = address[len(POOLING) :].partition("://")
    host, _, name = rest.partition("/")
    if not is_pooling_address(address) or not name:
        raise UserError(f"'{redacted(address)}' is no verifier on a vLLM server; give vllm+http://HOST:PORT/NAME.")
    return checked_address(f"{scheme}://{host}", "vLLM server")[0], name


def checkpoint_of(path_or_address: str) -> str:
    """The folder or hub id that is read on this machine: the path itself, or the name in a vLLM server's address."""
    return pooling_parts(path_or_address)[1] if is_pooling_address(path_or_address) else path_or_address
