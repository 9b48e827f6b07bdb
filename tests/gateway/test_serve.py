"""`safety-kit serve` as a process: ready without torch, stopped in a stream, and what it refuses to do."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from cli_helpers import ROOT, app, runner, write_text_policy
from gateway_helpers import LOOPBACK, FakeUpstream
from integration_helpers import chunks
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from safety_kit.errors import UserError
from safety_kit.gateway.settings import Settings

BODY = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}


@contextmanager
def serving(*arguments: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The command in a process of its own: its address, and the process."""
    command = [sys.executable, "-m", "safety_kit", "serve", "--port", "0", *arguments]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        lines = []
        try:
            for line in process.stderr:
                lines.append(line)
                if found := re.match(r"listening on (\S+)", line):
                    yield found[1], process
                    break
            else:
                pytest.fail("".join(lines))
        finally:
            process.kill()


@pytest.fixture(scope="module")
def upstream(upstream: str) -> str:
    return f"{upstream}/v1"


@pytest.fixture
def policy(tmp_path: Path) -> str:
    return str(write_text_policy(tmp_path / "policy.yaml"))


@pytest.mark.allow_hosts(LOOPBACK)
def test_a_policy_of_text_checks_is_served_without_torch(fake: FakeUpstream, upstream: str, policy: str) -> None:
    fake.says("Write to ana@example.com.")
    with serving("--policy", policy, "--upstream", upstream) as (address, process):
        assert httpx.get(f"{address}/readyz").status_code == 200
        reply = httpx.post(f"{address}/v1/chat/completions", json=BODY).json()
        assert reply["choices"][0]["message"]["content"] == "Write to [EMAIL]."
        maps = Path(f"/proc/{process.pid}/maps")
        if maps.exists():
            assert "libtorch" not in maps.read_text(encoding="utf-8")


@pytest.mark.allow_hosts(LOOPBACK)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stream_that_runs_when_it_is_stopped_is_ended(
    fake: FakeUpstream, upstream: str, policy: str, number: signal.Signals
) -> None:
    go_on = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        first, *rest = [f"data: {json.dumps(chunk)}\n\n".encode() for chunk in chunks(["One. ", "Two. " * 20])]
        yield first + rest.pop(0)
        await asyncio.wait_for(go_on.wait(), 20)
        yield b"".join(rest) + b"data: [DONE]\n\n"

    async def answer(asked: dict[str, Any], request: Request) -> Response:
        loops.append(asyncio.get_running_loop())
        return StreamingResponse(body(), media_type="text/event-stream")

    loops: list[asyncio.AbstractEventLoop] = []
    fake.answer = answer
    with serving("--policy", policy, "--upstream", upstream) as (address, process):
        with httpx.stream("POST", f"{address}/v1/chat/completions", json={**BODY, "stream": True}) as reply:
            pieces = reply.iter_text()
            text = next(pieces)
            process.send_signal(number)
            loops[0].call_soon_threadsafe(go_on.set)
            text += "".join(pieces)
        assert text.count("Two.") == 20
        assert text.endswith("data: [DONE]\n\n")
        assert process.wait(20) in (130, -number)


@pytest.mark.allow_hosts(LOOPBACK)
def test_a_stream_that_outlasts_the_drain_is_cut(
    fake: FakeUpstream, upstream: str, policy: str, tmp_path: Path
) -> None:
    async def body() -> AsyncIterator[bytes]:
        for chunk in list(chunks(["One. ", "Two. ", "And ana@exam"]))[:-1]:
            yield f"data: {json.dumps(chunk)}\n\n".encode()
        await asyncio.sleep(60)

    async def answer(asked: dict[str, Any], request: Request) -> Response:
        return StreamingResponse(body(), media_type="text/event-stream")

    fake.answer = answer
    config = tmp_path / "gateway.yaml"
    config.write_text(f"policy: {policy}\nupstream: {{url: '{upstream}'}}\nlimits: {{drain: 1}}\n", encoding="utf-8")
    with serving("--config", str(config)) as (address, process):
        text = ""
        with (
            suppress(httpx.RemoteProtocolError),
            httpx.stream("POST", f"{address}/v1/chat/completions", json={**BODY, "stream": True}) as reply,
        ):
            for piece in reply.iter_text():
                text += piece
                process.send_signal(signal.SIGTERM)
        assert "One." in text
        assert "ana@" not in text
        assert "[DONE]" not in text
        assert process.wait(20) == -signal.SIGTERM


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--host", "0.0.0.0"], "allow_anonymous"),
        (["--host", "example.com"], "allow_anonymous"),
        (["--upstream", "ftp://x"], "http://127.0.0.1:8000/v1"),
        (["--blocked", "loudly"], "blocked: "),
        (["--config", "nothing.yaml"], "cannot be read"),
        (["--upstream", "http://127.0.0.1:1/v1", "--upstream-key-env", "NO_SUCH_KEY"], "NO_SUCH_KEY"),
        (["--pass-caller-key"], "upstream.url"),
    ],
)
def test_what_cannot_be_served_is_told_with_the_remedy(policy: str, arguments: list[str], told: str) -> None:
    done = runner.invoke(app, ["serve", "--policy", policy, "--port", "0", *arguments])
    assert done.exit_code == 2
    assert told in done.stderr


def test_a_missing_extra_is_told_with_its_command(policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    done = runner.invoke(app, ["serve", "--policy", policy])
    assert done.exit_code == 3
    assert "pip install 'safety-kit[serve]'" in done.stderr


def test_options_override_the_file(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text("port: 9000\nblocked: error\nupstream: {url: 'http://a/v1', retries: 0}\n", encoding="utf-8")
    settings = Settings.load(
        file, {"port": 9001, "blocked": None, "upstream.url": "http://b/v1", "upstream.api_key_env": None}
    )
    assert (settings.port, settings.blocked) == (9001, "error")
    assert settings.upstream is not None
    assert (settings.upstream.url, settings.upstream.retries) == ("http://b/v1", 0)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[1]", "must be a mapping"),
        ("a: {", "gateway.yaml"),
        ("prot: 80", "prot: unknown key"),
        ("upstream: {url: http://a, api_key: [s3cret]}", "upstream.api_key"),
        ("limits: {body: -1}", "limits.body"),
    ],
)
def test_a_file_that_is_wrong_is_told_with_its_place_and_without_its_values(
    tmp_path: Path, text: str, told: str
) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=re.escape(told)) as caught:
        Settings.load(file, {})
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "localhost", "::1"])
def test_loopback_needs_no_keys(host: str) -> None:
    assert Settings.load(None, {"host": host}).host == host
