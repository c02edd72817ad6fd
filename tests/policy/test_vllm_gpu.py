"""With vLLM itself, which needs a GPU: `pip install 'rlstep[vllm]'` and `pytest -m gpu`."""

import os
import socket
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
import requests
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM

from rlstep.policy.trainer import StepPPOTrainer
from rlstep.tasks.small import small_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.skipif(find_spec("vllm") is None, reason="needs vllm: pip install 'rlstep[vllm]'"),
]
LONGEST = 128


@pytest.fixture(scope="module")
def model(tokenizer, tmp_path_factory) -> str:
    """Heads of 64: vLLM's attention kernels have no smaller ones."""
    path = tmp_path_factory.mktemp("lm")
    small_model(tokenizer, hidden_size=128, layers=2, heads=2, intermediate_size=256).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


@pytest.fixture
def make(model, tokenizer, arguments, lora, pays_ones):
    def trainer(adapter: bool = True, **changes) -> StepPPOTrainer:
        given = {"use_cpu": False, "bf16": False, "use_vllm": True, "max_steps": 3, "num_iterations": 1} | changes
        return StepPPOTrainer(
            model,
            pays_ones,
            arguments(**given),
            Dataset.from_list([{"prompt": f"{n} + 3\n", "reference": "1"} for n in range(4)]),
            processing_class=tokenizer,
            peft_config=lora if adapter else None,
        )

    return trainer


@pytest.fixture
def serve(model, tmp_path):
    """Starts `vllm serve` on the last GPU; gives its address once it answers."""
    started = []

    def start(*options: str) -> str:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            port = str(unused.getsockname()[1])
        environment = os.environ | {
            "VLLM_SERVER_DEV_MODE": "1",
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
            "CUDA_VISIBLE_DEVICES": str(torch.cuda.device_count() - 1),
        }
        vllm = str(Path(sys.executable).with_name("vllm"))
        command = [
            vllm, "serve", model, "--port", port, "--max-model-len", str(LONGEST), "--gpu-memory-utilization", "0.2",
            "--dtype", "float32", "--logprobs-mode", "processed_logprobs", *options,
        ]  # fmt: skip
        output = (tmp_path / "vllm.txt").open("w")
        started.append((subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT), output))
        url = f"http://127.0.0.1:{port}"
        for _ in range(240):
            try:
                if requests.get(f"{url}/health", timeout=5).ok:
                    return url
            except requests.RequestException:
                assert started[-1][0].poll() is None, (tmp_path / "vllm.txt").read_text()[-4000:]
            time.sleep(1)
        raise TimeoutError((tmp_path / "vllm.txt").read_text()[-4000:])

    yield start
    for process, output in started:
        process.terminate()
        process.wait(timeout=60)
        output.close()


def check(trainer, updates: int = 3) -> None:
    """vLLM samples what the policy is: to rounding, while updates at this learning rate move it far more."""
    logged = [line for line in trainer.state.log_history if "sampling/sampling_logp_difference/mean" in line]
    assert len(logged) == updates
    assert max(line["sampling/sampling_logp_difference/mean"] for line in logged) < 0.01
    before = AutoModelForCausalLM.from_pretrained(trainer.model.name_or_path)
    ids = torch.arange(1, 9)[None]
    moved = trainer.model(ids.to(trainer.model.device)).logits.cpu() - before(ids).logits
    assert moved.abs().mean() > 0.05


@pytest.mark.parametrize("settings", [{"advantage": "gae"}, {"advantage": "vine", "vine_rollouts": 3}])
def test_colocated(make, settings):
    trainer = make(
        vllm_gpu_memory_utilization=0.2, vllm_max_model_length=LONGEST, model_init_kwargs={"dtype": "float32"},
        **settings,
    )  # fmt: skip
    trainer.train()
    check(trainer)


@pytest.mark.parametrize("settings", [{"advantage": "gae"}, {"advantage": "vine", "vine_rollouts": 3}])
def test_a_server_gets_the_adapter(make, serve, settings):
    url = serve("--enable-lora", "--max-lora-rank", "8")
    trainer = make(vllm_mode="server", vllm_server_base_url=url, vllm_sync="adapter", **settings)
    trainer.train()
    check(trainer)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="NCCL needs a GPU for the server and one for the trainer")
@pytest.mark.parametrize("adapter", [True, False], ids=["adapter", "whole weights"])
def test_a_server_gets_the_weights_without_the_critic(make, serve, adapter):
    url = serve("--weight-transfer-config", '{"backend": "nccl"}')
    trainer = make(adapter, vllm_mode="server", vllm_server_base_url=url, advantage="gae")
    trainer.train()
    check(trainer)
