"""Hosts of web addresses: read as a browser reads them, held against lists, and against look-alikes of these."""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Final
from urllib.parse import unquote

from safety_kit.checks.base import utf8_safe

LONGEST: Final = 253
"""Characters of a host name."""

_IGNORED: Final = re.compile(r"[\u00ad\u200b-\u200d\u2060\ufe00-\ufe0f\ufeff\s]")
_NUMBER: Final = re.compile(r"0x[0-9a-f]{0,16}|[0-9]{1,16}")
_LATIN: Final = re.compile(r"[a-z\u00df-\u024f]")
_DRAWN_ALIKE: Final = re.compile(r"[\u0370-\u058f]")  # Greek, Cyrillic, Armenian
_SHORTEST_NAME: Final = 5
"""A name of fewer characters is one edit away from too many others."""

# Letters that are drawn like Latin ones; those that Unicode itself folds (full width, accents) need no entry.
_LIKE: Final = {
    **{"a": "аɑα", "b": "ьβ", "c": "сϲ", "d": "ԁ", "e": "еєε3", "f": "ƒ", "g": "ɡց", "h": "һհн", "i": "іıι", "j": "ј"},  # noqa: RUF001
    **{"k": "кκ", "l": "1ӏł", "m": "м", "n": "пηո", "o": "0оοσօø", "p": "рρ", "q": "ԛ", "r": "г", "s": "ѕ5"},  # noqa: RUF001
    **{"t": "тτ", "u": "υս", "v": "νѵ", "w": "ԝωѡ", "x": "хχ", "y": "уγү"},  # noqa: RUF001
}
_TO_LATIN: Final = str.maketrans({char: latin for latin, chars in _LIKE.items() for char in chars})


def read_host(raw: str) -> str:
    """A host in one spelling: percent and punycode decoded, case and width folded, ignored characters dropped."""
    host = _IGNORED.sub("", unquote(utf8_safe(raw[: 4 * LONGEST]), errors="replace"))
    host = unicodedata.normalize("NFKC", host).casefold().replace("\u3002", ".").strip(".")
    return ".".join(_decoded(label) for label in host[:LONGEST].split("."))


def _decoded(label: str) -> str:
    if not label.startswith("xn--") or len(label) > 63:
        return label
    try:
        return label[4:].encode("ascii").decode("punycode").casefold()
    except ValueError:
        return label


def address_of(host: str) -> str | None:
    """The IP address that a host is, in whatever notation: `127.1`, `0x7f000001`, `2130706433`, `[::1]`.

    The rules for numbers are those of the WHATWG URL standard's IPv4 parser.
    """
    if host.startswith("["):
        try:
            address = ipaddress.IPv6Address(host.strip("[]").partition("%")[0])
            return str(address.ipv4_mapped or address)
        except ValueError:
            return None
    parts = host.split(".")
    if len(parts) > 4 or not all(_NUMBER.fullmatch(part) for part in parts):
        return None
    try:
        *front, last = [_number(part) for part in parts]
    except ValueError:
        return None
    if any(part > 255 for part in front) or last >= 256 ** (4 - len(front)):
        return None
    value = last + sum(part << (8 * (3 - place)) for place, part in enumerate(front))
    return str(ipaddress.IPv4Address(value))


def _number(part: str) -> int:
    if part.startswith("0x"):
        return int(part[2:] or "0", 16)
    return int(part, 8 if part.startswith("0") and len(part) > 1 else 10)


def skeleton(host: str) -> str:
    """What a host looks like: letters of other scripts as the Latin ones that they resemble, accents dropped."""
    plain = "".join(char for char in unicodedata.normalize("NFKD", host) if not unicodedata.combining(char))
    return plain.translate(_TO_LATIN).replace("rn", "m").replace("vv", "w")


class Hosts:
    """A list of hosts; each means its subdomains too."""

    def __init__(self, hosts: Iterable[str]) -> None:
        self._hosts = frozenset(read_host(host) for host in hosts)

    def __bool__(self) -> bool:
        return bool(self._hosts)

    def __contains__(self, host: object) -> bool:
        assert isinstance(host, str)
        if host in self._hosts:
            return True
        while host:
            host = host.partition(".")[2]
            if host in self._hosts:
                return True
        return False

    def __iter__(self) -> Iterator[str]:
        return iter(self._hosts)


class Lookalikes:
    """What could be taken for one of some hosts."""

    def __init__(self, hosts: Hosts) -> None:
        self._hosts = hosts
        names = [host for host in hosts if address_of(host) is None]
        self._names = frozenset(names)
        self._skeletons = {skeleton(name) for name in names}
        self._longest = max(map(len, names), default=0)
        self._near: dict[str, set[str]] = {}  # a name with one character left out → the names
        for name in names:
            if len(name.partition(".")[0]) >= _SHORTEST_NAME:
                for variant in _without_one(name):
                    self._near.setdefault(variant, set()).add(name)

    def why(self, host: str) -> str:
        """What makes a host a look-alike; empty where it is none, or is one of the hosts itself."""
        if host in self._hosts or address_of(host) is not None:
            return ""
        labels = host.split(".")[-10:]
        if any(_LATIN.search(label) and _DRAWN_ALIKE.search(label) for label in labels):
            return "mixes scripts"
        if not self._names:
            return ""
        for first in range(len(labels)):
            rest = ".".join(labels[first:])
            if skeleton(rest) in self._skeletons:
                return "drawn like a protected host"
            if len(rest) <= self._longest + 1 and self._one_edit_away(rest):
                return "one edit away from a protected host"
            for last in range(first + 1, len(labels)):
                inside = ".".join([*labels[first:last], labels[last].partition("-")[0]])
                if ".".join(labels[first:last]) in self._names or ("-" in labels[last] and inside in self._names):
                    return "has a protected host inside"
        return ""

    def _one_edit_away(self, host: str) -> bool:
        near = {name for variant in _without_one(host) for name in self._near.get(variant, ())}
        return any(_is_one_edit(host, name) for name in near)


def _without_one(name: str) -> set[str]:
    return {name, *(name[:i] + name[i + 1 :] for i in range(len(name)))}


def _is_one_edit(a: str, b: str) -> bool:
    """Whether one insertion, deletion, substitution or swap of neighbours makes one of the other."""
    if len(a) > len(b):
        a, b = b, a
    start = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), len(a))
    if len(a) < len(b):
        return len(b) == len(a) + 1 and a[start:] == b[start + 1 :]
    swapped = a[start + 1 : start + 2] + a[start : start + 1]
    return a[start + 1 :] == b[start + 1 :] or (swapped == b[start : start + 2] and a[start + 2 :] == b[start + 2 :])
