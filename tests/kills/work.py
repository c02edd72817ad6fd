"""What is killed: each stage on a tiny model, long enough to be hit anywhere, short enough to be run often."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.small_lab import small_recipes


@dataclass(frozen=True)
class Work:
    """One stage's run.

    Attributes:
        words: from the folders of inputs and of output, and the number of ranks, to what follows `rlstep`.
        ranks: whether several processes can share it.
    """

    words: Callable[[Path, Path, int], list[str]]
    ranks: bool = False


def prepare(inputs: Path) -> None:
    """Writes a policy, problems, labelled solutions, a PRM, and the lab's recipes."""
    from transformers import set_seed

    from rlstep.runtime.rows import write_rows
    from rlstep.tasks.arithmetic import Arithmetic
    from rlstep.tasks.base import checked
    from rlstep.tasks.small import small_model
    from rlstep.verifiers.spec import VerifierSpec
    from rlstep.verifiers.training.start import new_verifier

    task = Arithmetic()
    tokenizer = task.tokenizer()
    set_seed(0)
    small_model(tokenizer, hidden_size=32, layers=2, heads=2, intermediate_size=64).save_pretrained(inputs / "lm")
    new_verifier(str(inputs / "lm"), VerifierSpec("prm")).save_pretrained(inputs / "prm")
    for name in ("lm", "prm"):
        tokenizer.save_pretrained(inputs / name)
    for name, split, number in (("problems", "train", 24), ("test", "test", 4)):
        write_rows(inputs / f"{name}.jsonl", [asdict(problem) for problem in task.problems(split, number, seed=0)])
    solutions = [checked(task, solution).to_row() for solution in task.demonstrations(240, seed=3)]
    write_rows(inputs / "many.jsonl", solutions)
    write_rows(inputs / "labelled.jsonl", solutions[:32])
    write_rows(inputs / "eval.jsonl", solutions[32:48])
    small_recipes(inputs / "recipes")


def _sample(inputs: Path, out: Path, ranks: int) -> list[str]:
    return _words(
        "sample", model=inputs / "lm", problems=inputs / "problems.jsonl", out=_rows(out, ranks),
        samples_per_problem=8, batch_size=8, max_new_tokens=24,
    )  # fmt: skip


def _score(inputs: Path, out: Path, ranks: int) -> list[str]:
    data = inputs / "many.jsonl"
    return _words("score", model=inputs / "prm", data=data, out=_rows(out, ranks), chunk_rows=6)


def _label(inputs: Path, out: Path, ranks: int) -> list[str]:
    return _words(
        "label", data=inputs / "eval.jsonl", out=out / "rows.jsonl", task="arithmetic", by="monte_carlo",
        policy=inputs / "lm", rollouts=4, batch_size=16, max_new_tokens=12, labelled="keep",
    )  # fmt: skip


def _rows(out: Path, ranks: int) -> Path:
    """One file of one process, a folder of shards of several."""
    return out / ("rows.jsonl" if ranks == 1 else "rows")


# Log lines cover updates of two checkpoints; the data ends within an interval of either.
TRAINING = {
    "resume": "true", "use_cpu": "true", "bf16": "false", "disable_tqdm": "true", "gradient_checkpointing": "false",
    "logging_steps": 3, "save_strategy": "steps", "save_steps": 2, "learning_rate": 1e-2,
}  # fmt: skip


def _sft(inputs: Path, out: Path, ranks: int) -> list[str]:
    return _words(
        "sft", model_name_or_path=inputs / "lm", data=inputs / "labelled.jsonl", output_dir=out / "run",
        per_device_train_batch_size=8 // ranks, num_train_epochs=5, save_total_limit=2, use_peft="true", lora_r=4,
        lora_dropout=0.1, **TRAINING,
    )  # fmt: skip


def _verifier(command: str, **more) -> Callable[[Path, Path, int], list[str]]:
    def words(inputs: Path, out: Path, ranks: int) -> list[str]:
        return _words(
            command, model_name_or_path=inputs / "lm", data=inputs / "labelled.jsonl", eval_data=inputs / "eval.jsonl",
            output_dir=out / "run", per_device_train_batch_size=4 // ranks, num_train_epochs=2, eval_strategy="steps",
            eval_steps=4, **more, **TRAINING,
        )  # fmt: skip

    return words


def _ppo(inputs: Path, out: Path, ranks: int) -> list[str]:
    return _words(
        "ppo", model_name_or_path=inputs / "lm", problems=inputs / "problems.jsonl",
        eval_problems=inputs / "test.jsonl", output_dir=out / "run", reward=["prm", "outcome"], prm=inputs / "prm",
        advantage="gae", beta=0.05,
        guard_no_answer="false", guard_min_steps=0, use_peft="true", lora_r=4, lora_target_modules="all-linear",
        per_device_train_batch_size=8 // ranks, per_device_eval_batch_size=4, num_generations=4, num_iterations=2,
        max_completion_length=12, max_steps=9, eval_strategy="steps", eval_steps=4, save_total_limit=2, **TRAINING,
    )  # fmt: skip


def _lab(inputs: Path, out: Path, ranks: int) -> list[str]:
    return _words("lab", out=out / "run", recipes=inputs / "recipes")


def _words(command: str, **options) -> list[str]:
    lists = {name: value if isinstance(value, list) else [value] for name, value in options.items()}
    return [command, *(word for name, values in lists.items() for word in (f"--{name}", *map(str, values)))]


WORKS = {
    "sample": Work(_sample, ranks=True),
    "score": Work(_score, ranks=True),
    "label": Work(_label),
    "sft": Work(_sft, ranks=True),
    "prm": Work(_verifier("prm"), ranks=True),
    "orm": Work(_verifier("orm", use_peft="true", lora_r=4), ranks=True),
    "ppo": Work(_ppo, ranks=True),
    "lab": Work(_lab),
}
