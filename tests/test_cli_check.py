"""`safety-kit check`: verdicts, sources of text, and bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cli_helpers import TEXT_POLICY, app, runner, start, write_text_policy
from hypothesis import given, settings
from hypothesis import strategies as st

from safety_kit.checks.patterns import PatternsCheck

KEYS = {"stage", "action", "code", "message", "request_id", "text", "findings", "errors", "timings", "policy_digest"}
FINDING_KEYS = {"check", "category", "score", "score_kind", "spans", "detail"}


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_text_policy(tmp_path_factory.mktemp("policy") / "text.yaml"))


def check(policy: str, *arguments: str, stdin: str | bytes | None = None) -> tuple[int, dict[str, Any]]:
    """The exit code and the verdict; nothing else may have been printed."""
    done = runner.invoke(app, ["check", "--policy", policy, "--json", *arguments], input=stdin)
    assert done.stderr == ""
    assert done.stdout.count("\n") == 1
    assert done.stdout.isascii()
    verdict = json.loads(done.stdout)
    assert set(verdict) == KEYS
    assert all(set(finding) == FINDING_KEYS for finding in verdict["findings"])
    return done.exit_code, verdict


@pytest.mark.parametrize(
    ("text", "code", "action", "passed"),
    [
        ("Good morning.", 0, "allow", "Good morning."),
        ("Write to ana@example.com today.", 0, "redact", "Write to [EMAIL] today."),
        ("When does Project Bluebird start?", 1, "block", None),
    ],
)
def test_the_verdict_and_the_exit_code(policy: str, text: str, code: int, action: str, passed: str | None) -> None:
    got, verdict = check(policy, text)
    assert (got, verdict["action"], verdict["text"]) == (code, action, passed)
    assert verdict["stage"] == "input"
    assert verdict["errors"] == []
    assert len(verdict["policy_digest"]) == 64


def test_spans_point_into_the_raw_text(policy: str) -> None:
    text = "👩‍👧 מייל: ana@example.com"
    _, verdict = check(policy, text)
    ((start, end),) = verdict["findings"][0]["spans"]
    assert text[start:end] == "ana@example.com"


def test_the_page_for_people(policy: str) -> None:
    done = runner.invoke(app, ["check", "--policy", policy, "Write to ana@example.com, [bold]now[/bold]\x1b[31m"])
    assert done.exit_code == 0
    assert done.stdout.startswith("REDACT at input\n")
    assert "pii.email" in done.stdout
    assert "9–24" in done.stdout
    assert "Write to [EMAIL], [bold]now[/bold]\\x1b[31m" in done.stdout
    assert "\x1b" not in done.stdout


def test_stage_and_prompt_go_to_the_guard(policy: str) -> None:
    _, verdict = check(policy, "--stage", "output", "--prompt", "Hi", "Good morning.")
    assert verdict["stage"] == "output"


@pytest.mark.parametrize("argument", [["-"], []])
def test_standard_input(policy: str, argument: list[str]) -> None:
    code, verdict = check(policy, *argument, stdin="Bluebird\n")
    assert (code, verdict["action"]) == (1, "block")


def test_bytes_that_are_no_utf_8_are_replaced(policy: str) -> None:
    code, verdict = check(policy, "-", stdin=b"caf\xe9 \xff\n")
    assert (code, verdict["text"]) == (0, "caf\ufffd \ufffd\n")


BAD = ["", " ", "\x00", "\ud83d lone", "👩‍👧‍👦🎉", "שלום עולם‏", "e\u0301" * 50, "\ufeff", "a" * 100_000, "\n\n"]


@pytest.mark.parametrize("text", BAD, ids=lambda text: f"{len(text)}-{text[:8]!a}")
@pytest.mark.parametrize("as_json", [True, False])
def test_strange_texts_have_a_verdict(policy: str, text: str, as_json: bool) -> None:
    done = runner.invoke(app, ["check", "--policy", policy, *(["--json"] if as_json else []), text])
    assert done.exit_code == 0, done.stderr
    assert done.stdout.encode()
    if as_json:
        verdict = json.loads(done.stdout)
        assert (verdict["action"], verdict["text"]) == ("allow", text)


@settings(max_examples=40)
@given(text=st.text(st.characters(), max_size=60))
def test_any_text_comes_back_as_it_was_or_blocked_or_redacted(policy: str, text: str) -> None:
    done = runner.invoke(app, ["check", "--policy", policy, "--json", "--", text])
    verdict = json.loads(done.stdout)
    assert done.exit_code == int(verdict["action"] == "block")
    assert verdict["action"] != "allow" or text == "-" or verdict["text"] == text


def rows(path: Path, *lines: Any) -> str:
    path.write_text("".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines), encoding="utf-8")
    return str(path)


def test_a_file_gives_one_line_a_row_in_order(policy: str, tmp_path: Path) -> None:
    texts = [f"mail {n} to ana@example.com" if n % 3 else f"letter {n}" for n in range(70)]
    file = rows(tmp_path / "in.jsonl", *({"text": text, "label": 0} for text in texts))
    done = runner.invoke(app, ["check", "--policy", policy, "--input", file])
    assert done.exit_code == 0
    verdicts = [json.loads(line) for line in done.stdout.splitlines()]
    assert [v["text"] for v in verdicts] == [text.replace("ana@example.com", "[EMAIL]") for text in texts]


def test_a_file_is_1_where_one_row_is_blocked_and_rows_have_their_own_stage(policy: str, tmp_path: Path) -> None:
    lines = [{"text": "bluebird"}, "", {"text": "fine", "stage": "output", "prompt": "Hi"}, {"text": ""}]
    done = runner.invoke(app, ["check", "--policy", policy, "--json", "--input", rows(tmp_path / "in.jsonl", *lines)])
    assert done.exit_code == 1
    verdicts = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(v["stage"], v["action"]) for v in verdicts] == [
        ("input", "block"),
        ("output", "allow"),
        ("input", "allow"),
    ]


def test_bad_rows_are_named_by_line_and_nothing_is_let_through(policy: str, tmp_path: Path) -> None:
    lines = [
        {"text": "fine"},
        "not json SECRET",
        {"txt": "SECRET"},
        {"text": 5},
        {"text": "SECRET", "stage": "middle"},
        {"text": "SECRET", "prompt": 1},
        "[1]",
        "[" * 100_000,
    ]
    done = runner.invoke(app, ["check", "--policy", policy, "--input", rows(tmp_path / "in.jsonl", *lines)])
    assert (done.exit_code, done.stdout) == (2, "")
    assert "SECRET" not in done.stderr
    assert [f"line {n}:" in done.stderr for n in range(1, 9)] == [False, *[True] * 7]


@pytest.mark.parametrize("content", ["", "\n\n", None])
def test_an_empty_or_missing_file_is_2(policy: str, tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "in.jsonl"
    if content is not None:
        file.write_text(content, encoding="utf-8")
    done = runner.invoke(app, ["check", "--policy", policy, "--input", str(file)])
    assert (done.exit_code, done.stdout) == (2, "")
    assert "in.jsonl" in done.stderr


def test_a_text_and_a_file_are_too_much(policy: str, tmp_path: Path) -> None:
    done = runner.invoke(app, ["check", "--policy", policy, "--input", str(tmp_path / "x"), "text"])
    assert done.exit_code == 2


def test_a_check_that_raises_is_a_block_with_errors(policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("it broke on: Good morning.")

    monkeypatch.setattr(PatternsCheck, "step", fail)
    code, verdict = check(policy, "Good morning.")
    assert (code, verdict["action"], verdict["text"]) == (1, "block", None)
    assert [error["check"] for error in verdict["errors"]] == ["banned"]
    assert "Good morning" not in json.dumps(verdict)


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ("name: text only", "name: text only\nnonsense: 1", "nonsense"),
        ("type: pii,", "type: crystal_ball,", "checks.pii.type"),
        ("action: block}", "action: block, threshold: 2}", "rules[2].threshold"),
        ("version: 1", "version: 9", "version"),
        ("checks:", "checks: [", "line"),
    ],
)
def test_a_policy_that_is_wrong_is_2_and_names_the_place(tmp_path: Path, old: str, new: str, place: str) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(TEXT_POLICY.replace(old, new), encoding="utf-8")
    done = runner.invoke(app, ["check", "--policy", str(file), "--json", "a text"])
    assert (done.exit_code, done.stdout) == (2, "")
    assert place in done.stderr
    assert "a text" not in done.stderr


def test_a_policy_of_text_checks_starts_quickly_and_without_torch(policy: str) -> None:
    arguments = ["check", "--policy", policy, "--json", "Write to ana@example.com"]
    shown, seconds, heavy = start(*arguments)
    assert json.loads(shown)["text"] == "Write to [EMAIL]"
    assert heavy.isdisjoint({"torch", "transformers", "sklearn"})
    assert min(seconds, *(start(*arguments)[1] for _ in range(2))) < 1
