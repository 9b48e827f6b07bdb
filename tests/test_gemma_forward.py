"""`Gemma.forward` and `trace_texts`: equal to plain transformers, no more work than is asked for, every token read."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_gemma_load import one_thread as one_thread
from test_gemma_load import plain, tiny

from safety_kit.errors import UserError
from safety_kit.gemma import Capture, Gemma, Tokens, windows
from safety_kit.gemma.windows import OVERLAP, WINDOW
from safety_kit.testing import FAMILIES
from safety_kit.types import Message

ALL = tuple(range(6))


def tokens_of(length: int, seed: int = 0) -> Tokens:
    """Random ids of a tiny Gemma, bos first."""
    drawn = torch.randint(20, 380, (length,), generator=torch.Generator().manual_seed(seed)).tolist()
    return Tokens((2, *drawn[1:])[:length], ((0, 0),) * length)


@contextmanager
def counted(gemma: Gemma) -> Iterator[dict[int, int]]:
    """How many tokens (padding included) go through each block."""
    seen = dict.fromkeys(range(gemma.n_blocks), 0)

    def count(index: int) -> Any:
        def hook(_module: Any, args: Any) -> None:
            seen[index] += math.prod(args[0].shape[-3:-1]) if args[0].ndim == 3 else args[0].shape[1] * args[0].shape[2]

        return hook

    handles = [block.register_forward_pre_hook(count(index)) for index, block in enumerate(gemma.trunk.blocks)]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def close(left: torch.Tensor, right: torch.Tensor, at_most: float = 1e-5) -> bool:
    """Whether two tensors differ by no more than this, relative to what they hold."""
    return left.shape == right.shape and bool(
        (left - right).abs().max() <= at_most * max(1.0, float(right.abs().max()))
    )


# --- the same as plain transformers


@pytest.mark.parametrize("attn", [None, "eager"], ids=["default", "eager"])
@pytest.mark.parametrize("length", [1, 15, 130])  # the tiny configs' sliding window is 16
@pytest.mark.parametrize("family", FAMILIES)
def test_forward_equals_plain_transformers(family: str, length: int, attn: Any) -> None:
    text = tokens_of(length, seed=length)
    (trace,) = tiny(family, attn=attn).forward([text], Capture(ALL, "all"))
    reference = plain(family, attn)
    with torch.no_grad():
        expected = reference(torch.tensor([text.ids]), output_hidden_states=True, use_cache=False)
    assert trace.logits is not None
    assert trace.logits.dtype == torch.float32
    assert (trace.logits - expected.logits[0]).abs().max() < 1e-5
    streams = [states[0] if states.ndim == 4 else states for states in expected.hidden_states]  # Gemma 3n has four
    for block in ALL[:-1]:  # transformers' last one comes after the final norm
        assert trace.hidden[block].shape == (length, 32)
        assert close(trace.hidden[block], streams[block + 1][0])
    if family != "gemma3n_text":  # and there after the streams are joined
        with torch.no_grad():
            assert close(tiny(family).trunk.decoder.norm(trace.hidden[5]), streams[-1][0])


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "gemma2"])  # which has no sdpa
def test_eager_and_sdpa_agree(family: str) -> None:
    text = tokens_of(80)
    one, other = (tiny(family, attn=attn).forward([text], Capture(ALL, "all"))[0] for attn in ("eager", "sdpa"))
    assert one.logits is not None
    assert other.logits is not None
    assert close(one.logits, other.logits, 1e-3)
    assert all(close(one.hidden[block], other.hidden[block], 1e-3) for block in ALL)


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=6)
@given(
    lengths=st.lists(st.integers(0, 40), max_size=7),
    budget=st.integers(1, 160),
    blocks=st.sets(st.integers(0, 5)),
    logits=st.sampled_from(["none", "last", "all"]),
)
def test_a_batch_is_its_texts_one_by_one(
    family: str, lengths: list[int], budget: int, blocks: set[int], logits: Any
) -> None:
    gemma, capture = tiny(family), Capture(tuple(blocks), logits)
    texts = [tokens_of(length, seed) for seed, length in enumerate(lengths)]
    together = gemma.forward(texts, capture, token_budget=budget)
    assert [trace.ids for trace in together] == [text.ids for text in texts]
    for text, trace in zip(texts, together, strict=True):
        (alone,) = gemma.forward([text], capture)
        assert trace.offsets == text.offsets
        assert set(trace.hidden) == set(alone.hidden) == (blocks if len(text) else set())
        assert all(close(trace.hidden[block], alone.hidden[block]) for block in trace.hidden)
        if logits == "none" or not len(text):
            assert trace.logits is None
        else:
            assert trace.logits is not None
            assert alone.logits is not None
            assert len(trace.logits) == (1 if logits == "last" else len(text))
            assert close(trace.logits, alone.logits)


def test_no_batch_exceeds_its_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    gemma, shapes = tiny(), []
    run = gemma.trunk.run
    monkeypatch.setattr(
        gemma.trunk, "run", lambda ids, *rest, **more: (shapes.append(ids.shape), run(ids, *rest, **more))[1]
    )
    gemma.forward([tokens_of(n) for n in (3, 50, 7, 200, 9, 1, 30, 30)], Capture((0,)), token_budget=100)
    assert all(rows * width <= 100 or rows == 1 for rows, width in shapes)
    assert max(rows for rows, _ in shapes) > 1
    assert sum(rows * width for rows, width in shapes) < 400  # sorted by length: 330 tokens and little padding


# --- only as much work as is asked for


@pytest.mark.parametrize("family", FAMILIES)
def test_it_stops_after_the_top_block(family: str) -> None:
    gemma = tiny(family)
    with counted(gemma) as seen:
        gemma.forward([tokens_of(10)], Capture((3, 1)))
    assert seen == {0: 10, 1: 10, 2: 10, 3: 10, 4: 0, 5: 0}
    with counted(gemma) as seen:
        gemma.forward([tokens_of(10)], Capture((1,), "last"))
    assert set(seen.values()) == {10}
    with counted(gemma) as seen:
        assert gemma.forward([tokens_of(10)], Capture())[0].hidden == {}
    assert set(seen.values()) == {0}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_output_matrix_is_multiplied_only_when_asked(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    gemma, rows = tiny(family), []
    handle = gemma.model.get_output_embeddings().register_forward_pre_hook(
        lambda _, args: rows.append(args[0].shape[0])
    )
    try:
        gemma.forward([tokens_of(20), tokens_of(9)], Capture(ALL))
        assert rows == []
        gemma.forward([tokens_of(20), tokens_of(9)], Capture((), "last"))
        assert rows == [1, 1]
    finally:
        handle.remove()
    monkeypatch.setattr(gemma.trunk, "logits", lambda _: pytest.fail("the output matrix was multiplied"))
    gemma.trace_texts([(None, "the cat", "user")], Capture((2,)))


def test_no_hook_stays() -> None:
    gemma = tiny()
    gemma.forward([tokens_of(5)], Capture((2,)))
    with pytest.raises(IndexError):  # an id that the model does not have
        gemma.forward([Tokens((99_999,), ((0, 0),))], Capture((2,)))
    assert not any(block._forward_hooks for block in gemma.trunk.blocks)
    assert gemma.forward([tokens_of(5)], Capture((5,)))[0].hidden[5].shape == (5, 32)


def test_captured_activations_are_the_trace_s_own() -> None:
    """A view into the batch's tensor would keep the whole batch alive."""
    short, _ = tiny().forward([tokens_of(2), tokens_of(60)], Capture((1,)))
    assert short.hidden[1].untyped_storage().nbytes() == 2 * 32 * 4
    assert not short.hidden[1].requires_grad


# --- bad input


def test_nothing_in_nothing_out() -> None:
    gemma = tiny()
    assert gemma.forward([], Capture((1,))) == []
    (trace,) = gemma.forward([Tokens((), ())], Capture((1,), "all"))
    assert (trace.ids, trace.hidden, trace.logits) == ((), {}, None)
    assert gemma.trace_texts([], Capture((1,))) == []


@pytest.mark.parametrize("block", [6, 99, -1])
def test_a_block_that_is_not_there(block: int) -> None:
    gemma = tiny()
    with pytest.raises(UserError, match=rf"has blocks 0 to 5; block {block} was asked for"):
        gemma.forward([tokens_of(3)], Capture((1, block)))
    with pytest.raises(UserError, match=f"block {block}"):
        gemma.prefill(gemma.render([Message("user", "hi")]), Capture((block,)))


def test_a_text_longer_than_the_context() -> None:
    gemma = tiny()
    with pytest.raises(UserError, match=r"has 4097 tokens; .* reads at most 4096"):
        gemma.forward([tokens_of(3), tokens_of(4097)], Capture((1,)))
    assert gemma.forward([tokens_of(4096)], Capture((0,)))[0].hidden[0].shape == (4096, 32)


def test_threads_do_not_mix_their_activations() -> None:
    gemma = tiny()
    jobs = [(tokens_of(3 + 5 * n, n), Capture((n % 6, (n * 5) % 6), "last" if n % 3 else "none")) for n in range(24)]
    expected = [gemma.forward([text], capture)[0] for text, capture in jobs]
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda job: gemma.forward([job[0]], job[1])[0], jobs))
    for trace, right in zip(made, expected, strict=True):
        assert trace.ids == right.ids
        assert set(trace.hidden) == set(right.hidden)
        assert all(torch.equal(trace.hidden[block], right.hidden[block]) for block in right.hidden)
        assert (trace.logits is None) == (right.logits is None)
        assert right.logits is None or (trace.logits is not None and torch.equal(trace.logits, right.logits))


# --- texts where they stand

ODD = {
    "plain": "the cat in the hat",
    "white space around": "  \n\t the cat  \n ",
    "nul": "a\x00b\x00",
    "lone surrogates": "\ud800the\udfff cat \ud83d",
    "emoji": "😀👨\u200d👩\u200d👧 🇩🇪",
    "right to left": "مرحبا بالعالم \u202eabc",
    "combining": "e\u0301u\u0308" * 9,
    "control tokens": "<bos>a<start_of_turn>user\nb<end_of_turn><unused0>",
    "one": "x",
    "the space sign": "a▁b ▁",
    "long": "the cat sat in the hat and an inner thing é\n" * 40,
    "long and odd": "é😀 \u202e中 the\x00" * 60,
}


def check_views(gemma: Gemma, text: str, views: list[Any]) -> None:
    """Every character is covered, in order, and each token is what its span of the raw text says."""
    inner = range(len(text) - len(text.lstrip()), len(text.rstrip()))
    clean = "".join("\ufffd" if "\ud800" <= char <= "\udfff" else char for char in text)
    covered: set[int] = set()
    for number, view in enumerate(views):
        assert 0 < len(view) <= WINDOW
        assert len(view.offsets) == len(view) == len(view.hidden(2))
        pieces = gemma.vocabulary.tokenizer.convert_ids_to_tokens(view.trace.ids[view.start : view.stop])
        spans = list(zip(pieces, view.offsets, strict=True))
        if not number and spans[0][0] == "▁" and not text[: spans[0][1][1]].strip():
            del spans[0]  # the space after "User:" is no part of the text
        for piece, (start, stop) in spans:
            assert 0 <= start < stop <= len(text)
            covered.update(range(start, stop))
            assert not start < inner.start < stop or start == inner.start - 1
            if piece.startswith("<0x"):
                assert int(piece[3:5], 16) in clean[start:stop].encode()
            else:
                # The first one may span white space before the text, where that stands for the space after "User:".
                assert piece.replace("▁", " ").strip() == clean[start:stop].replace("▁", " ").strip()
        assert not any(map(gemma.vocabulary.is_control, view.trace.ids[view.start : view.stop]))
        assert list(view.offsets) == sorted(view.offsets)
    assert covered >= set(inner), sorted(set(inner) - covered)[:5]
    assert all(text[i].isspace() for i in covered - set(inner))


CASES = [(name, chat, "user") for name in ODD for chat in (True, False)]
CASES += [("white space around", chat, role) for chat in (True, False) for role in ("assistant", "system", "tool")]


@pytest.mark.parametrize(("name", "chat", "role"), CASES)
def test_views_cover_the_whole_text(name: str, chat: bool, role: Any) -> None:
    gemma, text = tiny(chat=chat), ODD[name]
    (views,) = gemma.trace_texts([("a prompt" if role == "assistant" else None, text, role)], Capture((2,)))
    check_views(gemma, text, views)
    assert (len(views) == 1) == (len(text) < 400)


@settings(max_examples=40)
@given(text=st.text(st.sampled_from("ab the<>▁\n\té😀\ud800\x00\u202e\u0301"), max_size=60), chat=st.booleans())
def test_views_of_any_text(text: str, chat: bool) -> None:
    gemma = tiny(chat=chat)
    (views,) = gemma.trace_texts([(None, text, "user")], Capture((2,)))
    assert bool(views) == bool(text.strip())
    check_views(gemma, text, views)


@pytest.mark.parametrize("text", ["", " ", "\n\t  \n"])
def test_a_text_without_tokens_has_no_view(text: str) -> None:
    gemma = tiny(chat=False)
    got = gemma.trace_texts([(None, "a", "user"), (None, text, "user"), (text, "b", "assistant")], Capture((1,)))
    assert [len(views) for views in got] == [1, 0, 1]


@pytest.mark.parametrize("chat", [True, False], ids=["chat", "plain"])
def test_a_view_holds_what_the_prefill_sees(chat: bool) -> None:
    gemma = tiny(chat=chat)
    context = [Message("system", "be kind"), Message("user", "hello"), Message("assistant", "yes ?")]
    messages = [*context, Message("user", "the prompt"), Message("assistant", "in the hat")]
    items: list[Any] = [("the prompt", "in the hat", "assistant"), (None, "the prompt", "user")]
    reply, prompt = (views[0] for views in gemma.trace_texts(items, Capture((1, 4)), context=context))
    whole = gemma.prefill(gemma.render(messages), Capture((1, 4)))
    for view, place in ((reply, whole.prompt.ranges[-1]), (prompt, whole.prompt.ranges[-2])):
        seen = whole.trace.view(*place)
        assert view.trace.ids[: view.stop] == whole.trace.ids[: place[1]]
        assert view.offsets == seen.offsets
        assert close(view.hidden(4), seen.hidden(4))
        assert close(view.hidden(1), seen.hidden(1))
    (bare,) = gemma.trace_texts([items[0]], Capture((1, 4)))
    assert bare[0].offsets == reply.offsets
    assert not close(bare[0].hidden(4), reply.hidden(4), 1e-3)  # the context was read


def test_windows_overlap_and_each_knows_where_it_stands() -> None:
    gemma = tiny()
    text = "the cat in the hat " * 150
    (views,) = gemma.trace_texts([(None, text, "user")], Capture((0,)), context=[Message("system", "be kind")])
    assert len(views) > 3
    head = views[0].trace.ids[: views[0].start]
    all_ids = gemma.vocabulary.content(text.strip()).ids
    at = 0
    for view in views:
        ids = view.trace.ids
        assert ids[: view.start] == head
        assert ids[view.start :] == all_ids[at : at + len(view)]
        last = at + len(view) == len(all_ids)
        assert last or len(view) == WINDOW
        at += WINDOW - OVERLAP
    assert last


def test_a_long_context_is_cut_to_what_stands_nearest() -> None:
    gemma = tiny()
    context = [Message("user", "the cat " * 400), Message("assistant", "well")]
    (views,) = gemma.trace_texts([(None, "a hat", "user")], Capture((0,)), context=context)
    ids = views[0].trace.ids
    assert views[0].start == WINDOW + 1
    assert ids[0] == 2  # bos
    whole = gemma.render([*context, Message("user", "a hat")])
    assert ids[1:] == whole.tokens.ids[whole.ranges[-1][0] - WINDOW : whole.ranges[-1][1]]


def test_work_is_linear_in_the_text_s_length() -> None:
    gemma = tiny()
    work = {}
    for letters in (2_000, 20_000):
        text = "x9" * (letters // 2)
        with counted(gemma) as seen:
            (views,) = gemma.trace_texts([(None, text, "user")], Capture((0,)))
        work[letters] = seen[0]
        assert seen[0] == sum(len(view.trace.ids) for view in views)  # equal windows: no padding but in the last batch
        assert views[-1].offsets[-1][1] == len(text)
    assert work[20_000] < 20_000 * (WINDOW + 20) / (WINDOW - OVERLAP) + 2 * WINDOW
    assert work[2_000] < 2_000 * (WINDOW + 20) / (WINDOW - OVERLAP) + 2 * WINDOW


def test_of_a_long_text_a_few_windows_are_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    gemma, forward = tiny(), Gemma.forward
    items: list[Any] = [(None, "the cat in the hat " * 900, "user"), (None, "a hat", "user"), (None, "", "user")]
    whole = gemma.trace_texts(items, Capture((1, 3)))
    alive: list[weakref.ref[torch.Tensor]] = []
    calls = []

    def spy(self: Gemma, texts: Any, *rest: Any, **options: Any) -> Any:
        assert not any(ref() is not None for ref in alive)
        calls.append(sum(map(len, texts)))
        traces = forward(self, texts, *rest, **options)
        alive.extend(weakref.ref(states) for trace in traces for states in trace.hidden.values())
        return traces

    monkeypatch.setattr(Gemma, "forward", spy)
    monkeypatch.setattr(windows, "TRACED", 2048)
    read = gemma.read_texts(items, Capture((1, 3)), lambda index, view: (index, view.hidden(3).sum().item(), len(view)))
    assert len(calls) > 4
    assert max(calls) <= 2048
    for index, (views, made) in enumerate(zip(whole, read, strict=True)):
        assert [(index, len(view)) for view in views] == [(i, tokens) for i, _, tokens in made]
        for view, (_, total, _) in zip(views, made, strict=True):
            assert total == pytest.approx(view.hidden(3).sum().item(), rel=1e-4, abs=1e-3)


def test_short_texts_are_read_in_one_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    gemma, forward = tiny(), Gemma.forward
    calls = []
    monkeypatch.setattr(Gemma, "forward", lambda self, *rest, **more: calls.append(1) or forward(self, *rest, **more))
    gemma.read_texts([(None, f"the cat {n}", "user") for n in range(64)], Capture((1,)), lambda *_: None)
    assert len(calls) == 1


def test_many_texts_of_many_lengths_keep_their_order() -> None:
    gemma = tiny()
    texts = [f"{'the cat ' * (n * 37 % 101)}{n}" for n in range(40)]
    got = gemma.trace_texts([(None, text, "user") for text in texts], Capture((0,)))
    for text, views in zip(texts, got, strict=True):
        assert gemma.vocabulary.decode(views[-1].trace.ids[views[-1].start :]).endswith(text[-20:])
        check_views_order(text, views)


def check_views_order(text: str, views: list[Any]) -> None:
    assert views[0].offsets[0][0] == 0
    assert views[-1].offsets[-1][1] == len(text)


def test_capture_union() -> None:
    assert Capture((3, 1), "last") | Capture((2, 1)) == Capture((1, 2, 3), "last")
    assert (Capture() | Capture((), "all")).logits == "all"
    assert Capture((0,), "none") | Capture((0,), "none") == Capture((0,))


def test_the_embedded_gemma_equals_plain_transformers(embedded: Gemma) -> None:
    text = embedded.encode("The quick brown fox jumps over the lazy dog, and 😀 looks on.\n\nWhy?")
    (trace,) = embedded.forward([text], Capture((0, 8, 16), "all"))
    with torch.no_grad():
        expected = embedded.model(torch.tensor([text.ids]), output_hidden_states=True, use_cache=False)
    assert trace.logits is not None
    assert (trace.logits - expected.logits[0]).abs().max() < 1e-3
    for block in (0, 8, 16):
        assert close(trace.hidden[block], expected.hidden_states[block + 1][0])


@pytest.mark.parametrize("name", ODD)
def test_the_embedded_gemma_reads_any_text_whole(name: str, embedded: Gemma) -> None:
    views = [
        views
        for items in ([(None, ODD[name], "user")], [("why ?", ODD[name], "assistant")])
        for views in embedded.trace_texts(items, Capture((2,)))  # type: ignore[arg-type]
    ]
    for view in views:
        check_views(embedded, ODD[name], view)
