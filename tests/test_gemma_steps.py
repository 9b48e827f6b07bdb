"""Decoding: cached equals full, greedy equals transformers, its own activations, reuse, stop strings, characters."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_gemma_forward import ALL, close, counted, tokens_of
from test_gemma_load import one_thread as one_thread
from test_gemma_load import plain, tiny

from safety_kit.errors import UserError
from safety_kit.gemma import Capture, Gemma, Prefill, Prompt, Sampling, Step, Tokens
from safety_kit.gemma import decoding as module
from safety_kit.gemma import steps as steps_module
from safety_kit.gemma.tokens import Detokenizer
from safety_kit.testing import FAMILIES
from safety_kit.types import Message

CHAT = [Message("system", "be kind to the cat"), Message("user", "what is in the hat, and where is the other one ?")]


def script(monkeypatch: pytest.MonkeyPatch, ids: Iterable[int]) -> None:
    """Let these tokens be chosen, whatever the logits say."""
    turn = iter(ids)
    monkeypatch.setattr(module, "choose", lambda *_: next(turn))


def spell(gemma: Gemma, text: str) -> tuple[int, ...]:
    return gemma.vocabulary.content(text).ids


class Rows:
    """Every row of logits that the trunk makes."""

    def __init__(self, gemma: Gemma, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows: list[torch.Tensor] = []
        make = gemma.trunk.logits
        monkeypatch.setattr(gemma.trunk, "logits", lambda normed: self.keep(make(normed)))

    def keep(self, logits: torch.Tensor) -> torch.Tensor:
        self.rows.append(logits[-1])
        return logits


# --- cached decoding


def check_cached(
    gemma: Gemma, prompt: Prompt, blocks: tuple[int, ...], monkeypatch: pytest.MonkeyPatch, many: int
) -> None:
    """Logits, log-probabilities and activations of cached decoding are those of one pass over the whole."""
    with monkeypatch.context() as patched:
        rows = Rows(gemma, patched).rows
        start = gemma.prefill(prompt, Capture(blocks))
        made = list(gemma.steps(start, Sampling(max_tokens=many), Capture(blocks)))
    ids = (*prompt.tokens.ids, *(step.token_id for step in made))
    first = len(prompt.tokens)
    (full,) = gemma.forward([Tokens(ids, ((0, 0),) * len(ids))], Capture(blocks, "all"))
    assert full.logits is not None
    cached = torch.stack(rows)[: len(made)]
    expected = full.logits[first - 1 : first - 1 + len(made)]
    assert (cached - expected).abs().max() < 1e-3
    assert start.trace.logits is not None
    assert torch.equal(start.trace.logits[0], cached[0])
    precise = expected.double().log_softmax(-1)
    own = cached.double().log_softmax(-1)
    for n, step in enumerate(made):
        assert step.logprob == pytest.approx(float(own[n, step.token_id]), abs=1e-5)
        assert step.logprob == pytest.approx(float(precise[n, step.token_id]), abs=1e-3)
        if step.token_id in gemma.end_ids:
            assert step.hidden == {}
            continue
        assert set(step.hidden) == set(blocks)
        assert all(close(step.hidden[block], full.hidden[block][first + n], 1e-3) for block in blocks)
    for block in blocks:
        assert close(start.trace.hidden[block], full.hidden[block][:first], 1e-3)


@pytest.mark.parametrize("chat", [True, False], ids=["chat", "plain"])
@pytest.mark.parametrize("family", FAMILIES)
def test_cached_decoding_equals_the_full_forward(family: str, chat: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    gemma = tiny(family, chat)
    check_cached(gemma, gemma.render(CHAT), ALL, monkeypatch, 40)


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_is_transformers_generate(family: str) -> None:
    gemma = tiny(family)
    for messages in (CHAT, [Message("user", "x"), Message("assistant", "in the")]):
        prompt = gemma.render(messages)
        made = gemma.generate(prompt, Sampling(max_tokens=24))
        expected = plain(family).generate(
            torch.tensor([prompt.tokens.ids]),
            attention_mask=torch.ones(1, len(prompt.tokens), dtype=torch.long),
            do_sample=False,
            max_new_tokens=24,
            eos_token_id=sorted(gemma.end_ids),
            pad_token_id=0,
        )
        assert list(made.token_ids) == expected[0, len(prompt.tokens) :].tolist()


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(max_tokens=25),
        Sampling(max_tokens=25, temperature=1.0, top_k=40, top_p=0.95, min_p=0.01, repetition_penalty=1.2, seed=3),
        Sampling(max_tokens=25, temperature=1.5, seed=4, stop=("e", "a")),
    ],
    ids=["greedy", "all settings", "stop"],
)
@pytest.mark.parametrize("blocks", [(), (1, 4)])
def test_a_generation_is_the_drained_steps(sampling: Sampling, blocks: tuple[int, ...]) -> None:
    gemma = tiny()
    prompt = gemma.render(CHAT)
    made = list(gemma.steps(prompt, sampling, Capture(blocks)))
    whole = gemma.generate(prompt, sampling)
    assert whole.text == "".join(step.text for step in made)
    assert whole.token_ids == tuple(step.token_id for step in made)
    assert whole.finish == made[-1].finish
    assert all(step.finish is None for step in made[:-1])


def test_a_seed_repeats_and_another_differs() -> None:
    gemma = tiny()
    prompt = gemma.render(CHAT)
    made = [gemma.generate(prompt, Sampling(max_tokens=20, temperature=1.0, seed=seed)) for seed in (7, 7, 8)]
    assert made[0] == made[1] != made[2]
    before = torch.random.get_rng_state()
    gemma.generate(prompt, Sampling(max_tokens=5, temperature=1.0, seed=7))
    assert torch.equal(torch.random.get_rng_state(), before)
    free = [gemma.generate(prompt, Sampling(max_tokens=20, temperature=1.0)).token_ids for _ in range(2)]
    assert free[0] != free[1]


def test_a_step_comes_with_its_token_when_nothing_is_captured() -> None:
    """With a capture the token is read first; without, nothing is done between the choice and the yield."""
    gemma = tiny()
    prompt = gemma.render(CHAT)
    for blocks, work in (((), 0), ((2,), 1)):
        made = gemma.steps(gemma.prefill(prompt), Sampling(max_tokens=5), Capture(blocks))
        with counted(gemma) as seen:
            next(made)
        assert seen[0] == work


@pytest.mark.parametrize("blocks", [(), (2,)])
def test_the_last_token_costs_no_output_matrix(blocks: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    gemma = tiny()
    rows = Rows(gemma, monkeypatch).rows
    with counted(gemma) as seen:
        made = list(gemma.steps(gemma.render(CHAT), Sampling(max_tokens=8), Capture(blocks)))
    assert len(made) == len(rows) == 8
    assert seen[0] == len(gemma.render(CHAT).tokens) + (8 if blocks else 7)
    assert seen[5] == len(gemma.render(CHAT).tokens) + 7


# --- prefill


@pytest.mark.parametrize("size", [1, 7, 16, 50])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_prefill_in_chunks_is_one_pass(family: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    gemma = tiny(family)
    prompt = Prompt(tokens_of(60), ())
    whole = gemma.prefill(prompt, Capture(ALL))
    monkeypatch.setattr(steps_module, "CHUNK", size)
    with counted(gemma) as seen:
        cut = gemma.prefill(prompt, Capture(ALL))
    assert set(seen.values()) == {60}
    assert cut.trace.logits is not None
    assert whole.trace.logits is not None
    assert close(cut.trace.logits, whole.trace.logits, 1e-4)
    assert all(close(cut.trace.hidden[block], whole.trace.hidden[block], 1e-4) for block in ALL)
    assert (cut.trace.ids, cut.trace.offsets) == (prompt.tokens.ids, prompt.tokens.offsets)
    assert gemma.generate(cut, Sampling(max_tokens=10)) == gemma.generate(whole, Sampling(max_tokens=10))


def prefix(prompt: Prompt, length: int) -> Prompt:
    return Prompt(Tokens(prompt.tokens.ids[:length], prompt.tokens.offsets[:length]), ())


def same(one: Prefill, other: Prefill, blocks: tuple[int, ...]) -> bool:
    assert one.trace.logits is not None
    assert other.trace.logits is not None
    assert set(one.trace.hidden) == set(other.trace.hidden) == set(blocks)
    return close(one.trace.logits, other.trace.logits, 1e-4) and all(
        close(one.trace.hidden[block], other.trace.hidden[block], 1e-4) for block in blocks
    )


@pytest.mark.parametrize("length", [1, 10, 40, 59])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_reused_prefix_is_a_fresh_prefill(family: str, length: int) -> None:
    gemma, prompt = tiny(family), Prompt(tokens_of(60), ())
    fresh = gemma.prefill(prompt, Capture((1, 4)))
    begun = gemma.prefill(prefix(prompt, length), Capture((1, 2, 4)))
    with counted(gemma) as seen:
        made = gemma.prefill(prompt, Capture((1, 4)), reuse=begun)
    assert seen[0] == 60 - length
    assert same(made, fresh, (1, 4))
    assert begun.cache is None
    assert gemma.generate(made, Sampling(max_tokens=10)) == gemma.generate(fresh, Sampling(max_tokens=10))


def test_what_cannot_be_reused_is_read_again() -> None:
    gemma, prompt = tiny(), Prompt(tokens_of(60), ())
    fresh = gemma.prefill(prompt, Capture((1, 4)))

    def again(reuse: Prefill) -> None:
        unspent = reuse.cache is not None
        with counted(gemma) as seen:
            made = gemma.prefill(prompt, Capture((1, 4)), reuse=reuse)
        assert seen[0] == 60
        assert same(made, fresh, (1, 4))
        assert (reuse.cache is not None) == unspent  # and is left as it was

    again(gemma.prefill(prefix(prompt, 30), Capture((1,))))  # lacks block 4
    again(gemma.prefill(prefix(prompt, 30)))  # lacks all
    spent = gemma.prefill(prefix(prompt, 30), Capture((1, 4)))
    spent.take()
    again(spent)
    again(gemma.prefill(Prompt(tokens_of(30, seed=9), ()), Capture((1, 4))))  # another beginning
    again(gemma.prefill(prompt, Capture((1, 4))))  # nothing left to read for the next token
    longer = Prompt(prompt.tokens + tokens_of(5), ())
    again(gemma.prefill(longer, Capture((1, 4))))


def test_a_cache_is_handed_on_once() -> None:
    gemma = tiny()
    start = gemma.prefill(gemma.render(CHAT))
    gemma.generate(start, Sampling(max_tokens=2))
    with pytest.raises(UserError, match="cache was used already"):
        gemma.generate(start, Sampling(max_tokens=2))


def test_an_empty_prompt() -> None:
    with pytest.raises(UserError, match="nothing to read"):
        tiny().prefill(Prompt(Tokens((), ()), ()))


# --- the end of a reply


def test_the_length_is_never_exceeded(monkeypatch: pytest.MonkeyPatch) -> None:
    gemma = tiny()
    script(monkeypatch, itertools.repeat(spell(gemma, "a")[0]))
    for count in (1, 2, 9):
        for blocks in ((), (3,)):
            made = list(gemma.steps(gemma.render(CHAT), Sampling(max_tokens=count), Capture(blocks)))
            assert [step.finish for step in made] == [None] * (count - 1) + ["length"]
            assert "".join(step.text for step in made) == "a" * count
            assert all(set(step.hidden) == set(blocks) for step in made)


def test_the_context_is_never_exceeded(monkeypatch: pytest.MonkeyPatch) -> None:
    gemma = tiny()
    monkeypatch.setattr(gemma.trunk.config, "max_position_embeddings", 40)
    script(monkeypatch, itertools.repeat(spell(gemma, "a")[0]))
    for length, room in ((30, 10), (39, 1)):
        for blocks in ((), (3,)):
            made = list(gemma.steps(Prompt(tokens_of(length), ()), Sampling(max_tokens=99), Capture(blocks)))
            assert len(made) == room
            assert made[-1].finish == "length"
    with pytest.raises(UserError, match=r"fills .* context of 40 tokens; shorten it"):
        gemma.generate(Prompt(tokens_of(40), ()), Sampling())
    with pytest.raises(UserError, match="has 41 tokens"):
        gemma.prefill(Prompt(tokens_of(41), ()))


@pytest.mark.parametrize("end", ["<eos>", "<end_of_turn>"])
@pytest.mark.parametrize("blocks", [(), (3,)])
def test_an_end_token_ends(end: str, blocks: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    gemma = tiny()
    text = "hi <unused0> you U"  # the last letter may begin a stop string
    ids = [*spell(gemma, "hi "), gemma.vocabulary.control["<unused0>"], *spell(gemma, " you U")]
    script(monkeypatch, [*ids, gemma.vocabulary.control[end]])
    made = list(gemma.steps(gemma.render(CHAT), Sampling(stop=("User",)), Capture(blocks)))
    assert "".join(step.text for step in made) == text.replace("<unused0>", "")
    assert [step.finish for step in made] == [None] * len(ids) + ["stop"]
    assert made[-1].hidden == {}


def scripted(gemma: Gemma, text: str, sampling: Sampling, monkeypatch: pytest.MonkeyPatch) -> list[Step]:
    script(monkeypatch, spell(gemma, text))
    return list(gemma.steps(gemma.render(CHAT), sampling, Capture((1,))))


def test_a_stop_string_ends_and_does_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    made = scripted(tiny(), "in the hat STO STOP and more", Sampling(stop=("STOP", "never")), monkeypatch)
    assert "".join(step.text for step in made) == "in the hat STO "
    assert made[-1].finish == "stop"
    assert made[-1].hidden  # it was read
    held = scripted(tiny(), "in STO", Sampling(stop=("STOP",), max_tokens=len(spell(tiny(), "in STO"))), monkeypatch)
    assert "".join(step.text for step in held) == "in STO"  # no stop string after all
    assert held[-1].finish == "length"
    assert "S" not in "".join(step.text for step in held[:-1])


@pytest.mark.parametrize("reply", ["\nUser: more", " \n\nUser: more", "\n\n \nUser:"])
def test_a_dialogue_that_goes_on_at_once_is_an_empty_reply(reply: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = scripted(tiny(chat=False), reply, Sampling(), monkeypatch)
    assert "".join(step.text for step in made) == ""
    assert made[-1].finish == "stop"


def test_a_dialogue_ends_at_the_user_s_next_line(monkeypatch: pytest.MonkeyPatch) -> None:
    made = scripted(tiny(chat=False), " \n Used hats.\n\nUses\nUser: and", Sampling(), monkeypatch)
    assert "".join(step.text for step in made) == "Used hats.\n\nUses"


# --- text of a growing list of tokens


def detokenize(ids: Iterable[int], stop: tuple[str, ...] = (), strip: bool = False) -> tuple[list[str], bool]:
    detokenizer = Detokenizer(tiny().vocabulary, stop, strip)
    out = []
    for id_ in ids:
        out.append(detokenizer.push(id_))
        if detokenizer.stopped:
            break
    return [*out, detokenizer.finish()], detokenizer.stopped


stops = st.lists(st.text(st.sampled_from("ab \nUé😀"), min_size=1, max_size=4), max_size=3).map(tuple)


@settings(max_examples=400)
@given(text=st.text(st.sampled_from("ab \nUé😀the"), max_size=30), stop=stops, strip=st.booleans())
@example(text="\nUser: x", stop=("\nUser:",), strip=True)
@example(text="aab", stop=("ab",), strip=False)
@example(text="aaab", stop=("aab", "b"), strip=False)
def test_no_character_of_a_stop_string_leaks(text: str, stop: tuple[str, ...], strip: bool) -> None:
    vocabulary = tiny().vocabulary
    ids = vocabulary.content(text).ids
    pieces, stopped = detokenize(ids, stop, strip)
    seen = next((t for n in range(len(ids) + 1) if any(s in (t := vocabulary.decode(ids[:n])) for s in stop)), None)
    assert stopped == (seen is not None)
    expected = text if seen is None else seen[: min(at for s in stop if (at := seen.find(s)) >= 0)]
    assert "".join(pieces) == (expected.lstrip() if strip else expected)
    if stopped:
        assert pieces[-1] == ""


@settings(max_examples=200)
@given(text=st.text(max_size=40, alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="▁\ufffd")))
@example(text="👨\u200d👩\u200d👧é🇩🇪" * 3)
def test_no_half_character_comes_out(text: str) -> None:
    pieces, _ = detokenize(tiny().vocabulary.content(text).ids)
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)
    assert pieces[-1] == ""  # nothing is held longer than need be


@given(ids=st.lists(st.integers(0, 500), max_size=40), stop=stops, strip=st.booleans())
def test_any_tokens_have_a_text(ids: list[int], stop: tuple[str, ...], strip: bool) -> None:
    pieces, stopped = detokenize(ids, stop, strip)
    assert not any(s in "".join(pieces) for s in stop) or (strip and not stopped)


def test_text_comes_as_soon_as_it_can() -> None:
    vocabulary = tiny().vocabulary
    pieces, _ = detokenize(vocabulary.content("the é😀 hat").ids, ("hats",))
    shown = [piece for piece in pieces[:-1] if piece]
    assert shown == ["the", " ", "é", "😀", " "]
    assert pieces[-1] == "hat"


# --- the embedded Gemma


def test_the_embedded_gemma_cached_is_full(embedded: Gemma, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = embedded.render([Message("system", "Answer in full."), Message("user", "Why is the sky blue? 😀 é")])
    check_cached(embedded, prompt, (0, 8, 11, 17), monkeypatch, 24)


def test_the_embedded_gemma_s_greedy_is_transformers_generate(embedded: Gemma) -> None:
    prompt = embedded.render([Message("user", "Tell me of the sea.")])
    made = embedded.generate(prompt, Sampling(max_tokens=24))
    expected = embedded.model.generate(
        torch.tensor([prompt.tokens.ids]),
        attention_mask=torch.ones(1, len(prompt.tokens), dtype=torch.long),
        do_sample=False,
        max_new_tokens=24,
    )
    theirs = expected[0, len(prompt.tokens) :].tolist()
    assert list(made.token_ids) == theirs[: len(made.token_ids)]
    assert len(made.token_ids) == 24 or made.finish == "stop"


def test_the_embedded_gemma_reuses_a_prefix(embedded: Gemma) -> None:
    prompt = embedded.render([Message("user", "the sea and the sky " * 20)])
    blocks: Any = (8, 11)
    fresh = embedded.prefill(prompt, Capture(blocks))
    made = embedded.prefill(prompt, Capture(blocks), reuse=embedded.prefill(prefix(prompt, 60), Capture(blocks)))
    assert all(close(made.trace.hidden[block], fresh.trace.hidden[block], 1e-3) for block in blocks)


# --- several at once


@pytest.mark.parametrize("attn", [None, "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_replies_made_together_are_those_made_alone(family: str, attn: Any) -> None:
    """Whatever their lengths, and beyond the sliding window; some end before the others, some join late."""
    gemma, capture = tiny(family, attn=attn), Capture((1, 4))
    settings = [
        Sampling(max_tokens=25),
        Sampling(max_tokens=4, temperature=1.0, seed=3),
        Sampling(max_tokens=12, top_k=5, temperature=0.7, seed=1),
    ]
    prompts = [gemma.render([Message("user", "the cat " * many)]) for many in (1, 9, 30)]
    alone = [
        list(gemma.steps(gemma.prefill(prompt, capture), sampling, capture))
        for prompt, sampling in zip(prompts, settings, strict=True)
    ]
    running = [
        module.Decoding(gemma, gemma.prefill(p, capture), s, likeliest=2)
        for p, s in zip(prompts, settings, strict=True)
    ]
    together: list[list[Step]] = [[] for _ in running]
    turn = 0
    while any(not decoding.ended for decoding in running):
        now = [n for n, decoding in enumerate(running) if not decoding.ended and turn >= 2 * n]
        for n, step in zip(now, module.step_together(gemma, [running[n] for n in now], capture), strict=True):
            together[n].append(step)
        turn += 1
    for mine, expected in zip(together, alone, strict=True):
        assert [(s.token_id, s.text, s.finish) for s in mine] == [(s.token_id, s.text, s.finish) for s in expected]
        for step, other in zip(mine, expected, strict=True):
            assert step.logprob == pytest.approx(other.logprob, abs=1e-3)
            assert set(step.hidden) == set(other.hidden)
            assert all(close(step.hidden[block], other.hidden[block], 1e-3) for block in step.hidden)
            assert len(step.likeliest) == 2
            assert step.likeliest[0][1] >= step.logprob - 1e-6
