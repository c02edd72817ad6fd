"""A server that speaks as much of vLLM's protocol as TRL's client does, around a model of transformers.

It samples from the weights that it was sent, or from the adapter that it was told to load, and refuses what vLLM
refuses: names that the model does not have, limits that do not fit into the context, adapters it does not know.
"""

import queue
import threading
from pathlib import Path

import torch
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from peft import PeftModel
from transformers import AutoModelForCausalLM, GenerationConfig

from tests.local_server import LocalServer

BASE = "base"


class StubVLLM:
    """Starts at once and listens on `url`; `close` ends it.

    Args:
        path: of the model.
        eos: the token at which completions end.
        context: max_model_len.
        max_lora_rank: of `--max-lora-rank`; None is a server without `--enable-lora`.
        copies: `--data-parallel-size`.
        updating: whether adapters may be loaded (VLLM_ALLOW_RUNTIME_LORA_UPDATING).
        repeats: whether a prompt is continued the same, whatever was asked for before.

    Attributes:
        model: the weights as they are now; replaced after `/finish_weight_update`.
        sent: tensors on their way, as the communicator would carry them.
        calls: (path, JSON body) of each request, in order.
        updates: for each weight update the names that came.
    """

    def __init__(
        self, path: str, eos: int, context=512, max_lora_rank: int | None = None, copies=1, updating=True, repeats=False
    ):
        self.path, self.eos, self.context = path, eos, context
        self.info = {
            "model_config": {"max_model_len": context, "logprobs_mode": "processed_logprobs"},
            "lora_config": None if max_lora_rank is None else {"max_lora_rank": max_lora_rank, "max_loras": 1},
            "parallel_config": {"data_parallel_size": copies},
            "weight_transfer_config": {"backend": "nccl"},
        }
        self.updating, self.repeats = updating, repeats
        self.model = AutoModelForCausalLM.from_pretrained(path).eval()
        self.adapters: dict[str, PeftModel] = {}
        self.sent: queue.Queue = queue.Queue()
        self.calls: list[tuple[str, dict]] = []
        self.updates: list[list[str]] = []
        self._lock = threading.Lock()
        app = FastAPI()
        app.add_api_route("/{path:path}", self._answer, methods=["GET", "POST"])
        self._server = LocalServer(app)
        self.url, self.close = self._server.url, self._server.close

    def asked(self, path: str) -> list[dict]:
        """The bodies of the requests to one path."""
        return [body for called, body in self.calls if called == path]

    async def _answer(self, path: str, request: Request):
        from starlette.concurrency import run_in_threadpool

        body = await request.json() if await request.body() else {}
        handler = getattr(self, "_" + path.replace("v1/", "").replace("/", "_"), None)
        if handler is None:
            return JSONResponse({"detail": "Not Found"}, status_code=404)
        try:
            return await run_in_threadpool(self._handle, path, handler, body)
        except Refused as error:
            return JSONResponse({"error": {"message": str(error)}}, status_code=error.status)

    def _handle(self, path, handler, body):
        with self._lock:
            self.calls.append((path, body))
            return handler(body) or {}

    def _health(self, _):
        return {}

    def _models(self, _):
        return {"data": [{"id": BASE, "max_model_len": self.context}]}

    def _server_info(self, _):
        return {"vllm_config": self.info}

    def _reset_prefix_cache(self, _):
        return {"success": True}

    # --- Weights.

    def _init_weight_transfer_engine(self, _):
        return {}

    def _start_weight_update(self, _):
        self._new = dict(self.model.named_parameters())
        self.updates.append([])

    def _update_weights(self, body):
        info = body["update_info"]
        tensors = self.sent.get(timeout=30)
        came = [(name, str(t.dtype).removeprefix("torch."), list(t.shape)) for name, t in tensors]
        assert came == list(zip(info["names"], info["dtype_names"], info["shapes"], strict=True))
        for name, tensor in tensors:
            if name not in self._new:
                raise Refused(f"There is no module or parameter named '{name}'", 400)
            with torch.no_grad():
                self._new[name].copy_(tensor)
            self.updates[-1].append(name)

    def _finish_weight_update(self, _):
        return {}

    # --- Adapters.

    def _load_lora_adapter(self, body):
        if not self.updating:
            raise Refused("Not Found", 404)
        name, folder = body["lora_name"], Path(body["lora_path"])
        if name in self.adapters:
            raise Refused(f"The lora adapter '{name}' has already been loaded.", 400)
        if not (folder / "adapter_config.json").is_file():
            raise Refused(f"No adapter found for {folder}", 404)
        base = AutoModelForCausalLM.from_pretrained(self.path)
        self.adapters[name] = PeftModel.from_pretrained(base, folder).eval()

    def _unload_lora_adapter(self, body):
        if body["lora_name"] not in self.adapters:
            raise Refused("not loaded", 404)
        del self.adapters[body["lora_name"]]

    # --- Sampling.

    def _completions(self, body):
        name, prompts, n, limit = body["model"], body["prompt"], body["n"], body["max_tokens"]
        if name != BASE and name not in self.adapters:
            raise Refused(f"The model `{name}` does not exist.", 404)
        model = self.model if name == BASE else self.adapters[name]
        choices = []
        for ids in prompts:
            if len(ids) + limit > self.context:
                raise Refused(
                    f"'max_tokens' is too large: {limit}. This model's maximum context length is {self.context} tokens "
                    f"and your request has {len(ids)} input tokens.",
                    400,
                )
            for row, logprobs in self._sample(model, ids, n, limit, body):
                tokens = [f"token_id:{token}" for token in row]
                top = [{token: logprob} for token, logprob in zip(tokens, logprobs, strict=True)]
                written = {"tokens": tokens, "token_logprobs": logprobs, "top_logprobs": top}
                choices.append({"prompt_token_ids": ids, "token_ids": row, "logprobs": written})
        return {"choices": choices}

    @torch.no_grad()
    def _sample(self, model, ids: list[int], n: int, limit: int, body: dict) -> list[tuple[list[int], list[float]]]:
        config = GenerationConfig(
            max_new_tokens=limit, do_sample=True, num_return_sequences=n, temperature=body["temperature"],
            top_k=body["top_k"], top_p=body["top_p"], eos_token_id=self.eos, pad_token_id=self.eos,
            output_scores=True, return_dict_in_generate=True,
        )  # fmt: skip
        if self.repeats:
            torch.manual_seed(sum(place * token for place, token in enumerate(ids, start=1)))
        drawn = model.generate(input_ids=torch.tensor([ids]), generation_config=config)
        logprobs = model.compute_transition_scores(drawn.sequences, drawn.scores, normalize_logits=True)
        rows = []
        for row, row_logprobs in zip(drawn.sequences[:, len(ids) :].tolist(), logprobs.tolist(), strict=True):
            length = row.index(self.eos) + 1 if self.eos in row else len(row)
            rows.append((row[:length], row_logprobs[:length]))
        return rows


class Refused(Exception):
    def __init__(self, message: str, status: int):
        super().__init__(message)
        self.status = status
