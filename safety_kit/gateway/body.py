"""A request's body: read within a size, parsed strictly, its known fields checked before anything else is done."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from starlette.requests import Request

from safety_kit.chat.answers import MAX_CHOICES
from safety_kit.gateway.errors import ApiError, bad_request
from safety_kit.gateway.json_body import BodyError, parse_json
from safety_kit.gateway.workers import Workers

SMALL: Final = 65_536
"""Bytes that are parsed at once; more is parsed in a thread."""

_TRICKS: Final = re.compile(r"(^|[/\\])\.\.?([/\\]|$)")

ModelName = Annotated[str, StringConstraints(strict=True, pattern=r"^[A-Za-z0-9_./:@+-]{1,256}$")]
Whole = Annotated[int, Field(strict=True, ge=0, le=10_000_000)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Flag = Annotated[bool, Field(strict=True)]
Texts = Annotated[list[str], Field(min_length=1)]
Ids = Annotated[list[Annotated[int, Field(strict=True)]], Field(min_length=1)]


class Open(BaseModel):
    """A body of which the fields below are checked; all others go on as they are."""

    model_config = ConfigDict(extra="allow")


class Generation(Open):
    """What both kinds of completion have."""

    model: ModelName | None = None
    stream: Flag | None = None
    stream_options: dict[str, Any] | None = None
    n: Annotated[int, Field(strict=True, ge=1, le=MAX_CHOICES)] | None = None
    max_tokens: Whole | None = None
    temperature: Annotated[Number, Field(ge=0)] | None = None
    top_p: Annotated[Number, Field(ge=0, le=1)] | None = None
    presence_penalty: Number | None = None
    frequency_penalty: Number | None = None
    stop: str | list[str] | None = None


class Message(Open):
    """A message of a conversation; docs/guides/positions.md says what of it is checked."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[Any] | None = None


class ChatRequest(Generation):
    """A chat completion's request."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Whole | None = None
    tools: list[dict[str, Any]] | None = None


class CompletionRequest(Generation):
    """A text completion's request: a prompt, several, or such as token ids, which no check can read."""

    prompt: str | Texts | Ids | Annotated[list[Ids], Field(min_length=1)]
    suffix: str | None = None
    echo: Flag | None = None


class ModerationRequest(Open):
    """A moderation's request: texts, or parts."""

    input: str | Texts | Annotated[list[dict[str, Any]], Field(min_length=1)]
    model: ModelName | None = None


class CheckRequest(Open):
    """A text, or a conversation, to check; at output the last message is the reply."""

    text: str | None = None
    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None
    stage: Literal["input", "output"] = "input"


class GuardrailRequest(Open):
    """What LiteLLM asks of a guardrail."""

    input_type: Literal["request", "response"]
    texts: list[str] | None = None
    images: list[str] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_calls: list[dict[str, Any]] | None = None
    structured_messages: list[dict[str, Any]] | None = None


class PredictRequest(Open):
    """Vertex AI's contract: chat requests, or prompts, and what they have in common."""

    instances: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=64)]
    parameters: dict[str, Any] | None = None


Body = TypeVar("Body", bound=Open)


async def read_body(request: Request, workers: Workers) -> tuple[dict[str, Any], int]:
    """The JSON object of a request, which `Intake` has bounded, and its bytes.

    Args:
        request: The request.
        workers: Where a large body is parsed.

    Raises:
        ApiError: 400, with what is wrong; 415.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, "Send the body as application/json.", "unsupported_media_type")
    content = await request.body()
    try:
        parsed = await workers.run(parse_json, content) if len(content) > SMALL else parse_json(content)
    except BodyError as error:
        raise bad_request(str(error), code="invalid_json") from error
    return parsed, len(content)


def validated(model: type[Body], body: dict[str, Any]) -> Body:
    """The known fields of a body.

    Raises:
        ApiError: 400, with the first field that is wrong; never with what it holds.
    """
    try:
        fields = model.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        names = {*model.model_fields, *Message.model_fields}
        place = ".".join(str(step) for step in first["loc"][:3] if step in names or isinstance(step, int))
        said = "is required" if first["type"] == "missing" else f"is not valid: {first['msg']}"
        raise bad_request(f"{place or 'The body'} {said}.", param=place or None) from error
    name = getattr(fields, "model", None)
    if name is not None and _TRICKS.search(name):
        raise bad_request("model must be a model's name.", param="model")
    return fields
