"""A hash chain on the disk: lines are appended whole or not at all, and files that are full are rotated.

For one process and one thread at a time; `AuditLog` sees to both. Faults come out as `OSError`.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from safety_kit import __version__
from safety_kit.errors import AuditError, UserError
from safety_kit.gateway import audit_files as files
from safety_kit.gateway import private_files
from safety_kit.gateway.audit_line import GENESIS, MAX_LINE, BadLine, Line, finite, parse, seal

FORMAT: Final = 1


class Chain:
    """Where a chain ends, and what is appended to.

    Attributes:
        file: The file that is written.
        name: What the chain is called, in the header of each of its files.
        number: Of the last line; no clock has a say in it.
        head: Hash of the last line.
    """

    def __init__(self, file: Path, max_bytes: int, sync_each: bool, sync_full: bool, clock: Callable[[], float]):
        """Open a chain behind its last whole line; a torn one is set aside and told.

        Args:
            file: The file that is written; made where there is none.
            max_bytes: A file of this size is rotated before the next line.
            sync_each: Put each line on the disk.
            sync_full: Put a file on the disk before it is rotated.
            clock: Unix time; it is written down and decides nothing.

        Raises:
            UserError: The last line was changed.
            OSError: The files cannot be read or written.
        """
        self.file = file
        self.name = ""
        self.number, self.head = 0, GENESIS
        self._max_bytes, self._sync_each, self._sync_full, self._clock = max_bytes, sync_each, sync_full, clock
        self._segment = 1
        self._descriptor = -1
        self._length = 0
        self._torn = False  # bytes of a line that could not be taken back yet stand behind `_length`
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def append(self, kind: str, fields: Mapping[str, Any]) -> None:
        """Append a line; after a fault nothing of it is in the chain.

        Raises:
            OSError: It cannot be written.
            AuditError: The file is full, and the name that it would get is taken.
        """
        self.mend()
        if self._length >= self._max_bytes:
            self._rotate()
        line = seal(self.number + 1, self.head, kind, fields)
        try:
            private_files.write_all(self._descriptor, line.raw)
            if self._sync_each:
                os.fsync(self._descriptor)
        except OSError:
            self._torn = True
            with suppress(OSError):
                self.mend()
            raise
        self._length += len(line.raw)
        self._follow(line)

    def mend(self) -> None:
        """Take back what is left of a line that failed.

        Raises:
            OSError: It cannot be taken back.
        """
        if self._torn:
            os.ftruncate(self._descriptor, self._length)
            self._torn = False

    def check(self) -> None:
        """Refuse a file that was moved or changed by another, and a disk without room for a line.

        Raises:
            AuditError: With the remedy.
            OSError: It cannot be looked at.
        """
        there, disk = os.stat(self.file), os.fstatvfs(self._descriptor)
        if not os.path.samestat(there, os.fstat(self._descriptor)) or there.st_size != self._length:
            raise AuditError(
                f"{self.file} was moved or changed while it was written; start again, and let nothing else rotate it."
            )
        if disk.f_blocks and disk.f_bavail * disk.f_frsize < MAX_LINE:
            raise AuditError(f"{self.file}: the disk is nearly full; make room.")

    def duplicate(self) -> int:
        """A descriptor of the file, for `os.fsync` beside further lines; the caller closes it."""
        return os.dup(self._descriptor)

    def sync(self) -> None:
        """Put all lines on the disk."""
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _follow(self, line: Line) -> None:
        self.number, self.head = line.number, line.hash

    # --- files

    def _rotate(self) -> None:
        """Give the full file its number, and go on in a new one; ended in between, either name has all lines."""
        full = files.rotated(self.file, self._segment)
        if full.exists():
            raise AuditError(f"{full} is there already, and is not this log's; move it away.")
        if self._sync_full:
            os.fsync(self._descriptor)
        os.replace(self.file, full)
        try:
            self._begin(self._segment + 1)
        except OSError:
            os.replace(full, self.file)
            raise

    def _begin(self, segment: int) -> None:
        header = {
            "chain": self.name,
            "file": segment,
            "format": FORMAT,
            "kit": __version__,
            "at": finite(self._clock(), 3),
        }
        line = seal(self.number + 1, self.head, "header", header)
        private_files.create(self.file, line.raw)
        descriptor = self._at_end()
        self.close()
        self._descriptor, self._segment, self._length = descriptor, segment, len(line.raw)
        self._follow(line)

    def _at_end(self) -> int:
        return os.open(self.file, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)

    # --- the start

    def _open(self) -> None:
        end = files.tail(self.file) if self.file.exists() else files.Tail(None, 0, 0)
        if end.line is not None:
            self._go_on(self.file, end.line)
            if end.torn:
                self._set_aside(end)
            self._descriptor, self._length = self._at_end(), end.end
            os.ftruncate(self._descriptor, end.end)
            self.append("opened", {"at": finite(self._clock(), 3), "kit": __version__, "torn": end.torn})
        elif end.torn:  # a file of ours has its header before it has its name
            raise UserError(self._damaged(self.file))
        elif before := files.numbers(self.file):
            full = files.rotated(self.file, before[-1])
            last = files.tail(full)
            if last.line is None or last.torn:
                raise UserError(self._damaged(full))
            self._go_on(full, last.line)
            self._begin(self._segment + 1)
        else:
            self.name = secrets.token_hex(8)
            self._begin(1)

    def _go_on(self, path: Path, last: bytes) -> None:
        """Read where the chain is from a file's first line and its last."""
        try:
            first = parse(files.first_line(path))
            self._follow(parse(last))
            self.name, self._segment = str(first.fields["chain"]), int(first.fields["file"])
        except (BadLine, KeyError, ValueError, TypeError):
            raise UserError(self._damaged(path)) from None

    def _damaged(self, path: Path) -> str:
        return (
            f"{path} is no audit log, or its end was changed: nothing can follow it. See `safety-kit audit verify "
            f"{self.file}`, and name another file, or move it away, to begin a new chain."
        )

    def _set_aside(self, end: files.Tail) -> None:
        """Keep a torn line beside the log, in a file named by where it stood."""
        with self.file.open("rb") as file:
            file.seek(end.end)
            torn = file.read(min(end.torn, MAX_LINE))
        private_files.create(self.file.with_name(f"{self.file.name}.torn-{self._segment}-{end.end}"), torn)
