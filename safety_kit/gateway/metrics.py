"""Metrics for Prometheus: a registry of the gateway's own, and labels that no caller can multiply."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Final

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.process_collector import ProcessCollector

if TYPE_CHECKING:
    from safety_kit.chat.exchange import Verdicts
    from safety_kit.gateway.record import Record

OTHER: Final = "other"
NONE: Final = "none"
"""The category of a verdict that found nothing."""
_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_CHECK_SECONDS: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30)
_CHARACTERS: Final = (0, 8, 16, 32, 64, 128, 256, 512, 1024, 4096, 16384)


class Metrics:
    """What a gateway has done, as Prometheus reads it.

    Routes, categories and checks become labels only where they are known beforehand; all others are ``other``, so that
    a caller cannot fill the memory with names of its own.
    """

    def __init__(
        self,
        *,
        routes: Iterable[str] = (),
        categories: Iterable[str] = (),
        checks: Iterable[str] = (),
        queued: Callable[[], float] | None = None,
    ) -> None:
        """Prepare all series.

        Args:
            routes: Templates of the paths that are served.
            categories: What the policy's checks may find.
            checks: The policy's checks, by name.
            queued: How many requests wait for the model at this moment.
        """
        self._routes, self._categories, self._checks = frozenset(routes), frozenset(categories), frozenset(checks)
        registry = self._registry = CollectorRegistry()
        ProcessCollector(registry=registry)

        def counter(name: str, what: str, *labels: str) -> Counter:
            return Counter(f"safety_kit_{name}", what, labels, registry=registry)

        def histogram(name: str, what: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"safety_kit_{name}", what, labels, buckets=buckets, registry=registry)

        self._requests = counter("requests", "Requests by what they came to.", "route", "status", "outcome")
        self._verdicts = counter(
            "verdicts", "Verdicts on single texts, once a category that was found.", "category", "action", "stage"
        )
        self._faults = counter("check_faults", "Checks that failed.", "check", "kind", "stage")
        self._seconds = histogram("request_seconds", "Time of a whole request.", _SECONDS, "route")
        self._first_byte = histogram("first_byte_seconds", "Time to a reply's first byte.", _SECONDS, "route")
        self._check_seconds = histogram("check_seconds", "Time of a check.", _CHECK_SECONDS, "check", "stage")
        self._held = histogram("held_characters", "Most characters that a stream held back at once.", _CHARACTERS)
        self._shadow = counter("shadow", "Requests by both policies' outcomes.", "policy", "shadow")
        self._reloads = counter("policy_reloads", "Policies read again, by whether they were taken over.", "result")
        self._audit = counter("audit_failures", "Lines of the audit log that could not be written.")
        self._running = Gauge("safety_kit_in_flight", "Requests in progress.", registry=registry)
        if queued is not None:
            Gauge("safety_kit_queue_depth", "Requests that wait for the model.", registry=registry).set_function(queued)

    def know(self, *, routes: Iterable[str] = (), categories: Iterable[str] = (), checks: Iterable[str] = ()) -> None:
        """Take over more names, such as those of a policy that was loaded later; the earlier ones stay."""
        self._routes |= frozenset(routes)
        self._categories |= frozenset(categories)
        self._checks |= frozenset(checks)

    def in_progress(self) -> AbstractContextManager[object]:
        """Count a request as in progress inside the block."""
        return self._running.track_inprogress()

    def observe(self, record: Record) -> None:
        """Count a request that has come to its end."""
        route = _known(record.route, self._routes)
        self._requests.labels(route, str(record.status), record.outcome).inc()
        self._seconds.labels(route).observe(max(0, record.seconds))
        if record.first_byte is not None:
            self._first_byte.labels(route).observe(max(0, record.first_byte))
        if record.held is not None:
            self._held.observe(record.held)
        for verdicts in (record.request, record.response):
            self._observe(verdicts)

    def shadowed(self, enforced: str, shadow: str) -> None:
        """Both policies have come to an outcome on one request."""
        self._shadow.labels(enforced, shadow).inc()

    def reloaded(self, taken_over: bool) -> None:
        """A policy file has changed: it is in force now, or was refused."""
        self._reloads.labels("taken_over" if taken_over else "refused").inc()

    def audit_failed(self) -> None:
        """A line of the audit log could not be written."""
        self._audit.inc()

    def render(self) -> tuple[bytes, str]:
        """The page and its content type."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST

    def _observe(self, verdicts: Verdicts | None) -> None:
        for place in verdicts.places if verdicts is not None else ():
            verdict, stage = place.verdict, place.verdict.stage.value
            found = {_known(finding.category, self._categories) for finding in verdict.findings}
            for category in found or {NONE}:
                self._verdicts.labels(category, str(verdict.action), stage).inc()
            for error in verdict.errors:
                self._faults.labels(_known(error.check, self._checks), error.kind, stage).inc()
            for check, ms in verdict.timings.items():
                self._check_seconds.labels(_known(check, self._checks), stage).observe(max(0, ms) / 1000)


def _known(name: str, names: frozenset[str]) -> str:
    return name if name in names else OTHER
