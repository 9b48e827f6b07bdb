"""Keywords (Aho-Corasick) and regular expressions (RE2, linear time) of a policy's own."""

from __future__ import annotations

import codecs
import re
from bisect import bisect_left
from dataclasses import dataclass, field
from typing import Any

import ahocorasick_rs
import re2

from safety_kit.check_options import PatternsOptions
from safety_kit.checks.base import WHOLE, Delta, Lookahead, StepResult, TextCheck, joined, utf8_safe
from safety_kit.checks.disguise import through_views
from safety_kit.checks.prefix import open_from
from safety_kit.checks.runs import DISGUISE, Held, Runs
from safety_kit.checks.separators import SEPARATOR, across_separators
from safety_kit.checks.windows import Hit, Seen, Windows
from safety_kit.types import Finding

_MARK = re.compile(
    rf"{DISGUISE}|(?i:[a-z][0-9@$!|+])(?=[\w@$!|+])|(?i:[0-9@$!|+][a-z])|[\u0250-\u02af\u0370-\u058f\u13a0-\u13ff"
    r"\u1d00-\u1dbf\u2c80-\u2cff\ua4d0-\ua4ff\ua730\ua731]"
)
"""Where a view may differ: a disguise, figures and signs among letters, letters that look like Latin ones."""

_ROTATED = 6
"""A keyword of so many letters is also looked for in ROT13, which has no mark."""


@dataclass(frozen=True, slots=True)
class _Tail:
    """Keywords' state: `text` is held from character `base` on; matches that end by `decided` were reported."""

    base: int = 0
    text: str = ""
    decided: int = 0


@dataclass(frozen=True, slots=True)
class _State:
    """Of keywords, of regexes, and where the first regex match begins or may begin that no window has decided.

    `pieces` is all that was read, for regexes without a bound; `hidden` is of the views, `apart` of
    keywords whose words are kept apart.
    """

    words: _Tail = field(default_factory=_Tail)
    seen: Seen = field(default_factory=Seen)
    open: int = 0
    pieces: Any = ()
    hidden: Held = field(default_factory=Held)
    apart: Held = field(default_factory=Held)


def spaced(text: str) -> str:
    """The text with line ends and tabs as spaces: a keyword of two words may be wrapped between them."""
    return text.replace("\n", " ").replace("\t", " ").replace("\r", " ")


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
        keywords = {spaced(utf8_safe(k)) for k in options.keywords}
        if options.ignore_case:
            keywords = {fold(k)[0] for k in keywords}
        self._longest = max(map(len, keywords), default=0)
        rotated = {codecs.encode(k, "rot13") for k in keywords if len(k) >= _ROTATED and k.isascii()} - keywords
        self._sorted = sorted(keywords | rotated)
        self._rotated = frozenset(number for number, word in enumerate(self._sorted) if word in rotated)
        self._keywords = ahocorasick_rs.AhoCorasick(self._sorted) if keywords else None
        re_options = re2.Options()
        re_options.case_sensitive = not options.ignore_case
        re_options.log_errors = False
        self._regexes = [re2.compile(regex, re_options) for regex in options.regexes]
        self._open = [open_from(regex, options.ignore_case) for regex in options.regexes]
        self._whole = options.reads_whole
        reach = 128 if options.max_length == "unbounded" else options.max_length
        self._windows = Windows(step=max(128, reach), reach=reach)
        self._hidden = through_views(lambda piece: [], self._find_hidden)
        self._disguised = Runs(_MARK, neighbours=2, longest=max(256, self._longest + 128))
        blanks = max((keyword.count(" ") for keyword in keywords), default=0)
        self._across = across_separators(lambda piece: self._step_words(_Tail(), piece, final=True)[1])
        self._apart = Runs(SEPARATOR, neighbours=blanks, longest=max(256, self._longest + 128)) if blanks else None
        bounded = max(self._longest, self._windows.lookahead if self._regexes else 0, self._disguised.lookahead)
        self.lookahead: Lookahead = WHOLE if self._whole else bounded

    def start(self) -> _State:
        return _State()

    def step(self, state: Any, new: Delta, final: bool) -> StepResult:
        text = utf8_safe(new.text)
        words, word_hits, cleared = self._step_words(state.words, text, final)
        seen, opened = state.seen, state.open
        hits: list[Hit] = []
        pieces = state.pieces
        if self._whole:
            pieces = (pieces, text)
            hits = self._find(joined(pieces)) if final else []
            cleared = cleared if final else 0
        elif self._regexes:
            seen, hits, decided = self._windows.advance(seen, text, final, self._find)
            opened = self._first_open(seen, max(opened, decided))
            cleared = min(cleared, max(opened, decided))
        held = state.hidden
        if self.views:
            held, hidden, decided = self._disguised.advance(held, text, final, self._hidden)
            hits += hidden
            cleared = min(cleared, decided)
        apart = state.apart
        if self.views and self._apart is not None:
            apart, kept_apart, decided = self._apart.advance(apart, text, final, self._across)
            hits += kept_apart
            cleared = min(cleared, decided)
        findings = [
            Finding(self.name, self.category, 1.0, "rule", ((hit.start, hit.end),), hit.detail)
            for hit in sorted(word_hits + hits, key=lambda hit: hit.start)
        ]
        return _State(words, seen, opened, pieces, held, apart), findings, cleared

    def _step_words(self, tail: _Tail, added: str, final: bool) -> tuple[_Tail, list[Hit], int]:
        text = tail.text + added
        total = tail.base + len(text)
        if self._keywords is None:
            return _Tail(total), [], total
        # A match is decided when its right neighbour is known; keywords may overlap, so each is decided by itself.
        decided = total if final else max(tail.decided, total - 1)
        plain = spaced(text)
        folded, origin = fold(plain) if self._ignore_case else (plain, None)
        context = min(tail.base, 1)  # the first character is there for what stands behind it
        hits = []
        for number, first, last in self._keywords.find_matches_as_indexes(folded, overlapping=True):
            if number in self._rotated and not self.views:
                continue
            start, end = (first, last) if origin is None else (origin[first], origin[last - 1] + 1)
            new = start >= context and tail.decided < tail.base + end <= decided
            if new and self._stands_alone(text, start, end):
                detail = "keyword, rot13" if number in self._rotated else "keyword"
                hits.append(Hit(tail.base + start, tail.base + end, self.category, detail=detail))
        cleared = total if final else tail.base + self._first_word(text, folded, origin, context)
        base = max(tail.base, cleared - 1)  # one character of left context
        return _Tail(base, text[base - tail.base :], decided), hits, cleared

    def _first_word(self, text: str, folded: str, origin: list[int] | None, cleared: int) -> int:
        """From `cleared` on, where the first keyword begins that may end with the next characters.

        A place that is not open now never is, so over a stream this goes forward only.
        """
        at = cleared if origin is None else bisect_left(origin, cleared)
        for place in range(at, len(folded)):
            start = place if origin is None else origin[place]
            if self._whole_words and start and _is_word(text[start]) and _is_word(text[start - 1]):
                continue
            rest = folded[place : place + self._longest + 1]
            number = bisect_left(self._sorted, rest)
            if number < len(self._sorted) and self._sorted[number].startswith(rest):
                return start
        return len(text)

    def _first_open(self, seen: Seen, start: int) -> int:
        """From `start` on, where the first regex match begins or may begin; `start` where that cannot be told."""
        if None in self._open:
            return start
        context = max(seen.base, start - 1)
        text = seen.text[context - seen.base :]
        return max(start, context + min(place(text) for place in self._open if place))

    def _stands_alone(self, text: str, start: int, end: int) -> bool:
        if not self._whole_words:
            return True
        left = start > 0 and _is_word(text[start]) and _is_word(text[start - 1])
        right = end < len(text) and _is_word(text[end - 1]) and _is_word(text[end])
        return not left and not right

    def _find_hidden(self, view: str) -> list[Hit]:
        return self._find(view) + self._step_words(_Tail(), view, final=True)[1] + self._across(view)

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
