"""`rlstep plan` against what `sft`, `prm` and `ppo` take on a CPU: planned over measured peak, at three shapes.

Each recipe is planned from its file and then run as a user would run it, in a process of its own. Its peak is the most
resident memory while the trainer trains, above what the process held after it had trained a tiny model in the same
way: libraries and trainers take 0.1 GiB that have nothing to do with the model. Large blocks are given back to the
system as soon as they are freed, so that what is resident is what is in use. Models are random. The
policy of `ppo` is given its completions, as sampling them takes a CPU long: what is measured is the update.

Run: python -m tests.benchmarks.bench_plan
"""

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

TINY = "tiny"
STAGES = ("sft", "prm", "ppo")
ROWS, SAMPLES, LINES = 8, 8, 10
VOCABULARY, FIRST_PIECE = 8192, 300
SIZES = {
    # All weights; an adapter; all weights with activation checkpointing.
    "wide": ({"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 4, "num_attention_heads": 8,
              "num_key_value_heads": 4}, 64, 192, {}),
    "deep": ({"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 12, "num_attention_heads": 4,
              "num_key_value_heads": 4}, 64, 192, {"use_peft": True}),
    "long": ({"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 8, "num_attention_heads": 6,
              "num_key_value_heads": 2}, 128, 512, {"gradient_checkpointing": True}),
    TINY: ({"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
            "num_key_value_heads": 2}, 16, 32, {}),
}  # fmt: skip
COMMON = {
    "use_cpu": True, "bf16": False, "dtype": "float32", "gradient_checkpointing": False, "max_steps": 2,
    "per_device_train_batch_size": ROWS, "gradient_accumulation_steps": 2, "save_strategy": "no", "disable_tqdm": True,
    "dataloader_pin_memory": False,
}  # fmt: skip


def recipe_of(stage: str, shape: str, folder: Path) -> Path:
    """A model, its data and a recipe that trains it; rows are exactly as long as the plan takes them to be."""
    from transformers import AutoModelForCausalLM, Qwen2Config, set_seed

    from rlstep.steps.boundaries import line_steps
    from rlstep.steps.records import Solution, write_solutions
    from tests.benchmarks.trainers import tokenizer

    sizes, P, T, more = SIZES[shape]
    words = tokenizer(VOCABULARY)
    words.model_max_length = 4096
    set_seed(0)
    config = Qwen2Config(
        vocab_size=len(words), max_position_embeddings=2048, tie_word_embeddings=True, pad_token_id=words.pad_token_id,
        eos_token_id=words.eos_token_id, bos_token_id=None, **sizes,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(folder / "model")
    words.save_pretrained(folder / "model")

    def text(row: int, tokens: int) -> str:
        # Every tenth piece ends a line; rows differ from their first token on.
        return "".join(
            f" t{n}" + ("\n" if n % LINES == 0 else "") for n in range(100 * row + 1, 100 * row + 1 + tokens)
        )

    rows = []
    for row in range(4 * ROWS):
        # One row is a token shorter, as otherwise there is no mask.
        completion = text(row + 1, T - (row % 2) - (stage == "sft"))
        spans = line_steps(completion)
        labels = [1] * (len(spans) - 1) + [row % 2]
        rows.append(Solution(f"p{row}", text(row, P), completion, "1", steps=spans, labels=labels))
    write_solutions(folder / "rows.jsonl", rows)
    with (folder / "problems.jsonl").open("w", encoding="utf-8") as problems:
        for row in rows:
            problems.write(json.dumps({"id": row.problem_id, "prompt": row.prompt, "reference": "1"}) + "\n")
    recipe = COMMON | more | {"model_name_or_path": str(folder / "model"), "output_dir": str(folder / "out")}
    if stage == "ppo":
        recipe |= {
            "problems": str(folder / "problems.jsonl"), "task": "answers", "grader": "exact", "beta": 0.05,
            "max_completion_length": T, "num_generations": SAMPLES, "num_iterations": 1,
        }  # fmt: skip
    else:
        recipe |= {"data": str(folder / "rows.jsonl"), "max_length": P + T}
    if more.get("use_peft") and stage != "prm":
        recipe |= {"lora_target_modules": ["all-linear"], "lora_dropout": 0.0}
    file = folder / f"{stage}.yaml"
    file.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return file


def planned(recipe: Path, prompt_tokens: int) -> dict:
    """What the command says of a recipe."""
    command = [sys.executable, "-m", "rlstep", "plan", str(recipe), "--json", "--prompt_tokens", str(prompt_tokens)]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    (plan,) = json.loads(run.stdout).values()
    return plan


def measured(recipe: Path) -> float:
    """GiB of the peak, in a process of its own."""
    settings = {"MALLOC_MMAP_THRESHOLD_": str(2**20), "MALLOC_TRIM_THRESHOLD_": "0", "HF_HUB_OFFLINE": "1"}
    tiny = recipe.parent / TINY
    tiny.mkdir()
    first = recipe_of(recipe.stem, TINY, tiny)
    command = [sys.executable, "-m", "tests.benchmarks.bench_plan", "--measure", str(first), str(recipe)]
    run = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **settings})
    if run.returncode:
        raise RuntimeError(run.stderr[-3000:])
    return json.loads(run.stdout.splitlines()[-1])


def measure(first: Path, recipe: Path) -> float:
    """Runs two recipes of a stage in this process, one after the other; GiB of the second's peak above the floor."""
    import torch
    from transformers import Trainer
    from trl import GRPOTrainer

    from rlstep.stages import run

    train, peaks = Trainer.train, []

    def watched(self, *args, **options):
        Path("/proc/self/clear_refs").write_text("5")  # the peak is now what is resident
        result = train(self, *args, **options)
        peaks.append(memory("VmHWM"))
        return result

    def write(self, prompts, *_):
        ids = torch.randint(FIRST_PIECE, VOCABULARY, (len(prompts), self.max_completion_length))
        return ids.tolist(), None

    Trainer.train, GRPOTrainer._generate_single_turn = watched, write
    run(first.stem, ["--config", str(first)])
    gc.collect()
    floor = memory("VmRSS")
    run(recipe.stem, ["--config", str(recipe)])
    return (peaks[1] - floor) / 2**30


def memory(field: str) -> int:
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status[field].split()[0]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument("--shapes", nargs="+", choices=SIZES, default=[name for name in SIZES if name != TINY])
    parser.add_argument("--measure", type=Path, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(*options.measure)))
        return
    for stage in options.stages:
        for shape in options.shapes:
            with tempfile.TemporaryDirectory() as folder:
                recipe = recipe_of(stage, shape, Path(folder))
                plan = planned(recipe, SIZES[shape][1])
                peak = measured(recipe)
            parts = {name: round(gib, 3) for name, gib in plan["memory_gib"].items() if gib}
            ratio = plan["memory_gib"]["total"] / peak
            print(f"{stage} {shape}: measured {peak:.3f} GiB, planned/measured {ratio:.3f}; {parts}", flush=True)


if __name__ == "__main__":
    main()
