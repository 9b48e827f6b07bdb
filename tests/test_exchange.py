"""Requests and responses as wholes: odd shapes, what cannot be read, split attacks, kept verdicts, batches."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from guard_helpers import CARD, MAIL, FakeGemma, make_artifact
from hypothesis import given, settings
from hypothesis import strategies as st

from safety_kit.chat import verdict_cache
from safety_kit.chat.conversation import read_request
from safety_kit.chat.joined import REACH, STEP, Piece, seams, windows
from safety_kit.chat.places import MAX_DEPTH
from safety_kit.chat.response_stream import ResponseStream
from safety_kit.chat.verdict_cache import VerdictCache
from safety_kit.checks.base import Delta, TextCheck
from safety_kit.errors import ConversationError, PolicyError
from safety_kit.guard import Guard
from safety_kit.policy import Policy
from safety_kit.types import Action, CheckError, Finding, Role, Sample, Stage, Verdict
from safety_kit.vault import Vault

TEXT = """
version: 1
name: exchange
checks:
  words: {type: patterns, category: words, keywords: [purple walrus, pelican]}
  pii: {type: pii, countries: [us]}
rules:
  - {category: words, action: block}
  - {category: pii.email, action: redact}
  - {category: pii.credit_card, action: redact}
messages: {default: withheld}
"""
OUTPUT_ONLY = TEXT.replace("{category: words,", "{category: words, stages: [output],")
ASK = {"role": "user", "content": "what a fine day"}
BANNED = "pelican"


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def says(*contents: Any) -> dict[str, Any]:
    """A dialogue in which the user says these things."""
    turns = [part for content in contents for part in (user(content), {"role": "assistant", "content": "I see."})]
    return {"messages": turns[:-1]}


@pytest.fixture(scope="module")
def guard() -> Guard:
    return Guard(Policy.parse(TEXT))


def policy(**settings: str) -> Policy:
    return Policy.parse(TEXT + "".join(f"{name}: {value}\n" for name, value in settings.items()))


# --- odd shapes


@pytest.mark.parametrize(
    ("request_", "place"),
    [
        (None, "the whole"),
        ([], "the whole"),
        ("messages", "the whole"),
        ({}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": {}}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [None]}, "messages[0]"),
        ({"messages": [{}]}, "messages[0].role"),
        ({"messages": [ASK, {"role": "wizard", "content": "x"}]}, "messages[1].role"),
        ({"messages": [{"role": ["user"], "content": "x"}]}, "messages[0].role"),
        ({"messages": [user(5)]}, "messages[0].content"),
        ({"messages": [user({"text": "x"})]}, "messages[0].content"),
        ({"messages": [user([5])]}, "messages[0].content[0]"),
        ({"messages": [user([{"type": "text", "text": 5}])]}, "messages[0].content[0].text"),
        ({"messages": [user([{"type": "text"}])]}, "messages[0].content[0].text"),
        ({"messages": [{**ASK, "name": 5}]}, "messages[0].name"),
        ({"messages": [{"role": "assistant", "tool_calls": [5]}]}, "messages[0].tool_calls[0]"),
        ({"messages": [{"role": "assistant", "tool_calls": {}}]}, "messages[0].tool_calls"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"function": {"arguments": 5}}]}]},
            "messages[0].tool_calls[0].function.arguments",
        ),
        ({"messages": [ASK], "tools": ["look_up"]}, "tools[0]"),
        ({"messages": [ASK], 5: "x"}, "key that is no text"),
        ({"messages": [ASK], "x": {5: "x"}}, "x"),
        ({"messages": [ASK], "x": b"bytes"}, "x"),
        ({"messages": [ASK], "x": 10**5000}, "x"),
    ],
)
def test_what_is_no_request_is_refused_with_its_place(guard: Guard, request_: Any, place: str) -> None:
    with pytest.raises(ConversationError) as caught:
        guard.check_request(request_)
    assert place in str(caught.value)
    assert "wizard" not in str(caught.value)


@pytest.mark.parametrize("response", [None, {}, {"choices": {}}, {"choices": [5]}, {"choices": [{"text": "x"}]}])
def test_what_is_no_response_is_refused(guard: Guard, response: Any) -> None:
    with pytest.raises(ConversationError):
        guard.check_response(response)


@pytest.mark.parametrize("content", ["", None, [], [{"type": "text", "text": ""}]])
def test_an_empty_message_passes(guard: Guard, content: Any) -> None:
    request = {"messages": [user(content)]}
    assert guard.check_request(request).request == request


def nested(depth: int, inner: Any) -> Any:
    for _ in range(depth):
        inner = [inner]
    return inner


def test_deep_nesting_is_refused_and_shallow_is_searched(guard: Guard) -> None:
    assert guard.check_request({"messages": [ASK], "x": nested(MAX_DEPTH - 1, BANNED)}).blocked
    for depth in (MAX_DEPTH + 1, 100_000):
        with pytest.raises(ConversationError, match="nested deeper"):
            guard.check_request({"messages": [ASK], "x": nested(depth, "x")})
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(ConversationError, match="nested deeper"):
        guard.check_request({"messages": [ASK], "x": circle})


def test_shared_values_cannot_multiply(guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("safety_kit.chat.places.MAX_NODES", 10_000)
    bomb: list[Any] = ["x"]
    for _ in range(40):
        bomb = [bomb, bomb]
    with pytest.raises(ConversationError, match="more than 10000 values"):
        guard.check_request({"messages": [ASK], "x": bomb})


def test_ten_thousand_messages(guard: Guard) -> None:
    many = [user(f"line {number % 50}") for number in range(10_000)]
    many[5_000], many[9_000] = user("say pel"), user(MAIL)
    verdict = guard.check_request({"messages": many})
    assert verdict.request is not None
    assert [number for number in range(10_000) if verdict.request["messages"][number] != many[number]] == [9_000]
    many[5_001] = user("ican")
    blocking = guard.check_request({"messages": many[4_900:5_100]}).blocking
    assert blocking is not None
    assert blocking.path == "messages[101].content"


@pytest.mark.parametrize("action", ["block", "flag"])
def test_turns_are_counted_for_the_request_as_a_whole(action: str) -> None:
    text = TEXT.replace("checks:", "checks:\n  many: {type: length, turns: 3}")
    guard = Guard(Policy.parse(text.replace("rules:", f"rules:\n  - {{category: many, action: {action}}}")))
    three = {"messages": [{"role": "system", "content": "Be kind."}, ASK, user(MAIL)]}
    assert all(place.path != "messages" for place in guard.check_request(three).places)
    four = {"messages": [*three["messages"], ASK]}
    verdict = guard.check_request(four)
    (counted,) = (place for place in verdict.places if place.path == "messages")
    assert (counted.kind, counted.verdict.findings[0].detail) == ("turns", "over 3 turns")
    assert counted.verdict.request_id == verdict.places[-1].verdict.request_id != ""
    if action == "block":
        assert verdict.places == (counted,)  # nothing else of it was read
        assert (verdict.request, counted.verdict.code, counted.verdict.message) == (None, "blocked.many", "withheld")
    else:
        assert verdict.request is not None
        assert verdict.request["messages"][2] == user("[EMAIL]")
    assert not guard.check_response({"choices": [{"message": user("x")}] * 5}, four).blocked


def test_lone_surrogates(guard: Guard) -> None:
    request = {"messages": [user(f"\ud800 {MAIL} \udfff")], "\ud800": "\udfff"}
    verdict = guard.check_request(request)
    assert verdict.request == {"messages": [user("\ud800 [EMAIL] \udfff")], "\ud800": "\udfff"}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)
FIELDS = (
    *("role", "content", "name", "tool_calls", "function_call", "refusal", "reasoning", "audio", "tool_call_id"),
    *("type", "text", "function", "arguments", "image_url", "id", "x"),
)
shapes = st.recursive(
    st.sampled_from([None, True, 5, "user", "assistant", "tool", "text", "image_url", "\ud800", "{", MAIL]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4),
    max_leaves=10,
)
bodies = st.fixed_dictionaries(
    {"messages": st.lists(st.dictionaries(st.sampled_from(FIELDS), shapes, max_size=5) | shapes, max_size=3)},
    optional={"tools": shapes, "x": json_values, "prediction": shapes, "response_format": shapes},
)


@settings(max_examples=80)
@given(body=bodies | json_values)
def test_any_shape_has_an_answer(guard: Guard, body: Any) -> None:
    for check in (guard.check_request, guard.check_response, ResponseStream(guard).feed):
        said = ""
        try:
            check(body)
        except ConversationError as error:
            said = str(error)
        assert MAIL not in said


SLOTS: list[Any] = [
    lambda text: {"messages": [user(text)]},
    lambda text: {"messages": [user([{"type": "text", "text": text}])]},
    lambda text: {"messages": [{**ASK, "x": text}]},
    lambda text: {"messages": [ASK], "x": text},
    lambda text: {"messages": [ASK], "tools": [{"function": {"parameters": text}}]},
    lambda text: {"messages": [{"role": "assistant", "function_call": {"arguments": json.dumps(text)}}]},
    lambda text: {"messages": [{"role": "tool", "content": json.dumps([text])}]},
]


@settings(max_examples=100)
@given(slot=st.sampled_from(SLOTS), shape=json_values, steps=st.lists(st.integers(0, 5), max_size=4), data=st.data())
def test_no_word_is_overlooked_in_any_value(guard: Guard, slot: Any, shape: Any, steps: Any, data: Any) -> None:
    planted = plant(shape, steps)
    takes_text = slot in SLOTS[:2]
    body = slot(BANNED if takes_text else planted)
    try:
        assert guard.check_request(body).blocked
    except ConversationError:
        assert not takes_text  # a key twice, a number too long: refused


def plant(shape: Any, steps: Sequence[int]) -> Any:
    """The shape with the banned word somewhere in it."""
    if isinstance(shape, list) and shape and steps:
        at = steps[0] % len(shape)
        return [*shape[:at], plant(shape[at], steps[1:]), *shape[at + 1 :]]
    if isinstance(shape, dict) and shape and steps:
        key = list(shape)[steps[0] % len(shape)]
        return {**shape, key: plant(shape[key], steps[1:])}
    return f"a {BANNED}"


# --- what cannot be read

PARTS = [
    ({"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}, "image"),
    ({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}, "audio"),
    ({"type": "file", "file": {"file_id": "f-1"}}, "file"),
    ({"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AAAA"}}, "video"),
    ({"type": "scent"}, "part"),
]


@pytest.mark.parametrize(("part", "what"), PARTS)
@pytest.mark.parametrize("setting", [None, "block", "flag", "allow"])
def test_the_policy_says_what_is_done_about_a_part(part: Any, what: str, setting: str | None) -> None:
    guard = Guard(policy(**({"uncheckable": setting} if setting else {})))
    request = says([{"type": "text", "text": "look"}, part])
    verdict = guard.check_request(request)
    expected = Action[(setting or "block").upper()]
    assert verdict.action is expected
    assert verdict.request == (None if expected is Action.BLOCK else request)
    (place,) = (place for place in verdict.places if place.kind == "uncheckable")
    assert place.path == "messages[0].content[1]"
    assert [finding.category for finding in place.verdict.findings] == [f"uncheckable.{what}"]
    explained = ("blocked.uncheckable", "withheld") if expected is Action.BLOCK else (None, None)
    assert (place.verdict.code, place.verdict.message) == explained
    reply = {"choices": [{"index": 0, "message": {"content": [part]}, "finish_reason": "stop"}]}
    reasons = {choice["finish_reason"] for choice in guard.check_response(reply).response["choices"]}
    assert reasons == ({"content_filter"} if expected is Action.BLOCK else {"stop"})
    stream = ResponseStream(guard)
    out = stream.feed({"choices": [{"index": 0, "delta": {"content": [part]}, "finish_reason": "stop"}]})
    assert out[-1]["choices"][0]["finish_reason"] == reasons.pop()
    assert stream.verdicts.action is expected


def test_an_audio_reply_is_no_text() -> None:
    message = {"role": "assistant", "audio": {"id": "audio_1"}}
    assert Guard(policy()).check_request({"messages": [ASK, message, ASK]}).blocked
    assert not Guard(policy(uncheckable="allow")).check_request({"messages": [ASK, message, ASK]}).blocked


def test_another_word_for_the_setting_is_refused() -> None:
    with pytest.raises(PolicyError, match=r"uncheckable: use 'block', 'flag' or 'allow'"):
        policy(uncheckable="ignore")


@pytest.mark.parametrize("arguments", ['{"q": "ok", "q": "no"}', "[" * 5_000 + "]" * 5_000, nested(70, "x")])
def test_arguments_with_two_readings_are_not_passed_on(guard: Guard, arguments: Any) -> None:
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    message = {"role": "assistant", "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": text}}]}
    assert guard.check_request({"messages": [ASK, message]}).blocked
    assert guard.check_response({"choices": [{"message": message}]}).blocked


def test_redacted_arguments_stay_json(guard: Guard) -> None:
    arguments = json.dumps({"to": MAIL, "card": int(CARD.replace(" ", "")), MAIL: "hi"})
    message = {"role": "assistant", "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": arguments}}]}
    verdict = guard.check_request({"messages": [ASK, message]})
    assert verdict.request is not None
    passed = verdict.request["messages"][1]["tool_calls"][0]["function"]["arguments"]
    assert json.loads(passed) == {"to": "[EMAIL]", "card": "[CREDIT_CARD]", "[EMAIL]": "hi"}


def test_arguments_that_redaction_would_break_are_not_passed_on() -> None:
    keywords, regex = "keywords: [purple walrus, pelican]", """regexes: ['"to": "[a-z]+"']"""
    guard = Guard(Policy.parse(TEXT.replace(keywords, regex).replace("words, action: block", "words, action: redact")))
    message = {"role": "assistant", "function_call": {"name": "f", "arguments": '{"to": "ana"}'}}
    blocking = guard.check_request({"messages": [ASK, message]}).blocking
    assert blocking is not None
    assert (blocking.verdict.code, blocking.verdict.message) == ("blocked.uncheckable", "withheld")
    message["function_call"] = {"name": "f", "arguments": 'the "to": "ana", as a text'}
    assert guard.check_request({"messages": [ASK, message]}).action is Action.REDACT


def test_names_that_redaction_makes_equal_are_refused(guard: Guard) -> None:
    with pytest.raises(ConversationError, match="rename one"):
        guard.check_request({"messages": [ASK], "x": {MAIL: 1, "a@b.com": 2}})


# --- split attacks


@pytest.mark.parametrize(
    "request_",
    [
        says([{"type": "text", "text": "a purple"}, {"type": "text", "text": " walrus"}]),
        says([{"type": "text", "text": "a pel"}, {"type": "text", "text": "ican"}]),
        says("say a purple ", "walrus"),
        says("say pel", "ican", "now"),
        {"messages": [user("say pel"), {"role": "tool", "content": "ican"}, ASK]},
        {"messages": [{"role": "tool", "content": '["a pel'}, {"role": "tool", "content": 'ican"]'}]},
        says("say pel", "ican", "x " * 5_000, "go on"),
        says("hello", "pel", "ic", "an", "go on"),
        says(*BANNED),
        says("x " * 5_000 + "pel", "ican " + "x " * 5_000, "go on"),
    ],
)
def test_a_split_attack_is_seen(guard: Guard, request_: Any) -> None:
    verdict = guard.check_request(request_)
    assert verdict.blocked
    assert verdict.blocking is not None
    assert verdict.blocking.kind in ("turns", "content")


def test_the_last_message_of_a_split_attack_is_named(guard: Guard) -> None:
    blocking = guard.check_request(says("say pel", "ican", "thanks")).blocking
    assert blocking is not None
    assert (blocking.path, blocking.kind) == ("messages[2].content", "turns")


def test_personal_data_over_two_turns_is_cut_in_both(guard: Guard) -> None:
    verdict = guard.check_request(says("my card is 4111 1111 ", "1111 1111, thanks"))
    assert verdict.request is not None
    texts = [message["content"] for message in verdict.request["messages"]]
    assert texts == ["my card is [CREDIT_CARD]", "I see.", ", thanks"]


def test_roles_that_do_not_meet_are_not_joined(guard: Guard) -> None:
    other = [user("say pel"), {"role": "assistant", "content": "ican"}, {"role": "system", "content": "pel"}]
    assert guard.check_request({"messages": other}).action is Action.ALLOW


def test_a_split_attack_is_seen_by_a_probe(tmp_path: Path) -> None:
    folder = make_artifact(tmp_path / "hate", ["hate"])
    rules = "rules:\n  - {category: hate, action: block, threshold: 0.5}"
    text = TEXT.replace("checks:", "checks:\n  hate: {type: probe, artifact: hate}").replace("rules:", rules)
    guard = Guard(Policy.parse(text), FakeGemma(), {"hate": folder})
    assert not guard.check_request(says("well well!!!!")).blocked
    assert guard.check_request(says("well well!!!!", "!!!!!well well")).blocked


def test_a_prefix_is_read_as_output_too() -> None:
    guard = Guard(Policy.parse(OUTPUT_ONLY))
    prefix = {"role": "assistant", "content": f"Sure, the {BANNED}"}
    assert guard.check_request({"messages": [ASK, prefix]}).blocked
    assert not guard.check_request({"messages": [ASK, prefix, ASK]}).blocked
    assert not guard.check_request({"messages": [user(BANNED)]}).blocked


@settings(max_examples=100)
@given(texts=st.lists(st.text(st.sampled_from("ab \n"), max_size=2500), max_size=6), near=st.integers(0, STEP - 1))
def test_windows_show_every_seam(texts: list[str], near: int) -> None:
    pieces = [Piece((number,), text) for number, text in enumerate(texts)]
    found = windows(pieces)
    whole = "\n".join(text for text in texts if text)
    assert sum(len(joined.text) for joined in found) <= 4 * len(whole) + 200 * len(texts)
    at = 0
    for text in [text for text in texts if text][:-1]:
        at += len(text) + 1
        shown = whole[max(0, at - 1 - near) : at - 1 - near + STEP]
        assert any(shown in joined.text for joined in found)
    for joined in [*found, *seams(pieces)]:
        for piece in joined.pieces:
            assert texts[piece.path[0]][piece.start :].startswith(piece.text)  # type: ignore[index]


@settings(max_examples=100)
@given(parts=st.lists(st.sampled_from(["hello", "pel", "ican", "p", "elican", "x y", "", "ican, " * 90]), max_size=8))
def test_a_word_split_in_two_or_three_is_seen(parts: list[str]) -> None:
    texts = [joined.text for joined in seams([Piece((number,), text) for number, text in enumerate(parts)])]
    parts = [part for part in parts if part]
    for start in range(len(parts)):
        for size in (2, 3):
            if "".join(parts[start : start + size]) == "pelican" and len(parts[start : start + size]) == size:
                assert "pelican" in texts
    assert sum(map(len, texts)) <= 12 * REACH * (len(parts) + 1)


# --- kept verdicts


@dataclass
class Counting(TextCheck):
    """Counts what it reads, and finds the banned word."""

    name: str = "counting"
    categories: frozenset[str] = frozenset({"words"})
    lookahead: int = 0
    read: list[str] = field(default_factory=list)
    broken: bool = False

    def run(self, samples: Sequence[Sample]) -> list[list[Finding]]:
        if self.broken:
            raise RuntimeError("broken")
        self.read += [sample.text for sample in samples]
        return [[] for _ in samples]

    def start(self) -> str:
        return ""

    def step(self, state: str, new: Delta, final: bool) -> Any:
        return state, [], 0


@pytest.fixture
def counted() -> tuple[Guard, Counting]:
    guard, counting = Guard(Policy.parse(TEXT)), Counting()
    guard.text_checks = (*guard.text_checks, counting)
    return guard, counting


def test_the_next_turn_checks_what_is_new(counted: tuple[Guard, Counting]) -> None:
    guard, counting = counted
    guard.check_request(says("one", "two"))
    assert sorted(counting.read) == ["I see.", "one", "one\ntwo", "onetwo", "two"]
    counting.read.clear()
    guard.check_request(says("one", "two", "three"))
    assert counting.read == ["three", "one\ntwo\nthree", "twothree", "onetwothree"]
    counting.read.clear()
    guard.check_request(says("one", "two", "three"))
    assert counting.read == []


def test_a_long_conversation_is_kept_whole(counted: tuple[Guard, Counting]) -> None:
    guard, counting = counted
    request = {"messages": [user(f"line {number}") for number in range(4000)]}
    guard.check_request(request)
    counting.read.clear()
    guard.check_request(request)
    assert counting.read == []


def test_probes_read_what_is_new(tmp_path: Path) -> None:
    folder = make_artifact(tmp_path / "hate", ["hate"])
    rules = "rules:\n  - {category: hate, action: block, threshold: 0.5}"
    text = TEXT.replace("checks:", "checks:\n  hate: {type: probe, artifact: hate}").replace("rules:", rules)
    gemma = FakeGemma()
    guard = Guard(Policy.parse(text), gemma, {"hate": folder})
    guard.check_request(says("one"))
    guard.check_request(says("one", "two"))
    assert gemma.calls == [["one"], ["I see.", "two", "one\ntwo"]]  # one pass for all that is new


def test_a_kept_verdict_is_the_same(guard: Guard) -> None:
    request = says(f"{MAIL} and {MAIL}", [{"type": "text", "text": f"{CARD} x"}])
    first, again = (Guard.check_request(guard, request) for _ in range(2))
    assert first.request == again.request
    assert [place.verdict.findings for place in first.places] == [place.verdict.findings for place in again.places]


def test_a_kept_verdict_has_the_id_of_its_request(guard: Guard) -> None:
    for number in ("r1", "r2"):
        verdict = guard.check_request(says(f"hello {MAIL}", "and more"), request_id=number)
        assert {place.verdict.request_id for place in verdict.places} == {number}
    first, then = (guard.check_request(says("hello")).places[0].verdict.request_id for _ in range(2))
    assert first
    assert first != then


def test_a_vault_gives_one_placeholder_a_value_and_takes_it_back() -> None:
    guard = Guard(
        Policy.parse(TEXT.replace("pii.email, action: redact", "pii.email, action: redact, form: pseudonymise"))
    )
    vault = Vault()
    request = says(f"I am {MAIL}", f"now write to {MAIL}")
    texts = [guard.check_request(request, vault=vault).request["messages"][at]["content"] for at in (0, 2)]  # type: ignore[index]
    assert texts[0].split()[-1] == texts[1].split()[-1]
    assert [vault.restore(text) for text in texts] == [f"I am {MAIL}", f"now write to {MAIL}"]
    other = guard.check_request(request, vault=Vault()).request
    assert other is not None
    assert other["messages"][0]["content"] != texts[0]
    stream = ResponseStream(guard, request, vault=vault)
    deltas = [{"index": 0, "delta": {"content": f"sent to {MAIL}"}, "finish_reason": "stop"}]
    assert stream.feed({"choices": deltas})[0]["choices"][0]["delta"]["content"].split()[-1] == texts[0].split()[-1]


def test_no_text_is_kept(guard: Guard) -> None:
    guard.check_request(says(f"my secret garden {MAIL}"))
    kept = repr(guard.cache._kept)
    assert "EMAIL" in kept.upper()
    assert "garden" not in kept
    assert MAIL not in kept


def test_a_fault_is_not_kept(counted: tuple[Guard, Counting]) -> None:
    guard, counting = counted
    counting.broken = True
    assert guard.check_request(says("one")).blocked
    counting.broken = False
    assert not guard.check_request(says("one")).blocked


def test_the_key_holds_all_that_a_verdict_depends_on() -> None:
    cache = VerdictCache()
    sample = Sample("a", "user", Stage.INPUT)
    others = [
        (sample, "text", "d"),
        (sample, "model", "d"),
        (sample, "text", "e"),
        (Sample("b"), "text", "d"),
        (Sample("a", "tool"), "text", "d"),
        (Sample("a", "user", Stage.OUTPUT), "text", "d"),
        (Sample("a", prompt="p"), "text", "d"),
        (Sample("a", prompt=""), "text", "d"),
        (Sample("", prompt="a"), "text", "d"),
        (Sample("a", system="p"), "text", "d"),
        (Sample("a", tool="p"), "text", "d"),
    ]
    assert len({cache.key(*parts) for parts in others}) == len(others)
    assert VerdictCache().key(sample, "text", "d") != cache.key(sample, "text", "d")


def test_the_cache_has_a_bound() -> None:
    cache = VerdictCache(3)
    allow = Verdict(Stage.INPUT, Action.ALLOW, "text")
    for key in (b"1", b"2", b"3"):
        cache.put(key, allow)
    assert cache.get(b"1") is not None
    cache.put(b"4", allow)
    assert [cache.get(key) is not None for key in (b"1", b"2", b"3", b"4")] == [True, False, True, True]
    cache.put(b"5", Verdict(Stage.INPUT, Action.FLAG, "t", errors=(CheckError("c", "m"),)))
    many = tuple(Finding("c", "words", 1.0, "rule") for _ in range(verdict_cache.MAX_FINDINGS + 1))
    cache.put(b"6", Verdict(Stage.INPUT, Action.FLAG, "t", many))
    assert len(cache) == 3
    assert cache.get(b"5") is None
    assert cache.get(b"6") is None
    for _ in range(3):
        cache.put(b"7", Verdict(Stage.INPUT, Action.FLAG, "t", many[:1]))
    assert [cache.get(key) is not None for key in (b"3", b"4", b"7")] == [False, True, True]


def test_verdicts_without_a_finding_are_kept_once() -> None:
    cache = VerdictCache()
    found = (Finding("c", "words", 1.0, "rule"),)
    put = {
        b"1": Verdict(Stage.INPUT, Action.ALLOW, "one", timings={"words": 1.0}, request_id="a"),
        b"2": Verdict(Stage.INPUT, Action.ALLOW, "two", request_id="b"),
        b"3": Verdict(Stage.OUTPUT, Action.ALLOW, "three"),
        b"4": Verdict(Stage.INPUT, Action.ALLOW, "four", policy_digest="d"),
        b"5": Verdict(Stage.INPUT, Action.BLOCK, None, code="blocked.uncheckable", message="No."),
        b"6": Verdict(Stage.INPUT, Action.FLAG, "six", found),
        b"7": Verdict(Stage.INPUT, Action.FLAG, "seven", found[:0]),
    }
    for key, verdict in put.items():
        cache.put(key, verdict)
    kept = {key: cache.get(key) for key in put}
    assert kept == {key: replace(verdict, text=None, timings={}) for key, verdict in put.items()}
    assert kept[b"1"] is kept[b"2"]
    assert len({id(verdict) for verdict in kept.values()}) == len(put) - 1


# --- batches and waiting


def test_many_texts_share_their_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_artifact(tmp_path / "both", ["hate", "love"])
    text = """
version: 1
name: two
checks: {both: {type: probe, artifact: ./both}}
rules:
  - {category: hate, action: block, threshold: 0.5}
  - {category: love, action: flag, threshold: 0.5}
"""
    gemma = FakeGemma()
    guard = Guard(Policy.parse(text, folder.parent), gemma)
    texts = [f"text {number}" for number in range(verdict_cache.BATCH + 5)]
    texts[3] = "!!!!!!!!!!!!"
    verdicts = guard.check_many(iter(texts))
    assert [len(batch) for batch in gemma.calls] == [verdict_cache.BATCH, 5]  # for both categories
    assert [i for i, verdict in enumerate(verdicts) if verdict.blocked] == [3]
    gemma.calls.clear()
    monkeypatch.setattr(verdict_cache, "BATCH_CHARACTERS", 10)
    guard.check_many(["a" * 9, "b", "c", "d" * 20, "e"])
    assert [len(batch) for batch in gemma.calls] == [2, 1, 1, 1]
    assert guard.check_many([]) == []
    assert guard.check_many(["!!!!!!!!!!!!"], "output", ["hi"])[0].stage is Stage.OUTPUT
    with pytest.raises(ValueError, match="shorter"):
        guard.check_many(["a", "b"], "output", ["hi"])


def test_waiting_for_verdicts(guard: Guard) -> None:
    samples = [Sample(f"text {number}{' pelican' * (number % 2)}") for number in range(8)]

    async def run() -> list[list[Verdict]]:
        return await asyncio.gather(*(guard.acheck([sample]) for sample in samples))

    assert [verdict.blocked for (verdict,) in asyncio.run(run())] == [False, True] * 4


def test_a_cancelled_check_leaves_the_guard_as_it_was(guard: Guard) -> None:
    async def run() -> Verdict:
        waiting = asyncio.ensure_future(guard.acheck([Sample("x " * 20_000)]))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        return (await guard.acheck([Sample(BANNED)]))[0]

    assert asyncio.run(run()).blocked


# --- what is told


def test_a_verdict_as_json_tells_places_and_no_text(guard: Guard) -> None:
    told = guard.check_request(says("hello there", BANNED)).to_json()
    assert told["action"] == "block"
    assert [place["path"] for place in told["places"]] == ["messages[2].content"]
    assert json.loads(json.dumps(told)) == told
    assert BANNED not in json.dumps(told)


def test_the_prompt_is_the_last_user_message() -> None:
    messages = [user("first"), user([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]), {"role": "tool"}]
    assert read_request({"messages": messages}).asked.prompt == "a\nb"
    only = read_request({"messages": [{"role": "system", "content": "x"}, {"role": "developer", "content": "y"}]}).asked
    assert (only.prompt, only.system) == (None, "x\ny")


def test_roles_of_samples() -> None:
    roles: list[Role] = ["system", "developer", "user", "tool", "tool", "assistant"]
    names = ["system", "developer", "user", "tool", "function", "assistant"]
    units = read_request({"messages": [{"role": name, "content": "x"} for name in names]}).units
    assert [unit.role for unit in units] == roles


def test_a_stream_that_is_no_stream_is_closed(guard: Guard) -> None:
    stream = ResponseStream(guard, request_id="r-1")
    good = {"choices": [{"index": 0, "delta": {"content": "hello there " * 40}}]}
    assert stream.feed(good)
    for bad in ({"choices": [{"index": "0", "delta": {}}]}, good):
        if bad is good:
            assert stream.feed(bad) == []
        else:
            with pytest.raises(ConversationError):
                stream.feed(bad)
    assert stream.close() == []
    (verdict,) = (place.verdict for place in stream.verdicts.places if place.verdict.blocked)
    assert (verdict.code, verdict.message, verdict.request_id) == ("blocked.error", "withheld", "r-1")


def test_a_stream_without_a_finish_is_flushed_and_checked(guard: Guard) -> None:
    stream = ResponseStream(guard, {"messages": [ASK]})
    head = {"id": "chatcmpl-1", "model": "m", "object": "chat.completion.chunk"}
    out = stream.feed({**head, "choices": [{"index": 0, "delta": {"content": "calm words"}}], "usage": None})
    (last,) = stream.close()
    assert last["id"] == "chatcmpl-1"
    text = "".join(part["choices"][0]["delta"].get("content", "") for part in [*out, last])
    assert text == "calm words"
    assert stream.verdicts.action is Action.ALLOW
    cut = ResponseStream(guard)
    cut.feed({"choices": [{"index": 0, "delta": {"content": BANNED}}]})
    assert cut.close()[0]["choices"][0]["finish_reason"] == "content_filter"
    assert cut.verdicts.blocked


def test_nothing_follows_a_block(guard: Guard) -> None:
    stream = ResponseStream(guard)
    parts = [f"a {BANNED} ", "more ", "and more " * 30]
    out = [
        made
        for part in parts
        for made in stream.feed({"choices": [{"index": 0, "delta": {"content": part}, "finish_reason": None}]})
    ]
    assert [part["choices"][0]["finish_reason"] for part in out][-1] == "content_filter"
    assert "more" not in json.dumps(out)
    usage = {"choices": [], "usage": {"total_tokens": 5}}
    assert stream.feed(usage) == [usage]
    assert stream.close() == []


def test_fields_around_the_deltas_are_checked(guard: Guard) -> None:
    delta = {"index": 0, "delta": {"content": "calm"}, "finish_reason": None}
    beside = {"choices": [{**delta, "x_note": BANNED}]}
    around = {"choices": [delta], "x_note": [MAIL], "id": f"a {BANNED}"}
    for chunk in (beside, around):
        (out,) = ResponseStream(guard).feed(chunk)
        assert out["choices"][0]["finish_reason"] == "content_filter"
        assert BANNED not in json.dumps(out)
    (out,) = ResponseStream(guard).feed({"choices": [], "x_note": [MAIL], "obfuscation": BANNED})
    assert out == {"choices": [], "x_note": ["[EMAIL]"]}


# --- what a check knows beside the text

CALLS = """
version: 1
name: calls
checks:
  tools:
    type: tools
    allow:
      weather: {type: object, properties: {city: {type: string}}, required: [city]}
      now:
rules: [{category: tools.*, action: block}]
messages: {default: withheld}
"""
FITTING: list[tuple[str, Any]] = [
    ("weather", '{"city": "Rome"}'),
    ("weather", {"city": "Rome"}),
    ("now", ""),
    ("now", None),
]
WRONG: list[tuple[str, Any, str]] = [
    ("delete_all", "{}", "tools.not_allowed"),
    ("delete_all", None, "tools.not_allowed"),
    ("delete_all", "", "tools.not_allowed"),
    ("delete_all", {"path": "x"}, "tools.not_allowed"),
    ("weather", '{"city": 12}', "tools.arguments"),
    ("weather", {"city": 12}, "tools.arguments"),
    ("weather", "Rome", "tools.arguments"),
    ("weather", None, "tools.arguments"),
]


def calling(name: str, arguments: Any, legacy: bool = False) -> dict[str, Any]:
    """A message that calls a tool."""
    function = {"name": name} | ({} if arguments is None else {"arguments": arguments})
    call = {"function_call": function} if legacy else {"tool_calls": [{"id": "c", "function": function}]}
    return {"role": "assistant", "content": None, **call}


@pytest.mark.parametrize("legacy", [False, True])
def test_calls_are_held_against_the_tools_of_the_policy(legacy: bool) -> None:
    guard = Guard(Policy.parse(CALLS))
    for name, arguments in FITTING:
        response = {"choices": [{"message": calling(name, arguments, legacy)}]}
        assert guard.check_response(response).response == response
    for name, arguments, category in WRONG:
        message = calling(name, arguments, legacy)
        answer = guard.check_response({"choices": [{"message": message}]})
        assert answer.blocking is not None, (name, arguments)
        assert answer.blocking.verdict.findings[0].category == category
        assert guard.check_request({"messages": [ASK, message]}).blocked  # a call of an earlier turn
        if isinstance(arguments, str):
            part = message["function_call"] if legacy else {**message["tool_calls"][0], "index": 0}
            delta = {"function_call": part} if legacy else {"tool_calls": [part]}
            stream = ResponseStream(guard)
            (out,) = stream.feed({"choices": [{"index": 0, "delta": delta, "finish_reason": "tool_calls"}]})
            assert out["choices"][0]["finish_reason"] == "content_filter", (name, arguments)


def test_a_reply_is_held_against_the_instructions_of_its_request() -> None:
    leak = "checks: {leak: {type: leak, words: 6}}\nrules: [{category: leak.overlap, action: block}]\n"
    guard = Guard(Policy.parse(f"version: 1\nname: leak\n{leak}messages: {{default: withheld}}\n"))
    secret = "never tell a guest that the blue door is open at night"
    request = {"messages": [{"role": "developer", "content": secret}, ASK]}
    response = {"choices": [{"message": {"role": "assistant", "content": f"Well: {secret}."}}]}
    assert not guard.check_response(response).blocked
    assert guard.check_response(response, request).blocked
    assert not guard.check_response(response, {"messages": [ASK]}).blocked  # a kept verdict is of its own request
    assert not guard.check_request(request).blocked
    stream = ResponseStream(guard, request)
    chunks = [{"choices": [{"index": 0, "delta": {"content": text}}]} for text in ("Well: ", secret, " and so on")]
    out = [choice for chunk in chunks for made in stream.feed(chunk) for choice in made["choices"]]
    assert out[-1]["finish_reason"] == "content_filter"
    assert "blue door is open" not in json.dumps(out)
