"""Calling what may never come back.

A call goes to a thread of its own and is left behind when its time is up. That frees the caller from all that waits or
computes in Python or torch; it cannot free it from one long call into a library that never lets go of the
interpreter, such as a backtracking `re` match: the check then has failed all the same, but only once that call ends.
"""

from __future__ import annotations

import contextvars
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final, TypeVar

from safety_kit.errors import CheckTimeout

T = TypeVar("T")

MOST_HUNG: Final = 4
"""Calls of one check that may be left behind, unfinished; until one of them ends, the check is not called again."""


class Timeouts:
    """Calls functions inside a time limit, and counts those that were left behind, by name."""

    def __init__(self) -> None:
        self._hung: Counter[str] = Counter()
        self._lock = threading.Lock()

    def inline(self, function: Callable[[], T], ms: float) -> T:
        """Call in this thread what is known to end; a result that comes too late counts as none.

        Raises:
            CheckTimeout: It took longer.
        """
        begin = time.perf_counter()
        result = _call(function)
        self.in_time(begin, ms)
        return result

    @staticmethod
    def in_time(begin: float, ms: float) -> None:
        """Raise `CheckTimeout` where more than `ms` have gone by since `begin`, a `time.perf_counter`."""
        if (time.perf_counter() - begin) * 1000 > ms:
            raise _late(ms)

    def threaded(self, name: str, function: Callable[[], T], ms: float) -> T:
        """Call in a thread of its own.

        Raises:
            CheckTimeout: It has not come back in time, or `MOST_HUNG` earlier calls under this name never did.
        """
        with self._lock:
            if self._hung[name] >= MOST_HUNG:
                raise CheckTimeout(f"was not called: {MOST_HUNG} earlier calls have not come back.")
        done = threading.Event()
        answer: Future[T] = Future()
        context = contextvars.copy_context()

        def work() -> None:
            try:
                answer.set_result(context.run(_call, function))
            except BaseException as error:
                answer.set_exception(error)
            with self._lock:
                done.set()
                if left_behind:
                    self._hung[name] -= 1

        left_behind: list[bool] = []
        threading.Thread(target=work, name=f"safety-kit {name}", daemon=True).start()
        try:
            done.wait(ms / 1000)
        finally:  # an interrupt leaves it behind, too
            with self._lock:
                if not done.is_set():
                    left_behind.append(True)
                    self._hung[name] += 1
        if left_behind:
            raise _late(ms)
        return answer.result()


def _late(ms: float) -> CheckTimeout:
    return CheckTimeout(f"took longer than its {ms:g} ms (timeout_ms).")


def _call(function: Callable[[], T]) -> T:
    try:
        return function()
    except (Exception, KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:  # a Rust library's panic, or a check that exits the process
        raise RuntimeError(f"ended with {type(error).__name__}") from error
