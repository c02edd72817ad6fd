"""A chat model behind an OpenAI-compatible address: what it is sent, and what of its answers is read.

Answers are text; nothing of them is run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rlstep.runtime.errors import UserError
from rlstep.runtime.json_client import JsonClient, Refused
from rlstep.steps.prompts import Message
from rlstep.steps.records import shown

KEY_VARIABLE = "RLSTEP_JUDGE_KEY"
PATH = "/chat/completions"
# In place of an answer that was cut off: a box that stands in it is not the one that it would have ended with.
CUT_OFF = ""
# What the protocol gives as the reason for such an end.
CUTS = ("length", "content_filter")


@dataclass(frozen=True)
class Answers:
    """What one request gave.

    Attributes:
        texts: of the answers, one at least; "" for one without text, or one that was cut off.
        prompt_tokens, completion_tokens: as the server counts them; None where it does not.
    """

    texts: list[str]
    prompt_tokens: int | None
    completion_tokens: int | None


class ChatClient:
    """Asks one model at one address; several threads may share it.

    Args:
        url: the address that `/chat/completions` comes after, for example https://api.example.com/v1.
        model: its name there.
        parameters: further fields of each request, such as temperature; None takes a field out.
        request_timeout, retry_for, connections: as in `JsonClient`.

    Raises:
        UserError: no such address, or a key that cannot stand in an HTTP header.
    """

    def __init__(
        self,
        url: str,
        model: str,
        parameters: Mapping,
        request_timeout: float = 600.0,
        retry_for: float = 300.0,
        connections: int = 1,
    ):
        self._client = JsonClient(url, request_timeout, retry_for, connections, KEY_VARIABLE, prefix="judge_")
        self.url, self.model, self._parameters = self._client.url, model, parameters

    def stop(self) -> None:
        """Lets no request be sent any more, nor be waited for in order to be sent again; it raises `Stopped`."""
        self._client.stop()

    def ask(self, messages: Sequence[Message], n: int) -> Answers:
        """One to n answers: some servers give one whatever is asked for.

        Raises:
            UserError: the server refuses, gives something else than answers, or is not reached for `retry_for` seconds.
            Stopped: `stop` was called.
        """
        several = {"n": n} if n > 1 else {}
        body = {"model": self.model, "messages": list(messages), **several, **self._parameters}
        try:
            reply = self._client.post(PATH, {name: value for name, value in body.items() if value is not None})
        except Refused as error:
            raise self._refused(error) from None
        return self._answers(reply, n)

    def _refused(self, error: Refused) -> UserError:
        if error.status == 404:
            return UserError(
                f"{self.url}{PATH} is not there ({error}). judge_url is what comes before {PATH}, mostly ending in "
                "/v1, and judge_model a name that the server knows."
            )
        return UserError(
            f"{self.url}{PATH} refuses the request ({error}). judge_parameters changes its fields: "
            '{"top_p": null} takes one out.'
        )

    def _answers(self, reply, n: int) -> Answers:
        choices = reply.get("choices") if isinstance(reply, dict) else None
        if not isinstance(choices, list) or not 1 <= len(choices) <= n:
            raise self._no_answers(f"expected 1 to {n} choices, got {shown(reply if choices is None else choices)}")
        texts = []
        for choice in choices:
            message = choice.get("message") if isinstance(choice, dict) else None
            text = message.get("content", "") if isinstance(message, dict) else 0
            if not isinstance(text, str | None):
                raise self._no_answers(f"expected a choice with a message's content, got {shown(choice)}")
            texts.append(CUT_OFF if choice.get("finish_reason") in CUTS else text or "")
        usage = reply.get("usage")
        counts = (
            usage.get(name) if isinstance(usage, dict) else None for name in ("prompt_tokens", "completion_tokens")
        )
        return Answers(texts, *(count if type(count) is int and count >= 0 else None for count in counts))

    def _no_answers(self, what: str) -> UserError:
        return UserError(f"{self.url}{PATH}: {what}. Is it the address of an OpenAI-compatible server?")
