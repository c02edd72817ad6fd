"""What stops a run before its processes load anything."""

import json
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from rlstep.runtime.errors import UserError
from rlstep.runtime.processes import end_processes, lost_another, start_processes

CONFIGS = Path(__file__).parents[2] / "ds_configs"
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


def test_the_timeout_counts_on_cpus_too(group):
    """The Trainer's arguments pass it on for GPUs alone."""
    import torch

    start_processes(SimpleNamespace(n_gpu=0, deepspeed=None, use_cpu=True, ddp_timeout_delta=TIMEOUT))
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
