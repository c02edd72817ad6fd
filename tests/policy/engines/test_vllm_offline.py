"""`rlstep sample --engine vllm`: the rows of transformers by vLLM's offline engine, of which a fake is installed.

The last test is with vLLM itself, which needs a GPU: `pip install 'rlstep[vllm]'` and `pytest -m gpu`.
"""

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlstep.runtime.errors import UserError
from rlstep.stages.sample import sample
from rlstep.tasks.small import small_model


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vllm is installed here")
def test_a_missing_package_is_said_before_anything_is_read(config):
    with pytest.raises(UserError, match=r"engine is 'vllm', which needs vllm, and that is not installed: pip install"):
        sample(replace(config, engine="vllm", problems="nowhere.jsonl", model="nowhere"))


def test_greedy_rows_are_those_of_transformers(rows_of, fake):
    assert rows_of(engine="vllm", n=1, temperature=0.0) == rows_of(n=1, temperature=0.0)


def test_the_seed_decides_each_row_in_whatever_batches(rows_of, fake):
    first = rows_of(engine="vllm")
    assert rows_of(engine="vllm", batch_size=12) == first
    assert rows_of(engine="vllm", seed=1) != first
    assert len({row["completion"] for row in first}) > 6
    assert len({parameters.seed for parameters in fake.LOADED[0].asked}) == 12


def test_rows_are_those_of_a_server_with_the_same_weights(rows_of, fake, tiny_lm):
    from tests.model_server import ModelServer

    server = ModelServer(models={tiny_lm: tiny_lm})
    try:
        assert rows_of(engine="vllm") == rows_of(engine="server", url=server.url)
    finally:
        server.close()


def test_each_option_of_the_sampling_arrives(rows_of, fake):
    rows_of(engine="vllm", temperature=0.7, top_p=0.8, top_k=9, max_new_tokens=3)
    (llm,) = fake.LOADED
    asked = {(p.temperature, p.top_p, p.top_k, p.max_tokens, p.ignore_eos, p.detokenize) for p in llm.asked}
    assert asked == {(0.7, 0.8, 9, 3, True, False)}


def test_an_adapter_is_not_merged(rows_of, fake, adapter, tiny_lm):
    rows = rows_of(engine="vllm", model=adapter, n=1, temperature=0.0)
    assert rows == rows_of(model=adapter, n=1, temperature=0.0)
    assert rows != rows_of(n=1, temperature=0.0)
    (llm,) = fake.LOADED
    # Of vLLM's ranks the smallest that holds four.
    assert (llm.model, llm.tokenizer, llm.enable_lora, llm.max_lora_rank) == (tiny_lm, adapter, True, 8)


@pytest.mark.parametrize(
    ("shape", "why"),
    [
        ({"use_dora": True}, "DoRA adapters are not servable by vLLM"),
        ({"modules_to_save": ["embed_tokens"]}, ".modules_to_save=.*cannot ride in a LoRA adapter"),
    ],
)
def test_an_adapter_that_vllm_would_load_in_part_is_refused(config, fake, tiny_lm, tmp_path, shape, why):
    lora = LoraConfig(r=4, target_modules=["q_proj"], **shape)
    get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_lm), lora).save_pretrained(tmp_path / "odd")
    AutoTokenizer.from_pretrained(tiny_lm).save_pretrained(tmp_path / "odd")
    with pytest.raises(UserError, match=rf"odd: vLLM does not serve this adapter: {why}.*--what merged"):
        sample(replace(config, engine="vllm", model=str(tmp_path / "odd")))
    assert fake.LOADED == []


def test_the_engines_options_arrive(rows_of, fake, tiny_lm, task):
    rows_of(engine="vllm", n=1)
    rows_of(engine="vllm", n=1, tensor_parallel_size=2, gpu_memory_utilization=0.5, dtype="bfloat16", seed=7)
    first, second = fake.LOADED
    # float32 as the checkpoint has it: vLLM's own auto makes 16 bits of it.
    assert (first.dtype, first.tensor_parallel_size, first.gpu_memory_utilization, first.seed) == ("float32", 1, 0.9, 0)
    assert (second.dtype, second.tensor_parallel_size, second.gpu_memory_utilization) == ("bfloat16", 2, 0.5)
    assert second.seed == 7
    tokenizer = AutoTokenizer.from_pretrained(tiny_lm)
    longest = max(len(tokenizer(problem.prompt)["input_ids"]) for problem in task.problems("test", 3, seed=0))
    assert first.max_model_len == longest + 12
    assert first.generation_config == "vllm"


def test_a_killed_run_continues_to_the_same_rows(config, rows_of, fake, monkeypatch):
    whole = rows_of(engine="vllm")
    asked = replace(config, engine="vllm")
    generate, calls = fake.LLM.generate, []

    def mortal(self, *args, **options):
        calls.append(None)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return generate(self, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(fake.LLM, "generate", mortal)
        with pytest.raises(KeyboardInterrupt):
            sample(asked)
    fake.LOADED.clear()
    sample(replace(asked, gpu_memory_utilization=0.4))  # which changes no row
    assert [json.loads(line) for line in Path(config.out).read_text().splitlines()] == whole
    assert len(fake.LOADED[0].asked) == 12 - 5


def test_what_vllm_cannot_load_is_one_line(config, fake):
    too_many = replace(config, engine="vllm", tensor_parallel_size=3)
    with pytest.raises(
        UserError, match=r"vLLM cannot load .*: World size \(3\) is larger than the number of GPUs \(2\)"
    ):
        sample(too_many)


def test_an_output_too_few_is_noticed(config, fake, monkeypatch):
    generate = fake.LLM.generate
    monkeypatch.setattr(fake.LLM, "generate", lambda *args, **options: generate(*args, **options)[1:])
    with pytest.raises(UserError, match="vLLM gave 4 completions for 5 prompts"):
        sample(replace(config, engine="vllm"))


def test_several_processes_are_refused(config, fake, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="engine is 'vllm', which starts processes of its own: start one process"):
        sample(replace(config, engine="vllm"))


def test_a_verifier_is_no_policy(config, fake, verifier_paths):
    with pytest.raises(UserError, match="verifier"):
        sample(replace(config, engine="vllm", model=verifier_paths["prm"]))


def test_settings_of_the_other_engines_are_refused(config):
    for settings in ({"tensor_parallel_size": 2}, {"gpu_memory_utilization": 0.5}):
        ((name, _),) = settings.items()
        with pytest.raises(UserError, match=f"engine is 'transformers', so {name} would do nothing"):
            replace(config, **settings)
    with pytest.raises(UserError, match="engine is 'vllm', so url would do nothing"):
        replace(config, engine="vllm", url="http://gpu:8000")


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.skipif(find_spec("vllm") is None, reason="needs vllm: pip install 'rlstep[vllm]'")
@pytest.mark.parametrize("tuned", [False, True], ids=["whole weights", "adapter"])
def test_vllm_itself(rows_of, tokenizer, tmp_path, tuned):
    """Heads of 64: vLLM's attention kernels have no smaller ones."""
    path = str(tmp_path / "lm")
    model = small_model(tokenizer, hidden_size=128, layers=2, heads=2, intermediate_size=256)
    model.save_pretrained(path)
    if tuned:
        lora = LoraConfig(r=4, lora_alpha=16, target_modules="all-linear", init_lora_weights=False)
        get_peft_model(AutoModelForCausalLM.from_pretrained(path), lora).save_pretrained(tmp_path / "tuned")
        tokenizer.save_pretrained(path)
        path = str(tmp_path / "tuned")
    tokenizer.save_pretrained(path)
    given = {"model": path, "gpu_memory_utilization": 0.2}
    greedy = rows_of(engine="vllm", n=1, temperature=0.0, **given)
    here = rows_of(model=path, n=1, temperature=0.0)
    same = sum(a["completion"] == b["completion"] for a, b in zip(greedy, here, strict=True))
    assert same >= len(here) - 1  # a near tie may fall either way in other kernels
    assert rows_of(engine="vllm", **given) == rows_of(engine="vllm", **given)
    assert rows_of(engine="vllm", **given) != rows_of(engine="vllm", seed=1, **given)
