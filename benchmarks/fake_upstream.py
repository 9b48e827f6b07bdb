"""An OpenAI-compatible server that says what it is told, at a known pace, or fails in a known way.

    python -m benchmarks.fake_upstream --port 8000 --rate 20

A request's own field ``fake`` overrides the server's behaviour: ``{"fake": {"fault": "cut", "rate": 5}}``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import cycle, islice
from typing import Any, Literal, TypeAlias, get_args

import uvicorn

Fault: TypeAlias = Literal["cut", "garbage", "wrong", "429", "500", "503", "redirect", "endless", "silent"]
"""Ends in mid-stream; sends bytes that are no JSON; sends JSON that is no completion; an HTTP status; sends elsewhere;
never stops; never answers."""

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]

STORY = "The museum opens at nine and the guide waits near the old gate with a map of the town"


@dataclass(frozen=True)
class Behaviour:
    """What a server does.

    Attributes:
        rate: Tokens a second; 0: as fast as it can.
        first: Seconds to the first token.
        tokens: How many, if `text` does not say.
        text: What is said, word by word; None: harmless words.
        tool: Arguments of a call of the first tool that is offered, as JSON text; None: no call.
        fault: What goes wrong.
        faults: So many requests go wrong, and the later ones do not; None: all do.
    """

    rate: float = 0.0
    first: float = 0.0
    tokens: int = 32
    text: str | None = None
    tool: str | None = None
    fault: Fault | None = None
    faults: int | None = None

    def pieces(self, most: int | None = None) -> list[str]:
        """The tokens of the reply, at most so many; they add up to `text`."""
        words = self.text.split(" ") if self.text is not None else list(islice(cycle(STORY.split()), self.tokens))
        pieces = [f" {word}" if i else word for i, word in enumerate(words)]
        return pieces[:most]


@dataclass
class FakeUpstream:
    """An ASGI app.

    Attributes:
        behaviour: What it does; may be changed while it runs.
        seen: The last bodies it was sent.
        headers: The headers of these.
        open: Replies that are being written.
        left: Replies whose reader left before their end.
    """

    behaviour: Behaviour = Behaviour()
    seen: deque[Any] = field(default_factory=lambda: deque(maxlen=1000))
    headers: deque[dict[str, str]] = field(default_factory=lambda: deque(maxlen=1000))
    open: int = 0
    left: int = 0
    _failed: int = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise NotImplementedError  # uvicorn takes this for: no lifespan
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body", False):
                break
        path = scope["path"].removeprefix("/v1")
        if scope["method"] == "GET":
            known = {"/models": {"object": "list", "data": [{"id": "fake", "object": "model", "owned_by": "tests"}]}}
            await _json(send, known.get(path, {"status": "ok"}))
            return
        request = json.loads(body)
        self.seen.append(request)
        self.headers.append({name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]})
        behaviour = replace(self.behaviour, **request.get("fake") or {})
        if behaviour.fault is not None:
            if behaviour.faults is not None and self._failed >= behaviour.faults:
                behaviour = replace(behaviour, fault=None)
            self._failed += 1
        await self._answer(request, path == "/chat/completions", behaviour, receive, send)

    async def _answer(
        self, request: Mapping[str, Any], chat: bool, behaviour: Behaviour, receive: Receive, send: Send
    ) -> None:
        match behaviour.fault:
            case "429" | "500" | "503" as status:
                headers = [(b"retry-after", b"1")] if status == "429" else []
                error = {"message": "the fake fails", "type": "server_error", "param": None, "code": None}
                await _json(send, {"error": error}, int(status), headers)
                return
            case "redirect":
                await _json(send, {}, 307, [(b"location", b"http://127.0.0.1:9/elsewhere")])
                return
            case "wrong" if not request.get("stream"):
                await _json(send, {"choices": "none", "detail": [1, 2, 3]})
                return
            case "garbage" if not request.get("stream"):
                await _body(send, b"\xff\xfe<html>not json", b"application/json")
                return
        work = asyncio.ensure_future(self._reply(request, chat, behaviour, send))
        gone = asyncio.ensure_future(_gone(receive))
        self.open += 1
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                self.left += 1
                work.cancel()
            else:
                work.result()
        finally:
            self.open -= 1
            gone.cancel()

    async def _reply(self, request: Mapping[str, Any], chat: bool, behaviour: Behaviour, send: Send) -> None:
        tools = request.get("tools") if behaviour.tool is not None else None
        pieces = [] if tools else behaviour.pieces(request.get("max_completion_tokens") or request.get("max_tokens"))
        if behaviour.fault == "silent":
            await asyncio.Event().wait()
        if request.get("stream"):
            await _stream(request, chat, behaviour, pieces, send)
            return
        await asyncio.sleep(behaviour.first + (len(pieces) / behaviour.rate if behaviour.rate else 0))
        choices = [_choice(request, chat, "".join(pieces), behaviour, index) for index in _indices(request)]
        if behaviour.fault == "cut":
            whole = json.dumps(_shell(request, chat, False, choices)).encode()
            length = [(b"content-length", b"%d" % len(whole)), (b"content-type", b"application/json")]
            await send({"type": "http.response.start", "status": 200, "headers": length})
            await send({"type": "http.response.body", "body": whole[: len(whole) // 2], "more_body": True})
            raise _Cut
        usage = _usage(request, len(pieces) * len(choices))
        await _json(send, {**_shell(request, chat, False, choices), "usage": usage})


class _Cut(Exception):
    """Makes the server close the connection in the middle."""


async def _stream(
    request: Mapping[str, Any], chat: bool, behaviour: Behaviour, pieces: Sequence[str], send: Send
) -> None:
    begin = time.perf_counter()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})

    async def event(data: bytes) -> None:
        await send({"type": "http.response.body", "body": b"data: " + data + b"\n\n", "more_body": True})

    async def chunk(choice: Mapping[str, Any], **more: Any) -> None:
        await event(json.dumps({**_shell(request, chat, True, [choice]), **more}).encode())

    indices = _indices(request)
    if chat:
        for index in indices:
            await chunk({"index": index, "delta": {"role": "assistant", "content": ""}, "finish_reason": None})
    number = 0
    while number < len(pieces) or behaviour.fault == "endless":
        due = begin + behaviour.first + (number / behaviour.rate if behaviour.rate else 0)
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        if number == len(pieces) // 2:
            if behaviour.fault == "cut":
                raise _Cut
            if behaviour.fault == "garbage":
                await event(b'{"choices": [{"delta": \xff\xfe')
            if behaviour.fault == "wrong":
                await event(b'{"choices": {"delta": 3}}')
        piece = pieces[number % len(pieces)] if pieces else " more"
        for index in indices:
            said: dict[str, Any] = {"delta": {"content": piece}} if chat else {"text": piece}
            if request.get("logprobs"):
                said["logprobs"] = {"content": [{"token": piece, "logprob": -0.5, "bytes": None, "top_logprobs": []}]}
            await chunk({"index": index, **said, "finish_reason": None})
        number += 1
    for index in indices:
        for delta in _tool_deltas(request, behaviour):
            await chunk({"index": index, "delta": delta, "finish_reason": None})
        end: dict[str, Any] = {"delta": {}} if chat else {"text": ""}
        await chunk({"index": index, **end, "finish_reason": _finish(request, behaviour)})
    if (request.get("stream_options") or {}).get("include_usage"):
        usage = _usage(request, number * len(indices))
        await event(json.dumps({**_shell(request, chat, True, []), "usage": usage}).encode())
    await event(b"[DONE]")
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _indices(request: Mapping[str, Any]) -> range:
    return range(request.get("n") or 1)


def _shell(
    request: Mapping[str, Any], chat: bool, stream: bool, choices: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    kind = "chat.completion.chunk" if chat and stream else "chat.completion" if chat else "text_completion"
    model = request.get("model", "fake")
    return {"id": "chatcmpl-fake", "object": kind, "created": 1, "model": model, "choices": choices}


def _finish(request: Mapping[str, Any], behaviour: Behaviour) -> str:
    return "tool_calls" if behaviour.tool is not None and request.get("tools") else "stop"


def _call(request: Mapping[str, Any], arguments: str) -> dict[str, Any]:
    name = request["tools"][0]["function"]["name"]
    return {"id": "call_1", "type": "function", "function": {"name": name, "arguments": arguments}}


def _tool_deltas(request: Mapping[str, Any], behaviour: Behaviour) -> Iterator[dict[str, Any]]:
    """A call in three parts: its name, and its arguments cut in two."""
    if _finish(request, behaviour) != "tool_calls" or behaviour.tool is None:
        return
    half = len(behaviour.tool) // 2
    yield {"tool_calls": [{"index": 0, **_call(request, "")}]}
    for part in (behaviour.tool[:half], behaviour.tool[half:]):
        yield {"tool_calls": [{"index": 0, "function": {"arguments": part}}]}


def _choice(request: Mapping[str, Any], chat: bool, text: str, behaviour: Behaviour, index: int) -> dict[str, Any]:
    shell: dict[str, Any] = {"index": index, "logprobs": None, "finish_reason": _finish(request, behaviour)}
    if not chat:
        return {**shell, "text": text}
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if shell["finish_reason"] == "tool_calls":
        message = {"role": "assistant", "content": None, "tool_calls": [_call(request, behaviour.tool or "")]}
    return {**shell, "message": message}


def _usage(request: Mapping[str, Any], made: int) -> dict[str, int]:
    asked = len(json.dumps(request.get("messages") or request.get("prompt") or "").split())
    return {"prompt_tokens": asked, "completion_tokens": made, "total_tokens": asked + made}


async def _json(
    send: Send, content: Mapping[str, Any], status: int = 200, headers: Sequence[tuple[bytes, bytes]] = ()
) -> None:
    await _body(send, json.dumps(content).encode(), b"application/json", status, headers)


async def _body(
    send: Send, content: bytes, kind: bytes, status: int = 200, headers: Sequence[tuple[bytes, bytes]] = ()
) -> None:
    told = [(b"content-type", kind), (b"content-length", b"%d" % len(content)), *headers]
    await send({"type": "http.response.start", "status": status, "headers": told})
    await send({"type": "http.response.body", "body": content, "more_body": False})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _server(app: FakeUpstream) -> uvicorn.Server:
    return uvicorn.Server(
        uvicorn.Config(app, log_level="critical", access_log=False, lifespan="off", timeout_graceful_shutdown=1)
    )


def _listen(port: int) -> socket.socket:
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind(("127.0.0.1", port))
    listening.listen(1024)
    return listening


@contextmanager
def running(app: FakeUpstream) -> Iterator[str]:
    """The app served by a thread of this process, on a free port of the loopback; gives its base URL."""
    server, listening = _server(app), _listen(0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
    finally:
        server.should_exit = True
        thread.join(10)
        listening.close()


def main() -> None:
    """Serve until interrupted; the first line printed is the base URL."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0: a free one")
    parser.add_argument("--rate", type=float, default=20, help="tokens a second; 0: as fast as it can")
    parser.add_argument("--first", type=float, default=0, help="seconds to the first token")
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--fault", choices=get_args(Fault))
    options = parser.parse_args()
    listening = _listen(options.port)
    print(f"http://127.0.0.1:{listening.getsockname()[1]}/v1", flush=True)
    behaviour = Behaviour(options.rate, options.first, options.tokens, fault=options.fault)
    _server(FakeUpstream(behaviour)).run(sockets=[listening])


if __name__ == "__main__":
    main()
