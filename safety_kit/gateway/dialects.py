"""The two ways to ask for text, chat completions and text completions, so that the flow is one for both."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any, Protocol

from safety_kit.chat.answers import blocked_chat, choices_of
from safety_kit.chat.exchange import RequestVerdict, ResponseVerdict, Verdicts
from safety_kit.chat.response_stream import ResponseStream
from safety_kit.chat.text_completion import (
    CompletionStream,
    blocked_completion,
    check_completion_request,
    check_completion_response,
    choices_of_all,
)
from safety_kit.followed_stream import Follow
from safety_kit.gateway.backends import Backend, Call, Chunk
from safety_kit.gateway.body import ChatRequest, CompletionRequest, Generation
from safety_kit.guard import Guard
from safety_kit.vault import Vault

Json = dict[str, Any]
Fields = Mapping[str, Any]


class ReplyChunks(Protocol):
    """A streamed reply under a guard: `ResponseStream`, or the same for text completions."""

    @property
    def verdicts(self) -> Verdicts: ...
    @property
    def held(self) -> int: ...
    def feed(self, chunk: Fields, hidden: Mapping[int, Any] | None = None) -> list[Json]: ...
    def close(self) -> list[Json]: ...


class Dialect(Protocol):
    """What differs between the two.

    Attributes:
        fields: What is checked of a request before anything else.
        text_key: Where a choice of a chunk holds what is new.
    """

    fields: type[Generation]
    text_key: str

    def check_request(self, guard: Guard, request: Fields, request_id: str, vault: Vault) -> RequestVerdict: ...
    def check_response(
        self, guard: Guard, response: Fields, request: Fields, request_id: str, vault: Vault, follow: Follow | None
    ) -> ResponseVerdict: ...
    def stream(
        self, guard: Guard, request: Fields, request_id: str, vault: Vault, follow: Follow | None
    ) -> ReplyChunks: ...
    def blocked(self, request: Fields, message: str) -> Json: ...
    def choices(self, request: Fields) -> int: ...
    def whole(self, index: int, text: str) -> Json: ...
    def texts(self, chunk: Fields) -> Iterator[tuple[int, str]]: ...
    async def call(self, backend: Backend, request: Fields, call: Call) -> Json: ...
    def open(self, backend: Backend, request: Fields, call: Call) -> AsyncIterator[Chunk]: ...


class _Chat:
    fields: type[Generation] = ChatRequest
    text_key = "delta"

    def check_request(self, guard: Guard, request: Fields, request_id: str, vault: Vault) -> RequestVerdict:
        return guard.check_request(request, vault=vault, request_id=request_id)

    def check_response(
        self, guard: Guard, response: Fields, request: Fields, request_id: str, vault: Vault, follow: Follow | None
    ) -> ResponseVerdict:
        return guard.check_response(response, request, vault=vault, request_id=request_id, follow=follow)

    def stream(
        self, guard: Guard, request: Fields, request_id: str, vault: Vault, follow: Follow | None
    ) -> ReplyChunks:
        return ResponseStream(guard, request, vault=vault, request_id=request_id, follow=follow)

    def blocked(self, request: Fields, message: str) -> Json:
        return blocked_chat(request, message)

    def choices(self, request: Fields) -> int:
        return choices_of(request)

    def whole(self, index: int, text: str) -> Json:
        return {"index": index, "message": {"role": "assistant", "content": text}}

    def texts(self, chunk: Fields) -> Iterator[tuple[int, str]]:
        for choice in chunk["choices"]:
            if isinstance(text := (choice.get("delta") or {}).get("content"), str):
                yield choice.get("index", 0), text

    async def call(self, backend: Backend, request: Fields, call: Call) -> Json:
        return await backend.chat(request, call)

    def open(self, backend: Backend, request: Fields, call: Call) -> AsyncIterator[Chunk]:
        return backend.stream_chat(request, call)


class _Text:
    fields: type[Generation] = CompletionRequest
    text_key = "text"

    def check_request(self, guard: Guard, request: Fields, request_id: str, vault: Vault) -> RequestVerdict:
        return check_completion_request(guard, request, request_id, vault)

    def check_response(
        self, guard: Guard, response: Fields, request: Fields, request_id: str, vault: Vault, follow: Follow | None
    ) -> ResponseVerdict:
        return check_completion_response(guard, response, request, request_id, vault, follow)

    def stream(
        self, guard: Guard, request: Fields, request_id: str, vault: Vault, follow: Follow | None
    ) -> ReplyChunks:
        return CompletionStream(guard, request, vault=vault, request_id=request_id, follow=follow)

    def blocked(self, request: Fields, message: str) -> Json:
        return blocked_completion(request, message)

    def choices(self, request: Fields) -> int:
        return choices_of_all(request)

    def whole(self, index: int, text: str) -> Json:
        return {"index": index, "text": text}

    def texts(self, chunk: Fields) -> Iterator[tuple[int, str]]:
        for choice in chunk["choices"]:
            if isinstance(text := choice.get("text"), str):
                yield choice.get("index", 0), text

    async def call(self, backend: Backend, request: Fields, call: Call) -> Json:
        return await backend.complete(request, call)

    def open(self, backend: Backend, request: Fields, call: Call) -> AsyncIterator[Chunk]:
        return backend.stream_complete(request, call)


CHAT: Dialect = _Chat()
TEXT: Dialect = _Text()
