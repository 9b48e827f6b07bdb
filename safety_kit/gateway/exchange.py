"""One request as the flow sees it, and what its blocks and faults come to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from safety_kit.chat.exchange import Verdicts
from safety_kit.errors import ConversationError
from safety_kit.followed_stream import Follow
from safety_kit.gateway import logs
from safety_kit.gateway.backends import BackendError, Call
from safety_kit.gateway.dialects import Dialect
from safety_kit.gateway.errors import ApiError, no_service
from safety_kit.gateway.record import Outcome
from safety_kit.gateway.ticket import Ticket
from safety_kit.guard import Guard
from safety_kit.types import Verdict
from safety_kit.vault import Vault


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request as the flow sees it."""

    dialect: Dialect
    body: dict[str, Any]
    ticket: Ticket
    guard: Guard
    vault: Vault
    follow: Follow | None = None

    @property
    def call(self) -> Call:
        return Call(self.ticket.request_id, self.ticket.token)


def note_block(ticket: Ticket, verdicts: Verdicts) -> None:
    """Note why something is blocked, if it is.

    Raises:
        ApiError: 503: a check was not made, because the guard's model has too much to read.
    """
    if (blocking := verdicts.blocking) is None:
        return
    if any(error.kind == "overloaded" for error in blocking.verdict.errors):
        raise no_service("The guard's model has more to read than it can; try again.", "overloaded")
    ticket.code = blocking.verdict.code


def blocked(exchange: Exchange, verdict: Verdict) -> ApiError:
    """A block as an error."""
    return ApiError(400, exchange.guard.message(verdict), "content_filter")


def outcome_of_error(error: ApiError, ticket: Ticket) -> Outcome:
    """What a request came to that was answered with an error."""
    if error.code == "content_filter":
        return "block"
    return "refused" if ticket.request is None and error.status < 500 else "error"


def failed(error: BackendError) -> ApiError:
    """A backend's fault, as the client is told of it."""
    wait = 1 if error.retry_after is None and error.status in (429, 503) else error.retry_after
    return ApiError(error.status, error.message, error.code, retry_after=wait)


def unreadable(error: ConversationError) -> ApiError:
    """A reply that is none: nothing of it is passed on."""
    return ApiError(502, f"The backend's answer cannot be read. {error}", "backend_garbage")


def internal(ticket: Ticket, error: Exception) -> ApiError:
    """A fault that nobody expected: the log names its kind and place, since its message may quote a text."""
    logs.fault("request", error, request_id=ticket.request_id)
    return ApiError(500, "Something went wrong in the gateway.", "internal_error")
