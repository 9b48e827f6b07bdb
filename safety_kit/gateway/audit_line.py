"""One line of the audit log: canonical JSON that carries its number, the hash of the line before, and its own.

The hash is SHA-256 over the line without its `hash`, so that anybody can follow a chain with `json` and `sha256`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

MAX_LINE: Final = 2**20
"""Bytes of a line, its end included: a reader needs no more at once."""

GENESIS: Final = "0" * 64
"""What stands for the hash before the first line."""

OWN: Final = frozenset({"number", "previous", "hash", "kind"})
"""Fields that every line has."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line, sealed or read.

    Attributes:
        number: Its place in the chain, from 1; no clock has a say in it.
        previous: Hash of the line before.
        hash: Its own.
        kind: ``header`` (first of each file), ``opened`` (a process goes on in a file), ``gap`` (lines that could not
            be written) or ``request``.
        fields: All else.
        raw: Its bytes, with the end of the line.
    """

    number: int
    previous: str
    hash: str
    kind: str
    fields: Mapping[str, Any]
    raw: bytes


class BadLine(Exception):
    """What is wrong with a line; never what it says."""


def canonical(value: Any) -> bytes:
    """JSON with sorted keys, without spaces, in ASCII.

    Raises:
        ValueError: It holds a number that JSON does not have.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def finite(value: float | None, digits: int) -> float | None:
    """A number rounded; None for what JSON does not have, since a clock may say anything."""
    return round(value, digits) if value is not None and math.isfinite(value) else None


def seal(number: int, previous: str, kind: str, fields: Mapping[str, Any]) -> Line:
    """The line that comes after the one with the hash `previous`."""
    body = {**fields, "number": number, "previous": previous, "kind": kind}
    own = hashlib.sha256(canonical(body)).hexdigest()
    return Line(number, previous, own, kind, fields, canonical({**body, "hash": own}) + b"\n")


def parse(raw: bytes) -> Line:
    """A line as it was read, its own hash checked.

    Raises:
        BadLine: It is no line of an audit log, or not the one that was written.
    """
    try:
        read: Any = json.loads(raw)
        if not isinstance(read, dict) or OWN - read.keys():
            raise BadLine("is no line of an audit log")
        line = seal(read["number"], read["previous"], read["kind"], {k: v for k, v in read.items() if k not in OWN})
    except (ValueError, RecursionError):
        raise BadLine("is no line of an audit log") from None
    if line.raw != raw or type(line.number) is not int or not isinstance(line.kind, str):
        raise BadLine("was changed")
    return line
