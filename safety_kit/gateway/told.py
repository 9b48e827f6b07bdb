"""What a client is told of the verdicts: a field of the answer and headers, with nothing of any text in them."""

from __future__ import annotations

from typing import Any

from safety_kit.chat.exchange import Verdicts
from safety_kit.gateway.record import outcome_of
from safety_kit.gateway.ticket import Ticket


def told(ticket: Ticket) -> dict[str, Any]:
    """The field ``safety`` of an answer."""
    return {
        "safety": {
            "request_id": ticket.request_id,
            "action": outcome_of(ticket.request, ticket.response),
            "code": ticket.code,
            "request": _places(ticket.request),
            "response": _places(ticket.response),
        }
    }


def headers(ticket: Ticket) -> dict[str, str]:
    """The headers of an answer; those of a stream tell of the request alone."""
    out = {"x-request-id": ticket.request_id}
    if ticket.request is not None:
        out["x-safety-action"] = outcome_of(ticket.request, ticket.response)
    if ticket.code is not None:
        out["x-safety-code"] = ticket.code
    return out


def _places(verdicts: Verdicts | None) -> dict[str, Any] | None:
    """The verdicts without the texts that they pass on: these stand in the answer, or went to the backend."""
    if verdicts is None:
        return None
    told = verdicts.to_json()
    for place in told["places"]:
        place["verdict"].pop("text")
    return told
