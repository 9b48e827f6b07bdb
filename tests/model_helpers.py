"""Fakes of a model: a real tiny Gemma that can be held, fails when told to, and notes what it reads; its classifier."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from safety_kit import artifacts
from safety_kit.gemma import Capture, Gemma, Tokens, Trace
from safety_kit.guard import Guard
from safety_kit.policy import Policy

BLOCKS = (1, 3)
POLICY = """
version: 1
name: t
checks:
  hate: {type: probe, artifact: hate}
rules:
  - {category: hate, stages: STAGES, action: block, threshold: THRESHOLD}
"""


class Held:
    """A Gemma whose forwards wait until they are let go.

    Attributes:
        passes: The texts of each forward.
        readers: Names of the threads that called it.
        fail: Called with a forward's texts; what it raises, the forward raises.
    """

    def __init__(self, gemma: Gemma, fail: Callable[[Sequence[Tokens]], None] = lambda texts: None) -> None:
        self.passes: list[list[Tokens]] = []
        self.readers: set[str] = set()
        self.entered = threading.Event()
        self.fail = fail
        self._gemma = gemma
        self._go = threading.Event()
        self._go.set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._gemma, name)

    def hold(self) -> None:
        self._go.clear()
        self.entered.clear()

    def let_go(self) -> None:
        self._go.set()

    def forward(self, texts: Sequence[Tokens], capture: Capture, **options: Any) -> list[Trace]:
        self.passes.append(list(texts))
        self.readers.add(threading.current_thread().name)
        self.entered.set()
        assert self._go.wait(60)
        self.fail(texts)
        return self._gemma.forward(texts, capture, **options)


def tiny_artifact(
    folder: Path, gemma: Any, *, window: int = 12, stride: int = 4, seed: int = 0, blocks: Sequence[int] = BLOCKS
) -> Path:
    """A classifier with random weights for a tiny Gemma, calibrated so that texts differ."""
    rng = np.random.default_rng(seed)
    width = len(blocks) * gemma.hidden_size
    stages = ("input", "output")
    record = {
        "bias": 0.0,
        "calibration": {stage: {"slope": 2.0, "intercept": 0.0} for stage in stages},
        "regularisation": 1.0,
        "positives": 200,
        "negatives": 200,
        "metrics": {},
    }
    model = {
        "name": gemma.name,
        "family": "Gemma 3",
        "digest": gemma.digest,
        "dtype": gemma.dtype,
        "blocks": gemma.n_blocks,
        "hidden_size": gemma.hidden_size,
    }
    manifest = {
        "reading": "causal",
        "model": model,
        "blocks": list(blocks),
        "window": window,
        "stride": stride,
        "categories": {"hate": record},
        "data_digest": "x",
        "created": "2026-01-01",
        "kit_version": "0",
    }
    tensors = {f"negatives.{stage}.hate": np.linspace(0, 0.5, 200, dtype=np.float32) for stage in stages}
    tensors["weight.hate"] = (rng.normal(0, 1, width) / width).astype(np.float32)
    artifacts.save(folder, manifest, tensors, "# card")
    return folder


def tiny_guard(
    folder: Path, gemma: Any, threshold: float = 0.99, more: str = "", stages: str = "[input, output]"
) -> Guard:
    """A guard with one probe; `more` goes on with the policy's rules."""
    if not (folder / "manifest.json").exists():
        tiny_artifact(folder, gemma)
    text = POLICY.replace("THRESHOLD", str(threshold)).replace("STAGES", stages) + more
    return Guard(Policy.parse(text), gemma, {"hate": folder})
