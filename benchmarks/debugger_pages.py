"""The debugger's pages against the clock: in Chromium, and the server's part of a click."""

from __future__ import annotations

import shutil
import sys
import time
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import patch

from benchmarks.guard_cost import STORY, percentile
from benchmarks.processes import free_port, running
from benchmarks.result import Figure, figure, not_run

if TYPE_CHECKING:
    from playwright.sync_api import Page
    from streamlit.testing.v1 import AppTest

    from safety_kit.gemma import Gemma
    from safety_kit.guard import Guard

PROMPT = STORY * 6
"""About 128 tokens, with the template."""

QUIET = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]
PATIENCE = 300_000
PANELS = ("Lens", "Attention")


def browser(repeats: int) -> list[Figure]:
    """From opening the page to tokens that one can read; from asking to a run's own."""
    chromium = shutil.which("chromium")
    if chromium is None:
        return [not_run("the debugger in Chromium")]
    from playwright.sync_api import sync_playwright

    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "safety_kit", "debug", "--headless", "--port", str(port)]
    opened, asked = [], []
    with running(command, url, f"{url}/_stcore/health") as server, sync_playwright() as play:
        window = play.chromium.launch(executable_path=chromium, args=QUIET)
        for _ in range(repeats + 1):
            page = window.new_context().new_page()
            page.set_default_timeout(PATIENCE)
            begin = time.perf_counter()
            page.goto(url)
            page.locator("button.token").first.wait_for()
            opened.append(time.perf_counter() - begin)
            asked.append(_ask(page))
            page.context.close()
        window.close()
    return [
        figure("`safety-kit debug`, from its start until it answers", [server.seconds], "s"),
        figure("first useful screen, right after that", opened[:1], "s"),
        figure("first useful screen, warm", opened[1:], "s", most=3),
        figure("128 tokens, asked to shown in Chromium, one token answered", asked[1:], "s", most=5),
    ]


def _ask(page: Page) -> float:
    page.get_by_label("Prompt", exact=True).fill(PROMPT)
    page.get_by_text("System prompt and sampling").click()
    page.get_by_role("spinbutton", name="Reply tokens").fill("1")
    button = page.locator("button:not([disabled])", has_text="Inspect")
    button.wait_for()
    begin = time.perf_counter()
    button.click()
    page.wait_for_url("**run=**")
    page.locator("button.token").nth(100).wait_for()
    return time.perf_counter() - begin


def selections(gemma: Gemma, _guard: Guard, repeats: int) -> list[Figure]:
    """The server's time to draw another token, or another head, of a run; no pass over the text is allowed."""
    import streamlit as st
    from streamlit.testing.v1 import AppTest

    import debugger_app
    from debugger_app import resources

    st.cache_resource.clear()
    loaded: Future[resources.Model] = Future()
    loaded.set_result(resources.Model(gemma))
    view = Path(debugger_app.__file__).parent / "views" / "inspect.py"
    figures = []
    with patch.object(resources, "loading", lambda *_: loaded), patch.object(sys, "argv", ["app.py"]):
        page = AppTest.from_file(str(view), default_timeout=300).run()
        page.text_area[0].set_value(PROMPT)
        next(field for field in page.number_input if field.label == "Reply tokens").set_value(1)
        next(button for button in page.button if button.label == "Inspect").click().run()
        name = next(iter(page.session_state["runs"]))
        for panel in PANELS:
            page.session_state["panel"] = panel
            _choose(page, name, 20)
            with patch.object(type(gemma), "forward", _refused):
                times = [_choose(page, name, token) for token in range(30, 30 + 4 * repeats)]
            what = f"another token with {panel} open, the whole page drawn by the server, no pass over the text"
            figures += [figure(f"{what}: median", times, "ms"), percentile(f"{what}: p95", times, 95, most=150)]
    st.cache_resource.clear()
    return figures


def _choose(page: AppTest, name: str, token: int) -> float:
    """Milliseconds until the page is drawn for a token."""
    page.session_state[f"strip-token-{name}"] = token
    begin = time.perf_counter()
    page.run()
    took = 1000 * (time.perf_counter() - begin)
    if page.exception or not any(str(one.value).startswith(f"**Token {token}**") for one in page.markdown):
        raise RuntimeError(f"The page did not show token {token}: {page.exception}")
    return took


def _refused(*_: object, **__: object) -> None:
    raise AssertionError("a pass over the text")
