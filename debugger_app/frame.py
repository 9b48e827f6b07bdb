"""What every page stands on: the model and the policy that are open, or a sentence on why they are not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import streamlit as st

from debugger_app import options, resources
from debugger_app.visible import visible
from safety_kit.errors import SafetyKitError
from safety_kit.policy import Policy

if TYPE_CHECKING:
    from safety_kit.guard import Guard


@dataclass(frozen=True, slots=True)
class Opened:
    """A model, and the guard of a policy on it."""

    model: resources.Model
    guard: Guard

    @property
    def policy(self) -> Policy:
        return self.guard.policy


def opened() -> Opened:
    """The model and the policy named in the sidebar; a page ends here where they cannot be had."""
    wanted = _wanted()
    with st.spinner("Loading the model …"):
        return _built(*wanted)


def opening() -> Opened | None:
    """The same, without waiting: None while the model is on its way."""
    wanted = _wanted()
    return _built(*wanted) if resources.loading(*wanted[:4]).done() else None


def opening_is_done() -> bool:
    """Whether the model named in the sidebar is there, or cannot be had; draws nothing."""
    return resources.loading(*_model(st.session_state.get("model", options.read().model))).done()


def say(text: str) -> None:
    """A message about something that did not work, as text that Markdown leaves alone."""
    with st.container(border=True):
        st.markdown(":red[:material/error:] **That did not work**")
        st.text(visible(text))


@contextmanager
def told() -> Iterator[None]:
    """Run something; a fault that a person can do something about becomes a message, and the page goes on."""
    try:
        yield
    except SafetyKitError as error:
        say(str(error))
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        say("There was not enough memory for this. Shorten the text or the reply; nothing else is lost.")
        _release()


def out_of_memory(error: BaseException) -> bool:
    """Whether a fault says that memory ran out, on a GPU or here."""
    return isinstance(error, MemoryError) or any(
        said in str(error).lower() for said in ("out of memory", "can't allocate memory", "not enough memory")
    )


@contextmanager
def working(text: str) -> Iterator[Callable[[int, int], None]]:
    """A bar and a button that stops the work: `progress(done, all)`, for what may take over a second.

    A click on Cancel, like any other, makes Streamlit end the script at the next step of the bar. Not so in a fragment,
    whose clicks wait for the script: what works stands in none.
    """
    place = st.empty()
    with place.container(horizontal=True, vertical_alignment="center"):
        bar = st.progress(0.0, text=text)
        st.button("Cancel", key=f"cancel-{text}")

    def progress(done: int, of: int) -> None:
        bar.progress(min(1.0, done / max(1, of)), text=f"{text} {done} of {of}")

    try:
        yield progress
    finally:
        place.empty()


def _wanted() -> tuple[str, str | None, str, str, str]:
    """Source, revision, device and float type of the model, and the policy, from the sidebar."""
    started = options.read()
    with st.sidebar:
        source = st.text_input("Model", key="model", value=started.model, help="embedded, a hub id, or a folder.")
        policy = st.text_input(
            "Policy", key="policy", value=started.policy, help="A shipped policy's name, or a YAML file."
        )
    return *_model(source), policy


def _model(source: str) -> tuple[str, str | None, str, str]:
    """A source with the device and float type that the app was started with, and its revision if it is the same."""
    started = options.read()
    return source, started.revision if source == started.model else None, started.device, started.dtype


def _built(source: str, revision: str | None, device: str, dtype: str, named: str) -> Opened:
    try:
        policy = Policy.load(named)
        model = resources.model(source, revision, device, dtype)
        guard = resources.guard(named, policy.digest, model.gemma.digest, policy, model.gemma)
    except SafetyKitError as error:
        say(str(error))
        st.stop()
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        say("There was not enough memory to load this model; name a smaller one, or another float type or device.")
        st.stop()
    with st.sidebar:
        gemma = model.gemma
        st.caption(f"{gemma.family}, {gemma.n_blocks} blocks, {gemma.dtype}, {gemma.attention} on {gemma.device}")
        st.caption(f"model {gemma.digest[:12]} · policy {guard.digest[:12]}")
    return Opened(model, guard)


def _release() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
