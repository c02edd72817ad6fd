"""Packed rows get the values that they have alone; each shared prefix is computed once."""

import pytest
import torch
from transformers import (
    AutoModelForTokenClassification,
    BertConfig,
    Gemma3nTextConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
    XLMConfig,
)

from rlstep.verifiers.attention import added_mask, forest_mask
from rlstep.verifiers.packing import (
    LARGEST_BIN,
    WORTH_SHARING,
    can_pack,
    pack,
    shared_runs,
    window_of,
    work_per_token,
)

SIZES = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
}
FAMILIES = {
    "qwen2": Qwen2Config(**SIZES),
    "qwen3": Qwen3Config(**SIZES, head_dim=8),
    "llama": LlamaConfig(**SIZES),
    "mistral": MistralConfig(**SIZES, sliding_window=None),
    "gpt2": GPT2Config(vocab_size=60, n_embd=32, n_layer=2, n_head=4, n_positions=256, pad_token_id=0),
}


def model_of(config, attention: str = "sdpa"):
    torch.manual_seed(0)
    return AutoModelForTokenClassification.from_config(config, attn_implementation=attention).eval()


def ragged_rows(seed: int = 0) -> list[list[int]]:
    """Rows that share nothing, a prompt, or several steps; one is another's prefix and one stands twice."""
    generator = torch.Generator().manual_seed(seed)

    def words(n: int) -> list[int]:
        return torch.randint(1, 60, (n,), generator=generator).tolist()

    prompt, other = words(12), words(9)
    start = prompt + words(14)
    return [
        start + words(7), words(5), start + words(20), prompt + words(3), start, start, other + words(11), other + [3],
        words(40),
    ]  # fmt: skip


def test_the_worked_example_of_the_module():
    a, b, c, d, e, f, g = range(1, 8)
    shared = list(range(10, 10 + WORTH_SHARING))
    packed = pack([[*shared, c, d], [*shared, e], [f, g]], 0)
    # The longest row has 10 tokens, so the branch `e` fits in no bin of that length: nothing is shared.
    assert packed.tokens == 10 + 9 + 2
    packed = pack([[*shared, c, d], [*shared, e], [f, g]], 0, work_per_token=1e9)
    assert packed.input_ids[0].tolist()[:13] == [*shared, c, d, e, f, g]
    assert packed.position_ids[0].tolist()[:13] == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 8, 0, 1]
    assert packed.ends[0].tolist()[:13] == [11] * 8 + [10, 10, 11, 13, 13]
    assert packed.bins == [0, 0, 0]
    assert [places.tolist() for places in packed.places] == [[*range(10)], [*range(8), 10], [11, 12]]


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("work", [None, 1e9])
def test_mask_is_that_of_each_row_alone(share, work):
    rows = ragged_rows()
    packed = pack(rows, 0, share, work)
    mask_BLL = forest_mask(packed.ends)[:, 0]
    for row, home, places in zip(rows, packed.bins, packed.places, strict=True):
        assert packed.input_ids[home, places].tolist() == row
        assert packed.position_ids[home, places].tolist() == list(range(len(row)))
        for depth, place in enumerate(places.tolist()):
            assert sorted(mask_BLL[home, place].nonzero().flatten().tolist()) == sorted(places[: depth + 1].tolist())
    assert mask_BLL.any(dim=-1).all(), "a place that sees nothing would be NaN"


def test_shared_prefixes_are_laid_out_once():
    rows = ragged_rows()
    assert pack(rows, 0, share=False).tokens == sum(map(len, rows))
    # prompt 12, steps 14, tails 7 + 20 + 3; the others: 5, 9 + 11 + 1, 40
    assert pack(rows, 0, work_per_token=1e9).tokens == 12 + 14 + 7 + 20 + 3 + 5 + 21 + 40


def test_packing_wastes_less_than_padding():
    lengths = [3, 100, 7, 50, 49, 20, 30, 41, 90, 10]
    packed = pack([[1 + index] * length for index, length in enumerate(lengths)], 0, share=False)
    # first fit: 100 | 90 10 | 50 49 | 41 30 20 7 | 3, where padding would take ten rows of 100
    assert packed.tokens == 400
    assert packed.input_ids.shape == (5, 100)


def test_bins_grow_only_where_sharing_repays_the_longer_attention():
    """With 10 of 81 tokens shared, two rows in a bin see 152 places: more attention than in two bins of 81."""
    rows = [[*range(10), 100 + index, *range(70)] for index in range(20)]
    assert pack(rows, 0, work_per_token=1e9).input_ids.shape == (1, 10 + 20 * 71)
    assert pack(rows, 0, work_per_token=1.0).input_ids.shape == (20, 81)
    assert pack(rows, 0, work_per_token=1e9).input_ids.shape[1] <= LARGEST_BIN
    assert len(shared_runs(rows)) == 1


def test_bins_grow_to_some_rows_of_a_prefix():
    """Work is places x (1 + length / 1664): 8 x 159 apart 1,394, three to a bin 3 x 413 1,546, two to a bin least."""
    rows = [[*range(32), 100 + index, *range(126)] for index in range(8)]
    assert pack(rows, 0, work_per_token=1664).input_ids.shape == (4, 32 + 2 * 127)


def test_a_row_longer_than_the_largest_bin_gets_its_own_length():
    rows = [[1] * (LARGEST_BIN + 5), [2, 3]]
    assert pack(rows, 0, work_per_token=1e9).input_ids.shape == (2, LARGEST_BIN + 5)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_outputs_are_those_of_single_rows(family, attention):
    model = model_of(FAMILIES[family], attention)
    assert can_pack(model) is None
    rows = ragged_rows()
    packed = pack(rows, 0, work_per_token=1e9)
    mask = forest_mask(packed.ends)
    if attention == "eager":
        mask = added_mask(mask, torch.float32)
    with torch.no_grad():
        actual = model(packed.input_ids, attention_mask=mask, position_ids=packed.position_ids).logits
        for row, home, places in zip(rows, packed.bins, packed.places, strict=True):
            alone = model(torch.tensor([row])).logits[0]
            torch.testing.assert_close(actual[home, places], alone, atol=1e-5, rtol=0)


def test_gradients_are_those_of_single_rows():
    model = model_of(FAMILIES["qwen2"])
    rows = ragged_rows()

    def gradient(loss: torch.Tensor) -> list[torch.Tensor]:
        model.zero_grad()
        loss.backward()
        return [parameter.grad.clone() for parameter in model.parameters()]

    packed = pack(rows, 0, work_per_token=1e9)
    actual = model(
        packed.input_ids, attention_mask=forest_mask(packed.ends), position_ids=packed.position_ids
    ).logits.log_softmax(-1)
    pairs = zip(packed.bins, packed.places, strict=True)
    together = gradient(sum(actual[home, places[-1], 0] for home, places in pairs))
    alone = gradient(sum(model(torch.tensor([row])).logits.log_softmax(-1)[0, -1, 0] for row in rows))
    for left, right in zip(together, alone, strict=True):
        torch.testing.assert_close(left, right, atol=1e-5, rtol=1e-4)


def test_models_that_do_not_heed_the_mask_are_refused():
    bert = BertConfig(
        vocab_size=60, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=48,
        max_position_embeddings=64,
    )  # fmt: skip
    assert "other values" in can_pack(model_of(bert))
    xlm = XLMConfig(vocab_size=60, emb_dim=32, n_layers=1, n_heads=4, causal=True)
    assert "takes no mask of ours" in can_pack(model_of(xlm, "eager"))  # it asserts that the mask is another
    model = model_of(FAMILIES["qwen2"])
    model.config._attn_implementation = "an_attention_of_somebodys"
    assert "does not know what its attention 'an_attention_of_somebodys' reads" in can_pack(model)


def test_masks_of_a_models_own_are_refused():
    from transformers import GPTNeoConfig

    sizes = {"num_layers": 2, "attention_types": [[["global", "local"], 1]], "num_heads": 4, "window_size": 30}
    neo = GPTNeoConfig(vocab_size=60, hidden_size=32, max_position_embeddings=64, **sizes)
    assert "masks places by itself" in can_pack(model_of(neo, "eager"))


def test_positions_that_a_long_row_rescales_for_all_are_a_window():
    scaled = LlamaConfig(**SIZES)
    scaled.rope_parameters = {"rope_type": "longrope", "original_max_position_embeddings": 40}
    assert window_of(scaled) == 40


def test_layers_that_do_not_see_the_whole_row_are_refused():
    model = model_of(FAMILIES["qwen2"])
    model.config.layer_types = ["full_attention", "chunked_attention"]
    assert "chunked_attention" in can_pack(model)
    assert window_of(MistralConfig(**SIZES, sliding_window=64)) == 64
    assert window_of(Qwen2Config(**SIZES, use_sliding_window=False, sliding_window=64)) is None
    assert window_of(FAMILIES["llama"]) is None


def test_probing_leaves_the_model_as_it_was():
    model = model_of(FAMILIES["qwen2"]).train()
    can_pack(model)
    assert model.training


def test_work_per_token_weighs_attention_against_the_linear_layers():
    # 2 (4 H^2 + 3 H I) operations a token against 4 H a place seen, H = 32, I = 48
    assert work_per_token(FAMILIES["qwen2"]) == (2 * (4 * 32**2 + 3 * 32 * 48)) / (4 * 32)


@pytest.mark.parametrize(
    ("parameters", "limit"),
    [
        ({"rope_type": "dynamic", "factor": 2.0}, 256),
        ({"full_attention": {"rope_type": "longrope", "original_max_position_embeddings": 64}}, 64),
        ({"full_attention": {"rope_type": "default"}, "sliding_attention": {"rope_type": "dynamic"}}, 256),
        ({"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 64}, None),
    ],
)
def test_every_kind_of_rope_that_one_row_changes_for_all_is_a_window(parameters, limit):
    scaled = LlamaConfig(**SIZES)
    scaled.rope_parameters = parameters
    assert window_of(scaled) == limit


@pytest.mark.parametrize("kind", ["dynamic", "longrope", "yarn", "linear", "llama3"])
def test_a_row_beyond_the_window_changes_no_other_row_within_it(kind):
    """What `window_of` is for: a long row in the bin beside a short one, which has the values that it has alone."""
    parameters = {"rope_type": kind, "factor": 4.0, "rope_theta": 1e4, "original_max_position_embeddings": 20}
    parameters |= {"short_factor": [1.0] * 4, "long_factor": [9.0] * 4} if kind == "longrope" else {}
    parameters |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0} if kind == "llama3" else {}
    longest = 20 if kind == "dynamic" else 256
    model = model_of(LlamaConfig(**SIZES | {"max_position_embeddings": longest}, rope_parameters=parameters))
    short, long = ([5 + i % 50 for i in range(count)] for count in (18, 60))

    def values(rows) -> torch.Tensor:
        packed = pack(rows[::-1], 0, share=False, work_per_token=1e9)
        mask = forest_mask(packed.ends)
        with torch.no_grad():
            logits = model(packed.input_ids, attention_mask=mask, position_ids=packed.position_ids).logits
        return logits[packed.bins[-1], packed.places[-1]]

    changed = not torch.allclose(values([short]), values([short, long]), atol=1e-5)
    assert changed == (window_of(model.config) is not None)
    assert window_of(model.config) in (None, 20)


def test_sizes_may_differ_from_layer_to_layer():
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "layer_types": ["full_attention"] * 2}
    config = Gemma3nTextConfig(**sizes, intermediate_size=[32, 64], activation_sparsity_pattern=[0.0, 0.0])
    assert work_per_token(config) == work_per_token(FAMILIES["qwen2"])
