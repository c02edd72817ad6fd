"""Training a PRM: packed rows and shared prefixes against padded batches in arrival order.

The baseline is the common way to train a step classifier: random batches, padded to their longest row, logits at every
token, a loss over the labelled ones. Both sides train the same weights on the same rows in the same batches with the
same optimizer; the first updates' losses are compared before anything is timed. Each side runs in a process of its own
for its peak memory, whose floor (a process that has loaded the model and the rows) is subtracted.

Rows are ragged: the number of steps is log-normal, 2.4 padded tokens for each real one. With --alternatives each
trajectory has as many branches that share a prefix with it, as the alternatives of PRM800K do.

Run: python tests/benchmarks/bench_training.py
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

from rlstep.core.losses import step_label_loss
from rlstep.verifiers.features import Feature
from rlstep.verifiers.forward import collate, logits_at
from rlstep.verifiers.packing import work_per_token

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

    found = []
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
        found.append(rows)
    return found


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
    logits_BTK = net(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits_BTK.flatten(0, 1), labels_BT.flatten())


def packed_loss(net, rows: list[Feature]) -> torch.Tensor:
    """The same loss as PRMTrainer computes it."""
    batch = collate(rows, 0, packing=True, work=work_per_token(net.config))
    return step_label_loss(logits_at(net, batch), batch["labels"])


LOSSES = {"padded": padded_loss, "packed": packed_loss}


def batches(units: list[list[Feature]], size: int) -> list[list[Feature]]:
    return [[row for unit in units[start : start + size] for row in unit] for start in range(0, len(units), size)]


def train(side: str, rows_of: list[list[Feature]]) -> dict:
    net = model().train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4)
    floor = peak_bytes()
    losses, start = [], time.perf_counter()
    for rows in rows_of:
        loss = LOSSES[side](net, rows)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return {"seconds": time.perf_counter() - start, "floor": floor, "peak": peak_bytes(), "losses": losses}


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_both_ways_have_the_same_loss_and_gradients():
    net = model(hidden=32, layers=2, vocabulary=100)
    rows = [row for unit in draw(6, alternatives=2, vocabulary=100) for row in unit]
    found = []
    for loss_of in LOSSES.values():
        net.zero_grad()
        loss = loss_of(net, rows)
        loss.backward()
        found.append([loss.detach(), *(parameter.grad.clone() for parameter in net.parameters())])
    for left, right in zip(*found, strict=True):
        torch.testing.assert_close(left, right, atol=1e-5, rtol=1e-4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--units", type=int, default=96, help="trajectories, each with its alternatives")
    parser.add_argument("--alternatives", type=int, default=0, help="branches a trajectory")
    parser.add_argument("--size", type=int, default=16, help="trajectories a batch")
    parser.add_argument("--side", choices=LOSSES)
    options = parser.parse_args()
    rows_of = batches(draw(options.units, options.alternatives), options.size)
    if options.side:
        print(json.dumps(train(options.side, rows_of)))
        return
    real = sum(len(row.ids) for rows in rows_of for row in rows)
    padded = sum(max(len(row.ids) for row in rows) * len(rows) for rows in rows_of)
    print(
        f"{sum(map(len, rows_of))} rows in {len(rows_of)} updates, {real} real tokens, "
        f"{padded / real:.2f} padded for each"
    )
    found = {}
    for side in LOSSES:
        command = [sys.executable, __file__, "--side", side]
        for name in ("units", "alternatives", "size"):
            command += [f"--{name}", str(getattr(options, name))]
        found[side] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        used = found[side]["peak"] - found[side]["floor"]
        print(
            f"{side}: {real / found[side]['seconds']:7.0f} real tokens/s, peak {found[side]['peak'] / 2**30:.2f} GiB, "
            f"{used / 2**30:.2f} GiB of them for training"
        )
    ours, theirs = found["packed"], found["padded"]
    np.testing.assert_allclose(ours["losses"], theirs["losses"], atol=1e-3)
    print(f"losses agree to {max(abs(a - b) for a, b in zip(ours['losses'], theirs['losses'], strict=True)):.1e}")
    memory = (ours["peak"] - ours["floor"]) / (theirs["peak"] - theirs["floor"])
    print(
        f"speed ratio {theirs['seconds'] / ours['seconds']:.2f}, memory ratio {memory:.2f} above the floor, "
        f"{ours['peak'] / theirs['peak']:.2f} of the whole process"
    )


if __name__ == "__main__":
    main()
