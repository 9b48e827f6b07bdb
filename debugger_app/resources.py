"""Models and guards, loaded once a process; one lock a model, so that two browsers never mix their runs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import streamlit as st

if TYPE_CHECKING:
    from safety_kit.gemma import Gemma
    from safety_kit.guard import Guard


@dataclass(frozen=True)
class Model:
    """A Gemma and the lock that whoever runs it holds."""

    gemma: Gemma
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def running(self) -> Iterator[Gemma]:
        """The model, for one run; others wait."""
        with self._lock:
            yield self.gemma


@st.cache_resource(max_entries=2, show_spinner="Loading the model; the embedded one takes some seconds …")
def model(source: str, revision: str | None, device: str, dtype: str) -> Model:
    """The model of a source, in a float type on a device."""
    from safety_kit.gemma import Gemma

    choice: Any = dtype  # Gemma.load refuses what it does not know
    return Model(Gemma.load(source, revision=revision, device=device, dtype=choice))


@st.cache_resource(max_entries=4, show_spinner="Building the guard …")
def guard(policy: str, digest: str, model: str, _gemma: Gemma) -> Guard:
    """The guard of a policy on a model.

    Args:
        policy: Name or file.
        digest: Of its content: a changed file is read again.
        model: Digest of the model.
        _gemma: The model.
    """
    from safety_kit.guard import Guard
    from safety_kit.policy import Policy

    return Guard(Policy.load(policy), _gemma)
