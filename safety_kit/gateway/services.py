"""What a gateway is made of: each part behind a narrow protocol, most of them optional."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass
from inspect import isawaitable
from typing import TYPE_CHECKING, Protocol, TypeAlias

from safety_kit.chat.exchange import Verdicts
from safety_kit.followed_stream import Follow
from safety_kit.gateway.backends import Backend
from safety_kit.gateway.record import Outcome, Record
from safety_kit.guard import Guard

if TYPE_CHECKING:
    from safety_kit.gateway.workers import Workers


Judge: TypeAlias = Callable[[Guard], tuple[Verdicts | None, ...]]
"""Gives the verdicts of any guard on the texts of one request and its reply."""


class Guards(Protocol):
    """The guards that are in force."""

    def guard(self, policy: str | None = None) -> Guard:
        """The guard to use now; a request keeps the one that it began with.

        Args:
            policy: Name of a policy other than the gateway's own, which a caller's key may ask for.

        Raises:
            UserError: There is no such policy.
        """
        ...


class Recorder(Protocol):
    """Keeps records: the audit log, the review store. Safe for threads."""

    def write(self, record: Record) -> None:
        """Keep one; may raise OSError or a fault of the kit."""
        ...

    def close(self) -> None: ...


class Audit(Recorder, Protocol):
    """The audit log."""

    def check(self) -> None:
        """Raise where a record could not be written now: asked before a stream begins, which cannot be taken back."""
        ...


class Shadow(Protocol):
    """A second policy that is judged beside, and not enforced."""

    def compare(self, route: str, enforced: Outcome, judge: Judge, size: int) -> Future[tuple[Outcome, str]] | None:
        """Have a request judged again, some time later; this neither waits nor raises.

        Args:
            route: Of the request.
            enforced: What the real policy came to.
            judge: Gives the verdicts of any guard on the texts of the request and its reply.
            size: Bytes, about, that `judge` holds on to.
        """
        ...


class Places(Protocol):
    """Room in front of the guard's model."""

    def place(self, size: int = 1) -> AbstractAsyncContextManager[None]:
        """A place for the checks that are made inside the block.

        Args:
            size: Characters that will be read.

        Raises:
            Overloaded: There is none.
        """
        ...


class Key(Protocol):
    """What is known of a caller by its key."""

    @property
    def name(self) -> str: ...
    @property
    def policy(self) -> str | None: ...
    @property
    def rate(self) -> str | None: ...


class Keys(Protocol):
    """The API keys that are let in."""

    def find(self, token: str) -> Key | None:
        """Whose key this is; None: nobody's."""
        ...


class RateLimiter(Protocol):
    """Counts requests by caller."""

    async def take(self, who: str, rate: str | None) -> float | None:
        """Count one: None where it is allowed, else the seconds to wait.

        Args:
            who: A key's name, or an address.
            rate: The key's own limit, such as ``60/minute``.

        Raises:
            SafetyKitError: It cannot be counted now.
        """
        ...


class Metrics(Protocol):
    """Counts for Prometheus."""

    def know(self, *, routes: Iterable[str]) -> None: ...
    def in_progress(self) -> AbstractContextManager[object]: ...
    def observe(self, record: Record) -> None: ...
    def shadowed(self, enforced: str, shadow: str) -> None: ...
    def audit_failed(self) -> None: ...

    def render(self) -> tuple[bytes, str]:
        """The page for Prometheus, and its content type."""
        ...


@dataclass(frozen=True, slots=True)
class Services:
    """The parts of one gateway.

    Attributes:
        guards: The guards in force.
        backend: Who generates.
        workers: The threads that checks run in.
        audit: The audit log: where the settings require it, nothing is passed on that it could not record.
        recorders: Others that get each record; their faults are told in the log and stop nothing.
        keys: Who is let in; None: anybody.
        limits: How often.
        metrics: What ``/metrics`` shows.
        shadow: A second policy.
        places: The room in front of the guard's model; None: whoever comes is read.
        streams: The room for streamed replies that the guard's model reads beside the backend.
        follow: Makes what reads them; None where the backend brings a reply's activations, or nothing reads any.
        keeps_texts: Whether a recorder wants the texts of a request.
        policies: How the policies stand, by name: the digest in force, and whether their files are refused.
        closing: What else is let go of at the end, in this order.
    """

    guards: Guards
    backend: Backend
    workers: Workers
    audit: Audit | None = None
    recorders: tuple[Recorder, ...] = ()
    keys: Keys | None = None
    limits: RateLimiter | None = None
    metrics: Metrics | None = None
    shadow: Shadow | None = None
    places: Places | None = None
    streams: Places | None = None
    follow: Callable[[Guard], Follow | None] = lambda guard: None
    keeps_texts: bool = False
    policies: Callable[[], Mapping[str, tuple[str | None, bool]]] = dict
    closing: tuple[Callable[[], object], ...] = ()

    async def close(self) -> None:
        """Let go of everything, the recorders last."""
        await self.backend.close()
        self.workers.close()
        for close in self.closing:
            closed = close()
            if isawaitable(closed):
                await closed
        for recorder in (*self.recorders, *([self.audit] if self.audit else [])):
            recorder.close()
