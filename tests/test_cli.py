"""The command line as a whole: exit codes, what goes where, faults, and a light start."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli_helpers import ROOT, app, kit, runner, start, write_text_policy

from safety_kit import __version__, console
from safety_kit.commands import models
from safety_kit.errors import MissingExtra, PolicyError, SafetyKitError

SECRET = "the user's own words"
COMMANDS = [
    *("demo", "train", "prepare", "classify", "explain", "evaluate", "compare", "next", "curve", "judge"),
    *("calibrate", "publish", "check", "generate", "policy", "data"),
]


@pytest.fixture
def text_policy(tmp_path: Path) -> Path:
    return write_text_policy(tmp_path / "text.yaml")


@pytest.fixture(autouse=True)
def _no_debug(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "debug", False)


def raising(error: BaseException) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS), ["policy", "add"]])
def test_every_command_has_help(command: list[str]) -> None:
    done = runner.invoke(app, [*command, "--help"])
    assert done.exit_code == 0
    assert "Usage" in done.stdout


def test_help_names_every_command_loads_nothing_heavy_and_is_quick() -> None:
    shown, seconds, heavy = start("--help")
    assert all(name in shown for name in COMMANDS)
    assert heavy == set()
    assert min(seconds, *(start("--help")[1] for _ in range(2))) < 0.6


def test_version() -> None:
    done = runner.invoke(app, ["--version"])
    assert (done.exit_code, done.stdout) == (0, f"safety-kit {__version__}\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "--nothing"],
        ["nothing"],
        ["check", "two", "texts"],
        ["check", "--stage", "middle", "text"],
        ["policy", "validate"],
        ["generate", "--max-tokens", "0", "text"],
        ["train", "rows.jsonl"],
        ["demo", "--prompts", "no-such-file.jsonl"],
    ],
)
def test_bad_arguments_are_2_with_a_sentence_on_stderr(arguments: list[str]) -> None:
    done = runner.invoke(app, arguments)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert done.stderr.startswith("safety-kit: ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (PolicyError("The policy is wrong; mend it."), 2),
        (SafetyKitError("The disk is full."), 3),
        (MissingExtra("peft", "train"), 3),
        (ValueError(SECRET), 3),
        (AssertionError(SECRET), 3),
        (RecursionError(SECRET), 3),
        (MemoryError(), 3),
        (PermissionError(13, "Permission denied", "out/manifest.json"), 3),
        (KeyboardInterrupt(), 130),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_fault_has_its_code_and_one_sentence(
    error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "guard_for", raising(error))
    done = runner.invoke(app, ["check", SECRET])
    assert done.exit_code == code
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr
    assert SECRET not in done.stderr
    if isinstance(error, SafetyKitError):
        assert str(error) in done.stderr
    elif code == 3 and not isinstance(error, OSError):
        assert type(error).__name__ in done.stderr
        assert "--debug" in done.stderr


def test_debug_shows_the_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "guard_for", raising(ValueError("inside")))
    done = runner.invoke(app, ["--debug", "check", "text"])
    assert done.exit_code == 3
    assert "Traceback" in done.stderr
    assert "ValueError: inside" in done.stderr


def test_a_reader_that_goes_away_is_no_block_and_no_noise(text_policy: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "a quiet text"}\n' * 5000, encoding="utf-8")
    command = [sys.executable, "-m", "safety_kit", "check", "--policy", str(text_policy), "--input", str(rows)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        assert json.loads(running.stdout.readline())["action"] == "allow"
        running.stdout.close()
        said = running.stderr.read()
    assert (running.returncode, said) == (3, b"")


def test_no_text_and_a_terminal_for_input_is_2_with_the_remedy(text_policy: Path) -> None:
    terminal, its_end = os.openpty()
    try:
        done = kit("check", "--policy", str(text_policy), stdin=its_end)
    finally:
        os.close(terminal)
        os.close(its_end)
    assert done.returncode == 2
    assert "pipe one in" in done.stderr


def test_the_module_is_the_command(text_policy: Path) -> None:
    done = kit("check", "--policy", str(text_policy), "--json", "project bluebird")
    assert done.returncode == 1, done.stderr
    assert json.loads(done.stdout)["action"] == "block"


def test_output_in_another_encoding_does_not_crash(text_policy: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = kit("check", "--policy", str(text_policy), "日本 a@example.com", env=environment)
    assert done.returncode == 0, done.stderr
    assert "[EMAIL]" in done.stdout


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("\x9b31m\x07\r\x00", "\\x9b31m\\x07\\x0d\\x00"),
        ("abc\u202edcba", "abc\\u202edcba"),
        ("\ud83d", "\\ud83d"),
        ("line\n\ttab é 日 👩‍👧 می‌خواهم", "line\n\ttab é 日 👩‍👧 می‌خواهم"),
        ("[red]no markup[/red]", "[red]no markup[/red]"),
    ],
)
def test_safe(text: str, shown: str) -> None:
    assert console.safe(text) == shown


def test_one_line() -> None:
    assert console.one_line("a\n b\tc") == "a b c"
    assert console.one_line("x" * 100, 10) == "x" * 9 + "…"
