"""The gateway as an ASGI application."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route

from safety_kit import __version__
from safety_kit.gateway.endpoint import Endpoint
from safety_kit.gateway.errors import error_response
from safety_kit.gateway.flow import Flow
from safety_kit.gateway.journal import Journal
from safety_kit.gateway.routes import completions, guard, health, models, moderations
from safety_kit.gateway.routes import vertex as predictions
from safety_kit.gateway.routes.health import State
from safety_kit.gateway.services import Services
from safety_kit.gateway.settings import Settings
from safety_kit.gateway.ticket import Ticket


def create_app(settings: Settings, services: Services) -> FastAPI:
    """Put a gateway together; nothing is connected before the first request.

    Args:
        settings: What it was told.
        services: Its parts; they are closed with the application.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await services.close()

    app = FastAPI(
        title="safety-kit gateway",
        version=__version__,
        description="Guarded generation in front of any model, with OpenAI's API.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    journal = Journal(services, settings.audit.required)
    endpoint = Endpoint(settings, services, journal)
    flow = Flow(settings, services, journal)
    vertex = settings.vertex
    app.state.gateway = State()
    routers = (
        completions.router(endpoint, flow),
        moderations.router(endpoint),
        models.router(endpoint, services),
        guard.router(endpoint),
        predictions.router(endpoint, flow, vertex.predict),
        health.router(services, journal, app.state.gateway, vertex.health),
    )
    for router in routers:
        app.include_router(router)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _broken)
    routes = frozenset(route.path for router in routers for route in router.routes if isinstance(route, Route))
    if services.metrics is not None:
        services.metrics.know(routes=routes)

    def turned_away(path: str, request_id: str, status: int, code: str) -> None:
        route = path if path in routes else "other"  # a path may hold anything
        journal.turned_away(Ticket(request_id, route, status=status, code=code))

    app.state.turned_away, app.state.known = turned_away, endpoint.knows
    return app


async def _broken(request: Request, error: Exception) -> Response:
    """A fault that no endpoint has caught, such as one of telling an error; it goes on to who logs it."""
    return error_response(500, "The gateway failed; its log says where.", "internal_error")


async def _http_error(request: Request, error: Exception) -> Response:
    """A path that is not there, or a method that it does not have, in OpenAI's form."""
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "http_error")
    response = error_response(error.status_code, f"{error.detail}.", code)
    response.headers.update(error.headers or {})
    return response
