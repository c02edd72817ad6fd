"""Scoring 64 samples of each of 32 problems: packed rows, prompts computed once, the head at step ends alone.

Two baselines share the backbone's weights; our head is the two label rows of the LM head. `padded` is how label-token
PRMs are commonly run: batches in arrival order, padded to their longest row, logits of the whole vocabulary at every
token, of which two at each step's end are read. `stepwise` asks for one step at a time: one forward pass over the text
up to its end, the last token's logits read. Both are given their rows tokenised, and are timed on a share of the
rows; ours is timed from text, on all of them.

Run: python tests/benchmarks/bench_scoring.py
"""

import time

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM, Qwen2ForTokenClassification

from rlstep.steps.boundaries import line_steps
from rlstep.steps.positions import encode_batch
from rlstep.verifiers.scoring.reward_model import RewardModel

VOCABULARY, BATCH_ROWS, BATCH_TOKENS = 32_000, 8, 2048
WRONG, RIGHT = 5, 6  # the label tokens


def build(hidden: int, layers: int, vocabulary: int = VOCABULARY) -> tuple[Qwen2ForCausalLM, RewardModel]:
    """A causal LM, and a verifier with its backbone and its two label rows as head."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=vocabulary, hidden_size=hidden, intermediate_size=3 * hidden, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=4096, tie_word_embeddings=True,
        num_labels=2, classifier_dropout=0.0,
    )  # fmt: skip
    lm, classifier = Qwen2ForCausalLM(config).eval(), Qwen2ForTokenClassification(config)
    classifier.model = lm.model
    with torch.no_grad():
        classifier.score.weight.copy_(lm.lm_head.weight[[WRONG, RIGHT]])
        classifier.score.bias.zero_()
    pieces = ["<pad>", "\n", *(f" w{index}" for index in range(vocabulary - 2))]
    words = Tokenizer(models.WordLevel({piece: index for index, piece in enumerate(pieces)}, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.Split(Regex(r"\n| \w+"), behavior="isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>")
    return lm, RewardModel(classifier, tokenizer, "prm", BATCH_TOKENS)


def draw(problems: int, samples: int, vocabulary: int = VOCABULARY, seed: int = 0) -> tuple[list[str], list[str]]:
    """Prompts of 100 words (a MATH problem in a chat template), and ragged samples: about 11 lines of 20 words."""
    rng = np.random.default_rng(seed)

    def words(n: int) -> str:
        return "".join(f" w{index}" for index in rng.integers(10, vocabulary - 2, n))

    def completion() -> str:
        lines = np.clip(rng.lognormal(np.log(10), 0.5, 1), 1, 40).astype(int)[0]
        return "\n".join(words(n) for n in np.clip(rng.lognormal(np.log(18), 0.5, lines), 2, 80).astype(int))

    prompts = [words(100) for _ in range(problems)]
    return [p for p in prompts for _ in range(samples)], [completion() for _ in range(problems * samples)]


@torch.inference_mode()
def by_full_logits(lm: Qwen2ForCausalLM, rows: list) -> list[list[float]]:
    """p(right) at each step's end, from the LM head at every token of padded batches in arrival order."""
    values = []
    for start in range(0, len(rows), BATCH_ROWS):
        batch = rows[start : start + BATCH_ROWS]
        longest = max(len(row.ids) for row in batch)
        ids_BT = torch.tensor([row.ids + [0] * (longest - len(row.ids)) for row in batch])
        mask_BT = torch.tensor([[1] * len(row.ids) + [0] * (longest - len(row.ids)) for row in batch])
        logits_BTV = lm(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False).logits
        right_BT = logits_BTV[..., [WRONG, RIGHT]].softmax(dim=-1)[..., 1]
        values += [right_BT[index, row.step_ends].tolist() for index, row in enumerate(batch)]
    return values


@torch.inference_mode()
def by_single_steps(lm: Qwen2ForCausalLM, rows: list) -> list[list[float]]:
    """p(right) of one step a forward pass."""
    return [
        [
            lm(torch.tensor([row.ids[: end + 1]]), use_cache=False, logits_to_keep=1)
            .logits[0, -1, [WRONG, RIGHT]].softmax(-1)[1].item()
            for end in row.step_ends
        ]
        for row in rows
    ]  # fmt: skip


def tokenised(verifier: RewardModel, prompts: list[str], completions: list[str]) -> list:
    return encode_batch(verifier.tokenizer, prompts, completions, [line_steps(text) for text in completions])


def test_all_ways_give_the_same_values():
    lm, verifier = build(hidden=32, layers=2, vocabulary=200)
    prompts, completions = draw(4, 5, vocabulary=200)
    rows = tokenised(verifier, prompts, completions)
    actual = verifier.score(prompts, completions)
    for baseline in (by_full_logits, by_single_steps):
        for ours, theirs in zip(actual, baseline(lm, rows), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-5)


def rate(function, rows: list) -> tuple[float, list[list[float]]]:
    """(rows a second, values)."""
    start = time.perf_counter()
    actual = function(rows)
    return len(rows) / (time.perf_counter() - start), actual


def main(problems: int = 32, samples: int = 64, hidden: int = 256, layers: int = 4) -> None:
    lm, verifier = build(hidden, layers)
    prompts, completions = draw(problems, samples)
    encoded = tokenised(verifier, prompts, completions)
    rng = np.random.default_rng(0)
    # A share of whole batches for the padded baseline, single rows for the slow one.
    starts = rng.choice(len(encoded) // BATCH_ROWS, 24, replace=False) * BATCH_ROWS
    some = [int(start) + offset for start in starts for offset in range(BATCH_ROWS)]
    few = rng.choice(len(encoded), 24, replace=False).tolist()
    by_full_logits(lm, encoded[:2])
    by_single_steps(lm, encoded[:1])
    verifier.score(prompts[:2], completions[:2])

    padded, in_batches = rate(lambda rows: by_full_logits(lm, rows), [encoded[index] for index in some])
    stepwise, in_steps = rate(lambda rows: by_single_steps(lm, rows), [encoded[index] for index in few])
    ours, actual = rate(
        lambda rows: verifier.score(*zip(*rows, strict=True)), list(zip(prompts, completions, strict=True))
    )
    for expected, indices in ((in_batches, some), (in_steps, few)):
        np.testing.assert_allclose(sum((actual[i] for i in indices), []), sum(expected, []), atol=1e-5)

    tokens = sum(len(row.ids) for row in encoded)
    print(f"{problems} problems x {samples} samples, {tokens / len(encoded):.0f} tokens a row on average")
    print(f"hidden {hidden}, {layers} layers, vocabulary {VOCABULARY}, {torch.get_num_threads()} threads")
    print(f"ours:     {ours:7.2f} rows/s")
    print(f"padded:   {padded:7.2f} rows/s, ratio {ours / padded:.2f}")
    print(f"stepwise: {stepwise:7.2f} rows/s, ratio {ours / stepwise:.2f}")


if __name__ == "__main__":
    main()
