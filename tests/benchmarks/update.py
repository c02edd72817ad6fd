"""An update of ours and of a plain GRPOTrainer on the same completions, without their generation.

What is timed is everything from completions on: the batch, old and reference log-probabilities, loss, backward pass and
optimizer. Both sides train the same adapter on the same rows under the same advantages, and the gradients of the first
update are compared before anything is timed.
"""

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from transformers import set_seed
from trl import GRPOConfig, GRPOTrainer

from rlstep.policy.config import StepPPOConfig
from rlstep.policy.rewards.scored import ScoredCompletion
from rlstep.policy.trainer import StepPPOTrainer
from rlstep.steps.boundaries import line_steps
from tests.benchmarks.trainers import arguments, lora, updates_of

SAMPLES = 8  # of a problem
FIRST_PIECE = 300  # tokens from here on are pieces that decode and encode one to one
SIDES = ("plain", "ours")


@dataclass(frozen=True)
class Lengths:
    """How long prompts and completions are, log-normally: mean and sigma, and the completions' cap."""

    prompt: tuple[float, float]
    completion: tuple[float, float]
    cap: int

    def draw(self, rng, what: str, count: int) -> list[int]:
        mean, sigma = getattr(self, what)
        lengths = rng.lognormal(np.log(mean) - sigma**2 / 2, sigma, count).round().astype(int)
        return np.clip(lengths, 2, self.cap if what == "completion" else 2 * int(mean)).tolist()


WORK = {
    "gsm8k": Lengths(prompt=(100, 0.3), completion=(120, 0.6), cap=384),
    "long_prompts": Lengths(prompt=(800, 0.1), completion=(120, 0.6), cap=384),
    "fixed": Lengths(prompt=(32, 0), completion=(128, 0), cap=128),
}


@dataclass(frozen=True)
class Problem:
    """One prompt and its samples, as tokens."""

    prompt: list[int]
    completions: list[list[int]]


def draw(lengths: Lengths, problems: int, vocabulary: int, end: int, seed: int = 0) -> list[Problem]:
    """Random problems; a completion that is shorter than the cap closes with the end token."""
    rng = np.random.default_rng(seed)

    def words(count: int) -> list[int]:
        return rng.integers(FIRST_PIECE, vocabulary, count).tolist()

    def completion(length: int) -> list[int]:
        return words(length) if length == lengths.cap else [*words(length - 1), end]

    return [
        Problem(words(prompt), [completion(length) for length in lengths.draw(rng, "completion", SAMPLES)])
        for prompt in lengths.draw(rng, "prompt", problems)
    ]


def useful_flops(config, problems: list[Problem], adapter_parameters: int, epochs: int) -> int:
    """Floating-point operations of an update that computes each distinct token once, and nothing else.

    Once per token: a prompt's for all of its samples together, each completion's for itself. A matrix of n parameters
    takes 2n operations per token. Two places that see each other take 4 x heads x head size in a layer's attention (the
    score, and the value that it weighs), and a token sees itself and what stands before it in its row. The head reads
    the place before each completion token alone.

    A forward pass takes this once; gradients by activations take it once more, twice in the attention, whose both
    factors are activations. The adapter's matrices take 2n for their outputs, 2n for their inputs' gradients and 2n for
    their own; frozen weights have no gradient. An update is `epochs` such passes and the reference's forward pass
    without the adapter, and with more than one epoch one more forward pass for the log-probabilities at the start.

    Args:
        config: of a Llama-like model with tied embeddings.
        problems: the update's.
        adapter_parameters: those of the LoRA adapter.
        epochs: passes with a gradient.
    """
    head_size = config.hidden_size // config.num_attention_heads
    queries, keys = config.num_attention_heads * head_size, config.num_key_value_heads * head_size
    layer = config.hidden_size * (2 * queries + 2 * keys + 3 * config.intermediate_size)
    tokens = asked = seen = 0
    for problem in problems:
        P = len(problem.prompt)
        tokens += P
        seen += P * (P + 1) // 2
        for completion in problem.completions:
            T = len(completion)
            # Nothing is asked of a completion's last token.
            tokens += T - 1
            asked += T
            seen += (T - 1) * P + (T - 1) * T // 2
    linear = 2 * (config.num_hidden_layers * layer * tokens + config.hidden_size * config.vocab_size * asked)
    attention = 4 * config.num_hidden_layers * queries * seen
    adapter = 2 * adapter_parameters * tokens
    training = 2 * linear + 3 * attention + 3 * adapter
    starting = linear + attention + adapter if epochs > 1 else 0
    return epochs * training + starting + linear + attention


def outcomes(completions: list[str]) -> list[float]:
    """Something that varies, for nothing."""
    return [float(len(text) % 5) for text in completions]


def step_source(_, completions: list[str], references) -> list[ScoredCompletion]:
    """Pays the outcome alone, so that advantages are those of GRPO; steps are found all the same."""
    return [
        ScoredCompletion(steps, [0.0] * len(steps), outcome, False, False)
        for steps, outcome in zip(map(line_steps, completions), outcomes(completions), strict=True)
    ]


@dataclass(frozen=True)
class Setting:
    """What both sides are trained with.

    Attributes:
        folder: for what trainers write.
        model: path of the policy's base.
        words: its tokenizer.
        batches: the problems of each update, all of equally many rows.
        cap: the longest completion.
        epochs: optimizer steps over each batch.
        micro: rows in a forward pass.
        device: cpu or cuda.
        attention: what ours computes its attention with; plain takes sdpa.
        tokens: `tokens_per_device` of ours.
        plain_micro: rows in a forward pass of plain, where it is to be another number.
    """

    folder: Path
    model: str
    words: object
    batches: list[list[Problem]]
    cap: int
    epochs: int
    micro: int
    device: str
    attention: str = "sdpa"
    tokens: int | None = None
    plain_micro: int | None = None

    @property
    def rows(self) -> int:
        return SAMPLES * len(self.batches[0])

    def trainer(self, side: str) -> GRPOTrainer:
        """A trainer whose policy writes the given completions."""
        problems = [problem for batch in self.batches for problem in batch]
        texts = [{"prompt": self.words.decode(problem.prompt), "reference": ""} for problem in problems]
        if side == "ours":
            kind, micro, attention, own = StepPPOConfig, self.micro, self.attention, {"tokens_per_device": self.tokens}
        else:
            kind, micro, attention, own = GRPOConfig, self.plain_micro or self.micro, "sdpa", {}
        args = arguments(
            kind, self.folder, len(self.batches), self.epochs, micro, rows=self.rows, new_tokens=self.cap,
            scale_rewards="none", use_cpu=self.device == "cpu", bf16=self.device == "cuda",
            model_init_kwargs={"attn_implementation": attention}, **own,
        )  # fmt: skip
        # The same random matrices on both sides, none of them zero, so that all have gradients from the start.
        adapter = lora()
        adapter.init_lora_weights = False
        set_seed(1)
        common = {"processing_class": self.words, "peft_config": adapter}
        if side == "ours":
            trainer = StepPPOTrainer(self.model, step_source, args, Dataset.from_list(texts), **common)
        else:
            trainer = GRPOTrainer(
                self.model, lambda completions, **_: outcomes(completions), args, Dataset.from_list(texts), **common
            )
        samples = {tuple(problem.prompt): problem.completions for problem in problems}

        def write(prompts, images, fields, num_generations, *_):
            written = [samples[tuple(prompt)] for prompt in prompts[::SAMPLES]]
            return [list(completion) for of_one in written for completion in of_one], None

        trainer._generate_single_turn = write
        return trainer


def gradients(trainer) -> torch.Tensor:
    """All of the adapter's, as one vector."""
    return torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None]).detach().clone()


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def timed(setting: Setting) -> dict:
    """Both sides in one process, an update each in turn, so that a slow minute of the machine hits both."""
    trainers = {side: setting.trainer(side) for side in SIDES}
    grads: dict[str, torch.Tensor] = {}
    loops = {
        side: updates_of(trainer, setting.epochs, _once(lambda t, side=side: grads.update({side: gradients(t)})))
        for side, trainer in trainers.items()
    }
    cpu, wall = ({side: [] for side in SIDES} for _ in range(2))
    for number in range(len(setting.batches)):
        # Who goes first changes, so that neither always finds the machine as the other left it.
        for side in SIDES[:: 1 - 2 * (number % 2)]:
            cpu_start, start = time.process_time(), time.perf_counter()
            next(loops[side])
            synchronize(setting.device)
            cpu[side].append(time.process_time() - cpu_start)
            wall[side].append(time.perf_counter() - start)
            print(f"update {number}, {side}: {cpu[side][-1]:.1f} CPU s, {wall[side][-1]:.1f} s", flush=True)
    clock = cpu if setting.device == "cpu" else wall
    # The first update warms up.
    ratios = [plain / ours for plain, ours in zip(clock["plain"][1:], clock["ours"][1:], strict=True)]
    norms = {side: float(grads[side].norm()) for side in SIDES}
    return {
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "cpu_seconds": {side: statistics.median(actual[1:]) for side, actual in cpu.items()},
        "wall_seconds": {side: statistics.median(actual[1:]) for side, actual in wall.items()},
        "gradient_norm": norms,
        "gradient_difference": float((grads["plain"] - grads["ours"]).norm()) / norms["plain"],
    }


def _once(call: Callable) -> Callable:
    """Calls it the first time alone."""
    left = [call]
    return lambda argument: left.pop()(argument) if left else None


def memory(setting: Setting, side: str) -> int:
    """Bytes that one side's updates take at most, above what is there once its trainer is built."""
    trainer = setting.trainer(side)
    loop = updates_of(trainer, setting.epochs)
    gc.collect()
    if setting.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        floor = torch.cuda.memory_allocated()
    else:
        Path("/proc/self/clear_refs").write_text("5")  # the peak is now what is resident
        floor = _resident_peak()
    for _ in setting.batches:
        next(loop)
    return (torch.cuda.max_memory_allocated() if setting.device == "cuda" else _resident_peak()) - floor


def _resident_peak() -> int:
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 1024
