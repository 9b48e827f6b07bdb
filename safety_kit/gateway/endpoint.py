"""What every endpoint does around its own work: an id, the key, the limit, the body, the errors, the record."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import nullcontext
from typing import Any, ParamSpec, TypeVar

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Scope

from safety_kit.chat.exchange import Verdicts
from safety_kit.errors import ConversationError, SafetyKitError, UserError
from safety_kit.gateway import logs, spans
from safety_kit.gateway.backends import BackendError
from safety_kit.gateway.body import Open, read_body, validated
from safety_kit.gateway.checking import BOTH, checked
from safety_kit.gateway.errors import ApiError, bad_request, no_service
from safety_kit.gateway.exchange import failed, internal, note_block, outcome_of_error
from safety_kit.gateway.journal import Journal
from safety_kit.gateway.keys import token_of
from safety_kit.gateway.record import Outcome, outcome_of
from safety_kit.gateway.responses import answer_of, json_response, while_there
from safety_kit.gateway.services import Services
from safety_kit.gateway.settings import Settings
from safety_kit.gateway.ticket import Ticket
from safety_kit.gateway.told import headers
from safety_kit.guard import Guard

Body = TypeVar("Body", bound=Open)
P = ParamSpec("P")
T = TypeVar("T")


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

        async def inside(ticket: Ticket) -> Response:
            ticket.guard = self._guard(ticket)
            body, ticket.size = await read_body(request, self._services.workers)
            ticket.call_it(body.get("model"))
            valid = validated(fields, body)
            return await while_there(request.receive, work(ticket, body, valid))

        return await self.serve_plain(request, route, inside)

    async def serve_plain(
        self, request: Request, route: str, work: Callable[[Ticket], Awaitable[Response]]
    ) -> Response:
        """Answer a request without a body; see `serve`."""
        ticket = Ticket.of(request, route)
        metrics = self._services.metrics
        progress = metrics.in_progress() if metrics is not None else nullcontext()
        with progress, spans.span("request", route=route, request_id=ticket.request_id):
            return await self._answered(request, ticket, work)

    async def _answered(
        self, request: Request, ticket: Ticket, work: Callable[[Ticket], Awaitable[Response]]
    ) -> Response:
        try:
            await self.admit(request, ticket)
            return await work(ticket)
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
            return await self._answer(ticket, internal(ticket, error))

    async def check(self, ticket: Ticket, function: Callable[P, T], *args: P.args, **more: P.kwargs) -> T:
        """See `checked`."""
        return await checked(self._services, ticket, BOTH, function, *args, **more)

    async def judged(self, ticket: Ticket, verdicts: Verdicts, answer: Any) -> Response:
        """The answer of an endpoint that only judges, recorded."""
        ticket.request = verdicts
        note_block(ticket, verdicts)
        await self._journal.finish(ticket, outcome_of(verdicts))
        return json_response(answer, headers(ticket))

    def knows(self, scope: Scope) -> bool:
        """Whether a request's headers hold a key that is let in, or none is asked for."""
        if (keys := self._services.keys) is None:
            return True
        token = token_of(Headers(scope=scope))
        return token is not None and keys.find(token) is not None

    async def admit(self, request: Request, ticket: Ticket) -> None:
        """Let a caller in.

        Raises:
            ApiError: 401 or 429.
        """
        token = token_of(request.headers)
        ticket.token = token
        rate, who = None, request.client.host if request.client else ""
        if self._services.keys is not None:
            key = self._services.keys.find(token) if token else None
            if key is None:
                raise ApiError(401, "Give a valid API key as Authorization: Bearer KEY.", "invalid_api_key")
            ticket.key, ticket.policy = key.name, key.policy
            rate, who = key.rate, key.name
        if self._services.limits is not None:
            try:
                wait = await self._services.limits.take(who, rate)
            except SafetyKitError as error:
                raise no_service(str(error), "limits_unavailable") from error
            if wait is not None:
                raise ApiError(429, "Too many requests; slow down.", "rate_limit_exceeded", retry_after=wait)

    def _guard(self, ticket: Ticket) -> Guard:
        try:
            return self._services.guards.guard(ticket.policy)
        except UserError as error:
            logs.fault("policy", error, key=ticket.key or "")
            raise no_service("The policy of this key cannot be used now.", "policy_unavailable", None) from error

    async def _answer(self, ticket: Ticket, error: ApiError) -> Response:
        error = await self._record(ticket, error)
        return answer_of(error, headers(ticket))

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
