"""Commands on two processes of this machine."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.kills.processes import free_port

ROOT = Path(__file__).parents[2]

# As much of vLLM as TRL imports; nothing of it is called where an adapter is sent to a server.
PACKAGE = {
    "__init__.py": '__version__ = "0.24.0"\nLLM = RequestOutput = SamplingParams = None\n',
    "sampling_params.py": "StructuredOutputsParams = None\n",
    "utils/__init__.py": "",
    "utils/network_utils.py": "get_ip = get_open_port = None\n",
    "distributed/__init__.py": "",
    "distributed/weight_transfer/__init__.py": "",
    "distributed/weight_transfer/nccl_engine.py": "NCCLTrainerSendWeightsArgs = NCCLWeightTransferEngine = None\n",
}


def also(*combination):
    """One more combination of processes, ZeRO stage and kind of model, of what the default run has tried already."""
    return pytest.param(*combination, marks=pytest.mark.thorough)


@pytest.fixture
def launch(tmp_path, warm):
    """Runs `rlstep WORDS` on two ranks and returns the log.

    They are forked from a process that has imported everything, or from one that imports from the folder `imports` as
    well; `by` names a launcher that starts each of them anew, for tests of what launchers do.
    """

    def run(words: list[str], by: str | None = None, ranks: int = 2, code: int = 0, imports: str | None = None) -> str:
        log = tmp_path / "log.txt"
        if by is None:
            log.unlink(missing_ok=True)
            ended = warm(*[imports] if imports else []).start("tests.warm:command", *words, log=log, ranks=ranks).wait()
        else:
            with launched(words, log, by, ranks) as process:
                ended = process.wait(timeout=900)
        log = log.read_text()
        assert ended == code, log[-6000:]
        return log

    return run


@contextmanager
def launched(words: list[str], log: Path, by: str = "torchrun", ranks: int = 2) -> Iterator[subprocess.Popen]:
    """A launcher that runs `rlstep WORDS` on so many ranks; it is ended, with them, where it has not ended itself."""
    port = str(free_port())
    python, number = Path(sys.executable), str(ranks)
    command = {
        "torchrun": [python, "-m", "torch.distributed.run", "--nproc_per_node", number, "--master_port", port, "-m"],
        "deepspeed": [
            python.with_name("deepspeed"), "--num_accelerators", number, "--master_port", port, "--module",
        ],
        # Of one machine's processes; without GPUs, --use_cpu makes them processes of the CPU.
        "accelerate": [
            python.with_name("accelerate"), "launch", "--multi_gpu", "--num_processes", number, "--num_machines", "1",
            "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", port, "-m",
        ],
    }[by]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "RLSTEP_TRACEBACK": "1"}
    environment["PATH"] = f"{python.parent}{os.pathsep}{environment['PATH']}"
    try:
        with log.open("w") as output:
            process = subprocess.Popen(
                [*map(str, command), "rlstep", *words], cwd=ROOT, env=environment, stdout=output, stderr=output
            )
        try:
            yield process
        finally:
            if process.poll() is None:
                # The launchers end their ranks, which may be in sessions of their own.
                process.terminate()
                process.wait(timeout=60)
    finally:
        # DeepSpeed's ranks on a CPU leave what they talk through: a quarter of a GiB of memory for each launch.
        for buffer in Path("/dev/shm").glob(f"deepspeed_allreduce_buffer_*_{port}_*"):
            buffer.unlink()


@pytest.fixture(scope="session")
def vllm_package(tmp_path_factory) -> str:
    """The folder that it lies in, from which what `launch` runs may import it."""
    folder = tmp_path_factory.mktemp("packages")
    for name, text in PACKAGE.items():
        path = folder / "vllm" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(folder)
