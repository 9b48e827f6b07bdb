"""The folder of a review store: a file a request, private to its owner, and gone when its days are over.

A file's name says since when it is there, in milliseconds, and has a digest of its request's id: neither purging nor
deleting opens one.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from safety_kit.errors import UserError
from safety_kit.gateway import private_files
from safety_kit.gateway.review_entry import Entry, read_entry

ABOUT: Final = "review-store.json"
"""The file that makes a folder a review store, and says how long it keeps what it has."""

DAY: Final = 86_400.0
_STALE: Final = 3600.0
_LAST: Final = 2.5e11  # of the years that a date can have
_NAME = re.compile(r"(\d{15})-([0-9a-f]{32})-[0-9a-f]{8}\.json")


class About(BaseModel):
    """What `ABOUT` holds."""

    model_config = ConfigDict(frozen=True)

    format: int = 1
    days: int = Field(gt=0)


class Shelf:
    """The folder. Several processes may use it at once.

    Attributes:
        folder: Where it is.
        days: After so many an entry is deleted.
    """

    def __init__(self, folder: Path, days: int, clock: Callable[[], float] = time.time) -> None:
        self.folder = folder
        self.days = days
        self._clock = clock

    @classmethod
    def make(cls, folder: Path, days: int, clock: Callable[[], float] = time.time) -> Shelf:
        """The store in a folder, made where there is none; `days` holds from now on.

        Raises:
            UserError: The folder cannot be used, or others may read it.
        """
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _refuse_open(folder)
            private_files.create(folder / ABOUT, About(days=days).model_dump_json().encode())
        except OSError as error:
            raise UserError(
                f"The review folder {folder} cannot be used: {error.strerror}; name another with review.folder."
            ) from error
        return cls(folder, days, clock)

    @classmethod
    def open(cls, folder: Path, clock: Callable[[], float] = time.time) -> Shelf:
        """The store in a folder; what it should not have any more is deleted first.

        Raises:
            UserError: There is none, or others may read it.
        """
        try:
            about = About.model_validate_json((folder / ABOUT).read_bytes())
            _refuse_open(folder)
        except (OSError, ValidationError):
            raise UserError(f"{folder} is no review store; name the folder that review.folder names.") from None
        shelf = cls(folder, about.days, clock)
        shelf.purge()
        return shelf

    def now(self) -> float:
        return self._clock()

    def add(self, entry: Entry) -> None:
        """Keep an entry.

        Raises:
            OSError: It cannot be written; nothing of it is left.
        """
        name = f"{_milliseconds(entry.at):015d}-{_digest(entry.request_id)}-{secrets.token_hex(4)}.json"
        private_files.create(self.folder / name, entry.model_dump_json().encode("utf-8"))

    def entries(self, since: float | None = None) -> Iterator[Entry]:
        """What is kept, the oldest first.

        Raises:
            DataError: A file holds something else.
        """
        for at, path in self._files():
            if since is None or at >= _milliseconds(since):
                with suppress(FileNotFoundError):  # deleted meanwhile
                    yield read_entry(path.read_bytes(), path.name, at / 1000)

    def find(self, request_id: str) -> list[Entry]:
        """What is kept of a request, the oldest first; several where its caller used an id again.

        Raises:
            DataError: A file holds something else.
        """
        return [read_entry(path.read_bytes(), path.name, at / 1000) for at, path in self._of(request_id)]

    def delete(self, request_id: str) -> int:
        """Remove all that is kept of a request, and say how many entries that were.

        Raises:
            OSError: One cannot be removed.
        """
        gone = 0
        for _, path in self._of(request_id):
            path.unlink(missing_ok=True)
            gone += 1
        private_files.sync_folder(self.folder)
        return gone

    def purge(self) -> int:
        """Delete what is too old, and say how many entries that were.

        What comes from a later time than now was dated by a clock that was wrong: its days begin now.

        Raises:
            OSError: One cannot be removed.
        """
        now = self._clock()
        gone = 0
        for at, path in self._files():
            if at < _milliseconds(now - self.days * DAY):
                path.unlink(missing_ok=True)
                gone += 1
            elif at > _milliseconds(now + DAY):
                with suppress(FileNotFoundError):
                    os.replace(path, path.with_name(f"{_milliseconds(now):015d}{path.name[15:]}"))
        for path in self.folder.glob(f".*{private_files.NEW}"):  # left by a process that was killed while it wrote
            with suppress(FileNotFoundError):
                if abs(now - path.stat().st_mtime) > _STALE:
                    path.unlink()
        return gone

    def _files(self) -> list[tuple[int, Path]]:
        found = ((match, path) for path in self.folder.iterdir() if (match := _NAME.fullmatch(path.name)))
        return sorted((int(match[1]), path) for match, path in found)

    def _of(self, request_id: str) -> list[tuple[int, Path]]:
        wanted = _digest(request_id)
        return [(at, path) for at, path in self._files() if path.name[16:48] == wanted]


def _digest(request_id: str) -> str:
    return hashlib.sha256(request_id.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _milliseconds(at: float) -> int:
    """A time as names have it: in 15 digits, whatever the clock said."""
    return int(min(max(at, 0.0), _LAST) * 1000) if math.isfinite(at) else 0


def _refuse_open(folder: Path) -> None:
    if os.name == "posix" and stat.S_IMODE(folder.stat().st_mode) & 0o077:
        raise UserError(f"Others may read the review folder {folder}: say `chmod 700 {folder}`, or name another.")
