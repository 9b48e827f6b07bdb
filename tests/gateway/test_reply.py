"""The pieces of a streamed reply: activations that come with tokens, placeholders across chunks, reading ahead."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from guard_helpers import FakeGemma, chunk, cuts, make_artifact
from hypothesis import given
from hypothesis import strategies as st

from safety_kit.chat.response_stream import ResponseStream
from safety_kit.chat.restore import DeltaRestorer, restored
from safety_kit.gateway.backends import Chunk
from safety_kit.gateway.gather import MOST, Gathered
from safety_kit.gateway.reply import Reply
from safety_kit.guard import Guard
from safety_kit.policy import Policy
from safety_kit.vault import Vault

TAUGHT = """
version: 1
name: taught
checks: {shouting: {type: probe, artifact: hate}}
rules: [{category: hate, action: block, threshold: 0.6}]
"""


def body(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


@pytest.fixture(scope="module")
def guard(tmp_path_factory: pytest.TempPathFactory) -> Guard:
    folder: Path = make_artifact(tmp_path_factory.mktemp("classifiers") / "hate", ["hate"])
    return Guard(Policy.parse(TAUGHT), FakeGemma(), {"hate": folder})  # type: ignore[arg-type]


def read(guard: Guard, text: str, *, activations: bool) -> tuple[list[str], Reply]:
    """The texts that are released chunk by chunk, a token (here a character) at a time."""
    reply = Reply(ResponseStream(guard), None, 1)
    rows = FakeGemma().hidden(text, (1, 2))
    deltas = [Chunk(body({"role": "assistant", "content": ""}))]
    for i, char in enumerate(text):
        hidden = {block: rows[block][i : i + 1] for block in rows} if activations else None
        deltas.append(Chunk(body({"content": char}), hidden))
    out = [reply.feed([delta]) for delta in deltas]
    out.append([*reply.feed([Chunk(body({}, "stop"))]), *reply.close(), reply.last({})])
    return ["".join(c["delta"].get("content", "") for b in bodies for c in b["choices"]) for bodies in out], reply


def test_with_activations_a_stream_flows_and_without_it_waits_for_its_end(guard: Guard) -> None:
    text = "quite calm and rather long, " * 3
    flowing, reply = read(guard, text, activations=True)
    withheld, late = read(guard, text, activations=False)
    assert "".join(flowing) == "".join(withheld) == text
    assert "".join(flowing[:-1]) != ""
    assert "".join(withheld[:-1]) == ""
    assert reply.held < late.held == len(text)


@pytest.mark.parametrize("activations", [False, True])
def test_a_taught_category_blocks_a_stream(guard: Guard, activations: bool) -> None:
    text = "calm " * 4 + "!" * 40
    released, reply = read(guard, text, activations=activations)
    assert reply.done
    assert reply.blocked is not None
    assert reply.blocked.code == "blocked.hate"
    assert "!" * 20 not in "".join(released)


def test_activations_that_stop_coming_block(guard: Guard) -> None:
    reply = Reply(ResponseStream(guard), None, 1)
    hidden = FakeGemma().hidden("a", (1, 2))
    reply.feed([Chunk(body({"content": "a"}), hidden), Chunk(body({"content": "b"}))])
    assert reply.blocked is not None
    assert reply.blocked.code == "blocked.error"


VALUES = ["ana@example.com", 'a "quoted" \\ value', "Größe"]


@given(st.lists(st.sampled_from(["word ", "<", "<EMAIL_", "0", "1", "2"]), max_size=10), cuts, st.booleans())
def test_a_stream_is_restored_as_its_whole_is(parts: list[str], places: list[int], ends: bool) -> None:
    vault = Vault()
    made = [vault.placeholder("email", value, "user") for value in VALUES]
    text = "".join(made[int(part)] if part.isdigit() else part for part in parts)
    restorer = DeltaRestorer(vault)
    chunks = [restorer.feed(body({"content": piece})) for piece in chunk(text, places)]
    chunks += [restorer.feed(body({}, "stop"))] if ends else []
    chunks += restorer.close()
    released = "".join(c["delta"].get("content", "") for one in chunks for c in one["choices"])
    assert released == vault.restore(text)


@pytest.mark.parametrize("value", VALUES)
def test_a_call_stays_json_when_it_is_restored(value: str) -> None:
    vault = Vault()
    arguments = json.dumps({"to": f"<{vault.placeholder('email', value, 'user')}>", "n": 1})
    choice = {"index": 0, "message": {"tool_calls": [{"function": {"name": "send", "arguments": arguments}}]}}
    (call,) = restored(choice, vault)["message"]["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == {"to": f"<{value}>", "n": 1}


# --- reading ahead


class Source:
    """Numbers, then perhaps a fault; counts what was taken and notes that it was closed."""

    def __init__(self, count: int, error: Exception | None = None) -> None:
        self.count, self.error, self.taken, self.closed = count, error, 0, False

    async def __aiter__(self) -> AsyncIterator[int]:
        try:
            for number in range(self.count):
                self.taken += 1
                yield number
                await asyncio.sleep(0)
            if self.error is not None:
                raise self.error
        finally:
            self.closed = True


def run(source: Source, pause: int) -> tuple[list[list[int]], Exception | None]:
    async def reading() -> tuple[list[list[int]], Exception | None]:
        gathered = Gathered(aiter(source))
        groups: list[list[int]] = []
        try:
            async for group in gathered:
                groups.append(group)
                for _ in range(pause):
                    await asyncio.sleep(0)
        except RuntimeError as error:
            return groups, error
        finally:
            await gathered.close()
        return groups, None

    return asyncio.run(reading())


@given(st.integers(0, 300), st.integers(0, 200), st.booleans())
def test_all_that_came_is_handed_over_in_order_and_then_the_fault(count: int, pause: int, fails: bool) -> None:
    source = Source(count, RuntimeError("cut") if fails else None)
    groups, error = run(source, pause)
    assert [number for group in groups for number in group] == list(range(count))
    assert all(0 < len(group) <= MOST for group in groups)
    assert (error is not None) == fails
    assert source.closed


def test_a_reader_that_does_not_come_back_holds_the_source_up() -> None:
    source = Source(10_000)

    async def reading() -> None:
        gathered = Gathered(aiter(source))
        await gathered.begin()
        for _ in range(500):
            await asyncio.sleep(0)
        assert source.taken == MOST
        await gathered.close()
        assert len(await anext(gathered)) == MOST
        with pytest.raises(asyncio.CancelledError):  # what was cut short is not taken for an end
            await anext(gathered)

    asyncio.run(reading())
    assert source.closed
