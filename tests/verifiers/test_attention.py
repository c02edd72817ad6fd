"""What attention of every kind is told of rows in bins: values and gradients are those of each row alone under sdpa.

Kernels that this machine cannot run are stood in for by functions, written here, that read the same inputs by hand.
"""

import copy
from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch
from torch.nn.attention.flex_attention import BlockMask
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoModelForCausalLM,
    AutoModelForTokenClassification,
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Qwen2Config,
    Qwen2ForTokenClassification,
    Qwen3Config,
)
from transformers.masking_utils import flash_attention_mask, flex_attention_mask

from rlstep.runtime.errors import UserError
from rlstep.runtime.rows import write_rows
from rlstep.stages.orm import ORMConfig, orm
from rlstep.stages.prm import PRMConfig, prm
from rlstep.stages.score import ScoreConfig, score
from rlstep.stages.serve import ServeConfig, serve
from rlstep.verifiers.attention import attention_inputs, choose_attention, kernel_length, reads, shares_places
from rlstep.verifiers.features import Feature, TokenFeature
from rlstep.verifiers.forward import Prefix, batch_of, logits_at, logps_at
from rlstep.verifiers.packing import can_pack, concatenate, pack, window_of
from rlstep.verifiers.scoring.prefixes import can_cache, without_prefix
from rlstep.verifiers.scoring.reward_model import RewardModel
from rlstep.verifiers.serving.server import ScoreServer
from rlstep.verifiers.training.trainer import PRMTrainer

SIZES = {
    "vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "pad_token_id": 0,
}  # fmt: skip
FAMILIES = {
    "qwen2": Qwen2Config(**SIZES),
    "qwen3": Qwen3Config(**SIZES, head_dim=8),
    "llama": LlamaConfig(**SIZES),
    "mistral": MistralConfig(**SIZES, sliding_window=None),
    "mixtral": MixtralConfig(**SIZES, sliding_window=None, num_local_experts=4),
}
GPT2 = GPT2Config(
    vocab_size=60, n_embd=32, n_layer=2, n_head=4, n_positions=256, pad_token_id=0, bos_token_id=1, eos_token_id=2
)
WINDOW = 6


def rows_by_hand(
    module, query, key, value, attention_mask, scaling=None, sliding_window=None,
    cu_seq_lens_q=None, cu_seq_lens_k=None, max_length_q=None, max_length_k=None, **_,
):  # fmt: skip
    """What flash attention gives, row by row, each causal, within a window where there is one; padding gets zeros."""
    if cu_seq_lens_q is not None:
        assert attention_mask is None, "lengths and a mask"
        assert query.shape[0] == 1
        assert cu_seq_lens_q.dtype == torch.int32  # the kernels take nothing else
        bounds = cu_seq_lens_q.tolist()
        rows = [(0, start, stop) for start, stop in zip(bounds, bounds[1:], strict=False)]
        assert cu_seq_lens_k.tolist() == bounds
        assert max_length_q == max_length_k == max(stop - start for _, start, stop in rows)
    elif attention_mask is not None:
        rows = [(row, 0, int(length)) for row, length in enumerate(attention_mask.sum(-1))]
    else:
        rows = [(row, 0, query.shape[2]) for row in range(query.shape[0])]
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    output = torch.zeros_like(query)
    for row, start, stop in rows:
        q, k, v = (states[row, :, start:stop] for states in (query, key, value))
        depth = torch.arange(stop - start)
        back = depth[:, None] - depth
        seen = (back >= 0) & (back < (sliding_window or len(depth)))
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        scores = (q @ k.transpose(-1, -2) * scale).masked_fill(~seen, -torch.inf)
        output[row, :, start:stop] = scores.softmax(-1) @ v
    return output.transpose(1, 2).contiguous(), None


def blocks_by_hand(module, query, key, value, attention_mask, scaling=None, **_):
    """What FlexAttention gives: the scores that the block mask's function admits, asked place by place."""
    assert isinstance(attention_mask, BlockMask)
    bins, _, queries, keys = attention_mask.shape
    seen = torch.zeros(bins, 1, queries, keys, dtype=torch.bool)
    for one in range(bins):
        for q in range(queries):
            for k in range(keys):
                seen[one, 0, q, k] = attention_mask.mask_mod(*(torch.tensor(index) for index in (one, 0, q, k)))
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    scores = (query @ key.transpose(-1, -2) * scaling).masked_fill(~seen, -torch.inf)
    return (scores.softmax(-1) @ value).transpose(1, 2).contiguous(), None


@pytest.fixture(scope="module", autouse=True)
def _stand_ins():
    for function, mask in ((rows_by_hand, flash_attention_mask), (blocks_by_hand, flex_attention_mask)):
        AttentionInterface.register(function.__name__, function)
        AttentionMaskInterface.register(function.__name__, mask)
    AttentionInterface.register("nobody_knows", rows_by_hand)


@pytest.fixture
def uncompiled():
    """FlexAttention without its kernel, for which a CPU is compiled for half a minute per shape."""
    with torch.compiler.set_stance("force_eager"):
        yield


def model_of(config, attention: str, auto_class=AutoModelForTokenClassification):
    torch.manual_seed(0)
    return auto_class.from_config(copy.deepcopy(config), attn_implementation=attention).eval()


def features() -> list[Feature]:
    """Six rows on a prompt of 12 tokens, one on its own, and one of three tokens; asked at two places each."""
    generator = torch.Generator().manual_seed(0)

    def words(n: int) -> torch.Tensor:
        return torch.randint(1, 60, (n,), generator=generator)

    prompt = words(12)
    rows = [torch.cat([prompt, words(n)]) for n in (5, 14, 12, 12, 7, 3)] + [words(25), words(3)]
    return [Feature(row, torch.tensor([len(row) - 3, len(row) - 1])) for row in rows]


def alone(config, rows: list[Feature]) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Logits, and the gradients of a sum of theirs, by sdpa and one pass per row."""
    model = model_of(config, "sdpa")
    logits = torch.cat([model(row.ids[None]).logits[0, row.positions] for row in rows])
    weigh(logits).backward()
    return logits.detach(), [parameter.grad for parameter in model.parameters()]


def weigh(logits: torch.Tensor) -> torch.Tensor:
    return (logits * torch.linspace(-1, 1, logits.numel()).view_as(logits)).sum()


def assert_all_close(left, right, **tolerance):
    for one, other in zip(left, right, strict=True):
        torch.testing.assert_close(one, other, **tolerance)


# --- FlexAttention


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("family", FAMILIES)
def test_flex_attention_gives_what_sdpa_gives(family):
    model, rows = model_of(FAMILIES[family], "flex_attention"), features()
    assert can_pack(model) is None
    batch = batch_of(model, rows, 0, packing=True)
    assert batch["input_ids"].numel() < sum(len(row.ids) for row in rows), "nothing is shared"
    with torch.no_grad():
        actual = logits_at(model, batch)
    torch.testing.assert_close(actual, alone(FAMILIES[family], rows)[0], atol=1e-5, rtol=0)


@pytest.mark.usefixtures("uncompiled")
def test_flex_attention_reads_a_cached_prefix():
    model, rows = model_of(FAMILIES["qwen2"], "flex_attention"), features()[:6]
    with torch.inference_mode():
        assert can_cache(model)
        prefix = Prefix.of(model, rows[0].ids[:12].tolist())
        batch = batch_of(model, [without_prefix(row, 12) for row in rows], 0, packing=True)
        actual = logits_at(model, batch, prefix)
    torch.testing.assert_close(actual, alone(FAMILIES["qwen2"], rows)[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", ["qwen2", "llama"])
def test_gradients_under_the_block_mask_are_those_of_single_rows(family):
    """FlexAttention has no backward pass on a CPU."""
    model, rows = model_of(FAMILIES[family], "blocks_by_hand"), features()
    actual = logits_at(model, batch_of(model, rows, 0, packing=True))
    weigh(actual).backward()
    logits, gradients = alone(FAMILIES[family], rows)
    torch.testing.assert_close(actual, logits, atol=1e-5, rtol=0)
    assert_all_close([p.grad for p in model.parameters()], gradients, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("attention", ["blocks_by_hand", "rows_by_hand"])
def test_activation_checkpointing_changes_no_gradient(attention):
    config = LlamaConfig(**SIZES, classifier_dropout=0.0)
    model, rows = model_of(config, attention).train(), features()
    model.activation_checkpointing_enable()
    weigh(logits_at(model, batch_of(model, rows, 0, packing=True))).backward()
    gradients = alone(config, rows)[1]
    assert_all_close([p.grad for p in model.parameters()], gradients, atol=1e-5, rtol=1e-4)


# --- Flash attention


@pytest.mark.parametrize("family", [*FAMILIES, "gpt2"])
def test_rows_told_by_their_lengths_have_the_values_and_gradients_of_single_rows(family):
    config = {**FAMILIES, "gpt2": GPT2}[family]
    model, rows = model_of(config, "rows_by_hand"), features()
    assert can_pack(model) is None
    batch = batch_of(model, rows, 0, packing=True)
    assert batch["input_ids"].shape == (1, sum(len(row.ids) for row in rows)), "neither padding nor sharing"
    actual = logits_at(model, batch)
    weigh(actual).backward()
    logits, gradients = alone(config, rows)
    torch.testing.assert_close(actual, logits, atol=1e-5, rtol=0)
    assert_all_close([p.grad for p in model.parameters()], gradients, atol=1e-5, rtol=1e-4)


def test_log_probabilities_are_those_of_single_rows():
    rows = [TokenFeature(row.ids, row.positions - 1, next_ids=row.ids[row.positions]) for row in features()]
    model, plain = (model_of(FAMILIES["llama"], kind, AutoModelForCausalLM) for kind in ("rows_by_hand", "sdpa"))
    with torch.no_grad():
        actual = logps_at(model, batch_of(model, rows, 0, packing=True))
        expected = [plain(row.ids[None]).logits[0].log_softmax(-1)[row.positions, row.next_ids] for row in rows]
    torch.testing.assert_close(actual, torch.cat(expected), atol=1e-5, rtol=0)


def test_attention_windows_stay_in_force_within_rows():
    config = MistralConfig(**SIZES, sliding_window=WINDOW)
    model, rows = model_of(config, "rows_by_hand"), features()
    assert window_of(model.config) is None
    assert window_of(model_of(config, "sdpa").config) == WINDOW
    with torch.no_grad():
        actual = logits_at(model, batch_of(model, rows, 0, packing=True))
    expected, _ = alone(config, rows)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)
    wide, _ = alone(FAMILIES["mistral"], rows)
    assert (expected - wide).abs().max() > 1e-3, "no row is longer than the window"


def test_lengths_cannot_tell_shared_places_other_bins_or_a_cached_prefix():
    model = model_of(FAMILIES["qwen2"], "rows_by_hand")
    ids = [row.ids.tolist() for row in features()]
    told = attention_inputs(model, concatenate([[5, 6, 7], [5], [5, 6]]).ends)
    assert told["cu_seq_lens_q"].tolist() == [0, 3, 4, 6]
    assert told["max_length_q"] == 3
    with pytest.raises(ValueError, match="one bin"):
        attention_inputs(model, pack(ids, 0).ends)
    with pytest.raises(ValueError, match="shared places"):
        attention_inputs(model, pack(ids[:6], 0, work_per_token=1e9).ends)
    with pytest.raises(ValueError, match="no cached prefix"):
        attention_inputs(model, concatenate(ids).ends, before=12)
    assert not can_cache(model)


def test_scores_are_those_of_padded_rows_and_no_token_is_computed_for_nothing(tokenizer, solutions):
    config = Qwen2Config(**SIZES | {"vocab_size": len(tokenizer)})
    texts = [solutions[0].prompt] * len(solutions), [one.completion for one in solutions]
    flash = RewardModel(model_of(config, "rows_by_hand"), tokenizer, "prm", batch_tokens=120)
    padded = RewardModel(model_of(config, "sdpa"), tokenizer, "prm", packing=False)
    sizes, real = [], []
    hooks = [
        (flash, lambda _, args, inputs: sizes.append(inputs["input_ids"].numel())),
        (padded, lambda _, args, inputs: real.append(int(inputs["attention_mask"].sum()))),
    ]
    for scorer, hook in hooks:
        scorer.model.register_forward_pre_hook(hook, with_kwargs=True)
    for one, other in zip(flash.score(*texts), padded.score(*texts), strict=True):
        assert one == pytest.approx(other, abs=1e-5)
    assert flash.tokens_scored == sum(sizes) == sum(real) < padded.tokens_scored
    assert max(sizes) <= 120
    assert len(sizes) < len(solutions), "one row per pass"


def test_a_prm_trains_as_it_does_on_padded_rows(tiny_lm, solutions, arguments):
    """And on the same batches: a tree of rows would be one unit for its shared prefix alone."""
    rows, actual = [replace(solution, tree="t") for solution in solutions], []
    for attention in ("rows_by_hand", "sdpa"):
        args = arguments(
            packing=attention != "sdpa", max_steps=2, per_device_train_batch_size=6, save_strategy="no",
            train_sampling_strategy="sequential", seed=3,
        )  # fmt: skip
        trainer = PRMTrainer(tiny_lm, args, rows)
        assert trainer.packing == (attention != "sdpa")
        choose_attention(trainer.model, attention)
        trainer = PRMTrainer(trainer.model, args, rows, processing_class=trainer.processing_class)
        trainer.train()
        actual.append([parameter.detach().clone() for parameter in trainer.model.parameters()])
    assert_all_close(*actual, atol=1e-5, rtol=1e-4)


def calls(monkeypatch) -> list[bool]:
    """Of each call of `rows_by_hand`: whether it was told lengths."""
    made = []

    def counted(*args, **options):
        made.append(options.get("cu_seq_lens_q") is not None)
        return rows_by_hand(*args, **options)

    monkeypatch.setitem(AttentionInterface._global_mapping, "rows_by_hand", counted)
    return made


@pytest.mark.parametrize("adapter", [{}, {"use_peft": True, "lora_r": 2}])
@pytest.mark.parametrize("loss", [None, "token", "implicit"])
def test_the_setting_decides_how_a_verifier_is_trained_and_scores(
    adapter, loss, tiny_lm, solutions, arguments, tmp_path, monkeypatch
):
    made = calls(monkeypatch)
    data, out = tmp_path / "labelled.jsonl", tmp_path / "out"
    write_rows(data, (solution.to_row() for solution in solutions))
    chosen = {"attn_implementation": "rows_by_hand", **adapter}
    args = arguments(max_steps=2, save_strategy="no")
    if loss is None:
        metrics = prm(PRMConfig(tiny_lm, str(data), **chosen), args)
    else:
        metrics = orm(ORMConfig(tiny_lm, str(data), loss=loss, **chosen), args)
    assert metrics["packing"]
    assert any(made)
    assert "rows_by_hand" not in (out / "config.json").read_text(), "the next user chooses for himself"
    made.clear()
    texts = [one.prompt for one in solutions], [one.completion for one in solutions]
    plain = RewardModel.from_pretrained(str(out), device="cpu").score(*texts)
    assert not made
    actual = RewardModel.from_pretrained(str(out), device="cpu", attn_implementation="rows_by_hand").score(*texts)
    assert any(made)
    for one, other in zip(actual, plain, strict=True):
        assert one == pytest.approx(other, abs=1e-5)


def test_score_and_serve_pass_it_on(verifier_paths, solutions, tmp_path, monkeypatch):
    made = calls(monkeypatch)
    data = tmp_path / "rows.jsonl"
    write_rows(data, (solution.to_row() for solution in solutions))
    chosen = {"attn_implementation": "rows_by_hand"}
    score(ScoreConfig(verifier_paths["prm"], str(data), str(tmp_path / "out.jsonl"), **chosen))
    assert made
    made.clear()
    # In this process, which counts the calls.
    monkeypatch.setattr(
        ScoreServer, "start", lambda server, worker, workers: worker.args[0].load("cpu").score(["1 + 1"], ["2\n"])
    )
    monkeypatch.setattr(ScoreServer, "serve_forever", lambda server: None)
    serve(ServeConfig(verifier_paths["prm"], port=0, **chosen))
    assert made


# --- Which models


@pytest.mark.parametrize("attention", ["flash_attention_2", "flash_attention_3", "flex_attention"])
def test_models_are_tried_on_a_cpu_whatever_their_attention_runs_on(attention):
    """Before training, a model is not yet on the device that it will run on."""
    for config in FAMILIES.values():
        model = model_of(config, "sdpa").train()
        model.config._attn_implementation = attention
        assert can_pack(model) is None
        assert model.config._attn_implementation == attention
        assert model.training


@pytest.mark.parametrize("attention", ["flash_attention_2", "flex_attention"])
def test_capped_scores_are_no_reason_to_pad(attention):
    model = model_of(Gemma2Config(**SIZES, head_dim=8, sliding_window=64), "eager")
    model.config._attn_implementation = attention
    assert can_pack(model) is None


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("attention", ["sdpa", "eager", "rows_by_hand", "flash_attention_2", "flex_attention"])
def test_models_that_keep_it_from_their_layers_are_refused(attention):
    """One that is told where rows begin by their positions alone, as transformers guesses, is told too little."""

    class Forgetful(Qwen2ForTokenClassification):
        def forward(self, input_ids=None, position_ids=None, attention_mask=None, use_cache=None, **_):
            return super().forward(input_ids=input_ids, position_ids=position_ids, use_cache=use_cache)

    model = Forgetful(copy.deepcopy(FAMILIES["qwen2"])).eval()
    with torch.no_grad():
        model.score.weight.normal_()
    model.config._attn_implementation = attention
    assert "Forgetful" in can_pack(model)
    assert model.config._attn_implementation == attention


def test_unknown_kinds_are_refused_in_one_line():
    model = model_of(FAMILIES["llama"], "nobody_knows")
    assert reads(model.config) is None
    refusal = can_pack(model)
    assert "'nobody_knows'" in refusal
    assert "flex_attention" in refusal
    assert "\n" not in refusal


def test_what_a_kind_reads_is_what_its_masks_are_made_for():
    kinds = {"sdpa": "scores", "eager": "scores", "flex_attention": "blocks", "flash_attention_3": "lengths"}
    config = LlamaConfig(**SIZES)
    for kind, expected in {**kinds, "rows_by_hand": "lengths", None: None}.items():
        config._attn_implementation = kind
        assert reads(config) == expected
        assert shares_places(config) is (expected != "lengths")


def test_lengths_for_kernels_are_few_and_hardly_longer():
    assert [kernel_length(length, "scores") for length in (1, 8, 93, 129, 300, 2401)] == [8, 8, 96, 136, 304, 2432]
    lengths = [kernel_length(length, "scores") for length in range(2048, 4096)]
    assert len(set(lengths)) == 17
    assert all(0 <= after - before <= before / 16 for before, after in zip(range(2048, 4096), lengths, strict=True))
    assert [kernel_length(length, "blocks") for length in (93, 128, 129)] == [128, 128, 256]
    assert kernel_length(93, "lengths") == 93


# --- Choosing one


def test_the_choice_changes_what_a_model_computes_with():
    model = model_of(FAMILIES["llama"], "sdpa")
    choose_attention(model, None)
    assert model.config._attn_implementation == "sdpa"
    choose_attention(model, "rows_by_hand")
    assert {layer.self_attn.config._attn_implementation for layer in model.model.layers} == {"rows_by_hand"}


def test_a_kind_that_does_not_exist_or_cannot_run_is_named(arguments):
    model = model_of(FAMILIES["llama"], "sdpa")
    with pytest.raises(UserError, match="attn_implementation is 'sparse': .*not supported"):
        choose_attention(model, "sparse")
    with pytest.raises(UserError, match="'flash_attention_2', which computes in bfloat16 or float16.*float32"):
        choose_attention(model, "flash_attention_2")
    with pytest.raises(UserError, match="'flex_attention', which cannot be trained with on a CPU"):
        choose_attention(model, "flex_attention", arguments())
    gpt2 = model_of(GPT2, "sdpa")
    with pytest.raises(UserError, match="attn_implementation is 'flex_attention': .*GPT2"):
        choose_attention(gpt2, "flex_attention")
    assert {model.config._attn_implementation, gpt2.config._attn_implementation} == {"sdpa"}


# --- The kernels themselves


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("attention", ["flex_attention", "flash_attention_2"])
def test_kernels_give_what_sdpa_gives(attention):
    if attention == "flash_attention_2" and find_spec("flash_attn") is None:
        pytest.skip("flash-attn is not installed")
    config = Qwen2Config(**SIZES | {"hidden_size": 128, "num_attention_heads": 2, "num_key_value_heads": 1})
    actual = []
    for kind in (attention, "sdpa"):
        model = model_of(config, "sdpa").to("cuda", torch.bfloat16)
        choose_attention(model, kind)
        assert can_pack(model) is None
        logits = logits_at(model, batch_of(model, features(), 0, packing=True)).float()
        weigh(logits.cpu()).backward()
        actual.append([logits.detach(), *(p.grad.float() for p in model.parameters())])
    for one, other in zip(*actual, strict=True):
        assert (one - other).norm() < 0.05 * other.norm()
