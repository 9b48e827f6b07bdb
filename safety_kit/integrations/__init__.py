"""The guard around what others call their model with: one module a package, each imported only by those who use it.

Attributes:
    OnBlock: What a wrapper does at a block: answer with the policy's message, or raise.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from safety_kit.types import Verdict

OnBlock: TypeAlias = Literal["message", "raise"]


class Blocked(Exception):
    """A text was blocked, and the wrapper was told to raise.

    Attributes:
        message: The policy's message.
        verdict: Why; None where the wrapper has several.
    """

    def __init__(self, message: str, verdict: Verdict | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.verdict = verdict
