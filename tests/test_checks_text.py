"""The text checks: what each finds, what it leaves alone, and that stepping equals `run`."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest
from guard_helpers import CARD, KEY, MAIL, chunk, cuts, steps_of, texts
from hypothesis import example, given, settings
from hypothesis import strategies as st

from safety_kit.catalogue import pii_categories, secret_categories
from safety_kit.check_options import PatternsOptions, PiiOptions
from safety_kit.checks.base import Delta, TextCheck
from safety_kit.checks.patterns import PatternsCheck, fold
from safety_kit.checks.pii import PiiCheck
from safety_kit.checks.secrets import SecretsCheck
from safety_kit.types import Sample

COUNTRIES = ("us", "uk", "de", "es", "it")


def patterns(**options: object) -> PatternsCheck:
    return PatternsCheck("words", PatternsOptions(type="patterns", **options))  # type: ignore[arg-type]


PII = PiiCheck("pii", PiiOptions(type="pii", countries=COUNTRIES), pii_categories(COUNTRIES))
SECRETS = SecretsCheck("secrets", secret_categories())
WORDS = patterns(
    keywords=("foo bar", "foo bar a b", "straße", "bar", "@home", "a"), regexes=(r"\b[A-Z]{3}-\d{4}\b", r"x{40,}")
)
CHECKS: dict[str, TextCheck] = {"pii": PII, "secrets": SECRETS, "patterns": WORDS}


def found(check: TextCheck, text: str) -> list[tuple[str, str]]:
    (findings,) = check.run([Sample(text)])
    assert all(0 <= a < b <= len(text) for f in findings for a, b in f.spans)
    return [(f.category.rpartition(".")[2], text[a:b]) for f in findings for a, b in f.spans]


@pytest.mark.parametrize("name", CHECKS)
@settings(max_examples=40)
@given(text=texts, places=cuts)
@example(text="x" * 150 + "@example.org " + CARD, places=[100, 129, 160])
@example(text=". xfoo bar foo barx " * 3, places=list(range(60)))
@example(text="foo  bar_a-b. foo **bar** a/b foo\n bar  " * 3, places=list(range(0, 120, 3)))
@example(text="-----BEGIN PRIVATE KEY-----" + "A" * 9000, places=list(range(0, 9000, 700)))
@example(text="eyJhbGciOiJI" + "A" * 9000, places=list(range(0, 9000, 700)))
def test_stepping_equals_run(name: str, text: str, places: list[int]) -> None:
    check = CHECKS[name]
    (whole,) = check.run([Sample(text)])
    stepped, cleared = steps_of(check, [Delta(piece) for piece in chunk(text, places)])
    key = lambda f: (f.spans, f.category, f.detail)  # noqa: E731
    assert sorted(stepped, key=key) == sorted(whole, key=key)
    assert cleared == sorted(cleared)
    assert cleared[-1] == len(text)


@pytest.mark.parametrize("name", CHECKS)
@settings(max_examples=30)
@given(text=texts, places=cuts)
def test_nothing_is_found_in_what_was_cleared(name: str, text: str, places: list[int]) -> None:
    check, seen, state = CHECKS[name], 0, CHECKS[name].start()
    pieces = chunk(text, places)
    for i, piece in enumerate(pieces):
        state, findings, cleared = check.step(state, Delta(piece), i == len(pieces) - 1)
        assert all(start >= seen for f in findings for start, _ in f.spans)
        seen = cleared


@pytest.mark.parametrize("name", CHECKS)
def test_what_is_held_back_is_bounded(name: str) -> None:
    check, state, total = CHECKS[name], CHECKS[name].start(), 0
    for word in ["harmless words without a match "] * 60:
        state, _, cleared = check.step(state, Delta(word), False)
        total += len(word)
        assert total - cleared <= check.lookahead + len(word)  # type: ignore[attr-defined]


# --- patterns


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("foo bar", ["bar", "foo bar"]),
        ("a FOO BAR.", ["BAR", "FOO BAR", "a"]),
        ("foobar rebar bars", []),
        ("STRASSE strasse Straße", ["STRASSE", "Straße", "strasse"]),
        ("İ foo bar", ["bar", "foo bar"]),  # İ folds to two characters
        ("İİ😀a", ["a"]),
        ("see @home", ["@home"]),
        ("see me@home", ["@home"]),  # a keyword that begins with no word character needs no gap before it
        ("foo\nbar foo\tbar", ["bar", "bar", "foo\tbar", "foo\nbar"]),
        ("abc-1234 ABC-12345", ["abc-1234"]),
        ("\ud800 bar", ["bar"]),
        ("", []),
    ],
)
def test_patterns(text: str, expected: list[str]) -> None:
    assert sorted(match for _, match in found(WORDS, text)) == expected


def test_patterns_case_and_parts_of_words() -> None:
    exact = patterns(keywords=("Foo",), regexes=("Z+",), ignore_case=False, whole_words=False)
    assert found(exact, "Foo foo xFoox zZZ") == [("words", "Foo"), ("words", "Foo"), ("words", "ZZ")]


def test_long_regex_matches_leave_no_gap() -> None:
    text = "-" * 100 + "x" * 1000 + "-"
    covered = {i for f in WORDS.run([Sample(text)])[0] for a, b in f.spans for i in range(a, b)}
    assert covered == set(range(100, 1100))


def test_regex_time_is_linear() -> None:
    evil = patterns(regexes=("(a+)+$", "(a|aa)+b"))
    assert found(evil, "a" * 20_000)


@given(st.text(max_size=40))
def test_fold_maps_back(text: str) -> None:
    folded, origin = fold(text)
    if origin is None:
        assert len(folded) == len(text)
    else:
        assert len(origin) == len(folded)
        assert all(char in text[i].casefold() for char, i in zip(folded, origin, strict=True))


# --- pii


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"write to {MAIL}, please", [("email", MAIL)]),
        (f"card {CARD}.", [("credit_card", CARD)]),
        ("card 4111 1111 1111 1112", []),  # the checksum does not hold
        ("IBAN DE89370400440532013000", [("iban", "DE89370400440532013000")]),
        ("IBAN de89370400440532013000 it is", [("iban", "de89370400440532013000")]),
        ("call +1 415 555 2671", [("phone", "+1 415 555 2671")]),
        ("my SSN is 536-90-4399", [("us_ssn", "536-90-4399")]),
        ("host 192.168.1.10", [("ip", "192.168.1.10")]),
        ("DNI 12345678Z", [("es_nif", "12345678Z")]),
        ("codice fiscale RSSMRA85T10A562S", [("it_fiscal_code", "RSSMRA85T10A562S")]),
        ("NHS number 943 476 5919", [("uk_nhs", "943 476 5919")]),
        ("NI number AB 12 34 56 C", [("uk_nino", "AB 12 34 56 C")]),
        ("In 1969, 12 people ate 3.5 kg at 10:30 for $1,299.00", []),
        ("version 10.2.3, build 20240131", []),
        ("no numbers here", []),
        ("not an address: foo@bar, @handle, a@b.notatld", []),
        ("😀🇩🇪 " + MAIL, [("email", MAIL)]),
    ],
)
def test_pii(text: str, expected: list[tuple[str, str]]) -> None:
    assert found(PII, text) == expected


def test_the_rest_of_what_one_window_cannot_see_whole_is_found() -> None:
    text = "y" * 99 + " " + "x" * 150 + "@example.org, and more"
    covered = {i for f in PII.run([Sample(text)])[0] for a, b in f.spans for i in range(a, b)}
    assert covered >= set(range(128, 262))


def test_pii_builds_only_what_rules_ask_for() -> None:
    check = PiiCheck("pii", PiiOptions(type="pii", countries=("us",)), frozenset({"pii.email", "pii.uk_nhs"}))
    assert check.categories == {"pii.email"}
    assert found(check, f"{MAIL} {CARD}") == [("email", MAIL)]


def test_email_needs_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a check asked for the network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert found(PII, "x@some.co.uk") == [("email", "x@some.co.uk")]


def test_pii_loads_no_model_library_and_leaves_presidio_to_others() -> None:
    code = (
        "import sys\n"
        "from safety_kit.guard import Guard\nfrom safety_kit.policy import Policy\nimport safety_kit.stream\n"
        "Guard(Policy.parse('''{version: 1, name: t, checks: {pii: {type: pii}, secrets: {type: secrets},"
        " w: {type: patterns, keywords: [x]}}, rules: [{category: pii.*, action: redact},"
        " {category: secrets.*, action: block}, {category: w, action: flag}]}''')).check_text('a@b.com')\n"
        "bad = {'torch', 'transformers', 'spacy', 'presidio_analyzer', 'numpy'} & set(sys.modules)\n"
        "assert not bad, bad\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# --- secrets


JWT = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"
PEM = "-----BEGIN RSA PRIVATE KEY-----\n" + ("abcd" * 16 + "\n") * 25 + "-----END RSA PRIVATE KEY-----"
AZURE = "AccountKey=" + "aB3/" * 21 + "ab=="


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"id {KEY}.", [("aws_key", KEY)]),
        ("aws_secret_access_key = " + "aB3d" * 10, [("aws_key", "aB3d" * 10)]),
        ("ghp_" + "a1B2" * 9, [("github_token", "ghp_" + "a1B2" * 9)]),
        ("npm_" + "a1" * 18, [("npm_token", "npm_" + "a1" * 18)]),
        ("sk_live_" + "a1B2" * 6, [("stripe_key", "sk_live_" + "a1B2" * 6)]),
        ("xoxb-123456-abcdef", [("slack_token", "xoxb-123456-abcdef")]),
        ("AIza" + "a" * 35, [("google_api_key", "AIza" + "a" * 35)]),
        ("hf_" + "aBcDefGhij" * 3 + "KLmn", [("hugging_face_token", "hf_" + "aBcDefGhij" * 3 + "KLmn")]),
        ("the function hf_" + "hub_download_" * 4, []),
        ("glpat-" + "aB1-cD2_eF" * 2, [("gitlab_token", "glpat-" + "aB1-cD2_eF" * 2)]),
        (f"Bearer {JWT}", [("jwt", JWT)]),
        ("eyJhbGciOiJIUzI1NiJ9 is the header", []),
        (f"a\n{PEM}\nb", [("private_key", PEM)]),
        ("look for -----BEGIN RSA PRIVATE KEY----- in the file, then delete it " * 8, []),
        ("postgres://bob:s3cr3tpw9@db.host/x", [("basic_auth", "s3cr3tpw9")]),
        ("postgres://user:password@localhost/x", []),
        ("the sha-256 is " + "ab12" * 16, []),
        ("integrity sha512-" + "aB3/" * 21 + "ab==", []),
        (AZURE, [("azure_storage_key", "aB3/" * 21 + "ab==")]),
        ("an ordinary sentence about tokens, keys and passwords", []),
    ],
)
def test_secrets(text: str, expected: list[tuple[str, str]]) -> None:
    assert found(SECRETS, text) == expected


def test_openai_key_is_covered_whole() -> None:
    key = "sk-proj-" + "Ab1_" * 40
    text = "export KEY=" + key
    covered = {i for f in SECRETS.run([Sample(text)])[0] for a, b in f.spans for i in range(a, b)}
    assert covered >= set(range(11, len(text)))
