"""The files of an audit log: `audit.jsonl` is written, `audit.000001.jsonl` and so on are what it was before."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from safety_kit.gateway.audit_line import MAX_LINE

SUFFIX: Final = ".jsonl"

_ROTATED = re.compile(r"(.+)\.(\d{6,})")
_BLOCK = 2**16


def rotated(file: Path, number: int) -> Path:
    """Where a log's file number `number` is, once it is full."""
    return file.with_name(f"{file.stem}.{number:06d}{file.suffix}")


def log_of(file: Path) -> Path:
    """The log that a file belongs to: itself, or what it was rotated from."""
    match = _ROTATED.fullmatch(file.stem)
    return file.with_name(match[1] + file.suffix) if match else file


def numbers(file: Path) -> list[int]:
    """Numbers of a log's rotated files, ascending."""
    found = (path for path in file.parent.glob(f"*{file.suffix}") if path != file and log_of(path) == file)
    return sorted(int(match[2]) for path in found if (match := _ROTATED.fullmatch(path.stem)))


def logs(folder: Path) -> list[Path]:
    """The logs in a folder, each by the file that is written."""
    return sorted({log_of(path) for path in folder.glob(f"*{SUFFIX}") if path.is_file()})


@dataclass(frozen=True, slots=True)
class Tail:
    """The end of a file.

    Attributes:
        line: Its last whole line; None where there is none.
        end: Offset behind that line.
        torn: Bytes behind it: a line that was being written when the process ended.
    """

    line: bytes | None
    end: int
    torn: int


def tail(path: Path) -> Tail:
    """The end of a file, read from behind.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        end = _line_begin(file, size)
        if end == 0:
            return Tail(None, 0, size)
        begin = _line_begin(file, end - 1)
        file.seek(begin)
        return Tail(file.read(min(end - begin, MAX_LINE)), end, size - end)


def _line_begin(file: BinaryIO, end: int) -> int:
    """Offset behind the last end of a line before `end`."""
    while end > 0:
        start = max(0, end - _BLOCK)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def first_line(path: Path) -> bytes:
    """The first line of a file; empty where it has none.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        return file.readline(MAX_LINE)
