"""Sampling a policy: N solutions of every problem, a batch at a time."""

from collections.abc import Sequence
from dataclasses import asdict

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from rlstep.policy.end_tokens import stop_tokens
from rlstep.runtime.record import digest
from rlstep.runtime.units import Unit
from rlstep.steps.prompts import PromptFormat
from rlstep.steps.records import Problem, Solution

Batch = list[tuple[Problem, int]]  # (problem, the number of the sample among those of its problem)


class SampledBatches:
    """The batches of a run: each problem is sampled `n` times, one problem after the other.

    Batches are made on demand, so that a million samples are never in one list.

    Args:
        problems: in order.
        n: samples of each.
        batch_size: samples of a batch.
    """

    def __init__(self, problems: Sequence[Problem], n: int, batch_size: int):
        self.problems, self.n, self.batch_size = problems, n, batch_size

    def __len__(self) -> int:
        return -(-len(self.problems) * self.n // self.batch_size)

    def __getitem__(self, number: int) -> Batch:
        return [(self.problems[place // self.n], place % self.n) for place in self._places(number)]

    def units(self, made_by: str, seed: int) -> list[Unit]:
        """The units of work that the batches are.

        A batch's key depends on its number, which its seed is made of, and on what is sampled in it, but not on other
        batches: after a problem was mended, the batches without it are still what they were.

        Args:
            made_by: a digest of the policy and the settings.
            seed: the run's.
        """
        contents = [digest(asdict(problem)) for problem in self.problems]
        units = []
        for number in range(len(self)):
            places = self._places(number)
            sampled = [contents[index] for index in range(places[0] // self.n, places[-1] // self.n + 1)]
            key = digest(made_by, batch_seed(seed, number), sampled, places[0] % self.n, self.n, len(places))
            units.append(Unit(number, key, len(places)))
        return units

    def _places(self, number: int) -> range:
        start = number * self.batch_size
        return range(start, min(start + self.batch_size, len(self.problems) * self.n))


def batch_seed(seed: int, number: int) -> int:
    """A batch's own seed: its samples do not depend on which process draws them, nor on what was drawn before."""
    return seed * 1_000_003 + number


@torch.inference_mode()
def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    batch: Batch,
    prompt_format: PromptFormat,
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
) -> list[Solution]:
    """One solution for each (problem, sample) of a batch, in its order.

    Args:
        model: the policy; its generation configuration is replaced by these settings.
        tokenizer: pads on the left.
        prompt_format: how problems become what the policy reads; the solutions say so.
        temperature: 0 takes the likeliest token, and neither `top_p` nor `top_k` is read.
        top_p: sample from the smallest set of tokens with this mass.
        top_k: sample from the k likeliest tokens; 0 is all.
    """
    ids = prompt_format.encode(tokenizer, [problem.prompt for problem, _ in batch])
    prompts = tokenizer.pad({"input_ids": ids}, return_tensors="pt").to(model.device)
    stops = set_sampling(
        model, tokenizer, max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, top_k=top_k
    )
    ids_BT = model.generate(**prompts)[:, prompts["input_ids"].shape[1] :]
    finished_B = torch.isin(ids_BT, torch.tensor(stops, device=ids_BT.device)).any(dim=1).tolist()
    texts = tokenizer.batch_decode(ids_BT, skip_special_tokens=True)
    return solutions_of(batch, texts, finished_B, drawn_tokens(ids_BT, stops).tolist(), prompt_format)


def drawn_tokens(ids_BT: torch.Tensor, stops: Sequence[int]) -> torch.Tensor:
    """(B,) how many of each row's tokens were drawn: up to its first end token, itself included; the rest is padding.

    >>> drawn_tokens(torch.tensor([[5, 6, 2, 0], [5, 6, 7, 8]]), stops=[2]).tolist()
    [3, 4]
    """
    ended_BT = torch.isin(ids_BT, torch.tensor(stops, device=ids_BT.device))
    return (ended_BT.cumsum(dim=1) - ended_BT.long() == 0).sum(dim=1)


def solutions_of(
    batch: Batch,
    texts: Sequence[str],
    finished: Sequence[bool],
    tokens: Sequence[int | None],
    prompt_format: PromptFormat,
) -> list[Solution]:
    """The solutions that a batch's completions are.

    Args:
        texts: the completions, without special tokens.
        finished: whether the model ended each of them.
        tokens: how many were generated for each; None where that is not known.
        prompt_format: how the prompts were written.
    """
    written = prompt_format.to_dict()
    return [
        Solution(
            problem.id,
            problem.prompt,
            text,
            problem.reference,
            sample=index,
            finished=ended,
            prompt_format=written,
            extra=problem.extra,
            generated_tokens=drawn,
        )
        for (problem, index), text, ended, drawn in zip(batch, texts, finished, tokens, strict=True)
    ]


def set_sampling(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    top_k: int,
) -> list[int]:
    """Replaces the model's generation configuration by these settings; returns the tokens that end a completion.

    Nothing of the old one is kept, because `generate` takes from it what it is not given, for example a chat model's
    repetition penalty.
    """
    stops = stop_tokens(model, tokenizer)
    sampling = {"temperature": temperature, "top_p": top_p, "top_k": top_k}
    model.generation_config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=temperature > 0,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=stops,
        **(sampling if temperature > 0 else {}),
    )
    return stops
