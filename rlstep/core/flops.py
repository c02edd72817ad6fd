"""How many floating-point operations passes through a model take, from its sizes alone.

A matrix of n parameters takes 2 n operations per token (Kaplan et al., 2001.08361, section 2.1). A token that attends
to another takes 4 Q in a layer's attention, Q the size of its queries: the score, and the value that it weighs. It
attends to itself and to what comes before it in its row.
"""

from dataclasses import dataclass

from rlstep.core.memory import Shape

__all__ = ["Work", "forward_flops", "rows_work", "training_flops"]


@dataclass(frozen=True)
class Work:
    """What a pass computes.

    Attributes:
        tokens: tokens that go through the layers.
        attended_pairs: pairs of a token and one that it attends to, itself included.
        head_tokens: tokens that go through the head.
    """

    tokens: int
    attended_pairs: int
    head_tokens: int

    def times(self, n: int) -> "Work":
        return Work(self.tokens * n, self.attended_pairs * n, self.head_tokens * n)


def rows_work(prompt: int, completion: int, samples: int = 1, head_tokens: int | None = None) -> Work:
    """One prompt and its samples, each of one length; the prompt is computed once for all of them.

    Nothing follows a sample's last token, so it does not go through the model.

    Args:
        prompt, completion: lengths in tokens.
        samples: completions of the prompt.
        head_tokens: places per sample that the head sees; by default the one before each token of the completion.
    """
    P, T = prompt, completion
    attended_pairs = P * (P + 1) // 2 + samples * ((T - 1) * P + (T - 1) * T // 2)
    return Work(P + samples * (T - 1), attended_pairs, samples * (T if head_tokens is None else head_tokens))


def forward_flops(shape: Shape, work: Work, adapter: int = 0, outputs: int | None = None) -> int:
    """Operations of a forward pass.

    Args:
        shape: the model's sizes.
        work: what the pass computes.
        adapter: number of parameters in its LoRA matrices.
        outputs: rows of the head; the vocabulary by default.
    """
    return sum(_parts(shape, work, adapter, outputs))


def training_flops(
    shape: Shape, work: Work, adapter: int = 0, outputs: int | None = None, checkpointing: bool = False
) -> int:
    """Operations of a forward and a backward pass.

    The backward pass takes as many as the forward pass for gradients by a matrix's inputs, and as many again for those
    by its weights, if these are trained. Both factors of the attention's products are activations, so it takes twice
    the forward pass. Checkpointing adds the layers' forward pass once more.

    Args:
        shape, work, outputs: as in `forward_flops`.
        adapter: parameters of the LoRA matrices; 0 where all weights are trained.
        checkpointing: whether activations are computed again.
    """
    layers, head, attention, lora = _parts(shape, work, adapter, outputs)
    again = layers + attention + lora if checkpointing else 0
    return (2 if adapter else 3) * (layers + head) + 3 * (attention + lora) + again


def _parts(shape: Shape, work: Work, adapter: int, outputs: int | None) -> tuple[int, int, int, int]:
    """Operations of a forward pass in the layers' matrices, the head, the attention and an adapter."""
    width = shape.vocabulary if outputs is None else outputs
    return (
        2 * shape.layers * shape.layer_matrices * work.tokens,
        2 * shape.hidden * width * work.head_tokens,
        4 * shape.layers * shape.queries * work.attended_pairs,
        2 * adapter * work.tokens,
    )
