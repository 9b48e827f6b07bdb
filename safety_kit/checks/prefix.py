"""Where a match of a regular expression may still be open: the prefixes of its matches, as a regex of their own."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from re import _constants as ops  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any, Final

import re2

_CLASSES: Final = {
    ops.CATEGORY_DIGIT: r"\d",
    ops.CATEGORY_NOT_DIGIT: r"\D",
    ops.CATEGORY_SPACE: r"\s",
    ops.CATEGORY_NOT_SPACE: r"\S",
    ops.CATEGORY_WORD: r"\w",
    ops.CATEGORY_NOT_WORD: r"\W",
}


def open_from(regex: str, ignore_case: bool) -> Callable[[str], int] | None:
    """For a text, the first place where a match of `regex` begins or might, were the text longer; linear time.

    A text of which no part is open gives its length. Assertions (`\\b`, `$`) are taken to hold, so the place may be
    too early but never too late.

    Args:
        regex: In RE2 syntax.
        ignore_case: Match without case.

    Returns:
        The function; None for a regex that standard syntax reads differently, or whose prefixes are too many.
    """
    if "{," in regex:  # a literal to RE2
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            tree = parser.parse(regex)
        flags = "i" if ignore_case or tree.state.flags & re.IGNORECASE else ""
        options = re2.Options()
        options.log_errors = False
        compiled = re2.compile(rf"(?s{flags}:{_all(tree)}|(?:{_prefixes(list(tree))})\z)", options)
    except (re.error, re2.error, Warning, _Unread, RecursionError, OverflowError):
        return None

    def place(text: str) -> int:
        found = compiled.search(text)
        return found.start() if found else len(text)

    return place


class _Unread(Exception):
    """A part of a regex that is not known here."""


def _all(items: Sequence[Any]) -> str:
    return "".join(_whole(op, value) for op, value in items)


def _whole(op: Any, value: Any) -> str:
    """What matches all that an item matches."""
    if op is ops.LITERAL:
        return _literal(value)
    if op is ops.NOT_LITERAL:
        return f"[^{_literal(value)}]"
    if op is ops.ANY:
        return "."
    if op is ops.IN:
        return _set(value)
    if op is ops.AT:
        return ""
    if op is ops.BRANCH:
        return f"(?:{'|'.join(map(_all, value[1]))})"
    if op is ops.SUBPATTERN and not (value[1] or value[2]):  # flags of its own
        return f"(?:{_all(value[3])})"
    if op in (ops.MAX_REPEAT, ops.MIN_REPEAT):
        least, most, items = value
        return f"(?:{_all(items)}){{{least},{'' if most is ops.MAXREPEAT else most}}}"
    raise _Unread


def _prefixes(items: Sequence[Any]) -> str:
    """What matches every prefix of what a sequence matches, the empty one too."""
    if not items:
        return ""
    (op, value), rest = items[0], items[1:]
    if op is ops.BRANCH:
        first = "|".join(_prefixes(list(branch)) for branch in value[1])
    elif op is ops.SUBPATTERN:
        first = _prefixes(list(value[3]))
    elif op in (ops.MAX_REPEAT, ops.MIN_REPEAT):
        _, most, repeated = value
        times = "*" if most is ops.MAXREPEAT else f"{{0,{max(0, most - 1)}}}"
        first = f"(?:{_all(repeated)}){times}(?:{_prefixes(list(repeated))})"
    else:
        first = f"(?:{_whole(op, value)})?"
    return f"(?:{first})|{_whole(op, value)}(?:{_prefixes(rest)})" if rest else first


def _literal(code: int) -> str:
    return rf"\x{{{code:x}}}"


def _set(items: Sequence[Any]) -> str:
    parts = []
    for op, value in items:
        if op is ops.NEGATE:
            parts.append("^")
        elif op is ops.LITERAL:
            parts.append(_literal(value))
        elif op is ops.RANGE:
            parts.append(f"{_literal(value[0])}-{_literal(value[1])}")
        elif op is ops.CATEGORY:
            parts.append(_CLASSES[value])
        else:
            raise _Unread
    return f"[{''.join(parts)}]"
