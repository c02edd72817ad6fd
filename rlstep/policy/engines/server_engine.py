"""Sampling on a server that speaks OpenAI's completions protocol, such as `vllm serve`.

Each solution is one request, with a seed of its own. Tokens go there and come back (vLLM's `return_token_ids`, since
0.10.2), so that nothing depends on how the server renders, splits or prints text. For a server that takes text alone
the request holds nothing that OpenAI's protocol lacks, and a completion is finished if the server says "stop".
"""

import json
from collections.abc import Sequence

from rlstep.policy.engines.base import (
    Begun,
    Completion,
    Engine,
    Prompting,
    Sampling,
    check_reason,
    sample_name,
    sampling_parameters,
    step_parameters,
)
from rlstep.policy.sampling import Batch, solutions_of
from rlstep.runtime.errors import UserError
from rlstep.runtime.halves import encodable
from rlstep.runtime.json_client import Refused
from rlstep.runtime.model_server import ModelServer
from rlstep.steps.boundaries import Boundary
from rlstep.steps.records import Solution, shown

TOKENS = range(2**31)


class ServerEngine(Engine):
    """Samples on a server.

    Args:
        server: the model there.
        prompting: how its prompts are written.
        sampling: how completions are drawn.
        as_text: send texts instead of tokens.
    """

    def __init__(self, server: ModelServer, prompting: Prompting, sampling: Sampling, as_text: bool = False):
        self.server, self.prompting, self.sampling, self.as_text = server, prompting, sampling, as_text

    def generate(self, batch: Batch) -> list[Solution]:
        if self.as_text:
            prompts = [self.prompting.format.render(self.prompting.tokenizer, problem.prompt) for problem, _ in batch]
        else:
            prompts = self.prompting.encode(batch)
        most = self.sampling.max_new_tokens
        requests = [
            (sample_name(*one), self._body(prompt) | {"seed": self.sampling.seed_of(*one)}, most)
            for one, prompt in zip(batch, prompts, strict=True)
        ]
        choices = self._choices(requests)
        reasons = [choice["finish_reason"] for choice in choices]
        if self.as_text:
            texts, finished = [choice["text"] for choice in choices], [reason == "stop" for reason in reasons]
            return solutions_of(batch, texts, finished, [None] * len(batch), self.prompting.format)
        ids = [choice["token_ids"] for choice in choices]
        return self.prompting.solutions(batch, list(map(Completion, ids, reasons)))

    def go_on(self, begun: Sequence[Begun], boundary: Boundary | None) -> list[list[int]]:
        requests = [(one.name, self._body(one.ids) | step_parameters(one, boundary), one.room) for one in begun]
        choices = self._choices(requests)
        for one, choice in zip(begun, choices, strict=True):
            if not choice["token_ids"]:
                raise UserError(f"{one.name}: {self.server.url} gave no completion: expected a token, got none.")
        return [choice["token_ids"] for choice in choices]

    def _choices(self, requests: Sequence[tuple[str, dict, int]]) -> list[dict]:
        """The one completion of each request, checked; (name, body, tokens at most)."""
        return self.server.map(lambda one: self._choice(*one), requests)

    def _choice(self, name: str, body: dict, most: int) -> dict:
        where = f"{name}: {self.server.url}"
        try:
            reply = self.server.post("/v1/completions", body)
        except Refused as error:
            # Some servers refuse lists of tokens, each in words of its own.
            hint = "" if self.as_text else " (prompts_as: text is for servers that take no tokens)"
            raise UserError(f"{where} refuses the request, status {error.status}: {error.reason}{hint}.") from None
        choices = reply.get("choices") if isinstance(reply, dict) else None
        if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
            raise UserError(f"{where} gave no completion: expected one choice, got {shown(choices)}.")
        check_reason(where, choices[0].get("finish_reason"))
        self._check_content(where, choices[0], most)
        return choices[0]

    def _check_content(self, where: str, choice: dict, most: int) -> None:
        if self.as_text:
            text = choice.get("text")
            if not isinstance(text, str) or not encodable(text):
                raise UserError(f"{where} gave no completion: expected a text, got {json.dumps(text)[:60]}.")
            return
        ids = choice.get("token_ids")
        if ids is None:
            raise UserError(f"{where} gave no tokens with the text; take vLLM 0.10.2 or later, or prompts_as: text.")
        if not isinstance(ids, list) or len(ids) > most or any(type(id) is not int or id not in TOKENS for id in ids):
            raise UserError(f"{where} gave no completion: expected {most} tokens at most, got {shown(ids)}.")

    def _body(self, prompt: str | list[int]) -> dict:
        """A request without its seed."""
        if self.as_text:
            sampling = self.sampling
            drawn = {"temperature": sampling.temperature, "top_p": sampling.top_p}
            return {"prompt": prompt, "n": 1, "max_tokens": sampling.max_new_tokens, **drawn}
        return {
            "prompt": prompt,
            "n": 1,
            "return_token_ids": True,
            **sampling_parameters(self.sampling, self.prompting.stops),
        }
