"""Web addresses that a policy does not want: by host, look-alike, credentials, raw IP, scheme, or for what they carry.

    checks:
      urls: {type: urls, allow: [example.com], protected: [paypal.com]}
    rules:
      - {category: urls.not_allowed, stages: [output], action: redact, form: {replace: '[link removed]'}}
      - {category: urls.exfiltration, action: block}

An address is what a reader's program would follow: `scheme://…`, `www.…`, and `//…` in a link or an attribute. Hosts
named without any of these are held against the deny list and for look-alikes only.

A stream is held from where an address may begin. One of more than 2,048 characters is not waited for: it is found as
`urls.exfiltration`, and so is the rest of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import unquote_plus

from safety_kit.check_options import UrlsOptions
from safety_kit.checks._addresses import LONGEST, Address, Bare, Reader, Seen, openings
from safety_kit.checks._hosts import Hosts, Lookalikes, address_of, read_host
from safety_kit.checks.base import Delta, StepResult, TextCheck
from safety_kit.checks.windows import Hit
from safety_kit.types import Finding

_WEB: Final = ("http", "https", "ftp", "ftps", "ws", "wss", "")
_AUTHORITY: Final = re.compile(r"(?:[A-Za-z][A-Za-z0-9+\-]*:)?[\\/]*([^\\/?#]*)")
_NESTED: Final = re.compile(r"https?(?::|%3a)(?:/|\\|%2f|%5c){1,4}([^/\\?#&%\s]{1,253})", re.IGNORECASE)
_TOKEN: Final = re.compile(
    r"[?&#;](?:(?:[a-z]{1,20}[_-])?(?:token|secret|password|passwd|pwd|apikey|signature|credential)|api[_-]?key"
    r"|(?:[a-z]{1,20}[_-])?access[_-]?key|x-amz-(?:signature|credential)|jwt|sid|session(?:_?id)?|sig|auth)"
    r"=([^&#;]{6,})",
    re.IGNORECASE,
)
_PLACEHOLDER: Final = re.compile(
    r"[*x.]+|\$.*|%24.*|\[.*|your.*|my.*|pass(?:word|wd)?|secret|token|user(?:name)?|example|changeme", re.IGNORECASE
)
_ENCODED_LENGTH: Final = 64
"""A part of a path or host of so many characters is data, not a name."""


class UrlsCheck(TextCheck):
    """Finds addresses; scores are 1, of the kind ``rule``."""

    def __init__(self, name: str, options: UrlsOptions, wanted: frozenset[str]) -> None:
        self.name = name
        self.categories = wanted
        self.lookahead = LONGEST
        self._allow, self._deny = Hosts(options.allow), Hosts(options.deny)
        self._ours = Hosts((*options.allow, *options.protected))
        self._lookalikes = Lookalikes(self._ours)
        self._schemes = frozenset(options.schemes)
        self._opening = openings(options.schemes)
        self._max_image_data = options.max_image_data
        self._bare = bool(self._deny) or bool(self._ours)

    def start(self) -> Seen:
        return Seen()

    def step(self, state: Any, new: Delta, final: bool) -> StepResult:
        reader = Reader(state, new.text, final, self._opening, self._bare)
        seen = reader.read()
        findings = [
            Finding(self.name, hit.category, 1.0, "rule", ((hit.start, hit.end),), hit.detail)
            for thing in reader.found
            for hit in self._hits(thing)
            if hit.category in self.categories
        ]
        return seen, findings, seen.cleared

    def _hits(self, thing: Address | Bare) -> Iterator[Hit]:
        """What is wrong with an address, each category once but for credentials."""
        seen: set[str] = set()
        if isinstance(thing, Bare):
            said = self._host_faults(read_host(thing.text))
        elif thing.rest:
            said = self._length_faults(thing)
        else:
            yield from self._credentials(thing)
            said = self._faults(thing)
        for kind, detail in said:
            if kind not in seen:
                seen.add(kind)
                yield Hit(thing.start, thing.start + len(thing.text), f"urls.{kind}", 1.0, detail)

    def _host_faults(self, host: str) -> Iterator[tuple[str, str]]:
        """What is wrong with a host wherever it is named."""
        if host in self._deny or ((ip := address_of(host)) is not None and ip in self._deny):
            yield "denied", "host on the deny list"
        if why := self._lookalikes.why(host):
            yield "lookalike", why

    def _length_faults(self, address: Address) -> Iterator[tuple[str, str]]:
        if address.cut:
            kind = "scheme" if address.scheme in self._schemes else "exfiltration"
            yield kind, f"longer than {LONGEST} characters"

    def _faults(self, address: Address) -> Iterator[tuple[str, str]]:
        if address.scheme in self._schemes:
            yield "scheme", address.scheme
        yield from self._length_faults(address)
        host, user, _ = _authority(address.text)
        if not host or (address.scheme in self._schemes and address.scheme not in _WEB):
            return
        yield from self._host_faults(host)
        if user and read_host(user.partition(":")[0]) in self._ours and host not in self._ours:
            yield "lookalike", "a protected host as user name"
        if address.scheme not in _WEB:
            return
        ip = address_of(host)
        allowed = host in self._allow or (ip is not None and ip in self._allow)
        if ip is not None and not allowed:
            yield "raw_ip", "IP address as host"
        if self._allow and not allowed:
            yield "not_allowed", "host not on the allow list"
        for nested in _NESTED.finditer(address.text, len(address.scheme) + 1):
            inner = _authority(f"//{nested[1]}")[0]
            yield from ((kind, f"{detail}, inside another address") for kind, detail in self._host_faults(inner))
        if address.loaded and not allowed and self._carries_data(address.text, host):
            yield "exfiltration", "an image whose address carries data"

    def _carries_data(self, address: str, host: str) -> bool:
        path, _, query = address.partition("#")[0].partition("?")
        values = (pair.partition("=")[2] or pair for pair in re.split("[&;]", query) if pair)
        if sum(len(unquote_plus(value, errors="replace")) for value in values) > self._max_image_data:
            return True
        return any(len(part) >= _ENCODED_LENGTH for part in re.split(r"[\\/]", path)[3:] + host.split("."))

    def _credentials(self, address: Address) -> Iterator[Hit]:
        _, user, at = _authority(address.text)
        name, _, password = user.partition(":")
        if password and not _PLACEHOLDER.fullmatch(password):
            start = address.start + at
            yield Hit(start, start + len(name) + 1 + len(password), "urls.credentials", 1.0, "user and password")
        for token in _TOKEN.finditer(address.text):
            if not _PLACEHOLDER.fullmatch(token[1]):
                start, end = token.span(1)
                yield Hit(address.start + start, address.start + end, "urls.credentials", 1.0, "a token")


def _authority(address: str) -> tuple[str, str, int]:
    """The host as a browser reads it, the user part as it is written, and where that begins."""
    found = _AUTHORITY.match(address)
    if found is None:
        return "", "", 0
    user, _, place = found[1].rpartition("@")
    host = place.partition("]")[0] + "]" if place.startswith("[") else place.partition(":")[0]
    return read_host(host), user, found.start(1)


def build(name: str, options: UrlsOptions, wanted: frozenset[str]) -> UrlsCheck:
    """The check of a policy's `urls` entry."""
    return UrlsCheck(name, options, wanted)
