"""PPO with step rewards: what an update takes, and what dense rewards cost over a plain GRPOTrainer.

`--work full` runs ours alone and prints the work that was done, to be held against any other PPO trainer on the same
machine: a LoRA policy, its reference, a critic and a PRM, 64 completions of 128 tokens an update, four epochs over
them. Policy, reference, critic and PRM stand on one base.

`--work dense` runs a plain GRPOTrainer and ours on the same model, prompts and samples, one update each in turn. Both
are paid from a script, so that neither asks a PRM or a critic: what is left is the price of finding steps in tokens, of
token advantages and of the metrics.

Run: python -m tests.benchmarks.bench_ppo --work full
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from trl import GRPOConfig, GRPOTrainer

from rlstep.policy.config import StepPPOConfig
from rlstep.policy.rewards.scored import ScoredCompletion
from rlstep.policy.trainer import StepPPOTrainer
from rlstep.steps.boundaries import line_steps
from tests.benchmarks.trainers import NEW_TOKENS, ROWS, arguments, base, lora, prompts, tokenizer, updates_of


def prm_adapter(folder: Path, model: str) -> str:
    """A PRM kept as an adapter on the same base, after one step of training."""
    from rlstep.stages.prm import PRMConfig, prm
    from rlstep.steps.records import Solution, write_solutions
    from rlstep.verifiers.training.arguments import VerifierArguments

    rows = []
    for n in range(16):
        text = f" t{n}0\n t{n}\n"
        spans = line_steps(text)
        rows.append(Solution(f"p{n}", " t1", text, "", steps=spans, labels=[1, n % 2][: len(spans)]))
    write_solutions(folder / "rows.jsonl", rows)
    config = PRMConfig(model, str(folder / "rows.jsonl"), use_peft=True, merge_adapter=False)
    prm(
        config,
        VerifierArguments(str(folder / "prm"), max_steps=1, use_cpu=True, bf16=False, disable_tqdm=True,
                          save_strategy="no", dataloader_pin_memory=False),
    )  # fmt: skip
    return str(folder / "prm")


def peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def storage(*models) -> int:
    """Elements of all parameters, each storage once."""
    return sum({p.data_ptr(): p.numel() for model in models for p in model.parameters()}.values())


class Clock:
    """Seconds from one generated batch to the next."""

    def __init__(self, trainer):
        self.marks, generate = [], trainer._generate_and_score_completions

        def timed(inputs):
            if trainer.model.training:
                self.marks.append(time.perf_counter())
            return generate(inputs)

        trainer._generate_and_score_completions = timed

    def updates(self) -> list[float]:
        """The first update warms up and is left out; so is the last, which has no next one."""
        return [b - a for a, b in zip(self.marks[1:], self.marks[2:], strict=False)]


def full(folder: Path, updates: int, epochs: int, micro: int) -> dict:
    from rlstep.policy.models import load_base
    from rlstep.verifiers.load import load_verifier
    from rlstep.verifiers.shared_base import Base

    path = base(folder)
    adapter = prm_adapter(folder, path)
    args = arguments(StepPPOConfig, folder, updates + 2, epochs, micro, advantage="gae")
    model = load_base(path, args)
    base_elements = storage(model)
    verifier = load_verifier(adapter, base=Base(model, path))

    def source(asked, completions, references):
        steps = [line_steps(text) for text in completions]
        scores = verifier.score(asked, completions, steps)
        return [
            ScoredCompletion(s, [2 * p - 1 for p in row], 0.0, False, False, row)
            for s, row in zip(steps, scores, strict=True)
        ]

    words = tokenizer()
    trainer = StepPPOTrainer(
        model, source, args, prompts(words, 8 * (updates + 2)), processing_class=words, peft_config=lora()
    )
    clock = Clock(trainer)
    trainer.train()
    log = [row for row in trainer.state.log_history if "loss" in row]
    return {
        "seconds_an_update": statistics.median(clock.updates()),
        "peak_gib": peak_gib(),
        "base_parameters": base_elements,
        "all_parameters": storage(trainer.model, verifier.model),
        "completion_tokens": log[-1]["completions/mean_length"] * ROWS,
        "steps_a_completion": log[-1]["steps/count"],
        "kl": log[-1]["kl"],
        "value_loss": log[-1]["critic/value_loss"],
        "optimizer_steps_an_update": epochs,
        "rows_scored_by_the_prm": verifier.rows_scored,
    }


def scripted(completions) -> list[ScoredCompletion]:
    """Step rewards by the length of a step's text: something that varies, for nothing."""
    found = []
    for text in completions:
        steps = line_steps(text)
        rewards = [(end - start) % 7 / 7 for start, end in steps]
        found.append(ScoredCompletion(steps, rewards, float(len(text) % 2), False, False))
    return found


def dense(folder: Path, updates: int, micro: int) -> dict:
    """Both trainers in one process, an update each in turn, so that a slow minute of the machine hits both."""
    path, words = base(folder), tokenizer()
    data = prompts(words, 8 * (updates + 2))

    def outcome(completions, **_):
        return [sum(row.step_rewards) + row.outcome for row in scripted(completions)]

    plain = GRPOTrainer(
        path, outcome, arguments(GRPOConfig, folder, updates + 2, 1, micro, scale_rewards="none"), data,
        processing_class=words, peft_config=lora(),
    )  # fmt: skip
    ours = StepPPOTrainer(
        path, lambda _, completions, __: scripted(completions), arguments(StepPPOConfig, folder, updates + 2, 1, micro),
        data, processing_class=words, peft_config=lora(),
    )  # fmt: skip
    seconds = {"plain": [], "ours": []}
    loops = {name: updates_of(trainer) for name, trainer in (("plain", plain), ("ours", ours))}
    for number in range(updates + 1):
        # Who goes first changes, so that neither always finds the machine as the other left it.
        for name in sorted(loops, reverse=number % 2 == 1):
            start = time.perf_counter()
            next(loops[name])
            seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(found[1:]) for name, found in seconds.items()}
    return {"seconds_an_update": medians, "ratio": medians["ours"] / medians["plain"], "updates": updates}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", choices=("full", "dense"), required=True)
    parser.add_argument("--updates", type=int, default=3, help="timed ones; two more warm up and end the run")
    parser.add_argument("--epochs", type=int, default=4, help="full: PPO epochs over a batch")
    parser.add_argument("--micro", type=int, default=4, help="rows a forward pass")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.child:
        # A process of its own, whose peak memory is the run's.
        subprocess.run([sys.executable, "-m", "tests.benchmarks.bench_ppo", *sys.argv[1:], "--child"], check=True)
        return
    with tempfile.TemporaryDirectory() as folder:
        if options.work == "full":
            found = full(Path(folder), options.updates, options.epochs, options.micro)
        else:
            found = dense(Path(folder), options.updates, options.micro)
    print(json.dumps({"rows": ROWS, "new_tokens": NEW_TOKENS, "micro_batch": options.micro, **found}, indent=2))


if __name__ == "__main__":
    main()
