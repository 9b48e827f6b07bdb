"""API keys: who calls. The file holds a hash of each, never the key.

A key is 256 random bits, so one SHA-256 protects it: a slow hash defends what people can remember against being
guessed, and here there is nothing to guess. It would only cost every request tens of milliseconds.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal, TypeVar

import yaml
from filelock import FileLock
from pydantic import Field, ValidationError

from safety_kit import files, strict_yaml
from safety_kit.errors import UserError
from safety_kit.gateway.settings import Rate, Section, beside, like

PREFIX: Final = "sk-kit-"
_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]{1,512}")
_BEARER = re.compile(r"bearer +(\S+) *", re.IGNORECASE)

Name = Annotated[str, like(r"[A-Za-z0-9._-]{1,64}", "use up to 64 letters, digits, dots, dashes and underscores")]
_Section = TypeVar("_Section", bound=Section)


class _Entry(Section):
    name: Name
    sha256: Annotated[str, like(r"[0-9a-f]{64}", "use what safety-kit keys new writes")]
    policy: str | None = None
    rate: Rate | None = None


class _File(Section):
    version: Literal[1]
    keys: tuple[_Entry, ...] = Field(default=())


@dataclass(frozen=True, slots=True)
class Key:
    """Whose key it is, and what is special about it.

    Attributes:
        name: What logs and metrics call the caller.
        policy: Name or file of the policy that its requests are held to; None: the gateway's.
        rate: Its own rate, such as ``60/minute``; None: the gateway's.
    """

    name: str
    policy: str | None = None
    rate: str | None = None


class KeyRing:
    """The keys of a file, read again when the file changes.

    Attributes:
        problem: Why the file as it is now was not taken over; None when it was.
    """

    def __init__(self, path: Path, every: float) -> None:
        self.problem: str | None = None
        self._path = path
        self._every = every
        self._looked = time.monotonic()
        self._state = _state(path)
        self._keys = _read_keys(path)

    @classmethod
    def load(cls, path: Path, *, every: float = 2) -> KeyRing:
        """Read a file of keys.

        Args:
            path: What `safety-kit keys new` writes.
            every: Seconds between looks at the file; 0: it is read once.

        Raises:
            UserError: It cannot be read, is no file of keys, or others than its owner may read it.
        """
        return cls(path, every)

    def find(self, token: str) -> Key | None:
        """Whose token it is; None for nobody's. The time that it takes says nothing of the keys."""
        self._look()
        digest = _digest(token)
        found = None
        for known, key in self._keys:
            if hmac.compare_digest(known, digest):
                found = key  # no early end: each is compared
        return found

    @property
    def keys(self) -> tuple[Key, ...]:
        """All keys, in the file's order."""
        return tuple(key for _, key in self._keys)

    def _look(self) -> None:
        now = time.monotonic()
        if not self._every or now - self._looked < self._every:
            return
        self._looked = now
        state = _state(self._path)
        if state == self._state:
            return
        self._state = state
        try:
            self._keys = _read_keys(self._path)
        except UserError as error:
            self.problem = str(error)
        else:
            self.problem = None
        from safety_kit.gateway import logs

        if self.problem is not None:
            logs.told("keys kept as they were", level="warning", why=self.problem)
        else:
            logs.told("keys reloaded", count=len(self._keys))


def token_of(headers: Mapping[str, str]) -> str | None:
    """The caller's token: ``Authorization: Bearer …``, else ``x-api-key``; None where neither has the form of one.

    Args:
        headers: By name in lower case.
    """
    if (given := headers.get("authorization")) is not None:
        bearer = _BEARER.fullmatch(given)
        token = bearer[1] if bearer else ""
    else:
        token = headers.get("x-api-key", "")
    return token if _TOKEN.fullmatch(token) else None


def add(path: Path, name: str, policy: str | None = None, rate: str | None = None) -> str:
    """Make a key and write its hash into a file, which is made where there is none; the key is in no file.

    Raises:
        UserError: The name is taken, or something of it has not the form that it must have.
    """
    token = PREFIX + secrets.token_urlsafe(32)
    with _locked(path):
        entries = _read(path) if path.exists() else ()
        if any(entry.name == name for entry in entries):
            raise UserError(f"{path}: there is a key {name} already; revoke it first, or use another name.")
        made = {"name": name, "sha256": _digest(token).hex(), "policy": policy, "rate": rate}
        _write(path, [*entries, _validated(_Entry, made, "key")])
    return token


def revoke(path: Path, name: str) -> None:
    """Take a key out of a file.

    Raises:
        UserError: There is none of this name.
    """
    with _locked(path):
        entries = _read(path)
        left = [entry for entry in entries if entry.name != name]
        if len(left) == len(entries):
            raise UserError(f"{path}: there is no key {name!r}; safety-kit keys list shows them.")
        _write(path, left)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()


def _read_keys(path: Path) -> list[tuple[bytes, Key]]:
    return [
        (bytes.fromhex(entry.sha256), Key(entry.name, entry.policy and beside(path, entry.policy), entry.rate))
        for entry in _read(path)
    ]


def _read(path: Path) -> tuple[_Entry, ...]:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); make it with safety-kit keys new.") from error
    if os.name == "posix" and mode & 0o077:
        raise UserError(f"{path}: others may read or write it; run: chmod 600 {path}")
    try:
        entries = _validated(_File, strict_yaml.parse(content.decode("utf-8")), "keys").keys
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8; save it as such.") from error
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    for what in ("name", "sha256"):
        if len({getattr(entry, what) for entry in entries}) < len(entries):
            raise UserError(f"{path}: a {what} is there twice; remove one of the two.")
    return entries


def _validated(kind: type[_Section], content: object, root: str) -> _Section:
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        fault = strict_yaml.first_fault(error)
        raise UserError(f"{strict_yaml.place_of(fault['loc'], root)}: {strict_yaml.remedy(fault)}") from error


def _write(path: Path, entries: Sequence[_Entry]) -> None:
    keys = [entry.model_dump(exclude_none=True) for entry in entries]
    content = "# Written by safety-kit keys; hashes only.\n" + yaml.safe_dump(
        {"version": 1, "keys": keys}, sort_keys=False
    )
    files.write(path, content.encode("utf-8"), mode=0o600)


def _locked(path: Path) -> FileLock:
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path.with_name(f".{path.name}.lock"), mode=0o600)


def _state(path: Path) -> tuple[int, int, int] | None:
    """What changes when a file is written or replaced; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
