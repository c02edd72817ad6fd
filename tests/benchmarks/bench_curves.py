"""Best-of-N at the published size, 500 problems x 1860 samples x 14 values of N: closed form against resampling.

The resampling way is that of openai/prm800k's evaluation: 400 times, for each N, shuffle a problem's samples, take
the first N, drop the unanswered, pick the highest score. Each problem and trial costs the same, so it is timed on a few
of both and scaled up; the closed form is timed in full, on Python lists.

Run: python tests/benchmarks/bench_curves.py
"""

import random
import time

import numpy as np

from rlstep.core.curves import best_of_n, vote_at_n

NS = [10, 25, 50, 75, 100, 200, 300, 400, 500, 750, 1000, 1250, 1500, 1860]
PROBLEMS, SAMPLES, TRIALS = 500, 1860, 400


def draw(problems: int, samples: int, seed: int = 0) -> tuple[list, list, list]:
    """Scores, correctness and whether answered, as lists; a score says something of correctness, and not all."""
    rng = np.random.default_rng(seed)
    right = rng.random((problems, samples)) < rng.random((problems, 1))
    scores = rng.normal(size=(problems, samples)) + right
    return scores.tolist(), right.tolist(), (rng.random((problems, samples)) < 0.9).tolist()


def by_resampling(scores, correct, answered, ns, trials: int, seed: int = 0) -> np.ndarray:
    """(trials, len(ns)) share of problems whose pick is right."""
    shuffler = random.Random(seed)
    rates = np.zeros((trials, len(ns)))
    problems = [list(zip(*rows, strict=True)) for rows in zip(scores, correct, answered, strict=True)]
    for trial in range(trials):
        for column, n in enumerate(ns):
            for samples in problems:
                pool = list(samples)
                shuffler.shuffle(pool)
                kept = [sample for sample in pool[:n] if sample[2]]
                rates[trial, column] += bool(kept) and max(kept, key=lambda sample: sample[0])[1]
    return rates / len(problems)


def test_both_ways_agree():
    scores, correct, answered = draw(problems=10, samples=30)
    ns = [1, 4, 30]
    rates = by_resampling(scores, correct, answered, ns, trials=400)
    error = rates.std(axis=0, ddof=1) / np.sqrt(len(rates))
    exact = np.array(best_of_n(scores, correct, ns, answered=answered).mean)
    assert (np.abs(rates.mean(axis=0) - exact) <= 4 * error + 1e-12).all()


def seconds(call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    scores, correct, answered = draw(PROBLEMS, SAMPLES)
    ours = min(seconds(lambda: best_of_n(scores, correct, NS, answered=answered)) for _ in range(3))
    few_problems, few_trials = 10, 5
    few = [rows[:few_problems] for rows in (scores, correct, answered)]
    timed = seconds(lambda: by_resampling(*few, NS, few_trials))
    theirs = timed * PROBLEMS / few_problems * TRIALS / few_trials
    print(f"best-of-N, {PROBLEMS} problems x {SAMPLES} samples x {len(NS)} N")
    print(f"  closed form, exact        {ours:8.2f} s")
    print(
        f"  resampling, {TRIALS} trials    {theirs:8.0f} s  "
        f"({timed:.1f} s for {few_problems} problems x {few_trials} trials, scaled)"
    )
    print(f"  ratio                     {theirs / ours:8.0f}")

    rng = np.random.default_rng(0)
    answers = rng.integers(0, 12, (200, 128))
    right = (answers == 0).tolist()
    votes = seconds(lambda: vote_at_n(answers.tolist(), right, [2**k for k in range(8)], trials=200))
    print(f"majority vote, 200 problems x 128 samples x 8 N x 200 trials: {votes:.2f} s")


if __name__ == "__main__":
    main()
