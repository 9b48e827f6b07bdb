"""Rows to lines of a scan's output, in this process or in several; the order is kept."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from safety_kit.commands import models
from safety_kit.errors import SafetyKitError
from safety_kit.types import CheckError, Stage

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from safety_kit.commands.corpus import Entry
    from safety_kit.guard import Guard
    from safety_kit.types import Verdict

    Scan: TypeAlias = Callable[[Iterable[Entry]], Iterator[list[str]]]
    """Rows to batches of lines, in order; rows are asked for a few batches ahead at most."""

BATCH = 32
BATCH_CHARACTERS = 256_000
"""Rows that are checked together; a longer text comes alone."""

_AHEAD = 4
"""Batches a process that may wait to be written."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a process builds its guard from, and what it writes."""

    policy: str
    model: str
    revision: str | None
    device: str
    dtype: str
    keep_text: bool

    def guard(self) -> Guard:
        """The guard; a model is loaded where the policy needs one."""
        return models.guard_for(self.policy, self.model, self.revision, self.device, self.dtype)


@dataclass(frozen=True, slots=True)
class _Fault:
    """A fault of the kit's own, as it comes back from a process: not every exception can be sent."""

    message: str
    exit_code: int


@contextmanager
def scanner(settings: Settings, processes: int) -> Iterator[tuple[str, Scan]]:
    """The guard's digest, and a function from rows to batches of lines, in order.

    Raises:
        SafetyKitError: The policy or the model cannot be had; later on, a process ended too early.
    """
    if processes == 1:
        guard = settings.guard()
        yield guard.digest, lambda entries: (lines(guard, part, settings.keep_text) for part in _parts(entries))
        return
    pool = ProcessPoolExecutor(
        processes, multiprocessing.get_context("spawn"), _start, (max(1, (os.cpu_count() or 1) // processes),)
    )
    try:
        digest = _said(pool.submit(_digest, settings).result())
        yield digest, lambda entries: _in_order(pool, settings, processes, entries)
    except BrokenProcessPool:
        raise SafetyKitError(
            "A process of the scan ended too early, perhaps for want of memory; the rows before are kept. Run the same "
            "command to go on, with fewer --processes."
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def lines(guard: Guard, entries: Sequence[Entry], keep_text: bool) -> list[str]:
    """A line for each row: its verdict, with what the rule of each finding does, and the columns that are kept."""
    verdicts = iter(guard.check([entry.sample for entry in entries if entry.sample is not None]))
    out = []
    for entry in entries:
        row: dict[str, Any] = {"row": entry.place}
        row |= _verdict(guard, next(verdicts), keep_text) if entry.sample else _unread(guard, entry.fault)
        out.append(json.dumps(row | ({"columns": entry.kept} if entry.kept else {})))
    return out


def _verdict(guard: Guard, verdict: Verdict, keep_text: bool) -> dict[str, Any]:
    made = verdict.to_json()
    for part in ("message", "request_id", *(() if keep_text else ("text",))):  # a row is no request
        del made[part]
    for finding, written in zip(verdict.findings, made["findings"], strict=True):
        rule = guard.policy.rule_for(finding, verdict.stage)
        written["action"] = str(rule.action) if rule else "allow"
    return made


def _unread(guard: Guard, fault: str) -> dict[str, Any]:
    """A row without a text: a fault, so that the policy says what it leads to."""
    verdict = guard.decide(Stage.INPUT, (), [CheckError("row", fault)], {})
    return _verdict(guard, verdict, keep_text=False) | {"stage": None}


def _parts(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    part: list[Entry] = []
    characters = 0
    for entry in entries:
        size = len(entry.sample.text) if entry.sample else 0
        if part and (len(part) == BATCH or characters + size > BATCH_CHARACTERS):
            yield part
            part, characters = [], 0
        part.append(entry)
        characters += size
    if part:
        yield part


def _in_order(
    pool: ProcessPoolExecutor, settings: Settings, processes: int, entries: Iterable[Entry]
) -> Iterator[list[str]]:
    waiting: deque[Any] = deque()
    for part in _parts(entries):
        waiting.append(pool.submit(_lines, settings, part))
        if len(waiting) >= _AHEAD * processes:
            yield _said(waiting.popleft().result())
    while waiting:
        yield _said(waiting.popleft().result())


def _said(answer: Any) -> Any:
    if isinstance(answer, _Fault):
        error = SafetyKitError(answer.message)
        error.exit_code = answer.exit_code
        raise error
    return answer


# What follows runs in the processes.

_guard = cache(Settings.guard)


def _start(threads: int) -> None:
    """Leave Ctrl-C to the parent, share the cores, and end when the parent is gone, however it ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _digest(settings: Settings) -> str | _Fault:
    try:
        return _guard(settings).digest
    except SafetyKitError as error:
        return _Fault(str(error), error.exit_code)


def _lines(settings: Settings, entries: Sequence[Entry]) -> list[str] | _Fault:
    try:
        return lines(_guard(settings), entries, settings.keep_text)
    except SafetyKitError as error:
        return _Fault(str(error), error.exit_code)
