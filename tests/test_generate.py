"""Guarded generation: one forward pass for all, nothing decoded after a block, the stream is the blocking call."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_gemma_forward import counted
from test_gemma_load import one_thread as one_thread
from test_gemma_load import tiny

from safety_kit import artifacts, generate
from safety_kit import vault as vault_module
from safety_kit.errors import UserError
from safety_kit.gemma import Capture, Gemma, Prompt, Sampling
from safety_kit.gemma import decoding as decoding_module
from safety_kit.generate import GuardedGemma, Reply
from safety_kit.guard import Guard
from safety_kit.heads import Head, decision_score
from safety_kit.policy import Policy
from safety_kit.stream import StreamGuard
from safety_kit.types import Action, Message, Stage
from safety_kit.vault import Vault

TEXT = """
version: 1
name: text
checks:
  pii: {type: pii}
  words: {type: patterns, category: words, keywords: [bad word]}
rules:
  - {category: pii.email, action: redact}
  - {category: words, action: block}
messages: {default: withheld}
"""
PROBED = (
    TEXT.replace("checks:", "checks:\n  mood: {type: probe, artifact: ./mood}")
    .replace("rules:", "rules:\n  - {category: mood, action: block, threshold: 0.5}")
    .replace("messages: {", "messages: {mood: not in this mood, ")
)


def without(policy: str, check: str) -> str:
    """A policy without one of its checks: `pii` holds back a word or two, in which an address may begin."""
    return "".join(line for line in policy.splitlines(True) if check not in line)


# Without views, which hold a word back too, all is released up to the word that is sought.
NO_PII = {"text": "views: false\n" + without(TEXT, "pii"), "probed": "views: false\n" + without(PROBED, "pii")}
BLOCKS = (1, 4)
WINDOW, STRIDE = 6, 3


def write_head(folder: Path, gemma: Gemma, weight: Any, bias: dict[str, float], slope: float = 1.0) -> None:
    """A classifier folder of the category `mood`; the bias by stage makes it quiet or loud."""
    negatives = np.linspace(-1, 0, 50, dtype=np.float32)
    artifacts.save(
        folder,
        {
            "reading": "causal",
            "model": {
                "name": gemma.name,
                "family": gemma.family,
                "digest": gemma.digest,
                "dtype": gemma.dtype,
                "blocks": gemma.n_blocks,
                "hidden_size": gemma.hidden_size,
            },
            "blocks": list(BLOCKS),
            "window": WINDOW,
            "stride": STRIDE,
            "categories": {
                "mood": {
                    "bias": 0.0,
                    "calibration": {stage: {"slope": slope, "intercept": at} for stage, at in bias.items()},
                    "regularisation": 1.0,
                    "positives": 50,
                    "negatives": 50,
                    "metrics": {},
                }
            },
            "data_digest": "x",
            "created": "2026-01-01",
            "kit_version": "0",
        },
        {
            "weight.mood": np.asarray(weight, np.float32),
            "negatives.input.mood": negatives,
            "negatives.output.mood": negatives,
        },
        "# mood",
    )


QUIET, LOUD = -1e6, 1e6


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("heads")
    weight = np.random.default_rng(0).normal(0, 0.1, len(BLOCKS) * tiny().hidden_size)
    for name, at_input, at_output in (("quiet", QUIET, QUIET), ("input", LOUD, QUIET), ("output", QUIET, LOUD)):
        write_head(folder / name / "mood", tiny(), weight, {"input": at_input, "output": at_output})
    return folder


@pytest.fixture
def probed(heads: Path) -> GuardedGemma:
    """Its probes read everything and never block."""
    return guarded(heads / "quiet")


def guarded(folder: Path | None = None, policy: str | None = None) -> GuardedGemma:
    text = policy or (PROBED if folder else TEXT)
    return GuardedGemma(tiny(), Guard(Policy.parse(text, folder or "."), tiny() if folder else None))


@pytest.fixture(params=["text", "probed"])
def either(request: pytest.FixtureRequest, heads: Path) -> GuardedGemma:
    """A policy of text checks, and one with a probe; neither minds ordinary text."""
    return guarded(heads / "quiet" if request.param == "probed" else None)


def script(monkeypatch: pytest.MonkeyPatch, text: str, end: str | None = None) -> int:
    """Let the model say this; without an end its last token goes on for ever. How many tokens the text has."""
    ids: Iterable[int] = tiny().vocabulary.content(text).ids
    count = len(tuple(ids))
    rest = [tiny().vocabulary.control[end]] if end else itertools.repeat(tiny().vocabulary.content("z").ids[0])
    turn = itertools.chain(ids, rest)
    monkeypatch.setattr(decoding_module, "choose", lambda *_: next(turn))
    return count


@contextmanager
def fed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, Any]]]:
    """What the stream guard is fed."""
    seen: list[tuple[str, Any]] = []

    class Spy(StreamGuard):
        def feed(self, text: str, hidden: Any = None) -> Any:
            seen.append((text, hidden))
            return super().feed(text, hidden)

    with monkeypatch.context() as patched:
        patched.setattr(generate, "StreamGuard", Spy)
        yield seen


def stripped(reply: Reply) -> Reply:
    """Without what a clock says."""
    return replace(
        reply,
        seconds=0,
        inputs=tuple(replace(verdict, timings={}) for verdict in reply.inputs),
        output=replace(reply.output, timings={}) if reply.output else None,
    )


# --- the stream is the blocking call


@settings(max_examples=25)
@given(seed=st.integers(0, 99), many=st.integers(1, 30), temperature=st.sampled_from([0.0, 1.0]), probes=st.booleans())
def test_the_pieces_make_up_the_reply(heads: Path, seed: int, many: int, temperature: float, probes: bool) -> None:
    gemma = guarded(heads / "quiet") if probes else guarded()
    sampling = Sampling(max_tokens=many, temperature=temperature, seed=seed)
    stream = gemma.stream("what is in the hat ?", sampling)
    pieces = list(stream)
    whole = gemma.generate("what is in the hat ?", sampling)
    assert "".join(pieces) == whole.reply
    assert all(pieces)
    assert stripped(stream.reply) == stripped(whole)
    bare = gemma.gemma.generate(gemma.gemma.render([Message("user", "what is in the hat ?")]), sampling)
    assert whole.reply == bare.text  # nothing was blocked or redacted
    assert (whole.finish_reason, whole.completion_tokens) == (bare.finish, len(bare.token_ids))


@pytest.mark.parametrize("which", ["quiet", "input", "output"])
def test_blocked_or_not_both_are_the_same(which: str, heads: Path) -> None:
    stream = guarded(heads / which).stream("hi", Sampling(max_tokens=20))
    pieces = list(stream)
    assert "".join(pieces) == guarded(heads / which).generate("hi", Sampling(max_tokens=20)).reply == stream.reply.reply


def test_the_reply_drains_what_is_left(either: GuardedGemma, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, "the cat in the hat is a cat in a hat", "<eos>")
    stream = either.stream("hi")
    first = next(stream)
    assert stream.reply.reply == "the cat in the hat is a cat in a hat"
    assert stream.reply.reply.startswith(first)
    assert list(stream) == []


def test_defaults_are_greedy(either: GuardedGemma) -> None:
    assert either.generate("hi", Sampling(max_tokens=9)).reply == either.generate("hi", Sampling(max_tokens=9)).reply
    assert either.generate("hi").completion_tokens <= 256


# --- input


def no_model(*_: Any, **__: Any) -> Any:
    pytest.fail("the model was run")


def test_an_input_that_the_text_checks_block_is_never_read(
    either: GuardedGemma, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("prefill", "steps", "forward", "read_texts", "render"):
        monkeypatch.setattr(either.gemma, name, no_model)
    reply = either.generate([Message("system", "be kind"), Message("user", "a bad word"), Message("user", "hi")])
    assert reply.blocked
    assert (reply.reply, reply.finish_reason, reply.output) == ("withheld", "content_filter", None)
    assert (reply.prompt_tokens, reply.completion_tokens) == (0, 0)
    assert [verdict.action for verdict in reply.inputs] == [Action.ALLOW, Action.BLOCK, Action.ALLOW]
    assert reply.input.findings[0].category == "words"
    assert list(either.stream("a bad word")) == ["withheld"]


def test_a_conversation_of_too_many_turns_is_never_read(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = TEXT.replace("checks:", "checks:\n  many: {type: length, turns: 2}")
    short = guarded(policy=policy.replace("rules:", "rules:\n  - {category: many, action: block}"))
    assert not short.generate([Message("system", "be kind"), Message("user", "hi")], Sampling(max_tokens=1)).blocked
    monkeypatch.setattr(short.gemma, "prefill", no_model)
    reply = short.generate([Message("system", "be kind"), Message("user", "hi"), Message("user", "ho")])
    assert (reply.finish_reason, reply.reply, reply.code) == ("content_filter", "withheld", "blocked.many")
    assert [verdict.action for verdict in reply.inputs] == [Action.ALLOW, Action.ALLOW, Action.BLOCK]


def test_an_input_that_a_probe_blocks_is_never_answered(heads: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gemma = guarded(heads / "input")
    monkeypatch.setattr(gemma.gemma, "steps", no_model)
    monkeypatch.setattr(gemma.gemma, "read_texts", no_model)  # the prefill's own activations are read
    reply = gemma.generate("hi there")
    assert (reply.reply, reply.finish_reason, reply.output) == ("not in this mood", "content_filter", None)
    assert reply.prompt_tokens == len(tiny().render([Message("user", "hi there")]).tokens)
    assert reply.input.findings[0].score == pytest.approx(1)


def test_the_probe_reads_each_message_where_it_stands(probed: GuardedGemma, heads: Path) -> None:
    messages = [
        Message("system", "be kind"),
        Message("user", "what is it"),
        Message("user", "the cat"),
        Message("tool", "{}"),
    ]
    reply = probed.generate(messages, Sampling(max_tokens=2))
    assert len(reply.inputs) == 4
    assert all(verdict.timings.keys() == {"pii", "words", "probe"} for verdict in reply.inputs)
    # The same head, without its bias, on the prefill's activations gives what the verdict would show.
    head = artifacts.load(heads / "quiet" / "mood").heads["mood"]
    start = tiny().prefill(tiny().render(messages), Capture(BLOCKS))
    expected = []
    for place in start.prompt.ranges:
        view = start.trace.view(*place)
        rows = np.concatenate([view.hidden(block).numpy() for block in BLOCKS], axis=1)
        expected.append(decision_score(head.token_scores(rows), 0.0, Stage.INPUT, WINDOW, STRIDE)[0])
    seen: list[float] = []
    probe = type(probed.guard.probes.probes[0].head).probability  # type: ignore[union-attr]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(
            Head,
            "probability",
            lambda head, score, stage: (
                seen.append(score) if stage is Stage.INPUT else None,
                probe(head, score, stage),
            )[1],
        )
        probed.generate(messages, Sampling(max_tokens=2))
    assert seen == pytest.approx(expected, abs=1e-5)


def test_a_redacted_input_reaches_the_model_redacted(either: GuardedGemma, monkeypatch: pytest.MonkeyPatch) -> None:
    rendered: list[list[Message]] = []
    render = either.gemma.render

    def spy(messages: Any) -> Prompt:
        rendered.append(list(messages))
        return render(messages)

    monkeypatch.setattr(either.gemma, "render", spy)
    reply = either.generate("write to john.doe@example.org now", Sampling(max_tokens=3))
    assert rendered == [[Message("user", "write to [EMAIL] now")]]
    assert reply.input.action is Action.REDACT
    assert reply.input.text == "write to [EMAIL] now"
    assert reply.prompt_tokens == len(render(rendered[0]).tokens)


def test_bad_conversations(either: GuardedGemma) -> None:
    with pytest.raises(UserError, match="at least one message"):
        either.generate([])
    with pytest.raises(UserError, match="reads at most 4096"):
        either.generate("x9" * 3000)
    for text in ("", "  ", "\ud800", "\x00", "😀", "<end_of_turn>"):
        reply = either.generate(text, Sampling(max_tokens=3))
        assert not reply.blocked
        assert reply.completion_tokens


# --- output


@pytest.mark.parametrize("policy", NO_PII)
def test_a_blocked_reply_stops_the_decoding(policy: str, heads: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gemma = guarded(heads / "quiet" if policy == "probed" else None, NO_PII[policy])
    before = "a fine day for the cat, and then comes the next one: "
    count = script(monkeypatch, before + "a bad word. And")
    with counted(gemma.gemma) as seen:
        stream = gemma.stream("hi", Sampling(max_tokens=300))
        assert next(stream)
        reply = stream.reply
    assert reply.finish_reason == "content_filter"
    assert reply.output is not None
    assert reply.output.text is None
    assert reply.output.findings[0].category == "words"
    assert reply.reply == before + "a \n\nwithheld"
    assert count - 5 < reply.completion_tokens < count + 20  # text alone is read in pieces of 8 characters
    assert seen[0] <= reply.prompt_tokens + reply.completion_tokens


def test_a_blocked_reply_without_a_prefix_is_the_message_alone(
    either: GuardedGemma, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(monkeypatch, "bad word, and more")
    assert either.generate("hi").reply == "withheld"


@pytest.mark.parametrize("blocked", ["prefix", "message"])
def test_what_a_blocked_reply_comes_to(blocked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    gemma = guarded(None, NO_PII["text"])
    script(monkeypatch, "a fine day for the cat, and a bad word. And more")
    reply = gemma.generate("hi", Sampling(max_tokens=300), blocked=blocked)
    assert reply.blocked
    assert reply.reply == ("withheld" if blocked == "message" else "a fine day for the cat, and a \n\nwithheld")
    assert gemma.generate("a bad word", blocked=blocked).reply == "withheld"  # the input blocks
    script(monkeypatch, "a fine day", "<eos>")
    assert gemma.generate("hi", blocked=blocked).reply == "a fine day"


def test_a_redacted_reply(either: GuardedGemma, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, "write to john.doe@example.org, my cat", "<eos>")
    stream = either.stream("hi")
    assert "john" not in "".join(stream)
    assert stream.reply.reply == "write to [EMAIL], my cat"
    assert stream.reply.finish_reason == "stop"
    assert stream.reply.output is not None
    assert stream.reply.output.text == stream.reply.reply


def test_a_probe_stops_a_reply_where_it_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A head fitted to score 0 on the reply's first 15 tokens and 1 on what follows."""
    gemma = tiny()
    prompt = gemma.render([Message("user", "hi")])
    text = "a dog is kind , zzzzzzzzzzzzzzzz"
    count = script(monkeypatch, text)
    made = list(gemma.steps(prompt, Sampling(max_tokens=count), Capture(BLOCKS)))
    rows = np.stack([np.concatenate([step.hidden[block].numpy() for block in BLOCKS]) for step in made])
    wanted = np.array([0.0] * 15 + [1.0] * (count - 15))
    weight = np.linalg.lstsq(rows, wanted, rcond=None)[0]
    assert np.abs(rows @ weight - wanted).max() < 0.05
    write_head(tmp_path / "mood", gemma, weight, {"input": QUIET, "output": -50.0}, slope=100.0)
    script(monkeypatch, text)
    with counted(gemma) as seen:
        reply = guarded(tmp_path, without(NO_PII["probed"], "words")).generate("hi", Sampling(max_tokens=count))
    # Readings of 6 tokens end at 6, 9, 12 …; the one at 18 is half 1 (not over .5 for sure), the one at 21 is all 1.
    assert reply.finish_reason == "content_filter"
    assert reply.completion_tokens in (18, 21)
    shown = text[: sum(len(step.text) for step in made[: reply.completion_tokens - STRIDE])]
    assert reply.reply == shown + "\n\nnot in this mood"
    assert seen[0] == reply.prompt_tokens + reply.completion_tokens
    assert reply.output is not None
    assert reply.output.findings[0].detail == f"reading ends at token {reply.completion_tokens}"


def test_a_loud_probe_lets_nothing_out(heads: Path) -> None:
    reply = guarded(heads / "output").generate("hi", Sampling(max_tokens=50))
    assert reply.reply == "not in this mood"
    assert reply.completion_tokens == 2 * STRIDE  # its first reading
    short = guarded(heads / "output").generate("hi", Sampling(max_tokens=2))  # ends before that: read at its end
    assert (short.reply, short.finish_reason, short.completion_tokens) == ("not in this mood", "content_filter", 2)


@pytest.mark.parametrize("many", [1, 2, 5, 17])
def test_the_last_token_is_read_too(many: int, probed: GuardedGemma, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, "a")
    with fed(monkeypatch) as seen:
        reply = probed.generate("hi", Sampling(max_tokens=many))
    assert (reply.finish_reason, reply.completion_tokens) == ("length", many)
    assert sum(len(hidden[BLOCKS[0]]) for _, hidden in seen) == many
    assert all(set(hidden) == set(BLOCKS) for _, hidden in seen)
    assert all(hidden[block].shape == (1, 32) for _, hidden in seen for block in BLOCKS)
    assert "".join(text for text, _ in seen) == reply.reply


@pytest.mark.parametrize("end", ["<eos>", "<end_of_turn>"])
def test_an_end_token_ends(end: str, either: GuardedGemma, monkeypatch: pytest.MonkeyPatch) -> None:
    count = script(monkeypatch, "the cat", end)
    with fed(monkeypatch) as seen:
        reply = either.generate("hi")
    assert (reply.reply, reply.finish_reason) == ("the cat", "stop")
    assert reply.completion_tokens == count + 1
    if either.guard.probes:
        assert [len(hidden[BLOCKS[0]]) for _, hidden in seen] == [1] * count + [0]
    else:
        assert all(hidden is None for _, hidden in seen)


def test_an_end_at_once_is_an_empty_reply(either: GuardedGemma, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, "", "<eos>")
    reply = either.generate("hi")
    assert (reply.reply, reply.finish_reason, reply.completion_tokens) == ("", "stop", 1)


def test_a_stop_string_ends(either: GuardedGemma, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, "the cat STOP more")
    reply = either.generate("hi", Sampling(stop=("STOP",)))
    assert (reply.reply, reply.finish_reason) == ("the cat ", "stop")


def test_a_policy_of_text_asks_for_no_activations(monkeypatch: pytest.MonkeyPatch) -> None:
    gemma = guarded()
    run, asked = gemma.gemma.trunk.run, []

    def spy(ids: Any, blocks: Any, **more: Any) -> Any:
        asked.append(tuple(blocks))
        return run(ids, blocks, **more)

    monkeypatch.setattr(gemma.gemma.trunk, "run", spy)
    gemma.generate("hi", Sampling(max_tokens=5))
    assert set(asked) == {()}
    assert gemma.guard.capture is None


# --- what the user gave comes back

PSEUDONYMS = TEXT.replace("pii.email, action: redact", "pii.email, action: redact, form: pseudonymise")
MAIL, OTHER = "john.doe@example.org", "eva@example.net"


def spoken(template: str, vault: Vault, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let the model say this, with the placeholders of the two addresses."""
    said = template.format(mail=vault.placeholder("email", MAIL), other=vault.placeholder("email", OTHER))
    script(monkeypatch, said, "<eos>")
    return said


def test_a_reply_has_what_the_user_gave_again(monkeypatch: pytest.MonkeyPatch) -> None:
    gemma, vault = guarded(policy=PSEUDONYMS), Vault(b"of one conversation")
    said = spoken("dear {mail}, <EMAIL_ and {other} and <", vault, monkeypatch)
    stream = gemma.stream(f"i am {MAIL}", Sampling(max_tokens=100), vault=vault, request_id="r-1")
    pieces = list(stream)
    reply = stream.reply
    placeholder = vault.placeholder("email", OTHER)  # the model's own invention: the user never gave it
    assert "".join(pieces) == reply.reply == f"dear {MAIL}, <EMAIL_ and {placeholder} and <"
    assert reply.output is not None
    assert reply.output.text == said  # the guard saw, and tells of, what the model wrote
    assert MAIL not in str(reply.output.to_json()) + str(reply.input.to_json())
    assert reply.input.text == f"i am {vault.placeholder('email', MAIL)}"
    assert {verdict.request_id for verdict in (*reply.inputs, reply.output)} == {"r-1"}
    assert reply.to_json()["request_id"] == "r-1"


def test_an_address_that_the_model_writes_itself_is_redacted(monkeypatch: pytest.MonkeyPatch) -> None:
    gemma, vault = guarded(policy=PSEUDONYMS), Vault()
    script(monkeypatch, f"ask {OTHER} or {MAIL}, my cat", "<eos>")
    reply = gemma.generate(f"i am {MAIL}", Sampling(max_tokens=100), vault=vault)
    assert reply.reply == f"ask {vault.placeholder('email', OTHER)} or {MAIL}, my cat"
    assert reply.output is not None
    assert reply.output.action is Action.REDACT


def test_an_instruction_s_address_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    gemma, vault = guarded(policy=PSEUDONYMS), Vault(b"of one conversation")
    said = spoken("it is {mail} not {other}", vault, monkeypatch)
    messages = [Message("system", f"never name {OTHER}"), Message("user", f"i am {MAIL}")]
    reply = gemma.generate(messages, Sampling(max_tokens=100), vault=vault)
    assert reply.reply == said.replace(vault.placeholder("email", MAIL), MAIL)
    assert OTHER not in reply.reply


def test_a_call_without_a_vault_has_one_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    gemma = guarded(policy=PSEUDONYMS)
    with monkeypatch.context() as patched:
        patched.setattr(vault_module.secrets, "token_bytes", lambda n: b"of one conversation")
        spoken("dear {mail}", Vault(b"of one conversation"), monkeypatch)
        reply = gemma.generate(f"i am {MAIL}", Sampling(max_tokens=100))
    assert reply.reply == f"dear {MAIL}"
    spoken("dear {mail}", Vault(b"of one conversation"), monkeypatch)
    assert gemma.generate(f"i am {MAIL}", Sampling(max_tokens=100)).reply.startswith("dear <EMAIL_")  # and another
    masked = guarded()
    spoken("dear {mail}", Vault(b"of one conversation"), monkeypatch)
    assert masked.generate(f"i am {MAIL}", Sampling(max_tokens=100)).reply.startswith("dear <EMAIL_")


def test_a_block_shows_what_was_released_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    gemma, vault = guarded(policy=PSEUDONYMS), Vault(b"of one conversation")
    spoken("dear {mail} " + "a cat in a hat " * 20 + " a bad word <EMAIL_", vault, monkeypatch)
    stream = gemma.stream(f"i am {MAIL}", Sampling(max_tokens=600), vault=vault)
    assert "".join(stream) == stream.reply.reply
    assert stream.reply.reply.startswith(f"dear {MAIL} a cat")
    assert stream.reply.reply.endswith("\n\nwithheld")
    assert stream.reply.code == stream.reply.to_json()["code"] == "blocked.words"
    assert "bad word" not in stream.reply.reply


# --- faults


def boom(*_: Any, **__: Any) -> Any:
    raise RuntimeError("very private")


@pytest.mark.parametrize("name", ["words", "probe"])
def test_a_check_that_raises_on_the_input_blocks(
    name: str, probed: GuardedGemma, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = probed.guard.probes if name == "probe" else probed.guard.text_checks[-1]
    monkeypatch.setattr(check, "run", boom)
    monkeypatch.setattr(probed.gemma, "steps", no_model)
    reply = probed.generate("hi")
    assert reply.blocked
    assert reply.reply == "withheld"
    assert [error.check for error in reply.input.errors] == [name]
    assert "private" not in str(reply.to_json())


@pytest.mark.parametrize("name", ["words", "probe"])
def test_a_check_that_raises_on_the_output_blocks(
    name: str, probed: GuardedGemma, monkeypatch: pytest.MonkeyPatch
) -> None:
    check: Any = probed.guard.probes if name == "probe" else probed.guard.text_checks[-1]
    monkeypatch.setattr(check, "run", lambda samples: [[] for _ in samples])
    monkeypatch.setattr(check, "step", boom)
    reply = probed.generate("hi", Sampling(max_tokens=40))
    assert (reply.reply, reply.finish_reason, reply.completion_tokens) == ("withheld", "content_filter", 1)
    assert reply.output is not None
    assert [error.check for error in reply.output.errors] == [name]


# --- the work


@pytest.mark.parametrize(
    ("probes", "end", "unread"),
    [
        (True, None, 0),  # at the length the last token is read for the probes
        (True, "<eos>", 1),  # the end token is not
        (False, None, 1),  # without probes the last token never is
        (False, "<eos>", 1),
    ],
)
def test_each_token_goes_through_the_blocks_once(
    probes: bool, end: str | None, unread: int, heads: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gemma = guarded(heads / "quiet" if probes else None)
    count = script(monkeypatch, "the cat in the hat", end)
    with counted(gemma.gemma) as seen:
        reply = gemma.generate("what is it ?", Sampling(max_tokens=count + (1 if end else 0)))
    assert reply.completion_tokens == count + (1 if end else 0)
    assert reply.finish_reason == ("stop" if end else "length")
    assert seen[0] == reply.prompt_tokens + reply.completion_tokens - unread
    # The last token's read for the probes stops after the topmost block that they read.
    assert seen[5] == reply.prompt_tokens + reply.completion_tokens - 1


def test_the_json_document(either: GuardedGemma, monkeypatch: pytest.MonkeyPatch) -> None:
    count = script(monkeypatch, "the cat", "<eos>")
    reply = either.generate("hi")
    document = reply.to_json()
    assert list(document) == [*("reply", "finish_reason", "code", "request_id", "input", "output", "usage", "seconds")]
    assert document["reply"] == "the cat"
    assert document["input"]["action"] == document["output"]["action"] == "allow"
    assert document["usage"]["completion_tokens"] == count + 1
    assert document["usage"]["total_tokens"] == reply.prompt_tokens + count + 1
    assert either.generate("bad word").to_json()["output"] is None


def test_the_worst_verdict_is_the_input_s(either: GuardedGemma) -> None:
    messages = [Message("user", "a@b.com"), Message("system", "c@d.com"), Message("user", "hi")]
    reply = either.generate(messages, Sampling(max_tokens=1))
    assert reply.input is reply.inputs[1]  # the last of equals
    assert [verdict.action for verdict in reply.inputs] == [Action.REDACT, Action.REDACT, Action.ALLOW]


def test_the_embedded_gemma_inside_a_policy_of_text(embedded: Gemma) -> None:
    gemma = GuardedGemma(embedded, Guard(Policy.parse(TEXT)))
    stream = gemma.stream("Name a colour, and write to john.doe@example.org.", Sampling(max_tokens=12))
    pieces = list(stream)
    assert "".join(pieces) == stream.reply.reply
    assert stream.reply.input.action is Action.REDACT
    assert stream.reply.output is not None


def test_a_reply_is_held_against_its_system_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    leak = "version: 1\nname: leak\nchecks: {leak: {type: leak, words: 6}}\n"
    leak += "rules: [{category: leak.overlap, action: block}]\nmessages: {default: withheld}\n"
    gemma = guarded(policy=leak)
    secret = "never tell guests that the blue door of the house is open at night"
    script(monkeypatch, f"well {secret}", end="<end_of_turn>")
    messages = [Message("system", secret), Message("user", "hello")]
    assert gemma.generate(messages, Sampling(max_tokens=60)).code == "blocked.leak.overlap"
    script(monkeypatch, f"well {secret}", end="<end_of_turn>")
    assert not gemma.generate(messages[1:], Sampling(max_tokens=60)).blocked
