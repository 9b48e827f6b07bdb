"""The coverage matrix, cell by cell: every position of a request, a response and a stream, against each kind of check.

The table in docs/guides/positions.md is held against the same lists.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from guard_helpers import MAIL, FakeGemma, chunk, cuts, make_artifact
from hypothesis import given, settings

from safety_kit.chat.response_stream import ResponseStream
from safety_kit.guard import Guard
from safety_kit.policy import Policy
from safety_kit.types import Action

ROOT = Path(__file__).resolve().parents[1]
TEXT = """
version: 1
name: positions
uncheckable: allow
checks:
  words: {type: patterns, category: words, keywords: [purple walrus]}
  pii: {type: pii, countries: [us]}
rules:
  - {category: words, action: block}
  - {category: pii.email, action: redact}
messages: {default: withheld}
"""
PROBED = TEXT.replace("checks:", "checks:\n  hate: {type: probe, artifact: hate}") + ""
PROBED = PROBED.replace("rules:", "rules:\n  - {category: hate, action: block, threshold: 0.5}")
WORD = "a purple walrus sings"
LOUD = "!!!!!!!! !!!!!!!!"
ASK: dict[str, Any] = {"role": "user", "content": "what a fine day"}


@pytest.fixture(scope="module")
def guard() -> Guard:
    return Guard(Policy.parse(TEXT))


@pytest.fixture(scope="module")
def probed(tmp_path_factory: pytest.TempPathFactory) -> Guard:
    folder = make_artifact(tmp_path_factory.mktemp("artifacts") / "hate", ["hate"])
    return Guard(Policy.parse(PROBED), FakeGemma(), {"hate": folder})


@dataclass(frozen=True)
class Position:
    """A row of the matrix: `build` puts a text there, in the body of a request or a message or a list of deltas."""

    name: str
    build: Callable[[str], Any]
    path: str


def escaped(text: str) -> str:
    return '{"q": "' + "".join(f"\\u{ord(char):04x}" for char in text) + '"}'


def asks(**message: Any) -> dict[str, Any]:
    return {"messages": [message, ASK]}


def call(name: str = "look_up", arguments: str = "{}") -> dict[str, Any]:
    return {"id": "call_1", "type": "function", "function": {"name": name, "arguments": arguments}}


def called(**changes: str) -> dict[str, Any]:
    return asks(role="assistant", content=None, tool_calls=[call(**changes)])


def tool(**changes: Any) -> dict[str, Any]:
    function = {"name": "look_up", "description": "Looks it up.", "parameters": {"type": "object"}} | changes
    return {"messages": [ASK], "tools": [{"type": "function", "function": function}]}


def with_parameters(parameters: dict[str, Any]) -> dict[str, Any]:
    return tool(parameters=parameters)


def text_of(request: Any, path: str) -> Any:
    """What stands at a path such as `messages[0].content`."""
    for name, number in re.findall(r"([\w-]+)|\[(\d+)\]", path):
        request = request[name] if name else request[int(number)]
    return request


REQUEST = [
    *(
        Position(f"{role} message", lambda text, role=role: asks(role=role, content=text), "messages[0].content")
        for role in ("system", "developer", "user", "assistant", "tool")
    ),
    Position(
        "function message (legacy)", lambda text: asks(role="function", name="f", content=text), "messages[0].content"
    ),
    Position(
        "text part",
        lambda text: asks(role="user", content=[{"type": "text", "text": "hi"}, {"type": "text", "text": text}]),
        "messages[0].content[1].text",
    ),
    Position(
        "refusal part",
        lambda text: asks(role="assistant", content=[{"type": "refusal", "refusal": text}]),
        "messages[0].content[0].refusal",
    ),
    Position(
        "text of a part of unknown type",
        lambda text: asks(role="user", content=[{"type": "scent", "note": text}]),
        "messages[0].content[0].note",
    ),
    Position(
        "file name",
        lambda text: asks(role="user", content=[{"type": "file", "file": {"filename": text, "file_data": "AAAA"}}]),
        "messages[0].content[0].file.filename",
    ),
    Position("name", lambda text: asks(role="user", name=text, content="hi"), "messages[0].name"),
    Position(
        "reasoning",
        lambda text: asks(role="assistant", content="hi", reasoning_content=text),
        "messages[0].reasoning_content",
    ),
    Position("refusal", lambda text: asks(role="assistant", refusal=text), "messages[0].refusal"),
    Position("tool call name", lambda text: called(name=text), "messages[0].tool_calls[0].function.name"),
    Position(
        "tool call arguments",
        lambda text: called(arguments=json.dumps({"q": [text]})),
        "messages[0].tool_calls[0].function.arguments",
    ),
    Position(
        "tool call arguments, key",
        lambda text: called(arguments=json.dumps({text: 1})),
        "messages[0].tool_calls[0].function.arguments",
    ),
    Position(
        "tool call arguments, no JSON",
        lambda text: called(arguments=f"q = {text}"),
        "messages[0].tool_calls[0].function.arguments",
    ),
    Position(
        "custom tool call input",
        lambda text: asks(
            role="assistant",
            tool_calls=[{"id": "call_1", "type": "custom", "custom": {"name": "run", "input": text}}],
        ),
        "messages[0].tool_calls[0].custom.input",
    ),
    Position(
        "function call (legacy)",
        lambda text: asks(role="assistant", function_call={"name": "f", "arguments": json.dumps({"q": text})}),
        "messages[0].function_call.arguments",
    ),
    Position(
        "tool result, JSON",
        lambda text: asks(role="tool", tool_call_id="call_1", content=json.dumps({"rows": [{"note": text}]})),
        "messages[0].content",
    ),
    Position(
        "tool result, parts",
        lambda text: asks(role="tool", tool_call_id="call_1", content=[{"type": "text", "text": text}]),
        "messages[0].content[0].text",
    ),
    Position("call id that is no id", lambda text: asks(role="tool", tool_call_id=text), "messages[0].tool_call_id"),
    Position("tool name", lambda text: tool(name=text), "tools[0].function.name"),
    Position("tool description", lambda text: tool(description=text), "tools[0].function.description"),
    Position(
        "tool parameter description",
        lambda text: with_parameters({"type": "object", "properties": {"q": {"type": "string", "description": text}}}),
        "tools[0].function.parameters.properties.q.description",
    ),
    Position(
        "tool parameter constant",
        lambda text: with_parameters({"properties": {"q": {"enum": ["a", text]}}}),
        "tools[0].function.parameters.properties.q.enum[1]",
    ),
    Position(
        "tool parameter name",
        lambda text: with_parameters({"properties": {text: {"type": "string"}}}),
        "tools[0].function.parameters.properties",
    ),
    Position(
        "function definition (legacy)",
        lambda text: {"messages": [ASK], "functions": [{"name": "f", "description": text}]},
        "functions[0].description",
    ),
    Position(
        "response format",
        lambda text: {
            "messages": [ASK],
            "response_format": {"type": "json_schema", "json_schema": {"name": "r", "description": text}},
        },
        "response_format.json_schema.description",
    ),
    Position(
        "predicted output",
        lambda text: {"messages": [ASK], "prediction": {"type": "content", "content": text}},
        "prediction.content",
    ),
    Position(
        "prefix to continue",
        lambda text: {"messages": [ASK, {"role": "assistant", "content": text}]},
        "messages[1].content",
    ),
    Position(
        "unknown field of a message",
        lambda text: asks(role="user", content="hi", x_note={"a": [text]}),
        "messages[0].x_note.a[0]",
    ),
    Position("unknown field of the request", lambda text: {"messages": [ASK], "documents": [text]}, "documents[0]"),
]

RESPONSE = [
    Position("content", lambda text: {"content": text}, "content"),
    Position("content part", lambda text: {"content": [{"type": "text", "text": text}]}, "content[0].text"),
    Position("reasoning_content", lambda text: {"content": "hi", "reasoning_content": text}, "reasoning_content"),
    Position("reasoning", lambda text: {"content": "hi", "reasoning": text}, "reasoning"),
    Position("refusal", lambda text: {"content": None, "refusal": text}, "refusal"),
    Position("tool call name", lambda text: {"tool_calls": [call(name=text)]}, "tool_calls[0].function.name"),
    Position(
        "tool call arguments",
        lambda text: {"tool_calls": [call(), call(arguments=json.dumps({"q": text}))]},
        "tool_calls[1].function.arguments",
    ),
    Position(
        "function call (legacy)",
        lambda text: {"function_call": {"name": "f", "arguments": json.dumps({"q": text})}},
        "function_call.arguments",
    ),
    Position("audio transcript", lambda text: {"audio": {"id": "a", "transcript": text}}, "audio.transcript"),
    Position("unknown field", lambda text: {"content": "hi", "annotations": [{"title": text}]}, "annotations[0].title"),
]


def tool_deltas(text: str) -> list[dict[str, Any]]:
    arguments = json.dumps({"q": text})
    half = len(arguments) // 2
    first = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "look_up", "arguments": ""}}
    pieces = [{"index": 0, "function": {"arguments": piece}} for piece in (arguments[:half], arguments[half:])]
    return [{"tool_calls": [part]} for part in (first, *pieces)]


def pieces(text: str, wrap: Callable[[str], dict[str, Any]]) -> list[dict[str, Any]]:
    return [wrap(piece) for piece in chunk(text, [3, 9, 10])]


STREAM = [
    *(
        Position(name, lambda text, name=name: pieces(text, lambda piece: {name: piece}), name)
        for name in ("content", "reasoning_content", "reasoning", "refusal", "x_text")
    ),
    Position(
        "content part", lambda text: pieces(text, lambda p: {"content": [{"type": "text", "text": p}]}), "content"
    ),
    Position(
        "tool call name",
        lambda text: [{"tool_calls": [{"index": 0, "function": {"name": piece}}]} for piece in chunk(text, [4])],
        "tool_calls[0].function.name",
    ),
    Position("tool call arguments", tool_deltas, "tool_calls[0].function.arguments"),
    Position(
        "function call (legacy)",
        lambda text: pieces(text, lambda piece: {"function_call": {"arguments": piece}}),
        "function_call.arguments",
    ),
    Position(
        "audio transcript",
        lambda text: pieces(text, lambda piece: {"audio": {"transcript": piece}}),
        "audio.transcript",
    ),
    Position("structured delta", lambda text: pieces(text, lambda piece: {"reasoning_details": [{"text": piece}]}), ""),
]
KINDS = ("patterns", "pii", "probe")


def named(positions: list[Position]) -> Any:
    return pytest.mark.parametrize("position", positions, ids=[position.name for position in positions])


# --- requests


@named(REQUEST)
def test_a_request_is_blocked_by_a_word_anywhere(guard: Guard, position: Position) -> None:
    assert guard.check_request(position.build("a green walrus")).action is Action.ALLOW
    verdict = guard.check_request(position.build(WORD))
    assert (verdict.action, verdict.request) == (Action.BLOCK, None)
    assert verdict.blocking is not None
    assert verdict.blocking.path.startswith(position.path)
    assert "walrus" not in verdict.blocking.path


@named(REQUEST)
def test_personal_data_is_redacted_in_place(guard: Guard, position: Position) -> None:
    request = position.build(f"to {MAIL} now") | {"temperature": 0.5, "x": {"kept": [1, None, True]}}
    before = json.dumps(request)
    verdict = guard.check_request(request)
    assert json.dumps(request) == before
    assert verdict.action is Action.REDACT
    assert verdict.request == position.build("to [EMAIL] now") | {"temperature": 0.5, "x": {"kept": [1, None, True]}}


@named(REQUEST)
def test_a_probe_reads_every_position(probed: Guard, position: Position) -> None:
    assert probed.check_request(position.build("a calm word")).action is Action.ALLOW
    verdict = probed.check_request(position.build(LOUD))
    assert verdict.action is Action.BLOCK
    assert verdict.blocking is not None
    assert [finding.category for finding in verdict.blocking.verdict.findings] == ["hate"]


def test_escapes_hide_nothing(guard: Guard) -> None:
    for build in (lambda text: called(arguments=escaped(text)), lambda text: asks(role="tool", content=escaped(text))):
        assert guard.check_request(build(WORD)).blocked
        verdict = guard.check_request(build(MAIL))
        assert verdict.request is not None
        assert '{"q": "[EMAIL]"}' in json.dumps(verdict.request).replace("\\", "")


# --- responses


def response(message: dict[str, Any]) -> dict[str, Any]:
    calm = {"index": 0, "message": {"role": "assistant", "content": "calm"}, "finish_reason": "stop", "logprobs": {}}
    other = {"index": 1, "message": {"role": "assistant", **message}, "finish_reason": "stop", "logprobs": {"c": 1}}
    return {"id": "chatcmpl-1", "object": "chat.completion", "choices": [calm, other], "usage": {"total_tokens": 3}}


@named(RESPONSE)
def test_a_choice_is_blocked_by_a_word_anywhere(guard: Guard, position: Position) -> None:
    given = response(position.build("a green walrus"))
    assert guard.check_response(given).response == given
    verdict = guard.check_response(response(position.build(WORD)), {"messages": [ASK]})
    assert verdict.blocked
    calm, blocked = verdict.response["choices"]
    assert calm == given["choices"][0]
    assert blocked == {
        "index": 1,
        "message": {"role": "assistant", "content": "withheld"},
        "logprobs": None,
        "finish_reason": "content_filter",
    }
    assert verdict.response["usage"] == {"total_tokens": 3}
    assert verdict.blocking is not None
    assert verdict.blocking.path.startswith(f"choices[1].message.{position.path}")


@named(RESPONSE)
def test_a_choice_is_redacted_in_place(guard: Guard, position: Position) -> None:
    verdict = guard.check_response(response(position.build(f"to {MAIL} now")))
    expected = response(position.build("to [EMAIL] now"))
    expected["choices"][1]["logprobs"] = None  # they spell the address
    assert (verdict.action, verdict.response) == (Action.REDACT, expected)


@named(RESPONSE)
def test_a_probe_reads_every_part_of_a_choice(probed: Guard, position: Position) -> None:
    verdict = probed.check_response(response(position.build(LOUD)), {"messages": [ASK]})
    reasons = [choice["finish_reason"] for choice in verdict.response["choices"]]
    assert reasons == ["stop", "content_filter"]


# --- streams


def chunks(deltas: list[dict[str, Any]], finish: str = "stop") -> list[dict[str, Any]]:
    """Two choices side by side; the first one is calm."""
    made = [[(0, {"role": "assistant", "content": "all "}, None), (1, {"role": "assistant", "content": ""}, None)]]
    made += [[(1, delta, None)] for delta in deltas]
    made += [[(0, {"content": "calm"}, None)], [(1, {}, finish)], [(0, {}, "stop")]]
    return [
        {
            "id": "chatcmpl-1",
            "object": "chat.completion.chunk",
            "choices": [
                {"index": i, "delta": delta, "finish_reason": reason, "logprobs": {"content": []}}
                for i, delta, reason in choices
            ],
        }
        for choices in made
    ]


def drain(guard: Guard, given: list[dict[str, Any]]) -> tuple[dict[int, dict[str, Any]], dict[int, list[str]]]:
    """What a client puts together of each choice, and its finish reasons."""
    stream = ResponseStream(guard, {"messages": [ASK]})
    out = [made for part in given for made in stream.feed(part)] + stream.close()
    whole: dict[int, dict[str, Any]] = {}
    reasons: dict[int, list[str]] = {}
    for part in out:
        assert part["object"] == "chat.completion.chunk"
        for choice in part["choices"]:
            assert "logprobs" not in choice
            add(whole.setdefault(choice["index"], {}), choice["delta"])
            if choice["finish_reason"]:
                reasons.setdefault(choice["index"], []).append(choice["finish_reason"])
    return whole, reasons


def add(message: dict[str, Any], delta: dict[str, Any]) -> None:
    for key, value in delta.items():
        if isinstance(value, dict):
            add(message.setdefault(key, {}), value)
        elif isinstance(value, str) and key != "role":
            message[key] = message.get(key, "") + value
        elif isinstance(value, list):
            message.setdefault(key, []).extend(value)
        else:
            message[key] = value


@named(STREAM)
def test_a_stream_ends_at_a_word_anywhere(guard: Guard, position: Position) -> None:
    calm, _ = drain(guard, chunks(position.build("a green walrus")))
    said = (
        text_of(calm[1], position.path) if position.path else "".join(d["text"] for d in calm[1]["reasoning_details"])
    )
    assert "green walrus" in said
    whole, reasons = drain(guard, chunks(position.build(WORD)))
    assert whole[0]["content"] == "all calm"
    assert reasons == {0: ["stop"], 1: ["content_filter"]}
    assert "walrus" not in json.dumps(whole[1])
    assert whole[1]["content"].endswith("withheld")


@named(STREAM)
def test_a_stream_is_redacted_in_place(guard: Guard, position: Position) -> None:
    whole, reasons = drain(guard, chunks(position.build(f"to {MAIL} now"), "length"))
    assert reasons == {0: ["stop"], 1: ["length"]}
    assert MAIL not in json.dumps(whole[1])
    if not position.path:  # withheld, however the address was cut
        assert set(whole[1]) == {"role", "content"}
    else:
        text = text_of(whole[1], position.path)
        assert text in ("to [EMAIL] now", '{"q": "to [EMAIL] now"}')


@named(STREAM)
def test_a_probe_reads_every_channel(probed: Guard, position: Position) -> None:
    whole, reasons = drain(probed, chunks(position.build(LOUD)))
    assert reasons == {0: ["stop"], 1: ["content_filter"]}
    assert "!" not in json.dumps(whole[1])


@settings(max_examples=60)
@given(cuts)
def test_chunks_change_nothing(guard: Guard, places: list[int]) -> None:
    text = f"write to {MAIL}, then a purple hat and to {MAIL}"
    given = [{"content": piece} for piece in chunk(text, places)]
    whole, reasons = drain(guard, chunks(given))
    assert whole[1]["content"] == text.replace(MAIL, "[EMAIL]")
    assert reasons == {0: ["stop"], 1: ["stop"]}


# --- the page


def test_the_guide_has_the_same_table() -> None:
    page = (ROOT / "docs" / "guides" / "positions.md").read_text(encoding="utf-8")
    for title, positions in (("requests", REQUEST), ("responses", RESPONSE), ("streams", STREAM)):
        section = page.split(f"<!-- {title} -->")[1].split("<!-- end -->")[0]
        rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", section, re.MULTILINE)[1:]
        assert rows == [(p.name, f"`{p.path}`" if p.path else "withheld when redacted") for p in positions]
