"""The OpenAPI document against the gateway: whatever follows it, or does not, is answered as it says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from gateway_helpers import LOOPBACK, FakeUpstream, gateway, served, services
from hypothesis import HealthCheck, settings
from integration_helpers import chunks, completion
from schemathesis.specs.openapi.checks import positive_data_acceptance
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from safety_kit.gateway.app import create_app
from safety_kit.gateway.settings import Settings

pytestmark = pytest.mark.allow_hosts(LOOPBACK)


DOCUMENT: Any = schemathesis.openapi.from_dict(create_app(Settings(), services("http://127.0.0.1:9")).openapi())


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    fake = FakeUpstream()

    async def answer(body: dict[str, Any], request: Request) -> Response:
        chat = request.url.path.endswith("/chat/completions")
        text = {"choices": [{"index": 0, "text": "fine", "finish_reason": "stop"}]}
        if body.get("stream"):
            return fake.stream(list(chunks(["fine"])) if chat else [text])
        return JSONResponse(completion("fine") if chat else text)

    fake.answer = answer
    with served(fake.app) as upstream, gateway(services(upstream)) as address:
        yield address


@DOCUMENT.parametrize()
@settings(max_examples=20, suppress_health_check=list(HealthCheck))
def test_every_endpoint_keeps_to_its_description(case: Any, address: str) -> None:
    # A schema cannot say all that a conversation must be: a valid document may be refused, with a 4xx that is listed.
    case.call_and_validate(base_url=address, excluded_checks=[positive_data_acceptance])
