"""What the guard says to those who ask it alone: `/v1/guard/check`, and LiteLLM's generic guardrail API."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from safety_kit.chat.examine import PlaceVerdict
from safety_kit.chat.exchange import RequestVerdict, ResponseVerdict, Verdicts
from safety_kit.errors import ConversationError
from safety_kit.gateway.body import CheckRequest, GuardrailRequest
from safety_kit.guard import Guard
from safety_kit.types import Action, Sample, Stage

Json = dict[str, Any]


def check(guard: Guard, asked: CheckRequest, request_id: str) -> tuple[Json, Verdicts]:
    """The verdict on a text, as `safety-kit check --json` prints it, or on a conversation, by place.

    Raises:
        ConversationError: There is neither, or both, or what should be a reply is none.
    """
    if (asked.text is None) == (asked.messages is None):
        raise ConversationError("Give a text, or messages.")
    stage = Stage(asked.stage)
    if asked.text is not None:
        sample = Sample.at(asked.text, stage, asked.prompt)
        (verdict,) = guard.check([sample], request_id=request_id)
        place = PlaceVerdict("text", "content", sample.role, verdict)
        return verdict.to_json(), Verdicts((place,), guard.digest)
    assert asked.messages is not None
    tools = {name: value for name, value in (asked.model_extra or {}).items() if name in ("tools", "functions")}
    if stage is Stage.INPUT:
        checked = guard.check_request({"messages": asked.messages, **tools}, request_id=request_id)
        passed = None if checked.request is None else checked.request["messages"]
        return _conversation(guard, checked, passed, request_id), checked
    *before, last = asked.messages or [{}]
    if last.get("role") != "assistant":
        raise ConversationError("At the stage output, the last message must be the assistant's reply.")
    request = {"messages": before, **tools} if before else None
    reply = guard.check_response({"choices": [{"index": 0, "message": last}]}, request, request_id=request_id)
    shown = [*before, reply.response["choices"][0]["message"]]
    return _conversation(guard, reply, None if reply.blocked else shown, request_id), reply


def _conversation(guard: Guard, verdicts: Verdicts, passed: Any, request_id: str) -> Json:
    blocking = verdicts.blocking
    return {
        **verdicts.to_json(),
        "code": blocking.verdict.code if blocking else None,
        "message": guard.message(blocking.verdict) if blocking else None,
        "request_id": request_id,
        "messages": passed,
    }


def guardrail(guard: Guard, asked: GuardrailRequest, request_id: str) -> tuple[Json, Verdicts]:
    """LiteLLM's answer: NONE, BLOCKED with the policy's message, or GUARDRAIL_INTERVENED with the redacted texts.

    Texts are read as neighbouring messages, so that what was split over them is found; so are the messages that
    LiteLLM sends beside them. What cannot be sent back redacted (a call's arguments) is blocked.

    Raises:
        ConversationError: It cannot be read.
    """
    return (_request if asked.input_type == "request" else _response)(guard, asked, request_id)


def _request(guard: Guard, asked: GuardrailRequest, request_id: str) -> tuple[Json, Verdicts]:
    texts, found = asked.texts or [], list[PlaceVerdict]()
    body: Json = {"messages": [{"role": "user", "content": text} for text in texts] or [{"role": "user"}]}
    if asked.images:
        body["messages"].append({"role": "user", "content": [_image(image) for image in asked.images]})
    if asked.tools:
        body["tools"] = asked.tools
    checked: RequestVerdict = guard.check_request(body, request_id=request_id)
    found += checked.places
    if asked.structured_messages:
        found += guard.check_request({"messages": asked.structured_messages}, request_id=request_id).places
    if asked.tool_calls:
        calling = guard.check_request({"messages": [_calling(asked.tool_calls)]}, request_id=request_id)
        found += _sealed(guard, calling)
    verdicts = Verdicts(tuple(found), guard.digest)
    if verdicts.blocked or checked.request is None:
        return _blocked(guard, verdicts), verdicts
    passed = [message["content"] for message in checked.request["messages"][: len(texts)]]
    answer: Json = {"texts": passed} if passed != texts else {}
    if asked.tools and checked.request["tools"] != asked.tools:
        answer["tools"] = checked.request["tools"]
    return _passed(answer), verdicts


def _response(guard: Guard, asked: GuardrailRequest, request_id: str) -> tuple[Json, Verdicts]:
    texts = asked.texts or []
    messages: list[Json] = [{"role": "assistant", "content": text} for text in texts]
    if asked.images:
        messages.append({"role": "assistant", "content": [_image(image) for image in asked.images]})
    request = {"messages": asked.structured_messages} if asked.structured_messages else None
    choices = [{"index": number, "message": message} for number, message in enumerate(messages)]
    checked: ResponseVerdict = guard.check_response({"choices": choices}, request, request_id=request_id)
    found = list(checked.places)
    if asked.tool_calls:
        calling = {"choices": [{"index": 0, "message": _calling(asked.tool_calls)}]}
        found += _sealed(guard, guard.check_response(calling, request, request_id=request_id))
    verdicts = Verdicts(tuple(found), guard.digest)
    if verdicts.blocked:
        return _blocked(guard, verdicts), verdicts
    passed = [choice["message"]["content"] for choice in checked.response["choices"][: len(texts)]]
    return _passed({"texts": passed} if passed != texts else {}), verdicts


def _sealed(guard: Guard, verdicts: Verdicts) -> list[PlaceVerdict]:
    """The verdicts on what LiteLLM takes no other form of: a redaction blocks it."""
    return [
        replace(place, verdict=guard.explained(replace(place.verdict, action=Action.BLOCK, text=None)))
        if place.verdict.action is Action.REDACT
        else place
        for place in verdicts.places
    ]


def _image(image: str) -> Json:
    return {"type": "image_url", "image_url": {"url": image}}


def _calling(calls: list[Json]) -> Json:
    return {"role": "assistant", "tool_calls": calls}


def _blocked(guard: Guard, verdicts: Verdicts) -> Json:
    assert verdicts.blocking is not None
    return {"action": "BLOCKED", "blocked_reason": guard.message(verdicts.blocking.verdict)}


def _passed(changed: Json) -> Json:
    return {"action": "GUARDRAIL_INTERVENED", **changed} if changed else {"action": "NONE"}
