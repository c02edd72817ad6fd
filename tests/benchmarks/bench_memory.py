"""Peak memory of `sample`, `score` and `evaluate` against the number of rows.

Models are replaced by stand-ins that take no time: the policy's completions are made of numbers, the verifier's scores
are drawn. All else is what the stages do. One process per stage and size, because a process's peak never falls.

Run: python tests/benchmarks/bench_memory.py [--rows 10000 200000]
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SAMPLES = 500  # per problem
STAGES = ("sample", "score", "evaluate")


def completion(rng: random.Random) -> str:
    """Some 600 characters: twelve lines and an answer."""
    lines = [f"{rng.randrange(10**9)} + {rng.randrange(10**9)} = {rng.randrange(10**12)}" for _ in range(12)]
    return "\n".join([*lines, f"Answer: {rng.randrange(50)}"])


class Verifier:
    """A stand-in for a verifier of lines."""

    from rlstep.steps.boundaries import Boundary

    boundary, prompt_format, max_positions = Boundary(), None, 4096
    rows_scored = tokens_scored = 0

    def lengths(self, prompts, completions, steps) -> list[int]:
        return [len(text) for text in completions]

    def score(self, prompts, completions, steps) -> list[list[float]]:
        return [[random.random() for _ in row] for row in steps]


def child(stage: str, rows: int, folder: Path) -> None:
    """Runs a stage and prints its peak memory, in MiB, and seconds."""
    start = time.perf_counter()
    globals()[f"run_{stage}"](rows, folder)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"mib": round(peak), "seconds": round(time.perf_counter() - start, 1)}))


def run_sample(rows: int, folder: Path) -> None:
    import rlstep.stages.sample as stage
    from rlstep.runtime.rows import write_rows
    from rlstep.steps.records import Solution
    from rlstep.tasks import get

    class Engine:
        rng = random.Random(0)

        def generate(self, batch) -> list[Solution]:
            return [
                Solution(p.id, p.prompt, completion(self.rng), p.reference, sample=index, extra=p.extra)
                for p, index in batch
            ]

    stage.EngineOpening.open = lambda _: Engine()
    model = folder / "model"
    save_tiny_model(model)
    problems = get("arithmetic").problems("test", rows // SAMPLES, seed=0)
    write_rows(folder / "problems.jsonl", (vars(problem) for problem in problems))
    out = str(folder / "samples")
    stage.sample(stage.SampleConfig(str(model), str(folder / "problems.jsonl"), out, n=SAMPLES, max_new_tokens=8))


def save_tiny_model(path: Path) -> None:
    from rlstep.tasks import get
    from rlstep.tasks.small import small_model

    tokenizer = get("arithmetic").tokenizer()
    small_model(tokenizer, hidden_size=16, layers=1, heads=2, intermediate_size=32).save_pretrained(path)
    tokenizer.save_pretrained(path)


def run_score(rows: int, folder: Path) -> None:
    import rlstep.stages.score as stage

    stage.open_verifier = lambda *_, **__: Verifier()
    stage.score(stage.ScoreConfig("stand-in", str(folder / "samples"), str(folder / "scored")))


def run_evaluate(rows: int, folder: Path) -> None:
    from rlstep.stages.evaluate import EvaluateConfig, evaluate

    evaluate(EvaluateConfig(str(folder / "scored"), str(folder / "curves"), trials=10))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs=2, default=[10_000, 200_000])
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        stage, rows, folder = options.child
        child(stage, int(rows), Path(folder))
        return
    measured = {stage: {} for stage in STAGES}
    for rows in options.rows:
        with tempfile.TemporaryDirectory() as folder:
            for stage in STAGES:
                command = [sys.executable, __file__, "--child", stage, str(rows), folder]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                measured[stage][rows] = json.loads(done.stdout.splitlines()[-1])
    few, many = options.rows
    for sizes in measured.values():
        sizes["ratio"] = round(sizes[many]["mib"] / sizes[few]["mib"], 3)
        sizes["bytes_per_row"] = round((sizes[many]["mib"] - sizes[few]["mib"]) * 2**20 / (many - few))
    print(json.dumps(measured, indent=2))


if __name__ == "__main__":
    main()
