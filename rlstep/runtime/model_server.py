"""A server of models that speaks OpenAI's protocol, as `vllm serve` does: one of its models, asked by several threads.

Written against vLLM 0.22 to 0.31, the versions that TRL 1.16 knows.
"""

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TypeVar

from rlstep.runtime.errors import UserError
from rlstep.runtime.json_client import JsonClient, Refused

A, B = TypeVar("A"), TypeVar("B")


class ModelServer:
    """One model of a server.

    Args:
        url: http(s)://HOST:PORT, with or without the closing /v1.
        name: the model's, as the server calls it; an adapter has a name of its own there.
        request_timeout, retry_for: as in `JsonClient`.
        concurrency: requests at a time.

    Attributes:
        max_length: tokens of prompt and completion together that it takes; None where the server does not say.

    Raises:
        UserError: there is no server, or it has no model of this name.
    """

    def __init__(
        self, url: str, name: str, request_timeout: float = 600.0, retry_for: float = 300.0, concurrency: int = 64
    ):
        self.name, self.concurrency = name, concurrency
        self.client = JsonClient(url.rstrip("/").removesuffix("/v1"), request_timeout, retry_for, concurrency)
        self.url = self.client.url
        self.max_length = self._look_up()

    def _look_up(self) -> int | None:
        try:
            reply = self.client.get("/v1/models")
            models = {model["id"]: model for model in reply["data"]}
        except (Refused, LookupError, TypeError):
            raise UserError(
                f"{self.url} does not list its models at /v1/models. Is it the address of a server that speaks "
                "OpenAI's protocol, such as `vllm serve`?"
            ) from None
        if self.name not in models:
            served = ", ".join(f"'{name}'" for name in models) or "nothing"
            raise UserError(f"{self.url} serves {served}, and no model '{self.name}'. Name one of these.")
        length = models[self.name].get("max_model_len")
        return length if type(length) is int else None

    def post(self, path: str, body: Mapping):
        """The answer to a request to the model.

        Raises:
            Refused: the server refuses the request.
            UserError: it does not answer, or has no such model any more.
        """
        try:
            return self.client.post(path, {"model": self.name, **body})
        except Refused as error:
            if error.status == 404:
                raise UserError(f"{self.url}{path} is not there, or the model '{self.name}': {error.reason}.") from None
            raise

    def map(self, ask: Callable[[A], B], items: Iterable[A]) -> list[B]:
        """What `ask` gives for each item, in order, `concurrency` at a time; the first error ends the others' waiting.

        Raises:
            Exception: what `ask` raises.
        """
        with ThreadPoolExecutor(self.concurrency, "requests") as pool:
            futures = [pool.submit(ask, item) for item in items]
            try:
                wait(futures, return_when=FIRST_EXCEPTION)
                for future in futures:
                    if future.done():
                        future.result()
                return [future.result() for future in futures]
            except BaseException:
                self.client.stop()
                pool.shutdown(cancel_futures=True)
                self.client.resume()
                raise
