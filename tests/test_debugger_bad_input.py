"""What a person may do wrong on any page, on a tiny Gemma: a sentence says what to do, and the page stays up."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import streamlit as st
from debugger_helpers import workplace
from guard_helpers import make_artifact
from streamlit.testing.v1 import AppTest

import debugger_app
from debugger_app import components, resources
from debugger_app.kept import Saved, Taught
from debugger_app.lesson import Correction, Lesson

pytestmark = pytest.mark.app

VIEWS = Path(debugger_app.__file__).parent / "views"
NAMES = ["inspect", "guard", "data", "teach", "compare"]  # "runs" has page links, which need the whole app


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return workplace(tmp_path_factory.mktemp("work"))


@pytest.fixture
def visit(work: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., AppTest]]:
    """A page by its name, with another policy if need be."""

    def open_(name: str, policy: Path | str = work[1]) -> AppTest:
        monkeypatch.setattr(sys, "argv", ["app.py", "--model", str(work[0]), "--policy", str(policy)])
        components.component.cache_clear()
        return AppTest.from_file(str(VIEWS / f"{name}.py"), default_timeout=120).run()

    st.cache_resource.clear()
    resources.model(str(work[0]), None, "auto", "auto")
    yield open_
    st.cache_resource.clear()


def press(page: AppTest, label: str) -> AppTest:
    return next(button for button in page.button if button.label == label).click().run()


def said(page: AppTest) -> str:
    """All sentences on a page that shows no traceback."""
    assert not page.exception
    return "\n".join(str(element.value) for element in [*page.text, *page.markdown, *page.info, *page.caption])


@pytest.mark.parametrize("name", NAMES)
def test_a_policy_that_fails_validation_and_a_classifier_of_another_model(
    visit: Callable[..., AppTest], name: str, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("version: 1\nname: bad\nchecks: {odd: {type: prob}}\n", encoding="utf-8")
    assert "did not work" in said(visit(name, bad))
    make_artifact(tmp_path / "odd", ["odd"], digest="0" * 64)
    bad.write_text(
        "version: 1\nname: bad\nchecks:\n  odd: {type: probe, artifact: ./odd}\n"
        "rules:\n  - {category: odd, action: block, threshold: 0.5}\n",
        encoding="utf-8",
    )
    assert "did not work" in said(visit(name, bad))
    assert "did not work" in said(visit(name, tmp_path / "nowhere.yaml"))


@pytest.mark.parametrize("text", ["", "word " * 20_000], ids=["empty", "100,000 characters"])
def test_the_model_is_asked_for_a_reply_to_what_it_cannot_answer(visit: Callable[..., AppTest], text: str) -> None:
    page = visit("guard")
    page.text_area(key="guard-user").set_value(text)
    next(box for box in page.checkbox if box.label.startswith("Let the model")).check()
    assert "did not work" in said(press(page, "Check"))
    page.text_area(key="guard-user").set_value("the cat")
    assert "did not work" not in said(press(page, "Check"))


def test_an_alternative_that_the_model_does_not_have(visit: Callable[..., AppTest]) -> None:
    page = visit("inspect")
    page.text_area[0].set_value("the cat in the hat")
    press(page, "Inspect")
    (seen,) = page.session_state["runs"].values()
    run: dict[str, Any] = json.loads(seen.document.model_dump_json())
    for token in run["tokens"]:
        for other in token["top"]:
            other["id"] += 2**30
    page.file_uploader[0].set_value(("run.json", json.dumps(run).encode(), "application/json")).run()
    name = list(page.session_state["runs"])[-1]
    for panel in ("Salience", "Attribution"):
        page.session_state["panel"] = panel
        page.session_state[f"strip-token-{name}"] = 5
        assert "tokens that this model does not have" in said(page.run())


def test_a_run_of_one_token_has_no_number_to_explain(visit: Callable[..., AppTest]) -> None:
    page = visit("inspect")
    page.text_area[0].set_value("the cat in the hat")
    press(page, "Inspect")
    (seen,) = page.session_state["runs"].values()
    run = json.loads(seen.document.model_dump_json()) | {"messages": [], "trust": None}
    run["tokens"] = run["tokens"][:1]
    page.session_state["panel"] = "Salience"
    page.file_uploader[0].set_value(("run.json", json.dumps(run).encode(), "application/json")).run()
    name = list(page.session_state["runs"])[-1]
    page.session_state[f"strip-token-{name}"] = 0
    assert "Choose a later token" in said(page.run())


def test_a_new_version_of_the_policy_is_gone_before_it_is_measured(
    visit: Callable[..., AppTest], tmp_path: Path
) -> None:
    page = visit("teach")
    page.session_state["kept"] = Saved(tmp_path / "gone.yaml", tmp_path)
    classifier: Any = SimpleNamespace(report_={"odd": {}})
    lesson = Lesson("odd", classifier, cast("Any", None), (Correction("a", 1),))
    page.session_state["taught"] = Taught(lesson, None, [0.5], [], "A new category.")
    assert "did not work" in said(page.run())


def test_a_place_without_an_end_is_no_file_of_rows(visit: Callable[..., AppTest]) -> None:
    page = visit("data")
    page.segmented_control(key="data-from").set_value("path").run()
    next(field for field in page.text_input if field.label == "Path").set_value("/dev/null")
    assert "There is no file" in said(press(page, "Score"))
