"""The processes of a run: one, or those that a launcher (torchrun, accelerate launch, deepspeed) has started.

Those of a training run are started before any weights are loaded, because ZeRO-3 shards weights in loading. Those of
`sample`, `score` and `label` share no weights: each works through its own part of the data.
"""

import atexit
import os
import sys
import threading
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import islice
from typing import TYPE_CHECKING, NoReturn, Protocol, TypeVar

from rlstep.runtime.errors import UserError

if TYPE_CHECKING:  # imports torch
    from transformers import TrainingArguments

T = TypeVar("T")
# Processes wait for the slowest one at the end, for as long as its last batches take.
PATIENCE = timedelta(days=30)
# Python's own exit code where its last output could not be written.
LOST_OUTPUT = 120
# Gloo's errors have no class of their own.
OF_ANOTHER = ("gloo/transport", "Connection closed by peer", "Connection reset by peer")


def start_processes(args: "TrainingArguments") -> None:
    """Starts the process group under DeepSpeed; without it, the Trainer's arguments have done so. May be called again.

    Args:
        args: the Trainer's arguments.

    Raises:
        UserError: one process sees several GPUs, which torch's DataParallel would share out; accelerate's configuration
            asks for FSDP, or alone for DeepSpeed; DeepSpeed is asked for in a process that no launcher started; or its
            optimizer for the CPU cannot be compiled.
    """
    if args.n_gpu > 1:
        raise UserError(
            f"{args.n_gpu} GPUs are visible to one process. Start one process per GPU (`accelerate launch` or "
            "`torchrun`), or show it one GPU (CUDA_VISIBLE_DEVICES=0)."
        )
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true":
        raise UserError(
            "accelerate's configuration starts FSDP (ACCELERATE_USE_FSDP), and weights are sharded by deepspeed alone "
            "here; set it, for example to ds_configs/zero3.json, and launch with `accelerate launch --multi_gpu`."
        )
    if args.use_cpu:
        _set_timeout(args.ddp_timeout_delta)
    if not args.deepspeed:
        if args.deepspeed_plugin is not None:
            # Taken from there, its settings would be no part of the run's identity, and unknown to what is cast here.
            raise UserError(
                "accelerate's configuration starts DeepSpeed (ACCELERATE_USE_DEEPSPEED), and deepspeed names no file; "
                "set it, for example to ds_configs/zero2.json, and launch with `accelerate launch --multi_gpu`."
            )
        return
    if not is_launched():
        raise UserError(
            "deepspeed is set, but no launcher started this process; start it with `deepspeed --num_gpus N --module "
            "rlstep ...`, also on one GPU, or with `torchrun`."
        )
    # With use_cpu the Trainer starts torch's process group and leaves DeepSpeed's own unset.
    import deepspeed

    deepspeed.init_distributed(auto_mpi_discovery=False, timeout=args.ddp_timeout_delta)
    if args.hf_deepspeed_config.get_value("zero_optimization.offload_optimizer.device", "none") != "none":
        _compile_cpu_adam(args)


class Processes(Protocol):
    """The processes that work on one output.

    Attributes:
        index: this one's number, from 0.
        number: how many there are.
    """

    index: int
    number: int

    def wait(self) -> None:
        """Returns once all of them have come here."""

    def gather(self, value: T) -> list[T]:
        """The values that all of them give, in their order; small ones, as they are pickled between processes."""


def launched_processes() -> Processes:
    """The processes that a launcher has started; this one alone without a launcher."""
    return _Launched() if int(os.environ.get("WORLD_SIZE", "1")) > 1 else Alone()


def my_share(processes: Processes, items: Iterable[T]) -> Iterator[T]:
    """This process's part: every R-th item, R being the number of processes."""
    return islice(items, processes.index, None, processes.number)


class Alone:
    """The one process of a run that no launcher has started; it needs no torch."""

    index, number = 0, 1

    def wait(self) -> None:
        pass

    def gather(self, value: T) -> list[T]:
        return [value]


class _Launched:
    """One of a launcher's processes, in their group."""

    def __init__(self):
        import torch
        from accelerate import PartialState

        self._state = PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)
        self.index, self.number = self._state.process_index, self._state.num_processes

    def wait(self) -> None:
        with _others_alive():
            self._state.wait_for_everyone()

    def gather(self, value: T) -> list[T]:
        from accelerate.utils import gather_object

        with _others_alive():
            return gather_object([value])


@contextmanager
def _others_alive() -> Iterator[None]:
    """Says in one line that another process has ended, which has said why, where torch would show a traceback."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"this process waited for another one, which has ended ({reason[:200]}).") from error


def _set_timeout(timeout: timedelta) -> None:
    """Gives the process group `ddp_timeout`, which the Trainer's arguments pass on for GPUs alone."""
    import torch.distributed as distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.distributed_c10d._set_pg_timeout(timeout)


def is_launched() -> bool:
    """Whether a launcher has started this process, alone or as one of several."""
    return "RANK" in os.environ


def end_processes() -> None:
    """Closes the process group that a launcher's process has."""
    distributed = sys.modules.get("torch.distributed")
    if is_launched() and distributed is not None and distributed.is_initialized():
        distributed.destroy_process_group()


def leave(code: int) -> NoReturn:
    """Ends a launcher's process as Python does, but for taking the interpreter apart.

    A group that is closed keeps its threads while anybody holds it, and DeepSpeed's parameters and engine do until the
    end. A thread of gloo that has yet to let go of its last tensor then asks for an interpreter that is being taken
    apart, which ends the thread in the middle of a destructor: "terminate called without an active exception", and the
    exit code of a run that has lost nothing is -6.
    """
    # As processes of multiprocessing end: threads that are no daemons are waited for, then come the exit functions.
    for finish in (threading._shutdown, atexit._run_exitfuncs):
        try:
            finish()
        except BaseException:  # an interrupt: Python, too, shows it and goes on
            traceback.print_exc()
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None and not stream.closed:
                stream.flush()
        except OSError:
            code = code or LOST_OUTPUT
    os._exit(code)


def lost_another(error: BaseException | None) -> bool:
    """Whether an error says that another process is gone or does not answer, which is not its cause."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or error is None:
        return False
    if isinstance(error, distributed.DistError):
        return True
    if isinstance(error, RuntimeError) and any(mark in str(error) for mark in OF_ANOTHER):
        return True
    return lost_another(error.__cause__ or error.__context__)


def _compile_cpu_adam(args: "TrainingArguments") -> None:
    """Builds the optimizer that an offload needs, which DeepSpeed would do after the weights are loaded."""
    from deepspeed.accelerator import get_accelerator

    if not args.hf_deepspeed_config.get_value("zero_force_ds_cpu_optimizer", True):
        return
    try:
        get_accelerator().create_op_builder("CPUAdamBuilder").load(verbose=False)
    except Exception as error:  # of the compiler, of torch's extension loader, of a version check
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise UserError(
            f"{args.deepspeed} keeps the optimizer on the CPU, and DeepSpeed's CPU Adam cannot be compiled here: "
            f"{reason}. It needs g++, ninja and Python.h (on Debian and Ubuntu: apt-get install g++ ninja-build "
            "python3-dev) and, with a GPU, the CUDA toolkit of torch's version (CUDA_HOME). Or take a configuration "
            "without offload, ds_configs/zero2.json or zero3.json."
        ) from error
