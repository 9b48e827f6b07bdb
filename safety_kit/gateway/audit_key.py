"""The key of an audit log's digests: it stays with whoever owns the log, and does not go where the log is read."""

from __future__ import annotations

import os
import re
import secrets
from contextlib import suppress
from pathlib import Path

from safety_kit.errors import UserError

_KEY = re.compile(r"[0-9a-f]{64}\n?")


def load_key(path: Path) -> bytes:
    """The 32 bytes of a key file, which is made (private, one line of hex) where there is none.

    Raises:
        UserError: It cannot be read or made, or holds no key.
    """
    try:
        if not path.exists():
            _make(path)
        return read_key(path)
    except OSError as error:
        raise UserError(
            f"The audit key {path} cannot be made: {error.strerror}; name another with audit.key."
        ) from None


def read_key(path: Path) -> bytes:
    """The 32 bytes of a key file that is there.

    Raises:
        UserError: It cannot be read, or holds no key.
    """
    try:
        text = path.read_text(encoding="ascii")
    except (OSError, ValueError):
        raise UserError(f"The audit key {path} cannot be read; name the one that the log was written with.") from None
    if not _KEY.fullmatch(text):
        raise UserError(f"The audit key {path} is not 64 hexadecimal digits; restore it, or move it away.")
    return bytes.fromhex(text)


def _make(path: Path) -> None:
    """Several replicas may share a key: the first one's counts, and is whole before it has the name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    descriptor = os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(32) + "\n")
            file.flush()
            os.fsync(descriptor)
        with suppress(FileExistsError):
            os.link(new, path)
    finally:
        new.unlink()
