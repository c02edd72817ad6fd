"""More samples of the policy than TRL draws: continuations of any text, by the same generation backend."""

from collections.abc import Iterator
from contextlib import contextmanager

from accelerate.utils import gather_object
from trl import GRPOTrainer

from rlstep.steps.prompts import Prompt


class Rollouts:
    """Continuations by the current policy.

    `tests/policy/test_trl_seam.py` holds the private names of TRL that are used here.

    Args:
        trainer: whose policy is sampled; its `prompt_format` says how prompts are written for it.
    """

    def __init__(self, trainer: GRPOTrainer):
        self.trainer = trainer

    def sample(self, K: int, prefixes: list[list[int]], new_tokens: int) -> list[list[list[int]]]:
        """K continuations of each prefix, of `new_tokens` at most; token ids both."""
        repeated = [ids for ids in prefixes for _ in range(K)]
        with self._at_most(new_tokens):
            continuations, _ = self.trainer._generate_single_turn(repeated, None, {}, K)
        return [continuations[i * K : (i + 1) * K] for i in range(len(prefixes))]

    def sample_texts(self, prefixes: list[tuple[Prompt, str]], n: int) -> list[list[str]]:
        """n continuations of each beginning of a completion, the same ones on every rank; the ranks share the work.

        Args:
            prefixes: prompts, and what is written after each already.
            n: continuations of each.
        """
        trainer = self.trainer
        ranks, rank = trainer.accelerator.num_processes, trainer.accelerator.process_index
        size = max(1, trainer.args.per_device_train_batch_size // n)
        share = -(-len(prefixes) // ranks)
        prompts, begun = zip(*prefixes, strict=True)
        written = trainer._tokenizer(list(begun), add_special_tokens=False, verbose=False)["input_ids"]
        ids = [a + b for a, b in zip(trainer.prompt_format.encode(trainer._tokenizer, prompts), written, strict=True)]
        # Every rank generates equally often; what is too much is dropped below.
        mine = (ids + ids[:1] * (ranks * share - len(ids)))[rank * share : (rank + 1) * share]
        continuations = []
        for start in range(0, share, size):
            continuations += self.sample(n, mine[start : start + size], trainer.max_completion_length)
        texts = [trainer._tokenizer.batch_decode(of_one, skip_special_tokens=True) for of_one in continuations]
        return gather_object(texts)[: len(prefixes)]

    @contextmanager
    def _at_most(self, new_tokens: int) -> Iterator[None]:
        """Generates fewer tokens for a while. Under vLLM, whose engine holds the limit, nothing changes."""
        config = getattr(self.trainer, "generation_config", None)
        if config is None:
            yield
            return
        before, config.max_new_tokens = config.max_new_tokens, new_tokens
        self.trainer.generation_kwargs["max_new_tokens"] = new_tokens
        try:
            yield
        finally:
            config.max_new_tokens = self.trainer.generation_kwargs["max_new_tokens"] = before
