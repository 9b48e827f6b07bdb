"""The threads that checks run in, so that the event loop never waits for one."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Workers:
    """A pool of threads. What waits for one and is cancelled is never begun; what has begun runs to its end."""

    def __init__(self, threads: int) -> None:
        """Set up the pool.

        Args:
            threads: Few, where checks compute in Python and would only take the interpreter from each other; more,
                where they wait for a model that reads many texts at once.
        """
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="safety-kit check")

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function in a thread, with this task's context variables."""
        call = partial(contextvars.copy_context().run, function, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)

    def close(self) -> None:
        """Begin nothing more; what runs is left to end."""
        self._pool.shutdown(wait=False, cancel_futures=True)
