"""`/v1/chat/completions` and `/v1/completions`."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from safety_kit.gateway.body import ChatRequest, CompletionRequest, Generation
from safety_kit.gateway.dialects import CHAT, TEXT, Dialect
from safety_kit.gateway.endpoint import Endpoint
from safety_kit.gateway.flow import Flow
from safety_kit.gateway.openapi import described
from safety_kit.gateway.ticket import Ticket


def router(endpoint: Endpoint, flow: Flow) -> APIRouter:
    """The two ways to ask for text."""
    made = APIRouter(tags=["generation"])

    async def serve(request: Request, dialect: Dialect, fields: type[Generation]) -> Response:
        async def work(ticket: Ticket, body: dict[str, Any], valid: Generation) -> Response:
            return await flow.respond(dialect, body, ticket)

        return await endpoint.serve(request, request.url.path, fields, work)

    @made.post("/v1/chat/completions", **described(ChatRequest, streams=True))
    async def chat_completions(request: Request) -> Response:
        """A chat completion, guarded: streamed where `stream` is true."""
        return await serve(request, CHAT, ChatRequest)

    @made.post("/v1/completions", **described(CompletionRequest, streams=True))
    async def completions(request: Request) -> Response:
        """A text completion, guarded: each prompt as a chat of one message."""
        return await serve(request, TEXT, CompletionRequest)

    return made
