"""A verdict's place in the body of a request or a reply, told without the caller's own words.

A place is a path such as ``messages[3].content``. Names in it that the wire does not know are a caller's: keys of a
call's arguments, say. A path is cut before the first of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from safety_kit.chat.wire import MESSAGE_FIELDS, RECORDS, SETTINGS

_FIELDS = """
arguments choices custom delta description documents file filename function functions image_url index input
input_audio instances json_schema logprobs message messages parameters prediction prompt response_format text texts
tool_choice tools transcript url
"""
KNOWN: Final = frozenset(_FIELDS.split()) | MESSAGE_FIELDS | SETTINGS | RECORDS

_STEP = re.compile(r"\[(\d{1,9})\]|\.?([A-Za-z_]\w*)")
_LONGEST = 256


def cut(path: str) -> str:
    """The path as far as it is the wire's own words; ``…`` stands for the rest."""
    end = max((stop for _, stop in _steps(path)), default=0)
    return path if end == len(path) else f"{path[:end]}…"


def text_at(body: Any, path: str) -> str | None:
    """The text that a path, or a cut one, leads to; None where there is none."""
    node = body
    for step, _ in _steps(path):
        try:
            node = node[step]  # a list by a number, a mapping by a name
        except (TypeError, LookupError):
            return None
    return node if isinstance(node, str) else None


def _steps(path: str) -> Iterator[tuple[str | int, int]]:
    """Each step that is known, and where it ends in the path."""
    at = 0
    while (match := _STEP.match(path, at, _LONGEST)) and (match[1] or match[2] in KNOWN):
        at = match.end()
        yield int(match[1]) if match[1] else match[2], at
