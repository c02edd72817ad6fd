"""The PRM's weights that a refresh trains, kept in float32, and dropout with its own random numbers."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from rlstep.runtime.errors import UserError

MAX_GRADIENT = 1.0  # the norm that gradients are clipped to


class TrainedWeights:
    """The parameters of a model that require gradients, and AdamW over them.

    Updates of a refresh are smaller than what a weight in half precision can show, so the optimizer works on copies in
    float32, and the model gets them rounded. Parameters in float32 are trained as they are.

    Raises:
        UserError: no parameter requires gradients.
    """

    def __init__(self, model: nn.Module, learning_rate: float):
        self.own = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        if not self.own:
            raise UserError("all parameters of the PRM are frozen, so refresh_every has nothing to train.")
        self.exact = {
            name: parameter if parameter.dtype == torch.float32 else parameter.detach().float()
            for name, parameter in self.own.items()
        }
        self.optimizer = torch.optim.AdamW(self.exact.values(), lr=learning_rate, weight_decay=0.0)

    @torch.no_grad()
    def step(self) -> None:
        """One update with the clipped gradients of the model's parameters, which are then cleared."""
        for name, exact in self.exact.items():
            if exact is not self.own[name]:
                gradient, self.own[name].grad = self.own[name].grad, None
                exact.grad = None if gradient is None else gradient.to(exact)
        nn.utils.clip_grad_norm_(self.exact.values(), MAX_GRADIENT)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self._give()

    def _give(self) -> None:
        for name, exact in self.exact.items():
            if exact is not self.own[name]:
                self.own[name].copy_(exact)

    def state_dict(self) -> dict[str, dict]:
        """Copies on the CPU: `values` by parameter name, and `optimizer`, its state by parameter name."""

        def copied(tensor: Tensor) -> Tensor:
            return tensor.detach().to("cpu", copy=True)

        moments = {
            name: {key: copied(value) for key, value in self.optimizer.state[exact].items()}
            for name, exact in self.exact.items()
            if exact in self.optimizer.state
        }
        return {"values": {name: copied(exact) for name, exact in self.exact.items()}, "optimizer": moments}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, dict]) -> None:
        if differing := sorted(set(state["values"]) ^ set(self.exact)):
            raise UserError(
                f"the checkpoint's state is of another PRM: {len(differing)} trained weights differ, {differing[0]} "
                "first. Give the reward model that the run was started with."
            )
        for name, exact in self.exact.items():
            exact.copy_(state["values"][name])
        self._give()
        index = {name: number for number, name in enumerate(self.exact)}
        # Cloned: the optimizer would go on in the caller's tensors.
        moments = {
            index[name]: {key: value.clone() for key, value in of_weight.items()}
            for name, of_weight in state["optimizer"].items()
        }
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": moments})


@contextmanager
def own_randomness(device: torch.device, generator: torch.Generator) -> Iterator[None]:
    """Dropout draws from the global generators: here they are seeded by `generator`, and afterwards as they were."""
    cuda = device.type == "cuda"
    with torch.random.fork_rng([device] if cuda else [], device_type="cuda"):
        seed = int(torch.randint(2**62, (1,), generator=generator))
        # Not torch.manual_seed, which would reach the other devices as well.
        torch.default_generator.manual_seed(seed)
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
