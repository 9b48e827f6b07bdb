"""Spans: their tree and attributes, and no text in them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from gateway_records import CANARY
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from safety_kit.errors import MissingExtra
from safety_kit.gateway import spans
from safety_kit.gateway.settings import Telemetry
from safety_kit.gateway.spans import span


class Collector:
    """Takes spans in this process; `by_name` ends the sending first, so that all have arrived."""

    def __init__(self, sample: float = 1) -> None:
        self.exporter = InMemorySpanExporter()
        self.end = spans.configure(Telemetry(sample=sample), self.exporter)

    def by_name(self) -> dict[str, ReadableSpan]:
        self.end()
        return {one.name: one for one in self.exporter.get_finished_spans()}


@pytest.fixture(autouse=True)
def ended() -> Iterator[None]:
    yield
    spans.configure(Telemetry())()


def test_phases_are_children_of_their_request() -> None:
    collector = Collector()
    with span("request", route="/v1/chat/completions", request_id="r1"):
        with span("guard.input", texts=2):
            pass
        with span("upstream"):
            pass
    found = collector.by_name()
    request = found["request"]
    assert dict(request.attributes or {}) == {"route": "/v1/chat/completions", "request_id": "r1"}
    assert dict(found["guard.input"].attributes or {}) == {"texts": 2}
    for child in ("guard.input", "upstream"):
        parent = found[child].parent
        assert parent is not None
        assert parent.span_id == request.context.span_id


def test_no_text_gets_into_a_span() -> None:
    collector = Collector()

    def failing() -> None:
        with span("guard.input", prompt=CANARY, route=f"{CANARY} with words", code="blocked.hate", key=None):
            raise ValueError(CANARY)

    with pytest.raises(ValueError, match=CANARY):
        failing()
    (found,) = collector.by_name().values()
    assert dict(found.attributes or {}) == {"code": "blocked.hate", "error.type": "ValueError"}
    assert not found.status.is_ok
    assert CANARY not in found.to_json()


def test_without_a_collector_nothing_is_traced() -> None:
    spans.configure(Telemetry())
    with span("request"):
        from opentelemetry.trace import get_current_span

        assert not get_current_span().is_recording()


def test_a_share_of_none_traces_none() -> None:
    collector = Collector(sample=0)
    with span("request"), span("guard.input"):
        pass
    assert collector.by_name() == {}


def test_the_missing_extra_is_told_where_a_collector_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spans, "find_spec", lambda _: None)
    with pytest.raises(MissingExtra, match=r"safety-kit\[scale\]"):
        spans.configure(Telemetry(endpoint="http://127.0.0.1:4318"))
    spans.configure(Telemetry())
    with span("request"):
        pass
