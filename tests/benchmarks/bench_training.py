"""Training a PRM: packed rows and shared prefixes against padded batches in arrival order.

The baseline is the common way to train a step classifier: random batches, padded to their longest row, logits at every
token, a loss over the labelled ones. Both sides train the same weights on the same rows in the same batches with the
same optimizer, and their losses are compared. Each side runs in a process of its own for its peak memory, whose floor
(a process that has loaded the model and the rows) is subtracted.

It prints JSON: each side's seconds, memory and useful operations per second, and the ratios (padded over packed, and
packed memory over padded). On a CPU times are those of one thread; with `--device cuda`, where both sides run under
bfloat16 autocast, tokens per second and the model FLOP utilisation come with them.

Rows are ragged: the number of steps is log-normal, 2.4 padded tokens for each real one. With --alternatives each
trajectory has as many branches that share a prefix with it, as the alternatives of PRM800K do.

Run: python -m tests.benchmarks.bench_training
"""

import argparse
import json
import resource
import subprocess
import sys
import time

import numpy as np
import torch
from transformers import Qwen2Config, Qwen2ForTokenClassification, set_seed

from rlstep.core.flops import Work, training_flops
from rlstep.core.losses import step_label_loss
from rlstep.core.memory import Shape
from rlstep.verifiers.features import Feature
from rlstep.verifiers.forward import collate, logits_at
from rlstep.verifiers.packing import work_per_token
from tests.benchmarks.update import synchronize

VOCABULARY, PROMPT = 8192, 48
LONGEST = 2048


def model(hidden: int = 256, layers: int = 4, vocabulary: int = VOCABULARY) -> Qwen2ForTokenClassification:
    set_seed(0)
    config = Qwen2Config(
        vocab_size=vocabulary, hidden_size=hidden, intermediate_size=3 * hidden, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=4096, num_labels=2,
        classifier_dropout=0.0, pad_token_id=0,
    )  # fmt: skip
    return Qwen2ForTokenClassification(config)


def draw(units: int, alternatives: int, vocabulary: int = VOCABULARY, seed: int = 0) -> list[list[Feature]]:
    """Units of rows: a trajectory of log-normally many steps, and branches off it labelled at their last step."""
    rng = np.random.default_rng(seed)

    def words(n: int) -> list[int]:
        return rng.integers(1, vocabulary, n).tolist()

    drawn = []
    for unit in range(units):
        ids, ends = words(PROMPT), []
        for length in np.clip(rng.lognormal(np.log(16), 0.5, int(np.clip(rng.lognormal(2.3, 0.6), 1, 120))), 2, 90):
            ids += words(int(length))
            ends.append(len(ids) - 1)
            if ends[-1] > LONGEST:
                break
        rows = [_row(ids, ends, rng, unit)]
        for _ in range(alternatives):
            step = int(rng.integers(0, len(ends)))
            branch = ids[: (ends[step - 1] if step else PROMPT - 1) + 1] + words(16)
            rows.append(_row(branch, [len(branch) - 1], rng, unit))
        drawn.append(rows)
    return drawn


def _row(ids: list[int], ends: list[int], rng, unit: int) -> Feature:
    targets = torch.tensor(rng.integers(0, 2, len(ends)), dtype=torch.float32)
    return Feature(torch.tensor(ids), torch.tensor(ends), targets, unit, str(unit))


def padded_loss(net, rows: list[Feature]) -> torch.Tensor:
    """Every row padded to the longest, logits at every token, cross-entropy where a label is."""
    longest = max(len(row.ids) for row in rows)
    ids_BT = torch.stack([torch.nn.functional.pad(row.ids, (0, longest - len(row.ids))) for row in rows])
    mask_BT = torch.stack([torch.arange(longest) < len(row.ids) for row in rows]).long()
    labels_BT = torch.full(ids_BT.shape, -100)
    for index, row in enumerate(rows):
        labels_BT[index, row.positions] = row.targets.long()
    ids_BT, mask_BT, labels_BT = (tensor.to(net.device) for tensor in (ids_BT, mask_BT, labels_BT))
    logits_BTK = net(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits_BTK.flatten(0, 1).float(), labels_BT.flatten())


def packed_loss(net, rows: list[Feature]) -> torch.Tensor:
    """The same loss as PRMTrainer computes it."""
    batch = collate(rows, 0, packing=True, work=work_per_token(net.config))
    batch = {name: value.to(net.device) if torch.is_tensor(value) else value for name, value in batch.items()}
    return step_label_loss(logits_at(net, batch).float(), batch["labels"])


LOSSES = {"padded": padded_loss, "packed": packed_loss}


def batches(units: list[list[Feature]], size: int) -> list[list[Feature]]:
    return [[row for unit in units[start : start + size] for row in unit] for start in range(0, len(units), size)]


def useful_flops(config, rows_of: list[list[Feature]]) -> int:
    """Operations of training on each distinct token once: a token is what it and all before it in its row are.

    Rows of one batch that begin with the same tokens share these, whatever their order; a token attends to itself and
    to those before it, and the head reads the labelled places alone.
    """
    tokens = attended_pairs = head_tokens = 0
    for rows in rows_of:
        prefixes = {tuple(row.ids[: place + 1].tolist()) for row in rows for place in range(len(row.ids))}
        tokens += len(prefixes)
        attended_pairs += sum(map(len, prefixes))
        head_tokens += sum(len(row.positions) for row in rows)
    heads, hidden = config.num_attention_heads, config.hidden_size
    shape = Shape(
        config.num_hidden_layers, hidden, config.intermediate_size, heads, config.num_key_value_heads,
        hidden // heads, config.vocab_size,
    )  # fmt: skip
    return training_flops(shape, Work(tokens, attended_pairs, head_tokens), outputs=2)


def train(side: str, rows_of: list[list[Feature]], device: str) -> dict:
    net = model().train().to(device)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    floor, losses = peak_bytes(device), []
    # On a GPU the first batch warms up, and is trained on once more.
    warm_up = rows_of[:1] if device == "cuda" else []
    for rows in warm_up:
        _update(side, net, optimizer, rows)
        synchronize(device)
    start, cpu_start = time.perf_counter(), time.process_time()
    losses = [_update(side, net, optimizer, rows) for rows in rows_of]
    synchronize(device)
    clocks = {"wall_seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu_start}
    return {**clocks, "floor": floor, "peak": peak_bytes(device), "losses": [loss.item() for loss in losses]}


def _update(side: str, net, optimizer, rows: list[Feature]) -> torch.Tensor:
    with torch.autocast("cuda", torch.bfloat16, enabled=net.device.type == "cuda"):
        loss = LOSSES[side](net, rows)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss.detach()


def peak_bytes(device: str) -> int:
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_both_ways_have_the_same_loss_and_gradients():
    net = model(hidden=32, layers=2, vocabulary=100)
    rows = [row for unit in draw(6, alternatives=2, vocabulary=100) for row in unit]
    results = []
    for loss_of in LOSSES.values():
        net.zero_grad()
        loss = loss_of(net, rows)
        loss.backward()
        results.append([loss.detach(), *(parameter.grad.clone() for parameter in net.parameters())])
    for left, right in zip(*results, strict=True):
        torch.testing.assert_close(left, right, atol=1e-5, rtol=1e-4)


def test_useful_work_counts_each_distinct_token_once():
    config = model(hidden=32, layers=2, vocabulary=100).config
    row, branch = torch.tensor([1, 2, 3]), torch.tensor([1, 2, 4])
    rows = [Feature(ids, torch.tensor([2]), torch.tensor([1.0]), 0, str(n)) for n, ids in enumerate((row, branch))]
    # Four distinct tokens at depths 1, 2, 3 and 3; per layer 32 x 4 x 32 parameters of the attention (all heads have
    # their own keys) and 3 x 32 x 96 of the MLP; two places asked, a head of two outputs.
    layers, head, attention = 2 * 2 * (32 * 4 * 32 + 3 * 32 * 96) * 4, 2 * 32 * 2 * 2, 2 * 4 * 32 * 9
    assert useful_flops(config, [rows]) == 3 * (layers + head + attention)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, default=96, help="trajectories, each with its alternatives")
    parser.add_argument("--alternatives", type=int, default=0, help="branches per trajectory")
    parser.add_argument("--size", type=int, default=16, help="trajectories per batch")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--peak-tflops", type=float, default=989, help="the GPU's in bfloat16; by default an H100's")
    parser.add_argument("--side", choices=LOSSES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.device == "cpu":
        torch.set_num_threads(1)
    rows_of = batches(draw(options.units, options.alternatives), options.size)
    if options.side:
        print(json.dumps(train(options.side, rows_of, options.device)))
        return
    sides = {side: _child(side) for side in LOSSES}
    # Both under bfloat16 autocast on a GPU, whose rounding differs with the shapes of matrices.
    losses = [sides[side]["losses"] for side in LOSSES]
    np.testing.assert_allclose(*losses, atol=1e-3 if options.device == "cpu" else 2e-2)
    print(json.dumps(_result(options, rows_of, sides), indent=2))


def _child(side: str) -> dict:
    """What one side prints in a process of its own, whose peak memory is the run's."""
    command = [sys.executable, "-m", "tests.benchmarks.bench_training", *sys.argv[1:], "--side", side]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def _result(options, rows_of: list[list[Feature]], sides: dict[str, dict]) -> dict:
    clock = "cpu_seconds" if options.device == "cpu" else "wall_seconds"
    seconds = {side: measured[clock] for side, measured in sides.items()}
    used = {side: measured["peak"] - measured["floor"] for side, measured in sides.items()}
    tokens = sum(len(row.ids) for rows in rows_of for row in rows)
    padded = sum(max(len(row.ids) for row in rows) * len(rows) for rows in rows_of)
    flops = useful_flops(model().config, rows_of)
    result = {
        "rows": sum(map(len, rows_of)),
        "updates": len(rows_of),
        "real_tokens": tokens,
        "padded_tokens_per_real_token": padded / tokens,
        "ratio": seconds["padded"] / seconds["packed"],
        **{name: {side: sides[side][name] for side in sides} for name in ("cpu_seconds", "wall_seconds")},
        "memory_mib": {side: size / 2**20 for side, size in used.items()},
        "memory_ratio": used["packed"] / used["padded"],
        "loss_difference": max(abs(a - b) for a, b in zip(*(sides[s]["losses"] for s in LOSSES), strict=True)),
        "real_tokens_per_second": {side: tokens / seconds[side] for side in sides},
        "useful_gflop": flops / 1e9,
        "useful_gflop_per_second": {side: flops / 1e9 / seconds[side] for side in sides},
    }
    if options.device == "cuda":
        rates = {side: flops / seconds[side] / 1e12 / options.peak_tflops for side in sides}
        result["model_flop_utilisation"] = rates
    return result


if __name__ == "__main__":
    main()
