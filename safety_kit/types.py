"""The values that pass between the rooms: standard library only, so that everything may import them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from safety_kit.gemma.trace import TraceView

Span: TypeAlias = tuple[int, int]
"""Half-open code-point offsets into the raw text."""

FaultKind: TypeAlias = Literal["error", "timeout", "uncheckable", "overloaded"]
"""A check failed or said nonsense; it did not come back in time; there is no check that could read this part; the model
that it asks has too much to read."""

ScoreKind: TypeAlias = Literal["calibrated", "rule", "uncalibrated"]
Role: TypeAlias = Literal["system", "developer", "user", "assistant", "tool"]


class Action(IntEnum):
    """What is done with a text, ordered so that merging two actions is ``max()``."""

    ALLOW = 0
    FLAG = 1
    REDACT = 2
    BLOCK = 3

    def __str__(self) -> str:
        return self.name.lower()


class Stage(StrEnum):
    """Where a text stands: before the model (`input`) or after it (`output`)."""

    INPUT = "input"
    OUTPUT = "output"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that one check found in one text.

    Attributes:
        check: Name of the check in the policy.
        category: What was found, e.g. ``hate`` or ``pii.email``.
        score: In [0, 1]; what it means is told by `score_kind`.
        score_kind: ``calibrated`` (a probability on held-out examples), ``rule`` (1.0: it matched)
            or ``uncalibrated``.
        spans: Where, as offsets into the raw text; empty when the whole text is meant.
        detail: A short explanation that never repeats the text.
    """

    check: str
    category: str
    score: float
    score_kind: ScoreKind
    spans: tuple[Span, ...] = ()
    detail: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            "check": self.check,
            "category": self.category,
            "score": round(self.score, 6),
            "score_kind": self.score_kind,
            "spans": [list(span) for span in self.spans],
            "detail": self.detail,
        }


@dataclass(frozen=True, slots=True)
class CheckError:
    """A check that failed: its name, what it said, and how it failed."""

    check: str
    message: str
    kind: FaultKind = "error"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The guard's answer for one text: a value, never an exception.

    Attributes:
        stage: Where the text stood.
        action: The strongest action of any rule that fired, or what `on_error` says for a fault.
        text: What may be passed on (redacted where a rule says so); None when blocked.
        findings: Everything found, those below their threshold left out.
        errors: Checks that failed.
        timings: Milliseconds by check.
        policy_digest: Digest of the policy that decided.
        code: Why it was blocked, for programs: ``blocked.`` and the category, or ``blocked.error`` for a fault,
            ``blocked.uncheckable`` for a part that nothing can check. None when not blocked.
        message: What the policy shows instead of a blocked text; None when not blocked.
        request_id: The caller's, or one that was made; it says nothing of the text, so equal verdicts may differ in it.
    """

    stage: Stage
    action: Action
    text: str | None
    findings: tuple[Finding, ...] = ()
    errors: tuple[CheckError, ...] = ()
    timings: Mapping[str, float] = field(default_factory=dict)
    policy_digest: str = ""
    code: str | None = None
    message: str | None = None
    request_id: str = field(default="", compare=False)

    @property
    def blocked(self) -> bool:
        return self.action is Action.BLOCK

    def to_json(self) -> dict[str, Any]:
        """The verdict as the JSON document that `safety-kit check --json` prints."""
        return {
            "stage": self.stage.value,
            "action": str(self.action),
            "code": self.code,
            "message": self.message,
            "request_id": self.request_id,
            "text": self.text,
            "findings": [finding.to_json() for finding in self.findings],
            "errors": [{"check": error.check, "kind": error.kind, "message": error.message} for error in self.errors],
            "timings": {check: round(ms, 3) for check, ms in self.timings.items()},
            "policy_digest": self.policy_digest,
        }


@dataclass(frozen=True, slots=True)
class Sample:
    """One text to check.

    Attributes:
        text: The raw text; any str, lone surrogates included.
        role: Who wrote it.
        stage: Where it stands.
        prompt: For a reply, the user's message that it answers.
        trace: The text's own tokens in a forward pass that has already been made, where there is one.
        system: For a reply, the system prompt that it was written under.
        tool: For a tool call, the tool's name; the text is then the call's arguments.
    """

    text: str
    role: Role = "user"
    stage: Stage = Stage.INPUT
    prompt: str | None = None
    trace: TraceView | None = None
    system: str | None = None
    tool: str | None = None

    @classmethod
    def at(cls, text: str, stage: Stage, prompt: str | None = None) -> Sample:
        """A text of whoever writes at a stage: the user at input, the model at output."""
        return cls(text, "user" if stage is Stage.INPUT else "assistant", stage, prompt)


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation."""

    role: Role
    content: str
