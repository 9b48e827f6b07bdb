"""The vault: what is pseudonymised comes back, whole or in chunks, and nothing else does."""

from __future__ import annotations

import copy
import hashlib
import itertools
import logging
import pickle
import re
from typing import Any

import pytest
from guard_helpers import CARD, KEY, MAIL, chunk, cuts, texts
from hypothesis import example, given, settings
from hypothesis import strategies as st

from safety_kit import vault as vault_module
from safety_kit.errors import UserError
from safety_kit.guard import Guard
from safety_kit.policy import Form, Policy
from safety_kit.redact import Cut, Redactor
from safety_kit.stream import StreamGuard
from safety_kit.types import Action, Finding, Message, Role, Sample, Stage
from safety_kit.vault import RESTORED, Vault

SECRET = b"of one conversation"
OTHER = "eva@example.net"
GUARD = Guard(
    Policy.parse("""
version: 1
name: pseudonyms
checks:
  pii: {type: pii, countries: [us, uk]}
  secrets: {type: secrets}
  words: {type: patterns, category: 'code <name>!', keywords: [foo bar]}
rules:
  - {category: pii.*, action: redact, form: pseudonymise}
  - {category: secrets.*, action: redact, form: pseudonymise}
  - {category: 'code <name>!', action: redact, form: pseudonymise}
""")
)
PLACEHOLDER = re.compile("<[A-Z][A-Z0-9_]*_[0-9a-f]{6,}>")
shaped = st.sampled_from(
    ["<EMAIL_", "<EMAIL_0a1b2c>", "<DATA_000000>", "<", ">", "_0a1b2c>", Vault(SECRET).placeholder("email", MAIL)]
)
wild = st.lists(st.text(st.sampled_from("<>_EMAIL0af \ud800é"), max_size=12) | shaped, max_size=8).map("".join)


def pseudonymised(text: str, places: list[int], vault: Vault) -> str:
    """The text with every second piece between these places cut out."""
    bounds = sorted({place % (len(text) + 1) for place in places})
    found = [
        Cut(start, end, Finding("c", "pii.email", 1.0, "rule", ((start, end),)), Form("pseudonymise"))
        for start, end in itertools.islice(itertools.pairwise(bounds), 0, None, 2)
    ]
    return Redactor(b"k", vault, "user").apply(text, found)


def restored(vault: Vault, pieces: list[str]) -> str:
    flow = vault.restorer()
    return "".join([*map(flow.feed, pieces), flow.close()])


@settings(max_examples=150)
@given(text=st.text() | wild, places=cuts, chunks=cuts)
@example(text=f"{MAIL} is not {Vault(SECRET).placeholder('email', MAIL)}", places=[0, len(MAIL)], chunks=[3, 9])
def test_what_was_pseudonymised_comes_back(text: str, places: list[int], chunks: list[int]) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(vault_module.secrets, "token_bytes", lambda n: SECRET)  # the text may know its placeholders
        vault = Vault()
    vault.note(text)
    written = pseudonymised(text, places, vault)
    assert vault.restore(written) == text
    assert restored(vault, chunk(written, chunks)) == text
    assert restored(vault, list(written)) == text


@settings(max_examples=40)
@given(text=texts, chunks=cuts)
def test_what_the_guard_pseudonymised_comes_back(text: str, chunks: list[int]) -> None:
    vault = Vault()
    verdict = GUARD.check_text(text, vault=vault)
    assert verdict.text is not None
    assert vault.restore(verdict.text) == text
    assert restored(vault, chunk(verdict.text, chunks)) == text
    again = GUARD.check_text(verdict.text, vault=vault)  # an address may be seen only now that its neighbour is gone
    assert again.text is not None
    assert set(PLACEHOLDER.findall(verdict.text)) <= set(PLACEHOLDER.findall(again.text))
    assert vault.restore(again.text) == text


@settings(max_examples=80)
@given(values=st.lists(st.tuples(st.sampled_from(["email", "phone", "é", ""]), st.text(max_size=6)), max_size=30))
@pytest.mark.parametrize("weak", [False, True])
def test_one_placeholder_a_value(weak: bool, values: list[tuple[str, str]]) -> None:
    with pytest.MonkeyPatch.context() as patched:
        if weak:  # every value's hash begins with the same digits
            patched.setattr(vault_module.hashlib, "blake2b", Weak)
        vault, same = Vault(SECRET), Vault(SECRET)
        made = {(label, value): vault.placeholder(label, value, "user") for label, value in values}
        assert all(made[pair] == vault.placeholder(*pair) for pair in values)
        assert [same.placeholder(*pair) for pair in values] == [made[pair] for pair in values]
    by_label = {(re.sub("[^A-Z]", "", label.upper()), value): made[label, value] for label, value in values}
    assert len(set(made.values())) == len(by_label) == len(vault)
    for (_, value), placeholder in made.items():
        assert re.fullmatch(r"<[A-Z0-9_]+_[0-9a-f]{6,64}>", placeholder)
        assert vault.restore(f"a {placeholder}{placeholder}>") == f"a {value}{value}>"


class Weak:
    def __init__(self, data: bytes, **_: Any) -> None:
        self.digits = "0" * 10 + hashlib.sha256(data).hexdigest()[:54]

    def hexdigest(self) -> str:
        return self.digits


def test_another_conversation_has_other_placeholders() -> None:
    one, two = Vault(), Vault()
    placeholder = one.placeholder("email", MAIL, "user")
    assert placeholder != two.placeholder("email", MAIL, "user")
    assert two.restore(placeholder) == placeholder
    assert one.restore(placeholder) == MAIL


def test_a_label_is_what_a_placeholder_can_hold() -> None:
    vault = Vault()
    for label in ("code <name>!", "", "___", "ß", "é" * 9, "x" * 500, "a" * 31 + "_b", "\ud800", "1"):
        assert vault.restore(f"<{vault.placeholder(label, MAIL, 'user')}") == f"<{MAIL}"


def test_messages_of_one_check_share_their_placeholders() -> None:
    vault = Vault()
    first, second = GUARD.check([Sample(f"I am {MAIL}"), Sample(f"{OTHER} wrote to {MAIL}", "tool")], vault=vault)
    assert first.text is not None
    assert second.text is not None
    assert first.text.split()[-1] == second.text.split()[-1] != second.text.split()[0]
    apart = GUARD.check([Sample(f"I am {MAIL}"), Sample(f"{OTHER} wrote to {MAIL}")])
    assert [verdict.text for verdict in apart] == ["I am EMAIL_1", "EMAIL_1 wrote to EMAIL_2"]  # no vault: nothing kept


@pytest.mark.parametrize("role", ["user", "assistant", "system", "developer", "tool", None])
def test_whose_values_come_back(role: Role | None) -> None:
    vault = Vault()
    placeholder = vault.placeholder("email", MAIL, role)
    assert vault.restore(placeholder) == (MAIL if role in ("user", "assistant") else placeholder)
    assert restored(vault, list(placeholder)) == vault.restore(placeholder)
    assert vault.placeholder("email", MAIL, "user") == placeholder
    assert vault.restore(placeholder) == MAIL  # the user gave it, too
    open_ = Vault(restores=[*RESTORED, "tool"])
    assert open_.restore(open_.placeholder("email", MAIL, "tool")) == MAIL


def test_what_only_looks_like_a_placeholder_stays() -> None:
    vault = Vault()
    made = vault.placeholder("email", MAIL, "user")
    for text in (made[1:-1], made.lower(), made[:-1], made[:-2] + ">", f"{made[:-1]} >", made.replace("_", "-")):
        assert vault.restore(text) == restored(vault, list(text)) == text


def test_a_placeholder_inside_a_value() -> None:
    vault = Vault()
    inner, hidden = vault.placeholder("email", MAIL, "user"), vault.placeholder("email", OTHER, "system")
    outer = vault.placeholder("note", f"see {inner} \\1 \\g<0>", "user")
    assert vault.restore(outer) == f"see {MAIL} \\1 \\g<0>"
    assert vault.placeholder("email", inner, "user") == inner
    # What an instruction holds does not come out by being wrapped.
    assert vault.restore(vault.placeholder("note", f"see {hidden}", "user")) == f"see {hidden}"


def test_a_text_that_is_pseudonymised_already_stays() -> None:
    vault = Vault()
    once = GUARD.check_text(f"postgres://bob:s3cr3tpw9@localhost/x {MAIL}", vault=vault).text
    assert once is not None
    assert once.startswith("postgres://bob:<BASIC_AUTH_")
    assert GUARD.check_text(once, vault=vault).text == once


@settings(max_examples=60)
@given(text=st.lists(wild | st.just("x < y"), max_size=20).map("".join), chunks=cuts)
def test_a_stream_is_held_only_where_a_placeholder_may_begin(text: str, chunks: list[int]) -> None:
    vault = Vault(SECRET)
    made = vault.placeholder("email", MAIL, "user")
    flow, out, seen = vault.restorer(), "", ""
    for piece in chunk(text, chunks):
        out += flow.feed(piece)
        seen += piece
        open_ = next((n for n in range(min(len(made) - 1, len(seen)), 0, -1) if opens(seen[-n:])), 0)
        assert out == vault.restore(seen[: len(seen) - open_])
    assert out + flow.close() == vault.restore(text)


def opens(tail: str) -> bool:
    digits = tail[len("<EMAIL_") :]
    return "<EMAIL_".startswith(tail) or (tail.startswith("<EMAIL_") and set(digits) <= set("0123456789abcdef"))


def test_without_a_value_nothing_is_held() -> None:
    vault = Vault()
    vault.placeholder("email", MAIL)  # of a reply: never restored
    flow = vault.restorer()
    assert [flow.feed(piece) for piece in "a<EMAIL_"] == list("a<EMAIL_")


def test_it_shows_and_keeps_no_value(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_file(*_: Any, **__: Any) -> Any:
        pytest.fail("a file was opened")

    vault = Vault(SECRET)
    redactor = Redactor(b"key of the guard", vault, "user")
    with caplog.at_level(logging.DEBUG), monkeypatch.context() as patched:
        patched.setattr("builtins.open", no_file)
        verdict = GUARD.check_text(MAIL, vault=vault)
    assert verdict.text is not None
    assert vault.restore(verdict.text) == MAIL
    assert repr(vault) == str(vault) == "Vault(1 values)"
    shown = f"{redactor!r} {vault.restorer()!r} {verdict!r} {verdict.to_json()} {caplog.text}"
    assert MAIL not in shown
    assert "conversation" not in shown
    assert "key of" not in shown
    assert not hasattr(vault, "__dict__")
    for refused in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="neither pickled nor copied"):
            refused(vault)


@pytest.mark.parametrize("key", [b"", b"short", b"x" * 65])
def test_a_key_of_no_use_is_refused(key: bytes) -> None:
    with pytest.raises(UserError, match="16 to 64 bytes"):
        Vault(key)


def test_a_vault_built_anew_knows_its_own_placeholders() -> None:
    """A server that keeps the key alone: an earlier reply holds a placeholder."""
    placeholder = Vault(SECRET).placeholder("email", MAIL)
    vault = Vault(SECRET)
    turns = [Sample(f"I am {MAIL}"), Sample(f"Hello {placeholder}", "assistant"), Sample("Who am I?")]
    verdicts = GUARD.check(turns, vault=vault)
    assert verdicts[0].text == f"I am {placeholder}"
    assert vault.restore(verdicts[1].text or "") == f"Hello {MAIL}"


# --- the reply


@settings(max_examples=30)
@given(chunks=cuts, before=st.text("xy <_", max_size=60))
def test_the_output_rules_read_what_the_model_wrote(chunks: list[int], before: str) -> None:
    vault = Vault()
    given_ = GUARD.check_text(MAIL, vault=vault).text
    reply = f"{before} {given_}, {MAIL}, {OTHER}, {CARD}; {KEY} "
    flow = StreamGuard(GUARD, vault=vault)
    back = vault.restorer()
    shown = "".join([*(back.feed(flow.feed(piece).text) for piece in chunk(reply, chunks))])
    shown += back.feed(flow.close().text) + back.close()
    assert flow.verdict is not None
    assert flow.verdict.action is Action.REDACT
    assert MAIL not in (flow.verdict.text or "")
    assert shown.startswith(f"{before} {MAIL}, {MAIL}, <EMAIL_")  # what the user gave; not what the model came up with
    for invented in (OTHER, CARD, KEY):
        assert invented not in shown
    assert shown == vault.restore(flow.verdict.text or "")
    (whole,) = GUARD.check([Sample(reply, "assistant", Stage.OUTPUT)], vault=vault)
    assert whole.text == flow.verdict.text


def test_a_conversation_of_two_turns() -> None:
    vault = Vault()
    (first,) = GUARD.check([Sample(f"I am {MAIL}")], vault=vault)
    turns = [Message("user", f"I am {MAIL}"), Message("assistant", f"Hello {MAIL}"), Message("user", f"And {OTHER}?")]
    verdicts = GUARD.check([Sample(turn.content, turn.role) for turn in turns], vault=vault)
    assert verdicts[0].text == first.text
    assert verdicts[1].text == (first.text or "").replace("I am", "Hello")
    assert len(vault) == 2
