"""`/v1/moderations`."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from safety_kit.gateway.body import ModerationRequest
from safety_kit.gateway.endpoint import Endpoint
from safety_kit.gateway.moderation import moderate
from safety_kit.gateway.openapi import described
from safety_kit.gateway.ticket import Ticket

PATH = "/v1/moderations"


def router(endpoint: Endpoint) -> APIRouter:
    """OpenAI's moderation endpoint."""
    made = APIRouter(tags=["guard"])

    @made.post(PATH, **described(ModerationRequest))
    async def moderations(request: Request) -> Response:
        """Scores of the taught categories, and whether the policy's input rules flag each text."""

        async def work(ticket: Ticket, body: dict[str, Any], valid: ModerationRequest) -> Response:
            results, verdicts = await endpoint.check(ticket, moderate, ticket.guard_, body["input"], ticket.request_id)
            answer = {
                "id": f"modr-{ticket.request_id}",
                "model": "safety-kit",
                "results": [result.to_json() for result in results],
            }
            return await endpoint.judged(ticket, verdicts, answer)

        return await endpoint.serve(request, PATH, ModerationRequest, work)

    return made
