"""Where records go: the metrics, the audit log, the review store. The audit log may be a condition of answering."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import replace

from safety_kit.gateway import logs
from safety_kit.gateway.errors import ApiError, no_service
from safety_kit.gateway.record import Outcome, Record
from safety_kit.gateway.services import Services
from safety_kit.gateway.ticket import Ticket


class Journal:
    """Writes the record of each request, once."""

    def __init__(self, services: Services, required: bool) -> None:
        """Begin.

        Args:
            services: Who keeps records.
            required: Nothing is passed on that the audit log could not record.
        """
        self._services = services
        self._required = required

    async def admit(self) -> None:
        """Refuse a stream while the audit log cannot be written: its record comes only when most of it is read.

        Raises:
            ApiError: 503.
        """
        try:
            await self._check()
        except Exception as error:
            self._lost(error)
            raise _unavailable() from error

    async def ready(self) -> bool:
        """Whether the audit log could be written now, where it must be."""
        try:
            await self._check()
        except Exception:
            return False
        return True

    def turned_away(self, ticket: Ticket) -> None:
        """Note what was refused at the door: counted and logged, no more, so that a flood of it costs no disk."""
        self._tell(ticket.record("refused", texts=False))

    async def finish(self, ticket: Ticket, outcome: Outcome) -> None:
        """Write what a request came to; only the first time counts.

        Raises:
            ApiError: 503: the audit log is required, and could not be written.
        """
        if ticket.done:
            return
        ticket.done = True
        services = self._services
        if services.shadow is not None and ticket.judge is not None:
            self._watch(outcome, services.shadow.compare(ticket.route, outcome, ticket.judge, ticket.size))
        record = ticket.record(outcome, texts=services.keeps_texts)
        refusal = await self._audit(record)
        if refusal is not None:
            record = replace(record, status=refusal.status, outcome="error", code=refusal.code)
        self._tell(record)
        for recorder in services.recorders:
            try:
                await services.workers.run(recorder.write, record)
            except Exception as error:
                logs.fault(type(recorder).__name__, error, request_id=record.request_id)
        if refusal is not None:
            raise refusal

    async def _check(self) -> None:
        if self._required and self._services.audit is not None:
            await self._services.workers.run(self._services.audit.check)

    def _tell(self, record: Record) -> None:
        logs.request(record)
        if self._services.metrics is not None:
            self._services.metrics.observe(record)

    async def _audit(self, record: Record) -> ApiError | None:
        if self._services.audit is None:
            return None
        try:
            await self._services.workers.run(self._services.audit.write, record)
        except Exception as error:
            self._lost(error)
            return _unavailable() if self._required else None
        return None

    def _lost(self, error: Exception) -> None:
        logs.fault("audit", error)
        if self._services.metrics is not None:
            self._services.metrics.audit_failed()

    def _watch(self, enforced: Outcome, judged: Future[tuple[Outcome, str]] | None) -> None:
        """Count both outcomes once the shadow policy's is there."""
        metrics = self._services.metrics
        if judged is None or metrics is None:
            return

        def count(judged: Future[tuple[Outcome, str]]) -> None:
            if not judged.cancelled() and judged.exception() is None:
                metrics.shadowed(enforced, judged.result()[0])

        judged.add_done_callback(count)


def _unavailable() -> ApiError:
    return no_service("The audit log cannot be written; nothing is answered until it can.", "audit_unavailable")
