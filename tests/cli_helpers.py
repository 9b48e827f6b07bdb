"""What the tests of the command line share."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from safety_kit.cli import app

__all__ = ["ROOT", "TEXT_POLICY", "app", "kit", "runner", "start", "write_text_policy"]

ROOT = Path(__file__).resolve().parents[1]

HEAVY = {"torch", "transformers", "numpy", "sklearn", "pydantic"}

TEXT_POLICY = """\
version: 1
name: text only
checks:
  pii: {type: pii, countries: [us]}  # personal data
  # names that are not public yet
  banned: {type: patterns, keywords: [bluebird]}

rules:
  - {category: pii.email, action: redact}
  - {category: pii.credit_card, action: redact}
  - {category: banned, action: block}
messages: {default: This was withheld.}
"""

runner = CliRunner()


def write_text_policy(path: Path) -> Path:
    """A policy that needs no model."""
    path.write_text(TEXT_POLICY, encoding="utf-8")
    return path


def kit(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    command = [sys.executable, "-m", "safety_kit", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False, **options)


def start(*arguments: str) -> tuple[str, float, set[str]]:
    """Run the command in a fresh process: its stdout, its processor seconds, and the heavy packages that it loaded.

    Processor time, because other programs share the machine's clock.
    """
    code = (
        f"import sys\nfrom safety_kit.cli import app\ntry:\n    app({list(arguments)!r})\n"
        f"finally:\n    print(*({HEAVY!r} & set(sys.modules)), file=sys.stderr)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    seconds = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return done.stdout, seconds, set(done.stderr.split())
