"""The way of one guarded request: checked, sent on, its reply checked, and a record at its end, whatever that is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from typing import Any, ParamSpec, TypeVar

from starlette.responses import Response

from safety_kit.chat.exchange import RequestVerdict, ResponseVerdict, Verdicts
from safety_kit.chat.restore import DeltaRestorer, restored
from safety_kit.errors import ConversationError, Overloaded
from safety_kit.gateway.backends import BackendError, Chunk
from safety_kit.gateway.checking import checked
from safety_kit.gateway.dialects import Dialect
from safety_kit.gateway.drained import drained
from safety_kit.gateway.errors import bad_request, no_service
from safety_kit.gateway.exchange import Exchange, blocked, failed, note_block, unreadable
from safety_kit.gateway.gather import Gathered
from safety_kit.gateway.journal import Journal
from safety_kit.gateway.record import outcome_of
from safety_kit.gateway.reply import Reply
from safety_kit.gateway.responses import EventStream, Source, json_response
from safety_kit.gateway.services import Services
from safety_kit.gateway.settings import Settings
from safety_kit.gateway.streamed import Said, Streamed
from safety_kit.gateway.ticket import Ticket
from safety_kit.gateway.told import headers, told
from safety_kit.guard import Guard
from safety_kit.types import Stage
from safety_kit.vault import Vault

P = ParamSpec("P")
T = TypeVar("T")
Json = dict[str, Any]


class Flow:
    """Sends requests through the guard to the backend and back."""

    def __init__(self, settings: Settings, services: Services, journal: Journal) -> None:
        self._settings = settings
        self._services = services
        self.journal = journal
        self.workers = services.workers

    @property
    def errors_out(self) -> bool:
        """Whether a block is an error, instead of a completion with the policy's message."""
        return self._settings.blocked == "error"

    async def respond(self, dialect: Dialect, body: Json, ticket: Ticket) -> Response:
        """The answer to a request: a stream where it asks for one.

        Args:
            dialect: Of the request.
            body: Its body, with known fields as they should be.
            ticket: Of the request, with its guard.

        Raises:
            ApiError: There is no answer.
        """
        if body.get("stream"):
            await self.journal.admit()
            source = await self._open(self._exchange(dialect, body, ticket))
            return EventStream(source, headers(ticket))
        answer = await self.complete(dialect, body, ticket)
        return json_response(answer, headers(ticket))

    async def complete(self, dialect: Dialect, body: Json, ticket: Ticket) -> Json:
        """The whole answer to a request, recorded.

        Raises:
            ApiError: There is none.
        """
        exchange = self._exchange(dialect, body, ticket)
        answer = await self._complete(exchange)
        await self.finish(ticket)
        return answer

    async def finish(self, ticket: Ticket) -> None:
        """Record what has come to its end as it should.

        Raises:
            ApiError: 503: it could not be recorded, and nothing more may be passed on.
        """
        await self.journal.finish(ticket, outcome_of(ticket.request, ticket.response))

    async def check(self, ticket: Ticket, stage: Stage, function: Callable[P, T], *args: P.args, **more: P.kwargs) -> T:
        """See `checked`."""
        return await checked(self._services, ticket, (stage,), function, *args, **more)

    async def _complete(self, exchange: Exchange) -> Json:
        dialect, ticket, backend = exchange.dialect, exchange.ticket, self._services.backend
        if backend.brings_activations:
            return await self._drain(exchange)
        passed, response = await self._ask(exchange, lambda request: dialect.call(backend, request, exchange.call))
        if response is None:
            return self._refused(exchange)
        ticket.replied = response
        try:
            verdict, answer = await self.check(ticket, Stage.OUTPUT, _reply, exchange, response, passed)
        except ConversationError as error:
            raise unreadable(error) from error
        ticket.response = verdict
        note_block(ticket, verdict)
        if verdict.blocking is not None and self.errors_out:
            raise blocked(exchange, verdict.blocking.verdict)
        return {**answer, **told(ticket)}

    async def _drain(self, exchange: Exchange) -> Json:
        """The whole answer of a backend whose streams bring activations."""
        asked = {**exchange.body, "stream": True, "stream_options": {"include_usage": True}}
        passed, chunks = await self._begin(replace(exchange, body=asked))
        if chunks is None:
            return self._refused(exchange)
        answer = await drained(self, exchange, begun_reply(exchange, passed), chunks)
        blocking = exchange.ticket.response.blocking if exchange.ticket.response is not None else None
        if blocking is not None and self.errors_out:
            raise blocked(exchange, blocking.verdict)
        return {**answer, **told(exchange.ticket)}

    async def _begin(self, exchange: Exchange) -> tuple[Mapping[str, Any], Gathered[Chunk] | None]:
        """Check a request and open its stream: the request that was passed on, and the stream with its first chunk."""

        async def begin(request: Mapping[str, Any]) -> Gathered[Chunk]:
            chunks = Gathered(exchange.dialect.open(self._services.backend, request, exchange.call))
            try:
                await chunks.begin()
            except BaseException:
                await chunks.close()
                raise
            return chunks

        return await self._ask(exchange, begin)

    async def _open(self, exchange: Exchange) -> Source:
        """The stream of an answer; its first chunk, or the block, is there."""
        async with AsyncExitStack() as room:
            await self._take_room(exchange, room)
            passed, chunks = await self._begin(exchange)
            if chunks is None:
                answer = self._refused(exchange)
                await self.finish(exchange.ticket)
                return Said(answer)
            return Streamed(self, exchange, begun_reply(exchange, passed), chunks, room.pop_all())

    async def _take_room(self, exchange: Exchange, room: AsyncExitStack) -> None:
        """A place for a reply that the guard's model has to follow, until its stream is closed.

        Raises:
            ApiError: 503: there is none.
        """
        streams = self._services.streams
        if streams is not None and exchange.follow is not None and exchange.guard.checks_at(Stage.OUTPUT, "probe"):
            try:
                await room.enter_async_context(streams.place(exchange.dialect.choices(exchange.body)))
            except Overloaded as error:
                raise no_service(str(error), "overloaded") from error

    async def _ask(
        self, exchange: Exchange, start: Callable[[Mapping[str, Any]], Coroutine[Any, Any, T]]
    ) -> tuple[Mapping[str, Any], T | None]:
        """Check a request and begin its answer: the request that was passed on, and what was begun, if anything.

        By option both go side by side. What was begun for a request that is then blocked is cancelled; for one that is
        redacted too, and begun again with what may be passed on.
        """
        early = asyncio.create_task(start(exchange.body)) if self._settings.parallel else None
        try:
            verdict = await self._check(exchange)
            if verdict.request is None:
                return exchange.body, None
            if early is not None and verdict.request is exchange.body:
                chosen, early = early, None
            else:
                if early is not None:
                    await _drop(early)
                early, chosen = None, asyncio.create_task(start(verdict.request))
            try:
                return verdict.request, await chosen
            except BackendError as error:
                raise failed(error) from error
        finally:
            if early is not None:
                await _drop(early)

    async def _check(self, exchange: Exchange) -> RequestVerdict:
        ticket = exchange.ticket
        try:
            check = exchange.dialect.check_request
            verdict = await self.check(
                ticket, Stage.INPUT, check, exchange.guard, exchange.body, ticket.request_id, exchange.vault
            )
        except ConversationError as error:
            raise bad_request(str(error)) from error
        ticket.request = verdict
        note_block(ticket, verdict)
        return verdict

    @property
    def keeps_replies(self) -> bool:
        """Whether anybody asks, at the end, for a reply as it came."""
        return self._services.keeps_texts or self._services.shadow is not None

    def _exchange(self, dialect: Dialect, body: Json, ticket: Ticket) -> Exchange:
        assert ticket.guard is not None
        ticket.asked = body
        exchange = Exchange(dialect, body, ticket, ticket.guard, Vault(), self._services.follow(ticket.guard))
        ticket.judge = partial(_judge, exchange)
        return exchange

    def _refused(self, exchange: Exchange) -> Json:
        """The answer to a request that was blocked."""
        assert exchange.ticket.request is not None
        assert exchange.ticket.request.blocking is not None
        verdict = exchange.ticket.request.blocking.verdict
        if self.errors_out:
            raise blocked(exchange, verdict)
        message = exchange.guard.message(verdict)
        return {**exchange.dialect.blocked(exchange.body, message), **told(exchange.ticket)}


def begun_reply(exchange: Exchange, passed: Mapping[str, Any]) -> Reply:
    """The state of a streamed reply to what was passed on."""
    restorer = DeltaRestorer(exchange.vault, exchange.dialect.text_key) if len(exchange.vault) else None
    request_id, vault = exchange.ticket.request_id, exchange.vault
    stream = exchange.dialect.stream(exchange.guard, passed, request_id, vault, exchange.follow)
    return Reply(stream, restorer, exchange.dialect.choices(exchange.body))


def _reply(
    exchange: Exchange, response: Mapping[str, Any], passed: Mapping[str, Any]
) -> tuple[ResponseVerdict, dict[str, Any]]:
    """The verdicts on a whole reply, and what may be shown of it, the user's own values in it again."""
    request_id, vault = exchange.ticket.request_id, exchange.vault
    checked = exchange.dialect.check_response(exchange.guard, response, passed, request_id, vault, exchange.follow)
    body = checked.response
    if len(vault):
        body = {**body, "choices": [restored(choice, vault) for choice in body["choices"]]}
    return checked, body


def _judge(exchange: Exchange, guard: Guard) -> tuple[Verdicts | None, ...]:
    """The verdicts of another guard on a request and its reply, as they came."""
    dialect, ticket = exchange.dialect, exchange.ticket
    request = dialect.check_request(guard, exchange.body, ticket.request_id, Vault())
    if request.blocked or ticket.replied is None:
        return (request,)
    return request, dialect.check_response(guard, ticket.replied, exchange.body, ticket.request_id, Vault(), None)


async def _drop(task: asyncio.Task[Any]) -> None:
    """End what was begun and is not wanted."""
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled() and task.exception() is None and isinstance(task.result(), Gathered):
        await task.result().close()
