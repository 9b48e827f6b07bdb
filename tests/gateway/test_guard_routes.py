"""The guard alone over HTTP: moderations, checks, LiteLLM's guardrail; and Vertex AI's contract, models, health."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from gateway_helpers import LOOPBACK, FakeUpstream, Memory, gateway, served, services
from guard_helpers import FakeGemma, make_artifact
from integration_helpers import MAIL, MESSAGE, SECRET

from safety_kit.gateway.app import create_app
from safety_kit.gateway.metrics import Metrics
from safety_kit.gateway.moderation import STANDARD
from safety_kit.gateway.settings import Settings, Upstream
from safety_kit.guard import Guard
from safety_kit.policy import Policy

pytestmark = pytest.mark.allow_hosts(LOOPBACK)

ARGUMENTS = json.dumps({"to": MAIL})
TAUGHT = """
version: 1
name: taught
checks:
  shouting: {type: probe, artifact: hate}
  pii: {type: pii, countries: [us]}
rules:
  - {category: hate, action: block, threshold: 0.6}
  - {category: pii.email, action: redact}
"""


@pytest.fixture(scope="module")
def address(fake: FakeUpstream, memory: Memory) -> Iterator[str]:
    with served(fake.app) as upstream, gateway(services(upstream, audit=memory)) as address:
        yield address


@pytest.fixture(autouse=True)
def forget(fake: FakeUpstream, memory: Memory) -> None:
    fake.seen.clear()
    memory.records.clear()


# --- moderations


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = make_artifact(tmp_path_factory.mktemp("classifiers") / "hate", ["hate"])
    guard = Guard(Policy.parse(TAUGHT), FakeGemma(), {"hate": folder})  # type: ignore[arg-type]
    with gateway(services("http://127.0.0.1:9", guard)) as address:
        yield address


def test_moderations_score_what_is_taught_and_flag_by_the_policy(taught: str) -> None:
    with openai.OpenAI(api_key="none", base_url=f"{taught}/v1", max_retries=0) as client:
        reply = client.moderations.create(input=["quite calm", "!" * 40, f"mail {MAIL}"])
    calm, loud, mail = (result.model_dump(by_alias=True) for result in reply.results)
    assert [r["flagged"] for r in (calm, loud, mail)] == [False, True, True]
    assert calm["category_scores"]["hate"] < 0.5 < loud["category_scores"]["hate"]
    assert loud["categories"]["hate"] is True
    assert mail["categories"]["pii.email"] is True
    for name in STANDARD:
        assert isinstance(loud["category_scores"][name], float)
        assert loud["category_applied_input_types"][name] == (["text"] if name == "hate" else [])


def test_what_a_moderation_cannot_read_is_flagged_as_the_policy_says(taught: str) -> None:
    parts = [{"type": "text", "text": "calm"}, {"type": "image_url", "image_url": {"url": "data:,"}}]
    (result,) = httpx.post(f"{taught}/v1/moderations", json={"input": parts}).json()["results"]
    assert result["flagged"] is True


@pytest.mark.parametrize("given", [None, [], 3, {"a": 1}, [1], [["a"]]])
def test_a_moderation_of_nothing_is_refused(address: str, given: Any) -> None:
    assert httpx.post(f"{address}/v1/moderations", json={"input": given}).status_code == 400


# --- checks


def test_a_text_gets_its_verdict(address: str, memory: Memory) -> None:
    verdict = httpx.post(f"{address}/v1/guard/check", json={"text": f"Mail {MAIL}", "stage": "output"}).json()
    assert (verdict["stage"], verdict["action"], verdict["text"]) == ("output", "redact", "Mail <mail>")
    reply = httpx.post(f"{address}/v1/guard/check", json={"text": SECRET})
    assert (reply.status_code, reply.json()["code"], reply.json()["message"]) == (200, "blocked.code_names", MESSAGE)
    assert [record.outcome for record in memory.records] == ["redact", "block"]


def test_a_conversation_gets_the_verdicts_of_its_places(address: str) -> None:
    asked = [{"role": "user", "content": f"I am {MAIL}"}]
    answer = [*asked, {"role": "assistant", "content": f"Hello {MAIL}"}]
    at_input = httpx.post(f"{address}/v1/guard/check", json={"messages": asked}).json()
    assert at_input["messages"] == [{"role": "user", "content": "I am <mail>"}]
    at_output = httpx.post(f"{address}/v1/guard/check", json={"messages": answer, "stage": "output"}).json()
    assert at_output["places"][0]["path"] == "choices[0].message.content"
    assert at_output["messages"][-1]["content"] == "Hello <mail>"
    blocked = httpx.post(f"{address}/v1/guard/check", json={"messages": [{"role": "user", "content": SECRET}]}).json()
    assert (blocked["messages"], blocked["message"]) == (None, MESSAGE)


@pytest.mark.parametrize(
    "body",
    [{}, {"text": "a", "messages": []}, {"messages": []}, {"text": "a", "stage": "beside"},
     {"messages": [{"role": "user", "content": "a"}], "stage": "output"}],
)  # fmt: skip
def test_a_check_of_nothing_is_refused(address: str, body: dict[str, Any]) -> None:
    assert httpx.post(f"{address}/v1/guard/check", json=body).status_code == 400


# --- LiteLLM


@dataclass
class Logged:
    litellm_call_id: str = "c"
    litellm_trace_id: str = "t"


def guardrail(address: str, **inputs: Any) -> Any:
    """Ask as LiteLLM's own code does."""
    from litellm.proxy.guardrails.guardrail_hooks.generic_guardrail_api import GenericGuardrailAPI

    stage = inputs.pop("stage", "request")
    asking = GenericGuardrailAPI(api_base=address, guardrail_name="safety-kit", event_hook="pre_call", default_on=True)
    return asyncio.run(asking.apply_guardrail(inputs=inputs, request_data={}, input_type=stage))


@pytest.mark.parametrize("stage", ["request", "response"])
def test_litellm_gets_what_may_pass(address: str, stage: str) -> None:
    assert guardrail(address, texts=["fine"], stage=stage)["texts"] == ["fine"]
    assert guardrail(address, texts=["fine", f"mail {MAIL}"], stage=stage)["texts"] == ["fine", "mail <mail>"]


@pytest.mark.parametrize(
    "inputs",
    [
        {"texts": ["fine", SECRET]},
        {"texts": ["about project bl", "uebird"]},
        {"texts": ["fine"], "images": ["data:image/png;base64,AAAA"]},
        {"texts": [], "structured_messages": [{"role": "user", "content": SECRET}]},
        {
            "texts": ["fine"],
            "tool_calls": [{"id": "1", "type": "function", "function": {"name": "a", "arguments": ARGUMENTS}}],
        },
        {"texts": [SECRET], "stage": "response"},
    ],
)
def test_litellm_is_told_to_block(address: str, inputs: dict[str, Any]) -> None:
    from litellm.exceptions import GuardrailRaisedException

    with pytest.raises(GuardrailRaisedException):
        guardrail(address, **inputs)


# --- Vertex AI


def test_predictions_are_guarded_one_by_one(fake: FakeUpstream, memory: Memory, address: str) -> None:
    fake.says(f"Write to {MAIL}.")
    instances = [
        {"messages": [{"role": "user", "content": f"Who is {MAIL}?"}], "@requestFormat": "chatCompletions"},
        {"messages": [{"role": "user", "content": SECRET}]},
    ]
    body = {"instances": instances, "parameters": {"temperature": 0.5, "stream": True}}
    first, second = httpx.post(f"{address}/predict", json=body).json()["predictions"]
    assert first["choices"][0]["message"]["content"] == "Write to <mail>."
    assert (second["choices"][0]["finish_reason"], len(fake.seen)) == ("content_filter", 1)
    assert fake.seen == [{"messages": [{"role": "user", "content": "Who is <mail>?"}], "temperature": 0.5}]
    assert [record.outcome for record in memory.records] == ["redact", "block"]


@pytest.mark.parametrize("body", [{}, {"instances": []}, {"instances": [{}]}, {"instances": [{"prompt": 3.5}]}])
def test_a_prediction_of_nothing_is_refused(address: str, body: dict[str, Any]) -> None:
    assert httpx.post(f"{address}/predict", json=body).status_code == 400


def test_vertex_names_the_routes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AIP_PREDICT_ROUTE", "/v1/endpoints/1/deployedModels/2:predict")
    monkeypatch.setenv("AIP_HEALTH_ROUTE", "/alive")
    paths = create_app(Settings.load(None, {}), services("http://127.0.0.1:9")).openapi()["paths"]
    assert {"/v1/endpoints/1/deployedModels/2:predict", "/alive"} <= set(paths)


# --- models, health


def test_models_are_the_backends(address: str) -> None:
    with openai.OpenAI(api_key="none", base_url=f"{address}/v1", max_retries=0) as client:
        assert [model.id for model in client.models.list()] == ["tiny"]
        assert client.models.retrieve("tiny").id == "tiny"
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("other")


def test_it_is_ready_until_it_drains(fake: FakeUpstream) -> None:
    with served(fake.app) as upstream:
        app = create_app(Settings(), services(upstream))
        with served(app, lifespan="on") as address:
            assert httpx.get(f"{address}/readyz").status_code == 200
            assert httpx.get(f"{address}/health").status_code == 200
            app.state.gateway.draining = True
            assert httpx.get(f"{address}/readyz").status_code == 503
            assert httpx.get(f"{address}/healthz").status_code == 200


# --- keys


@dataclass(frozen=True)
class Key:
    name: str
    policy: str | None = None
    rate: str | None = None


class Keys:
    def find(self, token: str) -> Key | None:
        return {"sk-a": Key("a"), "sk-b": Key("b", policy="another")}.get(token)


class Never:
    async def take(self, who: str, rate: str | None) -> float | None:
        return 2.5 if who == "a" else None


def test_who_has_no_key_is_not_let_in_and_who_asks_too_often_waits(fake: FakeUpstream, memory: Memory) -> None:
    fake.says("never")
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
    with (
        served(fake.app) as upstream,
        gateway(services(upstream, keys=Keys(), limits=Never(), audit=memory)) as address,
    ):

        def post(headers: dict[str, str]) -> httpx.Response:
            return httpx.post(f"{address}/v1/chat/completions", json=body, headers=headers)

        assert [post({}).status_code, post({"authorization": "Bearer sk-x"}).status_code] == [401, 401]
        limited = post({"x-api-key": "sk-a"})
        assert (limited.status_code, limited.headers["retry-after"]) == (429, "3")
        assert post({"authorization": "Bearer sk-b"}).status_code == 503  # its policy is not there: no other is used
        assert httpx.get(f"{address}/v1/models").status_code == 401
        assert httpx.get(f"{address}/healthz").status_code == 200
    assert fake.seen == []
    assert [(record.key, record.status) for record in memory.records][:4] == [
        (None, 401), (None, 401), ("a", 429), ("b", 503)
    ]  # fmt: skip
    assert "sk-" not in repr(memory.records)


@pytest.mark.parametrize("passes", [False, True])
def test_the_callers_key_goes_on_only_by_option(
    fake: FakeUpstream, monkeypatch: pytest.MonkeyPatch, passes: bool
) -> None:
    fake.says("fine")
    monkeypatch.setenv("UPSTREAM_KEY", "sk-own")
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
    with served(fake.app) as upstream:
        settings = Upstream(url=f"{upstream}/v1", api_key_env="UPSTREAM_KEY", pass_caller_key=passes)
        with gateway(services(upstream, settings=settings)) as address:
            httpx.post(f"{address}/v1/chat/completions", json=body, headers={"authorization": "Bearer sk-caller"})
    assert fake.headers[-1]["authorization"] == ("Bearer sk-caller" if passes else "Bearer sk-own")


class Nobody:
    """Keys of which there are none."""

    def find(self, token: str) -> None:
        return None


def test_operation_asks_for_no_key_and_counts_by_route(fake: FakeUpstream) -> None:
    with served(fake.app) as upstream, gateway(services(upstream, keys=Nobody(), metrics=Metrics())) as address:
        assert httpx.get(f"{address}/v1/models").status_code == 401
        for path in ("healthz", "readyz", "metrics"):
            assert httpx.get(f"{address}/{path}").status_code == 200
        page = httpx.get(f"{address}/metrics").text
    assert 'safety_kit_requests_total{outcome="refused",route="/v1/models",status="401"} 1.0' in page
