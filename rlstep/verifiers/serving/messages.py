"""What a reward server takes and gives, as pydantic models; a request that does not fit is refused by field and row."""

import json
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from rlstep.runtime.counted import counted
from rlstep.runtime.halves import encodable
from rlstep.steps.messages import Prompt, is_messages, messages_fault
from rlstep.steps.records import Span, shown


def _whole_characters(text: str) -> str:
    if not encodable(text):
        raise ValueError("half a surrogate pair is no character.")
    return text


# The first fault ends the check of a list: a request of a million bad rows would make a million errors.
Text = Annotated[str, AfterValidator(_whole_characters)]
Texts = Annotated[list[Text], Field(fail_fast=True)]
# JSON has no tuples; the numbers stay strict, since True and 1.0 would pass for 1.
Pair = Annotated[tuple[int, int], Field(strict=False)]
Spans = Annotated[list[Pair], Field(fail_fast=True)]


def _prompt(value: object) -> Prompt:
    if not isinstance(value, str) and not is_messages(value):
        if fault := messages_fault(value):
            raise ValueError(f"{fault}.")
        raise PydanticCustomError("prompt", "a text or a list of messages")
    for text in [value] if isinstance(value, str) else [message["content"] for message in value]:
        _whole_characters(text)
    return value


Prompts = Annotated[list[Annotated[Any, PlainValidator(_prompt)]], Field(fail_fast=True)]

FIELDS = ("prompts", "completions", "steps", "cut")
# What belongs at each place: the field itself, one of its rows, a span of that row.
EXPECTED = {
    "prompts": ("a list of texts or of lists of messages", "a text or a list of messages"),
    "completions": ("a list of texts", "a text"),
    "steps": ("a list of spans for each row, or null", "a list of [start, end] pairs", "[start, end]"),
    "cut": ("true or false",),
}


class ScoreRequest(BaseModel):
    """The rows of a POST /score; without `steps` the verifier's boundary rule splits the completions.

    With `cut`, rows that are longer than the verifier have scores of the first steps, those that fit.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    prompts: Prompts
    completions: Texts
    steps: Annotated[list[Spans], Field(fail_fast=True)] | None = None
    cut: bool = False

    @model_validator(mode="after")
    def _rows_belong_together(self) -> "ScoreRequest":
        for name in ("completions", "steps"):
            rows = getattr(self, name)
            if rows is not None and len(rows) != len(self.prompts):
                raise ValueError(
                    f"field '{name}': {counted(len(rows), 'row')} for {counted(len(self.prompts), 'prompt')}."
                )
        for row, (spans, completion) in enumerate(zip(self.steps or [], self.completions, strict=False)):
            _check_order(row, spans, len(completion))
        return self


def _check_order(row: int, spans: list[Span], length: int) -> None:
    last = 0
    for start, end in spans:
        if not last <= start <= end <= length:
            raise ValueError(
                f"field 'steps', row {row}: {shown([start, end])} is out of order or outside the completion's {length} "
                "characters."
            )
        last = end


class ScoreReply(BaseModel):
    """One score for each step of each row that was read, with the digits that give the same float back."""

    scores: list[list[Annotated[float, Field(ge=0, le=1)]]]


class BadRequest(ValueError):
    """A request that is malformed; the message names the field and the row, counted from 0."""


def parse(body: bytes) -> ScoreRequest:
    """The request in the body of a POST /score.

    Raises:
        BadRequest: it is no JSON, or not what `ScoreRequest` takes.
    """
    try:
        document = json.loads(body.decode("utf-8"), object_pairs_hook=_unique_fields)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the request is not JSON in UTF-8: {error}") from None
    try:
        if not isinstance(document, dict):
            raise BadRequest(f"expected an object with {', '.join(FIELDS)}, got {shown(document)}.")
        # Before the model sees them, which would make an error of each.
        if unknown := sorted(document.keys() - set(FIELDS)):
            raise BadRequest(f"field {shown(unknown[0])}: unknown; there are {', '.join(FIELDS)}.")
        return ScoreRequest.model_validate(document)
    except ValidationError as error:
        raise BadRequest(_reason(error.errors(include_url=False)[0], document)) from None
    except RecursionError:  # a value that is nested almost too deeply to be read is too deep to be shown
        raise BadRequest("the request is nested too deeply.") from None


def _unique_fields(pairs: list[tuple]) -> dict:
    unique = dict(pairs)
    if len(unique) < len(pairs):
        raise ValueError("an object has a field twice")
    return unique


def _reason(error: ErrorDetails, document: dict) -> str:
    """A fault in our own words: where, what was expected there, what was given."""
    own = str(error["ctx"]["error"]) if error["type"] == "value_error" else None  # what a check above raised
    if not error["loc"]:
        return own
    field, *places = error["loc"]
    if field not in document:
        return f"field '{field}': missing."
    expected = EXPECTED[field]
    value = document[field]
    places = places[: len(expected) - 1]
    for place in places:
        value = value[place]
    where = f"field '{field}'" + (f", row {places[0]}" if places else "")
    return f"{where}: {own or f'expected {expected[len(places)]}, got {shown(value)}.'}"
