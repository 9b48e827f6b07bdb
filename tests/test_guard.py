"""The guard: verdicts, redaction, faults that never become an allow, classifiers that do not fit."""

from __future__ import annotations

import itertools
import logging
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from guard_helpers import CARD, DIGEST, KEY, MAIL, FakeGemma, make_artifact, texts
from hypothesis import given, settings

from safety_kit.checks.base import Delta, TextCheck
from safety_kit.errors import ArtifactError, MissingArtifact, PolicyError
from safety_kit.guard import Guard
from safety_kit.policy import Form, Policy
from safety_kit.redact import Cut, Redactor, merge
from safety_kit.types import Action, Finding, Sample, Stage

TEXT_POLICY = """
version: 1
name: text
checks:
  pii: {type: pii, countries: [us, uk]}
  secrets: {type: secrets}
  words: {type: patterns, category: words, keywords: [foo bar]}
rules:
  - {category: pii.email, action: redact, form: pseudonymise}
  - {category: pii.credit_card, action: redact}
  - {category: pii.phone, action: redact, form: hash}
  - {category: secrets.*, action: block}
  - {category: words, action: redact, form: {replace: '***'}}
  - {category: pii.ip, action: flag}
"""
PROBES = """
  hate: {type: probe, artifact: hate}
  self_harm: {type: probe, artifact: ./mine}
"""
PROBE_RULES = """
  - {category: hate, action: block, max_fpr: 0.05}
  - {category: self_harm, stages: [input], action: block, threshold: 0.5}
messages: {default: withheld, self_harm: please talk to someone}
"""
PROBE_POLICY = TEXT_POLICY.replace("checks:", "checks:" + PROBES) + PROBE_RULES.lstrip("\n")


@pytest.fixture(scope="module")
def guard() -> Guard:
    return Guard(Policy.parse(TEXT_POLICY))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("policy")
    make_artifact(folder / "mine", ["self_harm"])
    make_artifact(folder / "hate", ["hate"])
    return folder


def probe_guard(folder: Path, gemma: FakeGemma | None = None) -> Guard:
    return Guard(Policy.parse(PROBE_POLICY, folder), gemma or FakeGemma(), {"hate": folder / "hate"})


def test_redaction_forms(guard: Guard) -> None:
    text = f"Foo Bar {MAIL} {CARD} a@b.com {MAIL} +1 415 555 2671, +1 415 555 2671; 192.168.1.10"
    verdict = guard.check_text(text)
    assert verdict.action is Action.REDACT
    assert verdict.text is not None
    assert verdict.text.startswith("*** EMAIL_1 [CREDIT_CARD] EMAIL_2 EMAIL_1 [PHONE:")
    first, second = verdict.text.split()[5:7]
    assert first[:-1] == second[:-1]
    assert verdict.text.endswith(" 192.168.1.10")
    assert [f.category for f in verdict.findings].count("pii.ip") == 1
    assert set(verdict.timings) == {"pii", "secrets", "words"}
    other = Guard(Policy.parse(TEXT_POLICY)).check_text(text)
    assert other.text != verdict.text  # the hash has a key of the guard's own
    assert other.policy_digest == verdict.policy_digest == guard.digest


def test_block_has_no_text(guard: Guard) -> None:
    verdict = guard.check_text(f"{MAIL} {KEY}", "output")
    assert (verdict.action, verdict.text, verdict.stage) == (Action.BLOCK, None, Stage.OUTPUT)
    assert guard.message(verdict)
    assert verdict.to_json()["action"] == "block"


def test_allow_is_the_text_itself(guard: Guard) -> None:
    verdict = guard.check_text("what a fine day")
    assert (verdict.action, verdict.text, verdict.findings, verdict.errors) == (Action.ALLOW, "what a fine day", (), ())


def cut(start: int, end: int, category: str = "x", score: float = 1.0, form: Form = Form()) -> Cut:  # noqa: B008
    return Cut(start, end, Finding("c", category, score, "rule", ((start, end),)), form)


def test_overlapping_cuts_are_joined() -> None:
    joined = merge([cut(5, 9, "b", 0.5), cut(2, 6, "a"), cut(9, 10, "c"), cut(3, 4, "d")])
    assert [(c.start, c.end, c.finding.category) for c in joined] == [(2, 9, "a"), (9, 10, "c")]
    assert Redactor(b"k").apply("0123456789ab", joined) == "01[A][C]ab"
    assert [(c.start, c.end) for c in merge([cut(0, 3), cut(4, 8), cut(3, 5)])] == [(0, 3), (3, 8)]


def test_nothing_found_survives_redaction_and_the_rest_does(guard: Guard) -> None:
    for text in (f"x{'y ' * 70}{MAIL} z", f"{CARD}{MAIL}", f"a {MAIL}\n{MAIL}"):
        verdict = guard.check_text(text)
        assert verdict.text is not None
        assert MAIL not in verdict.text
        assert CARD not in verdict.text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\ud800",
        "\udfff foo bar \ud800",
        "\x00\x00 foo bar",
        "😀" * 500,
        "👨\u200d👩\u200d👧 🇩🇪",
        "مرحبا بالعالم ١٢٣٤",
        "e\u0301" * 300,
        "\u202e" + MAIL,
        "a" * 100_000,
        "@" * 20_000,
        "::" * 10_000,
        "eyJ" * 10_000,
        "-----BEGIN PRIVATE KEY-----" * 500,
        ("call 415 555 2671 or " * 400),
        "İ" * 5_000 + " foo bar",
    ],
    ids=lambda text: f"{text[:8]!r}x{len(text)}",
)
@pytest.mark.parametrize("stage", ["input", "output"])
def test_any_text_has_a_verdict(guard: Guard, text: str, stage: str) -> None:
    verdict = guard.check_text(text, stage)
    assert verdict.errors == ()
    assert (verdict.text is None) == verdict.blocked
    if "foo bar" in text:
        assert verdict.action is Action.REDACT


@settings(max_examples=40)
@given(text=texts)
def test_batch_equals_one_by_one(guard: Guard, text: str) -> None:
    samples = [Sample(text), Sample("calm"), Sample(text, "assistant", Stage.OUTPUT)]
    together = guard.check(samples)
    for sample, verdict in zip(samples, together, strict=True):
        alone = guard.check([sample])[0]
        assert replace(alone, timings={}) == replace(verdict, timings={})


# --- faults


class Odd(TextCheck):
    """A check that does what its test wants."""

    name, categories, lookahead = "odd", frozenset({"words"}), 0

    def __init__(self, behave: Any) -> None:
        self.behave = behave

    def run(self, samples: Sequence[Sample]) -> list[list[Finding]]:
        return [self.behave(sample) for sample in samples]

    def start(self) -> str:
        return ""

    def step(self, state: str, new: Delta, final: bool) -> Any:
        seen = state + new.text
        return seen, self.behave(Sample(seen)) if final else [], len(seen) if final else 0


def with_check(behave: Any, on_error: str = "block") -> Guard:
    guard = Guard(Policy.parse(TEXT_POLICY + f"on_error: {on_error}\n"))
    guard.text_checks = (*guard.text_checks, Odd(behave))
    return guard


def say(**changes: Any) -> Any:
    return lambda sample: [replace(Finding("odd", "words", 1.0, "rule", ((0, 1),)), **changes)]


def boom(sample: Sample) -> list[Finding]:
    raise RuntimeError(f"could not read {sample.text}")


NONSENSE = {
    "raises": boom,
    "nan": say(score=float("nan")),
    "above one": say(score=1.5),
    "below zero": say(score=-0.1),
    "no number": say(score="high"),
    "span beyond the text": say(spans=((0, 10_000),)),
    "span backwards": say(spans=((1, 0),)),
    "span empty": say(spans=((1, 1),)),
    "span negative": say(spans=((-1, 1),)),
    "no span to redact": say(spans=()),
    "span in fractions": say(spans=((0.0, 1.0),)),
    "span of truth values": say(spans=((False, True),)),
    "span of three": say(spans=((0, 1, 2),)),
    "spans in lists": say(spans=([0, 1],)),
    "no spans": say(spans=None),
    "one good span, one bad": say(spans=((0, 1), (3, 2))),
    "infinite": say(score=float("inf")),
    "no kind of score": say(score_kind="certain"),
    "no detail": say(detail=None),
    "no name": say(check=None),
    "another's category": say(category="hate"),
    "no category": say(category=None),
    "a list as category": say(category=[]),
    "one finding": lambda sample: Finding("odd", "words", 1.0, "rule", ((0, 1),)),
    "a text": lambda sample: "xx",
    "no end of findings": lambda sample: itertools.repeat(Finding("odd", "words", 1.0, "rule", ((0, 1),))),
    "no finding": lambda sample: ["x"],
    "no list": lambda sample: None,
}


@pytest.mark.parametrize("name", NONSENSE)
def test_a_faulty_check_blocks(name: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        verdict = with_check(NONSENSE[name]).check_text("very private words")
    assert verdict.action is Action.BLOCK
    assert verdict.text is None
    assert [error.check for error in verdict.errors] == ["odd"]
    assert "private" not in verdict.errors[0].message + caplog.text


@pytest.mark.parametrize("name", NONSENSE)
def test_on_error_flag_notes_it(name: str) -> None:
    guard = with_check(NONSENSE[name], "flag")
    verdict = guard.check_text("words")
    assert (verdict.action, verdict.text) == (Action.FLAG, "words")
    assert verdict.errors
    assert guard.check_text(f"words {KEY}").action is Action.BLOCK


def test_one_bad_text_does_not_condemn_its_batch() -> None:
    guard = with_check(lambda sample: boom(sample) if sample.text == "bad" else [])
    assert [v.action for v in guard.check([Sample("good"), Sample("bad"), Sample("fine")])] == [
        Action.ALLOW,
        Action.BLOCK,
        Action.ALLOW,
    ]


def test_a_check_that_forgets_a_sample_blocks() -> None:
    guard = with_check(lambda sample: [])
    guard.text_checks[-1].run = lambda samples: []  # type: ignore[method-assign]
    assert all(verdict.blocked and verdict.errors for verdict in guard.check([Sample("a"), Sample("b")]))


# --- probes


def test_probes_decide(folder: Path) -> None:
    guard = probe_guard(folder)
    assert guard.capture is not None
    assert guard.capture.blocks == (1, 2)
    calm, angry = guard.check([Sample("a calm text"), Sample("!!!!!!!!!!!!")])
    assert calm.action is Action.ALLOW
    assert calm.findings == ()
    assert angry.action is Action.BLOCK
    assert {f.category for f in angry.findings} == {"hate", "self_harm"}
    assert guard.message(angry) == "please talk to someone"
    reply = guard.check_text("!!!!!!!!!!!!", "output")
    assert [f.category for f in reply.findings] == ["hate"]
    assert guard.message(reply) == "withheld"


def test_text_then_probe_is_all(folder: Path) -> None:
    gemma = FakeGemma()
    guard = probe_guard(folder, gemma)
    samples = [Sample(f"write to {MAIL}"), Sample(f"!!!! {KEY}"), Sample("!!!!!!!!!!!!")]
    whole = guard.check(samples)
    assert gemma.calls == [["write to EMAIL_1", "!!!!!!!!!!!!"]]  # what was blocked is not read, what was redacted is
    first = guard.check(samples, "text")
    for sample, verdict, expected in zip(samples, first, whole, strict=True):
        if not verdict.blocked:
            verdict = guard.merge(verdict, guard.check([replace(sample, text=verdict.text or "")], "probe")[0])
        assert replace(verdict, timings={}) == replace(expected, timings={})


def test_merging_keeps_the_stronger_side(guard: Guard) -> None:
    blocked, calm = guard.check([Sample(KEY), Sample("calm")])
    for merged in (guard.merge(blocked, calm), guard.merge(calm, blocked)):
        assert (merged.action, merged.text, merged.findings) == (Action.BLOCK, None, blocked.findings)


def test_a_model_that_fails_blocks(folder: Path) -> None:
    class Broken(FakeGemma):
        def trace_texts(self, *_: Any) -> Any:
            raise MemoryError

    verdict = probe_guard(folder, Broken()).check_text("hello")
    assert verdict.blocked
    assert verdict.errors[0].check == "probe"


def test_probes_need_a_model(folder: Path) -> None:
    with pytest.raises(PolicyError, match="give the guard a Gemma"):
        Guard(Policy.parse(PROBE_POLICY, folder))


def test_missing_classifier_names_the_command(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAFETY_KIT_CACHE", str(tmp_path))
    with pytest.raises(MissingArtifact, match="safety-kit prepare --model google/tiny"):
        Guard(Policy.parse(PROBE_POLICY, folder), FakeGemma(name="google/tiny"))
    make_artifact(tmp_path / "classifiers" / f"google-tiny-{DIGEST[:16]}" / "hate", ["hate"])
    Guard(Policy.parse(PROBE_POLICY, folder), FakeGemma(name="google/tiny"))


def test_classifier_that_does_not_fit_is_refused(folder: Path, tmp_path: Path) -> None:
    policy = Policy.parse(PROBE_POLICY, folder)
    with pytest.raises(ArtifactError, match="prepare --model other"):
        Guard(policy, FakeGemma("other", "e" * 64), {"hate": folder / "hate"})
    changed = make_artifact(tmp_path / "changed", ["hate"])
    (changed / "card.md").write_text("better")
    with pytest.raises(ArtifactError, match="checksum"):
        Guard(policy, FakeGemma(), {"hate": changed})
    with pytest.raises(PolicyError, match="no check gives 'hate'"):
        Guard(policy, FakeGemma(), {"hate": make_artifact(tmp_path / "wrong", ["love"])})
    with pytest.raises(PolicyError, match="given by"):
        Guard(policy, FakeGemma(), {"hate": make_artifact(tmp_path / "double", ["hate", "self_harm"])})
    with pytest.raises(ArtifactError, match="needs at least"):
        Guard(policy, FakeGemma(), {"hate": make_artifact(tmp_path / "few", ["hate"], n=10)})
    redacting = PROBE_POLICY.replace("self_harm, stages: [input], action: block", "self_harm, action: redact")
    with pytest.raises(PolicyError, match="no exact span"):
        Guard(Policy.parse(redacting, folder), FakeGemma(), {"hate": folder / "hate"})


def test_digest_covers_the_classifiers(folder: Path, tmp_path: Path) -> None:
    other = make_artifact(tmp_path / "hate", ["hate"], n=300)
    policy = Policy.parse(PROBE_POLICY, folder)
    digests = {Guard(policy, FakeGemma(), {"hate": path}).digest for path in (folder / "hate", other, folder / "hate")}
    assert len(digests) == 2


def test_guard_loads_no_torch() -> None:
    code = (
        "import sys, safety_kit.guard, safety_kit.stream, safety_kit.policy, safety_kit.checks.pii,"
        " safety_kit.checks.patterns, safety_kit.checks.secrets\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
