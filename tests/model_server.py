"""A server that speaks as much of vLLM's protocol as rlstep's clients do, around models of transformers.

As vLLM 0.22 and later: what a completion request leaves out comes from the served model's generation_config.json; a
model's own end tokens stop it too unless `ignore_eos` is set; the text lacks the token that it stopped at; a name that
it does not serve is 404, a request that does not fit into the context 400. `/pooling` gives every token's logits, or
their softmax unless `use_activation` is false. Tests put faults in its way.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool
from transformers import (
    AutoModelForCausalLM,
    AutoModelForTokenClassification,
    AutoTokenizer,
    GenerationConfig,
    StoppingCriteria,
    StoppingCriteriaList,
)

from tests.local_server import LocalServer

Fault = Callable[[str, dict], Response | dict | None]


@dataclass
class Call:
    """One request: its path, its JSON body, its headers."""

    path: str
    body: dict
    headers: dict[str, str]


@dataclass
class ModelServer:
    """Starts at once and listens on `url`; `close` ends it.

    Args:
        models: served, by name: folders of causal LMs, or models.
        context: max_model_len.
        fault: called before a request is answered; what it returns is the answer, None leaves it to the model.
        answers_tokens: whether `return_token_ids` is known.
        classifies: the models are token classifiers.

    Attributes:
        calls: the requests, in the order in which they came.
        most: requests that were there at one time, at the most.
    """

    models: dict[str, object]
    context: int = 512
    fault: Fault | None = None
    answers_tokens: bool = True
    classifies: bool = False
    calls: list[Call] = field(default_factory=list)
    most: int = 0

    def __post_init__(self):
        auto = AutoModelForTokenClassification if self.classifies else AutoModelForCausalLM
        paths = {name: model for name, model in self.models.items() if isinstance(model, str)}
        self.tokenizers = {name: AutoTokenizer.from_pretrained(path) for name, path in paths.items()}
        self.models |= {name: auto.from_pretrained(path).eval() for name, path in paths.items()}
        self._here, self._model_lock, self._count_lock = 0, threading.Lock(), threading.Lock()
        app = FastAPI()
        app.add_api_route("/{path:path}", self._receive, methods=["GET", "POST"])
        self._server = LocalServer(app)
        self.url, self.close = self._server.url, self._server.close

    def asked(self, path: str) -> list[dict]:
        """The bodies of the requests to a path."""
        return [call.body for call in self.calls if call.path == path]

    async def _receive(self, path: str, request: Request):
        body = await request.json() if await request.body() else {}
        return await run_in_threadpool(self._answer, "/" + path, body, dict(request.headers))

    def _answer(self, path: str, body: dict, headers: dict[str, str]):
        with self._count_lock:
            self.calls.append(Call(path, body, headers))
            self._here += 1
            self.most = max(self.most, self._here)
        try:
            if self.fault is not None and (answer := self.fault(path, body)) is not None:
                return answer
            handler = {"/v1/models": self._list, "/v1/completions": self._complete, "/pooling": self._pool}.get(path)
            return handler(body) if handler else error(404, "Not Found")
        finally:
            with self._count_lock:
                self._here -= 1

    def _list(self, _):
        return {"object": "list", "data": [{"id": name, "max_model_len": self.context} for name in self.models]}

    def _complete(self, body: dict):
        name, prompt = body.get("model"), body["prompt"]
        if name not in self.models:
            return error(404, f"The model `{name}` does not exist.")
        model, tokenizer = self.models[name], self.tokenizers.get(name)
        ids = tokenizer(prompt)["input_ids"] if isinstance(prompt, str) else prompt
        if len(ids) + body["max_tokens"] > self.context:
            return error(400, f"This model's maximum context length is {self.context} tokens.")
        with self._model_lock:
            drawn = draw(model, ids, body, tokenizer)
        stops = stops_of(model, body)
        stopped = drawn[-1] in stops or ends_with_stop(drawn, body, tokenizer)
        text = (
            tokenizer.decode(drawn[: len(drawn) - (drawn[-1] in stops)], skip_special_tokens=True) if tokenizer else ""
        )
        choice = {"index": 0, "text": text, "finish_reason": "stop" if stopped else "length"}
        if body.get("return_token_ids") and self.answers_tokens:
            choice |= {"token_ids": drawn, "prompt_token_ids": ids}
        return {"object": "text_completion", "model": name, "choices": [choice]}

    def _pool(self, body: dict):
        name = body["model"]
        if name not in self.models:
            return error(404, f"The model `{name}` does not exist.")
        if body.get("task") != "token_classify":
            return error(400, f"Unsupported task: {body.get('task')!r}")
        rows = body["input"] if isinstance(body["input"][0], list) else [body["input"]]
        if max(map(len, rows)) > self.context:
            return error(400, f"This model's maximum context length is {self.context} tokens.")
        with self._model_lock, torch.inference_mode():
            logits = [self.models[name](torch.tensor([ids])).logits[0].float() for ids in rows]
        if body.get("use_activation", True):
            logits = [one.softmax(dim=-1) for one in logits]
        data = [{"index": i, "object": "pooling", "data": one.tolist()} for i, one in enumerate(logits)]
        return {"object": "list", "model": name, "data": data}


def error(status: int, message: str, **headers: str) -> JSONResponse:
    """vLLM's form of an error."""
    content = {"error": {"message": message, "type": "Error", "param": None, "code": status}}
    return JSONResponse(content, status, headers={name.replace("_", "-"): value for name, value in headers.items()})


def stops_of(model, body: dict) -> set[int]:
    own = [] if body.get("ignore_eos") else model.generation_config.eos_token_id
    return {*(own if isinstance(own, list) else [own]), *body.get("stop_token_ids", [])}


def ends_with_stop(drawn: list[int], body: dict, tokenizer) -> bool:
    """Whether one of the request's stop strings is in the text; the token that completes it is the last."""
    return any(stop in tokenizer.decode(drawn, skip_special_tokens=True) for stop in body.get("stop") or ())


@torch.inference_mode()
def draw(model, ids: list[int], body: dict, tokenizer=None) -> list[int]:
    """The tokens that a request asks for, up to the one that it stops at."""
    own = model.generation_config.to_dict()
    defaults = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "repetition_penalty": 1.0}
    given = {name: body.get(name, own.get(name) or default) for name, default in defaults.items()}
    sampled = {"do_sample": False}
    if given["temperature"] > 0:
        sampled = {"do_sample": True} | {name: given[name] for name in ("temperature", "top_p", "top_k")}
    if body.get("seed") is not None:
        torch.manual_seed(body["seed"])
    config = GenerationConfig(
        max_new_tokens=body["max_tokens"], repetition_penalty=given["repetition_penalty"],
        eos_token_id=sorted(stops_of(model, body)), pad_token_id=0, **sampled,
    )  # fmt: skip
    more = {}
    if body.get("stop"):

        class Stops(StoppingCriteria):
            def __call__(self, input_ids, scores, **_):
                stops = ends_with_stop(input_ids[0, len(ids) :].tolist(), body, tokenizer)
                return torch.tensor([stops])

        more = {"stopping_criteria": StoppingCriteriaList([Stops()])}
    return model.generate(input_ids=torch.tensor([ids]), generation_config=config, **more)[0, len(ids) :].tolist()
