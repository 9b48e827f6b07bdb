"""Readings on disk: what a forward pass gave once is not computed again.

An entry's name is a hash of everything the reading depends on, so that nothing in the folder spells a text. Each entry
is one file, a SHA-256 before a safetensors payload: one that was cut or changed is dropped and computed again. Entries
appear by an atomic rename, which is all that two processes need.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError
from safetensors.numpy import load, save

from safety_kit.cache import cache_dir

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Arrays = dict[str, NDArray]  # type: ignore[type-arg]

LIMIT = 1 << 30
"""Bytes that the folder may take; past it the entries used longest ago go, down to nine tenths."""

_DIGEST = 32


class FeatureCache:
    """Arrays by key in a folder that stays within a size.

    Args:
        folder: Where; None takes the kit's cache folder.
        limit: Bytes.
    """

    def __init__(self, folder: Path | None = None, limit: int = LIMIT) -> None:
        self.folder = folder or cache_dir() / "features"
        self.limit = limit
        self._size: int | None = None  # bytes on disk, as far as this process knows

    def get(self, key: str) -> Arrays | None:
        """The arrays of a key, or None; a corrupt entry is removed."""
        path = self._path(key)
        try:
            data = path.read_bytes()
            if hashlib.sha256(data[_DIGEST:]).digest() != data[:_DIGEST]:
                raise ValueError("changed")
            arrays: Arrays = load(data[_DIGEST:])
            os.utime(path)
        except FileNotFoundError:
            return None
        except (ValueError, SafetensorError, OSError):
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        return arrays

    def put(self, key: str, arrays: Arrays) -> None:
        """Keep arrays. A full or read-only disk is no fault: they are then computed again next time."""
        payload = save(arrays)
        path = self._path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".new-", delete=False) as new:
                try:
                    new.write(hashlib.sha256(payload).digest() + payload)
                    new.close()
                    os.replace(new.name, path)
                except BaseException:
                    new.close()
                    with contextlib.suppress(OSError):
                        os.unlink(new.name)
                    raise
        except OSError:
            return
        self._size = (self._measure() if self._size is None else self._size) + len(payload) + _DIGEST
        if self._size > self.limit:
            self._shrink()

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / key[2:]

    def _entries(self) -> list[tuple[float, int, Path]]:
        """(last use, bytes, path); what another process removes meanwhile is left out."""
        found = []
        for path in self.folder.glob("??/*"):
            with contextlib.suppress(OSError):
                stat = path.stat()
                found.append((stat.st_mtime, stat.st_size, path))
        return found

    def _measure(self) -> int:
        return sum(size for _, size, _ in self._entries())

    def _shrink(self) -> None:
        entries = sorted(self._entries())
        total = sum(size for _, size, _ in entries)
        for _, size, path in entries:
            if total <= self.limit * 0.9:
                break
            with contextlib.suppress(OSError):
                path.unlink()
            total -= size
        self._size = total


def cache_for(setting: FeatureCache | bool) -> FeatureCache | None:
    """The cache that an estimator's parameter asks for: its own, the kit's, or none."""
    if isinstance(setting, FeatureCache):
        return setting
    return FeatureCache() if setting else None
