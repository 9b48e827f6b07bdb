"""A streamed answer: what may be sent as it is cleared, ended by `[DONE]`, or by an error and nothing more."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Any

from safety_kit.chat.events import DONE, event
from safety_kit.errors import ConversationError
from safety_kit.gateway.backends import BackendError, Chunk
from safety_kit.gateway.errors import ApiError
from safety_kit.gateway.exchange import Exchange, blocked, failed, internal, note_block, outcome_of_error, unreadable
from safety_kit.gateway.gather import Gathered
from safety_kit.gateway.record import Outcome
from safety_kit.gateway.reply import Reply
from safety_kit.gateway.told import told
from safety_kit.types import Stage

if TYPE_CHECKING:
    from safety_kit.gateway.flow import Flow


class Streamed:
    """The events of one answer. `close` must be called in the end, however it was left."""

    def __init__(
        self, flow: Flow, exchange: Exchange, reply: Reply, chunks: Gathered[Chunk], room: AsyncExitStack
    ) -> None:
        """Begin.

        Args:
            flow: Whose request this is.
            exchange: The request.
            reply: The state of its reply.
            chunks: The backend's; the first is there.
            room: What it takes up, given back at its end.
        """
        self._flow = flow
        self._exchange = exchange
        self._ticket = exchange.ticket
        self._reply = reply
        self._chunks = chunks
        self._room = room
        self._checked = bool(exchange.guard.checks_at(Stage.OUTPUT))
        self._came: dict[int, list[str]] = {}  # the reply as it came, by choice, where anybody asks for it

    async def events(self) -> AsyncIterator[bytes]:
        """The events as they may be sent."""
        try:
            async for events in self._answer():
                if events:
                    if self._ticket.first_byte is None:
                        self._ticket.first_byte = self._ticket.seconds
                    yield events
        except Exception as fault:
            error = fault if isinstance(fault, ApiError) else internal(self._ticket, fault)
            self._ticket.code = self._ticket.code or error.code
            await self._record(outcome_of_error(error, self._ticket))
            yield event(error.body)

    async def close(self) -> None:
        """Stop what still generates; a record that was not written yet says that the client has gone."""
        await self._chunks.close()
        await self._room.aclose()
        await self._record("cancelled")

    async def _answer(self) -> AsyncIterator[bytes]:
        reply, flow = self._reply, self._flow
        try:
            async for chunks in self._chunks:
                events = await self._fed(chunks)
                self._keep(chunks)
                self._note_block()
                yield events
                if reply.done:
                    break
            await self._chunks.close()
            events = await flow.check(self._ticket, Stage.OUTPUT, _closed, reply)
        except BackendError as error:
            raise failed(error) from error
        except ConversationError as error:
            raise unreadable(error) from error
        self._note_block()
        yield events
        self._note()
        await flow.finish(self._ticket)
        yield event(reply.last(told(self._ticket))) + event(DONE)

    async def _fed(self, chunks: Sequence[Chunk]) -> bytes:
        """What may be sent of some chunks; in a thread where anything is checked, for the loop waits for no check."""
        if self._checked:
            return await self._flow.workers.run(_fed, self._reply, chunks)
        return _fed(self._reply, chunks)

    def _note_block(self) -> None:
        """Note a block; where blocks are errors, it ends the stream.

        Raises:
            ApiError: The error to end with.
        """
        if self._reply.blocked is not None and self._ticket.code is None:
            note_block(self._ticket, self._reply.verdicts)
            if self._flow.errors_out:
                raise blocked(self._exchange, self._reply.blocked)

    def _note(self) -> None:
        self._ticket.response, self._ticket.held = self._reply.verdicts, self._reply.held
        if self._came:
            whole = self._exchange.dialect.whole
            choices = [whole(index, "".join(pieces)) for index, pieces in sorted(self._came.items())]
            self._ticket.replied = {"choices": choices}

    def _keep(self, chunks: Sequence[Chunk]) -> None:
        if not self._flow.keeps_replies:
            return
        for chunk in chunks:
            for index, text in self._exchange.dialect.texts(chunk.body):
                self._came.setdefault(index, []).append(text)

    async def _record(self, outcome: Outcome) -> None:
        if not self._ticket.done:
            self._note()
            with suppress(ApiError):  # it ends with an error, or unheard, in any case
                await self._flow.journal.finish(self._ticket, outcome)


class Said:
    """A stream of one chunk that is there already: a block's message."""

    def __init__(self, chunk: dict[str, Any]) -> None:
        self._chunk = chunk

    async def events(self) -> AsyncIterator[bytes]:
        yield event(self._chunk) + event(DONE)

    async def close(self) -> None:
        return


def _fed(reply: Reply, chunks: Sequence[Chunk]) -> bytes:
    return b"".join(map(event, reply.feed(chunks)))


def _closed(reply: Reply) -> bytes:
    return b"".join(map(event, reply.close()))
