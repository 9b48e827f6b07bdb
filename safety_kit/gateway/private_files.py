"""Files that only their owner may read, written whole or not at all."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Final

NEW: Final = ".new"
"""The end of the name that a file has until it is whole; it begins with a dot, and a killed process may leave it."""


def write_all(descriptor: int, data: bytes) -> None:
    """Write all bytes, however many calls that takes."""
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]


def create(path: Path, data: bytes) -> None:
    """Make a private file in one step, on the disk when this returns; one that is there is replaced.

    Raises:
        OSError: It cannot be made; nothing is left of it.
    """
    new = path.with_name(f".{path.name}-{secrets.token_hex(4)}{NEW}")
    descriptor = os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    try:
        try:
            write_all(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(new, path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Put a folder's names on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
