"""What `sample` and `score` take: a model that nothing trains."""

from collections.abc import Mapping

from rlstep.core.flops import forward_flops, rows_work
from rlstep.core.memory import FLOAT, Precision, key_value_cache, mask_bytes, working_per_place
from rlstep.planning.models import Models
from rlstep.planning.parts import StagePlan, hours_of, in_gib
from rlstep.planning.settings import Lengths, Machine, bytes_of, rows_in


def sample_plan(recipe: str, values: Mapping, models: Models, lengths: Lengths, machine: Machine) -> StagePlan:
    """What a recipe of sample takes, in its one process; arguments and errors as in `supervised_plan`."""
    model = models.find(values["model"], bool(values.get("trust_remote_code")))
    number = bytes_of(values["dtype"], str(model.config.dtype).removeprefix("torch."))
    shape, T, problems = model.shape, values["max_new_tokens"], rows_in(values["problems"], lengths.rows)
    rows = min(values["batch_size"], problems * values["n"]) if problems else values["batch_size"]
    precision = Precision(number, number)
    cache = key_value_cache(shape, rows, lengths.prompt + T, number) + FLOAT * rows * shape.vocabulary
    prefill = rows * lengths.prompt * working_per_place(shape, precision, 0, False)
    prefill += mask_bytes(shape, precision, rows, lengths.prompt, True, "sdpa", False)
    total = (problems or 1) * values["n"]
    # Sampled one by one, a problem's samples each compute its prompt.
    work = rows_work(lengths.average(lengths.prompt), lengths.average(T)).times(total)
    flops = forward_flops(shape, work)
    return StagePlan(
        recipe=recipe,
        stage="sample",
        model=model.path,
        trained=0,
        frozen=model.parameters,
        parts=in_gib(weights=model.parameters * number, activations=prefill, kv_cache=cache + prefill),
        tokens=work.tokens,
        flops=flops,
        updates=1 if problems else None,
        hours=hours_of(0, flops, 1 if problems else None, 1, machine),
        limit=machine.memory * (1 - machine.headroom),
        notes=[
            f"prompts of {lengths.prompt} and completions of {T} tokens at the longest, {rows} at a time, one GPU"
            + ("" if problems else "; tokens and FLOPs are those of one problem")
        ],
    )


def score_plan(recipe: str, values: Mapping, models: Models, lengths: Lengths, machine: Machine) -> StagePlan:
    """What a recipe of score takes; arguments and errors as in `supervised_plan`."""
    model = models.find(values["model"], bool(values.get("trust_remote_code")))
    number = bytes_of(values["dtype"] or "auto", str(model.config.dtype).removeprefix("torch."))
    shape, longest, rows = model.shape, lengths.prompt + lengths.completion, rows_in(values["data"], lengths.rows)
    precision, places = Precision(number, number), max(values["batch_tokens"], longest)
    attention = values["attn_implementation"] or "sdpa"
    passes = places * working_per_place(shape, precision, 0, False)
    passes += mask_bytes(shape, precision, max(1, places // longest), longest, True, attention, False)
    work = rows_work(0, lengths.average(longest), asked=1).times(rows or 1)
    flops = forward_flops(shape, work, outputs=2)
    return StagePlan(
        recipe=recipe,
        stage="score",
        model=model.path,
        trained=0,
        frozen=model.parameters,
        parts=in_gib(weights=model.parameters * number, activations=passes),
        tokens=work.tokens,
        flops=flops,
        updates=1 if rows else None,
        hours=hours_of(flops, 0, 1 if rows else None, machine.gpus, machine),
        limit=machine.memory * (1 - machine.headroom),
        notes=[
            f"rows of {longest} tokens at the longest, {places} tokens in a pass"
            + ("" if rows else "; tokens and FLOPs are those of one row")
        ],
    )
