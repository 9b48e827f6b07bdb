"""Keywords (Aho-Corasick) and regular expressions (RE2, linear time) of a policy's own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import ahocorasick_rs
import re2

from safety_kit.checks.base import Delta, StepResult, TextCheck, utf8_safe
from safety_kit.checks.disguise import through_views
from safety_kit.checks.windows import Hit, Seen, Windows
from safety_kit.policy_schema import PatternsOptions
from safety_kit.types import Finding


@dataclass(frozen=True, slots=True)
class _Tail:
    """Keywords' state: `text` is held from character `base` on; matches that end by `decided` were reported."""

    base: int = 0
    text: str = ""
    decided: int = 0


@dataclass(frozen=True, slots=True)
class _State:
    words: _Tail = field(default_factory=_Tail)
    seen: Seen = field(default_factory=Seen)


def fold(text: str) -> tuple[str, list[int] | None]:
    """The text with case folded, and for each of its characters the raw character it came from (None: the same)."""
    folded = text.casefold()
    if len(folded) == len(text):  # folding never shrinks a character, so equal lengths mean one for one
        return folded, None
    origin = [i for i, char in enumerate(text) for _ in char.casefold()]
    return folded, origin


def _is_word(char: str) -> bool:
    return char.isalnum() or char == "_"


class PatternsCheck(TextCheck):
    """Finds the keywords and regexes of its options; scores are 1, of the kind ``rule``."""

    def __init__(self, name: str, options: PatternsOptions) -> None:
        self.name = name
        self.category = options.category or name
        self.categories = frozenset({self.category})
        self._ignore_case = options.ignore_case
        self._whole_words = options.whole_words
        keywords = {fold(utf8_safe(k))[0] if options.ignore_case else utf8_safe(k) for k in options.keywords}
        self._longest = max(map(len, keywords), default=0)
        self._keywords = ahocorasick_rs.AhoCorasick(sorted(keywords)) if keywords else None
        re_options = re2.Options()
        re_options.case_sensitive = not options.ignore_case
        re_options.log_errors = False
        self._regexes = [re2.compile(regex, re_options) for regex in options.regexes]
        self._through_views = through_views(self._find, self._find_hidden)
        self._windows = Windows(step=max(128, options.max_length), reach=options.max_length)
        self.lookahead = max(self._longest, self._windows.lookahead)

    def start(self) -> _State:
        return _State()

    def step(self, state: Any, new: Delta, final: bool) -> StepResult:
        text = utf8_safe(new.text)
        words, word_hits, cleared = self._step_words(state.words, text, final)
        seen = state.seen
        hits: list[Hit] = []
        if self._regexes or self.views:
            seen, hits, regex_cleared = self._windows.advance(seen, text, final, self._scan)
            cleared = min(cleared, regex_cleared)
        findings = [
            Finding(self.name, self.category, 1.0, "rule", ((hit.start, hit.end),), hit.detail)
            for hit in sorted(word_hits + hits, key=lambda hit: hit.start)
        ]
        return _State(words, seen), findings, cleared

    def _step_words(self, tail: _Tail, new: str, final: bool) -> tuple[_Tail, list[Hit], int]:
        text = tail.text + new
        total = tail.base + len(text)
        if self._keywords is None:
            return _Tail(total), [], total
        # A match is decided when its right neighbour is known; keywords may overlap, so each is decided by itself.
        decided = total if final else max(tail.decided, total - 1)
        folded, origin = fold(text) if self._ignore_case else (text, None)
        hits = []
        for _, first, last in self._keywords.find_matches_as_indexes(folded, overlapping=True):
            start, end = (first, last) if origin is None else (origin[first], origin[last - 1] + 1)
            if tail.decided < tail.base + end <= decided and self._stands_alone(text, start, end):
                hits.append(Hit(tail.base + start, tail.base + end, self.category, detail="keyword"))
        cleared = decided if final else max(0, decided + 1 - self._longest)
        base = max(tail.base, cleared - 1)  # one character of left context
        return _Tail(base, text[base - tail.base :], decided), hits, cleared

    def _stands_alone(self, text: str, start: int, end: int) -> bool:
        if not self._whole_words:
            return True
        left = start > 0 and _is_word(text[start]) and _is_word(text[start - 1])
        right = end < len(text) and _is_word(text[end - 1]) and _is_word(text[end])
        return not left and not right

    def _scan(self, piece: str) -> list[Hit]:
        return self._through_views(piece) if self.views else self._find(piece)

    def _find_hidden(self, view: str) -> list[Hit]:
        return self._find(view) + self._step_words(_Tail(), view, final=True)[1]

    def _find(self, piece: str) -> list[Hit]:
        return [
            Hit(match.start(), match.end(), self.category, detail=f"regex {number}")
            for number, regex in enumerate(self._regexes)
            for match in regex.finditer(piece)
            if match.end() > match.start()
        ]


def build(name: str, options: PatternsOptions, wanted: frozenset[str]) -> PatternsCheck:
    """The check of a policy's `patterns` entry."""
    return PatternsCheck(name, options)
