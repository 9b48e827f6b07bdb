"""Writing a file in one step: a reader sees the old file or the new one, and an interrupted write leaves nothing."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def write(path: Path, content: bytes, *, mode: int | None = None) -> None:
    """Write a file by way of a temporary one beside it; folders above it are made.

    `mode` is its permissions; without it they are the process's usual ones.

    Raises:
        OSError: It cannot be written.
    """
    with naming(path), scratch_beside(path) as scratch:
        new = scratch / path.name
        new.write_bytes(content)
        if mode is not None:
            new.chmod(mode)
        os.replace(new, path)


@contextmanager
def scratch_beside(path: Path) -> Iterator[Path]:
    """A folder for what is to stand at `path`, on the same disk; it is gone afterwards.

    Folders above `path` are made, and taken away again where nothing came to stand in them.
    """
    missing = [folder for folder in path.parents if not folder.exists()]  # the deepest first
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as scratch:
            yield Path(scratch)
    except BaseException:
        for folder in missing:
            with suppress(OSError):  # never made, or something stands in it by now
                folder.rmdir()
        raise


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Name the file that is wanted in an OSError: a full disk's names none, and others the temporary one."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
