"""Models and guards, loaded once a process; one lock a model, so that two browsers never mix their runs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import streamlit as st

if TYPE_CHECKING:
    from safety_kit.gemma import Gemma
    from safety_kit.guard import Guard
    from safety_kit.policy import Policy


@dataclass(frozen=True)
class Model:
    """A Gemma and the lock that whoever runs it holds.

    Attributes:
        gemma: The model.
        revision: That it was loaded at, or None.
    """

    gemma: Gemma
    revision: str | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def running(self) -> Iterator[Gemma]:
        """The model, for one run; others wait, and can be told to stop while they do."""
        if not self._lock.acquire(blocking=False):
            note = st.empty()
            while not self._lock.acquire(timeout=0.25):
                note.caption("Another run is on; this one is next …")  # a place at which Streamlit may end this script
            note.empty()
        try:
            yield self.gemma
        finally:
            self._lock.release()


@st.cache_resource(max_entries=2, show_spinner=False)
def loading(source: str, revision: str | None, device: str, dtype: str) -> Future[Model]:
    """A model on its way, loaded in the background so that a page can be read meanwhile."""
    future: Future[Model] = Future()

    def load() -> None:
        try:
            from safety_kit.gemma import Gemma

            choice: Any = dtype  # Gemma.load refuses what it does not know
            future.set_result(Model(Gemma.load(source, revision=revision, device=device, dtype=choice), revision))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=load, daemon=True, name="load").start()
    return future


def model(source: str, revision: str | None, device: str, dtype: str) -> Model:
    """The model of a source, in a float type on a device; waits until it is there."""
    try:
        return loading(source, revision, device, dtype).result()
    except BaseException:
        loading.clear(source, revision, device, dtype)  # what is mended on disk can be tried again
        raise


@st.cache_resource(max_entries=4, show_spinner="Building the guard …")
def guard(named: str, digest: str, model: str, _policy: Policy, _gemma: Gemma) -> Guard:
    """The guard of a policy on a model.

    Args:
        named: The policy's name or file: of two files with one content, each has its own folders beside it.
        digest: Of its content.
        model: Digest of the model.
        _policy: The policy.
        _gemma: The model.
    """
    from safety_kit.guard import Guard

    return Guard(_policy, _gemma)
