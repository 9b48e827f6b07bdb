"""A request's JSON within limits, whatever comes."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from safety_kit.gateway.json_body import CONTAINERS, DEPTH, BodyError, parse_json

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=5),
    max_leaves=20,
)


def depth(value: object) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(depth, inner), default=0)


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), JSON), st.booleans())
def test_what_is_written_is_read(content: dict[str, object], ascii_only: bool) -> None:
    assert parse_json(json.dumps(content, ensure_ascii=ascii_only).encode()) == content


@given(st.binary() | st.text().map(lambda text: text.encode("utf-8", "surrogatepass")))
@example(b"\xef\xbb\xbf{}")
@example('{"a": 1}'.encode("utf-16"))
@example(b'{"a": ' + b"9" * 5000 + b"}")
@example(b'{"a":' * 100_000)
def test_nothing_but_its_own_error_comes_out(body: bytes) -> None:
    try:
        content = parse_json(body)
    except BodyError:
        return
    assert isinstance(content, dict)
    json.dumps(content, ensure_ascii=False, allow_nan=False).encode("utf-8")


@given(st.integers(1, 3 * DEPTH), st.sampled_from(['{"a":%s}', "[%s]", '{"b":[%s]}']))
def test_depth_is_bounded(levels: int, shape: str) -> None:
    text = '{"top":%s}'
    for _ in range(levels):
        text = text.replace("%s", shape)
    body = text.replace("%s", "1").encode()
    if depth(json.loads(body)) > DEPTH:
        with pytest.raises(BodyError, match="nested too deeply"):
            parse_json(body)
    else:
        assert parse_json(body)


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"", "not valid JSON"),
        (b"[]", "JSON object"),
        (b'{"secret": "canary"', "character 19"),
        (b'{"a": "\xff"}', "UTF-8"),
        (b'{"model": "a", "model": "b"}', "twice"),
        (b'{"messages": [{"role": 1, "role": 2}]}', "twice"),
        (b'{"temperature": NaN}', "NaN"),
        (b'{"temperature": -Infinity}', "NaN"),
        (b'{"temperature": 1e999}', "too large"),
        (b'{"max_tokens": 1' + b"0" * 400 + b"}", "too large"),
        (b'{"a": "\\ud83d"}', "surrogate"),
        (b'{"\\uDE00": 1}', "surrogate"),
        (b'{"a": [' + b"[]," * CONTAINERS + b"[]]}", "too many parts"),
        (b'{"a": ' + b"[" * 200_000, "nested too deeply"),
    ],
)
def test_what_is_refused(body: bytes, problem: str) -> None:
    with pytest.raises(BodyError, match=problem) as caught:
        parse_json(body)
    assert "canary" not in str(caught.value)
    error = caught.value
    assert error.__suppress_context__ or error.__context__ is None  # the parser's own error holds the body


def test_a_pair_of_escapes_is_a_character_and_many_messages_are_read() -> None:
    assert parse_json(b'{"a": "\\ud83d\\ude00"}') == {"a": "\N{GRINNING FACE}"}
    messages = [{"role": "user", "content": [{"type": "text", "text": "x"}]}] * 10_000
    assert parse_json(json.dumps({"messages": messages}).encode()) == {"messages": messages}
