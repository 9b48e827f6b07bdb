"""`/v1/models`: what the backend has."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from safety_kit.gateway.endpoint import Endpoint
from safety_kit.gateway.errors import ApiError
from safety_kit.gateway.openapi import ERRORS
from safety_kit.gateway.responses import json_response
from safety_kit.gateway.services import Services
from safety_kit.gateway.ticket import Ticket
from safety_kit.gateway.told import headers

PATH = "/v1/models"


def router(endpoint: Endpoint, services: Services) -> APIRouter:
    """The list, and one of it."""
    made = APIRouter(tags=["generation"])

    @made.get(PATH, responses=ERRORS)
    async def models(request: Request) -> Response:
        """The backend's models."""

        async def work(ticket: Ticket) -> Response:
            return json_response({"object": "list", "data": await services.backend.models()}, headers(ticket))

        return await endpoint.serve_plain(request, PATH, work)

    @made.get(PATH + "/{name:path}", responses=ERRORS)
    async def model(request: Request, name: str) -> Response:
        """One of them."""

        async def work(ticket: Ticket) -> Response:
            found = next((model for model in await services.backend.models() if model.get("id") == name), None)
            if found is None:
                raise ApiError(404, "There is no model of this name; /v1/models lists them.", "model_not_found")
            return json_response(found, headers(ticket))

        return await endpoint.serve_plain(request, PATH, work)

    return made
