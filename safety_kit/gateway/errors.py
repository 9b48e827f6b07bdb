"""Errors in OpenAI's form: what a client's own library raises, with a status that says whether to try again."""

from __future__ import annotations

import math
from typing import Any

from safety_kit.chat.answers import error_body

_KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


class ApiError(Exception):
    """An answer that is an error. Its message holds nothing of the caller's texts.

    Attributes:
        status: HTTP status.
        message: One or two sentences with the remedy.
        code: For programs.
        param: The field of the request that is wrong, where one is.
        retry_after: Seconds until it is worth another try; None: it is not, or nobody knows.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        *,
        param: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.retry_after = retry_after

    @property
    def body(self) -> dict[str, Any]:
        kind = _KINDS.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        body: dict[str, Any] = error_body(self.message, self.code, kind, self.param)
        return body

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.retry_after is None else {"retry-after": str(max(1, math.ceil(self.retry_after)))}


def bad_request(message: str, param: str | None = None, code: str = "invalid_request") -> ApiError:
    """The caller can mend it."""
    return ApiError(400, message, code, param=param)


def no_service(message: str, code: str, retry_after: float | None = 1) -> ApiError:
    """It is the gateway that cannot, for now."""
    return ApiError(503, message, code, retry_after=retry_after)
