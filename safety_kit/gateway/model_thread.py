"""The one thread that calls the model: forwards of many callers in one batch, and other work in turns with them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from safety_kit.gemma.ragged import Row, run_rows

if TYPE_CHECKING:
    import torch

    from safety_kit.gemma import Capture, Gemma, Tokens, Trace

T = TypeVar("T")


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
_Call: TypeAlias = tuple[Callable[[], Any], "Future[Any]"]


@dataclass(frozen=True, eq=False, slots=True)
class _Reading:
    row: Row
    capture: Capture
    alone: bool
    done: Future[Mapping[int, torch.Tensor]] = field(default_factory=Future)


class ModelThread:
    """Runs a Gemma for many threads.

    It goes round three kinds of work, one pass of each: whole texts (`forward`), what growing texts grew by
    (`read_on`), and anything else, such as a decoding step (`call`). A fault belongs to those whose work it befell, and
    ends nothing else.
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
        self._readings: deque[_Reading] = deque()
        self._calls: deque[_Call] = deque()
        self._work = threading.Condition()
        self._closed = False
        self._since: float | None = None
        self._thread = threading.Thread(target=self._run, name="safety-kit model", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Requests, readings and calls that wait for their turn."""
        return len(self._requests) + len(self._readings) + len(self._calls)

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

    def read_on(self, row: Row, capture: Capture, *, alone: bool = False) -> Future[Mapping[int, torch.Tensor]]:
        """n × d activations of a row's n new tokens by block; rows that wait with the same capture share a pass.

        Args:
            row: The tokens, and the cache that they extend; after a fault it is of no use any more.
            capture: The blocks.
            alone: In a pass of its own.
        """
        reading = _Reading(row, capture, alone)
        self._wait(self._readings, reading, reading.done)
        return reading.done

    def call(self, function: Callable[[], T]) -> Future[T]:
        """One turn of other work."""
        done: Future[T] = Future()
        self._wait(self._calls, (function, done), done)
        return done

    def _wait(self, line: deque[Any], item: Any, done: Future[Any]) -> None:
        with self._work:
            if self._closed:
                done.set_exception(Left())
            else:
                line.append(item)
                self._work.notify()

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
            dropped: list[Future[Any]] = [request.done for request in self._requests]
            dropped += [reading.done for reading in self._readings] + [done for _, done in self._calls]
            for line in (self._requests, self._readings, self._calls):
                line.clear()
            self._work.notify()
        for done in dropped:
            _fail(done, Left())
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        while self._await():
            self._timed(self._next_batch)
            self._timed(self._next_readings)
            self._timed(self._next_call)

    def _await(self) -> bool:
        with self._work:
            self._work.wait_for(lambda: self._closed or self.waiting)
            return not self._closed

    def _timed(self, turn: Callable[[], None]) -> None:
        self._since = monotonic()
        turn()
        self._since = None

    def _next_call(self) -> None:
        with self._work:
            if not self._calls:
                return
            function, done = self._calls.popleft()
        if done.set_running_or_notify_cancel():
            try:
                done.set_result(function())
            except BaseException as error:
                done.set_exception(plain(error))

    def _next_readings(self) -> None:
        with self._work:
            self._readings = deque(reading for reading in self._readings if not reading.done.cancelled())
            if not self._readings:
                return
            first = self._readings[0]
            together = [r for r in self._readings if r.capture == first.capture and not (r.alone or first.alone)]
            sizes = [len(reading.row.ids) for reading in together]
            taken = [together[index] for index in _nearest(sizes, self._budget)] or [first]
            self._readings = deque(reading for reading in self._readings if reading not in taken)
        try:
            _, kept = run_rows(
                self._gemma.trunk, [reading.row for reading in taken], first.capture.blocks, through=False
            )
        except BaseException as error:
            for reading in taken:
                _fail(reading.done, RuntimeError(f"the model failed with {type(error).__name__}"))
            return
        for number, reading in enumerate(taken):
            length = len(reading.row.ids)
            own = {block: states[number, :length].to("cpu", copy=True) for block, states in kept.items()}
            _succeed(reading.done, own)

    def _next_batch(self) -> None:
        with self._work:
            batch = self._take()
        if batch:
            self._pass(batch)

    def _take(self) -> list[_Piece]:
        """The next piece of the request whose turn it is, and those nearest to it in length that fit in beside it."""
        if not self._requests:
            return []
        capture = self._requests[0].capture
        alike = [
            (request, index) for request in self._requests if request.capture == capture for index in request.waiting
        ]
        sizes = [request.waiting[index] for request, index in alike]
        batch = [alike[place] for place in _nearest(sizes, self._budget)]
        for request, index in batch:
            del request.waiting[index]
        self._requests.rotate(-1)  # a long text takes turns with all others
        self._requests = deque(request for request in self._requests if request.waiting)
        return batch

    def _pass(self, batch: list[_Piece]) -> None:
        """Read a batch; when that fails, its halves, so that only those fail whose own text cannot be read."""
        for request in {request for request, _ in batch if request.owner is not None and request.owner.left}:
            _fail(request.done, Left())
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
                    _succeed(request.done, [request.traces[place] for place in range(len(request.pieces))])
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


def _nearest(sizes: Sequence[int], budget: int) -> list[int]:
    """The first, and with it those nearest to it in size, as many as the budget of padded tokens holds."""
    chosen: list[int] = []
    width = 0
    for place in sorted(range(len(sizes)), key=lambda place: abs(sizes[place] - sizes[0])):
        width = max(width, sizes[place])
        if chosen and width * (len(chosen) + 1) > budget:
            break
        chosen.append(place)
    return chosen


def plain(error: BaseException) -> Exception:
    """A fault for those who wait; nothing that the model raises may end their threads."""
    return error if isinstance(error, Exception) else RuntimeError(f"ended with {type(error).__name__}")


def _succeed(done: Future[T], result: T) -> None:
    with suppress(InvalidStateError):  # it was cancelled, or has failed already
        done.set_result(result)


def _fail(done: Future[Any], error: BaseException) -> None:
    with suppress(InvalidStateError):
        done.set_exception(error)
