"""Stages that start from a folder with a LoRA adapter: they train it further, or merge it into its base first."""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForCausalLM, LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from trl import ModelConfig

from rlstep.policy.models import load_policy
from rlstep.policy.monitoring.alarms import AlarmOptions
from rlstep.policy.options import PPOOptions
from rlstep.policy.refresh.labels import RefreshOptions
from rlstep.policy.rewards.guards import Guards
from rlstep.runtime.errors import UserError
from rlstep.runtime.rows import write_rows
from rlstep.stages.export import ExportConfig, export
from rlstep.stages.orm import ORMConfig, orm
from rlstep.stages.ppo import ppo
from rlstep.stages.prm import PRMConfig, prm
from rlstep.stages.sample import SampleConfig, sample
from rlstep.stages.sft import SFTArguments, SFTOptions, sft
from rlstep.verifiers.adapters import in_full
from rlstep.verifiers.scoring.reward_model import RewardModel
from rlstep.verifiers.training.arguments import VerifierArguments

LAYERS = ["q_proj", "v_proj"]


@pytest.fixture(scope="module")
def policy(tiny_lm, tmp_path_factory) -> Path:
    """An adapter as `sft` leaves one, with layers of some size."""
    folder = tmp_path_factory.mktemp("policy")
    model = AutoModelForCausalLM.from_pretrained(tiny_lm)
    torch.manual_seed(0)
    lora = LoraConfig(r=4, lora_alpha=8, target_modules=LAYERS, task_type="CAUSAL_LM", init_lora_weights=False)
    get_peft_model(model, lora).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_lm).save_pretrained(folder)
    return folder


@pytest.fixture
def files(task, solutions, tmp_path) -> dict[str, str]:
    rows = {
        "demonstrations": (s.to_row() for s in task.demonstrations(8, seed=0)),
        "solutions": (s.to_row() for s in solutions),
        "problems": (asdict(p) for p in task.problems("train", 4, seed=0)),
    }
    for name, content in rows.items():
        write_rows(tmp_path / f"{name}.jsonl", content)
    return {name: str(tmp_path / f"{name}.jsonl") for name in rows}


# A rate of 0 leaves a run's model what it started from.
STILL = {
    "max_steps": 1, "learning_rate": 0.0, "use_cpu": True, "disable_tqdm": True, "dataloader_pin_memory": False,
    "save_strategy": "no", "weight_decay": 0.0,
}  # fmt: skip


def sft_arguments(out: Path, **changes) -> SFTArguments:
    return SFTArguments(str(out), **STILL | {"gradient_checkpointing": False, "bf16": False} | changes)


def peft_model(path: Path | str, **options) -> ModelConfig:
    return ModelConfig(str(path), dtype="float32", use_peft=True, **options)


def run_ppo(files, args, model, **options) -> dict:
    lenient = Guards(guard_no_answer=False, guard_min_steps=0)
    return ppo(
        PPOOptions(files["problems"], **{"reward": ["checker"]} | options), lenient, AlarmOptions(), RefreshOptions(),
        args, model,
    )  # fmt: skip


def adapter_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def settings_of(folder: Path) -> dict:
    return json.loads((folder / "adapter_config.json").read_text())


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.allclose(one[name], other[name], atol=1e-6) for name in one)


def weights(path: Path | str) -> dict[str, torch.Tensor]:
    return load_policy(str(path), "float32").state_dict()


# --- Policies


def test_sft_trains_an_adapter_further(policy, files, tiny_lm, tmp_path):
    sft(SFTOptions(files["demonstrations"]), sft_arguments(tmp_path / "still"), peft_model(policy))
    assert same(adapter_of(tmp_path / "still"), adapter_of(policy))
    assert settings_of(tmp_path / "still")["base_model_name_or_path"] == tiny_lm
    sft(SFTOptions(files["demonstrations"]), sft_arguments(tmp_path / "on", learning_rate=1e-3), peft_model(policy))
    changed = adapter_of(tmp_path / "on")
    assert all(not torch.equal(changed[name], tensor) for name, tensor in adapter_of(policy).items())
    assert not (tmp_path / "on" / "model.safetensors").exists()


def test_sft_puts_a_fresh_adapter_on_the_merged_base(policy, files, tmp_path):
    options, out = SFTOptions(files["demonstrations"], merge_base=True), tmp_path / "out"
    sft(options, sft_arguments(out), peft_model(policy, lora_r=2, lora_target_modules=["o_proj"]))
    assert settings_of(out)["base_model_name_or_path"] == str(out / "base")
    assert settings_of(out)["target_modules"] == ["o_proj"]
    # A fresh adapter changes nothing yet.
    assert same(weights(out), weights(policy))


def test_sft_trains_all_merged_weights(policy, files, tmp_path):
    options = SFTOptions(files["demonstrations"], merge_base=True)
    sft(options, sft_arguments(tmp_path / "out"), ModelConfig(str(policy), dtype="float32"))
    assert same(weights(tmp_path / "out"), weights(policy))
    assert not (tmp_path / "out" / "base").exists()


@pytest.mark.parametrize("merge_base", [False, True])
def test_completions_end_where_the_adapter_was_taught_to(merge_base, policy, files, tmp_path):
    """The base's own generation configuration is that of before the adapter was trained."""
    given = shutil.copytree(policy, tmp_path / "given")
    GenerationConfig(eos_token_id=[7]).to_json_file(given / "generation_config.json")
    options = SFTOptions(files["demonstrations"], merge_base=merge_base)
    sft(options, sft_arguments(tmp_path / "out"), peft_model(given))
    assert 7 in GenerationConfig.from_pretrained(tmp_path / "out").eos_token_id


@pytest.mark.parametrize("advantage", ["group", "gae"])
def test_ppo_trains_an_adapter_further(advantage, policy, files, tiny_lm, ppo_arguments, tmp_path):
    """The reference is the policy as it was given, which is not the base."""
    out = tmp_path / "out"
    args = ppo_arguments(advantage=advantage, beta=0.1, max_steps=1, num_iterations=1, learning_rate=1e-3)
    run_ppo(files, args, peft_model(policy))
    line = json.loads((out / "metrics.jsonl").read_text().splitlines()[0])
    assert line["kl"] == pytest.approx(0, abs=1e-6)
    after, before = adapter_of(out), adapter_of(policy)
    assert after.keys() == before.keys()
    assert any(not torch.equal(after[name], before[name]) for name in before)
    assert settings_of(out)["base_model_name_or_path"] == tiny_lm
    assert not list(out.glob("*/adapter_config.json"))
    assert (out / "critic.safetensors").is_file() == (advantage == "gae")
    export(ExportConfig(str(out), str(tmp_path / "export")))
    assert same(weights(tmp_path / "export" / "merged"), weights(out))


def test_ppo_on_a_merged_base_has_it_as_its_reference(policy, files, ppo_arguments, tmp_path):
    for name, use_peft in (("lora", True), ("whole", False)):
        args = ppo_arguments(
            beta=0.1, max_steps=1, num_iterations=1, learning_rate=0.0, output_dir=str(tmp_path / name)
        )
        model = replace(peft_model(policy), use_peft=use_peft)
        run_ppo(files, args, model, merge_base=True)
        line = json.loads((tmp_path / name / "metrics.jsonl").read_text().splitlines()[0])
        assert line["kl"] == pytest.approx(0, abs=1e-6)
        assert same(weights(tmp_path / name), weights(policy))
        assert (tmp_path / name / "base").exists() == use_peft


def test_a_killed_ppo_run_of_an_adapter_continues(policy, files, ppo_arguments, tmp_path):
    saves = {"beta": 0.1, "learning_rate": 1e-3, "save_strategy": "steps", "save_steps": 1, "num_iterations": 1}

    def run(name: str, steps: int, **options):
        args = ppo_arguments(output_dir=str(tmp_path / name), max_steps=steps, lr_scheduler_type="constant", **saves)
        run_ppo(files, args, peft_model(policy), **options)
        return adapter_of(tmp_path / name)

    whole = run("whole", 2)
    run("cut", 1)
    resumed = run("cut", 2, resume=True)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_prm_on_the_base_shares_it_with_an_adapter_that_is_trained_further(
    policy, files, tiny_lm, ppo_arguments, tmp_path, caplog
):
    train = VerifierArguments(str(tmp_path / "prm"), **STILL)
    prm(PRMConfig(tiny_lm, files["solutions"], use_peft=True, merge_adapter=False, lora_r=4), train)
    run_ppo(files, ppo_arguments(max_steps=1), peft_model(policy), reward=["prm"], prm=str(tmp_path / "prm"))
    assert "does not share" not in caplog.text


# --- Adapters on a base that was given by a relative path


def test_adapters_and_checkpoints_load_from_any_folder(
    policy, files, tiny_lm, solutions, ppo_arguments, tmp_path, monkeypatch
):
    """Of fresh adapters, and of one that is trained further and whose own file has a relative path."""
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path / "runs")
    shutil.copytree(tiny_lm, "lm")
    given = Path(shutil.copytree(policy, "given"))
    (given / "adapter_config.json").write_text(json.dumps(settings_of(given) | {"base_model_name_or_path": "lm"}))
    kept = {"save_strategy": "steps", "save_steps": 1}
    options = SFTOptions(files["demonstrations"])
    sft(options, sft_arguments("sft", **kept), peft_model("lm", lora_target_modules=LAYERS))
    sft(options, sft_arguments("further"), peft_model("given"))
    args = {"num_iterations": 1, "output_dir": "ppo", **kept}
    run_ppo(files, ppo_arguments(max_steps=1, **args), peft_model("lm", lora_target_modules=LAYERS))
    config = PRMConfig("lm", files["solutions"], use_peft=True, merge_adapter=False, lora_r=4)
    prm(config, VerifierArguments("prm", **STILL | kept))
    # A run goes on from its checkpoint, under the path that it was given at first.
    run_ppo(
        files, ppo_arguments(max_steps=2, **args), peft_model("lm", lora_target_modules=LAYERS), resume=True
    )  # fmt: skip

    runs = Path.cwd()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    folders = ["sft", "sft/checkpoint-1", "further", "ppo", "ppo/checkpoint-1", "ppo/checkpoint-2", "prm"]
    for name in [*folders, "prm/checkpoint-1"]:
        assert settings_of(runs / name)["base_model_name_or_path"] == str(runs / "lm"), name
        if name.startswith("prm"):
            assert RewardModel.from_pretrained(str(runs / name)).kind == "prm"
        else:
            AutoPeftModelForCausalLM.from_pretrained(runs / name)


def test_only_folders_are_named_in_full(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "lm").mkdir(parents=True)
    assert in_full("owner/lm") == str(tmp_path / "owner" / "lm")
    assert [in_full(name) for name in ("owner/other", "", None)] == ["owner/other", "", None]


# --- Verifiers


@pytest.mark.parametrize("head", ["classification", "token"])
def test_a_prm_trains_a_policys_adapter_further(head, policy, files, tiny_lm, solutions, tmp_path):
    """Its backbone is the policy's, its base the policy's base, and the two forms are one verifier."""
    values = {}
    for merge in (False, True):
        out = tmp_path / str(merge)
        config = PRMConfig(str(policy), files["solutions"], head=head, use_peft=True, merge_adapter=merge)
        prm(config, VerifierArguments(str(out), **STILL))
        verifier = RewardModel.from_pretrained(str(out))
        values[merge] = sum(verifier.score([s.prompt for s in solutions], [s.completion for s in solutions]), [])
    assert values[True] == pytest.approx(values[False], abs=1e-5)
    layers = {name: tensor for name, tensor in adapter_of(tmp_path / "False").items() if "lora_" in name}
    assert same(layers, adapter_of(policy))
    assert settings_of(tmp_path / "False")["base_model_name_or_path"] == tiny_lm
    backbone = RewardModel.from_pretrained(str(tmp_path / "True")).model.base_model.state_dict()
    merged = load_policy(str(policy)).base_model.state_dict()
    assert same(backbone, merged)


def test_a_prm_on_a_merged_base(policy, files, tmp_path):
    lora = {"use_peft": True, "merge_adapter": False, "lora_r": 3}
    prm(
        PRMConfig(str(policy), files["solutions"], merge_base=True, **lora),
        VerifierArguments(str(tmp_path / "a"), **STILL),
    )
    assert settings_of(tmp_path / "a")["base_model_name_or_path"] == str(tmp_path / "a" / "base")
    assert same(weights(tmp_path / "a" / "base"), weights(policy))
    assert RewardModel.from_pretrained(str(tmp_path / "a")).kind == "prm"
    # Whole weights need no base, and none is left.
    prm(PRMConfig(str(policy), files["solutions"], merge_base=True), VerifierArguments(str(tmp_path / "b"), **STILL))
    assert not (tmp_path / "b" / "base").exists()
    merged = load_policy(str(policy)).base_model.state_dict()
    assert same(RewardModel.from_pretrained(str(tmp_path / "b")).model.base_model.state_dict(), merged)


def test_a_verifiers_adapter_is_trained_further_with_its_head(policy, files, tmp_path):
    first, second, merged = (tmp_path / name for name in ("first", "second", "merged"))
    lora = {"use_peft": True, "merge_adapter": False}
    moving = STILL | {"learning_rate": 1e-2}
    orm(ORMConfig(str(policy), files["solutions"], **lora), VerifierArguments(str(first), **moving))
    orm(ORMConfig(str(first), files["solutions"], **lora), VerifierArguments(str(second), **STILL))
    assert any("score" in name for name in adapter_of(first))
    assert same(adapter_of(second), adapter_of(first))
    orm(ORMConfig(str(first), files["solutions"], **lora), VerifierArguments(str(second), **moving))
    for name, tensor in adapter_of(first).items():
        assert not torch.equal(adapter_of(second)[name], tensor)
    config = ORMConfig(str(first), files["solutions"], merge_base=True, **lora)
    orm(config, VerifierArguments(str(merged), **STILL))
    text = ["1 + 1\n"], ["1 + 1 = 2\n"]
    values = [RewardModel.from_pretrained(str(folder)).score(*text)[0] for folder in (first, merged)]
    assert values[0] == pytest.approx(values[1], abs=1e-5)


def test_an_implicit_prm_starts_from_the_merged_policy(policy, files, tmp_path):
    config = ORMConfig(str(policy), files["solutions"], loss="implicit", use_peft=True)
    with pytest.raises(UserError, match="an implicit PRM's reference is one whole model.*merge_base: true"):
        orm(config, VerifierArguments(str(tmp_path / "out"), **STILL))
    orm(replace(config, merge_base=True), VerifierArguments(str(tmp_path / "out"), **STILL))
    assert same(weights(tmp_path / "out" / "reference"), weights(policy))


# --- What does not fit is said before anything is read


@pytest.mark.parametrize(
    ("changes", "merge_base", "message"),
    [
        ({"use_peft": False}, False, "is a LoRA adapter. Set use_peft: true to train it further, or merge_base: true"),
        (
            {"lora_r": 8},
            False,
            "trained further as it is: lora_r is 8, and its own is 4. Leave these out, or set merge_",
        ),
        ({"lora_target_modules": ["q_proj"]}, False, r"lora_target_modules is \['q_proj'\], and its own is"),
        ({"lora_target_modules": "all-linear"}, False, "lora_target_modules is all-linear"),
        ({"model_revision": "v2"}, False, "leave out model_revision"),
    ],
)
def test_options_that_an_adapter_has_no_use_for(changes, merge_base, message, policy, tmp_path, ppo_arguments):
    model = replace(peft_model(policy), **changes)
    with pytest.raises(UserError, match=message):
        sft(SFTOptions("no-such-file", merge_base=merge_base), sft_arguments(tmp_path / "out"), model)
    with pytest.raises(UserError, match=message):
        run_ppo({"problems": "no-such-file"}, ppo_arguments(), model, merge_base=merge_base)


def test_the_adapters_own_settings_may_be_given(policy, files, tmp_path):
    model = peft_model(policy, lora_r=4, lora_alpha=8, lora_dropout=0.0, lora_target_modules=LAYERS)
    sft(SFTOptions(files["demonstrations"]), sft_arguments(tmp_path / "out"), model)
    assert same(adapter_of(tmp_path / "out"), adapter_of(policy))


def test_merge_base_needs_an_adapter(tiny_lm, tmp_path, ppo_arguments):
    message = "holds whole weights and no adapter, so merge_base would do nothing"
    with pytest.raises(UserError, match=message):
        sft(SFTOptions("none", merge_base=True), sft_arguments(tmp_path / "out"), peft_model(tiny_lm))
    with pytest.raises(UserError, match=message):
        run_ppo({"problems": "none"}, ppo_arguments(), peft_model(tiny_lm), merge_base=True)
    for stage, config in ((prm, PRMConfig), (orm, ORMConfig)):
        with pytest.raises(UserError, match=message):
            stage(config(tiny_lm, "none", merge_base=True), VerifierArguments(str(tmp_path / "out"), **STILL))


@pytest.mark.parametrize("stage", ["prm", "orm"])
def test_a_verifier_says_what_to_do_with_an_adapter(stage, policy, tmp_path):
    run, config = {"prm": (prm, PRMConfig), "orm": (orm, ORMConfig)}[stage]
    args = VerifierArguments(str(tmp_path / "out"), **STILL)
    with pytest.raises(UserError, match="Set use_peft: true to train it further, or merge_base: true to merge it"):
        run(config(str(policy), "no-such-file"), args)
    with pytest.raises(UserError, match="lora_alpha is 9, and its own is 8"):
        run(config(str(policy), "no-such-file", use_peft=True, lora_alpha=9), args)
    with pytest.raises(UserError, match="no module is named 'c_attn'"):
        run(config(str(policy), "none", use_peft=True, merge_base=True, lora_target_modules=["c_attn"]), args)


def test_a_verifier_is_no_policy(files, tiny_lm, verifier_paths, ppo_arguments, tmp_path):
    """Its language head would be drawn at random."""
    adapter = tmp_path / "prm"
    prm(
        PRMConfig(tiny_lm, files["solutions"], use_peft=True, merge_adapter=False),
        VerifierArguments(str(adapter), **STILL),
    )
    for path in (str(adapter), verifier_paths["prm"]):
        message = "is a verifier, not a policy"
        with pytest.raises(UserError, match=message):
            sample(SampleConfig(path, files["problems"], str(tmp_path / "out.jsonl")))
        with pytest.raises(UserError, match=message):
            sft(SFTOptions(files["demonstrations"]), sft_arguments(tmp_path / "out"), peft_model(path))
        with pytest.raises(UserError, match=message):
            run_ppo(files, ppo_arguments(), peft_model(path))
    with pytest.raises(UserError, match="is a verifier, not a policy"):
        export(ExportConfig(str(adapter), str(tmp_path / "export")))
