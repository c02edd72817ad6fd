"""What `sample` and `score` take: a model that nothing trains."""

from collections.abc import Mapping

from rlstep.core.flops import forward_flops, rows_work
from rlstep.core.memory import FLOAT, GIB, Precision, key_value_cache, mask_bytes, working_per_place
from rlstep.planning.models import Model, Models
from rlstep.planning.parts import StagePlan, hours_of, in_gib
from rlstep.planning.settings import Lengths, Machine, bytes_of, rows_in
from rlstep.planning.verifiers import Loaded, loaded, scoring_peak
from rlstep.runtime.counted import counted
from rlstep.verifiers.serving.addresses import checkpoint_of, is_pooling_address, is_url

BATCH_TOKENS = 16384  # of a verifier's pass where no setting says it


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
    guide, scoring = _guide(values, models, lengths.prompt + T)
    weights, sampling = model.weight_bytes(number), {"kv_cache": cache + prefill}
    where = f"on each of {counted(gpus, 'GPU')}"
    if engine == "server":
        gpus, where = 1, "on a server, whose memory is not counted"
    elif engine == "vllm":
        gpus = values["tensor_parallel_size"]
        where = f"vLLM on {counted(gpus, 'GPU')}"
    if engine != "transformers":
        weights, prefill, sampling = 0.0, 0.0, {"vllm": share} if engine == "vllm" else {}
    return StagePlan(
        recipe=recipe,
        stage="sample",
        model=model.path,
        trained=0,
        frozen=(0 if engine == "server" else model.parameters) + guide.parameters,
        parts=in_gib(weights=weights + guide.weights, activations=max(prefill, scoring), **sampling),
        tokens=work.tokens,
        flops=flops,
        updates=1 if problems else None,
        hours=hours_of(0, flops, 1 if problems else None, gpus, machine),
        limit=machine.memory * (1 - machine.headroom),
        notes=[
            f"prompts of {lengths.prompt} and completions of {T} tokens at the longest, {rows} at a time, {where}"
            + ("" if problems else "; tokens and FLOPs are those of one problem"),
            *(["tokens, FLOPs and hours as without search, and without the PRM's"] if values["search"] else []),
        ],
        faults=_vllm_faults(model, number, values, share, lengths.prompt + T, machine) if engine == "vllm" else [],
    )


def _guide(values: Mapping, models: Models, longest: int) -> tuple[Loaded, float]:
    """The PRM that guides a search, as it is loaded beside the policy, and the activations of its passes."""
    path = values["prm"]
    if not values["search"] or not path or is_url(path):
        return Loaded(0, 0.0), 0.0
    model = models.find(path, bool(values.get("trust_remote_code")))
    number = bytes_of("auto", str(model.config.dtype).removeprefix("torch."))
    return loaded(model, number), scoring_peak(model, number, BATCH_TOKENS, longest, "sdpa")


def _vllm_faults(model: Model, number: int, values: Mapping, share: float, length: int, machine: Machine) -> list[str]:
    """Why vLLM cannot start in its share: it holds the weights, and the keys and values of one row at least."""
    needs = model.weight_bytes(number) + key_value_cache(model.shape, 1, length, number)
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
    attention, places = values["attn_implementation"] or "sdpa", max(values["batch_tokens"], longest)
    verifier, passes = loaded(model, number), scoring_peak(model, number, values["batch_tokens"], longest, attention)
    mean = lengths.average(longest)
    # An implicit PRM asks both of its models about every token.
    work = (rows_work(0, mean) if model.implicit else rows_work(0, mean, head_tokens=1)).times(rows or 1)
    flops = 2 * forward_flops(shape, work) if model.implicit else forward_flops(shape, work, outputs=2)
    here = not is_pooling_address(values["model"])
    return StagePlan(
        recipe=recipe,
        stage="score",
        model=model.path,
        trained=0,
        frozen=verifier.parameters if here else 0,
        parts=in_gib(weights=verifier.weights, activations=passes) if here else in_gib(),
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
