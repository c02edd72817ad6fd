"""Scoring solutions: the head at step ends over rows sorted by length, against padded full-vocabulary logits.

The baseline is how label-token PRMs are commonly run: batches in arrival order, padded to their longest row, logits of
the whole vocabulary at every token, of which two at each step's end are read. Both sides share the backbone's weights,
and our head is the two label rows of the LM head. The baseline is given its rows tokenised; ours is timed from text.
The smaller the backbone beside the vocabulary, the larger the head's share of the ratio; the rest is padding.

Run: python tests/benchmarks/bench_scoring.py
"""

import time

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM, Qwen2ForTokenClassification

from rlstep.steps.boundaries import line_steps
from rlstep.steps.positions import encode_batch
from rlstep.verifiers.scoring import RewardModel

VOCABULARY, BATCH_ROWS, BATCH_TOKENS = 32_000, 8, 4096
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


def draw(rows: int, vocabulary: int = VOCABULARY, seed: int = 0) -> tuple[list[str], list[str]]:
    """Prompts of 40 words, and completions whose number of lines, and words a line, are log-normal (ragged)."""
    rng = np.random.default_rng(seed)

    def words(n: int) -> str:
        return "".join(f" w{index}" for index in rng.integers(10, vocabulary - 2, n))

    def completion() -> str:
        lines = np.clip(rng.lognormal(np.log(7), 0.7, 1), 1, 40).astype(int)[0]
        return "\n".join(words(n) for n in np.clip(rng.lognormal(np.log(14), 0.5, lines), 2, 80).astype(int))

    return [words(40) for _ in range(rows)], [completion() for _ in range(rows)]


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


def tokenised(verifier: RewardModel, prompts: list[str], completions: list[str]) -> list:
    return encode_batch(verifier.tokenizer, prompts, completions, [line_steps(text) for text in completions])


def test_both_ways_give_the_same_values():
    lm, verifier = build(hidden=32, layers=2, vocabulary=200)
    prompts, completions = draw(20, vocabulary=200)
    expected = by_full_logits(lm, tokenised(verifier, prompts, completions))
    for ours, theirs in zip(verifier.score(prompts, completions), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def main(rows: int = 64, hidden: int = 256, layers: int = 4) -> None:
    lm, verifier = build(hidden, layers)
    prompts, completions = draw(rows)
    encoded = tokenised(verifier, prompts, completions)
    by_full_logits(lm, encoded[:2])
    verifier.score(prompts[:2], completions[:2])

    start = time.perf_counter()
    expected = by_full_logits(lm, encoded)
    theirs = rows / (time.perf_counter() - start)
    start = time.perf_counter()
    found = verifier.score(prompts, completions)
    ours = rows / (time.perf_counter() - start)
    np.testing.assert_allclose(sum(found, []), sum(expected, []), atol=1e-5)

    lengths = [len(row.ids) for row in encoded]
    padded = sum(
        max(lengths[i : i + BATCH_ROWS]) * len(lengths[i : i + BATCH_ROWS]) for i in range(0, rows, BATCH_ROWS)
    )
    print(f"{rows} rows, {sum(lengths) / rows:.0f} tokens on average, {max(lengths)} at most")
    print(f"hidden {hidden}, {layers} layers, vocabulary {VOCABULARY}, {torch.get_num_threads()} threads")
    print(
        f"padded full logits, arrival order: {theirs:.2f} rows/s ({padded / sum(lengths):.2f} padded tokens a real one)"
    )
    print(f"head at step ends, sorted:         {ours:.2f} rows/s")
    print(f"ratio {ours / theirs:.2f}")


if __name__ == "__main__":
    main()
