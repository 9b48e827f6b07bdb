"""API keys: hashed at rest, found by their token alone, read again when their file changes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from cli_helpers import app, runner
from hypothesis import given
from hypothesis import strategies as st

from safety_kit.errors import UserError
from safety_kit.gateway import keys
from safety_kit.gateway.keys import Key, KeyRing, add, revoke, token_of


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.yaml"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that the ring sees; a test moves it."""
    now = [0.0]
    monkeypatch.setattr(keys.time, "monotonic", lambda: now[0])
    return now


def test_a_key_is_found_by_its_token_and_is_not_in_the_file(file: Path) -> None:
    token = add(file, "team-a", "strict", "60/minute")
    other = add(file, "team-b")
    ring = KeyRing.load(file)
    assert ring.find(token) == Key("team-a", "strict", "60/minute")
    assert ring.find(other) == Key("team-b")
    for wrong in ("", token[:-1], token + "x", token.upper(), "team-a", "\ud800"):
        assert ring.find(wrong) is None
    assert token not in file.read_text()
    assert token.removeprefix(keys.PREFIX) not in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_hash_from_the_file_opens_nothing(file: Path) -> None:
    add(file, "team-a")
    stolen = file.read_text().split("sha256: ")[1].split()[0]
    assert KeyRing.load(file).find(stolen) is None


def test_each_key_is_compared_in_constant_time(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = [add(file, f"team-{number}") for number in range(3)]
    ring = KeyRing.load(file)
    compared: list[bytes] = []
    monkeypatch.setattr(keys.hmac, "compare_digest", lambda a, b: compared.append(b) or a == b)
    for token in [*tokens, "wrong"]:
        ring.find(token)
    assert len(compared) == 3 * 4


def test_a_changed_file_is_read_again_and_a_bad_one_is_not_taken_over(
    file: Path, clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    first = add(file, "team-a")
    ring = KeyRing.load(file, every=2)
    second = add(file, "team-b")
    assert ring.find(second) is None  # not looked yet
    clock[0] = 2
    assert ring.find(second) == Key("team-b")
    revoke(file, "team-a")
    clock[0] = 4
    assert ring.find(first) is None
    file.write_text("version: 1\nkeys: [{name: team-b, sha256: half")
    clock[0] = 6
    assert ring.find(second) == Key("team-b")
    assert ring.problem is not None
    assert "line 2" in ring.problem
    assert "kept" in "".join(capsys.readouterr())
    file.unlink()
    clock[0] = 8
    assert ring.find(second) == Key("team-b")
    third = add(file, "team-c")
    clock[0] = 10
    assert ring.find(third) == Key("team-c")
    assert ring.find(second) is None
    assert ring.problem is None


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "mapping"),
        ("keys: []", "version: is missing"),
        ("version: 1\nkeys: [{name: a}]", r"keys\[0\].sha256: is missing"),
        ("version: 1\nkeys: [{name: a, sha256: abc}]", r"keys\[0\].sha256: use what"),
        ("version: 1\nkeys: [{name: 'a b', sha256: " + "0" * 64 + "}]", r"keys\[0\].name"),
        ("version: 1\nkeys: [{name: a, sha256: '" + "0" * 64 + "', rate: often}]", r"keys\[0\].rate: use a rate"),
        ("version: 1\nversion: 1\nkeys: []", "line 2: the key 'version' is given twice"),
        (json.dumps({"version": 1, "keys": [{"name": n, "sha256": "0" * 64} for n in "ab"]}), "sha256 is there twice"),
        (json.dumps({"version": 1, "keys": [{"name": "a", "sha256": d * 64} for d in "01"]}), "name is there twice"),
    ],
)
def test_a_file_that_is_none_is_told_with_its_place(file: Path, content: str, told: str) -> None:
    file.write_text(content)
    file.chmod(0o600)
    with pytest.raises(UserError, match=told):
        KeyRing.load(file)


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
def test_a_file_that_others_may_read_is_refused(file: Path) -> None:
    add(file, "team-a")
    file.chmod(0o640)
    with pytest.raises(UserError, match="chmod 600"):
        KeyRing.load(file)


@pytest.mark.parametrize(
    ("headers", "token"),
    [
        ({"authorization": "Bearer sk-1"}, "sk-1"),
        ({"authorization": "bearer   sk-1 "}, "sk-1"),
        ({"x-api-key": "sk-2"}, "sk-2"),
        ({"authorization": "Bearer sk-1", "x-api-key": "sk-2"}, "sk-1"),
        ({"authorization": "Basic dTpw", "x-api-key": "sk-2"}, None),  # what was meant is not guessed
        ({"authorization": "Bearer"}, None),
        ({"authorization": "Bearer a b"}, None),
        ({"authorization": "Bearer a,b"}, None),
        ({"x-api-key": "\u00e9"}, None),
        ({"x-api-key": "k" * 513}, None),
        ({}, None),
    ],
)
def test_where_the_token_is(headers: dict[str, str], token: str | None) -> None:
    assert token_of(headers) == token


@given(st.dictionaries(st.sampled_from(["authorization", "x-api-key"]), st.text()))
def test_no_header_is_too_odd(headers: dict[str, str]) -> None:
    token = token_of(headers)
    assert token is None or (token.isascii() and token.isprintable())


def test_the_command(file: Path) -> None:
    made = runner.invoke(
        app, ["keys", "new", "team-a", "--file", str(file), "--rate", "60/minute", "--policy", "p.yaml"]
    )
    token = made.stdout.strip()
    assert KeyRing.load(file).find(token) == Key("team-a", str(file.parent / "p.yaml"), "60/minute")
    assert runner.invoke(app, ["keys", "new", "team-a", "--file", str(file)]).exit_code == 2
    assert runner.invoke(app, ["keys", "new", "a b", "--file", str(file)]).exit_code == 2
    listed = runner.invoke(app, ["keys", "list", "--file", str(file), "--json"])
    assert [key["name"] for key in json.loads(listed.stdout)["keys"]] == ["team-a"]
    assert token not in listed.stdout + made.stderr
    assert runner.invoke(app, ["keys", "revoke", "team-a", "--file", str(file)]).exit_code == 0
    assert runner.invoke(app, ["keys", "revoke", "team-a", "--file", str(file)]).exit_code == 2
    assert KeyRing.load(file).find(token) is None
