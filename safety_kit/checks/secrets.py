"""API keys, tokens and private keys, by detect-secrets' plugins called on strings, and a few patterns of our own."""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass, field
from typing import Any

from safety_kit.catalogue import SECRETS
from safety_kit.check_options import SecretsOptions
from safety_kit.checks.base import Delta, StepResult, TextCheck, utf8_safe
from safety_kit.checks.disguise import through_views
from safety_kit.checks.prefix import open_from
from safety_kit.checks.runs import DISGUISE, Held, Runs
from safety_kit.checks.windows import Hit
from safety_kit.types import Finding, Span

_OWN = {
    "anthropic_key": re.compile(r"\bsk-ant-[A-Za-z0-9_-]{24,}"),
    "openai_key": re.compile(r"\bsk-(?!ant-)(?:proj-|svcacct-|admin-)?[A-Za-z0-9_-]{32,}"),
    "google_api_key": re.compile(r"\bAIza[A-Za-z0-9_-]{35}(?![A-Za-z0-9_-])"),
    "hugging_face_token": re.compile(r"\bhf_[A-Za-z0-9]{34}(?![A-Za-z0-9])"),
    "gitlab_token": re.compile(r"\bglpat-[A-Za-z0-9_-]{20,}"),
    "github_token": re.compile(r"\bgithub_pat_[A-Za-z0-9_]{22,}"),
}
# What tells a secret's word from one of prose: its length, and a digit or letters in a case that words do not have.
_MARK = re.compile(
    r"(?<![A-Za-z0-9_+/=.-])(?=[A-Za-z+/=.-]{0,20}(?:[\d_]|[a-z][A-Z]|[A-Z]{4}))[A-Za-z0-9_+/=.-]{11}"
    rf"|://|xox[a-z]-|{DISGUISE}"
)
# Long secrets are followed from an opening that marks them, so that other text need not wait for their length.
_OPENING = re.compile(r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----|eyJ[A-Za-z0-9_-]{7}")
_OPENS_AT = open_from(_OPENING.pattern, ignore_case=False) or (lambda _: 0)
_KEY_END = re.compile(r"-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----")
_KEY_BODY = re.compile(r"[A-Za-z0-9+/]{40}")  # what tells a key from prose about keys
_KEY_BODY_WITHIN = 340
_TOKEN = re.compile(r"[A-Za-z0-9_\-.=+/]*")
_LONGEST = 8192
_PLACEHOLDERS = {"", "password", "passwd", "pass", "pwd", "pw", "secret", "token", "changeme", "example", "xxx"}


@dataclass(frozen=True, slots=True)
class _Tail:
    base: int = 0
    text: str = ""


@dataclass(frozen=True, slots=True)
class _State:
    long: _Tail = field(default_factory=_Tail)
    held: Held = field(default_factory=Held)


class SecretsCheck(TextCheck):
    """Finds secrets; scores are 1, of the kind ``rule``."""

    def __init__(self, name: str, wanted: frozenset[str]) -> None:
        self.name = name
        self.categories = wanted
        self._plugins = {
            kind: _plugin(*place) for kind, place in SECRETS.items() if f"secrets.{kind}" in wanted and kind != "jwt"
        }
        self._own = {kind: regex for kind, regex in _OWN.items() if f"secrets.{kind}" in wanted}
        self._jwt = _plugin(*SECRETS["jwt"]) if "secrets.jwt" in wanted else None
        self._through_views = through_views(self._find, self._find_hidden, loose=False)
        self._runs = Runs(_MARK, neighbours=0)
        self.lookahead = max(_LONGEST, self._runs.lookahead)

    def start(self) -> _State:
        return _State()

    def step(self, state: Any, new: Delta, final: bool) -> StepResult:
        text = utf8_safe(new.text)
        tail, long_hits, long_cleared = self._step_long(state.long, text, final)
        held, hits, cleared = self._runs.advance(state.held, text, final, self._scan)
        findings = [
            Finding(self.name, hit.category, 1.0, "rule", ((hit.start, hit.end),), hit.detail)
            for hit in sorted(hits + long_hits, key=lambda hit: hit.start)
            if hit.category in self.categories
        ]
        return _State(tail, held), findings, min(cleared, long_cleared)

    def _scan(self, piece: str) -> list[Hit]:
        return self._through_views(piece) if self.views else self._find(piece)

    def _find_hidden(self, view: str) -> list[Hit]:
        return self._find(view) + self._step_long(_Tail(), view, final=True)[1]

    def _find(self, piece: str) -> list[Hit]:
        hits = {(match.span(), kind) for kind, regex in self._own.items() for match in regex.finditer(piece)}
        for kind, plugin in self._plugins.items():
            for regex in plugin.denylist:
                for match in regex.finditer(piece):
                    span = _secret_span(match)
                    if _is_secret(kind, plugin, piece, span):
                        hits.add((span, kind))
        return [Hit(start, end, f"secrets.{kind}") for (start, end), kind in sorted(hits)]

    def _step_long(self, tail: _Tail, new: str, final: bool) -> tuple[_Tail, list[Hit], int]:
        text = tail.text + new
        hits: list[Hit] = []
        position = 0
        while opening := _OPENING.search(text, position):
            is_key = opening[0].startswith("-")
            end = (_key_end if is_key else _token_end)(text, opening, final)
            if end is None:
                position = opening.start()
                break
            start = opening.start()
            if end == opening.end():  # no secret after all
                position = end
                continue
            if is_key or self._is_token(text[start:end]):
                kind = "private_key" if is_key else "jwt"
                hits.append(Hit(tail.base + start, tail.base + end, f"secrets.{kind}"))
            position = end
        else:
            # The last characters may be the beginning of an opening.
            position = len(text) if final else position + _OPENS_AT(text[position:])
        cleared = tail.base + position
        return _Tail(cleared, text[position:]), hits, cleared

    def _is_token(self, text: str) -> bool:
        return self._jwt is not None and (len(text) >= _LONGEST or any(self._jwt.analyze_string(text)))


def _key_end(text: str, opening: re.Match[str], final: bool) -> int | None:
    """Where a private key ends; the opening's own end where prose follows; None: not to be told yet."""
    limit = opening.start() + _LONGEST
    if not _KEY_BODY.search(text, opening.end(), opening.end() + _KEY_BODY_WITHIN):
        undecided = not final and len(text) < opening.end() + _KEY_BODY_WITHIN
        return None if undecided else opening.end()
    if closing := _KEY_END.search(text, opening.end(), limit):
        return closing.end()
    return min(limit, len(text)) if final or len(text) >= limit else None


def _token_end(text: str, opening: re.Match[str], final: bool) -> int | None:
    limit = opening.start() + _LONGEST
    run = _TOKEN.match(text, opening.start(), limit)
    end = run.end() if run else opening.end()
    return None if end == len(text) and end < limit and not final else end


def _plugin(module: str, name: str) -> Any:
    return getattr(importlib.import_module(f"detect_secrets.plugins.{module}"), name)()


def _secret_span(match: re.Match[str]) -> tuple[int, int]:
    """The group that holds the secret, where a plugin's pattern names what stands before it too."""
    groups = [match.span(group) for group in range(1, (match.re.groups or 0) + 1) if match.group(group)]
    longest = max(groups, key=lambda span: span[1] - span[0], default=match.span())
    # A short group is a part of the key itself (`ghp`), but for the password of a URL.
    return longest if longest[1] - longest[0] >= 16 or match[0].startswith("://") else match.span()


def _is_secret(kind: str, plugin: Any, piece: str, span: Span) -> bool:
    """Two plugins look at what stands around a match, but only when they read files: done here."""
    value = piece[slice(*span)]
    if kind == "azure_storage_key":
        return bool(plugin.context_keys_exists(_Candidate(value), piece))
    if kind == "basic_auth":
        host = piece[span[1] :].partition(" ")[0]
        return value.strip("<>${}*").lower() not in _PLACEHOLDERS and "example." not in host
    return True


@dataclass(frozen=True, slots=True)
class _Candidate:
    secret_value: str


def build(name: str, options: SecretsOptions, wanted: frozenset[str]) -> SecretsCheck:
    """The check of a policy's `secrets` entry, with the plugins that its rules ask for."""
    return SecretsCheck(name, wanted)
