"""Servers as processes of their own: started, waited for, watched, killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil

SERVE = (sys.executable, "-m", "safety_kit", "serve")


@dataclass
class Server:
    """A server that runs.

    Attributes:
        url: Its base URL, up to ``/v1``.
        process: The process itself.
        seconds: From its start until it was ready.
        log: What it wrote to stdout and stderr.
    """

    url: str
    process: subprocess.Popen[bytes]
    seconds: float
    log: Path

    def memory(self) -> float:
        """Resident megabytes."""
        return float(psutil.Process(self.process.pid).memory_info().rss) / 1e6

    def busy(self) -> float:
        """Seconds of processor time so far."""
        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)

    def stop(self) -> None:
        """SIGTERM, and SIGKILL if that does not help."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """`kill -9`."""
        self.process.kill()
        self.process.wait()


@contextmanager
def running(command: Sequence[str], url: str, ready: str, seconds: float = 60) -> Iterator[Server]:
    """Run a command until the block ends; SIGTERM then, SIGKILL if that does not help.

    Args:
        command: What to run.
        url: Where it will serve.
        ready: A URL that answers with 200 from when it is ready.
        seconds: It may take for that.

    Raises:
        RuntimeError: It ended, or was not ready in time; with the end of its log.
    """
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        begin = time.perf_counter()
        with log.open("wb") as out:
            server = Server(url, _start(command, out), 0.0, log)
        try:
            while not answers(ready):
                if server.process.poll() is not None or time.perf_counter() - begin > seconds:
                    end = log.read_text(errors="replace")[-2000:]
                    raise RuntimeError(f"{' '.join(command[:6])} … did not become ready:\n{end}")
                time.sleep(0.005)
            server.seconds = time.perf_counter() - begin
            yield server
        finally:
            server.stop()


def upstream(rate: float = 20, first: float = 0.0, tokens: int = 32) -> tuple[list[str], int]:
    """Command and port of a fake upstream."""
    port = free_port()
    options = [f"--port={port}", f"--rate={rate}", f"--first={first}", f"--tokens={tokens}"]
    return [sys.executable, "-m", "benchmarks.fake_upstream", *options], port


@contextmanager
def fake_upstream(rate: float = 20, first: float = 0.0, tokens: int = 32) -> Iterator[Server]:
    """A fake upstream."""
    command, port = upstream(rate, first, tokens)
    base = f"http://127.0.0.1:{port}/v1"
    with running(command, base, f"{base}/models") as server:
        yield server


@contextmanager
def gateway(policy: str, upstream: str | None, *more: str, port: int = 0, seconds: float = 120) -> Iterator[Server]:
    """`safety-kit serve`.

    Args:
        policy: Name or file.
        upstream: Base URL of who generates; None: the embedded Gemma.
        more: Further options.
        port: Where it listens; 0: on a free port.
        seconds: It may take to become ready.
    """
    port = port or free_port()
    root = f"http://127.0.0.1:{port}"
    options = ["--host", "127.0.0.1", "--port", str(port), "--policy", policy]
    options += ["--upstream", upstream] if upstream else []
    with running([*SERVE, *options, *more], f"{root}/v1", f"{root}/readyz", seconds) as server:
        yield server


def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def answers(url: str) -> bool:
    """Whether it answers with 200."""
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def _start(command: Sequence[str], out: IO[bytes]) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment, start_new_session=True)
