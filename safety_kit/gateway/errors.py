"""Errors as OpenAI's clients read them: one builder of bodies, so that every refusal looks the same."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.responses import JSONResponse

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
}
"""Of a status; any other 4xx is an ``invalid_request_error`` and the rest a ``server_error``."""


def error_body(message: str, type_: str, code: str | None, param: str | None = None) -> dict[str, Any]:
    """The body of an error; what cannot be written as UTF-8 is replaced."""
    return {
        "error": {
            "message": _writable(message),
            "type": _writable(type_),
            "code": None if code is None else _writable(code),
            "param": None if param is None else _writable(param),
        }
    }


def error_response(
    status: int, message: str, code: str | None, *, param: str | None = None, retry_after: float | None = None
) -> JSONResponse:
    """An error as an answer; `retry_after`, in seconds, is rounded up to whole ones."""
    from starlette.responses import JSONResponse

    headers = {} if retry_after is None else {"retry-after": str(max(1, math.ceil(retry_after)))}
    return JSONResponse(error_body(message, error_type(status), code, param), status, headers)


def error_type(status: int) -> str:
    """OpenAI's name for the kind of error that a status is."""
    return _TYPES.get(status, "invalid_request_error" if 400 <= status < 500 else "server_error")


def _writable(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")
