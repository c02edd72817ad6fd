"""What `ppo` takes: a policy, its reference, its critic and the verifiers; sampling, then passes over what was sampled.

An update is what is done with one batch of completions: it is sampled, scored, read once by the reference, and trained
on `num_iterations` times.
"""

from collections.abc import Mapping
from dataclasses import replace

from peft import LoraConfig

from rlstep.core.flops import Work, forward_flops, rows_work, training_flops
from rlstep.core.memory import FLOAT, GIB, key_value_cache
from rlstep.planning.models import Models
from rlstep.planning.parts import StagePlan, hours_of, in_gib
from rlstep.planning.passes import CPU_TILES, Layout, frozen_head, fused_head, kept_head, layout_of, packs
from rlstep.planning.settings import Lengths, Machine, bytes_of, rows_in, updates_of
from rlstep.planning.trainee import Trainee, trainee_of
from rlstep.planning.verifiers import loaded
from rlstep.policy.value_function import CRITIC_LORA
from rlstep.verifiers.serving.addresses import is_url

VERIFIERS = ("prm", "orm", "implicit")


def ppo_plan(recipe: str, values: Mapping, models: Models, lengths: Lengths, machine: Machine) -> StagePlan:
    """What a recipe of ppo takes; arguments and errors as in `supervised_plan`."""
    trainee, gpus, T = trainee_of("ppo", values, models), machine.gpus, values["max_completion_length"]
    values = {**values, "packing": _packs(trainee, values, lengths.prompt + T)}
    slices = _slices(values, gpus)
    sampled = values["per_device_train_batch_size"] * slices  # completions of a batch on one rank
    critic, critic_base = _critic(trainee, values)
    beside = _frozen_beside(trainee, values, critic_base)
    verifiers, verifier_parameters = _verifiers(values, models, trainee)
    states = trainee.states(gpus, critic, beside)
    layout, rows = _layout(trainee, values, lengths, T)
    training = _training_peak(trainee, values, layout, rows * T, adapter_critic=critic > 0 and not _is_head(values))
    share = _vllm_share(values, machine)
    cache = 0.0 if values["use_vllm"] else _sampling_memory(trainee, sampled, lengths.prompt + T)
    work, sampling = _work(values, lengths, T, sampled * gpus)
    flops = _flops(trainee, values, work, slices, critic, verifier_parameters)
    optimizer_steps = values["num_iterations"] * slices / values["gradient_accumulation_steps"]
    problems = rows_in(values["problems"], lengths.rows)
    updates = updates_of(values, problems and problems * values["num_generations"], sampled * gpus, optimizer_steps)
    sampling_flops = forward_flops(trainee.trunk.shape, sampling)
    return StagePlan(
        recipe=recipe,
        stage="ppo",
        model=trainee.model.path,
        trained=trainee.trained + critic,
        frozen=(trainee.parameters if trainee.adapter else 0) + beside + verifier_parameters,
        parts=in_gib(
            weights=states.weights + verifiers,
            gradients=states.gradients,
            optimizer=states.optimizer,
            activations=training,
            kv_cache=cache,
            vllm=share,
        ),
        tokens=work.tokens,
        flops=flops + sampling_flops,
        updates=updates,
        hours=hours_of(flops, sampling_flops, updates, gpus, machine),
        limit=machine.memory * (1 - machine.headroom),
        vllm_sleeps=_has_vllm(values) and values["vllm_enable_sleep_mode"],
        faults=[
            *_vllm_faults(trainee, values, share, lengths.prompt + T, machine.memory),
            *_budget_faults(values, layout),
        ],
        notes=[
            f"prompts of {lengths.prompt} and completions of {T} tokens at the longest, {rows} rows in a pass, "
            f"{sampled * gpus} completions an update"
        ],
    )


def _has_vllm(values: Mapping) -> bool:
    """Whether vLLM samples on the GPUs that train."""
    return values["use_vllm"] and values["vllm_mode"] == "colocate"


def _vllm_share(values: Mapping, machine: Machine) -> float:
    """Bytes of a GPU that vLLM takes."""
    return values["vllm_gpu_memory_utilization"] * machine.memory * GIB if _has_vllm(values) else 0.0


def _sampling_memory(trainee: Trainee, rows: int, length: int) -> float:
    """Bytes of sampling by transformers: keys and values of all rows, and their logits at one place in float32."""
    shape = trainee.trunk.shape
    return key_value_cache(shape, rows, length, trainee.precision.weights) + FLOAT * rows * shape.vocabulary


def _vllm_faults(trainee: Trainee, values: Mapping, share: float, length: int, memory: float) -> list[str]:
    """Why vLLM cannot start in its share: it holds the whole policy, and the keys and values of one row at least."""
    if not _has_vllm(values):
        return []
    longest, number = values["vllm_max_model_length"] or length, trainee.precision.weights
    needs = trainee.parameters * number + key_value_cache(trainee.trunk.shape, 1, longest, number)
    needs /= values["vllm_tensor_parallel_size"]
    if needs <= share:
        return []
    return [
        f"vLLM's share is {share / GIB:.1f} GiB, and the policy with a row of {longest} tokens takes "
        f"{needs / GIB:.1f}: set vllm_gpu_memory_utilization above {needs / GIB / memory:.2f}"
    ]


def _budget_faults(values: Mapping, layout: Layout) -> list[str]:
    """Why `tokens_per_device` fits no row."""
    budget = values["tokens_per_device"]
    if budget is None or layout.places <= budget:
        return []
    return [f"tokens_per_device is {budget}, and the longest row has {layout.places}: set it to that or more"]


def _slices(values: Mapping, gpus: int) -> int:
    """Micro-batches that a batch of completions is cut into on one rank."""
    if whole := values["generation_batch_size"]:
        return max(1, whole // (values["per_device_train_batch_size"] * gpus))
    return values["steps_per_generation"] or values["gradient_accumulation_steps"]


def _is_head(values: Mapping) -> bool:
    return values["critic"] == "head"


def _critic(trainee: Trainee, values: Mapping) -> tuple[int, int]:
    """Trained parameters of the critic, and those of the frozen base that it needs beside the policy's."""
    if values["advantage"] != "gae":
        return 0, 0
    head = trainee.trunk.shape.hidden + 1
    if _is_head(values):
        return head, 0
    if trainee.adapter is not None:
        return trainee.adapter_parameters + head, 0
    _, parameters = trainee.model.adapter(LoraConfig(**CRITIC_LORA), trainee.adapter_number)
    return parameters + head, trainee.parameters


def _frozen_beside(trainee: Trainee, values: Mapping, critic_base: int) -> int:
    """Parameters of what is frozen beside the policy: the reference, or its adapter, and the critic's base."""
    if not values["beta"]:
        return critic_base
    if trainee.adapter is not None:
        return critic_base + (trainee.adapter_parameters if trainee.continued else 0)
    # The critic of a full-parameter policy reads the reference, unless that moves.
    reference = trainee.parameters
    return reference + critic_base if values["sync_ref_model"] else max(reference, critic_base)


def _verifiers(values: Mapping, models: Models, trainee: Trainee) -> tuple[float, int]:
    """Bytes of the verifiers on one GPU, whole on every rank, and their parameters."""
    total, parameters = 0.0, 0
    for name in VERIFIERS:
        path = values.get(name)
        if not path or is_url(path):
            continue
        model = models.find(path, bool(values.get("trust_remote_code")))
        if name == "implicit":  # also where a model of its size stands in
            model = replace(model, implicit=True)
        number = bytes_of("auto", str(model.config.dtype).removeprefix("torch."))
        shared = values["share_base"] and trainee.adapter is not None and model.path == trainee.model.path
        one = loaded(model, number, shared)
        total, parameters = total + one.weights, parameters + one.parameters
    return total, parameters


def _layout(trainee: Trainee, values: Mapping, lengths: Lengths, T: int) -> tuple[Layout, int]:
    """Where the rows of a pass with gradients stand, and how many they are; `tokens_per_device` cuts them."""

    def of(rows: int) -> Layout:
        # Nothing follows a row's last token, so packed rows end before it.
        packing, attention = values["packing"], trainee.trunk.attention
        completion = T - 1 if packing else T
        return layout_of(trainee.model, rows, lengths.prompt, completion, values["num_generations"], packing, attention)

    rows, budget = values["per_device_train_batch_size"], values["tokens_per_device"]
    while rows > 1 and budget is not None and of(rows).places > budget:
        rows -= 1
    return of(rows), rows


def _training_peak(trainee: Trainee, values: Mapping, layout: Layout, head_tokens: int, adapter_critic: bool) -> float:
    """Bytes of activations at their peak: what layers keep, and the head's or one layer's backward pass."""
    trunk, whole = trainee.trunk, trainee.adapter is None
    # Accelerate hands logits out in float32 under mixed precision; DeepSpeed leaves their type.
    number = trainee.precision.compute if trainee.zero.engine else FLOAT
    logits = head_tokens * trunk.shape.vocabulary
    if _is_frozen_head(trainee, values):
        head = frozen_head(trunk.shape, head_tokens, trainee.precision, on_cpu=trainee.tiles == CPU_TILES)
        left = FLOAT * head_tokens * trunk.shape.hidden
    elif values["packing"] and logits * FLOAT <= values["kept_logits_gib"] * GIB:
        head, left = kept_head(trunk.shape, head_tokens, number, whole), number * logits
    else:
        head, left = fused_head(trunk.shape, head_tokens, trainee.precision.compute, whole, trainee.tiles), 0.0
    kept = trunk.kept(layout)
    first = max(trunk.working(layout), head)
    # The critic's pass comes after the policy's head, and its backward pass before.
    second = left + kept + trunk.working(layout) if adapter_critic else 0.0
    return trainee.casts() * (2 if adapter_critic else 1) + kept + max(first, second)


def _is_frozen_head(trainee: Trainee, values: Mapping) -> bool:
    """Whether the head keeps no logits (`rlstep.policy.passes`)."""
    entropy_in_loss = values["entropy_coef"] or values["use_adaptive_entropy"]
    other = trainee.adapter is None or values.get("lora_modules_to_save") or trainee.zero.stage == 3
    half = values["fp16"] or trainee.dtype == "float16"
    kept_anyway = other or half or entropy_in_loss or values["cast_lm_head_to_fp32"]
    return values["packing"] and trainee.model.plain_head and not kept_anyway


def _packs(trainee: Trainee, values: Mapping, longest: int) -> bool:
    """Whether rows of up to this many tokens are packed (`rlstep.policy.passes`)."""
    routed = hasattr(trainee.model.config.get_text_config(), "output_router_logits")
    if not values["packing"] or (routed and values["router_aux_loss_coef"]):
        return False
    return packs(trainee.model, longest, trainee.trunk.attention)


def _work(values: Mapping, lengths: Lengths, T: int, completions: int) -> tuple[Work, Work]:
    """What passes over an update's completions compute on average, and what sampling does."""
    samples, mean = values["num_generations"], lengths.average(T)
    prompt = lengths.average(lengths.prompt)
    problems = -(-completions // samples)
    shared = rows_work(prompt, mean, samples).times(problems)
    return (shared if values["packing"] else rows_work(prompt, mean).times(completions)), shared


def _flops(trainee: Trainee, values: Mapping, work: Work, slices: int, critic: int, verifier_parameters: int) -> float:
    """Operations of an update from completions on."""
    shape, adapter, epochs = trainee.trunk.shape, trainee.adapter_parameters, values["num_iterations"]
    again = trainee.trunk.checkpointing
    total = epochs * training_flops(shape, work, adapter, checkpointing=again)
    # The log-probabilities at sampling are those of the training pass only where one optimizer step takes all of it.
    if values["use_vllm"] or values["gradient_accumulation_steps"] % (slices * epochs):
        total += forward_flops(shape, work, adapter)
    if values["beta"]:
        total += forward_flops(shape, work)
    if critic and not _is_head(values):
        total += epochs * training_flops(shape, work, critic, outputs=1, checkpointing=again)
        total += forward_flops(shape, work, critic, outputs=1)
    # Verifiers may have another size: two operations per parameter and token.
    scored = sum(1 for name in VERIFIERS if values.get(name) and not is_url(values[name]))
    per_token = max(verifier_parameters, scored * shape.layers * shape.layer_matrices)
    return total + (2 * per_token * work.tokens if scored else 0)
