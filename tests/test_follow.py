"""Following a reply that grows elsewhere: the same tokens and verdict however it is cut; bounded; faults are faults."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from guard_helpers import MAIL, FakeGemma, chunk, cuts
from hypothesis import example, given, settings
from hypothesis import strategies as st
from model_helpers import BLOCKS, tiny_guard
from test_gemma_forward import close, counted
from test_gemma_load import one_thread as one_thread
from test_gemma_load import tiny
from test_guard import folder as folder
from test_guard import probe_guard

from safety_kit.chat.response_stream import ResponseStream
from safety_kit.errors import Overloaded
from safety_kit.follow import Follower
from safety_kit.followed_stream import FollowedStream
from safety_kit.gateway import model_thread
from safety_kit.gateway.batching import ModelQueue
from safety_kit.gemma import Capture, Gemma
from safety_kit.gemma.segments import LONGEST, Segmenter
from safety_kit.gemma.tokens import Vocabulary
from safety_kit.gemma.trace import TraceView
from safety_kit.gemma.windows import OVERLAP, WINDOW
from safety_kit.guard import Guard
from safety_kit.policy import Policy
from safety_kit.stream import StreamGuard
from safety_kit.testing import FAMILIES
from safety_kit.types import Action, Sample, Stage, Verdict

CAPTURE = Capture(BLOCKS)
REQUEST = {"messages": [{"role": "user", "content": "tell me of the cat"}]}
pieces = st.sampled_from(
    [
        *(
            "the cat",
            " in",
            " a",
            "hat",
            "there",
            "  ",
            "    ",
            "\n",
            "\n\n\n",
            "\t",
            " \n ",
            "x" * 70,
            "=" * 40,
            "0 1 23",
        ),
        *(
            "é",
            "中文",
            "日本語のテキスト",
            "😀",
            "\ud800",
            "<h1>",
            "> </",
            "</code>",
            "<start_of_turn>user",
            "<0x0A>",
            "▁",
        ),
    ]
)
replies = st.lists(pieces | st.text(max_size=4), max_size=30).map("".join)


# --- cutting where no token can cross


def check_segments(vocabulary: Vocabulary, text: str, places: Sequence[int]) -> None:
    segmenter, segments = Segmenter(vocabulary), []
    fed = 0
    for piece in chunk(text, places):
        segments += segmenter.feed(piece)
        fed += len(piece)
        assert fed - len("".join(segments)) <= LONGEST
    segments += segmenter.close()
    assert "".join(segments) == text
    alone = Segmenter(vocabulary)
    assert segments == alone.feed(text) + alone.close()
    if all(len(segment) < LONGEST for segment in segments):
        ids = [id_ for segment in segments for id_ in vocabulary.content(segment).ids]
        assert tuple(ids) == vocabulary.content(text).ids


@settings(max_examples=300)
@given(text=replies, places=cuts)
def test_segments_have_the_tokens_of_the_whole(text: str, places: list[int]) -> None:
    check_segments(tiny().vocabulary, text, places)


@pytest.mark.slow
def test_segments_of_the_real_vocabulary(embedded: Gemma) -> None:
    @settings(max_examples=1500)
    @given(text=replies | st.text(max_size=80), places=cuts)
    def check(text: str, places: list[int]) -> None:
        check_segments(embedded.vocabulary, text, places)

    check()
    prose = "It was late; a man I did not know sat by the fire. " * 3
    read = Segmenter(embedded.vocabulary).feed(prose)
    assert [len(segment.split()) for segment in read] == [1] * len(read)  # word by word


# --- tokens and activations


def followed(follower: Follower, pieces: Sequence[str]) -> tuple[list[str], dict[int, torch.Tensor]]:
    tokens = [token for piece in pieces for token in follower.feed(piece)] + follower.close()
    hidden = {
        block: torch.cat([states[block] for _, states in tokens] or [torch.empty(0, 32)]) for block in CAPTURE.blocks
    }
    return [text for text, _ in tokens], hidden


@settings(max_examples=40)
@given(text=replies, places=cuts, prompt=st.sampled_from([None, "hi", "the cat " * 300]), chat=st.booleans())
@example(text="  \n the cat", places=[1, 2], prompt=None, chat=False)
def test_any_chunking_gives_the_same_tokens(text: str, places: list[int], prompt: str | None, chat: bool) -> None:
    gemma = tiny(chat=chat)
    texts, hidden = followed(Follower(gemma, CAPTURE, prompt), chunk(text, places))
    assert "".join(texts) == text
    once, states = followed(Follower(gemma, CAPTURE, prompt), [text])
    assert texts == once
    assert not text.strip() or all(close(hidden[block], states[block], 1e-3) for block in BLOCKS)
    if text == text.rstrip() and all(len(s) < LONGEST for s in Segmenter(gemma.vocabulary).feed(text.lstrip() + "x")):
        (views,) = gemma.trace_texts([(prompt, text, "assistant")], CAPTURE)
        assert sum(map(len, views)) == len(hidden[1])
        for view in views:
            assert all(close(hidden[block], view.hidden(block), 1e-3) for block in BLOCKS)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_long_reply_is_read_whole_in_windows(family: str) -> None:
    gemma = tiny(family)
    text = "".join(f"the cat {n} in a hat\n" for n in range(90)).rstrip()
    (views,) = gemma.trace_texts([("hi", text, "assistant")], CAPTURE)
    assert len(views) > 3
    follower = Follower(gemma, CAPTURE, "hi")
    with counted(gemma) as work:
        texts, hidden = followed(follower, [text[at : at + 97] for at in range(0, len(text), 97)])
    assert "".join(texts) == text
    expected = [views[0].hidden(3), *(view.hidden(3)[OVERLAP:] for view in views[1:])]
    assert close(hidden[3], torch.cat(expected), 2e-3)
    assert len(follower._window) <= WINDOW
    assert follower._cache is not None
    assert follower._cache.get_seq_length() <= WINDOW + 60
    assert work[3] < len(hidden[3]) * (WINDOW + 60) / (WINDOW - OVERLAP) + WINDOW
    assert work[4] == 0


# --- streams


class FakeFollower:
    """Each character is a token, final once another follows; its activations are exact: rounding decides nothing."""

    def __init__(self) -> None:
        self.open = ""

    def feed(self, text: str) -> list[tuple[str, Mapping[int, Any]]]:
        ready, self.open = (self.open + text)[:-1], (self.open + text)[-1:]
        return [(char, FakeGemma().hidden(char, (1, 2))) for char in ready]

    def close(self) -> list[tuple[str, Mapping[int, Any]]]:
        return [(char, FakeGemma().hidden(char, (1, 2))) for char in self.open]

    def trace(self, text: str) -> TraceView:
        return FakeGemma().trace(text, (1, 2))


def streamed(guard: Guard, pieces: Sequence[str], follow: Any) -> tuple[str, Verdict, list[str]]:
    """What a stream released in all, its content's verdict, and the released pieces before its end."""
    flow = ResponseStream(guard, REQUEST, follow=follow)
    out = [flow.feed({"choices": [{"index": 0, "delta": {"content": piece}}]}) for piece in pieces]
    out.append(flow.feed({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}))
    texts = ["".join(c["delta"].get("content") or "" for chunk in chunks for c in chunk["choices"]) for chunks in out]
    verdict = next(place.verdict for place in flow.verdicts.places if place.kind == "content")
    return "".join(texts), verdict, texts[:-1]


@settings(max_examples=80)
@given(text=st.text("ab!. ", max_size=80), mail=st.booleans(), places=cuts)
@example(text="!" * 30, mail=True, places=[3])
def test_a_followed_stream_decides_as_the_whole(folder: Path, text: str, mail: bool, places: list[int]) -> None:
    guard = probe_guard(folder)
    text = f"{text} {MAIL} ." if mail else f"{text}."
    released, verdict, _ = streamed(guard, chunk(text, places), lambda prompt: FakeFollower())
    again, other, _ = streamed(guard, list(text), lambda prompt: FakeFollower())
    assert (released, verdict.action, verdict.findings) == (again, other.action, other.findings)
    body = {"choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}]}
    whole = guard.check_response(body, REQUEST, follow=lambda prompt: FakeFollower())
    assert whole.action is verdict.action
    if not verdict.blocked:
        assert released == whole.response["choices"][0]["message"]["content"]


def test_what_is_proven_safe_leaves_before_the_end(folder: Path) -> None:
    guard = probe_guard(folder)
    text = "It was late, and a man sat by the fire. " * 8
    _, verdict, before = streamed(guard, list(text), lambda prompt: FakeFollower())
    assert verdict.action is Action.ALLOW
    assert len("".join(before)) > len(text) - 60
    _, _, withheld = streamed(guard, list(text), None)
    assert "".join(withheld) == ""


@pytest.mark.parametrize(("on_error", "action"), [("block", Action.BLOCK), ("flag", Action.REDACT)])
@pytest.mark.parametrize("after", [0, 30])
def test_a_follower_that_fails_is_a_fault(folder: Path, on_error: str, action: Action, after: int) -> None:
    class Broken(FakeFollower):
        fed = 0

        def feed(self, text: str) -> list[tuple[str, Mapping[int, Any]]]:
            self.fed += len(text)
            if self.fed > after:
                raise RuntimeError(f"could not read {text}")
            return super().feed(text)

    guard = probe_guard(folder)
    text = f"the quick brown fox {MAIL} jumps over the lazy dog"
    released, verdict, _ = streamed(with_on_error(guard, on_error), list(text), lambda prompt: Broken())
    assert verdict.action is action
    assert [(error.check, error.message) for error in verdict.errors] == [("probe", "failed with RuntimeError")]
    if on_error == "flag":
        assert released == text.replace(MAIL, "EMAIL_1")
    else:
        assert text.startswith(released.removesuffix(guard.message(verdict)).rstrip())
        assert len(released) < after + 80


def with_on_error(guard: Guard, on_error: str) -> Guard:
    guard.policy = replace(guard.policy, on_error=Action[on_error.upper()])
    return guard


def test_no_room_is_no_fault_of_the_text(folder: Path) -> None:
    class Full(FakeFollower):
        def feed(self, text: str) -> list[tuple[str, Mapping[int, Any]]]:
            raise Overloaded("no room")

    with pytest.raises(Overloaded):
        streamed(probe_guard(folder), ["hello there"], lambda prompt: Full())


# --- several streams share the model


@pytest.fixture
def queue() -> Iterator[ModelQueue]:
    made = ModelQueue(tiny())
    yield made
    made.close()


TEXTS = [f"the cat number {n} in a hat, " * (1 + 7 * n) + "and then." for n in range(8)]


def test_streams_side_by_side_are_read_as_alone(queue: ModelQueue) -> None:
    through = queue.follower(CAPTURE)
    with ThreadPoolExecutor(8) as pool:
        found = list(
            pool.map(lambda text: followed(through("hi"), [text[i : i + 9] for i in range(0, len(text), 9)]), TEXTS)
        )  # type: ignore[arg-type]
    for (texts, hidden), text in zip(found, TEXTS, strict=True):
        expected, states = followed(Follower(tiny(), CAPTURE, "hi"), [text])
        assert texts == expected
        assert all(close(hidden[block], states[block], 2e-3) for block in BLOCKS)


def test_a_fault_stays_with_the_stream_it_comes_from(queue: ModelQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    poison = tiny().vocabulary.content("zqz").ids[:1]
    run_rows = model_thread.run_rows

    def fail(trunk: Any, rows: Any, *args: Any, **options: Any) -> Any:
        if any(set(poison) & set(row.ids) for row in rows):
            run_rows(trunk, rows, (0,), through=False)  # half-way: the first block's caches are extended
            raise torch.OutOfMemoryError
        return run_rows(trunk, rows, *args, **options)

    monkeypatch.setattr(model_thread, "run_rows", fail)
    follow = queue.follower(CAPTURE)

    def read(text: str) -> Any:
        try:
            return followed(follow("hi"), [text[i : i + 9] for i in range(0, len(text), 9)])  # type: ignore[arg-type]
        except RuntimeError as error:
            return error

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(read, [*TEXTS, "the cat zqz in " * 40]))
    assert isinstance(found.pop(), RuntimeError)
    for (texts, hidden), text in zip(found, TEXTS, strict=True):
        expected, states = followed(Follower(tiny(), CAPTURE, "hi"), [text])
        assert texts == expected
        assert all(close(hidden[block], states[block], 2e-3) for block in BLOCKS)
    assert queue.thread.alive


def test_a_followed_stream_through_the_queue_is_the_whole(queue: ModelQueue, tmp_path: Path) -> None:
    for threshold in (0.05, 0.9):
        guard = tiny_guard(tmp_path / "hate", queue, threshold, stages="[output]")
        assert guard.capture is not None
        follow = queue.follower(guard.capture)
        for text in TEXTS[:4]:
            released, verdict, _ = streamed(guard, list(text), follow)
            sample = Sample(text, "assistant", Stage.OUTPUT, "tell me of the cat")
            (whole,) = guard.check([sample])
            assert verdict.action is whole.action is (Action.BLOCK if threshold < 0.5 else Action.ALLOW)
            assert verdict.blocked or released == text


@pytest.mark.slow
def test_the_default_policy_follows(embedded: Gemma) -> None:
    guard = Guard(Policy.load("default"), embedded)
    assert guard.capture is not None
    harmless = (
        "Give it plenty of light, water it when the soil is dry, and pick the upper leaves first.\n\n"
        "Write to gardener@example.org if it does not grow bushy instead of tall. " * 6
    )
    hateful = "Well. I hate those people, they are vermin and should all be thrown out and beaten. " * 4
    for text in (harmless, hateful):
        stream = StreamGuard(guard, "How do I keep basil alive?")
        follower = Follower(embedded, guard.capture, "How do I keep basil alive?")
        flow = FollowedStream(stream, follower)
        released = "".join(flow.feed(text[at : at + 5]).text for at in range(0, len(text), 5))
        early, last = len(released), flow.close()
        trace = Follower(embedded, guard.capture, "How do I keep basil alive?").trace(text)
        sample = Sample(text, "assistant", Stage.OUTPUT, "How do I keep basil alive?", trace)
        (whole,) = guard.check([sample])
        assert last.verdict is not None
        assert last.verdict.action is whole.action
        if not whole.blocked:
            assert released + last.text == whole.text
            assert early > len(text) / 2
