"""Whether an audit log holds together: each line is the one that was written, and follows the one before.

Files are read line by line, also while a gateway writes them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from safety_kit.errors import UserError
from safety_kit.gateway import audit_files as files
from safety_kit.gateway.audit_line import GENESIS, MAX_LINE, BadLine, Line, parse


@dataclass(frozen=True, slots=True)
class Fault:
    """The first thing that is wrong.

    Attributes:
        file: Where.
        line: Of that file, from 1; 0: the file as a whole.
        what: What is wrong.
    """

    file: Path
    line: int
    what: str

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}: {self.what}" if self.line else f"{self.file}: {self.what}"


@dataclass(frozen=True, slots=True)
class Report:
    """What a log comes to, up to its first fault.

    Attributes:
        file: The file that is, or was, written.
        chain: What the chain is called.
        files: How many were read.
        requests: Lines of requests.
        number: Of the last good line: lines of the chain in all.
        head: Its hash.
        torn: Bytes behind the last line: one that is being written, or was when the process was ended.
        set_aside: Bytes of torn lines that later starts found and told.
        lost: Lines that could not be written, as later lines tell.
        fault: None where everything holds.
    """

    file: Path
    chain: str = ""
    files: int = 0
    requests: int = 0
    number: int = 0
    head: str = GENESIS
    torn: int = 0
    set_aside: int = 0
    lost: int = 0
    fault: Fault | None = None

    def to_json(self) -> dict[str, Any]:
        fault = self.fault and {"file": str(self.fault.file), "line": self.fault.line, "what": self.fault.what}
        fields = ("chain", "files", "requests", "number", "head", "torn", "set_aside", "lost")
        told = {name: getattr(self, name) for name in fields}
        return {"file": str(self.file), "ok": self.fault is None, **told, "fault": fault}


def verify(log: Path, *, expect: str | None = None, count: int | None = None, after: str = GENESIS) -> Report:
    """Follow a log from its first line to its last.

    A log cannot tell that its end was cut off: `expect` and `count`, remembered elsewhere, can.

    Args:
        log: The file that is written, or one that was rotated: all of the log's files are read.
        expect: Hash of a line that must be there.
        count: Lines that there must be at least.
        after: Hash of the line that the first one follows, where earlier files were archived.

    Raises:
        UserError: No file of the log can be read.
    """
    walk = _Walk(files.log_of(log), after)
    found = expect in (None, after)
    try:
        for line in walk.lines():
            found = found or line.hash == expect
    except BadLine as error:
        walk.report = replace(walk.report, fault=Fault(walk.path, walk.line, str(error)))
    except OSError as error:
        raise UserError(f"{walk.path} cannot be read: {error.strerror or type(error).__name__}.") from error
    report = walk.report
    if report.fault is None and not found:
        report = replace(
            report, fault=Fault(walk.path, 0, "the line that is expected is not there: the end is cut off")
        )
    if report.fault is None and count is not None and report.number < count:
        missing = f"the chain ends with line {report.number} of {count}: the end is cut off"
        report = replace(report, fault=Fault(walk.path, 0, missing))
    return report


def head(log: Path) -> Report:
    """The end of a log, without a look at what is before.

    Raises:
        UserError: There is no log, or its last line was changed.
    """
    log = files.log_of(log)
    try:
        path = log if log.exists() else files.rotated(log, max(files.numbers(log), default=0))
        end = files.tail(path)
        last, first = parse(end.line or b""), parse(files.first_line(path))
    except BadLine as error:
        raise UserError(f"{path}: its last line {error}; see `safety-kit audit verify {log}`.") from None
    except OSError as error:
        raise UserError(f"{log} cannot be read: {error.strerror or type(error).__name__}.") from error
    return Report(log, str(first.fields.get("chain")), number=last.number, head=last.hash, torn=end.torn)


class _Walk:
    """Reads a log's files in order, and remembers where it is."""

    def __init__(self, log: Path, after: str) -> None:
        self.log = log
        self.report = Report(log, head=after)
        self.path = log
        self.line = 0

    def lines(self) -> Iterator[Line]:
        """Each line that holds.

        Raises:
            BadLine: The next one does not; `path` and `line` say where.
            OSError: A file cannot be read.
        """
        full = files.numbers(self.log)
        # Ended between two files, the log has none that is written. One that is rotated while it is read is the last.
        last = max(full, default=0) + (self.log.exists() or not full)
        for segment in range(min(full, default=1), last + 1):
            with self._open(segment) as file:
                yield from self._file_lines(file, segment)
            self.report = replace(self.report, files=self.report.files + 1)

    def _open(self, segment: int) -> BinaryIO:
        """A file by its number: the rotated one, else the one that is written, if it was not rotated just now."""
        self.line = 0
        full = files.rotated(self.log, segment)
        if not full.exists() and self.log.exists():
            self.path = self.log
            file = self.log.open("rb")
            if not full.exists():
                return file
            file.close()
        self.path = full
        if not full.exists() and files.numbers(self.log):
            raise BadLine("is not there")
        return full.open("rb")

    def _file_lines(self, file: BinaryIO, segment: int) -> Iterator[Line]:
        for raw in self._whole_lines(file, files.rotated(self.log, segment)):
            self.line += 1
            line = parse(raw)
            self._follow(line)
            self._note(line, segment)
            yield line
        if self.line == 0:
            raise BadLine("is empty: its lines were removed")

    def _whole_lines(self, file: BinaryIO, full: Path) -> Iterator[bytes]:
        """Lines with their ends; what a gateway appends until it rotates the file is read too."""
        at = 0
        while True:
            complete = full.exists()
            file.seek(at)
            while (raw := file.readline(MAX_LINE)).endswith(b"\n"):
                at += len(raw)
                yield raw
            if complete or not full.exists():
                break
        if raw and (complete or len(raw) == MAX_LINE):
            self.line += 1
            raise BadLine("is cut off" if complete else "is longer than any line of an audit log")
        self.report = replace(self.report, torn=len(raw))

    def _follow(self, line: Line) -> None:
        """Refuse a line that is not the next one; where earlier files were archived, the first has any number."""
        before = self.report
        first = before.number == 0 and before.head != GENESIS
        if line.previous == before.head and (first or line.number == before.number + 1):
            return
        if line.number == before.number + 1:
            raise BadLine("does not follow the line before, which was replaced")
        if line.number > before.number:
            missing = line.number - before.number - 1
            raise BadLine(f"comes after {missing} that are missing" if not first else "does not follow the hash given")
        raise BadLine("was inserted, or stands in the wrong place")

    def _note(self, line: Line, segment: int) -> None:
        report = self.report
        chain = report.chain
        if (self.line == 1) != (line.kind == "header"):
            raise BadLine("is no header, with which each file begins" if self.line == 1 else "is a second header")
        if line.kind == "header":
            chain = str(line.fields.get("chain"))
            if chain != (report.chain or chain) or line.fields.get("file") != segment:
                raise BadLine("is the header of another file")
        self.report = replace(
            report,
            chain=chain,
            requests=report.requests + (line.kind == "request"),
            number=line.number,
            head=line.hash,
            set_aside=report.set_aside + _count(line, "opened", "torn"),
            lost=report.lost + _count(line, "gap", "lost"),
        )


def _count(line: Line, kind: str, field: str) -> int:
    value = line.fields.get(field)
    return value if line.kind == kind and isinstance(value, int) else 0
