"""What the OpenAPI document says of an endpoint: its body is an open object, its errors are OpenAI's."""

from __future__ import annotations

from typing import Any, Final

from pydantic import BaseModel

from safety_kit.gateway.body import Open


class ErrorDetail(BaseModel):
    """One error."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorBody(BaseModel):
    """An error in OpenAI's form."""

    error: ErrorDetail


ERRORS: Final[dict[int | str, dict[str, Any]]] = {
    400: {"model": ErrorBody, "description": "The request is not valid; or, by option, it was blocked"},
    401: {"model": ErrorBody, "description": "No valid API key"},
    404: {"model": ErrorBody, "description": "There is no such thing"},
    413: {"model": ErrorBody, "description": "The body is too large"},
    415: {"model": ErrorBody, "description": "The body is no JSON"},
    422: {"model": ErrorBody, "description": "The upstream does not take the request"},
    429: {"model": ErrorBody, "description": "Too many requests"},
    500: {"model": ErrorBody, "description": "A fault of the gateway"},
    502: {"model": ErrorBody, "description": "A fault of the upstream"},
    503: {"model": ErrorBody, "description": "Not now"},
    504: {"model": ErrorBody, "description": "The upstream was too slow"},
}


def described(fields: type[Open], *, streams: bool = False) -> dict[str, Any]:
    """Arguments for a route that reads its body itself, and may answer with an event stream."""
    schema = fields.model_json_schema()
    kinds = ["application/json", *(["text/event-stream"] if streams else [])]
    return {
        "responses": {200: {"description": "The answer", "content": {kind: {} for kind in kinds}}, **ERRORS},
        "openapi_extra": {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}},
    }
