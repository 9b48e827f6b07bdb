"""What the README and the guides show is run: Python blocks in order, `safety-kit` lines as commands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cli_helpers import ROOT, app, runner

from safety_kit.commands import models

if TYPE_CHECKING:
    from safety_kit.gemma import Gemma

PAGES = ["README.md", *(path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "docs" / "guides").glob("*.md")))]
BLOCK = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")


def blocks(page: str) -> list[tuple[str, str]]:
    """(language, code) of a page's Python and shell blocks; a block marked `skip` is only shown."""
    found = BLOCK.findall((ROOT / page).read_text(encoding="utf-8"))
    return [(language, code) for language, marks, code in found if language in ("python", "sh") and "skip" not in marks]


@pytest.mark.parametrize("page", [*PAGES, "docs/LIMITS.md", "docs/ARCHITECTURE.md", "docs/FIGURES.md"])
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert [to for to in LINK.findall(text) if not ((ROOT / page).parent / to).exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_the_blocks_run(page: str, embedded: Gemma, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safety_kit.gemma import Gemma

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Gemma, "load", classmethod(lambda cls, source="embedded", **_: embedded))
    monkeypatch.setattr(models, "load", lambda *_: embedded)
    names: dict[str, Any] = {"__name__": "__docs__"}
    found = blocks(page)
    assert found or page.startswith("docs/guides/debug")  # what is done there is done with a mouse
    for language, code in found:
        if language == "python":
            exec(compile(code, page, "exec"), names)
        else:
            for line in code.splitlines():
                shell_line(line)


def shell_line(line: str) -> None:
    """Run a `safety-kit` line; a `> file` at its end is obeyed, a comment that says `exit N` is checked."""
    command, _, comment = line.partition("  #")
    words = shlex.split(command)
    if words[:1] != ["safety-kit"]:
        return
    target = None
    if ">" in words:
        target = words[words.index(">") + 1]
        words = words[: words.index(">")]
    done = runner.invoke(app, words[1:])
    expected = re.search(r"exit (\d+)", comment)
    assert done.exit_code == int(expected[1] if expected else 0), f"{line}\n{done.stderr}"
    if target:
        Path(target).write_text(done.stdout, encoding="utf-8")


def test_the_exit_codes_of_the_readme_are_those_of_the_errors() -> None:
    from safety_kit.cli import FAULT, INTERRUPTED
    from safety_kit.errors import SafetyKitError, UserError

    table = dict(re.findall(r"^\| (\d+) \| (\w+)", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE))
    assert table[str(UserError.exit_code)] == "bad"
    assert table[str(SafetyKitError.exit_code)] == table[str(FAULT)] == "any"
    assert table[str(INTERRUPTED)] == "interrupted"
    assert set(table) == {"0", "1", "2", "3", "130"}


def test_every_command_is_in_the_readme() -> None:
    shown = (ROOT / "README.md").read_text(encoding="utf-8")
    for command in (
        *("check", "generate", "train", "evaluate", "classify", "policy show", "policy add", "prepare", "explain"),
        *("data check", "compare", "next", "curve", "judge", "calibrate", "publish", "scan"),
        *("policy new", "policy test", "policy diff", "policy explain"),
        *("serve", "keys new", "audit verify", "review export", "inspect"),
    ):
        assert f"safety-kit {command}" in shown
