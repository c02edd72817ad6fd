"""What `sample` and `score` take: a model that nothing trains."""

from collections.abc import Mapping

from rlstep.core.flops import forward_flops, rows_work
from rlstep.core.memory import FLOAT, GIB, Precision, key_value_cache, mask_bytes, working_per_place
from rlstep.planning.models import Model, Models
from rlstep.planning.parts import StagePlan, hours_of, in_gib
from rlstep.planning.settings import Lengths, Machine, bytes_of, rows_in
from rlstep.verifiers.serving.addresses import checkpoint_of, is_pooling_address


def sample_plan(recipe: str, values: Mapping, models: Models, lengths: Lengths, machine: Machine) -> StagePlan:
    """What a recipe of sample takes, in one process per GPU; arguments and errors as in `supervised_plan`."""
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
    engine, share = values["engine"], values["gpu_memory_utilization"] * machine.memory * GIB
    gpus = machine.gpus  # a launcher starts a process on each
    where, parts = (
        f"on each of {gpus} GPU(s)",
        in_gib(weights=model.parameters * number, activations=prefill, kv_cache=cache + prefill),
    )
    if engine == "server":
        gpus, where, parts = 1, "on a server, whose memory is not counted", in_gib()
    elif engine == "vllm":
        gpus = values["tensor_parallel_size"]
        where, parts = f"vLLM on {gpus} GPU(s)", in_gib(vllm=share)
    return StagePlan(
        recipe=recipe,
        stage="sample",
        model=model.path,
        trained=0,
        frozen=0 if engine == "server" else model.parameters,
        parts=parts,
        tokens=work.tokens,
        flops=flops,
        updates=1 if problems else None,
        hours=hours_of(0, flops, 1 if problems else None, gpus, machine),
        limit=machine.memory * (1 - machine.headroom),
        notes=[
            f"prompts of {lengths.prompt} and completions of {T} tokens at the longest, {rows} at a time, {where}"
            + ("" if problems else "; tokens and FLOPs are those of one problem"),
            *(["as without search: the PRM is not counted, nor its passes"] if values["search"] else []),
        ],
        faults=_vllm_faults(model, number, values, share, lengths.prompt + T, machine) if engine == "vllm" else [],
    )


def _vllm_faults(model: Model, number: int, values: Mapping, share: float, length: int, machine: Machine) -> list[str]:
    """Why vLLM cannot start in its share: it holds the weights, and the keys and values of one row at least."""
    needs = model.parameters * number + key_value_cache(model.shape, 1, length, number)
    needs /= values["tensor_parallel_size"]
    if needs <= share:
        return []
    return [
        f"vLLM's share is {share / GIB:.1f} GiB, and the policy with a row of {length} tokens takes {needs / GIB:.1f}: "
        f"set gpu_memory_utilization above {needs / GIB / machine.memory:.2f}, or tensor_parallel_size higher"
    ]


def score_plan(recipe: str, values: Mapping, models: Models, lengths: Lengths, machine: Machine) -> StagePlan:
    """What a recipe of score takes; arguments and errors as in `supervised_plan`."""
    model = models.find(checkpoint_of(values["model"]), bool(values.get("trust_remote_code")))
    number = bytes_of(values["dtype"] or "auto", str(model.config.dtype).removeprefix("torch."))
    shape, longest, rows = model.shape, lengths.prompt + lengths.completion, rows_in(values["data"], lengths.rows)
    precision, places = Precision(number, number), max(values["batch_tokens"], longest)
    attention = values["attn_implementation"] or "sdpa"
    passes = places * working_per_place(shape, precision, 0, False)
    passes += mask_bytes(shape, precision, max(1, places // longest), longest, True, attention, False)
    work = rows_work(0, lengths.average(longest), asked=1).times(rows or 1)
    flops = forward_flops(shape, work, outputs=2)
    here = not is_pooling_address(values["model"])
    return StagePlan(
        recipe=recipe,
        stage="score",
        model=model.path,
        trained=0,
        frozen=model.parameters if here else 0,
        parts=in_gib(weights=model.parameters * number, activations=passes) if here else in_gib(),
        tokens=work.tokens,
        flops=flops,
        updates=1 if rows else None,
        hours=hours_of(flops, 0, 1 if rows else None, machine.gpus, machine),
        limit=machine.memory * (1 - machine.headroom),
        notes=[
            f"rows of {longest} tokens at the longest, "
            + (f"{places} tokens in a pass" if here else "on a vLLM server, whose memory is not counted")
            + ("" if rows else "; tokens and FLOPs are those of one row")
        ],
    )
