"""`safety-kit demo`."""

from __future__ import annotations


def demo() -> int:
    """The whole main job on the embedded Gemma."""
    return 0
