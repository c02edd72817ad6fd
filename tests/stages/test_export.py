import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForCausalLM, LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoModelForTokenClassification, AutoTokenizer

from rlstep import cli
from rlstep.runtime.errors import UserError
from rlstep.runtime.record import RunRecord
from rlstep.stages.export import ExportConfig, export
from rlstep.verifiers.adapters import save_adapter
from rlstep.verifiers.scoring.reward_model import RewardModel
from rlstep.verifiers.spec import ImplicitSpec, VerifierSpec
from rlstep.verifiers.training.start import new_verifier

PROMPT = "Left to right, mod 20: 7 + 3 * 7\n"


def write_policy(base: str, path, words=(), **lora) -> torch.Tensor:
    """Saves a LoRA policy as a trainer does, with added tokens; returns its logits on PROMPT."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    if words:
        tokenizer.add_tokens(list(words))
    policy = get_peft_model(
        model, LoraConfig(r=4, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM", **lora)
    )
    torch.manual_seed(0)
    for name, weight in policy.named_parameters():
        if "lora_B" in name or "modules_to_save" in name:
            torch.nn.init.normal_(weight, std=0.3 if "lora_B" in name else 0.05)
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


@pytest.mark.parametrize(("what", "said"), [(None, "adapter and merged"), ("adapter", "adapter"), ("merged", "merged")])
def test_what_is_written_is_said(tiny_lm, tmp_path, capsys, what, said):
    write_policy(tiny_lm, tmp_path / "policy")
    export(ExportConfig(policy=str(tmp_path / "policy"), out=str(tmp_path / "out"), what=what))
    assert capsys.readouterr().out == f"export: {said} in {tmp_path / 'out'}\n"


def test_the_merged_model_needs_no_base(tiny_lm, tmp_path):
    shutil.copytree(tiny_lm, tmp_path / "base")
    trained = write_policy(str(tmp_path / "base"), tmp_path / "policy")
    export(ExportConfig(policy=str(tmp_path / "policy"), out=str(tmp_path / "out")))
    shutil.rmtree(tmp_path / "base")
    shutil.rmtree(tmp_path / "policy")
    merged = tmp_path / "out" / "merged"
    actual = logits(AutoModelForCausalLM.from_pretrained(merged), AutoTokenizer.from_pretrained(merged))
    torch.testing.assert_close(actual, trained, atol=1e-5, rtol=0)


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
    """Also one that another library, or an older version, wrote with a relative path to its base."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_lm, tmp_path / "base")
    trained = write_policy("base", tmp_path / "policy")
    export(ExportConfig(policy="policy", out="out"))
    assert f"the adapter of policy needs its base, the folder {tmp_path / 'base'}, wherever it is loaded" in caplog.text
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for folder, auto_class in (("adapter", AutoPeftModelForCausalLM), ("merged", AutoModelForCausalLM)):
        path = tmp_path / "out" / folder
        model = auto_class.from_pretrained(path).eval()
        torch.testing.assert_close(logits(model, AutoTokenizer.from_pretrained(path)), trained, atol=1e-5, rtol=0)
    # What was exported is as it was.
    assert json.loads((tmp_path / "policy" / "adapter_config.json").read_text())["base_model_name_or_path"] == "base"


# --- One form in the folder itself.


def greedy(model, tokenizer) -> list[int]:
    rows = tokenizer(PROMPT, return_tensors="pt")
    return model.generate(**rows, max_new_tokens=8, do_sample=False, pad_token_id=0)[0].tolist()


def untied(tiny_lm: str, folder: Path, words: tuple[str, ...]) -> str:
    """A base whose two embeddings are two matrices, with room for added tokens."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny_lm), AutoTokenizer.from_pretrained(tiny_lm)
    tokenizer.add_tokens(list(words))
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone() * 1.5)
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("embeddings", ["tied", "untied"])
@pytest.mark.parametrize("whole", [None, ["lm_head"], ["embed_tokens", "lm_head"]], ids=str)
def test_round_trips_keep_logits_and_greedy_text(tiny_lm, tmp_path, embeddings, whole):
    words = ("<step>", "<stop>") if embeddings == "untied" else ()
    base = untied(tiny_lm, tmp_path / "base", words) if words else tiny_lm
    trained = write_policy(base, tmp_path / "policy", words, **({"modules_to_save": whole} if whole else {}))
    policy = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "policy").eval()
    for what, auto_class in (("adapter", AutoPeftModelForCausalLM), ("merged", AutoModelForCausalLM)):
        export(ExportConfig(str(tmp_path / "policy"), str(tmp_path / what), what=what))
        model = auto_class.from_pretrained(tmp_path / what).eval()
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / what)
        torch.testing.assert_close(logits(model, tokenizer), trained, atol=1e-5, rtol=0)
        assert greedy(model, tokenizer) == greedy(policy, tokenizer)
        assert [len(tokenizer(word, add_special_tokens=False)["input_ids"]) for word in words] == [1] * len(words)
    no_vllm = (
        "vLLM does not take it: it holds whole weights beside LoRA" in (tmp_path / "adapter/README.md").read_text()
    )
    assert no_vllm == bool(whole)


def test_whole_weights_are_exported_when_asked(tiny_lm, tmp_path):
    metrics = export(ExportConfig(tiny_lm, str(tmp_path / "out"), what="merged", dtype="float16"))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    assert (model.dtype, metrics["parameters"]) == (torch.float16, model.num_parameters())


# --- Verifiers.

PROMPTS, COMPLETIONS = [PROMPT, PROMPT], ["7 * 7 = 9\n3 + 9 = 12\n", "3 * 7 = 1\n"]


@pytest.mark.parametrize("form", ["classification", "token", "adapter"])
def test_a_verifier_becomes_a_token_classifier_with_the_same_scores(tiny_lm, tmp_path, form):
    spec = VerifierSpec("prm", "token", label_tokens=(5, 9)) if form == "token" else VerifierSpec("prm")
    torch.manual_seed(0)
    model, tokenizer = new_verifier(tiny_lm, spec), AutoTokenizer.from_pretrained(tiny_lm)
    if form == "adapter":
        lora = LoraConfig(r=4, target_modules="all-linear", task_type="TOKEN_CLS", modules_to_save=["score"])
        lora.base_model_name_or_path = tiny_lm
        model = get_peft_model(model, lora)
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.3)
        save_adapter(model, tokenizer, tmp_path / "prm")
    else:
        model.save_pretrained(tmp_path / "prm")
        tokenizer.save_pretrained(tmp_path / "prm")
    expected = RewardModel.from_pretrained(str(tmp_path / "prm"), device="cpu").score(PROMPTS, COMPLETIONS)
    export(ExportConfig(str(tmp_path / "prm"), str(tmp_path / "out"), what="prm"))
    shutil.rmtree(tmp_path / "prm")

    scores = RewardModel.from_pretrained(str(tmp_path / "out"), device="cpu").score(PROMPTS, COMPLETIONS)
    assert [len(row) for row in scores] == [2, 1]
    for one, other in zip(scores, expected, strict=True):
        assert one == pytest.approx(other, abs=1e-5)
    # Without rlstep: the class right at the last token of a step.
    plain = AutoModelForTokenClassification.from_pretrained(tmp_path / "out").eval()
    ids = AutoTokenizer.from_pretrained(tmp_path / "out")(PROMPT + COMPLETIONS[1], return_tensors="pt")
    with torch.no_grad():
        last = plain(**ids).logits[0, -1].softmax(-1)
    assert plain.config.id2label[1] == "right"
    assert last[1].item() == pytest.approx(expected[1][0], abs=1e-5)
    assert plain.config.architectures == ["Qwen2ForTokenClassification"]
    assert "vllm serve" in (tmp_path / "out" / "README.md").read_text()


def test_what_no_token_classifier_gives_is_refused(tiny_lm, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(tiny_lm)
    model.config.rlstep_verifier = ImplicitSpec().to_config()
    model.save_pretrained(tmp_path / "implicit")
    with pytest.raises(UserError, match="implicit is an implicit PRM: its scores are the difference of two models"):
        export(ExportConfig(str(tmp_path / "implicit"), str(tmp_path / "out"), what="prm"))
    with pytest.raises(UserError, match="is no rlstep verifier"):
        export(ExportConfig(tiny_lm, str(tmp_path / "out"), what="prm"))
    new_verifier(tiny_lm, VerifierSpec("prm")).save_pretrained(tmp_path / "prm")
    AutoTokenizer.from_pretrained(tiny_lm).save_pretrained(tmp_path / "prm")
    with pytest.raises(UserError, match="prm is a verifier, not a policy"):
        export(ExportConfig(str(tmp_path / "prm"), str(tmp_path / "out"), what="merged"))
    with pytest.raises(UserError, match="prm is a verifier, not a policy; what: prm writes it"):
        export(ExportConfig(str(tmp_path / "prm"), str(tmp_path / "out"), what="adapter"))
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".out*"))


# --- What is incomplete, and what is in the way.


def test_incomplete_runs_are_refused_with_the_reason(tiny_lm, tmp_path):
    run = tmp_path / "run"

    def refused(folder: Path, match: str):
        with pytest.raises(UserError, match=match):
            export(ExportConfig(str(folder), str(tmp_path / "out"), what="merged"))

    refused(run, "run: no such folder")
    shutil.copytree(tiny_lm, run / "checkpoint-8")
    refused(run / "checkpoint-8", r"checkpoint-8 is half-written \(no trainer_state.json\)")
    refused(run, r"run holds no weights .*Give the folder that a run wrote")
    (run / "checkpoint-8" / "trainer_state.json").write_text("{}")
    refused(run, "Its training has not ended: continue it with resume, or take .*run/checkpoint-8")
    export(ExportConfig(str(run / "checkpoint-8"), str(tmp_path / "whole"), what="merged"))

    weights = run / "checkpoint-8" / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-100])
    refused(run / "checkpoint-8", "model.safetensors is damaged or cut off")
    weights.write_bytes(content)
    index = {"weight_map": {"model.norm.weight": "model.safetensors", "lm_head.weight": "model-2.safetensors"}}
    (run / "checkpoint-8" / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(run / "checkpoint-8", "model-2.safetensors is missing, and the index of the weights names it")
    index["weight_map"] = {"model.norm.weight": "model.safetensors", "model.other": "model.safetensors"}
    (run / "checkpoint-8" / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(run / "checkpoint-8", "model.safetensors lacks 1 of its weights, model.other first")
    assert not (tmp_path / "out").exists()


def test_only_an_earlier_export_is_replaced_and_only_by_force(tiny_lm, tmp_path):
    def merge(**options):
        export(ExportConfig(tiny_lm, str(tmp_path / "out"), what="merged", **options))

    merge()
    (tmp_path / "out" / "old").touch()
    with pytest.raises(UserError, match="out holds an earlier export; give another out, or force: true"):
        merge()
    merge(force=True)
    assert not (tmp_path / "out" / "old").exists()
    (tmp_path / "out" / "run.json").write_text('{"stage": "ppo"}')
    with pytest.raises(UserError, match="out exists and is not an export, so it is not replaced"):
        merge(force=True)
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_a_kill_while_an_export_is_replaced_leaves_a_whole_one_that_can_be_replaced(tiny_lm, tmp_path, monkeypatch):
    out = tmp_path / "out"

    def merge():
        export(ExportConfig(tiny_lm, str(out), what="merged", force=True))

    merge()
    whole = sorted(path.name for path in out.iterdir())

    def killed(folder: Path, ignore_errors: bool = False) -> None:
        """Ends after it has removed the earlier export's record."""
        if (folder / "run.json").is_file():
            (folder / "run.json").unlink()
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("rlstep.stages.export.shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            merge()
    assert sorted(path.name for path in out.iterdir()) == whole
    merge()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_export_does_not_replace_what_it_is_made_of(tmp_path):
    for policy in (tmp_path / "out", tmp_path / "out" / "adapter"):
        with pytest.raises(UserError, match="out is .*, which holds policy"):
            ExportConfig(str(policy), str(tmp_path / "out"), what="merged", force=True)


# --- The card, the hub, the command line.


def test_the_card_tells_what_the_policy_was_made_of(tiny_lm, tmp_path):
    write_policy(tiny_lm, tmp_path / "policy")
    config = {
        "model_name_or_path": "Qwen/Qwen2.5-Math-1.5B", "problems": "gsm8k.jsonl", "prm": "runs/prm", "orm": None,
        "credit": "delta", "advantage": "gae", "learning_rate": 1e-6,
    }  # fmt: skip
    with RunRecord("ppo", config, tmp_path / "policy", seed=7) as record:
        record.metrics |= {"accuracy": 0.8125, "train_runtime": 12.0}
    export(ExportConfig(str(tmp_path / "policy"), str(tmp_path / "mine"), what="adapter"))
    card = (tmp_path / "mine" / "README.md").read_text()
    for told in (
        "| Data | `problems` | `gsm8k.jsonl` |",
        "| Reward | `prm` | `runs/prm` |",
        "| Credit | `credit` | `delta` |",
        "| Seed | `seed` | `7` |",
        "| `accuracy` | 0.8125 |",
        "rlstep 0.1.0",
        f'AutoPeftModelForCausalLM.from_pretrained("{tmp_path / "mine"}")',
        f"vllm serve {tiny_lm} --enable-lora --max-lora-rank 4 --lora-modules mine={tmp_path / 'mine'}",
    ):
        assert told in card
    assert "train_runtime" not in card
    assert "`orm`" not in card
    assert card.startswith("---\nlibrary_name: peft\n")
    assert "base_model" not in card.split("---")[1]  # the adapter's base is a folder, which the hub has not


def test_a_push_uploads_the_export_without_its_record(tiny_lm, tmp_path, monkeypatch):
    import huggingface_hub

    sent = []
    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", lambda self, name, **_: sent.append(name))
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", lambda self, **options: sent.append(options))
    config = ExportConfig(tiny_lm, str(tmp_path / "out"), what="merged", push_to_hub="me/mine")
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(UserError, match="push_to_hub needs an access token"):
        export(config)
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "secret")
    export(config)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "# mine\n" in card
    assert "vllm serve me/mine --served-model-name mine" in card
    assert sent == [
        "me/mine", {"repo_id": "me/mine", "folder_path": tmp_path / "out", "ignore_patterns": ["run.json"]}
    ]  # fmt: skip


def test_an_export_that_the_policys_adapter_is_on_is_not_replaced(tiny_lm, tmp_path):
    write_policy(tiny_lm, tmp_path / "first")
    export(ExportConfig(str(tmp_path / "first"), str(tmp_path / "out")))
    write_policy(str(tmp_path / "out" / "merged"), tmp_path / "second")
    with pytest.raises(UserError, match="out is .*, which holds the base of .*second, and would be replaced"):
        export(ExportConfig(str(tmp_path / "second"), str(tmp_path / "out"), force=True))
    assert (tmp_path / "out" / "merged" / "model.safetensors").is_file()


def test_what_is_not_there_and_a_policy_where_a_verifier_is_due_are_named(tiny_lm, tmp_path):
    with pytest.raises(UserError, match="nowhere: no such folder"):
        export(ExportConfig(str(tmp_path / "nowhere"), str(tmp_path / "out")))
    write_policy(tiny_lm, tmp_path / "policy")
    with pytest.raises(UserError, match="is a policy's LoRA adapter, no verifier; what: adapter or merged writes it"):
        export(ExportConfig(str(tmp_path / "policy"), str(tmp_path / "out"), what="prm"))


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"push_to_hub": "me/mine"}, "push_to_hub uploads one model"),
        ({"what": "adapter", "dtype": "float16"}, "dtype 'float16' would do nothing"),
    ],
)
def test_options_that_nothing_reads_are_refused(options, fault):
    with pytest.raises(UserError, match=fault):
        ExportConfig("a", "b", **options)


def test_the_run_may_be_given_by_position(tiny_lm, tmp_path, capsys):
    assert cli.main(["export", tiny_lm, "--to", str(tmp_path / "out"), "--what", "merged"]) == 0
    assert (tmp_path / "out" / "model.safetensors").is_file()
