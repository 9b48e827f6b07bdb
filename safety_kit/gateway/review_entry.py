"""One request in the review store: what came of it, and its texts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from safety_kit.errors import DataError
from safety_kit.gateway.body_paths import cut, text_at
from safety_kit.gateway.record import Outcome
from safety_kit.types import Action

if TYPE_CHECKING:
    from safety_kit.chat.exchange import Verdicts
    from safety_kit.gateway.record import Record

Side = Literal["request", "response"]


class _Kept(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Found(_Kept):
    """A finding without its spans, which point into a text that is masked now."""

    check: str
    category: str
    score: float
    score_kind: str


class Place(_Kept):
    """The verdict on one place that was flagged, redacted or blocked, or whose checks failed.

    Attributes:
        side: Which body it stands in.
        path: Where, as far as the path has no words of the caller's.
        stage: ``input`` or ``output``.
        failed: Names of the checks that failed.
    """

    side: Side
    path: str
    kind: str
    role: str
    stage: str
    action: str
    code: str | None
    findings: tuple[Found, ...]
    failed: tuple[str, ...]


class Entry(_Kept):
    """One request.

    Attributes:
        at: Unix time since which it is kept.
        places: What was found where.
        request: Its body, redacted.
        response: The reply's, before the guard changed it, redacted.
    """

    request_id: str
    at: float
    route: str
    key: str | None
    model: str
    status: int
    outcome: Outcome
    code: str | None
    policy: str
    places: tuple[Place, ...]
    request: JsonValue = None
    response: JsonValue = None

    @property
    def categories(self) -> dict[str, float]:
        """What was found, with the highest score of each; the strongest first."""
        best: dict[str, float] = {}
        for found in (found for place in self.places for found in place.findings):
            best[found.category] = max(best.get(found.category, 0.0), found.score)
        return dict(sorted(best.items(), key=lambda one: -one[1]))

    def body(self, side: Side) -> Any:
        """One of the two bodies."""
        return self.request if side == "request" else self.response

    def text(self, place: Place) -> str | None:
        """The text of a place; None where it was left out."""
        return text_at(self.body(place.side), place.path)


def entry_of(record: Record, at: float, redacted: Callable[[Any], Any]) -> Entry:
    """A record as it is kept.

    Args:
        record: With its texts.
        at: Unix time now.
        redacted: Makes a body one that may be kept.
    """
    texts = record.texts or {}
    return Entry(
        request_id=record.request_id,
        at=at,
        route=record.route,
        key=record.key,
        model=record.model,
        status=record.status,
        outcome=record.outcome,
        code=record.code,
        policy=record.policy,
        places=(*_places("request", record.request), *_places("response", record.response)),
        request=redacted(texts.get("request")),
        response=redacted(texts.get("response")),
    )


def read_entry(content: bytes, name: str, at: float) -> Entry:
    """An entry as it stands in a file, whose name says since when it is there.

    Raises:
        DataError: It is none; nothing of it is quoted.
    """
    try:
        return Entry.model_validate_json(content).model_copy(update={"at": at})
    except ValidationError:
        raise DataError(f"{name} is no entry of a review store; remove it.") from None


def _places(side: Side, verdicts: Verdicts | None) -> tuple[Place, ...]:
    return tuple(
        Place(
            side=side,
            path=cut(place.path),
            kind=place.kind,
            role=place.role,
            stage=place.verdict.stage.value,
            action=str(place.verdict.action),
            code=place.verdict.code,
            findings=tuple(
                Found(check=f.check, category=f.category, score=f.score, score_kind=f.score_kind)
                for f in place.verdict.findings
            ),
            failed=tuple(error.check for error in place.verdict.errors),
        )
        for place in (verdicts.places if verdicts else ())
        if place.verdict.action is not Action.ALLOW or place.verdict.errors
    )
