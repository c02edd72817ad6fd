"""What tells a verifier from others, so that a run that goes on never mixes the scores of two."""

from rlstep.runtime.checkpoints import checkpoint_files
from rlstep.verifiers.serving.addresses import checkpoint_of, is_pooling_address, is_url
from rlstep.verifiers.serving.client import RemoteRewardModel


def verifier_identity(path_or_address: str) -> dict:
    """What decides a verifier's scores, as plain values; the address of a server is no part of it.

    Of a folder, a hub id or a model on a vLLM server it is the name and the local files, of an `rlstep serve` what that
    says of its verifier.

    Raises:
        UserError: an `rlstep serve` is not reached.
    """
    if is_url(path_or_address) and not is_pooling_address(path_or_address):
        return RemoteRewardModel(path_or_address).identity
    checkpoint = checkpoint_of(path_or_address)
    return {"checkpoint": checkpoint, "files": checkpoint_files(checkpoint)}
