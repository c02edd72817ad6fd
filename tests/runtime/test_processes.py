"""What stops a run before its processes load anything."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from rlstep.runtime.errors import UserError
from rlstep.runtime.processes import end_processes, start_processes

CONFIGS = Path(__file__).parents[2] / "ds_configs"
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
        return SimpleNamespace(n_gpu=1, deepspeed=path, hf_deepspeed_config=HfDeepSpeedConfig(path), started=started)

    yield make
    unset_hf_deepspeed_config()


def test_one_process_with_several_gpus_is_refused():
    with pytest.raises(UserError, match="2 GPUs are visible to one process"):
        start_processes(SimpleNamespace(n_gpu=2, deepspeed=None))


def test_deepspeed_needs_a_launcher(arguments, monkeypatch):
    args = arguments("zero2")
    start_processes(args)
    assert args.started == [{"auto_mpi_discovery": False}]
    monkeypatch.delenv("RANK")
    with pytest.raises(UserError, match="no launcher started this process; start it with `deepspeed"):
        start_processes(args)


def test_a_launchers_process_closes_its_group(monkeypatch, tmp_path):
    import torch.distributed

    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
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
