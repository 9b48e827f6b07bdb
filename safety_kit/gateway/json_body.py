"""Reading a request's JSON within limits: what comes out can be walked, compared and written again."""

from __future__ import annotations

import json
import math
import re
from typing import Any, Final

from safety_kit.errors import UserError

DEPTH: Final = 64
"""Mappings and lists inside one another; a schema of a tool seldom has ten."""
CONTAINERS: Final = 100_000
"""Mappings and lists in all: an empty one takes three bytes to send and twenty times that to keep."""
DIGITS: Final = 300
"""Of a whole number: more would be too large for a float."""

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


class BodyError(UserError):
    """A body that is no JSON object, or goes beyond a limit; its message quotes nothing of it."""


def parse_json(body: bytes) -> dict[str, Any]:
    """The JSON object that a body holds.

    Refused beside broken JSON: what is no UTF-8 or holds half a surrogate pair, a name given twice in an object (two
    readers would see different requests), NaN, infinities and numbers beyond a float's range, and what is nested
    deeper than `DEPTH` or has more than `CONTAINERS` mappings and lists.

    Raises:
        BodyError: With what is wrong and, where it is broken JSON, the place as an offset.
    """
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BodyError(f"The body is not valid UTF-8 (at byte {error.start}).") from None
    try:
        content = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise BodyError(f"The body is not valid JSON (at character {error.pos}).") from None
    except RecursionError:
        raise BodyError(f"The body is nested too deeply; at most {DEPTH} levels are read.") from None
    if not isinstance(content, dict):
        raise BodyError("The body must be a JSON object.")
    _bound(content)
    if _SURROGATE.search(body):
        _whole_characters(content)
    return content


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise BodyError("The body gives a name twice in one object; remove one of them.")
    return made


def _constant(_: str) -> float:
    raise BodyError("The body holds NaN or an infinity, which JSON does not know.")


def _float(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise BodyError("The body holds a number that is too large.")
    return number


def _int(digits: str) -> int:
    if len(digits) > DIGITS:
        raise BodyError("The body holds a number that is too large.")
    return int(digits)


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant, parse_float=_float, parse_int=_int)


def _bound(content: dict[str, Any]) -> None:
    level: list[Any] = [content]
    seen = 1
    for _ in range(DEPTH):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        seen += len(level)
        if seen > CONTAINERS:
            raise BodyError(f"The body has too many parts; at most {CONTAINERS} objects and lists are read.")
        if not level:
            return
    raise BodyError(f"The body is nested too deeply; at most {DEPTH} levels are read.")


def _whole_characters(content: dict[str, Any]) -> None:
    try:
        json.dumps(content, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise BodyError("The body holds half of a surrogate pair, which is no character.") from None
