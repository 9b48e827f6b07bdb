"""`/v1/guard/check`, and the path that LiteLLM's generic guardrail API posts to."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from safety_kit.gateway.body import CheckRequest, GuardrailRequest
from safety_kit.gateway.endpoint import Endpoint
from safety_kit.gateway.guardrail import check as checked
from safety_kit.gateway.guardrail import guardrail
from safety_kit.gateway.openapi import described
from safety_kit.gateway.ticket import Ticket

CHECK = "/v1/guard/check"
LITELLM = "/beta/litellm_basic_guardrail_api"


def router(endpoint: Endpoint) -> APIRouter:
    """The guard alone, for those who generate elsewhere."""
    made = APIRouter(tags=["guard"])

    @made.post(CHECK, **described(CheckRequest))
    async def check(request: Request) -> Response:
        """The verdict on a text or a conversation; a block is an answer with the status 200."""

        async def work(ticket: Ticket, body: dict[str, Any], valid: CheckRequest) -> Response:
            answer, verdicts = await endpoint.check(ticket, checked, ticket.guard_, valid, ticket.request_id)
            return await endpoint.judged(ticket, verdicts, answer)

        return await endpoint.serve(request, CHECK, CheckRequest, work)

    @made.post(LITELLM, **described(GuardrailRequest))
    async def litellm_guardrail(request: Request) -> Response:
        """LiteLLM's generic guardrail API: its proxy asks before and after each call."""

        async def work(ticket: Ticket, body: dict[str, Any], valid: GuardrailRequest) -> Response:
            answer, verdicts = await endpoint.check(ticket, guardrail, ticket.guard_, valid, ticket.request_id)
            return await endpoint.judged(ticket, verdicts, answer)

        return await endpoint.serve(request, LITELLM, GuardrailRequest, work)

    return made
