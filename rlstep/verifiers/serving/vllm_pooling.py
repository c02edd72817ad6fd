"""A verifier whose weights a vLLM server holds: `vllm serve DIR --runner pooling`, DIR of `rlstep export --what prm`.

Its address is vllm+http://HOST:PORT/NAME. NAME is what the server calls the model, and the folder or hub id from which
the tokenizer and what the scores mean are read here; a folder by its whole path makes two slashes. Rows become tokens
in this process, so that positions are those of every other verifier, and the class head's logits of every token come
back: vLLM's `/pooling` with the task `token_classify` (0.22 to 0.31, the versions that TRL 1.16 knows).
"""

import math
from collections.abc import Sequence

import torch

from rlstep.runtime.errors import UserError
from rlstep.runtime.json_client import Refused
from rlstep.runtime.model_server import ModelServer
from rlstep.steps.boundaries import Boundary
from rlstep.steps.prompt_options import BY_CHECKPOINT, PromptOptions
from rlstep.steps.prompts import Prompt, PromptFormat
from rlstep.steps.records import Span, shown
from rlstep.verifiers.adapters import find_adapter
from rlstep.verifiers.features import Feature
from rlstep.verifiers.pretrained import load_config, load_tokenizer, max_positions
from rlstep.verifiers.query_format import CountNeutralAs, PlainFormat
from rlstep.verifiers.scoring.reward_model import read_spec
from rlstep.verifiers.scoring.scorer import RowScorer
from rlstep.verifiers.serving.addresses import pooling_parts
from rlstep.verifiers.spec import IMPLICIT, Kind, config_entry


class PooledRewardModel(RowScorer):
    """A PRM or an ORM with a class head on a vLLM server: the values of a `RewardModel` with the same weights.

    Args:
        address: vllm+http://HOST:PORT/NAME.
        kind: what label 1 means, for a two-label token classifier that rlstep did not train.
        neutral: what neutral steps count as; must fit what the verifier was taught.
        boundary: what a step is where no spans are given; of a PRM, must be what it was taught.
        trust_remote_code: run code from the hub, for the tokenizer and the configuration.
        prompts: how prompts are to be written; of rlstep's own verifiers, must be what they were taught.
        request_timeout, retry_for, concurrency: as in `ModelServer`; each row is one request.

    Raises:
        UserError: no such address or server, the server does not serve NAME, or NAME is no verifier with a class head.
    """

    def __init__(
        self,
        address: str,
        kind: Kind | None = None,
        neutral: CountNeutralAs | None = None,
        boundary: Boundary | None = None,
        trust_remote_code: bool = False,
        prompts: PromptOptions = BY_CHECKPOINT,
        request_timeout: float = 600.0,
        retry_for: float = 300.0,
        concurrency: int = 64,
    ):
        url, name = pooling_parts(address)
        config = load_config(name, trust_remote_code)
        if config_entry(config).get("kind") == IMPLICIT:
            raise UserError(f"{name} is an implicit PRM, of two models, which vLLM does not serve; use `rlstep serve`.")
        spec = read_spec(name, config, kind, neutral, boundary)
        if spec.head == "token" or find_adapter(name) is not None:
            raise UserError(
                f"{name} is no token classifier with all its weights, which vLLM serves; write one with `rlstep export "
                f"{name} --to DIR --what prm` and serve DIR."
            )
        tokenizer = load_tokenizer(name, trust_remote_code)
        written = prompts.agreed(tokenizer, spec.prompts, name) or PromptFormat()
        self.server, self.classes = ModelServer(url, name, request_timeout, retry_for, concurrency), spec.classes
        longest = self.server.max_length or max_positions(config)
        super().__init__(
            tokenizer,
            spec.kind,
            PlainFormat(spec.kind, neutral or "positive", written),
            boundary or spec.boundary,
            longest,
        )

    def score(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[str],
        steps: Sequence[list[Span]] | None = None,
        cut: bool = False,
    ) -> list[list[float]]:
        return self._score_rows(prompts, completions, steps, cut)

    def _numbers(self, features: list[Feature]) -> list[list[float]]:
        self.rows_scored += len(features)
        with_steps = [index for index, feature in enumerate(features) if len(feature.positions)]
        answers = self.server.map(self._values_at, (features[index] for index in with_steps))
        numbers: list[list[float]] = [[] for _ in features]
        for index, values in zip(with_steps, answers, strict=True):
            numbers[index] = values
            self.tokens_scored += len(features[index].ids)
        return numbers

    def _values_at(self, feature: Feature) -> list[float]:
        """A row's values at its positions."""
        logits_TK = torch.tensor(self._logits(feature.ids.tolist()))
        return self.query_format.values(logits_TK[feature.positions]).tolist()

    def _logits(self, ids: list[int]) -> list[list[float]]:
        """(T, K) logits of every token of a row.

        Raises:
            UserError: the server refuses the row, or gives something else.
        """
        body = {"input": ids, "task": "token_classify", "use_activation": False, "encoding_format": "float"}
        where = f"{self.server.url}/pooling"
        try:
            reply = self.server.post("/pooling", body)
        except Refused as error:
            raise UserError(
                f"{where} refuses a row of {len(ids)} tokens, status {error.status}: {error.reason}. Is it `vllm serve "
                f"{self.server.name} --runner pooling`?"
            ) from None
        data = reply.get("data") if isinstance(reply, dict) else None
        if not isinstance(data, list) or len(data) != 1 or not isinstance(data[0], dict):
            raise UserError(f"{where} gave no logits: expected those of one row, got {shown(data)}.")
        logits, K = data[0].get("data"), self.classes
        if not isinstance(logits, list) or len(logits) != len(ids) or not all(_is_row(row, K) for row in logits):
            raise UserError(
                f"{where} gave no logits: expected {len(ids)} times {K} finite numbers, for each token one for each "
                f"class, got {shown(logits)}."
            )
        if all(min(row) >= 0 and math.isclose(sum(row), 1, abs_tol=1e-3) for row in logits):
            raise UserError(
                f"{where} gave probabilities where use_activation: false asks for logits; take vLLM 0.22 or later."
            )
        return logits


def _is_row(row, classes: int) -> bool:
    numbers = isinstance(row, list) and len(row) == classes and all(type(number) in (int, float) for number in row)
    return numbers and all(map(math.isfinite, row))
