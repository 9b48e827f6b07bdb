"""The Inspect page on a tiny Gemma: every panel draws, faults become sentences, and the page stays up."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import streamlit as st
from debugger_helpers import HOSTILE, inert, workplace
from streamlit.testing.v1 import AppTest

import debugger_app
from debugger_app import components, example, resources
from debugger_app.document import opened
from debugger_app.panels import share, trust
from debugger_app.panels.closer import PANELS
from debugger_app.study import Study
from safety_kit.gemma import Gemma, sublayers

pytestmark = pytest.mark.app

PAGE = Path(debugger_app.__file__).parent / "views" / "inspect.py"


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return workplace(tmp_path_factory.mktemp("work"))


@pytest.fixture
def page(work: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[AppTest]:
    """The page with its model there; nothing asked yet."""
    model, policy = work
    monkeypatch.setattr(sys, "argv", ["app.py", "--model", str(model), "--policy", str(policy)])
    components.component.cache_clear()  # each AppTest has a registry of its own
    st.cache_resource.clear()
    resources.model(str(model), None, "auto", "auto")
    yield AppTest.from_file(str(PAGE), default_timeout=120).run()
    st.cache_resource.clear()


def ask(page: AppTest, text: str = "the cat in the hat", tokens: int = 6) -> AppTest:
    page.text_area[0].set_value(text)
    next(field for field in page.number_input if field.label == "Reply tokens").set_value(tokens)
    return press(page, "Inspect")


def press(page: AppTest, label: str) -> AppTest:
    return next(button for button in page.button if button.label == label).click().run()


def study(page: AppTest) -> Study:
    runs: dict[str, Study] = page.session_state["runs"]
    return list(runs.values())[-1]


def choose(page: AppTest, token: int) -> AppTest:
    """As a click in the strip would."""
    name = list(page.session_state["runs"])[-1]
    page.session_state[f"strip-token-{name}"] = token
    page.run()
    assert f"**Token {token}**" in shown(page)
    return page


def shown(page: AppTest) -> str:
    elements = [*page.text, *page.markdown, *page.caption, *page.info, *page.error, *page.warning]
    return "\n".join(str(element.value) for element in elements)


def test_the_first_screen_is_a_worked_example(page: AppTest) -> None:
    assert not page.exception
    assert "A worked example" in shown(page)
    assert "prompt\\_injection" in shown(page)


def test_a_prompt_is_answered_and_shown(page: AppTest) -> None:
    ask(page)
    assert not page.exception
    seen = study(page)
    assert seen.document.sampling is not None
    assert len(seen.document.tokens) > 6
    assert page.query_params["run"]
    assert "cat" not in str(page.query_params)


def test_any_id_that_a_run_is_given_is_drawn(page: AppTest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secrets.token_bytes", lambda size=32: b"\xff" * size)  # underscores, in URL-safe base64
    ask(page)
    assert not page.exception
    assert study(page)


@pytest.mark.parametrize("panel", PANELS)
def test_every_panel_draws_and_selecting_another_token_reads_nothing(
    page: AppTest, panel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(page)
    count = len(study(page).document.tokens)
    page.session_state["panel"] = panel
    choose(page, count - 2)
    assert not page.exception
    if panel in ("Alternatives", "Lens", "Attention"):

        def refused(*_: Any, **__: Any) -> None:
            raise AssertionError("a pass over the text")

        monkeypatch.setattr(Gemma, "forward", refused)
        choose(page, count - 3)
        assert not page.exception
    choose(page, 0)
    assert not page.exception


@pytest.mark.parametrize(
    ("panel", "button", "said"),
    [
        ("Lens", "Every token", ("lens", "all")),
        ("Attention", "Remove it and see", ("ablation",)),
        ("Salience", "Measure", ("salience", "this token", "leave one out")),
        ("Cause", "Change it and see", ("cause", "block 0, head 0", "zero")),
    ],
)
def test_what_is_asked_for_is_measured_once_and_kept(
    page: AppTest, panel: str, button: str, said: tuple[str, ...]
) -> None:
    ask(page)
    page.session_state["panel"] = panel
    choose(page, len(study(page).document.tokens) - 2)
    press(page, button)
    assert not page.exception
    kept = [key for key in study(page).results if key[: len(said)] == said]
    assert len(kept) == 1
    assert not any("Tensor" in type(value).__name__ for value in study(page).results.values())


@pytest.mark.parametrize("how", ["zero", "mean", "patch"])
@pytest.mark.parametrize(("place", "said"), [("an MLP", "block 0, MLP"), ("the stream at a token", "block 0, token 8")])
def test_a_cause_is_sought_in_an_mlp_and_at_a_token_of_the_stream(
    page: AppTest, place: str, said: str, how: str
) -> None:
    ask(page, "another cat")
    ask(page)
    page.session_state["panel"] = "Cause"
    choose(page, 9)
    name = list(page.session_state["runs"])[-1]
    page.session_state[f"place-{name}"] = place
    page.session_state[f"how-{name}"] = how
    press(page.run(), "Change it and see")
    assert not page.exception
    ((key, made),) = [kept for kept in study(page).results.items() if kept[0][0] == "cause"]
    assert key[1] == said
    assert key[2].startswith({"patch": "patched from "}.get(how, how))
    assert len(made.controls) == 5
    assert "odd" in made.effect.classifiers


def test_a_patch_takes_no_run_of_another_model(page: AppTest) -> None:
    ask(page)
    page.file_uploader[0].set_value(("run.json", example.PLACE.read_bytes(), "application/json")).run()
    first = next(iter(page.session_state["runs"]))
    page.query_params["run"] = first
    page.session_state["panel"] = "Cause"
    page.session_state[f"strip-token-{first}"] = 9
    page.session_state[f"how-{first}"] = "patch"
    page.run()
    assert not page.exception
    assert "no other run of this model" in shown(page)


def test_a_whole_message_is_left_out(page: AppTest) -> None:
    ask(page)
    page.session_state["panel"] = "Salience"
    user = study(page).document.messages[0]
    choose(page, len(study(page).document.tokens) - 2)
    next(field for field in page.selectbox if field.label == "By").set_value("message")
    press(page, "Measure")
    assert not page.exception
    ((made, _),) = [kept for key, kept in study(page).results.items() if key[0] == "salience"]
    assert len(set(made.scores[user.start : user.stop])) == 1
    assert np.isnan(made.scores[user.stop])  # the template's


@pytest.mark.parametrize("method", ["leave one out", "integrated gradients"])
def test_this_reply_is_contrasted_with_that_of_another_run(page: AppTest, method: str) -> None:
    ask(page)
    first = study(page)
    assert first.live is not None
    fork = first.live.run.start + 2
    choose(page, fork)
    next(field for field in page.text_input if field.label == "or type one").set_value("the")
    press(page, "Go on from it")
    page.session_state["panel"] = "Salience"
    choose(page, fork)
    explained = next(field for field in page.selectbox if field.label == "What is explained")
    (aim,) = [option for option in explained.options if option.startswith("this reply rather than")]
    explained.set_value(aim.replace("\\", "")).run()
    picked = next(field for field in page.selectbox if field.label == "Method")
    assert "gradient norm" not in picked.options
    picked.set_value(method)
    press(page.run(), "Measure")
    assert not page.exception
    ((made, curve),) = [kept for key, kept in study(page).results.items() if key[0] == "salience"]
    assert len(made.scores) == fork
    assert np.isfinite(made.scores[1:]).all()
    assert curve.value == pytest.approx(made.value, abs=1e-4)
    said = shown(page)
    assert "Deleting the highest tokens" in said or "Not to be relied on" in said


def test_every_run_is_held_against_plain_transformers_once(page: AppTest, monkeypatch: pytest.MonkeyPatch) -> None:
    ask(page)
    assert "Trust: not checked" in [expander.label for expander in page.expander]
    page.run()  # drawn once without the checks; a browser asks for more
    made = study(page).document.trust
    assert made is not None
    assert made.failed == []
    assert page.expander[1].label == f"Trust: {len(made.checks)} of {len(made.checks)} checks passed"
    assert list(page.expander[1].dataframe[0].value["check"]) == [check.name for check in made.checks]
    monkeypatch.setattr(trust, "held_against_plain", lambda *_, **__: pytest.fail("checked twice"))
    choose(page, 5)
    assert not page.exception
    assert "Do not rely" not in shown(page)


def test_a_check_that_fails_is_red_and_its_charts_say_so(page: AppTest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sublayers.Inside, "attention", _unscaled(sublayers.Inside.attention))
    ask(page).run()
    made = study(page).document.trust
    assert made is not None
    assert {check.name for check in made.failed} == {"attention weights"}
    assert "1 of 13 checks failed" in page.error[0].value
    assert "failed" in list(page.expander[1].dataframe[0].value[""])
    page.session_state["panel"] = "Attention"
    choose(page, 5)
    assert any("Do not rely on this" in error.value and "attention weights" in error.value for error in page.error)
    page.session_state["panel"] = "Lens"
    choose(page, 5)
    assert not any("Do not rely on this" in error.value for error in page.error)


def _unscaled(attention: Any) -> Any:
    """Our attention as a tool would have it that forgets to scale the products."""

    def made(inside: Any, row: int, length: int) -> Any:
        return {block: replace(inputs, scaling=1.0) for block, inputs in attention(inside, row, length).items()}

    return made


@pytest.mark.parametrize("why", ["dear", "cancelled"])
def test_dear_checks_and_cancelled_ones_wait_to_be_asked_for(
    page: AppTest, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    if why == "dear":
        monkeypatch.setattr(trust, "AT_ONCE", 0.0)
        ask(page)
    else:
        with monkeypatch.context() as patch:
            patch.setattr(trust, "_cancelled", lambda: True)
            ask(page)
        choose(page, 5)
    assert study(page).document.trust is None
    assert "Trust: not checked" in [expander.label for expander in page.expander]
    press(page, "Check the numbers")
    assert not page.exception
    assert study(page).document.trust is not None


def test_a_reply_goes_on_from_another_token(page: AppTest) -> None:
    ask(page)
    first = study(page)
    assert first.live is not None
    choose(page, first.live.run.start + 2)
    next(field for field in page.text_input if field.label == "or type one").set_value("the")
    press(page, "Go on from it")
    assert not page.exception
    second = study(page)
    start = first.live.run.start
    assert second is not first
    ids = [[token.id for token in seen.document.tokens] for seen in (first, second)]
    assert ids[0][: start + 2] == ids[1][: start + 2]
    choose(page, start + 1)
    assert "Runs of this prompt" in shown(page)


@pytest.mark.parametrize(("text", "said"), [(" ", "empty"), ("a" * 100_001, "100,001 characters")])
def test_what_cannot_be_read_is_a_sentence_and_the_next_run_works(page: AppTest, text: str, said: str) -> None:
    ask(page, text)
    assert not page.exception
    assert said in shown(page)
    ask(page)
    assert said not in shown(page)
    assert study(page)


def test_running_out_of_memory_is_a_sentence_and_the_next_run_works(
    page: AppTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory")

    with monkeypatch.context() as patch:
        patch.setattr(Gemma, "forward", full)
        ask(page)
        assert not page.exception
        assert "not enough memory" in shown(page)
    ask(page)
    assert "not enough memory" not in shown(page)
    assert study(page)


def test_hostile_text_is_inert_wherever_it_is_shown(page: AppTest) -> None:
    ask(page, HOSTILE)
    choose(page, 12)
    assert not page.exception
    said = shown(page)
    assert inert(said)
    assert not any(element.allow_html for element in page.markdown)


def test_a_model_that_is_not_there_is_a_sentence(page: AppTest) -> None:
    field = next(field for field in page.text_input if field.label == "Model")
    field.set_value("/nowhere/at/all").run()
    for _ in range(100):
        if "did not work" in shown(page):
            break
        page.run()
    assert not page.exception
    assert "did not work" in shown(page)


def test_a_run_of_another_model_asks_this_one_nothing(page: AppTest) -> None:
    page.session_state["panel"] = "Lens"
    page.session_state["strip-token-example"] = 12
    page.run()
    assert not page.exception
    assert "the model that made the run" in shown(page)


def test_a_refused_file_is_read_once(page: AppTest, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[bytes] = []
    monkeypatch.setattr(share, "read", lambda raw: read.append(raw) or opened(raw))
    page.file_uploader[0].set_value(("run.json", b"{}", "application/json")).run()
    assert "did not work" in shown(page)
    page.run()
    assert read == [b"{}"]


def test_a_run_from_a_file_is_shown_at_once(page: AppTest) -> None:
    raw = example.PLACE.read_bytes()
    page.file_uploader[0].set_value(("run.json", raw, "application/json")).run()
    assert not page.exception
    assert study(page).document == example.document()
    assert "A worked example" not in shown(page)
