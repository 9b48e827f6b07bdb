"""The debugger in a browser: clicks, keys, files, two sessions at once, and text that wants to act."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from debugger_helpers import HOSTILE, inert, running, workplace

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [pytest.mark.app, pytest.mark.slow, pytest.mark.allow_hosts(["127.0.0.1"])]

QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
QUIET += ["--disable-component-update", "--disable-sync"]
WAIT = 60_000
LOADING = 300_000
"""Milliseconds; on busy cores the model takes its time."""

TEXT = "the cat in the hat"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("debugger")
    with running(*workplace(folder), folder / "log") as at:
        yield at


@pytest.fixture(scope="module")
def browser(require: Callable[[str], str]) -> Iterator[Browser]:
    program = require("chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=program, args=QUIET)
        yield browser
        browser.close()


class Visit:
    """One session: its page, and everything that it asked for."""

    def __init__(self, browser: Browser, address: str, **options: Any) -> None:
        self.context = browser.new_context(accept_downloads=True, **options)
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(WAIT)
        self.hosts: set[str] = set()
        self.largest = 0
        self.page.on("request", lambda request: self.hosts.add(request.url.split("/")[2]))
        self.page.on("websocket", lambda socket: socket.on("framereceived", self._measure))
        self.page.on("dialog", lambda dialog: pytest.fail(f"a dialog: {dialog.message}"))
        self.page.goto(address)

    def _measure(self, frame: Any) -> None:
        self.largest = max(self.largest, len(frame))

    def ask(self, text: str) -> Visit:
        self.page.get_by_label("Prompt", exact=True).fill(text)
        self.page.locator("button:not([disabled])", has_text="Inspect").click(timeout=LOADING)
        self.page.wait_for_url("**run=**")
        return self

    def choose(self, token: int) -> None:
        self.page.locator("button.token").nth(token).click()
        self.page.get_by_text(f"Token {token}:").wait_for()

    def tokens(self) -> list[str]:
        self.page.locator("button.token").first.wait_for()
        strips = self.page.get_by_label("Tokens of prompt and reply")
        self.until(lambda: strips.count() == 1)  # the example's goes when the run comes
        return self.page.locator("button.token").all_text_contents()

    def until(self, fits: Callable[[], bool]) -> None:
        """Wait until something is so."""
        for _ in range(WAIT // 100):
            if fits():
                return
            self.page.wait_for_timeout(100)
        pytest.fail("it never became so")

    def download(self, label: str, to: Path) -> Path:
        self.page.get_by_text("checks passed").wait_for()  # a page that is drawn again takes a file back
        self.page.get_by_role("button", name="Share").click()
        with self.page.expect_download() as waiting:
            self.page.get_by_role("button", name=label).click()
        waiting.value.save_as(to)
        self.page.keyboard.press("Escape")
        return to


@pytest.fixture
def visit(browser: Browser, address: str) -> Iterator[Callable[..., Visit]]:
    made: list[Visit] = []

    def visit(**options: Any) -> Visit:
        made.append(Visit(browser, address, **options))
        return made[-1]

    yield visit
    for each in made:
        each.context.close()


def test_clicks_and_keys_choose_a_token_and_nothing_leaves_this_machine(visit: Callable[..., Visit]) -> None:
    here = visit().ask(TEXT)
    here.until(lambda: "cat" in "".join(here.tokens()).replace(" ", ""))
    here.choose(8)
    here.page.locator("button.token").nth(8).focus()
    here.page.keyboard.press("ArrowRight")
    here.page.keyboard.press("ArrowRight")
    here.page.keyboard.press("Enter")
    here.page.get_by_text("Token 10:").wait_for()
    assert "token=10" in here.page.url
    assert "cat" not in here.page.url
    assert {host.split(":")[0] for host in here.hosts} == {"127.0.0.1"}


def test_a_run_goes_out_as_files_and_comes_in_again(visit: Callable[..., Visit], tmp_path: Path) -> None:
    here = visit().ask(HOSTILE)
    here.until(lambda: "onerror" in "".join(here.tokens()))
    shown = here.tokens()
    document = here.download("Run as JSON", tmp_path / "run.json")
    html = here.download("Run as one HTML page", tmp_path / "run.html")

    offline = here.context.browser.new_context(offline=True) if here.context.browser else pytest.fail("no browser")
    page = offline.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("dialog", lambda dialog: pytest.fail("a dialog"))
    page.goto(html.as_uri())
    assert asked == [html.as_uri()]
    assert "onerror" in page.inner_text("body")
    assert inert(page.inner_text("body"))
    assert page.locator("img, script, a").count() == 0
    offline.close()

    there = visit()
    there.page.get_by_text("Open a run from a file").click()
    there.page.locator("input[type=file]").set_input_files(document)
    there.until(lambda: there.tokens() == shown)
    assert json.loads(document.read_text())["model"]["digest"][:12] in there.page.inner_text("body")


def test_cancel_ends_an_experiment(visit: Callable[..., Visit]) -> None:
    here = visit().ask("zebra " * 300)
    here.until(lambda: "zebra" in "".join(here.tokens()).replace(" ", ""))
    here.choose(900)
    here.page.get_by_text("Salience", exact=True).click()
    here.page.get_by_role("button", name="Measure").click()
    bar = here.page.get_by_text("Leave one out, then its check,")
    bar.wait_for()
    here.page.locator("[class*=st-key-cancel-Leave] button").click()
    bar.wait_for(state="detached")
    assert here.page.get_by_label("Salience of each token").count() == 0


def test_a_crafted_file_is_refused_and_the_page_stays(visit: Callable[..., Visit], tmp_path: Path) -> None:
    crafted = tmp_path / "run.json"
    crafted.write_text('{"model": {"digest": "<img src=x onerror=alert(1)>"}}')
    here = visit()
    here.page.get_by_text("Open a run from a file").click()
    here.page.locator("input[type=file]").set_input_files(crafted)
    here.page.get_by_text("This is no run that can be shown").wait_for()
    assert here.tokens()
    assert here.page.locator("img[src=x]").count() == 0


def test_two_sessions_at_once_see_their_own_runs_only(visit: Callable[..., Visit]) -> None:
    one, other = visit(), visit()
    for session, text in ((one, "zebra " * 30), (other, "quail " * 30)):
        session.page.get_by_label("Prompt", exact=True).fill(text)
        session.page.locator("button:not([disabled])", has_text="Inspect").click(timeout=LOADING)
    for session, own, foreign in ((one, "zebra", "quail"), (other, "quail", "zebra")):
        session.page.wait_for_url("**run=**")
        session.until(lambda session=session, own=own: own in "".join(session.tokens()).replace(" ", ""))
        assert foreign not in session.page.inner_text("body")
    stolen = visit()
    stolen.page.goto(one.page.url)
    stolen.tokens()
    assert "zebra" not in "".join(stolen.tokens()).replace(" ", "")


def test_hostile_text_neither_acts_nor_hides(visit: Callable[..., Visit]) -> None:
    here = visit().ask(HOSTILE)
    here.until(lambda: "onerror" in "".join(here.tokens()))
    here.choose(12)
    assert inert(here.page.inner_text("body"))
    assert here.page.locator("img[src=x]").count() == 0
    assert "\\u{202e}" in "".join(here.tokens())


def test_a_long_head_travels_as_an_overview_and_an_exact_tile(visit: Callable[..., Visit]) -> None:
    here = visit().ask("the cat " * 150)
    here.until(lambda: len(here.tokens()) > 600)
    here.choose(500)
    here.page.get_by_role("radio", name="Attention").click()
    overview = here.page.locator(".heat canvas").first
    overview.wait_for()
    assert "the largest of 3 × 3" in here.page.locator(".heat figcaption").first.inner_text()
    overview.click(position={"x": 20, "y": 200})
    here.page.get_by_text("exact around token").wait_for()
    here.page.locator(".heat canvas").nth(1).focus()
    here.page.keyboard.press("ArrowDown")
    assert "weight of token" in here.page.locator(".heat output").inner_text()
    assert here.largest < 1_000_000


@pytest.mark.parametrize("width", [800, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_the_window(visit: Callable[..., Visit], width: int, scheme: str) -> None:
    here = visit(viewport={"width": width, "height": 900}, color_scheme=scheme)
    here.tokens()
    wide = here.page.evaluate("document.documentElement.scrollWidth")
    assert wide <= width
