"""The gateway of `make demo-loop`: in this process, on loopback, asked by an `openai` client."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from safety_kit.errors import MissingExtra, PolicyError, UserError

if TYPE_CHECKING:
    import httpx2
    import openai

    from safety_kit.gemma import Gemma

RELOAD: Final = 0.2
"""Seconds between looks at the policy's file."""

PATIENCE: Final = 120.0
"""Seconds that a reply, or a policy that was put in place, may take."""

REPLY: Final = 24
"""Most tokens of a reply."""

_BETWEEN: Final = 0.05
_NEEDED: Final = ("aiohttp", "fastapi", "httpx2", "limits", "openai", "prometheus_client", "structlog", "uvicorn")


def require_extras() -> None:
    """Say what is not installed, before anything is begun.

    Raises:
        MissingExtra: With the command that installs it.
    """
    for package in _NEEDED:
        if find_spec(package) is None:
            raise MissingExtra(package, "serve,integrations")


@dataclass(frozen=True, slots=True)
class Answer:
    """What the client got.

    Attributes:
        request_id: By which the review store knows the request.
        action: The strongest of all verdicts, as the header ``x-safety-action`` has it.
        finish_reason: ``content_filter`` for a block.
        text: The reply, or the policy's message.
    """

    request_id: str
    action: str
    finish_reason: str
    text: str

    @property
    def blocked(self) -> bool:
        return self.finish_reason == "content_filter"


@dataclass(frozen=True, slots=True)
class Served:
    """A gateway that listens, and its client.

    Attributes:
        url: Its address.
        review: The folder of its review store.
    """

    url: str
    review: Path
    _client: openai.OpenAI
    _http: httpx2.Client

    def ask(self, text: str) -> Answer:
        """Send a message, and wait for the reply."""
        raw = self._client.chat.completions.with_raw_response.create(
            model="embedded", messages=[{"role": "user", "content": text}], max_tokens=REPLY, temperature=0
        )
        (choice,) = raw.parse().choices
        headers = raw.headers
        return Answer(
            headers["x-request-id"], headers["x-safety-action"], choice.finish_reason, choice.message.content or ""
        )

    def until_in_force(self, digest: str) -> None:
        """Wait until `/readyz` says that the policy with this digest is the one that decides.

        Raises:
            PolicyError: The gateway refuses the file, or has not taken it up in time.
        """
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            (stands,) = self._http.get(f"{self.url}/readyz").json()["policies"].values()
            if stands["digest"] == digest:
                return
            if stands["refused"]:
                raise PolicyError("The gateway refuses the policy; its log says why.")
            time.sleep(_BETWEEN)
        raise PolicyError(f"The gateway has not taken up the policy in {PATIENCE:g} seconds; try again.")


@contextmanager
def serving(gemma: Gemma, policy: Path, review: Path) -> Iterator[Served]:
    """A gateway on a free port of loopback, which keeps what it blocks for review; it stops with the block.

    Args:
        gemma: The embedded Gemma, which the guard reads and which replies; the caller may go on using it.
        policy: Its file, which is loaded again when it changes.
        review: Folder of the review store; made, private to its owner.

    Raises:
        UserError: The policy cannot be served, or nothing may listen here.
    """
    import httpx2
    import openai

    from safety_kit.gateway.app import create_app
    from safety_kit.gateway.build import build
    from safety_kit.gateway.server import Server
    from safety_kit.gateway.settings import Limits, Review, Settings

    settings = Settings(
        port=0,
        policy=str(policy),
        reload=RELOAD,
        review=Review(keep="blocked", folder=review),
        limits=Limits(drain=5),
    )
    address: Future[str] = Future()
    server = Server(create_app(settings, build(settings, gemma)), settings, address.set_result)

    def run() -> None:
        try:
            server.run()
        finally:
            if not address.done():
                address.set_exception(UserError("The gateway cannot listen on 127.0.0.1; see what forbids it."))

    thread = threading.Thread(target=run, name="gateway")
    thread.start()
    try:
        url = address.result()
        # No proxy of the environment: what is asked here stays on this machine.
        direct: dict[str, Any] = {"trust_env": False, "timeout": PATIENCE}
        with (
            httpx2.Client(**direct) as http,
            openai.OpenAI(
                base_url=f"{url}/v1",
                api_key="none",
                max_retries=0,
                timeout=PATIENCE,
                http_client=openai.DefaultHttpxClient(**direct),
            ) as client,
        ):
            yield Served(url, review, client, http)
    finally:
        server.should_exit = True
        thread.join()
