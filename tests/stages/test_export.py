import json
import shutil

import pytest
import torch
from peft import AutoPeftModelForCausalLM, LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlstep.runtime.errors import UserError
from rlstep.stages.export import ExportConfig, export

PROMPT = "Left to right, mod 20: 7 + 3 * 7\n"


def write_policy(base: str, path) -> torch.Tensor:
    """Saves a LoRA policy as a trainer does; returns its logits on PROMPT."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    lora = LoraConfig(r=4, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    policy = get_peft_model(model, lora)
    torch.manual_seed(0)
    for name, weight in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    policy.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return logits(policy.eval(), tokenizer)


@torch.no_grad()
def logits(model, tokenizer) -> torch.Tensor:
    return model(**tokenizer(PROMPT, return_tensors="pt")).logits


@pytest.mark.parametrize("relative", [False, True])
def test_both_forms_give_the_trained_policys_logits(tiny_lm, tmp_path, monkeypatch, relative):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_lm, tmp_path / "base")
    trained = write_policy("base" if relative else str(tmp_path / "base"), tmp_path / "policy")
    metrics = export(ExportConfig(policy=str(tmp_path / "policy"), out=str(tmp_path / "out")))
    adapter = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "out" / "adapter")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "merged")
    for model, folder in ((adapter, "adapter"), (merged, "merged")):
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out" / folder)
        torch.testing.assert_close(logits(model.eval(), tokenizer), trained, atol=1e-5, rtol=0)
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    assert (logits(base, tokenizer) - trained).abs().max() > 0.1
    assert metrics == {"parameters": base.num_parameters()}
    assert json.loads((tmp_path / "out" / "run.json").read_text())["stage"] == "export"


def test_the_merged_model_needs_no_base(tiny_lm, tmp_path):
    shutil.copytree(tiny_lm, tmp_path / "base")
    trained = write_policy(str(tmp_path / "base"), tmp_path / "policy")
    export(ExportConfig(policy=str(tmp_path / "policy"), out=str(tmp_path / "out")))
    shutil.rmtree(tmp_path / "base")
    shutil.rmtree(tmp_path / "policy")
    merged = tmp_path / "out" / "merged"
    found = logits(AutoModelForCausalLM.from_pretrained(merged), AutoTokenizer.from_pretrained(merged))
    torch.testing.assert_close(found, trained, atol=1e-5, rtol=0)


def test_the_merged_weights_type_can_be_chosen(tiny_lm, tmp_path):
    write_policy(tiny_lm, tmp_path / "policy")
    export(ExportConfig(policy=str(tmp_path / "policy"), out=str(tmp_path / "out"), dtype="bfloat16"))
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "merged", dtype="auto").dtype == torch.bfloat16


def test_a_folder_without_an_adapter_is_refused(tiny_lm, tmp_path):
    with pytest.raises(UserError, match=r"holds no LoRA adapter \(adapter_config.json is missing\)"):
        export(ExportConfig(policy=tiny_lm, out=str(tmp_path / "out")))
    write_policy(tiny_lm, tmp_path / "policy")
    (tmp_path / "policy" / "adapter_model.safetensors").unlink()
    with pytest.raises(UserError, match=r"adapter_model.safetensors is missing"):
        export(ExportConfig(policy=str(tmp_path / "policy"), out=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


def test_an_adapter_whose_base_is_gone_says_so(tiny_lm, tmp_path):
    shutil.copytree(tiny_lm, tmp_path / "base")
    write_policy(str(tmp_path / "base"), tmp_path / "policy")
    shutil.rmtree(tmp_path / "base")
    with pytest.raises(UserError, match=r"policy: the adapter's base, '.*/base', cannot be loaded from here"):
        export(ExportConfig(policy=str(tmp_path / "policy"), out=str(tmp_path / "out")))


def test_an_export_loads_from_any_folder(tiny_lm, tmp_path, monkeypatch, caplog):
    """An adapter names its base as its training was given it; a relative path counts from the working directory."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_lm, tmp_path / "base")
    trained = write_policy("base", tmp_path / "policy")
    export(ExportConfig(policy="policy", out="out"))
    assert f"out/adapter needs its base, the folder {tmp_path / 'base'}, wherever it is loaded" in caplog.text
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for folder, auto_class in (("adapter", AutoPeftModelForCausalLM), ("merged", AutoModelForCausalLM)):
        path = tmp_path / "out" / folder
        model = auto_class.from_pretrained(path).eval()
        torch.testing.assert_close(logits(model, AutoTokenizer.from_pretrained(path)), trained, atol=1e-5, rtol=0)
    # What was exported is as it was.
    assert json.loads((tmp_path / "policy" / "adapter_config.json").read_text())["base_model_name_or_path"] == "base"
