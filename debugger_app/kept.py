"""What the pages keep in a session between two runs of their scripts: a class of a page's own is new each time."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from debugger_app.flow import Flow
    from debugger_app.lesson import Held, Lesson
    from debugger_app.redecide import Judged, Remembering
    from debugger_app.row_files import Row, RowFile
    from debugger_app.triage import Scored
    from safety_kit.types import Message


@dataclass(frozen=True)
class Seen:
    """Guard: a conversation as it was checked, and its reply as it streamed."""

    messages: list[Message]
    guard: Remembering
    judged: Judged
    flow: Flow | None


@dataclass
class Job:
    """Data: rows on their way; what is scored stays when the work is stopped, and it can go on.

    Attributes:
        file: The rows.
        about: The category that a plain `label` is about.
        surprisal: Whether it is asked for.
        guard: Digest of the policy that scores them.
        done: What is scored.
    """

    file: RowFile
    about: str
    surprisal: bool
    guard: str
    done: list[Scored] = field(default_factory=list)

    @property
    def left(self) -> list[Row]:
        """Rows that are not scored yet."""
        places = {row.place for row in self.done}
        return [row for row in self.file.rows if row.place not in places]

    @property
    def total(self) -> int:
        return len(self.file.rows)


@dataclass(frozen=True)
class Taught:
    """Teach: a lesson, the classifier that the policy has so far, and the two side by side.

    Attributes:
        lesson: What was taught.
        old: What the policy has; None for a new category.
        after: The new probability of each text of the lesson.
        before: The old one; empty for a new category.
        report: The two on the rows held out, as `lesson.against` says; or why there is no such figure.
    """

    lesson: Lesson
    old: Held | None
    after: list[float]
    before: list[float]
    report: dict[str, Any] | str


@dataclass(frozen=True)
class Saved:
    """Teach: the new version of a policy, and the folder of its new classifier."""

    policy: Path
    folder: Path
