"""A whole answer from a stream: who waits for it gets what one who reads along would have read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from safety_kit.errors import ConversationError
from safety_kit.gateway.backends import BackendError, Chunk
from safety_kit.gateway.exchange import Exchange, failed, note_block, unreadable
from safety_kit.gateway.gather import Gathered
from safety_kit.gateway.reply import Reply
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


class Whole:
    """Puts chunks together into one completion, of text alone: a Gemma of our own writes nothing else."""

    def __init__(self, text_key: str) -> None:
        """Begin.

        Args:
            text_key: Where a choice of a chunk holds what is new: ``delta``, or ``text`` for text completions.
        """
        self._chat = text_key == "delta"
        self._head: Json = {}
        self._choices: dict[int, Json] = {}
        self._tokens: dict[int, list[Any]] = {}

    def add(self, chunks: Iterable[Mapping[str, Any]]) -> None:
        """Take in chunks."""
        for chunk in chunks:
            self._head |= {name: value for name, value in chunk.items() if name != "choices" and value is not None}
            for choice in chunk["choices"]:
                made = self._choices.setdefault(choice["index"], {"text": "", "finish_reason": None})
                made["text"] += (choice["delta"].get("content") or "") if self._chat else choice["text"]
                made["finish_reason"] = choice["finish_reason"] or made["finish_reason"]
                told = choice.get("logprobs") or {}
                self._tokens.setdefault(choice["index"], []).extend(told.get("content") or ())

    def body(self, probabilities: Whole | None = None) -> Json:
        """The completion.

        Args:
            probabilities: Where its tokens' probabilities are; the guard releases none piece by piece.
        """
        choices = []
        for index, made in sorted(self._choices.items()):
            text = made["text"]
            said = (
                {"message": {"role": "assistant", "content": text, "refusal": None}} if self._chat else {"text": text}
            )
            tokens = probabilities._tokens.get(index) if probabilities is not None else None
            told = {"content": tokens} if tokens else None
            choices.append({"index": index, **said, "logprobs": told, "finish_reason": made["finish_reason"]})
        kind = {"object": "chat.completion"} if self._chat else {}
        return {**self._head, **kind, "choices": choices}
