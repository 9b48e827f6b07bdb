"""What a gateway is made of: each part behind a narrow protocol, most of them optional."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from safety_kit.gateway.backends import Backend
from safety_kit.gateway.record import Record
from safety_kit.guard import Guard

if TYPE_CHECKING:
    from safety_kit.gateway.workers import Workers


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

    def shadow(self) -> Guard | None:
        """The guard of a policy that is judged and counted, not enforced; None: there is none."""
        ...


class Recorder(Protocol):
    """Keeps records: the audit log, the review store. Safe for threads."""

    def write(self, record: Record) -> None:
        """Keep one; may raise OSError or a fault of the kit."""
        ...

    def close(self) -> None: ...


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

    def name_of(self, token: str) -> Key | None:
        """Whose key this is; None: nobody's."""
        ...


class RateLimiter(Protocol):
    """Counts requests by caller."""

    async def take(self, who: str, rate: str | None) -> float | None:
        """Count one: None where it is allowed, else the seconds to wait.

        Args:
            who: A key's name, or an address.
            rate: The key's own limit, such as ``60/minute``.
        """
        ...


class Metrics(Protocol):
    """Counts for Prometheus."""

    def observe(self, record: Record) -> None: ...

    def render(self) -> bytes:
        """In Prometheus' text format."""
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
        keeps_texts: Whether a recorder wants the texts of a request.
    """

    guards: Guards
    backend: Backend
    workers: Workers
    audit: Recorder | None = None
    recorders: tuple[Recorder, ...] = ()
    keys: Keys | None = None
    limits: RateLimiter | None = None
    metrics: Metrics | None = None
    keeps_texts: bool = False

    async def close(self) -> None:
        """Let go of everything, the recorders last."""
        await self.backend.close()
        self.workers.close()
        for recorder in (*self.recorders, *([self.audit] if self.audit else [])):
            recorder.close()
