"""What is known of one request while it is on its way, and the record that it comes to."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from starlette.requests import Request

from safety_kit.chat.exchange import Verdicts
from safety_kit.gateway.record import Outcome, Record
from safety_kit.gateway.services import Judge
from safety_kit.guard import Guard, new_request_id

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_NO_MODEL: Final = re.compile(r"[^A-Za-z0-9_./:@+-]")


@dataclass(slots=True)
class Ticket:
    """One request on its way.

    Attributes:
        request_id: Its own, or one that was made.
        route: The path that it asked for, as the gateway names it.
        key: The name of its caller's key.
        token: The key itself, for a backend that passes it on.
        policy: The policy that the key asks for, where it asks for one.
        guard: The guard that it began with.
        model: What it asks for.
        status: Of its answer.
        code: Of its block or its error.
        request: The verdicts on it.
        response: The verdicts on its reply.
        first_byte: Seconds to the first byte of its reply.
        held: The most characters that its stream held back.
        judge: Holds it against any guard, for the shadow policy.
        size: Bytes of its body.
        asked: Its body as it came.
        replied: The reply before any check, as far as it is known.
        done: Its record is written.
    """

    request_id: str
    route: str
    key: str | None = None
    token: str | None = field(default=None, repr=False)
    policy: str | None = None
    guard: Guard | None = field(default=None, repr=False)
    model: str = ""
    status: int = 200
    code: str | None = None
    request: Verdicts | None = field(default=None, repr=False)
    response: Verdicts | None = field(default=None, repr=False)
    first_byte: float | None = None
    held: int | None = None
    judge: Judge | None = field(default=None, repr=False)
    size: int = 0
    asked: Mapping[str, Any] | None = field(default=None, repr=False)
    replied: Mapping[str, Any] | None = field(default=None, repr=False)
    done: bool = False
    at: float = field(default_factory=time.time)
    begun: float = field(default_factory=time.perf_counter)

    @classmethod
    def of(cls, request: Request, route: str) -> Ticket:
        """The ticket of a request that has come.

        Its id is that which it was given on its way in, or the caller's own where that can stand in headers and
        files, or a new one.
        """
        given = request.scope.get("state", {}).get("request_id") or request.headers.get("x-request-id", "")
        return cls(request_id_of(given), route)

    @property
    def guard_(self) -> Guard:
        """The guard, once it has one."""
        assert self.guard is not None
        return self.guard

    def call_it(self, model: Any) -> None:
        """Note the model's name, cut to one."""
        self.model = _NO_MODEL.sub("_", model)[:64] if isinstance(model, str) else ""

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.begun

    def record(self, outcome: Outcome, *, texts: bool) -> Record:
        """What it came to."""
        return Record(
            request_id=self.request_id,
            route=self.route,
            key=self.key,
            model=self.model,
            at=self.at,
            seconds=self.seconds,
            status=self.status,
            outcome=outcome,
            code=self.code,
            policy=self.guard.digest if self.guard else "",
            request=self.request,
            response=self.response,
            first_byte=self.first_byte,
            held=self.held,
            texts={"request": self.asked, "response": self.replied} if texts and self.asked is not None else None,
        )


def request_id_of(given: str) -> str:
    """The id that a caller gives its request, where that can stand in headers, logs and files; else a new one."""
    return given if _REQUEST_ID.fullmatch(given) else new_request_id()
