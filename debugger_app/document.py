"""A run as a file: the document of `safety-kit inspect --json`, checked when it comes from outside.

Every page draws from this alone, so a run that was imported looks like the one that was exported.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from safety_kit.errors import UserError

MOST_BYTES: Final = 32 * 2**20
"""Of a run's file."""

MOST_TOKENS: Final = 20_000

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{8,64}$")]
Name = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Piece = Annotated[str, StringConstraints(max_length=1_000)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Place = Annotated[int, Field(ge=0, lt=MOST_TOKENS)]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]
Places = dict[Name, Place | None]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelName(_Strict):
    """Which model it was."""

    name: Annotated[str, StringConstraints(max_length=4_000)]
    family: Name
    digest: Digest
    dtype: Name
    attention: Name
    revision: Name | None = None


class Settings(_Strict):
    """How the reply was drawn."""

    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    top_k: Annotated[int, Field(ge=0)] = 0
    top_p: Share = 1.0
    min_p: Share = 0.0
    seed: int | None = None


class Alternative(_Strict):
    """A token that might have stood there."""

    id: TokenId
    text: Piece
    probability: Share


class Distribution(_Strict):
    """What was said of a token before it was read; None for what is not there."""

    logprob: Annotated[float, Field(le=1e-6, allow_inf_nan=False)] | None
    surprisal: Number | None
    entropy: Number | None
    rank: Annotated[int, Field(ge=0)] | None
    top: Annotated[list[Alternative], Field(max_length=50)]


class Next(Distribution):
    """The same for a place, raw and as the sampler draws it."""

    sampled: Distribution | None = None

    @model_validator(mode="after")
    def _together(self) -> Self:
        if self.logprob is not None and None in (self.surprisal, self.entropy, self.rank):
            raise ValueError("a token has a probability and lacks what goes with it")
        return self


class Token(Next):
    """One token."""

    id: TokenId
    text: Piece
    control: bool
    part: Annotated[int, Field(ge=0, le=8)] = 0
    parts: Annotated[int, Field(ge=0, le=8)] = 0


class Strip(_Strict):
    """One classifier's probabilities at each of a message's tokens; see `safety_kit.analysis.strip.Strip`."""

    category: Name
    stage: Literal["input", "output"]
    spans: Annotated[list[tuple[int, int]], Field(max_length=MOST_TOKENS)]
    probabilities: Annotated[list[Share], Field(max_length=MOST_TOKENS)]
    readings: Annotated[list[Share], Field(max_length=MOST_TOKENS)]
    thresholds: dict[Name, Share]
    crossings: Places
    ends: Annotated[list[Place], Field(max_length=MOST_TOKENS)]
    acts: Places

    @model_validator(mode="after")
    def _shapes(self) -> Self:
        count = len(self.probabilities)
        if not len(self.spans) == len(self.readings) == count:
            raise ValueError("a strip's numbers are not one a token")
        if any(at is not None and at >= count for at in (*self.crossings.values(), *self.acts.values(), *self.ends)):
            raise ValueError("a strip names a token that is not there")
        return self


class Whole(_Strict):
    """What a classifier says of a whole message; None for a text without tokens."""

    category: Name
    probability: Share | None


class Part(_Strict):
    """The tokens of a message."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    start: Place
    stop: Annotated[int, Field(ge=0, le=MOST_TOKENS)]
    strips: Annotated[list[Strip], Field(max_length=100)]
    wholes: Annotated[list[Whole], Field(max_length=100)] = []


class TrustCheck(_Strict):
    """One comparison; see `safety_kit.analysis.trust.Check`."""

    name: Name
    compared: Piece
    value: Number | None
    tolerance: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    passed: bool
    charts: Annotated[list[Name], Field(max_length=20)]

    @model_validator(mode="after")
    def _verdict(self) -> Self:
        if self.passed != (self.value is not None and self.value <= self.tolerance):
            raise ValueError("a check's verdict is not that of its numbers")
        return self


class Trust(_Strict):
    """How far the run's numbers agreed with plain transformers."""

    tokens: Annotated[int, Field(ge=0, le=MOST_TOKENS)]
    of: Annotated[int, Field(ge=0, le=MOST_TOKENS)]
    notes: Annotated[list[Piece], Field(max_length=20)]
    checks: Annotated[list[TrustCheck], Field(max_length=50)]

    @property
    def failed(self) -> list[TrustCheck]:
        """Those that did not pass."""
        return [check for check in self.checks if not check.passed]


class Document(_Strict):
    """A conversation, read once."""

    model: ModelName
    kit_version: Name
    policy_digest: Digest | None
    sampling: Settings | None
    reply: Annotated[str, StringConstraints(max_length=1_000_000)] | None
    tokens: Annotated[list[Token], Field(min_length=1, max_length=MOST_TOKENS)]
    next: Next
    messages: Annotated[list[Part], Field(max_length=1_000)]
    trust: Trust | None = None

    @model_validator(mode="after")
    def _shapes(self) -> Self:
        end = 0
        for part in self.messages:
            if not end <= part.start <= part.stop <= len(self.tokens):
                raise ValueError("a message's tokens are not where it says")
            if any(len(strip.probabilities) != part.stop - part.start for strip in part.strips):
                raise ValueError("a strip is not as long as its message")
            end = part.stop
        return self

    def part_of(self, token: int) -> Part | None:
        """The message that a token belongs to; None for the template's own."""
        return next((part for part in self.messages if part.start <= token < part.stop), None)

    @property
    def text(self) -> str:
        """The conversation without the template's control tokens; a character of several tokens stands once."""
        return "".join(token.text for token in self.tokens if not token.control and token.part <= 1)

    @property
    def categories(self) -> list[str]:
        """Those that a classifier scored, in the order of the strips."""
        return list(dict.fromkeys(strip.category for part in self.messages for strip in part.strips))


_OWN: Final = {
    name
    for kind in (ModelName, Settings, Token, Strip, Whole, Part, TrustCheck, Trust, Document)
    for name in kind.model_fields
}
"""What a message may name: our own words, none of the file's."""


def opened(raw: bytes) -> Document:
    """A run's file from outside.

    Raises:
        UserError: It is too large, no such document, or does not agree with itself. What it holds is not repeated.
    """
    if len(raw) > MOST_BYTES:
        raise UserError(f"The file has {len(raw) / 2**20:.0f} MB; a run has at most {MOST_BYTES // 2**20}.")
    try:
        return Document.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(str(part) if isinstance(part, int) or part in _OWN else "…" for part in first["loc"])
        raise UserError(
            f"This is no run that can be shown: {place or 'the file'}: {_told(first)}. "
            "Open a file that was exported here or printed by `safety-kit inspect --json`."
        ) from None


def _told(error: Any) -> str:
    """What is wrong, without the file's own words."""
    known = {
        "extra_forbidden": "does not belong there",
        "missing": "is missing",
        "json_invalid": "is not JSON",
        "value_error": str(error["msg"]).removeprefix("Value error, "),
    }
    return known.get(error["type"], str(error["msg"]))
