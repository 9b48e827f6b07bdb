"""The output of a scan: a line a row, appended; what it was begun with stands beside it, so that it can be resumed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

from safety_kit import files
from safety_kit.errors import SafetyKitError, UserError

BESIDE = ".scan.json"
"""Added to the output's name: the file that says what the scan was begun with."""


class Output:
    """An output file, locked while it is open.

    Attributes:
        done: Rows that are written.
    """

    def __init__(self, path: Path, begun: dict[str, str], places: Iterable[int], each: Callable[[Any], None]) -> None:
        """Open the file behind its last whole row.

        Args:
            path: The file; made if it is not there.
            begun: What the rows depend on, by the word that a message uses for it.
            places: Of all rows of the input, in order; read as far as the file goes.
            each: Called with every row that stands in the file already.

        Raises:
            UserError: The file is no scan's, was begun with something else, or another scan writes it.
            OSError: It cannot be opened.
        """
        self.done = 0
        self._path = path
        self._lock = FileLock(f"{path}.lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise UserError(f"Another scan is writing {path}; wait for it, or name another file.") from None
        try:
            self._begin(begun)
            end = self._finished(places, each)
            self._file = FileIO(path, "r+")
            self._file.truncate(end)
            self._file.seek(end)
        except BaseException:
            self._unlock()
            raise

    def __enter__(self) -> Output:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()
        self._unlock()

    def write(self, lines: Sequence[str]) -> None:
        """Append lines.

        Raises:
            SafetyKitError: The disk is full, or the file cannot be written for another reason.
        """
        for line in lines:
            data = memoryview(line.encode("ascii") + b"\n")
            try:
                while data:
                    data = data[self._file.write(data) or 0 :]
            except OSError as error:
                raise self._fault(error) from error
            self.done += 1

    def sync(self) -> None:
        """Have the system put all that was written on the disk.

        Raises:
            SafetyKitError: It cannot.
        """
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._fault(error) from error

    def _fault(self, error: OSError) -> SafetyKitError:
        return SafetyKitError(
            f"{self._path}: {error.strerror or type(error).__name__}. The first {self.done} rows are kept; make room "
            "and run the same command to go on."
        )

    def _begin(self, begun: dict[str, str]) -> None:
        beside = self._path.with_name(self._path.name + BESIDE)
        there = self._path.exists() and self._path.stat().st_size > 0
        try:
            before = json.loads(beside.read_text(encoding="utf-8"))
        except FileNotFoundError:
            before = None
        except (ValueError, RecursionError):
            before = {}
        if there and not isinstance(before, dict):
            raise UserError(f"{self._path} is there and no scan wrote it; name another file, or remove it.")
        if before != begun:
            if there:
                changed = ", ".join(word for word, value in begun.items() if (before or {}).get(word) != value)
                raise UserError(
                    f"{self._path} was begun with another {changed or 'kit'}; scan into another file, or remove it and "
                    f"{beside.name} to begin anew."
                )
            files.write(beside, (json.dumps(begun, indent=1) + "\n").encode())
        if not there:
            self._path.touch()

    def _finished(self, places: Iterable[int], each: Callable[[Any], None]) -> int:
        """Where the last whole row that belongs there ends; what is torn behind it is done again."""
        end = 0
        with self._path.open("rb") as file:
            for place, line in zip(places, file, strict=False):
                try:
                    row = json.loads(line) if line.endswith(b"\n") else None
                except (ValueError, RecursionError):
                    row = None
                if not isinstance(row, dict) or row.get("row") != place:
                    break
                each(row)
                end += len(line)
                self.done += 1
        return end

    def _unlock(self) -> None:
        with suppress(OSError):
            os.unlink(self._lock.lock_file)  # still held: who finds the name gone makes a lock of its own
        self._lock.release()
