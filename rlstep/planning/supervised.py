"""What `sft`, `prm` and `orm` take: rows of text, one pass each."""

from collections.abc import Mapping

from rlstep.core.flops import rows_work, training_flops
from rlstep.core.memory import FLOAT
from rlstep.planning.models import Models
from rlstep.planning.parts import StagePlan, hours_of, in_gib
from rlstep.planning.passes import fused_head, layout_of, packs
from rlstep.planning.settings import Lengths, Machine, rows_in, updates_of
from rlstep.planning.trainee import Trainee, trainee_of
from rlstep.verifiers.forward import LARGEST_LOGITS

# Steps of a labelled row, of which each asks for logits under head: token.
STEPS = 32


def supervised_plan(
    recipe: str, stage: str, values: Mapping, models: Models, lengths: Lengths, machine: Machine
) -> StagePlan:
    """What a recipe of sft, prm or orm takes.

    Args:
        recipe: its name.
        stage: sft, prm or orm.
        values: its settings.
        models: to find its model.
        lengths: of its rows.
        machine: what it would run on.

    Raises:
        UserError: its model or its DeepSpeed configuration cannot be read.
    """
    implicit, classes = values.get("loss") == "implicit", _classes(stage, values)
    trainee = trainee_of(stage, values, models, classes)
    longest = values.get("max_length") or lengths.prompt + lengths.completion
    rows, gpus = values["per_device_train_batch_size"], machine.gpus
    packed = stage != "sft" and bool(values["packing"]) and packs(trainee.model, longest, trainee.trunk.attention)
    layout = layout_of(trainee.model, rows, 0, longest, 1, packed, trainee.trunk.attention)
    head = trainee.trunk.shape.hidden * classes if classes else 0
    states = trainee.states(gpus, head, trainee.parameters if implicit else 0)
    head_tokens, outputs = _head_tokens(stage, values, rows, longest, implicit)
    peak = trainee.casts() + trainee.trunk.kept(layout)
    peak += max(trainee.trunk.working(layout), _head(stage, trainee, head_tokens, classes, implicit))
    per_update = rows * values["gradient_accumulation_steps"] * gpus
    mean = lengths.average(longest)
    work = rows_work(0, mean, head_tokens=max(1, round(head_tokens / rows * lengths.filled))).times(per_update)
    flops = training_flops(trainee.trunk.shape, work, trainee.adapter_parameters, outputs, trainee.trunk.checkpointing)
    updates = updates_of(values, rows_in(values["data"], lengths.rows), per_update)
    return StagePlan(
        recipe=recipe,
        stage=stage,
        model=trainee.model.path,
        trained=trainee.trained + head,
        frozen=(trainee.parameters if trainee.adapter else 0) + (trainee.parameters if implicit else 0),
        parts=in_gib(weights=states.weights, gradients=states.gradients, optimizer=states.optimizer, activations=peak),
        tokens=per_update * mean,
        flops=flops,
        updates=updates,
        hours=hours_of(flops, 0, updates, gpus, machine),
        limit=machine.memory * (1 - machine.headroom),
        notes=[f"rows of {longest} tokens at the longest, {rows} in a pass"],
    )


def _classes(stage: str, values: Mapping) -> int | None:
    """Outputs of a class head; None where the language model's head is read."""
    if stage == "sft" or values.get("head") == "token" or values.get("loss") == "implicit":
        return None
    return 3 if values.get("neutral") == "class" else 2


def _head_tokens(stage: str, values: Mapping, rows: int, longest: int, implicit: bool) -> tuple[int, int | None]:
    """Tokens of a pass that the head sees, and its outputs if they are not the vocabulary's."""
    if stage == "sft" or implicit:
        return rows * longest, None
    if values.get("head") == "token":
        return rows * min(STEPS, longest), None
    return rows * (min(STEPS, longest) if stage == "prm" else longest), _classes(stage, values)


def _head(stage: str, trainee: Trainee, head_tokens: int, classes: int | None, implicit: bool) -> float:
    """Bytes of the head at the beginning of the backward pass."""
    shape, number = trainee.trunk.shape, trainee.precision.compute
    if stage == "sft":
        return fused_head(shape, head_tokens, number, trainee.adapter is None, trainee.tiles)
    width = classes or shape.vocabulary
    logits = min(head_tokens * width, LARGEST_LOGITS) if implicit else head_tokens * width
    return 3 * FLOAT * logits + head_tokens * shape.hidden * (FLOAT + number)
