"""What the debugger's tests share: a tiny Gemma in a folder, a policy that fits it, the running app."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from guard_helpers import make_artifact
from test_gemma_load import tiny, tiny_folder

HOSTILE = (
    "<img src=x onerror=alert(1)></script> **bold** [a](javascript:b) \u202eevil\u202c a\u200bb \x1b[31mred\x07 😀"
)
"""What must neither act nor be invisible, wherever it is shown."""

POLICY = """\
version: 1
name: tiny
checks:
  odd: {type: probe, artifact: ./odd}
rules:
  - {category: odd, action: block, threshold: 0.5}
"""


def workplace(folder: Path) -> tuple[Path, Path]:
    """A tiny checkpoint and a policy with a probe that was taught on it."""
    gemma = tiny(chat=False)
    make_artifact(folder / "odd", ["odd"], digest=gemma.digest, size=gemma.hidden_size)
    policy = folder / "policy.yaml"
    policy.write_text(POLICY, encoding="utf-8")
    return tiny_folder(chat=False), policy


@contextmanager
def running(model: Path, policy: Path, log: Path) -> Iterator[str]:
    """`safety-kit debug` on a free port: its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "safety_kit", "debug", "--headless", "--port", str(port)]
    with log.open("w") as out:
        process = subprocess.Popen(
            [*command, "--model", str(model), "--policy", str(policy)],
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 120
        while not answers(port):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(60)
        alive = answers(port)
    assert not alive, "the page outlived its command"


def answers(port: int) -> bool:
    """Whether someone listens there."""
    with socket.socket() as attempt:
        return attempt.connect_ex(("127.0.0.1", port)) == 0


def inert(text: str) -> bool:
    """Whether nothing in it is invisible or changes direction."""
    return not re.search("[\u202a-\u202e\u200b\x1b\x07]", text)
