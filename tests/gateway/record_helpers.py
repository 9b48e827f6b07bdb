"""Records of requests that a real guard has judged."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

from safety_kit.gateway.record import Record, outcome_of
from safety_kit.guard import Guard
from safety_kit.policy import Policy

POLICY = """\
version: 1
name: gateway
checks:
  pii: {type: pii, countries: [us]}
  secrets: {type: secrets}
  banned: {type: patterns, keywords: [bluebird]}
  rude: {type: patterns, keywords: [idiot]}
rules:
  - {category: pii.email, action: flag}
  - {category: pii.credit_card, action: redact}
  - {category: secrets.*, stages: [input], action: redact}
  - {category: banned, action: block}
  - {category: rude, action: flag}
"""
PLAIN = Record("r1", "/v1/chat/completions", "shop", "gemma", 1764324895.0, 0.25, 200, "allow")


@cache
def guard() -> Guard:
    return Guard(Policy.parse(POLICY))


def asked(*messages: str, **fields: Any) -> dict[str, Any]:
    return {"model": "gemma", "messages": [{"role": "user", "content": text} for text in messages], **fields}


def replied(text: str) -> dict[str, Any]:
    return {"choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}]}


def judged(request: dict[str, Any], reply: dict[str, Any] | None = None, **changes: Any) -> Record:
    """The record of a request and its reply, as a gateway would make it."""
    first = guard().check_request(request)
    then = None if reply is None else guard().check_response(reply, request)
    return replace(
        PLAIN,
        outcome=outcome_of(first, then),
        policy=guard().digest,
        request=first,
        response=then,
        texts={"request": request, "response": reply},
        **changes,
    )
