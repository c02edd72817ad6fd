"""What stops a run before its processes load anything."""

import json
import os
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from rlstep.runtime.errors import UserError
from rlstep.runtime.processes import end_processes, lost_another, start_processes

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "ds_configs"
TIMEOUT = timedelta(seconds=7)
NAMES = ("zero2", "zero2_offload", "zero3", "zero3_offload")


@pytest.fixture
def arguments(monkeypatch):
    """Makes a Trainer's arguments, as far as they are read, for a process of a launcher."""
    deepspeed = pytest.importorskip("deepspeed")
    from transformers.integrations import HfDeepSpeedConfig
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    started = []
    monkeypatch.setattr(deepspeed, "init_distributed", lambda **options: started.append(options))
    monkeypatch.setenv("RANK", "0")

    def make(name: str):
        path = str(CONFIGS / f"{name}.json")
        return SimpleNamespace(
            n_gpu=1, deepspeed=path, hf_deepspeed_config=HfDeepSpeedConfig(path), started=started, use_cpu=True,
            ddp_timeout_delta=TIMEOUT,
        )  # fmt: skip

    yield make
    unset_hf_deepspeed_config()


def test_one_process_with_several_gpus_is_refused():
    with pytest.raises(UserError, match="2 GPUs are visible to one process"):
        start_processes(SimpleNamespace(n_gpu=2, deepspeed=None))


def test_deepspeed_that_accelerate_alone_asks_for_is_refused():
    with pytest.raises(UserError, match="ACCELERATE_USE_DEEPSPEED.* deepspeed names no file; set it"):
        start_processes(SimpleNamespace(n_gpu=1, deepspeed=None, deepspeed_plugin=object(), use_cpu=False))


def test_fsdp_that_accelerate_asks_for_is_refused(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(UserError, match="ACCELERATE_USE_FSDP.* by deepspeed alone here; set it"):
        start_processes(_without_deepspeed())


@pytest.mark.parametrize("given", [{"fsdp": True}, {"fsdp": "full_shard"}, {"fsdp_config": {"version": 2}}])
def test_settings_of_fsdp_are_refused(given, tmp_path):
    from rlstep.stages.sft import SFTArguments

    with pytest.raises(UserError, match="fsdp.* nothing here: weights are sharded by DeepSpeed; set deepspeed"):
        SFTArguments(str(tmp_path), use_cpu=True, bf16=False, **given)


def test_deepspeed_needs_a_launcher(arguments, monkeypatch):
    args = arguments("zero2")
    start_processes(args)
    assert args.started == [{"auto_mpi_discovery": False, "timeout": TIMEOUT}]
    monkeypatch.delenv("RANK")
    with pytest.raises(UserError, match="no launcher started this process; start it with `deepspeed"):
        start_processes(args)


@pytest.fixture
def group(tmp_path):
    """A process group of one."""
    import torch.distributed

    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield torch.distributed.group.WORLD
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _without_deepspeed() -> SimpleNamespace:
    return SimpleNamespace(n_gpu=0, deepspeed=None, deepspeed_plugin=None, use_cpu=True, ddp_timeout_delta=TIMEOUT)


def test_the_timeout_counts_on_cpus_too(group):
    """The Trainer's arguments pass it on for GPUs alone."""
    import torch

    start_processes(_without_deepspeed())
    assert group._get_backend(torch.device("cpu")).options._timeout == TIMEOUT


def test_an_error_that_tells_of_another_process_is_told_from_others():
    import torch.distributed

    lost = RuntimeError("[/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:1")
    assert lost_another(lost)
    assert lost_another(torch.distributed.DistNetworkError("the server is gone"))
    wrapped = ValueError("no metrics")
    wrapped.__cause__ = lost
    assert lost_another(wrapped)
    assert not lost_another(RuntimeError("shapes do not match"))
    assert not lost_another(ValueError("gloo/transport"))


def test_a_launchers_process_closes_its_group(monkeypatch, group):
    import torch.distributed

    monkeypatch.delenv("RANK", raising=False)
    end_processes()
    assert torch.distributed.is_initialized()
    monkeypatch.setenv("RANK", "0")
    end_processes()
    assert not torch.distributed.is_initialized()
    end_processes()


def test_an_optimizer_that_cannot_be_compiled_is_said_before_weights_are_loaded(arguments, monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", "/bin/false")
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    with pytest.raises(UserError, match=r"zero2_offload.json keeps the optimizer on the CPU, .*/bin/false.*g\+\+"):
        start_processes(arguments("zero2_offload"))
    start_processes(arguments("zero2"))


@pytest.mark.parametrize("name", NAMES)
def test_configurations_leave_to_the_trainer_what_it_knows(name):
    config = json.loads((CONFIGS / f"{name}.json").read_text())
    stage = config["zero_optimization"]
    assert stage["stage"] == int(name[4])
    assert ("offload_optimizer" in stage) == name.endswith("offload")
    assert ("offload_param" in stage) == (name == "zero3_offload")
    # A number here would be compared with the arguments', or silently replace them.
    known = [config["bf16"]["enabled"], config["fp16"]["enabled"], stage["reduce_bucket_size"]]
    known += [value for key, value in config.items() if "batch" in key or key.startswith("gradient")]
    known += [value for key, value in stage.items() if key.endswith(("bucket_size", "threshold"))]
    assert set(known) == {"auto"}
    assert not {"optimizer", "scheduler"} & config.keys()
    if stage["stage"] == 3:
        assert stage["stage3_gather_16bit_weights_on_model_save"] is True


# Imported by Python at its start. What the process ends with: a native exit function that aborts, as the destructor of
# a thread does that still runs; an exit function; a thread that is waited for; and what trackers put around `sys.exit`.
ENDS = """
import atexit, ctypes, pathlib, sys, threading, time

libc = ctypes.CDLL(None)
libc.__cxa_atexit(ctypes.cast(libc.abort, ctypes.c_void_p), None, None)
codes, plain = [], sys.exit

def exit(code=None):
    codes.append(code)
    plain(code)

def leave_notes():
    pathlib.Path("notes.txt").write_text(f"code {codes}, thread {'waited for' if done else 'lost'}")

done = []
def work():
    threading.main_thread().join()
    done.append(True)

sys.exit = exit
sys.excepthook = lambda *error: codes.append(error[0].__name__)
atexit.register(leave_notes)
threading.Thread(target=work).start()

import rlstep.stages
rlstep.stages.COMMANDS["stub"] = rlstep.stages.Command("stubs", "stub", "For tests.")
"""
STUBS = """
from dataclasses import dataclass

@dataclass
class Config:
    what: str = "pass"

def stub(config: Config) -> dict:
    if config.what == "bug":
        raise ZeroDivisionError
    return {"rows": 3}
"""


@pytest.fixture
def ended(tmp_path):
    """ended(*words, **environment): what `python -m rlstep WORDS` did whose native exit functions abort."""
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "sitecustomize.py").write_text(ENDS)
    (tmp_path / "packages" / "stubs.py").write_text(STUBS)

    def run(*words: str, **environment: str) -> SimpleNamespace:
        path = os.pathsep.join([str(tmp_path / "packages"), str(ROOT)])
        environment = {k: v for k, v in os.environ.items() if k != "RANK"} | environment | {"PYTHONPATH": path}
        command = [sys.executable, "-m", "rlstep", *words]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
        notes = (tmp_path / "notes.txt").read_text()
        return SimpleNamespace(code=done.returncode, out=done.stdout, err=done.stderr, notes=notes)

    return run


needs_libc = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="registers an exit function as glibc does")


@needs_libc
@pytest.mark.parametrize(
    ("words", "code", "told", "text"),
    [
        (["stub"], 0, "[0]", "stub: rows 3\n"),
        (["stub", "--help"], 0, "[0]", "usage: rlstep stub"),
        (["stub", "--waht", "8"], 2, "[2]", "rlstep stub: error: unknown option"),
        (["stub", "--what", "bug"], 1, "['ZeroDivisionError']", ""),
    ],
)
def test_a_launchers_process_ends_with_its_own_code_whatever_native_threads_do(ended, words, code, told, text):
    process = ended(*words, RANK="0")
    assert process.code == code, process.err
    assert (process.err if code else process.out).startswith(text)
    assert process.notes == f"code {told}, thread waited for"


@needs_libc
def test_a_process_without_a_launcher_ends_as_python_does(ended):
    assert ended("--version").code == -signal.SIGABRT


# A group that something holds though it is closed, as DeepSpeed does, with work that ends when the interpreter does.
HELD = """
import atexit, ctypes, os, sys, time
from pathlib import Path

atexit.register(ctypes.PyDLL(None).sleep, 2)  # the last exit function; nobody else gets the interpreter meanwhile

import torch
import torch.distributed as distributed
from rlstep.runtime.processes import end_processes, leave

rank, closed = int(os.environ["RANK"]), Path("closed")
distributed.init_process_group("gloo", init_method=f"file://{Path('store').absolute()}", rank=rank, world_size=2)
held = distributed.new_group([0, 1])
if rank == 0:
    distributed.all_reduce(torch.ones(4), group=held, async_op=True)
    end_processes()
    closed.touch()
    leave(0)
while not closed.exists():
    time.sleep(0.05)
time.sleep(0.2)
distributed.all_reduce(torch.ones(4), group=held)
os._exit(0)
"""


@needs_libc
@pytest.mark.distributed
def test_a_closed_group_that_is_still_held_does_not_abort_a_process(tmp_path):
    """`sys.exit` in place of `leave`: "terminate called without an active exception", code -6."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen([sys.executable, "-c", HELD], cwd=tmp_path, env=environment | {"RANK": str(rank)})
        for rank in range(2)
    ]
    assert [rank.wait(timeout=300) for rank in ranks] == [0, 0]
