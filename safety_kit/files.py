"""Writing a file in one step: a reader sees the old file or the new one, and an interrupted write leaves nothing."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write(path: Path, content: bytes, *, mode: int | None = None) -> None:
    """Write a file by way of a temporary one beside it; folders above it are made.

    `mode` is its permissions; without it they are the process's usual ones.

    Raises:
        OSError: It cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as scratch:
        new = Path(scratch) / path.name
        new.write_bytes(content)
        if mode is not None:
            new.chmod(mode)
        os.replace(new, path)
