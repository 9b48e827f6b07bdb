"""Fakes for the guard's tests: a Gemma whose activations are a function of the text, artifacts, policies, chunkings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from safety_kit import artifacts
from safety_kit.checks.base import Delta
from safety_kit.gemma.trace import Capture, Trace, TraceView
from safety_kit.types import Finding

SIZE = 8
DIGEST = "d" * 64
CARD, MAIL, KEY = "4111 1111 1111 1111", "john.doe@example.org", "AKIAIOSFODNN7EXAMPLE"


@dataclass
class FakeGemma:
    """Each character is a token; activation 0 is 1 for '!' and 0 elsewhere, the others are noise of the character."""

    name: str = "embedded"
    digest: str = DIGEST
    window: int = 10_000
    calls: list[list[str]] = field(default_factory=list)

    def hidden(self, text: str, blocks: Sequence[int]) -> dict[int, Any]:
        out = {}
        for block in blocks:
            rows = np.zeros((len(text), SIZE), np.float32)
            for i, char in enumerate(text):
                rows[i] = np.random.default_rng([ord(char), block]).normal(0, 1, SIZE)
                rows[i, 0] = float(char == "!")
            out[block] = rows
        return out

    def trace(self, text: str, blocks: Sequence[int]) -> TraceView:
        offsets = tuple((i, i + 1) for i in range(len(text)))
        return Trace(tuple(map(ord, text)), offsets, self.hidden(text, blocks)).view(0, len(text))

    def trace_texts(self, texts: Sequence[Any], capture: Capture, /) -> list[list[TraceView]]:
        self.calls.append([text for _, text, _ in texts])
        cut = self.window
        return [
            [self.trace(text[i : i + cut], capture.blocks) for i in range(0, len(text), cut)] for _, text, _ in texts
        ]

    def read_texts(
        self, texts: Sequence[Any], capture: Capture, each: Callable[[int, TraceView], Any], /
    ) -> list[list[Any]]:
        return [[each(i, view) for view in views] for i, views in enumerate(self.trace_texts(texts, capture))]


def make_artifact(
    folder: Path,
    categories: Sequence[str],
    *,
    window: int = 12,
    reply_window: int | None = None,
    stride: int = 4,
    digest: str = DIGEST,
    n: int = 200,
    size: int = SIZE,
) -> Path:
    """A classifier that reads activation 0 of block 2: of a `FakeGemma`, the share of '!' among the last tokens."""
    weight = np.zeros(2 * size, np.float32)
    weight[size] = 1.0
    tensors = {}
    for category in categories:
        tensors[f"weight.{category}"] = weight
        for stage in ("input", "output"):
            tensors[f"negatives.{stage}.{category}"] = np.linspace(0, 0.5, n, dtype=np.float32)
    record = {
        "bias": 0.0,
        "calibration": {stage: {"slope": 10.0, "intercept": -5.0} for stage in ("input", "output")},
        "regularisation": 1.0,
        "positives": n,
        "negatives": n,
        "metrics": {},
    }
    manifest = {
        "reading": "causal",
        "model": {
            "name": "embedded",
            "family": "gemma3",
            "digest": digest,
            "dtype": "float32",
            "blocks": 4,
            "hidden_size": size,
        },
        "blocks": [1, 2],
        "window": window,
        "reply_window": reply_window,
        "stride": stride,
        "categories": dict.fromkeys(categories, record),
        "data_digest": "x",
        "created": "2026-01-01",
        "kit_version": "0",
    }
    artifacts.save(folder, manifest, tensors, "# card")
    return folder


def steps_of(check: Any, deltas: Sequence[Delta]) -> tuple[list[Finding], list[int]]:
    """All findings of a stream, and what was cleared after each step; the last delta is final."""
    state, found, cleared = check.start(), [], []
    for i, delta in enumerate(deltas):
        state, findings, upto = check.step(state, delta, i == len(deltas) - 1)
        found += findings
        cleared.append(upto)
    return found, cleared


def chunk(text: str, cuts: Sequence[int]) -> list[str]:
    """The text, cut at these places (modulo its length)."""
    places = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    return [text[a:b] for a, b in pairwise(places)] or [""]


plants = st.sampled_from(
    [
        MAIL,
        CARD,
        KEY,
        "foo bar",
        "xfoo bar",
        "STRASSE",
        "Straße",
        "abc-1234",
        "536-90-4399 SSN",
        "DE89370400440532013000",
        "+1 415 555 2671",
        "ghp_" + "a1B2" * 9,
        "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U",
        "-----BEGIN RSA PRIVATE KEY-----\n" + ("abcd" * 16 + "\n") * 3 + "-----END RSA PRIVATE KEY-----",
        "-----BEGIN RSA PRIVATE KEY----- is how a key begins",
        "x" * 150 + "@example.org",
        "postgres://bob:s3cr3tpw9@db.host/x",
    ]
)
filler = st.text(st.sampled_from("ab .,-@1İß\n\ud800😀é"), max_size=60) | st.sampled_from(["lorem ipsum dolor " * 12])
texts = st.lists(filler | plants, max_size=8).map("".join)
cuts = st.lists(st.integers(0, 4000), max_size=12)
