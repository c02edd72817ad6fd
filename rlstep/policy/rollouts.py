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

    def batches(self, prefixes: int, K: int, sequences: int) -> tuple[int, int]:
        """Prefixes per call of `sample` on this rank, and calls, the same number on every rank.

        A vLLM server gets all of a rank's prefixes in one call, and schedules them itself.

        Args:
            prefixes: that this rank has; it has one at least.
            K: continuations of each.
            sequences: how many may be generated at a time otherwise.
        """
        args = self.trainer.args
        if args.use_vllm and args.vllm_mode == "server":
            return prefixes, 1
        size = max(1, sequences // K)
        return size, max(gather_object([-(-prefixes // size)]))

    def sample_texts(self, prefixes: list[tuple[Prompt, str]], n: int) -> list[list[str]]:
        """n continuations of each beginning of a completion, the same ones on every rank; the ranks share the work.

        Args:
            prefixes: prompts, and what is written after each already.
            n: continuations of each.
        """
        trainer = self.trainer
        ranks, rank = trainer.accelerator.num_processes, trainer.accelerator.process_index
        share = -(-len(prefixes) // ranks)
        size, _ = self.batches(share, n, trainer.args.per_device_train_batch_size)
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
        """Generates fewer tokens for a while."""
        if self.trainer.use_vllm:
            with self.trainer.vllm_generation.rollouts(new_tokens):
                yield
            return
        config = self.trainer.generation_config
        before, config.max_new_tokens = config.max_new_tokens, new_tokens
        self.trainer.generation_kwargs["max_new_tokens"] = new_tokens
        try:
            yield
        finally:
            config.max_new_tokens = self.trainer.generation_kwargs["max_new_tokens"] = before
