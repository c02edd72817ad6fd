"""The problems of a PPO run: reads and checks them, and builds the trainer's data set."""

import json

from datasets import Dataset

from rlstep.policy.config import StepPPOConfig
from rlstep.policy.options import PPOOptions
from rlstep.runtime.constraints import raise_faults
from rlstep.runtime.counted import counted
from rlstep.runtime.errors import UserError
from rlstep.runtime.trainer_settings import evaluation_faults
from rlstep.steps.problems import read_problems
from rlstep.steps.prompts import Prompt, PromptFormat, problem_text
from rlstep.steps.records import Problem
from rlstep.tasks.base import OTHER_TASK, Task

# How evaluations are made, which is nothing to a run without them.
HOW_EVALUATED = ("per_device_eval_batch_size", "num_generations_eval")


def training_problems(options: PPOOptions, args: StepPPOConfig) -> list[Problem]:
    """The problems to train on.

    Raises:
        UserError: there are fewer of them than one update takes.
    """
    problems = read_problems(options.problems, options.fields, options.split, options.config_name)
    needed = args.generation_batch_size // args.num_generations
    if len(problems) < needed:
        raise UserError(
            f"{options.problems} has {counted(len(problems), 'problem')}, and an update takes {needed} of them with "
            f"{args.num_generations} samples each: nothing would be trained. Give more problems, or lower "
            "per_device_train_batch_size or steps_per_generation."
        )
    return problems


def evaluation_problems(options: PPOOptions, args: StepPPOConfig) -> list[Problem]:
    """The problems to evaluate on; empty if nothing is evaluated.

    Raises:
        UserError: evaluations are due and there is nothing to evaluate on, or the other way round.
    """
    given = bool(options.eval_problems)
    raise_faults(evaluation_faults(args, "eval_problems", given, False, HOW_EVALUATED))
    source = options.eval_fields, options.eval_split, options.eval_config_name
    return read_problems(options.eval_problems, *source) if given else []


def check_readable(task: Task, problems: list[Problem]) -> None:
    """Refuses problems that the task's checker cannot read, before a model is loaded."""
    for problem in problems:
        try:
            task.check(problem_text(problem.prompt), "", problem.reference)
        except ValueError as error:
            raise UserError(f"problem '{problem.id}': {error}. {OTHER_TASK}") from None


def as_dataset(problems: list[Problem], prompt_format: PromptFormat) -> Dataset:
    """Rows with `prompt` and `reference`, and `extra` as JSON where any problem has some.

    A column has one type, so where one prompt is a chat all are messages.
    """
    prompts: list[Prompt] = [problem.prompt for problem in problems]
    if any(not isinstance(prompt, str) for prompt in prompts):
        own = PromptFormat(prompt_format.form)
        prompts = [own.messages(prompt) for prompt in prompts]
    columns = {"prompt": prompts, "reference": [problem.reference for problem in problems]}
    if any(problem.extra for problem in problems):
        columns["extra"] = [json.dumps(problem.extra) for problem in problems]
    return Dataset.from_dict(columns)
