"""The `sample` stage: N solutions a problem, written as they come; a killed run continues where it stopped."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from rlstep.policy.models import check_prompt_lengths, device, load_policy, load_policy_tokenizer
from rlstep.runtime.checkpoints import checkpoint_files
from rlstep.runtime.errors import UserError
from rlstep.runtime.progress import track
from rlstep.runtime.record import RunRecord, digest
from rlstep.runtime.rows import ResumableRows
from rlstep.steps.records import Problem, Solution, read_problems
from rlstep.verifiers.model import max_positions


@dataclass
class SampleConfig:
    model: str = field(metadata={"help": "Hub id or folder of the policy: a causal LM or a LoRA adapter."})
    problems: str = field(metadata={"help": "Problems (JSONL)."})
    out: str = field(metadata={"help": "Where the solutions go (JSONL)."})
    n: int = field(default=1, metadata={"help": "Solutions a problem."})
    temperature: float = field(default=1.0, metadata={"help": "Sampling temperature; 0 is greedy."})
    top_p: float = field(default=1.0, metadata={"help": "Nucleus: sample from the smallest set with this mass."})
    top_k: int = field(default=0, metadata={"help": "Sample from the k likeliest tokens; 0 is all."})
    max_new_tokens: int = field(default=512, metadata={"help": "Longest completion, in tokens."})
    batch_size: int = field(default=512, metadata={"help": "Solutions generated at a time."})
    seed: int = field(default=0, metadata={"help": "Seed of the sampling."})
    dtype: str = field(default="auto", metadata={"help": "auto, float32, bfloat16 or float16."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Run model code from the hub."})

    def __post_init__(self):
        for name, low in {"n": 1, "batch_size": 1, "max_new_tokens": 1, "temperature": 0, "top_k": 0}.items():
            if getattr(self, name) < low:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least {low}.")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p is {self.top_p}; it must be above 0 and at most 1.")
        if self.temperature == 0 and self.n > 1:
            raise UserError(
                f"temperature 0 gives one solution {self.n} times over; set n to 1, or temperature above 0."
            )


def sample(config: SampleConfig) -> dict:
    """Samples `config.n` solutions of every problem into `config.out`."""
    problems = read_problems(config.problems)
    out = Path(config.out)
    fingerprint = digest(asdict(config), [asdict(problem) for problem in problems], checkpoint_files(config.model))
    with (
        RunRecord("sample", asdict(config), out.parent, config.seed, name=out.name + ".run.json") as record,
        ResumableRows(out, fingerprint) as rows,
    ):
        done, total = len(rows.rows), len(problems) * config.n
        if done < total:
            tokenizer = load_policy_tokenizer(config.model, config.trust_remote_code)
            model = load_policy(config.model, config.dtype, config.trust_remote_code).to(device()).eval()
            lengths = {p.id: len(tokenizer(p.prompt)["input_ids"]) for p in problems}
            check_prompt_lengths(lengths, config.max_new_tokens, max_positions(model.config))
            jobs, whole = _jobs(problems, config, done), done - done % config.batch_size
            for number, batch in track(jobs, "sampling", total, whole, weight=lambda job: len(job[1])):
                # A batch's own seed: the rows after a kill are those the uninterrupted run would have written.
                torch.manual_seed(config.seed * 1_000_003 + number)
                solutions = _generate(model, tokenizer, batch, config)
                # A kill may have cut a batch in two: then its first rows are there already.
                written = len(rows.rows) - number * config.batch_size
                rows.append(solution.to_row() for solution in solutions[written:])
        rows.finish()
        finished = sum(row["finished"] for row in rows.rows)
        record.metrics |= {"problems": len(problems), "solutions": total, "finished": finished / total}
    return record.metrics


def _jobs(problems: list[Problem], config: SampleConfig, done: int) -> Iterator[tuple[int, list[tuple[Problem, int]]]]:
    """(number, [(problem, sample)]) of each batch that is not yet written whole."""
    pairs = [(problem, index) for problem in problems for index in range(config.n)]
    for number, start in enumerate(range(0, len(pairs), config.batch_size)):
        batch = pairs[start : start + config.batch_size]
        if start + len(batch) > done:
            yield number, batch


@torch.inference_mode()
def _generate(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch: list[tuple[Problem, int]], config: SampleConfig
) -> list[Solution]:
    prompts = tokenizer([problem.prompt for problem, _ in batch], return_tensors="pt", padding=True).to(model.device)
    prompts.pop("token_type_ids", None)
    stops = model.generation_config.eos_token_id or tokenizer.eos_token_id
    stops = stops if isinstance(stops, list) else [stops]
    sampling = {"temperature": config.temperature, "top_p": config.top_p, "top_k": config.top_k}
    # As the model's own, because `generate` takes from there what it is not given: a chat model's repetition penalty.
    model.generation_config = GenerationConfig(
        max_new_tokens=config.max_new_tokens,
        do_sample=config.temperature > 0,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=stops,
        **(sampling if config.temperature > 0 else {}),
    )
    ids_BT = model.generate(**prompts)[:, prompts["input_ids"].shape[1] :]
    finished_B = torch.isin(ids_BT, torch.tensor(stops, device=ids_BT.device)).any(dim=1).tolist()
    texts = tokenizer.batch_decode(ids_BT, skip_special_tokens=True)
    return [
        Solution(problem.id, problem.prompt, text, problem.reference, sample=index, finished=finished)
        for (problem, index), text, finished in zip(batch, texts, finished_B, strict=True)
    ]
