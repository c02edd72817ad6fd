"""ZeRO-3's shards outside of the engine's own passes: weights made whole, and passes of a model without an engine.

Every rank holds a part of each weight, so all ranks have to take part when one needs the whole. On a model that is not
sharded, all of this does nothing.
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn


def is_sharded(parameter: nn.Parameter) -> bool:
    return hasattr(parameter, "ds_id")


def whole_shape(parameter: nn.Parameter) -> torch.Size:
    """A parameter's shape, of which a shard's placeholder has nothing."""
    return getattr(parameter, "ds_shape", parameter.shape)


@contextmanager
def whole(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Within it these parameters are whole on every rank, to be read; all ranks have to enter."""
    sharded = [parameter for parameter in parameters if is_sharded(parameter)]
    with ExitStack() as stack:
        if sharded:
            import deepspeed

            stack.enter_context(deepspeed.zero.GatheredParameters(sharded))
        yield


@contextmanager
def whole_when_used(model: nn.Module) -> Iterator[None]:
    """Within it a model that has no engine yet can run without gradients; all ranks have to make the same passes.

    A module's weights are whole during its own pass alone, as under the engine.
    """
    handles, entered = [], {}

    def gather(module: nn.Module, _) -> None:
        entered[module] = whole(module.parameters(recurse=False))
        entered[module].__enter__()

    def release(module: nn.Module, *_) -> None:
        if module in entered:
            entered.pop(module).__exit__(None, None, None)

    for module in model.modules():
        if any(map(is_sharded, module.parameters(recurse=False))):
            handles.append(module.register_forward_pre_hook(gather))
            handles.append(module.register_forward_hook(release, always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def whole_state(model: nn.Module, keep: bool) -> dict[str, Tensor]:
    """The state of a model with every weight whole, on the CPU where it is sharded; one weight at a time is gathered.

    Args:
        model: sharded or not; all ranks have to call this.
        keep: whether this rank wants it; the others get nothing.
    """
    weights = dict(model.named_parameters(remove_duplicate=False))
    state: dict[str, Tensor] = {}
    copies: dict[nn.Parameter, Tensor] = {}  # tied weights stay one tensor
    for name, tensor in model.state_dict().items():
        parameter = weights.get(name)
        if parameter is None or not is_sharded(parameter):
            state[name] = tensor
            continue
        with whole([parameter]):
            if keep and parameter not in copies:
                copies[parameter] = parameter.detach().cpu().clone()
        if keep:
            state[name] = copies[parameter]
    return state if keep else {}
