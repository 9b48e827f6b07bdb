"""What Prometheus reads, by its own parser."""

from __future__ import annotations

from dataclasses import replace

from gateway_records import CANARY, record
from prometheus_client.parser import text_string_to_metric_families

from safety_kit.chat.exchange import Verdicts
from safety_kit.gateway.metrics import Metrics
from safety_kit.types import Finding

ROUTES = ["/v1/chat/completions", "/healthz"]
CATEGORIES = ["pii.email", "code_names"]


def made() -> Metrics:
    return Metrics(routes=ROUTES, categories=CATEGORIES, checks=["pii", "names"], queued=lambda: 3)


def read(metrics: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    page, content_type = metrics.render()
    assert content_type.startswith("text/plain")
    families = text_string_to_metric_families(page.decode())
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return read(metrics).get((f"safety_kit_{name}", frozenset(labels.items())))


def test_a_request_is_counted_by_all_that_is_told_of_it() -> None:
    metrics, route = made(), ROUTES[0]
    metrics.observe(record())
    metrics.observe(record())
    assert value(metrics, "requests_total", route=route, status="200", outcome="block") == 2
    assert value(metrics, "verdicts_total", category="code_names", action="block", stage="input") == 2
    assert value(metrics, "verdicts_total", category="pii.email", action="redact", stage="output") == 2
    assert value(metrics, "request_seconds_count", route=route) == 2
    assert value(metrics, "first_byte_seconds_bucket", route=route, le="0.1") == 2
    assert value(metrics, "first_byte_seconds_bucket", route=route, le="0.05") == 0
    assert value(metrics, "check_seconds_count", check="pii", stage="input")
    assert value(metrics, "held_characters_sum") == 14
    metrics.shadowed("block", "allow")
    assert value(metrics, "shadow_total", policy="block", shadow="allow") == 1
    with metrics.in_progress():
        assert (value(metrics, "queue_depth"), value(metrics, "in_flight")) == (3, 1)
    assert value(metrics, "in_flight") == 0
    metrics.reloaded(taken_over=False)
    metrics.audit_failed()
    assert value(metrics, "policy_reloads_total", result="refused") == 1
    assert value(metrics, "audit_failures_total") == 1


def test_names_that_a_caller_makes_up_add_no_series() -> None:
    metrics = made()
    metrics.observe(record())
    seen = []
    for number in range(3):
        metrics.observe(record(route=f"/v1/{CANARY}/{number}", model=f"{CANARY}{number}", status=404, key=CANARY))
        seen.append(set(read(metrics)))
    assert seen[0] == seen[1] == seen[2]
    assert CANARY not in metrics.render()[0].decode()
    assert value(metrics, "requests_total", route="other", status="404", outcome="block") == 3


def test_a_category_that_the_policy_does_not_name_is_other() -> None:
    metrics, told = made(), record()
    assert told.request is not None
    place = told.request.places[0]
    odd = replace(place.verdict, findings=(Finding("x", "made_up", 1.0, "rule"),), timings={"made_up": 1.0})
    metrics.observe(replace(told, request=Verdicts((replace(place, verdict=odd),), "d"), response=None))
    assert value(metrics, "verdicts_total", category="other", action="block", stage="input") == 1
    assert value(metrics, "check_seconds_count", check="other", stage="input") == 1
    metrics.know(categories=["made_up"], checks=[])
    metrics.observe(replace(told, request=Verdicts((replace(place, verdict=odd),), "d"), response=None))
    assert value(metrics, "verdicts_total", category="made_up", action="block", stage="input") == 1


def test_two_gateways_in_one_process_do_not_share() -> None:
    one, two = made(), made()
    one.observe(record())
    assert value(two, "request_seconds_count", route=ROUTES[0]) is None
