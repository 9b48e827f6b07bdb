"""Replies that give the system prompt away: canaries, and words in common one after the other."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, Final

import re2

from safety_kit.check_options import LeakOptions
from safety_kit.checks.base import Delta, Lookahead, StepResult, TextCheck, utf8_safe
from safety_kit.types import Finding, Sample, Span

_LONGEST_WORD: Final = 32  # characters; longer runs are read in parts, so that a stream waits for no more
_GAP: Final = "[^A-Za-z0-9]{0,3}"  # what may stand between two characters of a canary
_CANARY: Final = re.compile(r"canary-[0-9a-f]{16}")
# Scripts without spaces: each character is a word.
_ALONE: Final = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
)
_WORD: Final = re.compile(rf"[{_ALONE}]|(?:(?![{_ALONE}])[^\W_]){{1,{_LONGEST_WORD}}}")


def canary() -> str:
    """A new canary for a system prompt, where the check knows it by its form; no reply has a reason to say it."""
    return f"canary-{secrets.token_hex(8)}"


@dataclass(frozen=True, slots=True)
class _Canaries:
    """Patterns for all canaries: whole, and for a beginning of one at a text's end."""

    whole: Any
    begun: Any


@dataclass(frozen=True, slots=True)
class _Prompt:
    """What a reply is held against: the prompt's words, each two of them, and the hashes of as many as make a leak."""

    canaries: _Canaries | None
    runs: frozenset[int]
    pairs: frozenset[tuple[str, str]]
    words: frozenset[str]


@dataclass(frozen=True, slots=True)
class _State:
    """Where a reply stands.

    Attributes:
        prompt: What it is held against.
        base: Character from which on `text`, the words' undecided rest, is held.
        text: Ends in the word that may still grow.
        chain: The last words, less than a run, each with its start, as far as each two stand in the prompt too.
        run: Span of the common words that are not told yet, and how many words it has.
        told: Where the last span that was told ends.
        tail_at: Character from which on `tail`, perhaps the beginning of a canary, is held.
    """

    prompt: _Prompt
    base: int = 0
    text: str = ""
    chain: tuple[tuple[str, int], ...] = ()
    run: tuple[int, int, int] | None = None
    told: int = 0
    tail_at: int = 0
    tail: str = ""


class LeakCheck(TextCheck):
    """Finds canaries (`leak.canary`) and what a reply has in common with its system prompt (`leak.overlap`).

    Scores are 1, of the kind ``rule``; spans are exact. Case, spacing and punctuation make no difference.
    """

    lookahead: Lookahead

    def __init__(self, name: str, options: LeakOptions, wanted: frozenset[str]) -> None:
        self.name = name
        self.categories = wanted
        self._canaries = options.canaries if "leak.canary" in wanted else ()
        self._n = options.words
        self.lookahead = (options.words + 1) * (_LONGEST_WORD + 1)
        self._read = lru_cache(maxsize=16)(self._read_prompt)

    def start(self) -> _State:
        return _State(self._read(None))

    def start_for(self, sample: Sample) -> _State:
        return _State(self._read(sample.system))

    def _read_prompt(self, system: str | None) -> _Prompt:
        text = utf8_safe(system or "")
        canaries = [*self._canaries, *(_CANARY.findall(text) if "leak.canary" in self.categories else ())]
        words = [match[0].casefold() for match in _WORD.finditer(text)] if "leak.overlap" in self.categories else []
        runs = (hash(tuple(words[i : i + self._n])) for i in range(len(words) - self._n + 1))
        return _Prompt(_patterns(canaries), frozenset(runs), frozenset(pairwise(words)), frozenset(words))

    def step(self, state: Any, new: Delta, final: bool) -> StepResult:
        text = utf8_safe(new.text)
        tail_at, tail, canaries, canary_cleared = _step_canaries(state, text, final)
        words, overlaps, cleared = self._step_words(state, text, final)
        findings = [
            Finding(self.name, category, 1.0, "rule", (span,), detail)
            for category, detail, spans in (
                ("leak.canary", "a canary", canaries),
                ("leak.overlap", "words of the system prompt", overlaps),
            )
            for span in spans
        ]
        base, rest, chain, run, told = words
        state = _State(state.prompt, base, rest, chain, run, told, tail_at, tail)
        return state, sorted(findings, key=lambda finding: finding.spans), min(cleared, canary_cleared)

    def _step_words(self, state: _State, new: str, final: bool) -> tuple[tuple[Any, ...], list[Span], int]:
        """The new state of the words, the spans to tell, and what is cleared."""
        prompt, text, base, n = state.prompt, state.text + new, state.base, self._n
        total = base + len(text)
        if not prompt.runs:
            return (total, "", (), None, 0), [], total
        spans: list[Span] = []
        chain, run, told = list(state.chain), state.run, state.told
        open_at = len(text)
        for match in _WORD.finditer(text):
            if match.end() == len(text) and len(match[0]) < _LONGEST_WORD and not final:
                open_at = match.start()  # it may still grow
                break
            word = match[0].casefold()
            if chain and (chain[-1][0], word) not in prompt.pairs:
                chain.clear()
            if word in prompt.words:
                chain.append((word, base + match.start()))
            found = len(chain) == n and hash(tuple(word for word, _ in chain)) in prompt.runs
            if found:
                # What an earlier run told is not told again.
                start = run[0] if run else max(chain[0][1], told)
                run = (start, base + match.end(), run[2] + 1 if run else n)
            if run and (not found or run[2] >= 2 * n):
                spans.append(run[:2])
                told, run = run[1], None
            if len(chain) == n:
                del chain[0]
        if run and final:
            spans.append(run[:2])
            run = None
        cleared = base + open_at
        if not final:
            cleared = min(cleared, chain[0][1] if chain else cleared, run[0] if run else cleared)
        return (base + open_at, text[open_at:], tuple(chain), run, told), spans, max(cleared, told)


def _step_canaries(state: _State, new: str, final: bool) -> tuple[int, str, list[Span], int]:
    """The new tail and its place, the spans of the canaries, and what is cleared."""
    text, at = state.tail + new, state.tail_at
    canaries = state.prompt.canaries
    if canaries is None:
        return at + len(text), "", [], at + len(text)
    plain = text.encode("ascii", "replace")  # a byte for each character, and canaries are ASCII
    matches = [match.span() for match in canaries.whole.finditer(plain)]
    done = matches[-1][1] if matches else 0
    begun = None if final else canaries.begun.search(plain, done)
    held = begun.start() if begun else len(text)
    return at + held, text[held:], [(at + start, at + end) for start, end in matches], at + held


def _patterns(canaries: Iterable[str]) -> _Canaries | None:
    texts = sorted({"".join(filter(str.isalnum, canary)) for canary in canaries}, key=lambda text: (len(text), text))
    if not texts:
        return None
    whole = "(?i)" + "|".join(_GAP.join(text) for text in texts)
    begun = []
    for text in texts:
        pattern = ""
        for char in reversed(text[1:]):
            pattern = f"(?:{_GAP}{char}{pattern})?"
        begun.append(text[0] + pattern + _GAP)
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    at_end = rf"(?i)(?:{'|'.join(begun)})\z"
    return _Canaries(re2.compile(whole.encode(), options), re2.compile(at_end.encode(), options))


def build(name: str, options: LeakOptions, wanted: frozenset[str]) -> LeakCheck:
    """The check of a policy's `leak` entry."""
    return LeakCheck(name, options, wanted)
