"""A chat completion held against a guard, in the dicts of the OpenAI API."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from safety_kit.guard import Guard
from safety_kit.stream import StreamGuard
from safety_kit.types import Sample, Stage


@dataclass(frozen=True, slots=True)
class Checked:
    """value: the dict that may be passed on; message: what stands in its place when that is blocked."""

    value: dict[str, Any]
    message: str | None = None


def _slots(message: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    content = message.get("content")
    if isinstance(content, str):
        yield message, "content"
    for part in content if isinstance(content, list) else []:
        if isinstance(part.get("text"), str):
            yield part, "text"
    for call in message.get("tool_calls") or []:
        yield call["function"], "arguments"


def check_request(guard: Guard, request: dict[str, Any]) -> Checked:
    request = copy.deepcopy(request)
    slots = [(m["role"], *slot) for m in request["messages"] for slot in _slots(m)]
    verdicts = guard.check([Sample(holder[key], role, Stage.INPUT) for role, holder, key in slots])
    for verdict, (_, holder, key) in zip(verdicts, slots, strict=True):
        if verdict.blocked:
            return Checked(request, guard.message(verdict))
        holder[key] = verdict.text
    return Checked(request)


def check_response(guard: Guard, response: dict[str, Any]) -> Checked:
    response = copy.deepcopy(response)
    blocked = None
    for choice in response["choices"]:
        slots = list(_slots(choice["message"]))
        verdicts = guard.check([Sample(holder[key], "assistant", Stage.OUTPUT) for holder, key in slots])
        worst = next((verdict for verdict in verdicts if verdict.blocked), None)
        if worst is not None:
            blocked = guard.message(worst)
            choice["message"] = {"role": "assistant", "content": blocked}
            choice["finish_reason"] = "content_filter"
            continue
        for verdict, (holder, key) in zip(verdicts, slots, strict=True):
            holder[key] = verdict.text
    return Checked(response, blocked)


class ChunkStream:
    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._texts: dict[int, StreamGuard] = {}
        self._calls: dict[int, dict[int, dict[str, Any]]] = {}
        self._finish: dict[int, dict[str, Any]] = {}
        self._shell: dict[str, Any] = {}
        self.message: str | None = None

    def feed(self, chunk: dict[str, Any]) -> list[dict[str, Any]]:
        self._shell = {key: value for key, value in chunk.items() if key not in ("choices", "usage")}
        out = []
        for choice in chunk.get("choices") or []:
            index, delta = choice["index"], dict(choice.get("delta") or {})
            flow = self._texts.setdefault(index, StreamGuard(self._guard, activations=False))
            if flow.verdict is not None:
                continue
            for call in delta.pop("tool_calls", None) or []:
                held = self._calls.setdefault(index, {}).setdefault(call["index"], {})
                name = call.get("function", {}).get("name") or held.get("function", {}).get("name")
                arguments = held.get("function", {}).get("arguments", "") + call["function"].get("arguments", "")
                held |= {k: v for k, v in call.items() if v is not None}
                held["function"] = {"name": name, "arguments": arguments}
            text = flow.feed(delta.pop("content", None) or "").text
            if text:
                delta["content"] = text
            if delta:
                out.append({**self._shell, "choices": [{"index": index, "delta": delta, "finish_reason": None}]})
            if flow.verdict is not None or choice.get("finish_reason"):
                self._finish[index] = {"finish_reason": choice.get("finish_reason")}
                out += self._end(index)
        if not chunk.get("choices"):
            out.append(chunk)
        return out

    @property
    def done(self) -> bool:
        return self.message is not None

    def close(self) -> list[dict[str, Any]]:
        return [chunk for index in self._texts if index not in self._finish for chunk in self._end(index)]

    def _end(self, index: int) -> list[dict[str, Any]]:
        flow = self._texts[index]
        begun = bool(flow.released)
        rest = flow.close()
        calls = list(self._calls.get(index, {}).values())
        verdicts = [
            rest.verdict,
            *self._guard.check([Sample(c["function"]["arguments"], "assistant", Stage.OUTPUT) for c in calls]),
        ]
        worst = next((verdict for verdict in verdicts if verdict and verdict.blocked), None)
        finish = self._finish.setdefault(index, {"finish_reason": None})["finish_reason"]
        delta: dict[str, Any] = {}
        if worst is not None:
            self.message = self._guard.message(worst)
            delta["content"] = rest.text + ("\n\n" if begun or rest.text else "") + self.message
            finish = "content_filter"
        else:
            if rest.text:
                delta["content"] = rest.text
            for call, verdict in zip(calls, verdicts[1:], strict=True):
                call["function"]["arguments"] = verdict.text if verdict else ""
            if calls:
                delta["tool_calls"] = calls
        return [{**self._shell, "choices": [{"index": index, "delta": delta, "finish_reason": finish}]}]
