"""The one thread that calls the model: forwards of many callers in one batch, and other work in turns with them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

if TYPE_CHECKING:
    from safety_kit.gemma import Capture, Gemma, Tokens, Trace

T = TypeVar("T")
Lane: TypeAlias = Literal["follow", "generate"]


class Left(Exception):
    """Whoever asked is gone: its work was dropped."""


@dataclass(eq=False, slots=True)
class Owner:
    """Whose work it is; all of it is dropped when they leave."""

    left: bool = False


@dataclass(eq=False, slots=True)
class _Request:
    pieces: Sequence[Tokens]
    capture: Capture
    owner: Owner | None
    done: Future[list[Trace]] = field(default_factory=Future)
    traces: dict[int, Trace] = field(default_factory=dict)
    waiting: dict[int, int] = field(default_factory=dict)  # lengths of the pieces that no batch took yet

    def __post_init__(self) -> None:
        self.waiting = {index: len(piece) for index, piece in enumerate(self.pieces)}


_Piece: TypeAlias = tuple[_Request, int]


class ModelThread:
    """Runs a Gemma for many threads.

    It goes round three kinds of work, one pass of each: a batch of forwards, a reading of a growing reply (``follow``),
    a decoding step (``generate``). A fault belongs to those whose work it befell, and ends nothing else.
    """

    def __init__(self, gemma: Gemma, token_budget: int) -> None:
        """Start the thread.

        Args:
            gemma: The model; nobody else should call it meanwhile.
            token_budget: Padded tokens of one batch of forwards.
        """
        self._gemma = gemma
        self._budget = token_budget
        self._requests: deque[_Request] = deque()
        self._lanes: dict[Lane, deque[tuple[Callable[[], Any], Future[Any]]]] = {"follow": deque(), "generate": deque()}
        self._work = threading.Condition()
        self._closed = False
        self._since: float | None = None
        self._thread = threading.Thread(target=self._run, name="safety-kit model", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Forwards, readings and steps that wait for their turn."""
        return len(self._requests) + sum(map(len, self._lanes.values()))

    @property
    def alive(self) -> bool:
        return self._thread.is_alive() and not self._closed

    @property
    def busy(self) -> float:
        """Seconds that the pass of this moment has taken so far; 0 between passes."""
        since = self._since
        return monotonic() - since if since is not None else 0.0

    def forward(self, pieces: Sequence[Tokens], capture: Capture, owner: Owner | None = None) -> Future[list[Trace]]:
        """A trace for each piece, in order; shared passes are made of what waits with the same capture.

        Raises:
            Left: In the future: the owner left.
        """
        request = _Request(pieces, capture, owner)
        with self._work:
            if self._closed or (owner is not None and owner.left):
                request.done.set_exception(Left())
            elif not pieces:
                request.done.set_result([])
            else:
                self._requests.append(request)
                self._work.notify()
        return request.done

    def call(self, function: Callable[[], T], lane: Lane) -> Future[T]:
        """One turn of other work; cancelling the future before its turn takes it out."""
        done: Future[T] = Future()
        with self._work:
            if self._closed:
                done.set_exception(Left())
            else:
                self._lanes[lane].append((function, done))
                self._work.notify()
        return done

    def leave(self, owner: Owner) -> None:
        """Drop all that waits for this owner."""
        with self._work:
            owner.left = True
            gone = [request for request in self._requests if request.owner is owner]
            self._requests = deque(request for request in self._requests if request.owner is not owner)
        for request in gone:
            _fail(request.done, Left())

    def close(self) -> None:
        """Finish the pass of this moment, and drop the rest."""
        with self._work:
            self._closed = True
            dropped = [request.done for request in self._requests]
            dropped += [done for lane in self._lanes.values() for _, done in lane]
            self._requests.clear()
            for lane in self._lanes.values():
                lane.clear()
            self._work.notify()
        for done in dropped:
            _fail(done, Left())
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        while self._await():
            self._timed(self._next_batch)
            for lane in self._lanes.values():
                self._timed(partial(self._next_call, lane))

    def _await(self) -> bool:
        with self._work:
            self._work.wait_for(lambda: self._closed or self._requests or any(self._lanes.values()))
            return not self._closed

    def _timed(self, turn: Callable[[], None]) -> None:
        self._since = monotonic()
        turn()
        self._since = None

    def _next_call(self, lane: deque[tuple[Callable[[], Any], Future[Any]]]) -> None:
        with self._work:
            if not lane:
                return
            function, done = lane.popleft()
        if done.set_running_or_notify_cancel():
            try:
                done.set_result(function())
            except BaseException as error:
                done.set_exception(plain(error))

    def _next_batch(self) -> None:
        with self._work:
            batch = self._take()
        if batch:
            self._pass(batch)

    def _take(self) -> list[_Piece]:
        """The next piece of the request whose turn it is, and those nearest to it in length that fit in beside it."""
        if not self._requests:
            return []
        first = self._requests[0]
        anchor = next(iter(first.waiting.values()))
        alike = [
            (abs(length - anchor), length, request, index)
            for request in self._requests
            if request.capture == first.capture
            for index, length in request.waiting.items()
        ]
        alike.sort(key=lambda piece: piece[0])
        batch: list[_Piece] = []
        width = 0
        for _, length, request, index in alike:
            width = max(width, length)
            if batch and width * (len(batch) + 1) > self._budget:
                break
            batch.append((request, index))
            del request.waiting[index]
        self._requests.rotate(-1)  # a long text takes turns with all others
        self._requests = deque(request for request in self._requests if request.waiting)
        return batch

    def _pass(self, batch: list[_Piece]) -> None:
        """Read a batch; when that fails, its halves, so that only those fail whose own text cannot be read."""
        batch = [piece for piece in batch if not piece[0].done.done()]
        if not batch:
            return
        error: BaseException | None = None
        try:
            traces = self._gemma.forward([request.pieces[index] for request, index in batch], batch[0][0].capture)
        except BaseException as caught:
            # Its frames hold the tensors of the pass that failed: they must be gone before the next one.
            error = caught.with_traceback(None)
        if error is None:
            for (request, index), trace in zip(batch, traces, strict=True):
                request.traces[index] = trace
                if len(request.traces) == len(request.pieces):
                    _succeed(request)
        elif len(batch) == 1:
            self._drop(batch[0][0], plain(error))
        else:
            del error
            middle = len(batch) // 2
            self._pass(batch[:middle])
            self._pass(batch[middle:])

    def _drop(self, request: _Request, error: BaseException) -> None:
        with self._work:
            self._requests = deque(other for other in self._requests if other is not request)
        _fail(request.done, error)


def plain(error: BaseException) -> Exception:
    """A fault for those who wait; nothing that the model raises may end their threads."""
    return error if isinstance(error, Exception) else RuntimeError(f"ended with {type(error).__name__}")


def _succeed(request: _Request) -> None:
    if request.done.set_running_or_notify_cancel():
        request.done.set_result([request.traces[index] for index in range(len(request.pieces))])


def _fail(done: Future[Any], error: BaseException) -> None:
    if not done.done() and done.set_running_or_notify_cancel():
        done.set_exception(error)
