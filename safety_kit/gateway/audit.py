"""The audit log: one line a request, in a hash chain that one process writes.

What could not be written is told in the chain once there is room again, and `check` says so before a request is let in.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from filelock import FileLock, Timeout

from safety_kit.errors import AuditError, UserError
from safety_kit.gateway.audit_chain import Chain
from safety_kit.gateway.audit_key import load_key
from safety_kit.gateway.audit_line import finite
from safety_kit.gateway.audit_record import fields_of

if TYPE_CHECKING:
    from safety_kit.gateway.record import Record
    from safety_kit.gateway.settings import Audit

SYNC_SECONDS: Final = 1.0


class AuditLog:
    """Appends to one log, which it locks; safe for threads. Its calls wait for the disk: not for an event loop.

    Attributes:
        file: The file that is written.
    """

    def __init__(self, settings: Audit, clock: Callable[[], float] = time.time) -> None:
        """Open a log behind its last whole line.

        Args:
            settings: `settings.file` must be named.
            clock: Unix time; it is written down and decides nothing.

        Raises:
            UserError: Another process writes this log, it cannot be opened, or its last line was changed.
        """
        if settings.path is None:
            raise UserError("There is no audit log to open: name its file with audit.file.")
        self.file: Path = settings.path
        self._clock = clock
        self._fsync = settings.fsync
        self._lock = threading.Lock()
        self._lost = 0
        self._unsynced = True
        self._sync_fault: OSError | None = None
        self._closed = threading.Event()
        self._owner = _own(self.file)
        try:
            self._key = load_key(settings.key or self.file.with_suffix(".key"))
            always, never = settings.fsync == "always", settings.fsync == "never"
            self._chain = Chain(self.file, settings.max_bytes, always, not never, clock)
        except BaseException as error:
            self._owner.release()
            if isinstance(error, OSError):
                raise _unopened(self.file, error) from error
            raise
        if settings.fsync == "second":
            threading.Thread(target=self._keep_syncing, name="audit-fsync", daemon=True).start()

    def write(self, record: Record) -> None:
        """Append a request; with fsync ``always`` it is on the disk when this returns.

        Raises:
            AuditError: It could not be written; nothing of it is in the file. Later ones are tried anew.
        """
        fields = fields_of(record, self._key)
        with self._lock, self._faults():
            try:
                self._tell_lost()
                self._chain.append("request", fields)
            except (OSError, AuditError):
                self._lost += 1
                raise
            self._unsynced = True

    def check(self) -> None:
        """Refuse where a line could not be written now: to be asked before what cannot be taken back goes out.

        Raises:
            AuditError: The disk is full, the last line could not be written or not be put on the disk, or the file was
                moved away or changed by another.
        """
        with self._lock, self._faults():
            self._chain.mend()
            self._tell_lost()
            if self._sync_fault is not None:
                raise self._sync_fault
            self._chain.check()

    def ready(self) -> bool:
        """`check` as an answer, for a readiness probe."""
        try:
            self.check()
        except AuditError:
            return False
        return True

    @property
    def head(self) -> tuple[int, str]:
        """Number and hash of the last line: what may be remembered elsewhere."""
        with self._lock:
            return self._chain.number, self._chain.head

    def close(self) -> None:
        """Put all on the disk, and let another process have the log; a second call does nothing."""
        with self._lock:
            if self._closed.is_set():
                return
            self._closed.set()
            if self._fsync != "never":
                with suppress(OSError):
                    self._chain.sync()
            self._chain.close()
            self._owner.release()

    @contextmanager
    def _faults(self) -> Iterator[None]:
        """Faults of the disk come out as the log's own."""
        if self._closed.is_set():
            raise AuditError(f"{self.file} is closed.")
        try:
            yield
        except OSError as error:
            raise AuditError(
                f"{self.file} cannot be written: {error.strerror or type(error).__name__}. Make room, or mend the disk."
            ) from error

    def _tell_lost(self) -> None:
        """Say in the chain how many lines could not be written; that it can be said shows that there is room."""
        if self._lost:
            self._chain.append("gap", {"lost": self._lost, "at": finite(self._clock(), 3)})
            self._lost, self._unsynced = 0, True

    def _keep_syncing(self) -> None:
        """Once a second, on a descriptor of its own, so that no writer waits."""
        while not self._closed.wait(SYNC_SECONDS):
            try:
                with self._lock:
                    if self._closed.is_set() or not (self._unsynced or self._sync_fault):
                        continue
                    descriptor = self._chain.duplicate()
                    self._unsynced = False
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
                self._sync_fault = None
            except OSError as error:
                self._sync_fault = error


def _own(file: Path) -> FileLock:
    """The lock of a log, held; a process that ends, however it ends, lets it go."""
    lock = FileLock(file.with_name(f".{file.name}.lock"), thread_local=False)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"Another process writes {file}: give each replica an audit.file of its own ({{host}} in its name stands "
            "for the machine's)."
        ) from None
    except OSError as error:
        raise _unopened(file, error) from error
    return lock


def _unopened(file: Path, error: OSError) -> UserError:
    why = error.strerror or type(error).__name__
    return UserError(f"The audit log {file} cannot be opened: {why}; name another with audit.file.")
