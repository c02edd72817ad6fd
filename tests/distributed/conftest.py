"""Commands on two processes of this machine."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def launch(tmp_path):
    """Runs `rlstep WORDS` on two ranks, by torchrun or (`by="deepspeed"`) DeepSpeed's launcher."""

    def run(words: list[str], by: str = "torchrun") -> None:
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            port = str(found.getsockname()[1])
        python = Path(sys.executable)
        if by == "deepspeed":
            command = [str(python.with_name("deepspeed")), "--num_accelerators", "2", "--master_port", port, "--module"]
        else:
            command = [str(python), "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", port, "-m"]
        _run([*command, "rlstep", *words], tmp_path / "log.txt")

    return run


def _run(command: list[str], log: Path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "RLSTEP_TRACEBACK": "1"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT)
        try:
            code = process.wait(timeout=900)
        except subprocess.TimeoutExpired:
            # The launchers end their ranks, which may be in sessions of their own.
            process.terminate()
            process.wait(timeout=60)
            raise
    assert code == 0, log.read_text()[-6000:]
