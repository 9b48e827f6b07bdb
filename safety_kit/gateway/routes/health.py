"""`/healthz`, `/readyz` and `/metrics`: for those who run the gateway. No key is asked for, and no text is told."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from fastapi import APIRouter
from starlette.responses import Response

from safety_kit.gateway.journal import Journal
from safety_kit.gateway.responses import json_response
from safety_kit.gateway.services import Services

PATIENCE: Final = 5.0
"""Seconds that the backend has to say that it is ready, and then the audit log."""


@dataclass(slots=True)
class State:
    """Whether new requests are still wanted."""

    draining: bool = False


def router(services: Services, journal: Journal, state: State, vertex: str) -> APIRouter:
    """The routes for health; `vertex` is where Vertex AI asks for it."""
    made = APIRouter(tags=["operation"])

    @made.get("/healthz")
    async def healthz() -> Response:
        """It runs."""
        return json_response({"status": "ok"}, {})

    async def readyz() -> Response:
        """It can answer: backend and audit log are there, and the gateway is not about to stop."""
        status = "draining" if state.draining else await _status()
        policies = {
            name: {"digest": digest, "refused": refused} for name, (digest, refused) in services.policies().items()
        }
        return json_response({"status": status, "policies": policies}, {}, 200 if status == "ok" else 503)

    async def _status() -> str:
        for name, ready in (("backend", services.backend.ready), ("audit log", journal.ready)):
            try:
                there = await asyncio.wait_for(ready(), PATIENCE)
            except TimeoutError:
                there = False
            if not there:
                return f"waiting for the {name}"
        return "ok"

    responses: dict[int | str, dict[str, str]] = {503: {"description": "Not ready"}}
    made.get("/readyz", responses=responses)(readyz)
    made.get(vertex, responses=responses)(readyz)

    if (metrics := services.metrics) is not None:

        @made.get("/metrics")
        async def render() -> Response:
            """Counts for Prometheus."""
            page, kind = metrics.render()
            return Response(page, media_type=kind)

    return made
