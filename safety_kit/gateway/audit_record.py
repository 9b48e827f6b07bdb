"""What the audit log says of a request: who, what came of it, and digests; never a text, nor a caller's own words."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from safety_kit.gateway.audit_line import finite
from safety_kit.gateway.body_paths import cut, text_at
from safety_kit.types import Action, Finding

if TYPE_CHECKING:
    from safety_kit.chat.examine import PlaceVerdict
    from safety_kit.chat.exchange import Verdicts
    from safety_kit.gateway.record import Record

MAX_PLACES: Final = 50
MAX_FINDINGS: Final = 200
MAX_SPANS: Final = 20
MAX_ERRORS: Final = 5
"""Places and findings of a request or a reply, spans of a finding, errors of a place: so that a line has its bound."""

_NAME = re.compile(r"[\w.:/@=+-]{1,128}", re.ASCII)


def digest(key: bytes, value: Any) -> str:
    """HMAC-SHA-256 of a text, or of a JSON value in canonical form.

    A plain hash of a short text is found by trying; this one only by who has the key.

    Raises:
        ValueError, RecursionError: The value is no JSON.
    """
    if isinstance(value, str):
        data = b"text\0" + value.encode("utf-8", "surrogatepass")
    else:
        data = b"json\0" + json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    return hmac.new(key, data, hashlib.sha256).hexdigest()


def fields_of(record: Record, key: bytes) -> dict[str, Any]:
    """A record as the fields of a line."""
    texts = record.texts or {}
    return {
        "request_id": _name(record.request_id),
        "route": _name(record.route),
        "key": _short(record.key),
        "model": _name(record.model),
        "at": finite(record.at, 3),
        "seconds": finite(record.seconds, 6),
        "first_byte": finite(record.first_byte, 6),
        "held": record.held,
        "status": record.status,
        "outcome": record.outcome,
        "code": _short(record.code),
        "policy": _short(record.policy),
        "request": _verdicts(record.request, texts.get("request"), key),
        "response": _verdicts(record.response, texts.get("response"), key),
    }


def _verdicts(verdicts: Verdicts | None, body: Any, key: bytes) -> dict[str, Any] | None:
    if verdicts is None and body is None:
        return None
    found: dict[str, Any] = {"digest": _digest(key, body)}
    if verdicts is None:
        return found
    told = [p for p in verdicts.places if p.verdict.action is not Action.ALLOW or p.verdict.errors]
    room = MAX_FINDINGS
    places = []
    for place in told[:MAX_PLACES]:
        places.append(_place(place, body, key, room))
        room -= len(places[-1]["findings"])
    spent: Counter[str] = Counter()
    for place in verdicts.places:
        spent.update(place.verdict.timings)
    return found | {
        "action": str(verdicts.action),
        "checked": len(verdicts.places),
        "places": places,
        "left_out": len(told) - len(places),
        "timings": {_short(check): finite(ms, 3) for check, ms in spent.most_common(MAX_PLACES)},
    }


def _place(place: PlaceVerdict, body: Any, key: bytes, room: int) -> dict[str, Any]:
    verdict = place.verdict
    path = cut(place.path)
    return {
        "path": path,
        "kind": place.kind,
        "role": place.role,
        "action": str(verdict.action),
        "code": _short(verdict.code),
        "digest": _digest(key, text_at(body, path)),
        "findings": [_finding(finding) for finding in _strongest(verdict.findings, room)],
        "left_out": max(0, len(verdict.findings) - room),
        "errors": [{"check": _short(error.check), "kind": error.kind} for error in verdict.errors[:MAX_ERRORS]],
    }


def _strongest(findings: Sequence[Finding], room: int) -> Sequence[Finding]:
    return findings if len(findings) <= room else sorted(findings, key=lambda finding: -finding.score)[:room]


def _finding(finding: Finding) -> Mapping[str, Any]:
    return {
        "check": _short(finding.check),
        "category": _short(finding.category),
        "score": finite(finding.score, 6),
        "score_kind": finding.score_kind,
        "spans": [list(span) for span in finding.spans[:MAX_SPANS]],
    }


def _digest(key: bytes, value: Any) -> str | None:
    try:
        return None if value is None else digest(key, value)
    except (ValueError, TypeError, RecursionError):
        return None


def _short(name: str | None) -> str | None:
    """An operator's name in at most 256 bytes of JSON, where one character may take twelve."""
    return name if name is None else name[: 128 if name.isascii() and name.isprintable() else 20]


def _name(value: str) -> str:
    """A name as it is; what a caller wrote in its place, by its length alone."""
    return value if _NAME.fullmatch(value) else f"<{len(value)} characters>"
