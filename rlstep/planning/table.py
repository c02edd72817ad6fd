"""A plan as text: memory by part, work, and what to change."""

from collections.abc import Sequence

from rlstep.planning.parts import PARTS, StagePlan
from rlstep.planning.settings import Machine

HEADS = {"kv_cache": "KV cache", "vllm": "vLLM"}


def as_text(plans: Sequence[StagePlan], machine: Machine) -> str:
    """Two tables, one line per recipe, and below them what they rest on and what does not fit."""
    limit = machine.memory * (1 - machine.headroom)
    memory = [["recipe", "trained", "frozen", *(HEADS.get(part, part) for part in PARTS), "peak", "fits"]]
    work = [["recipe", "tokens/update", "FLOPs/update", "updates", "hours"]]
    for plan in plans:
        sizes = [f"{plan.parts[part]:.2f}" for part in PARTS]
        fits = "yes" if plan.fits else "NO"
        memory.append([plan.recipe, count(plan.trained), count(plan.frozen), *sizes, f"{plan.total:.2f}", fits])
        work.append(
            [plan.recipe, count(plan.tokens), f"{plan.flops:.2e}", shown(plan.updates, 0), shown(plan.hours, 2)]
        )
    parts = [
        f"Memory of a GPU in GiB, of {machine.memory:g} GiB on each of {machine.gpus}; {limit:.1f} may be filled. "
        "The KV cache is freed before activations are kept.",
        columns(memory),
        f"Hours at {machine.utilisation:.0%} of {machine.tflops:g} TFLOPS, sampling at "
        f"{machine.sampling_utilisation:.0%}. An update of sample and score is all of their rows.",
        columns(work),
        "\n".join(f"{plan.recipe}: {plan.model}; {'; '.join(plan.notes)}" for plan in plans),
    ]
    if any(plan.hours is None for plan in plans):
        parts.append("Hours are open where a run is as long as its data, which is not there: give --rows.")
    parts += [_refusal(plan) for plan in plans if not plan.fits]
    return "\n\n".join(parts)


def _refusal(plan: StagePlan) -> str:
    """Why a recipe does not fit, and what to change."""
    if plan.total <= plan.limit:
        return f"{plan.recipe} will not run: {'; '.join(plan.faults)}."
    return f"{plan.recipe} does not fit, {plan.total:.1f} GiB of {plan.limit:.1f}: {'; '.join(plan.remedies)}."


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows as a table of text, its first column aligned left, the others right.

    >>> print(columns([["a", "n"], ["long", "1"], ["b", "12"]]))
    a      n
    long   1
    b     12
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        first, *rest = zip(cells, widths, strict=True)
        return "  ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in rest)])

    return "\n".join(map(line, rows))


def count(number: float) -> str:
    """
    >>> count(0), count(950), count(18_464_768), count(1.54e9)
    ('0', '950', '18.5M', '1.54B')
    """
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.0f}"


def shown(number: float | None, digits: int) -> str:
    return "-" if number is None else f"{number:.{digits}f}"
