"""Records as a gateway writes them, with verdicts of a real guard."""

from __future__ import annotations

from typing import Any

from integration_helpers import MAIL, SECRET, make_guard

from safety_kit.gateway.record import Record, outcome_of

CANARY = "CANARY-7f3a"
ASKED = {"model": "m", "messages": [{"role": "user", "content": f"{CANARY} {MAIL} {SECRET}"}]}
REPLY = {
    "id": "1",
    "object": "chat.completion",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": f"{CANARY} {MAIL}"}, "finish_reason": "stop"}],
}


def record(**changed: Any) -> Record:
    """A request that was blocked and a reply that was redacted, both around a canary."""
    guard = make_guard()  # a new one: it remembers verdicts, and then has no timings
    request = guard.check_request(ASKED, request_id="r1")
    response = guard.check_response(REPLY, request_id="r1")
    fields: dict[str, Any] = {
        "request_id": "r1",
        "route": "/v1/chat/completions",
        "key": "team-a",
        "model": "gemma",
        "at": 0.0,
        "seconds": 0.2,
        "status": 200,
        "outcome": outcome_of(request, response),
        "code": "blocked.code_names",
        "policy": request.policy_digest,
        "request": request,
        "response": response,
        "first_byte": 0.1,
        "held": 7,
        "texts": {"request": ASKED, "response": REPLY},
        **changed,
    }
    return Record(**fields)
