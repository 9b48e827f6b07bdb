"""A gateway put together from its settings: each thing once, and what a changed policy then asks of its parts."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from cli_helpers import write_text_policy
from fastapi import FastAPI
from model_helpers import tiny_artifact
from test_gemma_load import one_thread as one_thread
from test_gemma_load import tiny, tiny_folder

from safety_kit.data import classifiers_dir
from safety_kit.gateway import keys
from safety_kit.gateway.app import create_app
from safety_kit.gateway.build import build
from safety_kit.gateway.policies import Policies
from safety_kit.gateway.services import Services
from safety_kit.gateway.settings import Settings
from safety_kit.gemma import Capture
from safety_kit.policy import Policy

UPSTREAM = "http://127.0.0.1:9/v1"
PROBE = """
version: 1
name: p
checks: {hate: {type: probe, artifact: ./hate}}
rules: [{category: hate, stages: [output], action: block, threshold: 0.99}]
"""


@contextmanager
def built(policy: Path, **more: Any) -> Iterator[tuple[Services, Policies]]:
    """The parts of a gateway that looks at its policies when it is told to."""
    made = build(Settings.load(None, {"policy": str(policy), "reload": 0, **more}, {}))
    assert isinstance(made.guards, Policies)
    try:
        yield made, made.guards
    finally:
        asyncio.run(made.close())


def change(file: Path, policies: Policies, text: str) -> None:
    """Write a file, and look until it has come to rest."""
    file.write_text(text, encoding="utf-8")
    policies.look()
    policies.look()


def reloads(services: Services) -> list[str]:
    assert services.metrics is not None
    lines = services.metrics.render()[0].decode().splitlines()
    return [line for line in lines if line.startswith("safety_kit_policy_reloads_total")]


def test_replies_bring_what_the_policy_in_force_reads(tmp_path: Path) -> None:
    """With a classifier that is taught again on other blocks of the model, before its next reply."""
    tiny_artifact(tmp_path / "hate", tiny(), blocks=(1, 3))
    file = tmp_path / "policy.yaml"
    file.write_text(PROBE, encoding="utf-8")
    asked = {"messages": [{"role": "user", "content": "the cat"}], "temperature": 0, "max_tokens": 8}

    async def ask(app: FastAPI) -> Any:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            return (await client.post("/v1/chat/completions", json=asked)).json()

    def answered(app: FastAPI) -> bool:
        answer = asyncio.run(ask(app))
        return bool(answer["choices"][0]["finish_reason"] == "length" and answer["safety"]["action"] == "allow")

    with built(file, model=str(tiny_folder())) as (services, policies):
        app = create_app(Settings(), services)
        assert answered(app)
        tiny_artifact(tmp_path / "hate", tiny(), blocks=(0, 2))
        change(file, policies, PROBE)
        assert policies.guard().capture == Capture((0, 2))
        assert answered(app)


def test_a_classifier_of_the_model_s_own_that_is_taught_again_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAFETY_KIT_CACHE", str(tmp_path / "cache"))
    own = classifiers_dir(tiny().name, tiny().digest) / "hate"
    tiny_artifact(own, tiny())
    file = tmp_path / "policy.yaml"
    file.write_text(PROBE.replace("./hate", "hate"), encoding="utf-8")
    with built(file, model=str(tiny_folder()), **{"upstream.url": UPSTREAM}) as (_, policies):
        before = policies.guard().digest
        tiny_artifact(own, tiny(), seed=1)
        policies.look()
        policies.look()
        assert policies.guard().digest != before


def test_only_what_is_read_again_is_a_reload(tmp_path: Path) -> None:
    file = write_text_policy(tmp_path / "policy.yaml")
    text = file.read_text()
    with built(file, **{"upstream.url": UPSTREAM}) as (services, policies):
        assert reloads(services) == []
        change(file, policies, f"{text}\n# changed\n")
        assert reloads(services) == ['safety_kit_policy_reloads_total{result="taken_over"} 1.0']
        change(file, policies, "version: 1\nchecks: {")
        assert 'safety_kit_policy_reloads_total{result="refused"} 1.0' in reloads(services)


@pytest.mark.parametrize("more", [{"limits.rate": "60/minute"}, {"limits.redis": "redis://127.0.0.1:9/0"}, {}])
def test_requests_are_counted_where_anything_limits_them(tmp_path: Path, more: dict[str, str]) -> None:
    file = write_text_policy(tmp_path / "policy.yaml")
    with built(file, **{"upstream.url": UPSTREAM}, **more) as (services, _):
        assert (services.limits is not None) == bool(more)


def test_keys_may_have_rates_of_their_own_at_any_time(tmp_path: Path) -> None:
    file, ring = write_text_policy(tmp_path / "policy.yaml"), tmp_path / "keys.yaml"
    keys.add(ring, "shop")
    with built(file, keys=str(ring), **{"upstream.url": UPSTREAM}) as (services, _):
        assert services.limits is not None


def test_each_policy_is_read_once_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Any] = []
    load = Policy.load.__func__  # type: ignore[attr-defined]
    monkeypatch.setattr(Policy, "load", classmethod(lambda cls, source: read.append(source) or load(cls, source)))
    first, second = (str(write_text_policy(tmp_path / name)) for name in ("policy.yaml", "second.yaml"))
    with built(Path(first), shadow=second, **{"upstream.url": UPSTREAM}):
        assert read == [first, second]
