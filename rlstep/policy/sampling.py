"""Sampling a policy: N solutions of every problem, a batch at a time."""

from collections.abc import Iterator

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from rlstep.steps.records import Problem, Solution

Batch = list[tuple[Problem, int]]  # (problem, the number of the sample among those of its problem)


def batches(problems: list[Problem], n: int, batch_size: int, done: int) -> Iterator[tuple[int, Batch]]:
    """(number, batch) of each batch that is not written whole yet.

    Args:
        problems: each is sampled `n` times, one problem after the other.
        done: solutions that are written already; they may end within a batch.
    """
    pairs = [(problem, index) for problem in problems for index in range(n)]
    for number, start in enumerate(range(0, len(pairs), batch_size)):
        batch = pairs[start : start + batch_size]
        if start + len(batch) > done:
            yield number, batch


@torch.inference_mode()
def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    batch: Batch,
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
        temperature: 0 takes the likeliest token, and neither `top_p` nor `top_k` is read.
        top_p: sample from the smallest set of tokens with this mass.
        top_k: sample from the k likeliest tokens; 0 is all.
    """
    prompts = tokenizer([problem.prompt for problem, _ in batch], return_tensors="pt", padding=True).to(model.device)
    prompts.pop("token_type_ids", None)
    stops = model.generation_config.eos_token_id or tokenizer.eos_token_id
    stops = stops if isinstance(stops, list) else [stops]
    sampling = {"temperature": temperature, "top_p": top_p, "top_k": top_k}
    # As the model's own, because `generate` takes from there what it is not given: a chat model's repetition penalty.
    model.generation_config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=temperature > 0,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=stops,
        **(sampling if temperature > 0 else {}),
    )
    ids_BT = model.generate(**prompts)[:, prompts["input_ids"].shape[1] :]
    finished_B = torch.isin(ids_BT, torch.tensor(stops, device=ids_BT.device)).any(dim=1).tolist()
    texts = tokenizer.batch_decode(ids_BT, skip_special_tokens=True)
    return [
        Solution(
            problem.id, problem.prompt, text, problem.reference, sample=index, finished=finished, extra=problem.extra
        )
        for (problem, index), text, finished in zip(batch, texts, finished_B, strict=True)
    ]
