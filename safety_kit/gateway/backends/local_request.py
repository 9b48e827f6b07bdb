"""What a request asks of the gateway's own Gemma: held against what that can do, nothing dropped in silence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError

from safety_kit.chat.wire import ROLES, TEXT_PARTS
from safety_kit.gateway.backends import BackendError
from safety_kit.gemma.sampling import Sampling
from safety_kit.types import Message

MAX_TOKENS: Final = 256
"""Tokens of a reply where the request names no number."""

MAX_CHOICES: Final = 8
"""Choices of one request: each is a reply of its own."""

_REFUSED: Final[Mapping[str, str]] = {
    "tools": "call tools",
    "functions": "call functions",
    "audio": "speak",
    "modalities": "answer in other than text",
    "prediction": "follow a prediction",
    "web_search_options": "search the web",
    "logit_bias": "bias single tokens",
    "frequency_penalty": "penalise by frequency",
    "presence_penalty": "penalise by presence",
    "echo": "echo its prompt",
    "suffix": "fill in before a suffix",
    "prompt_logprobs": "tell a prompt's probabilities",
}
"""Fields that ask for what it cannot do, unless they are empty or 0."""


def _strings(value: object) -> object:
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


_Stop = Annotated[str, StringConstraints(min_length=1, max_length=200)]
_Number = Annotated[float, Field(allow_inf_nan=False)]


class StreamOptions(BaseModel):
    """How a stream ends."""

    model_config = ConfigDict(strict=True)
    include_usage: bool | None = None


class Asked(BaseModel):
    """What both kinds of completion may ask for. Fields that name no ability, such as ``user``, are not looked at.

    Attributes:
        logprobs: Of a chat: whether each token's log-probability is told.
        top_logprobs: How many of the likeliest are told beside it.
    """

    model_config = ConfigDict(strict=True, extra="ignore")
    model: Annotated[str, Field(max_length=500)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    temperature: Annotated[_Number, Field(ge=0, le=2)] | None = None
    top_p: Annotated[_Number, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=1_000_000)] | None = None
    min_p: Annotated[_Number, Field(ge=0, lt=1)] | None = None
    repetition_penalty: Annotated[_Number, Field(gt=0, le=10)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    stop: Annotated[tuple[_Stop, ...], BeforeValidator(_strings), Field(max_length=16)] = ()
    stream_options: StreamOptions | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    @property
    def choices(self) -> int:
        return self.n or 1

    @property
    def likeliest(self) -> int:
        """How many tokens each step tells; one where only the chosen one's probability is asked for."""
        return max(1, self.top_logprobs or 0) if self.logprobs else 0

    @property
    def tells_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def limit(self) -> int:
        return self.max_tokens or MAX_TOKENS

    def sampling(self, choice: int) -> Sampling:
        """Of one choice; with a seed, each choice draws by its own."""
        return Sampling(
            max_tokens=self.limit,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=self.top_p or 1.0,
            top_k=max(0, self.top_k or 0),
            min_p=self.min_p or 0.0,
            repetition_penalty=self.repetition_penalty or 1.0,
            stop=self.stop,
            seed=None if self.seed is None else (self.seed + choice) % 2**63,
        )


class AskedChat(Asked):
    """A chat completion's request."""

    messages: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=100_000)]
    max_completion_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None

    @property
    def limit(self) -> int:
        return self.max_completion_tokens or super().limit

    def conversation(self) -> list[Message]:
        """The messages.

        Raises:
            BackendError: One holds what is no text, or has no known role.
        """
        return [_message(number, message) for number, message in enumerate(self.messages)]


class AskedText(Asked):
    """A text completion's request."""

    prompt: Annotated[str, Field(min_length=1)] | Annotated[list[str], Field(min_length=1, max_length=1)]
    logprobs: None = None  # the older form, a number, is refused


A = TypeVar("A", bound=Asked)


def read(request: Mapping[str, Any], kind: type[A]) -> A:
    """What is asked for.

    Raises:
        BackendError: 400: a field is out of range, or asks for what this Gemma cannot do.
    """
    for name, ability in _REFUSED.items():
        value = request.get(name)
        if value and not (name == "modalities" and value == ["text"]):
            raise _refused(name, f"The gateway's own model cannot {ability}; leave out {name!r}.")
    form = request.get("response_format")
    if form is not None and not (isinstance(form, dict) and form.get("type") == "text"):
        raise _refused("response_format", "The gateway's own model answers in text; leave out 'response_format'.")
    best = request.get("best_of")
    if best is not None and best != (request.get("n") or 1):
        raise _refused("best_of", "The gateway's own model does not choose among replies; leave out 'best_of'.")
    try:
        return kind.model_validate(dict(request))
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        place = first["loc"][0] if first["loc"] else "request"
        raise BackendError(400, "invalid_value", f"{place}: {first['msg']}.") from None


def _message(number: int, message: Mapping[str, Any]) -> Message:
    role = message.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise BackendError(400, "invalid_value", f"messages[{number}].role is none of {', '.join(ROLES)}.")
    if message.get("tool_calls") or message.get("function_call"):
        raise _refused("messages", f"messages[{number}] calls a tool, which the gateway's own model cannot read.")
    content = message.get("content")
    parts = content if isinstance(content, list) else [{"type": "text", "text": "" if content is None else content}]
    texts = []
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else None
        text = part.get(TEXT_PARTS[kind]) if isinstance(kind, str) and kind in TEXT_PARTS else None
        if not isinstance(text, str):
            raise _refused("messages", f"messages[{number}] holds other than text, which the model cannot read.")
        texts.append(text)
    return Message(ROLES[role], "\n".join(texts))


def _refused(name: str, message: str) -> BackendError:
    return BackendError(400, "unsupported_parameter" if name != "messages" else "unsupported_content", message)
