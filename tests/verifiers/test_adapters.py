"""Verifiers saved as adapters: read on a base of their own, and on one that others share."""

import copy
import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForTokenClassification,
    GPT2Config,
    LlamaConfig,
    Qwen2Config,
    set_seed,
)

from rlstep.runtime.errors import UserError
from rlstep.runtime.rows import write_rows
from rlstep.stages.score import ScoreConfig, score
from rlstep.steps.boundaries import Boundary
from rlstep.steps.labels import LabelPolicy
from rlstep.steps.prompts import PromptFormat
from rlstep.steps.records import read_solutions
from rlstep.verifiers import shared_base
from rlstep.verifiers.adapters import own_parameters, save_adapter, unfreeze
from rlstep.verifiers.forward import logits_at
from rlstep.verifiers.heads import CLASS_HEADS
from rlstep.verifiers.load import load_verifier
from rlstep.verifiers.pretrained import load_config
from rlstep.verifiers.scoring.reward_model import RewardModel
from rlstep.verifiers.share_weights import share_weights
from rlstep.verifiers.shared_base import Base
from rlstep.verifiers.spec import VerifierSpec
from rlstep.verifiers.training.start import new_verifier
from rlstep.verifiers.training.trainer import PRMTrainer

SPECS = {
    "classification": VerifierSpec("prm"),
    "three classes": VerifierSpec("prm", policy=LabelPolicy("class")),
    "token": VerifierSpec("prm", "token", (12, 10)),
    "orm": VerifierSpec("orm"),
}
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}


def family(name: str, vocabulary: int):
    sizes = SIZES | {"vocab_size": vocabulary, "intermediate_size": 48, "max_position_embeddings": 512}
    return {
        "qwen2": Qwen2Config(**sizes, tie_word_embeddings=True),
        "llama": LlamaConfig(**sizes),
        # Its dropouts are 0.1 by default; a policy's may be on where the verifier's are not.
        "gpt2": GPT2Config(vocab_size=vocabulary, n_embd=32, n_layer=2, n_head=2, n_positions=512),
    }[name]


@dataclass(frozen=True)
class Made:
    """A generator, and an untrained verifier on it in both forms.

    Attributes:
        base: the generator's folder.
        adapter: that of the verifier without its base.
        merged: that of the same verifier as a plain checkpoint.
    """

    base: str
    adapter: str
    merged: str


def verifier_on(base: str, spec: VerifierSpec, tokenizer, folder: Path, dtype: str = "float32") -> Made:
    """An adapter of random values, saved by rlstep, and merged by PEFT alone."""
    set_seed(5)
    new_head = spec.head == "classification"
    config = LoraConfig(
        task_type=TaskType.TOKEN_CLS if new_head else TaskType.CAUSAL_LM, r=4, lora_alpha=8, init_lora_weights=False,
        exclude_modules=list(CLASS_HEADS) if new_head else None, target_modules="all-linear",
    )  # fmt: skip
    model = get_peft_model(new_verifier(base, spec, dtype), config)
    save_adapter(model, tokenizer, folder / "adapter")
    model.merge_and_unload().save_pretrained(folder / "merged")
    tokenizer.save_pretrained(folder / "merged")
    return Made(base, str(folder / "adapter"), str(folder / "merged"))


@pytest.fixture(scope="module")
def generators(tokenizer, tmp_path_factory) -> dict[str, str]:
    actual = {}
    for name in ("qwen2", "llama", "gpt2"):
        set_seed(2)
        folder = tmp_path_factory.mktemp(name)
        config = family(name, len(tokenizer))
        # Small random weights would make every score nearly the same.
        config.initializer_range = 0.2
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        actual[name] = str(folder)
    return actual


@pytest.fixture(scope="module")
def made(generators, tokenizer, tmp_path_factory):
    """Makes verifiers by family and head, each once."""
    known: dict[tuple, Made] = {}

    def make(name: str = "qwen2", head: str = "classification") -> Made:
        if (name, head) not in known:
            folder = tmp_path_factory.mktemp("verifier")
            known[name, head] = verifier_on(generators[name], SPECS[head], tokenizer, folder)
        return known[name, head]

    return make


@pytest.fixture
def texts(solutions) -> tuple[list[str], list[str]]:
    return [s.prompt for s in solutions], [s.completion for s in solutions]


def lm(path: str, **options):
    return AutoModelForCausalLM.from_pretrained(path, **options)


def shared(adapter: str, base, base_path: str, base_revision: str | None = None, **options) -> RewardModel:
    verifier = load_verifier(adapter, base=Base(base, base_path, base_revision), **options)
    storages = {parameter.data_ptr() for parameter in base.parameters()}
    assert any(parameter.data_ptr() in storages for parameter in verifier.model.parameters())
    return verifier


def flat(values: list[list[float]]) -> torch.Tensor:
    return torch.tensor([value for row in values for value in row])


def copied(adapter: str, folder: Path, **changes) -> str:
    """The adapter with other settings in adapter_config.json."""
    folder.mkdir()
    for file in Path(adapter).iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | changes))
    return str(folder)


# --- An adapter on a base of its own


@pytest.mark.parametrize(
    ("name", "head"),
    [("qwen2", "classification"), ("qwen2", "three classes"), ("qwen2", "token"), ("qwen2", "orm"),
     ("llama", "classification"), ("llama", "token"), ("gpt2", "classification"), ("gpt2", "token")],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False")  # of GPT-2's kind of layers
def test_scores_are_those_of_the_merged_checkpoint_and_of_the_shared_base(made, texts, name, head):
    actual = made(name, head)
    merged = RewardModel.from_pretrained(actual.merged).score(*texts)
    alone = RewardModel.from_pretrained(actual.adapter)
    assert alone.kind == SPECS[head].kind
    values = alone.score(*texts)
    assert flat(values).std() > 0.01
    torch.testing.assert_close(flat(values), flat(merged), atol=2e-6, rtol=0)
    assert shared(actual.adapter, lm(actual.base), actual.base).score(*texts) == values


def test_folder_has_no_base_in_it(made):
    actual = made()
    files = {path.name for path in Path(actual.adapter).iterdir()}
    assert files == {"adapter_config.json", "adapter_model.safetensors", "config.json", "tokenizer.json",
                     "tokenizer_config.json"}  # fmt: skip
    weights = load_file(Path(actual.adapter) / "adapter_model.safetensors")
    assert {name for name in weights if "lora_" not in name} == {
        "base_model.model.score.weight", "base_model.model.score.bias",
    }  # fmt: skip
    config = load_config(actual.adapter)
    assert config.num_labels == 2
    assert config.architectures == ["Qwen2ForTokenClassification"]
    assert VerifierSpec.from_config(actual.adapter, config) == SPECS["classification"]
    assert json.loads((Path(actual.adapter) / "adapter_config.json").read_text())["base_model_name_or_path"] == (
        actual.base
    )


def test_peft_itself_reads_it(made):
    """An oracle that uses nothing of ours: the base from its path, then PEFT's own loading."""
    actual = made()
    base = AutoModelForTokenClassification.from_pretrained(actual.base, num_labels=2).eval()
    by_peft = PeftModel.from_pretrained(base, actual.adapter).eval()
    ours = RewardModel.from_pretrained(actual.adapter).model
    ids_BT = torch.arange(3, 23)[None]
    torch.testing.assert_close(ours(ids_BT).logits, by_peft(ids_BT).logits)


def test_score_stage_reads_it(made, solutions, tmp_path):
    actual = made()
    write_rows(tmp_path / "data.jsonl", (s.to_row() for s in solutions))
    values = []
    for model in (actual.merged, actual.adapter):
        out = tmp_path / f"{len(values)}.jsonl"
        score(ScoreConfig(model, str(tmp_path / "data.jsonl"), str(out), name="prm"))
        values.append(flat([s.scores["prm"] for s in read_solutions(str(out))]))
    torch.testing.assert_close(*values, atol=2e-6, rtol=0)


def test_options_are_checked_as_of_any_verifier(made):
    actual = made()
    for load in (RewardModel.from_pretrained, lambda *a, **b: shared(a[0], lm(actual.base), actual.base, **b)):
        with pytest.raises(UserError, match="was taught steps by "):
            load(actual.adapter, boundary=Boundary("sentence"))
        with pytest.raises(UserError, match="was taught neutral steps as 'positive'"):
            load(actual.adapter, neutral="negative")
        assert load(actual.adapter, packing=False, batch_tokens=77).batch_tokens == 77
    with pytest.raises(UserError, match="is a prm, not a orm"):
        RewardModel.from_pretrained(actual.adapter, kind="orm")


def test_a_third_class_counts_as_asked_on_a_shared_base(made, texts):
    actual = made(head="three classes")
    first = {}
    for neutral in ("positive", "negative"):
        verifier = shared(actual.adapter, lm(actual.base), actual.base, neutral=neutral)
        first[neutral] = flat(verifier.score(*texts))
        alone = RewardModel.from_pretrained(actual.adapter, neutral=neutral)
        assert torch.equal(first[neutral], flat(alone.score(*texts)))
    assert (first["positive"] > first["negative"]).all()


def test_training_further_starts_from_the_merged_weights(made, arguments, solutions):
    actual = made()
    trainer = PRMTrainer(actual.adapter, arguments(), solutions)
    assert trainer.spec == replace(SPECS["classification"], prompts=PromptFormat("text"))
    plain = AutoModelForTokenClassification.from_pretrained(actual.merged)
    weights = dict(trainer.model.named_parameters())
    assert weights.keys() == dict(plain.named_parameters()).keys()
    for name, weight in plain.named_parameters():
        torch.testing.assert_close(weights[name], weight, atol=1e-6, rtol=0)
        assert weights[name].requires_grad
    assert "base_weights" not in trainer.model.config.rlstep_verifier
    with pytest.raises(UserError, match="not a prm with"):
        new_verifier(actual.adapter, VerifierSpec("prm", policy=LabelPolicy("negative")))


def test_a_base_in_bfloat16_keeps_adapter_and_head_in_float32(generators, tokenizer, texts, tmp_path):
    actual = verifier_on(generators["qwen2"], SPECS["classification"], tokenizer, tmp_path, "bfloat16")
    assert load_config(actual.adapter).dtype == torch.bfloat16
    saved = load_file(Path(actual.adapter) / "adapter_model.safetensors")
    half = RewardModel.from_pretrained(actual.adapter)
    types = {name: p.dtype for name, p in half.model.named_parameters()}
    assert types["model.embed_tokens.weight"] == torch.bfloat16
    own = own_parameters(half.model)
    assert {types[name] for name in own} == {torch.float32}
    for name, tensor in saved.items():
        plain = name.removeprefix("base_model.model.")
        inside = plain.replace("score.", "score.modules_to_save.default.").replace("_A.w", "_A.default.w")
        assert torch.equal(own[inside.replace("_B.w", "_B.default.w")], tensor), name
    # The file of the base is in float32, so its weights are not to the last digit those of training.
    whole = RewardModel.from_pretrained(actual.adapter, dtype="float32")
    torch.testing.assert_close(flat(whole.score(*texts)), flat(half.score(*texts)), atol=0.05, rtol=0)
    assert shared(actual.adapter, lm(actual.base, dtype=torch.bfloat16), actual.base).score(*texts) == half.score(
        *texts
    )


def test_loading_leaves_the_random_state_alone(made):
    actual = made()
    base = lm(actual.base)
    state = torch.get_rng_state()
    RewardModel.from_pretrained(actual.adapter)
    shared(actual.adapter, base, actual.base)
    assert torch.equal(torch.get_rng_state(), state)


# --- What cannot be read

BIAS = "base_model.model.model.layers.0.self_attn.q_proj.bias"


def test_a_missing_base_is_told_with_what_to_do(made, tmp_path):
    moved = copied(made().adapter, tmp_path / "moved", base_model_name_or_path=str(tmp_path / "gone"))
    with pytest.raises(
        UserError, match=r"base of this adapter cannot be loaded.*gone.*correct base_model_name_or_path"
    ):
        RewardModel.from_pretrained(moved)
    with pytest.raises(UserError, match="names no base_model_name_or_path"):
        RewardModel.from_pretrained(copied(made().adapter, tmp_path / "none", base_model_name_or_path=None))


def test_a_base_that_was_trained_again_is_refused(made, tokenizer, tmp_path):
    actual = made()
    model = lm(actual.base)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1e-4 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    again = copied(actual.adapter, tmp_path / "adapter", base_model_name_or_path=str(tmp_path / "base"))
    with pytest.raises(UserError, match="has other weights than when the verifier was trained on it"):
        RewardModel.from_pretrained(again)
    assert "has other weights" in reason_of(again, model, str(tmp_path / "base"))
    # the original base, moved there, is as good as before
    lm(actual.base).save_pretrained(tmp_path / "base")
    assert RewardModel.from_pretrained(again).kind == "prm"


def test_damaged_and_foreign_adapters_are_refused(made, tmp_path):
    actual = made()

    def altered(name: str, change) -> str:
        path = copied(actual.adapter, tmp_path / name)
        file = Path(path) / "adapter_model.safetensors"
        weights = load_file(file)
        change(weights)
        save_file(weights, file)
        return path

    a = BIAS.replace("bias", "lora_A.weight")
    cases = {
        "incomplete or of another model: model.layers.0.self_attn.q_proj.lora_A": altered("cut", lambda w: w.pop(a)),
        "does not fit its base": altered("shape", lambda w: w.update({a: torch.zeros(4, 5)})),
        "would change the base for all": altered("bias", lambda w: w.update({BIAS: torch.zeros(32)})),
        "is an adapter of the kind": copied(actual.adapter, tmp_path / "ia3", peft_type="IA3"),
    }
    pickle = copied(actual.adapter, tmp_path / "pickle")
    (Path(pickle) / "adapter_model.safetensors").rename(Path(pickle) / "adapter_model.bin")
    cases["has no adapter_model.safetensors"] = pickle
    for message, path in cases.items():
        with pytest.raises(UserError, match=message):
            RewardModel.from_pretrained(path)


def test_the_adapter_of_a_policy_is_no_verifier(made, tmp_path):
    get_peft_model(lm(made().base), LoraConfig(task_type="CAUSAL_LM")).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="a policy's LoRA adapter, no verifier. To train a verifier.*use_peft: true"):
        RewardModel.from_pretrained(str(tmp_path))


# --- On a shared base


@pytest.mark.parametrize("head", ["classification", "token"])
@pytest.mark.parametrize("name", ["qwen2", "llama"])
def test_all_of_the_base_is_shared_and_nothing_else_is(made, name, head):
    actual = made(name, head)
    base = lm(actual.base)
    storages = {p.data_ptr() for p in base.parameters()}
    model = shared(actual.adapter, base, actual.base).model
    own = own_parameters(model)
    for parameter_name, parameter in model.base_model.named_parameters():
        is_own = f"{model.base_model_prefix}.{parameter_name}" in own
        assert (parameter.data_ptr() in storages) != is_own, parameter_name
    adapter = sum(p.numel() for p in load_file(Path(actual.adapter) / "adapter_model.safetensors").values())
    total = sum({p.data_ptr(): p.numel() for p in (*base.parameters(), *model.parameters())}.values())
    # a class head has its first values beside it; a token head is a copy of its rows
    head_size = 2 * 32 + (head == "classification" and name in ("qwen2", "llama")) * 2
    assert total == base.num_parameters() + adapter + head_size
    assert not any(p.requires_grad for p in model.parameters())
    assert not model.training


def test_an_adapter_put_on_the_base_later_does_not_reach_the_verifier_nor_the_other_way(made, texts):
    actual = made()
    base = lm(actual.base).eval()
    ids_BT = torch.arange(3, 23)[None]
    before = base(ids_BT).logits
    verifier = shared(actual.adapter, base, actual.base)
    values = verifier.score(*texts)
    assert torch.equal(base(ids_BT).logits, before)
    policy = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False)).eval()
    assert not torch.allclose(policy(ids_BT).logits, before)
    with policy.disable_adapter():
        assert torch.equal(policy(ids_BT).logits, before)
    assert verifier.score(*texts) == values


def test_training_reaches_adapter_and_head_alone(made, texts, tokenizer, tmp_path):
    actual = made()
    base = lm(actual.base)
    frozen = {name: p.detach().clone() for name, p in base.named_parameters()}
    verifier = shared(actual.adapter, base, actual.base)
    policy = get_peft_model(
        base, LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False, target_modules="all-linear")
    )
    before = verifier.score(*texts)
    own = unfreeze(verifier.model)
    assert {name for name in own if "lora_" not in name} == {
        "score.modules_to_save.default.weight", "score.modules_to_save.default.bias",
    }  # fmt: skip
    optimizer = torch.optim.SGD(own.values(), lr=0.1)
    ids_BT, mask_BT = torch.arange(3, 23)[None], torch.ones(1, 20, dtype=torch.long)
    asked = {"input_ids": ids_BT, "attention_mask": mask_BT, "rows": torch.tensor([0]), "positions": torch.tensor([19])}
    logits_at(verifier.model, asked)[0, 1].backward()
    assert all(p.grad is not None and p.grad.any() for p in own.values())
    assert all(p.grad is None for p in policy.parameters())
    optimizer.step()
    assert verifier.score(*texts) != before
    for name, parameter in shared_parameters(policy).items():
        assert torch.equal(parameter, frozen[name]), name
    # What was trained on goes to a folder as it came from one.
    save_adapter(verifier.model, tokenizer, tmp_path / "again")
    assert RewardModel.from_pretrained(str(tmp_path / "again")).score(*texts) == verifier.score(*texts)


def shared_parameters(policy) -> dict[str, torch.Tensor]:
    """The base's own parameters of a model with an adapter, by their plain names."""
    model = policy.get_base_model()
    return {n.replace(".base_layer", ""): p for n, p in model.named_parameters() if "lora_" not in n}


def test_the_base_in_another_type_is_followed(made, texts):
    actual = made()
    base = lm(actual.base)
    verifier = shared(actual.adapter, base, actual.base)
    base.to(torch.bfloat16)
    values = flat(verifier.score(*texts))
    expected = RewardModel.from_pretrained(actual.adapter, dtype="bfloat16")
    assert torch.equal(values, flat(expected.score(*texts)))
    tokens = made(head="token")
    verifier = shared(tokens.adapter, base := lm(tokens.base), tokens.base)
    whole = flat(verifier.score(*texts))
    base.to(torch.bfloat16)
    torch.testing.assert_close(flat(verifier.score(*texts)), whole, atol=0.1, rtol=0)


def test_what_is_the_verifiers_own_follows_the_base_to_its_device(made, monkeypatch):
    """With the meta device in the place of an accelerator."""
    actual = made()
    model = shared(actual.adapter, lm(actual.base), actual.base).model
    monkeypatch.setattr(type(model), "device", torch.device("meta"))  # that of the shared weights
    with torch.inference_mode():
        model.base_model(torch.arange(3, 9, device="meta")[None])
    assert {t.device.type for t in (*model.parameters(), *model.buffers())} == {"meta"}
    assert len(list(model.buffers())) > 0
    # Scoring runs in inference mode; a tensor made there could not be trained later.
    assert not any(p.is_inference() for p in model.parameters())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_base_on_a_gpu_is_followed(made, texts):
    actual = made()
    base = lm(actual.base)
    verifier = shared(actual.adapter, base, actual.base)
    here = flat(verifier.score(*texts))
    base.to("cuda")
    torch.testing.assert_close(flat(verifier.score(*texts)), here, atol=1e-3, rtol=0)
    assert {p.device.type for p in (*verifier.model.parameters(), *verifier.model.buffers())} == {"cuda"}
    unfreeze(verifier.model)
    ids_BT = torch.arange(3, 23, device="cuda")[None]
    verifier.model(ids_BT).logits.sum().backward()


def test_buffers_are_the_copys_own(made):
    """Some rotary classes write theirs in every forward."""
    base = lm(made().base)
    copy_of = share_weights(base.base_model)
    copy_of.rotary_emb.inv_freq.zero_()
    assert base.base_model.rotary_emb.inv_freq.all()


def test_the_policys_dropout_and_attention_are_not_the_verifiers(made, texts):
    actual = made("gpt2")
    base = lm(actual.base, attn_implementation="eager")
    assert base.config.resid_pdrop == 0.1
    verifier = shared(actual.adapter, base, actual.base)
    assert verifier.model.transformer.config._attn_implementation == "sdpa"
    assert verifier.score(*texts) == RewardModel.from_pretrained(actual.adapter).score(*texts)
    assert base.config._attn_implementation == "eager"
    ids_BT = torch.arange(3, 23)[None]
    verifier.model.train()
    assert torch.equal(verifier.model(ids_BT).logits, verifier.model(ids_BT).logits)
    base.train()
    assert not torch.equal(base(ids_BT).logits, base(ids_BT).logits)


def test_attention_dropout_is_off_as_well(made, tmp_path):
    actual = made()
    base = lm(actual.base, attention_dropout=0.5)
    model = shared(actual.adapter, base, actual.base).model.train()
    ids_BT = torch.arange(3, 23)[None]
    assert torch.equal(model(ids_BT).logits, model(ids_BT).logits)
    base.train()
    assert not torch.equal(base(ids_BT).logits, base(ids_BT).logits)


# --- Which base is the same


def reason_of(adapter: str, base, base_path: str, revision: str | None = None) -> str:
    model, reason = shared_base.model_on_base(adapter, shared_base.Base(base, base_path, revision))
    assert model is None
    return reason


def test_why_a_base_is_not_shared(made, tokenizer, tmp_path, zero_3):
    actual, other = made(), made("llama")
    base = lm(actual.base)
    assert "is a whole model" in reason_of(actual.merged, base, actual.base)
    assert f"is an adapter on {actual.base}, and the policy's base is {other.base}" in reason_of(
        actual.adapter, lm(other.base), other.base
    )
    # the same weights at another path are another model, which could change by itself
    base.save_pretrained(tmp_path / "copy")
    assert "is an adapter on" in reason_of(actual.adapter, base, str(tmp_path / "copy"))
    assert "is an adapter on" in reason_of(actual.adapter, base, "nobody/nothing")

    larger = copy.deepcopy(base)
    larger.resize_token_embeddings(len(tokenizer) + 8)
    assert "has embed_tokens.weight of the shape" in reason_of(actual.adapter, larger, actual.base)
    eighths = copy.deepcopy(base)
    layer = eighths.model.layers[0].mlp.up_proj
    layer.weight = torch.nn.Parameter(layer.weight.to(torch.int8), requires_grad=False)
    assert "is quantised (torch.int8)" in reason_of(actual.adapter, eighths, actual.base)
    trained = copy.deepcopy(base)
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.mul_(1.0001)
    assert "has other weights" in reason_of(actual.adapter, trained, actual.base)
    with_adapter = get_peft_model(copy.deepcopy(base), LoraConfig(task_type="CAUSAL_LM")).get_base_model()
    assert "carries an adapter already" in reason_of(actual.adapter, with_adapter, actual.base)
    sharded = copy.deepcopy(base)
    sharded.model.embed_tokens.weight.ds_id = 0  # as DeepSpeed marks the weights that it shards
    assert "ZeRO-3" in reason_of(actual.adapter, sharded, actual.base)
    zero_3()
    assert "ZeRO-3" in reason_of(actual.adapter, base, actual.base)


def test_links_to_one_folder_are_one_base(made, tmp_path, monkeypatch):
    actual = made()
    (tmp_path / "link").symlink_to(actual.base)
    assert shared(actual.adapter, lm(actual.base), str(tmp_path / "link")).kind == "prm"
    monkeypatch.chdir(Path(actual.base).parent)
    assert shared(actual.adapter, lm(actual.base), Path(actual.base).name).kind == "prm"


def test_hub_ids_are_one_base_at_the_same_commit(generators, tokenizer, texts, tmp_path, monkeypatch):
    """In a cache made by hand, as huggingface_hub lays it out."""
    home = tmp_path / "hub" / "models--owner--lm"
    commits = {"a" * 40: generators["qwen2"], "b" * 40: generators["llama"]}
    for commit, source in commits.items():
        (home / "snapshots" / commit).mkdir(parents=True)
        for file in Path(source).iterdir():
            (home / "snapshots" / commit / file.name).write_bytes(file.read_bytes())
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("a" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))

    actual = verifier_on("owner/lm", SPECS["classification"], tokenizer, tmp_path)
    lora = json.loads((Path(actual.adapter) / "adapter_config.json").read_text())
    assert (lora["base_model_name_or_path"], lora["revision"]) == ("owner/lm", "a" * 40)
    values = RewardModel.from_pretrained(actual.adapter).score(*texts)
    base = lm("owner/lm")
    for path, revision in (("owner/lm", None), ("owner/lm", "main"), (str(home / "snapshots" / ("a" * 40)), None)):
        assert shared(actual.adapter, base, path, base_revision=revision).score(*texts) == values
    assert f"on owner/lm at {'a' * 40}" in reason_of(actual.adapter, base, "owner/lm", "b" * 40)
    # The branch moves on: the adapter stays on its commit.
    (home / "refs" / "main").write_text("b" * 40)
    assert RewardModel.from_pretrained(actual.adapter).score(*texts) == values
    assert "is an adapter on owner/lm" in reason_of(actual.adapter, lm("owner/lm"), "owner/lm")


def test_a_verifier_that_cannot_share_gets_weights_of_its_own_and_the_log_says_why(made, texts, caplog):
    actual, other = made(), made("llama")
    verifier = load_verifier(actual.adapter, base=Base(lm(other.base), other.base))
    assert f"{actual.adapter} does not share the policy's base: {actual.adapter} is an adapter on" in caplog.text
    assert verifier.score(*texts) == RewardModel.from_pretrained(actual.adapter).score(*texts)
    caplog.clear()
    assert load_verifier(actual.merged, base=Base(lm(actual.base), actual.base)).kind == "prm"
    assert "does not share" not in caplog.text  # a whole model has nothing to share
