"""OpenTelemetry spans: how long each phase of a request took; no text, no key, no exception's message.

Without a collector, or without the extra `scale`, a span costs the check of one variable.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final, TypeAlias

from safety_kit.errors import MissingExtra

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Tracer

    from safety_kit.gateway.settings import Telemetry

Value: TypeAlias = int | float | bool | str | None

NAMES: Final = frozenset(
    {"request_id", "route", "method", "outcome", "code", "policy", "stage", "action", "check", "backend", "key"}
)
"""Attributes whose value may be words, and then only words that look like a name."""
_NAME = re.compile(r"[\w.:/-]{1,80}", re.ASCII)

_tracer: Tracer | None = None


def configure(telemetry: Telemetry, exporter: SpanExporter | None = None) -> Callable[[], None]:
    """Send the spans of this process to a collector, where the settings name one.

    Args:
        telemetry: The settings.
        exporter: Takes the spans instead of the collector that the settings name.

    Returns:
        What ends it: the spans that are left are sent.

    Raises:
        MissingExtra: A collector is named and the extra `scale` is not installed.
    """
    global _tracer
    if telemetry.endpoint is None and exporter is None:
        return _end
    if any(find_spec(package) is None for package in ("opentelemetry", "opentelemetry.sdk")):
        raise MissingExtra("opentelemetry-sdk", "scale")
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

    provider = TracerProvider(
        resource=Resource.create({"service.name": "safety-kit"}),
        sampler=ParentBased(TraceIdRatioBased(telemetry.sample)),
    )
    provider.add_span_processor(BatchSpanProcessor(exporter or _collector(f"{telemetry.endpoint}")))
    _tracer = provider.get_tracer("safety_kit.gateway")

    def end() -> None:
        _end()
        provider.shutdown()

    return end


def _end() -> None:
    global _tracer
    _tracer = None


def _collector(endpoint: str) -> SpanExporter:
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError as error:
        raise MissingExtra("opentelemetry-exporter-otlp-proto-http", "scale") from error
    base = endpoint.rstrip("/")
    return OTLPSpanExporter(base if base.endswith("/v1/traces") else f"{base}/v1/traces")


@contextmanager
def span(name: str, **attributes: Value) -> Iterator[None]:
    """Time a phase, such as ``guard.input``, as a child of the phase that it is in.

    Numbers and booleans are kept; words only under one of `NAMES`. A fault is noted by its type.
    """
    if _tracer is None:
        yield
        return
    from opentelemetry.trace import Status, StatusCode

    kept = {key: value for key, value in attributes.items() if value is not None and _kept(key, value)}
    # An exception's message may quote the text that it failed on, so the library is not to record it.
    with _tracer.start_as_current_span(
        name, attributes=kept, record_exception=False, set_status_on_exception=False
    ) as made:
        try:
            yield
        except BaseException as error:
            made.set_attribute("error.type", type(error).__name__)
            made.set_status(Status(StatusCode.ERROR))
            raise


def _kept(key: str, value: Value) -> bool:
    return not isinstance(value, str) or (key in NAMES and _NAME.fullmatch(value) is not None)
