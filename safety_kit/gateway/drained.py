"""A whole answer from a stream: who waits for it gets what one who reads along would have read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from safety_kit.errors import ConversationError
from safety_kit.gateway.backends import BackendError, Chunk
from safety_kit.gateway.exchange import Exchange, failed, note_block, unreadable
from safety_kit.gateway.gather import Gathered
from safety_kit.gateway.reply import Reply
from safety_kit.gateway.whole import Whole
from safety_kit.types import Action, Stage

if TYPE_CHECKING:
    from safety_kit.gateway.flow import Flow

Json = dict[str, Any]


async def drained(flow: Flow, exchange: Exchange, reply: Reply, chunks: Gathered[Chunk]) -> Json:
    """The whole answer of a model whose activations the probes read: these come with its stream alone.

    Notes on the ticket what came and what was decided.

    Args:
        flow: Whose request this is.
        exchange: The request.
        reply: The state of its reply.
        chunks: The backend's; they are closed at the end.

    Raises:
        ApiError: The backend failed, or said what is no reply.
    """
    ticket, key = exchange.ticket, exchange.dialect.text_key
    came, said = Whole(key), Whole(key)
    try:
        async for arrived in chunks:
            came.add(chunk.body for chunk in arrived)
            said.add(await flow.workers.run(reply.feed, arrived))
            if reply.done:
                break
        await chunks.close()
        said.add(await flow.check(ticket, Stage.OUTPUT, reply.close))
    except BackendError as error:
        raise failed(error) from error
    except ConversationError as error:
        raise unreadable(error) from error
    finally:
        await chunks.close()
    said.add([reply.last({})])
    ticket.replied, ticket.response = came.body(), reply.verdicts
    note_block(ticket, ticket.response)
    return said.body(came if ticket.response.action < Action.REDACT else None)
