"""Where records go: the metrics, the audit log, the review store. The audit log may be a condition of answering."""

from __future__ import annotations

import logging
from dataclasses import replace

from safety_kit.gateway.errors import ApiError, no_service
from safety_kit.gateway.record import Outcome, Record
from safety_kit.gateway.services import Services
from safety_kit.gateway.ticket import Ticket

log = logging.getLogger("safety_kit.gateway")


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
        self._failing = False  # the audit log's last line could not be written

    def admit(self) -> None:
        """Refuse a stream while the audit log fails: its record comes only when most of it is read.

        The refusal is recorded too; once that succeeds, streams are let in again.

        Raises:
            ApiError: 503.
        """
        if self._required and self._failing:
            raise _unavailable()

    async def finish(self, ticket: Ticket, outcome: Outcome) -> None:
        """Write what a request came to; only the first time counts.

        Raises:
            ApiError: 503: the audit log is required, and could not be written.
        """
        if ticket.done:
            return
        ticket.done = True
        services = self._services
        record = ticket.record(outcome, texts=services.keeps_texts)
        refusal = await self._audit(record)
        if refusal is not None:
            record = replace(record, status=refusal.status, outcome="error", code=refusal.code)
        if services.metrics is not None:
            services.metrics.observe(record)
        for recorder in services.recorders:
            try:
                await services.workers.run(recorder.write, record)
            except Exception as error:
                log.warning("%s failed with %s", type(recorder).__name__, type(error).__name__)
        if refusal is not None:
            raise refusal

    async def _audit(self, record: Record) -> ApiError | None:
        if self._services.audit is None:
            return None
        try:
            await self._services.workers.run(self._services.audit.write, record)
        except Exception as error:
            self._failing = True
            log.error("the audit log failed with %s", type(error).__name__)
            return _unavailable() if self._required else None
        self._failing = False
        return None


def _unavailable() -> ApiError:
    return no_service("The audit log cannot be written; nothing is answered until it can.", "audit_unavailable")
