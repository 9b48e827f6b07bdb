"""A second policy that judges what the first has answered already: never in the way, never enforced, only counted."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final

from safety_kit.chat.exchange import Verdicts
from safety_kit.gateway.record import Outcome, outcome_of
from safety_kit.gateway.services import Judge
from safety_kit.guard import Guard

WAITING: Final = 64
WAITING_BYTES: Final = 16_000_000
"""What may wait for the shadow policy; the next request is answered without it."""

COMPARED: Final[frozenset[Outcome]] = frozenset({"allow", "flag", "redact", "block"})
"""What a policy came to; a request that was refused, failed or was left says nothing of policies."""


@dataclass(frozen=True, slots=True)
class ShadowCounts:
    """What the shadow policy has come to so far.

    Attributes:
        outcomes: Requests by route, enforced outcome, shadow outcome (``error``: a check of the shadow failed).
        dropped: Requests that found no place to wait.
    """

    outcomes: Mapping[tuple[str, Outcome, Outcome], int]
    dropped: int

    @property
    def differences(self) -> Mapping[tuple[str, Outcome, Outcome], int]:
        """Those outcomes that the shadow policy would have changed."""
        return {key: count for key, count in self.outcomes.items() if key[1] != key[2]}


@dataclass(frozen=True, slots=True)
class _Waiting:
    route: str
    enforced: Outcome
    judge: Judge
    size: int
    answer: Future[tuple[Outcome, str]]


class Shadow:
    """Judges requests by a second policy in threads of its own. Safe for threads."""

    def __init__(self, guard: Callable[[], Guard | None], *, threads: int = 1) -> None:
        """Start the threads.

        Args:
            guard: Gives the shadow policy's guard as it is now: `Policies.shadow`.
            threads: How many; each takes time from the processor that the real answers use.
        """
        self._guard = guard
        self._changed = threading.Condition()
        self._waiting: deque[_Waiting] = deque()
        self._bytes = 0
        self._outcomes: Counter[tuple[str, Outcome, Outcome]] = Counter()
        self._dropped = 0
        self._closed = False
        self._threads = [threading.Thread(target=self._work, name="shadow", daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def compare(self, route: str, enforced: Outcome, judge: Judge, size: int) -> Future[tuple[Outcome, str]] | None:
        """Have a request judged again, some time later; this neither waits nor raises.

        Args:
            route: The gateway's route, for the counts.
            enforced: What the real policy came to.
            judge: What to judge: `exchange` makes it of a request and its reply.
            size: About how many bytes `judge` holds on to.

        Returns:
            What will be the shadow's outcome and its policy's digest; None where it will not be judged.
        """
        if enforced not in COMPARED:
            return None
        one = _Waiting(route, enforced, judge, size, Future())
        with self._changed:
            if self._closed or len(self._waiting) >= WAITING or self._bytes + size > WAITING_BYTES:
                self._dropped += 1
                return None
            self._bytes += size
            self._waiting.append(one)
            self._changed.notify()
        return one.answer

    def counts(self) -> ShadowCounts:
        """The counts as they are now."""
        with self._changed:
            return ShadowCounts(dict(self._outcomes), self._dropped)

    def close(self, seconds: float = 0) -> None:
        """Take no more, drop what waits, and give the running ones so many seconds."""
        with self._changed:
            self._closed = True
            self._dropped += len(self._waiting)
            for one in self._waiting:
                one.answer.cancel()
            self._waiting.clear()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(seconds)

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    if self._closed:
                        return
                    self._changed.wait()
                one = self._waiting.popleft()
            outcome, digest = self._judge(one)
            with self._changed:
                self._bytes -= one.size
                self._outcomes[one.route, one.enforced, outcome] += 1
            if one.answer.set_running_or_notify_cancel():
                one.answer.set_result((outcome, digest))

    def _judge(self, one: _Waiting) -> tuple[Outcome, str]:
        digest = ""
        try:
            guard = self._guard()
            if guard is None:
                return "error", digest
            digest = guard.digest
            verdicts = one.judge(guard)
        except Exception:
            return "error", digest
        return ("error" if _failed(verdicts) else outcome_of(*verdicts)), digest


def exchange(request: Mapping[str, Any], response: Mapping[str, Any] | None = None) -> Judge:
    """What a guard says of a chat completion's request and, where there was one, its response.

    Args:
        request: As it came.
        response: As the model gave it; of a stream, what its chunks add up to.
    """

    def judge(guard: Guard) -> tuple[Verdicts | None, ...]:
        asked = guard.check_request(request)
        if asked.blocked or response is None:
            return (asked,)
        return asked, guard.check_response(response, request)

    return judge


def _failed(verdicts: Iterable[Verdicts | None]) -> bool:
    """Whether a check failed, so that the outcome is `on_error`'s and not the policy's own."""
    return any(
        error.kind != "uncheckable"
        for one in verdicts
        if one is not None
        for place in one.places
        for error in place.verdict.errors
    )
