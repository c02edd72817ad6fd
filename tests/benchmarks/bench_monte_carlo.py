"""Labels by rollouts on the embedded task: rollouts used, and how often the first error is where the checker finds it.

A step from which the policy always fails counts as wrong, so what can be agreed on depends on the policy: it is the
generator of the recipes, trained here in a minute unless a folder is given.

Run: python tests/benchmarks/bench_monte_carlo.py [--policy runs/demo/sft] [--solutions 100] [--rollouts 16]
"""

import argparse
import tempfile
from pathlib import Path

from rlstep.runtime.rows import write_rows
from rlstep.stages import run
from rlstep.steps.records import Solution, read_solutions
from rlstep.tasks.arithmetic import Arithmetic

WAYS = {
    "all steps, all rollouts": ["--labels=soft", "--after_first_error=label"],
    "to the first error, all rollouts": ["--labels=soft"],
    "to the first error, early stop": ["--search=linear"],
    "by halves, early stop": ["--search=binary"],
}


def train(folder: Path) -> Path:
    """The generator of recipes/arithmetic."""
    run("prepare", ["--config=arithmetic/prepare", f"--out={folder / 'prepare'}"])
    given = [f"--model_name_or_path={folder / 'prepare' / 'model'}", f"--output_dir={folder / 'sft'}"]
    demonstrations = folder / "prepare" / "demonstrations.jsonl"
    run("sft", ["--config=arithmetic/sft", f"--data={demonstrations}", *given, "--use_cpu=true"])
    return folder / "sft"


def first_error(solution: Solution) -> int | None:
    return next((step for step, label in enumerate(solution.labels) if label == 0), None)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--policy")
    parser.add_argument("--solutions", type=int, default=100)
    parser.add_argument("--rollouts", type=int, default=16)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        policy = given.policy or train(folder)
        data, out = folder / "samples.jsonl", folder / "labelled.jsonl"
        write_rows(data, (s.to_row() for s in Arithmetic().demonstrations(given.solutions, seed=1)))
        run("label", [f"--data={data}", f"--out={out}", "--task=arithmetic"])
        exact = [first_error(solution) for solution in read_solutions(out)]
        print(f"{given.solutions} solutions, {given.rollouts} rollouts; first error as the checker has it")
        for way, options in WAYS.items():
            rollouts = [
                "--by=monte_carlo", f"--policy={policy}", f"--rollouts={given.rollouts}", "--max_new_tokens=64"
            ]  # fmt: skip
            metrics = run("label", [f"--data={data}", f"--out={out}", "--task=arithmetic", *rollouts, *options])
            actual = [first_error(solution) for solution in read_solutions(out)]
            agreed = sum(one == other for one, other in zip(actual, exact, strict=True)) / len(exact)
            used = f"{metrics['rollouts']:7} rollouts {metrics['rollout_tokens']:8} tokens"
            print(f"  {way:34} {used}  agreement {agreed:.2f}")


if __name__ == "__main__":
    main()
