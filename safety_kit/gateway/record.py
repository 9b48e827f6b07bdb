"""What one request came to: written once, read by the audit log, the review store, the metrics and the logs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from safety_kit.chat.exchange import Verdicts
from safety_kit.types import Action

Outcome: TypeAlias = Literal["allow", "flag", "redact", "block", "refused", "error", "cancelled"]
"""The strongest action on its texts; or it was refused before any was read, failed, or was left by its client."""


@dataclass(frozen=True, slots=True)
class Record:
    """One request's way through the gateway. No text but in `texts`, which no log may repeat.

    Attributes:
        request_id: What its verdicts and its answer carry.
        route: The path, such as ``/v1/chat/completions``.
        key: Name of the caller's API key; None where none is asked for.
        model: The model that was asked for, cut to a name.
        at: Unix time of its arrival.
        seconds: Wall time to its end.
        status: HTTP status of the answer; of a stream, that of its start.
        outcome: What it came to.
        code: The code of the block or of the error.
        policy: Digest of the policy that decided.
        request: Verdicts on what was asked; None where it was refused before.
        response: Verdicts on the reply.
        first_byte: Seconds to the first byte of the reply; None where there was none.
        held: For a stream, the most characters that were held back at once.
        texts: ``request`` and ``response`` as they came, where the review store or the audit log is on; else None. The
            store keeps them redacted; the log writes keyed digests of them.
    """

    request_id: str
    route: str
    key: str | None
    model: str
    at: float
    seconds: float
    status: int
    outcome: Outcome
    code: str | None = None
    policy: str = ""
    request: Verdicts | None = None
    response: Verdicts | None = None
    first_byte: float | None = None
    held: int | None = None
    texts: Mapping[str, Any] | None = field(default=None, repr=False)


def outcome_of(*verdicts: Verdicts | None) -> Outcome:
    """The strongest action of a request's and its reply's verdicts."""
    names: Mapping[Action, Outcome] = {
        Action.ALLOW: "allow",
        Action.FLAG: "flag",
        Action.REDACT: "redact",
        Action.BLOCK: "block",
    }
    return names[max((v.action for v in verdicts if v is not None), default=Action.ALLOW)]
