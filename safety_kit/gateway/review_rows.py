"""Entries of a review store as rows to label: what teaching reads, and a debugger shows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from safety_kit.chat.conversation import read_request
from safety_kit.chat.places import Key, Walker, show
from safety_kit.chat.wire import RECORDS, SETTINGS
from safety_kit.errors import ConversationError
from safety_kit.gateway.review_entry import Entry, Place
from safety_kit.gateway.review_redact import WITHHELD

_CONSTANTS = frozenset({"role", "type", "id", "tool_call_id", "finish_reason"})


def rows(entry: Entry, category: str | None = None) -> list[dict[str, Any]]:
    """A row for each text in which something was found, its label still to be given.

    Args:
        entry: A request.
        category: Only what was found of this category; else each text's strongest.
    """
    best: dict[tuple[str, str], dict[str, Any]] = {}
    for place in entry.places:
        text = entry.text(place)
        if not text or not text.strip() or text == WITHHELD:
            continue
        for found in place.findings:
            seen = best.get((place.side, place.path))
            if category in (None, found.category) and (seen is None or found.score > seen["score"]):
                best[place.side, place.path] = {
                    "text": text,
                    **_prompt(entry, place),
                    "label": None,
                    "category": found.category,
                    "score": round(found.score, 6),
                    "check": found.check,
                    "stage": place.stage,
                    "role": place.role,
                    "outcome": entry.outcome,
                    "request_id": entry.request_id,
                    "path": place.path,
                }
    return list(best.values())


def texts(body: Any) -> Iterator[tuple[str, str]]:
    """What a body says, in order, each text with its place; names, settings and constants are left out."""
    if not isinstance(body, dict):
        if body is not None:
            yield "the whole", str(body)
        return
    for place in Walker().strings(body):
        last = place.path[-1] if place.path else ""
        if isinstance(last, Key) or last in _CONSTANTS or place.path[0] in SETTINGS | RECORDS:
            continue
        yield show(place.path), place.text


def _prompt(entry: Entry, place: Place) -> dict[str, str]:
    """What a reply answers."""
    if place.side == "request" or not isinstance(entry.request, dict):
        return {}
    try:
        prompt = read_request(entry.request).asked.prompt
    except ConversationError:
        prompt = None
    if prompt is None and isinstance(given := entry.request.get("prompt"), str):
        prompt = given
    return {} if prompt is None else {"prompt": prompt}
