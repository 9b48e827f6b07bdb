"""What a verdict tells of a block, and what a policy may redact."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cli_helpers import app, runner
from guard_helpers import KEY, MAIL, FakeGemma, make_artifact
from test_guard import TEXT_POLICY, say, with_check

from safety_kit.check_options import JudgeOptions, PatternsOptions, PiiOptions, ProbeOptions, SecretsOptions
from safety_kit.errors import PolicyError
from safety_kit.guard import Guard
from safety_kit.policy import Policy
from safety_kit.stream import StreamGuard
from safety_kit.types import Action, CheckError, Sample, Stage, Verdict
from safety_kit.vault import Vault

POLICY = """
version: 1
name: t
checks:
  pii: {type: pii}
  secrets: {type: secrets}
  words: {type: patterns, keywords: [foo bar]}
  hate: {type: probe, artifact: ./hate}
rules:
  - {category: pii.email, action: flag}
  - {category: secrets.*, action: block}
  - {category: words, action: block}
  - {category: hate, action: block, threshold: 0.5}
messages: {default: withheld, words: not that word}
"""


@pytest.fixture(scope="module")
def guard(tmp_path_factory: pytest.TempPathFactory) -> Guard:
    folder = tmp_path_factory.mktemp("policy")
    make_artifact(folder / "hate", ["hate"])
    return Guard(Policy.parse(POLICY, folder), FakeGemma())


def said(verdict: Verdict) -> tuple[Any, ...]:
    return verdict.action, verdict.code, verdict.message


@pytest.mark.parametrize("stage", ["input", "output"])
def test_a_block_says_why(guard: Guard, stage: str) -> None:
    assert said(guard.check_text("fine", stage)) == (Action.ALLOW, None, None)
    assert said(guard.check_text("foo bar", stage)) == (Action.BLOCK, "blocked.words", "not that word")
    assert said(guard.check_text(KEY, stage)) == (Action.BLOCK, "blocked.secrets.aws_key", "withheld")
    assert said(guard.check_text("!" * 12, stage)) == (Action.BLOCK, "blocked.hate", "withheld")
    both = guard.check_text(f"{KEY} foo bar", stage)
    assert said(both) == (Action.BLOCK, "blocked.words", "not that word")  # the code is that of the message
    assert guard.message(both) == both.message


def test_a_flagged_text_is_released_and_noted(guard: Guard) -> None:
    verdict = guard.check_text(f"write to {MAIL}")
    assert said(verdict) == (Action.FLAG, None, None)
    assert verdict.text == f"write to {MAIL}"
    assert [finding.category for finding in verdict.findings] == ["pii.email"]
    flow = StreamGuard(guard, activations=False)
    assert flow.feed(f"write to {MAIL}").text + flow.close().text == f"write to {MAIL}"
    assert flow.verdict == replace(verdict, stage=Stage.OUTPUT, timings=flow.verdict.timings)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("kinds", "code"),
    [
        (["error"], "blocked.error"),
        (["timeout"], "blocked.error"),
        (["uncheckable"], "blocked.uncheckable"),
        (["uncheckable", "error"], "blocked.error"),
    ],
)
def test_a_fault_has_a_code_of_its_own(guard: Guard, kinds: list[Any], code: str) -> None:
    errors = [CheckError("c", "could not", kind) for kind in kinds]
    verdict = guard.decide(Stage.INPUT, [], errors, {})
    assert said(verdict) == (Action.BLOCK, code, "withheld")
    assert [error["kind"] for error in verdict.to_json()["errors"]] == kinds
    (found,) = guard.check([Sample("foo bar")])
    assert guard.decide(Stage.INPUT, found.findings, errors, {}).code == "blocked.words"


def test_a_stream_s_block_says_why(guard: Guard) -> None:
    text = Guard(Policy.parse(TEXT_POLICY + "messages: {default: withheld, secrets.*: no keys}\n"))
    flow = StreamGuard(text, request_id="r-1")
    flow.feed(f"it is {KEY} " + "and more " * 60)
    verdict = flow.close().verdict
    assert verdict is not None
    assert said(verdict) == (Action.BLOCK, "blocked.secrets.aws_key", "no keys")
    assert verdict.request_id == "r-1"
    whole = StreamGuard(guard, activations=False)
    whole.feed("!" * 30)
    assert whole.close().verdict == replace(guard.check_text("!" * 30, "output"), timings=whole.verdict.timings)  # type: ignore[union-attr]


def test_a_family_s_message_goes_after_a_category_s_own() -> None:
    policy = Policy.parse(TEXT_POLICY + "messages: {secrets.*: no keys, secrets.aws_key: no AWS, words: ''}\n")
    named = ("secrets.aws_key", "secrets.jwt", "words", "pii.ip")
    assert [policy.message_for(category) for category in named] == ["no AWS", "no keys", "", None]


def test_a_request_id_is_the_caller_s_or_made(guard: Guard) -> None:
    given = guard.check([Sample("fine"), Sample("foo bar"), Sample("!" * 12)], request_id="r-1")
    assert [verdict.request_id for verdict in given] == ["r-1"] * 3
    made = guard.check([Sample("fine"), Sample("foo bar")])
    assert len({verdict.request_id for verdict in made}) == 2
    assert all(len(verdict.request_id) == 16 for verdict in made)
    assert guard.check_text("fine", request_id="r-2").to_json()["request_id"] == "r-2"
    assert StreamGuard(guard).close().verdict.request_id  # type: ignore[union-attr]
    assert made[1] == replace(given[1], timings=made[1].timings)  # an id is no part of what a verdict says


def test_merging_keeps_what_is_told(guard: Guard) -> None:
    blocked, calm = guard.check([Sample("foo bar"), Sample("calm")], request_id="r-1")
    for merged in (guard.merge(blocked, calm), guard.merge(calm, blocked)):
        assert (merged.code, merged.message, merged.request_id) == ("blocked.words", "not that word", "r-1")


def test_the_command_s_json_tells(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(TEXT_POLICY, encoding="utf-8")
    done = runner.invoke(app, ["check", "--policy", str(path), "--json", KEY])
    verdict = json.loads(done.stdout)
    assert (done.exit_code, verdict["code"]) == (1, "blocked.secrets.aws_key")
    assert verdict["message"] == "This text was withheld by the safety policy."
    shown = runner.invoke(app, ["check", "--policy", str(path), KEY]).stdout
    assert "BLOCK at input · blocked.secrets.aws_key · request " in shown


# --- exact spans


@pytest.mark.parametrize(
    ("options", "exact"),
    [(PatternsOptions, True), (PiiOptions, True), (SecretsOptions, True), (ProbeOptions, False), (JudgeOptions, False)],
)
def test_a_check_says_whether_it_has_exact_spans(options: Any, exact: bool) -> None:
    assert options.exact_spans is exact
    assert "exact_spans" not in options.model_json_schema()["properties"]  # no policy can say otherwise


@pytest.mark.parametrize(
    ("check", "rule"),
    [
        ("{type: probe, artifact: dull}", "{category: dull, action: redact, threshold: 0.5}"),
        ("{type: judge, guideline: be kind}", "{category: dull, action: redact, threshold: 0.5}"),
    ],
)
@pytest.mark.parametrize("form", ["", ", form: pseudonymise", ", form: {replace: x}"])
def test_only_exact_spans_are_redacted(check: str, rule: str, form: str) -> None:
    text = f"version: 1\nname: t\nchecks:\n  dull: {check}\nrules:\n  - {rule[:-1]}{form}}}\n"
    with pytest.raises(PolicyError) as caught:
        Policy.parse(text)
    message = str(caught.value)
    assert message.startswith("rules[0].action: a ")
    assert "has no exact span to redact (checks.dull); use flag or block for 'dull'" in message


# --- bad input

MANY = 5_000_000
BIG = Guard(
    Policy.parse("""
version: 1
name: big
checks:
  pii: {type: pii}
  words: {type: patterns, category: words, keywords: [foo bar], regexes: ['ab+c']}
rules:
  - {category: pii.email, action: redact, form: pseudonymise}
  - {category: words, action: block}
""")
)


@pytest.mark.parametrize(
    ("char", "end"), [("a", ""), ("a", " foo bar"), ("<", f" {MAIL}"), ("\ud800", f" {MAIL}")], ids=list("abcd")
)
def test_five_megabytes_of_one_character(char: str, end: str) -> None:
    vault = Vault()
    text = char * MANY + end
    verdict = BIG.check_text(text, vault=vault)
    assert verdict.errors == ()
    assert verdict.blocked == (end == " foo bar")
    assert verdict.blocked or vault.restore(verdict.text or "") == text
    assert (MAIL in end) == (len(vault) == 1)


@pytest.mark.slow
def test_five_megabytes_of_digits_and_secrets() -> None:
    guard = Guard(Policy.parse(TEXT_POLICY))
    assert guard.check_text("1" * MANY).errors == ()
    assert guard.check_text("eyJ" + "a" * MANY + f" {KEY}").blocked


def test_lone_surrogates_go_through_and_come_back() -> None:
    vault = Vault()
    text = f"\udfff {MAIL}\ud800"
    verdict = BIG.check_text(text, vault=vault)
    assert verdict.text is not None
    assert verdict.text.startswith("\udfff <EMAIL_")
    assert vault.restore(verdict.text) == text
    odd = vault.placeholder("email", "\ud800@x", "user")
    assert odd.isascii()
    assert vault.restore(odd) == "\ud800@x"


def test_a_check_that_redacts_what_it_cannot_show_is_a_fault() -> None:
    """Nothing that a check says of places may bring the guard down."""
    for spans in (((0, 1), (0, 1)), ((2, 3), (0, 9)), ((0, 5), (1, 2), (3, 5))):
        verdict = with_check(say(spans=spans)).check_text("0123456789")
        assert verdict.action is Action.REDACT
        assert "0" not in (verdict.text or "0")


def test_a_step_of_a_stream_may_say_nothing_odd() -> None:
    guard = with_check(say(spans=((0.5, 1),)))
    flow = StreamGuard(guard)
    assert flow.feed("words " * 90).text + flow.close().text == ""
    assert flow.verdict is not None
    assert flow.verdict.code == "blocked.error"
