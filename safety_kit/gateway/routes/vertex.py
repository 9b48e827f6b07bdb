"""Vertex AI's contract for containers: a route for predictions and one for its health, named by `AIP_*` variables."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from safety_kit.gateway.body import PredictRequest, validated
from safety_kit.gateway.dialects import CHAT, TEXT
from safety_kit.gateway.endpoint import Endpoint
from safety_kit.gateway.errors import bad_request
from safety_kit.gateway.flow import Flow
from safety_kit.gateway.openapi import described
from safety_kit.gateway.responses import json_response
from safety_kit.gateway.ticket import Ticket
from safety_kit.gateway.told import headers


def router(endpoint: Endpoint, flow: Flow, path: str) -> APIRouter:
    """The route for predictions: each instance is a chat request, or has a prompt, and is answered by itself."""
    made = APIRouter(tags=["vertex"])

    @made.post(path, **described(PredictRequest))
    async def predict(request: Request) -> Response:
        """Predictions in the order of the instances; `parameters` holds what they have in common."""

        async def work(ticket: Ticket, body: dict[str, Any], valid: PredictRequest) -> Response:
            shared = valid.parameters or {}
            requests = [_request({**shared, **instance}, number) for number, instance in enumerate(valid.instances)]
            predictions = []
            for number, (dialect, instance) in enumerate(requests):
                own = replace(ticket, request_id=f"{ticket.request_id}.{number}")
                own.call_it(instance.get("model"))
                predictions.append(await flow.complete(dialect, instance, own))
            ticket.done = True  # each instance has a record of its own
            return json_response({"predictions": predictions}, headers(ticket))

        return await endpoint.serve(request, path, PredictRequest, work)

    return made


def _request(instance: dict[str, Any], number: int) -> tuple[Any, dict[str, Any]]:
    """An instance as a request that is not streamed."""
    instance = {name: value for name, value in instance.items() if name not in ("stream", "@requestFormat")}
    dialect = CHAT if "messages" in instance else TEXT if "prompt" in instance else None
    if dialect is None:
        raise bad_request("Each instance must have messages or a prompt.", param=f"instances.{number}")
    validated(dialect.fields, instance)
    return dialect, instance
