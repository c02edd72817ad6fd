"""PPO with step rewards: what an update takes, and what dense rewards cost over a plain GRPOTrainer.

`--work full` runs ours alone and prints the work that was done, to be held against any other PPO trainer on the same
machine: a LoRA policy, its reference, a critic and a PRM, 64 completions of 128 tokens an update, four epochs over
them. Policy, reference, critic and PRM stand on one base.

`--work dense` runs a plain GRPOTrainer and ours on the same model, prompts and samples, one update each in turn. Both
are paid from a script, so that neither asks a PRM or a critic: what is left is the price of finding steps in tokens, of
token advantages and of the metrics.

`--work update` runs a plain GRPOTrainer and ours on the same completions, an update each in turn, without their
generation (`tests/benchmarks/update.py`): at lengths like those of GSM8K, with long prompts, and with rows that have
neither padding nor anything to share. It verifies that gradients are equal and prints the ratio (plain over ours), the
seconds, the memory and the useful operations; on a GPU also tokens per second and the model FLOP utilisation. Times on
a CPU are those of one thread. `--tokens N` gives ours a budget of tokens, and `--plain-micro N` the plain trainer other
micro-batches where its rows do not fit: the gradients stay the same.

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
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import torch
from transformers import AutoConfig, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

from rlstep.policy.config import StepPPOConfig
from rlstep.policy.rewards.scored import ScoredCompletion
from rlstep.policy.trainer import StepPPOTrainer
from rlstep.steps.boundaries import line_steps
from tests.benchmarks.trainers import NEW_TOKENS, ROWS, SHAPES, arguments, base, lora, prompts, tokenizer, updates_of
from tests.benchmarks.update import SAMPLES, SIDES, WORK, Setting, draw, memory, timed, useful_flops


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
        self.marks, self.cpu_marks, generate = [], [], trainer._generate_and_score_completions

        def timed(inputs):
            if trainer.model.training:
                self.marks.append(time.perf_counter())
                self.cpu_marks.append(time.process_time())
            return generate(inputs)

        trainer._generate_and_score_completions = timed

    def updates(self, marks: list[float] | None = None) -> list[float]:
        """The first update warms up and is left out; so is the last, which has no next one."""
        marks = self.marks if marks is None else marks
        return [b - a for a, b in zip(marks[1:], marks[2:], strict=False)]


def full(folder: Path, updates: int, epochs: int, micro: int, critic: str) -> dict:
    from rlstep.policy.models import load_base
    from rlstep.verifiers.load import load_verifier
    from rlstep.verifiers.shared_base import Base

    path = base(folder)
    adapter = prm_adapter(folder, path)
    args = arguments(StepPPOConfig, folder, updates + 2, epochs, micro, advantage="gae", critic=critic)
    model = load_base(path, args)
    base_elements = storage(model)
    verifier = load_verifier(adapter, base=Base(model, path))
    scoring: list[float] = []

    def source(asked, completions, references):
        steps = [line_steps(text) for text in completions]
        start = time.process_time()
        scores = verifier.score(asked, completions, steps)
        scoring.append(time.process_time() - start)
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
        "cpu_seconds_an_update": (cpu := statistics.median(clock.updates(clock.cpu_marks))),
        # All threads' time on both sides of the ratio.
        "share_of_the_prm": statistics.median(scoring[1:]) / cpu,
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
    actual = []
    for text in completions:
        steps = line_steps(text)
        rewards = [(end - start) % 7 / 7 for start, end in steps]
        actual.append(ScoredCompletion(steps, rewards, float(len(text) % 2), False, False))
    return actual


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
    medians = {name: statistics.median(actual[1:]) for name, actual in seconds.items()}
    return {"seconds_an_update": medians, "ratio": medians["ours"] / medians["plain"], "updates": updates}


def update(options, folder: Path) -> dict:
    """One kind of work: ratio and seconds, and each side's memory from a process of its own."""
    model = base(folder, options.shape, options.device)
    words, lengths = AutoTokenizer.from_pretrained(model), WORK[options.lengths]
    count = options.rows // SAMPLES
    problems = draw(lengths, count * (options.updates + 1), len(words), words.eos_token_id)
    batches = [problems[start : start + count] for start in range(0, len(problems), count)]
    setting = Setting(
        folder, model, words, batches, lengths.cap, options.epochs, options.micro, options.device, options.attention,
        options.tokens, options.plain_micro,
    )  # fmt: skip
    if options.memory_of:
        return {"bytes": memory(replace(setting, batches=batches[:1]), options.memory_of)}
    # First, while this process holds no trainers: both sides' and a child's together may not fit.
    used = {side: _child(["--memory-of", side, "--lengths", options.lengths])["bytes"] for side in SIDES}
    result = timed(setting)
    config = AutoConfig.from_pretrained(model)
    adapter = sum(p.numel() for p in setting.trainer("plain").model.parameters() if p.requires_grad)
    flops = statistics.median(useful_flops(config, batch, adapter, options.epochs) for batch in batches[1:])
    seconds = result["cpu_seconds" if options.device == "cpu" else "wall_seconds"]
    result |= {
        "memory_mib": {side: size / 2**20 for side, size in used.items()},
        "memory_ratio": used["ours"] / used["plain"],
        "useful_gflop": flops / 1e9,
        "useful_gflop_per_second": {side: flops / 1e9 / seconds[side] for side in SIDES},
    }
    if options.device == "cuda":
        tokens = statistics.median(sum(len(t) for p in batch for t in p.completions) for batch in batches[1:])
        result["completion_tokens_per_second"] = {side: tokens / seconds[side] for side in SIDES}
        result["model_flop_utilisation"] = {side: flops / seconds[side] / 1e12 / options.peak_tflops for side in SIDES}
    return result


def _child(more: list[str]) -> dict:
    """What this benchmark prints in a process of its own, whose peak memory is the run's."""
    command = [sys.executable, "-m", "tests.benchmarks.bench_ppo", *sys.argv[1:], *more, "--child"]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def options_of(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line's, with what their defaults depend on."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", choices=("full", "dense", "update"), required=True)
    parser.add_argument("--updates", type=int, default=3, help="timed ones; full, dense: two more warm up and end it")
    parser.add_argument("--epochs", type=int, help="full, update: PPO epochs over a batch; by default 4 and 1")
    parser.add_argument("--micro", type=int, help="rows a forward pass; by default 4, update: 8")
    parser.add_argument("--critic", choices=("adapter", "head"), default="adapter", help="full: of gae")
    parser.add_argument("--rows", type=int, default=ROWS, help="update: completions an update")
    parser.add_argument("--shape", choices=SHAPES, default="6m", help="update: the policy's")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="update")
    parser.add_argument("--attention", default="sdpa", help="update: of ours, for example flex_attention on a GPU")
    parser.add_argument("--tokens", type=int, help="update: tokens_per_device of ours; by default none")
    parser.add_argument("--plain-micro", type=int, help="update: rows a forward pass of the plain trainer")
    parser.add_argument("--peak-tflops", type=float, default=989, help="the GPU's in bfloat16; by default an H100's")
    parser.add_argument("--lengths", choices=WORK, help="update: one kind of lengths alone")
    parser.add_argument("--memory-of", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.epochs = options.epochs or (1 if options.work == "update" else 4)
    options.micro = options.micro or (8 if options.work == "update" else 4)
    if options.work != "update" and (options.tokens or options.plain_micro):
        parser.error(f"--tokens and --plain-micro are of --work update, and do nothing in --work {options.work}")
    if options.plain_micro and options.rows % options.plain_micro:
        parser.error(f"{options.rows} rows are not a multiple of --plain-micro {options.plain_micro}")
    return options


def main() -> None:
    options = options_of()
    if options.device == "cpu":
        torch.set_num_threads(1)
    if not options.child:
        if options.work == "update":
            kinds = [options.lengths] if options.lengths else list(WORK)
            actual = {kind: _child(["--lengths", kind]) for kind in kinds}
        else:
            actual = _child([])
        print(json.dumps(actual, indent=2))
        return
    # Standard output is for the result.
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(sys.stderr):
        if options.work == "full":
            actual = full(Path(folder), options.updates, options.epochs, options.micro, options.critic)
        elif options.work == "dense":
            actual = dense(Path(folder), options.updates, options.micro)
        else:
            actual = update(options, Path(folder))
    sizes = {"new_tokens": NEW_TOKENS} if options.work != "update" else {"shape": options.shape}
    sizes |= {name: value for name in ("tokens", "plain_micro") if (value := getattr(options, name)) is not None}
    print(json.dumps({"rows": options.rows, **sizes, "micro_batch": options.micro, **actual}))


if __name__ == "__main__":
    main()
