"""What every endpoint does around its own work: an id, the key, the limit, the body, the errors, the record."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from safety_kit.errors import ConversationError, UserError
from safety_kit.gateway.backends import BackendError
from safety_kit.gateway.body import Open, read_body, validated
from safety_kit.gateway.errors import ApiError, bad_request, no_service
from safety_kit.gateway.exchange import failed, outcome_of_error
from safety_kit.gateway.journal import Journal
from safety_kit.gateway.record import Outcome
from safety_kit.gateway.responses import error_response, while_there
from safety_kit.gateway.services import Services
from safety_kit.gateway.settings import Settings
from safety_kit.gateway.ticket import Ticket
from safety_kit.gateway.told import headers
from safety_kit.guard import Guard, new_request_id

Body = TypeVar("Body", bound=Open)

log = logging.getLogger("safety_kit.gateway")


class Endpoint:
    """Serves requests; each kind brings its own work."""

    def __init__(self, settings: Settings, services: Services, journal: Journal) -> None:
        self._settings = settings
        self._services = services
        self._journal = journal

    async def serve(
        self,
        request: Request,
        route: str,
        fields: type[Body],
        work: Callable[[Ticket, dict[str, Any], Body], Coroutine[Any, Any, Response]],
    ) -> Response:
        """Answer a request with a JSON body.

        Args:
            request: The request.
            route: Its path.
            fields: What its body must hold.
            work: What makes the answer of the body; it ends with a record, of which errors are the exception.
        """
        ticket = Ticket(new_request_id(), route)
        try:
            ticket.name(request)
            await self.admit(request, ticket)
            ticket.guard = self._guard(ticket)
            body = await read_body(request, self._settings.limits.body, self._services.workers)
            ticket.call_it(body.get("model"))
            valid = validated(fields, body)
            return await while_there(request.receive, work(ticket, body, valid))
        except ClientDisconnect:
            await self._record(ticket, ApiError(499, "The client has gone.", "cancelled"))
            return Response(status_code=499)
        except asyncio.CancelledError:  # the server stops
            await self._record(ticket, ApiError(499, "The server stops.", "cancelled"))
            raise
        except ApiError as error:
            return await self._answer(ticket, error)
        except ConversationError as error:
            return await self._answer(ticket, bad_request(str(error)))
        except BackendError as error:
            return await self._answer(ticket, failed(error))
        except Exception as error:
            log.error("request %s failed with %s%s", ticket.request_id, type(error).__name__, _place(error))
            return await self._answer(ticket, ApiError(500, "Something went wrong in the gateway.", "internal_error"))

    async def admit(self, request: Request, ticket: Ticket) -> None:
        """Let a caller in.

        Raises:
            ApiError: 401 or 429.
        """
        token = _token(request)
        ticket.token = token
        rate, who = None, request.client.host if request.client else ""
        if self._services.keys is not None:
            key = self._services.keys.name_of(token) if token else None
            if key is None:
                raise ApiError(401, "Give a valid API key as Authorization: Bearer KEY.", "invalid_api_key")
            ticket.key, ticket.policy = key.name, key.policy
            rate, who = key.rate, key.name
        if self._services.limits is not None:
            wait = await self._services.limits.take(who, rate)
            if wait is not None:
                raise ApiError(429, "Too many requests; slow down.", "rate_limit_exceeded", retry_after=wait)

    def _guard(self, ticket: Ticket) -> Guard:
        try:
            return self._services.guards.guard(ticket.policy)
        except UserError as error:
            log.error("the policy of the key %s cannot be used: %s", ticket.key, error)
            raise no_service("The policy of this key cannot be used now.", "policy_unavailable", None) from error

    async def _answer(self, ticket: Ticket, error: ApiError) -> Response:
        error = await self._record(ticket, error)
        return error_response(error, headers(ticket))

    async def _record(self, ticket: Ticket, error: ApiError) -> ApiError:
        """Write the record of what was not answered; the error to answer with."""
        ticket.status = error.status
        ticket.code = ticket.code or error.code
        outcome: Outcome = "cancelled" if error.status == 499 else outcome_of_error(error, ticket)
        try:
            await self._journal.finish(ticket, outcome)
        except ApiError as instead:
            return instead
        return error


def _token(request: Request) -> str | None:
    """The caller's key, as OpenAI's clients or LiteLLM's give it."""
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer" and token.strip():
        return token.strip()
    return request.headers.get("x-api-key") or None


def _place(error: BaseException) -> str:
    """Where it came from; its message may quote a text."""
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    return f" in {trace.tb_frame.f_code.co_filename.rpartition('/')[2]}, line {trace.tb_lineno}" if trace else ""
