"""A recipe of `rlstep sample` on a tiny policy, and its adapters."""

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

import rlstep.policy.engines.vllm_engine  # noqa: F401 - imports TRL, before there seems to be a vllm
from rlstep.runtime.rows import write_rows
from rlstep.stages.sample import SampleConfig, sample


@pytest.fixture
def config(tiny_lm, task, tmp_path) -> SampleConfig:
    """Three problems, four solutions each, in batches of five: 5 + 5 + 2."""
    write_rows(tmp_path / "problems.jsonl", (asdict(p) for p in task.problems("test", 3, seed=0)))
    return SampleConfig(
        model=tiny_lm, problems=str(tmp_path / "problems.jsonl"), out=str(tmp_path / "samples.jsonl"), n=4,
        max_new_tokens=12, batch_size=5,
    )  # fmt: skip


@pytest.fixture
def rows_of(config):
    """Samples by the recipe with some settings changed; gives the rows."""
    number = iter(range(100))

    def run(**changes) -> list[dict]:
        out = config.out.replace("samples", f"samples-{next(number)}")
        sample(replace(config, **({"out": out} | changes)))
        return [json.loads(line) for line in Path(changes.get("out", out)).read_text().splitlines()]

    return run


@pytest.fixture
def adapter(tiny_lm, tmp_path) -> str:
    """A LoRA adapter that changes what the policy writes, with its tokenizer."""
    torch.manual_seed(0)
    lora = LoraConfig(r=4, lora_alpha=64, target_modules="all-linear", init_lora_weights=False)
    get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_lm), lora).save_pretrained(tmp_path / "adapter")
    AutoTokenizer.from_pretrained(tiny_lm).save_pretrained(tmp_path / "adapter")
    return str(tmp_path / "adapter")


@pytest.fixture
def fake(monkeypatch):
    """The fake, which `import vllm` finds for the length of a test."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "fake"))
    import vllm

    yield vllm
    vllm.LOADED.clear()
    for name in [name for name in sys.modules if name == "vllm" or name.startswith("vllm.")]:
        del sys.modules[name]
