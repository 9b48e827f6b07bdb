"""Strings in a JSON value: where they are, and the same value with some of them rewritten.

Values come from outside and may have any shape: depth and size are bounded; a fault names the place, never the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from safety_kit.errors import ConversationError

MAX_DEPTH: Final = 64
"""Containers within containers; more is refused."""

MAX_NODES: Final = 1_000_000
"""Values of one request, reply or JSON text; more are refused."""

MIN_NUMBER: Final = 6
"""A number of so many characters may be a card or an account, and is read like a text."""

_IDENTIFIER = re.compile(r"[A-Za-z0-9_.:/$+-]{1,64}")
_WORD = re.compile(r"[!-~]{1,256}")


@dataclass(frozen=True, slots=True)
class Key:
    """A step of a path that names a mapping's key itself, not the value under it."""

    name: str


Step: TypeAlias = str | int | Key
Path: TypeAlias = tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """One string, and where it stands.

    Attributes:
        path: From the top of the request or the response; in a JSON text, from the top of that.
        text: The string, or a long number as one.
        label: A name, a key or a constant: one word of ASCII there is no prose.
    """

    path: Path
    text: str
    label: bool = False

    @property
    def is_prose(self) -> bool:
        """Whether a model has something to read here."""
        return not (self.label and _WORD.fullmatch(self.text))


def is_identifier(text: str) -> bool:
    """At most 64 letters, digits and marks of ASCII, as names, ids and constants are written."""
    return _IDENTIFIER.fullmatch(text) is not None


def show(path: Path) -> str:
    """The path as `messages[3].content[0].text`; a key that is no identifier is told by its length alone."""
    out = ""
    for step in path:
        if isinstance(step, int):
            out += f"[{step}]"
            continue
        name = step.name if isinstance(step, Key) else step
        name = name if is_identifier(name) else f"<key of {len(name)} characters>"
        out += f".<{name}>" if isinstance(step, Key) else f".{name}"
    return out.lstrip(".") or "the whole"


@dataclass(slots=True)
class Walker:
    """Finds the strings of values; one walker counts the nodes of all that it walks."""

    nodes: int = field(default=0)

    def strings(self, value: Any, path: Path = (), *, label: bool = False) -> Iterator[Place]:
        """Every string, key and long number of a JSON value, in reading order.

        Args:
            value: None, a bool, a number, a text, a list or a mapping with text keys.
            path: Where the value stands.
            label: The texts are names and constants rather than prose; keys always are.

        Raises:
            ConversationError: The value is no JSON, nested too deep or too large.
        """
        stack: list[tuple[Any, Path, int]] = [(value, path, 0)]
        while stack:
            node, at, depth = stack.pop()
            self.nodes += 1
            if self.nodes > MAX_NODES:
                raise ConversationError(f"There are more than {MAX_NODES} values; send less at once.")
            if isinstance(node, str):
                if at and isinstance(at[-1], Key):
                    yield Place(at, node, True)
                elif node:
                    yield Place(at, node, label)
            elif isinstance(node, (dict, list, tuple)):
                if depth == MAX_DEPTH:
                    raise ConversationError(f"{show(at[:4])}: is nested deeper than {MAX_DEPTH}; send it flatter.")
                stack += reversed(list(_inside(node, at, depth + 1)))
            elif (text := _number(node, at)) is not None:
                yield Place(at, text, label)


def _inside(node: Any, at: Path, depth: int) -> Iterator[tuple[Any, Path, int]]:
    if not isinstance(node, dict):
        for number, item in enumerate(node):
            yield item, (*at, number), depth
        return
    for key, item in node.items():
        if not isinstance(key, str):
            raise ConversationError(f"{show(at[:4])}: has a key that is no text; send plain JSON.")
        if key:
            yield key, (*at, Key(key)), depth
        yield item, (*at, key), depth


def _number(node: Any, at: Path) -> str | None:
    if node is None or isinstance(node, bool):
        return None
    if not isinstance(node, (int, float)):
        raise ConversationError(f"{show(at[:4])}: is no JSON value; send plain texts, numbers, lists and mappings.")
    try:
        text = repr(node)
    except ValueError as error:  # Python writes out no integer of more than 4,300 digits
        raise ConversationError(f"{show(at[:4])}: the number is too long; send it as a text.") from error
    return text if len(text) >= MIN_NUMBER else None


def rewritten(value: Any, edits: Mapping[Path, str]) -> Any:
    """The value with new texts at these paths; what is not edited is shared, nothing is changed in place.

    Raises:
        ConversationError: Two keys of a mapping would become one.
    """
    if not edits:
        return value
    if () in edits:
        return edits[()]
    below: dict[Step, dict[Path, str]] = {}
    for path, text in edits.items():
        below.setdefault(path[0], {})[path[1:]] = text
    if isinstance(value, dict):
        items = [
            (below.get(Key(key), {}).get((), key), rewritten(item, below.get(key, {}))) for key, item in value.items()
        ]
        if len({key for key, _ in items}) < len(items):
            raise ConversationError("Two names would become one when redacted; rename one of them.")
        return dict(items)
    return [rewritten(item, below.get(number, {})) for number, item in enumerate(value)]
