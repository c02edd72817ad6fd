"""A policy's adapter on a vLLM server: written to a folder, which the server is told to load (`vllm_sync: adapter`).

Base weights are neither sent nor merged. As in TRL's asynchronous trainer, whose functions check and write the adapter,
each version has a name of its own: vLLM caches prefixes by the adapter's name, and would continue those of the version
before.
"""

import shutil
import uuid
from contextlib import suppress
from functools import partial
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from peft import LoraConfig, PeftModel
from torch import nn
from trl.generation.vllm_client import VLLMClient
from trl.import_utils import suppress_experimental_warning

from rlstep.runtime.errors import UserError
from rlstep.runtime.failure import at_the_end

with suppress_experimental_warning():
    from trl.experimental.async_grpo.async_grpo_trainer import (
        round_lora_rank,
        save_lora_adapter,
        validate_lora_for_vllm_sync,
    )
    from trl.experimental.async_grpo.vllm_client import VLLMClient as AdapterClient

INSTEAD = "or set vllm_sync: merged"


class ServedAdapter:
    """Keeps a server's copy of the active adapter. Every rank makes one, and calls each method.

    Args:
        model: the policy.
        accelerator: the trainer's.
        client: of the server that samples.
        folder: the versions are written here; the server reads them by the same path. It is emptied.

    Raises:
        UserError: the server cannot serve this adapter.
    """

    def __init__(self, model: nn.Module, accelerator: Accelerator, client: VLLMClient, folder: Path):
        rank = _rank(_servable(model))
        check_server(client.get_server_info(), client.base_url, rank)
        self.model, self.accelerator, self.folder = model, accelerator, folder
        self.server, self.name = AdapterClient(client.base_url), model.active_adapters[0]
        # A server outlives runs, and keeps the names of the adapters that they gave it.
        self._run = broadcast_object_list([f"rlstep-{uuid.uuid4().hex[:8]}"], from_process=0)[0]
        self._version, self._served = 0, []
        if accelerator.is_main_process:
            # A run that was killed has left its last version here and on the server.
            _withdraw(self.server, list(folder.glob("rlstep-*")), folder)
            folder.mkdir(parents=True)
            at_the_end(partial(_withdraw, self.server, self._served, folder))

    def parameters(self) -> list[nn.Parameter]:
        """The adapter's, which have to be whole when it is written."""
        return [p for name, p in self.model.named_parameters() if "lora_" in name and f".{self.name}." in name]

    def write(self) -> None:
        """Writes the adapter as it is now, as the next version."""
        self._version += 1
        save_lora_adapter(self.model, self.accelerator, self.name, str(self._newest))

    def serve(self) -> str:
        """Has the server load the newest version in place of the last; returns the name that requests select it by.

        Raises:
            UserError: the server does not load adapters, or cannot read the folder.
        """
        if self.accelerator.is_main_process:
            try:
                self.server.load_lora_adapter(self._newest.name, str(self._newest))
            except RuntimeError as error:
                raise UserError(
                    f"{error} If it has that, it cannot read {self._newest}: output_dir must be a path that the server "
                    f"sees, too, {INSTEAD}."
                ) from error
            _withdraw(self.server, self._served)
            self._served.append(self._newest)
        return self._newest.name

    @property
    def _newest(self) -> Path:
        return self.folder / f"{self._run}-v{self._version}"


def check_server(info: dict, url: str, rank: int) -> None:
    """Refuses servers that cannot serve an adapter of this rank.

    Args:
        info: the server's configuration, as it reports it.
        url: the server's.
        rank: of the adapter, the highest of any layer.

    Raises:
        UserError: says how to start the server instead.
    """
    lora, needed = info["lora_config"], f"--enable-lora --max-lora-rank {round_lora_rank(rank)}"
    if lora is None:
        raise UserError(
            f"vllm_sync is 'adapter', and the vLLM server at {url} serves no adapters; restart it with {needed} and "
            f"VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 in its environment, {INSTEAD}."
        )
    if lora["max_lora_rank"] < rank:
        raise UserError(
            f"The adapter has rank {rank}, and the vLLM server at {url} serves ranks up to {lora['max_lora_rank']}; "
            f"restart it with {needed}, {INSTEAD}."
        )
    copies = info["parallel_config"]["data_parallel_size"]
    if copies > 1:
        raise UserError(
            f"The vLLM server at {url} has {copies} data-parallel copies of the model, of which only one would load "
            f"the adapter; restart it with --data-parallel-size 1, {INSTEAD}."
        )


def _servable(model: nn.Module) -> LoraConfig:
    """The active adapter's shape, if vLLM can serve such adapters."""
    if not isinstance(model, PeftModel):
        raise UserError(f"vllm_sync is 'adapter', and the policy trains whole weights; set use_peft: true, {INSTEAD}.")
    try:
        return validate_lora_for_vllm_sync(model)
    except ValueError as error:
        raise UserError(f"vllm_sync is 'adapter': {error}") from error


def _rank(lora: LoraConfig) -> int:
    return max([lora.r, *lora.rank_pattern.values()])


def _withdraw(server: AdapterClient, served: list[Path], folder: Path | None = None) -> None:
    """Has the server forget what it serves, and removes the files; `folder`, too, where it is given."""
    while served:
        version = served.pop()
        with suppress(OSError):  # the server may be gone at the end of a run
            server.unload_lora_adapter(version.name, timeout=10)
        shutil.rmtree(version, ignore_errors=True)
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)
