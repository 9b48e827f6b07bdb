"""Characters that a reader does not see and a model does.

    checks:
      invisible: {type: invisible}
    rules:
      - {category: invisible.*, action: redact, form: {replace: ''}}

What writing systems and emoji need is no finding: joiners within Arabic, Persian and Indic words and within emoji, the
flags of England, Scotland and Wales, soft hyphens between syllables, direction marks near right-to-left letters, a byte
order mark at the start.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Any, Final

from safety_kit.catalogue import invisible_categories
from safety_kit.check_options import InvisibleOptions
from safety_kit.checks.base import Delta, StepResult, TextCheck
from safety_kit.types import Finding

_SUSPECT: Final = re.compile(
    r"[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff"
    r"\uffa0\ufff9-\ufffb\ue000-\uf8ff\U0001d173-\U0001d17a\U000e0000-\U000e0fff\U000f0000-\U0010ffff]"
)
_PRIVATE: Final = re.compile(r"[\ue000-\uf8ff\U000f0000-\U0010ffff]")
_BIDI: Final = re.compile(r"[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")

# Scripts that shape their letters by joiners: Arabic to Myanmar, Khmer, Mongolian, and their kin.
_JOINING: Final = re.compile(
    r"[\u0600-\u109f\u1780-\u18af\u1a20-\u1aaf\u1b00-\u1c4f\ua800-\ua8ff\ua980-\ua9df\uaa00-\uaadf\uabc0-\uabff"
    r"\ufb50-\ufdff\ufe70-\ufefc\U00010a00-\U00010aff\U00010d00-\U00011fff\U0001e900-\U0001e95f]"
)
# Scripts that are written without spaces, and broken into lines at zero-width ones.
_NO_SPACES: Final = re.compile(r"[\u0e00-\u109f\u1780-\u17ff\u1980-\u1aaf\u3040-\u30ff\u3400-\u9fff]")
_RIGHT_TO_LEFT: Final = re.compile(
    r"[\u0590-\u060f\u061e-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\U00010800-\U00010fff\U0001e800-\U0001efff]"
)
_HANGUL: Final = re.compile(r"[\u1100-\u11ff\u3130-\u318f\ua960-\ua97f\uac00-\ud7ff\uffa0-\uffdc]")
_SHAPED: Final = re.compile(r"[\u0300-\u036f\u0590-\u08ff\u1780-\u18af]")
_IDEOGRAPH: Final = re.compile(r"[\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_STANDARDISED: Final = re.compile(
    r"[0\u1000-\u109f\u1800-\u18af\u2200-\u22ff\u2a00-\u2aff\u3000-\u303f\ua840-\ua877\uff00-\uff65]"
)
_FLAG: Final = re.compile(  # England, Scotland, Wales: the three tag sequences that Unicode recommends
    "\U0001f3f4\U000e0067\U000e0062"
    "(?:\U000e0065\U000e006e\U000e0067|\U000e0073\U000e0063\U000e0074|\U000e0077\U000e006c\U000e0073)\U000e007f"
)

_BIDI_CONTEXT: Final = 64
_RIGHT: Final = 8
"""Characters to the right that decide all but a direction mark: the rest of a flag."""
_LONGEST: Final = 1024
"""A longer run is found in pieces of this length."""


@dataclass(frozen=True, slots=True)
class _Run:
    """An open run; `goes_on`: it is a further piece of a longer one."""

    kind: str
    start: int
    goes_on: bool = False


@dataclass(frozen=True, slots=True)
class _State:
    """`text` is held from character `base` on; those before `decided` are decided, but for an open run."""

    base: int = 0
    text: str = ""
    decided: int = 0
    run: _Run | None = None


class InvisibleCheck(TextCheck):
    """Finds runs of invisible characters; scores are 1, of the kind ``rule``."""

    def __init__(self, name: str, options: InvisibleOptions) -> None:
        self.name = name
        self.categories = invisible_categories()
        self.lookahead = max(_BIDI_CONTEXT, options.private_use_run)
        self._private_run = options.private_use_run

    def start(self) -> _State:
        return _State()

    def step(self, state: Any, new: Delta, final: bool) -> StepResult:
        text, base = state.text + new.text, state.base
        run: _Run | None = state.run
        found: list[Finding] = []
        at = state.decided - base
        while at < len(text):
            match = _SUSPECT.search(text, at)
            here = match.start() if match else len(text)
            if here > at:
                found += self._close(run, base + at)
                run, at = None, here
                continue
            kind = _kind(text, at, final)
            if kind is None:
                break
            if run and (kind != run.kind or base + at - run.start == _LONGEST):
                found += self._close(run, base + at)
                run = _Run(kind, base + at, goes_on=True) if kind == run.kind else None
            if kind and not run:
                run = _Run(kind, base + at)
            at += 1
        decided = base + at
        if final:
            found += self._close(run, decided)
            run = None
        keep = max(base, decided - _BIDI_CONTEXT)
        cleared = run.start if run else decided
        return _State(keep, text[keep - base :], decided, run), found, cleared

    def _close(self, run: _Run | None, end: int) -> list[Finding]:
        if run is None:
            return []
        length = end - run.start
        if run.kind == "private_use" and length < self._private_run and not run.goes_on:
            return []
        detail = f"{length} characters" if length > 1 else "1 character"
        return [Finding(self.name, f"invisible.{run.kind}", 1.0, "rule", ((run.start, end),), detail)]


def _kind(text: str, at: int, final: bool) -> str | None:
    """The category of a suspect character, empty where its neighbours need it; None: not to be told yet."""
    if not final and at + _RIGHT >= len(text):
        return None
    char = text[at]
    before, after = text[at - 1 : at] if at else "", text[at + 1 : at + 2]
    if _PRIVATE.match(char):
        return "private_use"
    if "\U000e0100" <= char <= "\U000e01ef" or "\ufe00" <= char <= "\ufe0f":
        return "" if _selects(char, before) else "variation_selector"
    if char >= "\U000e0000":
        return "" if _in_flag(text, at) else "tag"
    if _BIDI.match(char):
        return _bidi(text, at, final)
    if char == "\ufeff":
        return "" if at == 0 else "zero_width"
    if char == "\u00ad":
        return "" if _letters(text[max(0, at - 2) : at]) and _letters(text[at + 1 : at + 3]) else "zero_width"
    return "" if _needed(char, before, after) else "zero_width"


def _needed(char: str, before: str, after: str) -> bool:
    """Whether a zero-width character stands alone where a script or an emoji needs it."""
    if char == "\u200d" and _is_emoji(before) and _is_emoji(after):
        return True
    near = [neighbour for neighbour in (before, after) if neighbour]
    if any(_SUSPECT.match(neighbour) for neighbour in near):
        return False
    match char:
        case "\u200c" | "\u200d":
            scripts = _JOINING
        case "\u200b":
            scripts = _NO_SPACES
        case "\u115f" | "\u1160" | "\u3164" | "\uffa0":
            scripts = _HANGUL
        case "\u034f" | "\u17b4" | "\u17b5" | "\u180e":
            scripts = _SHAPED
        case _:
            return False
    return any(scripts.match(neighbour) for neighbour in near)


def _is_emoji(char: str) -> bool:
    return bool(char) and (char in "\ufe0f\u2194\u2195" or unicodedata.category(char) in ("So", "Sk"))


def _selects(selector: str, base: str) -> bool:
    """Whether a character has variants for a selector to choose from."""
    if not base or _SUSPECT.match(base):
        return False
    if selector in "\ufe0e\ufe0f":
        return base in "#*0123456789\u203c\u2049\u2139\u3030\u303d" or unicodedata.category(base) in ("So", "Sm", "Sk")
    return bool(_IDEOGRAPH.match(base) or (selector < "\ufe0e" and _STANDARDISED.match(base)))


def _in_flag(text: str, at: int) -> bool:
    black = text.rfind("\U0001f3f4", max(0, at - _RIGHT), at)
    flag = _FLAG.match(text, black) if black >= 0 else None
    return flag is not None and at < flag.end()


def _bidi(text: str, at: int, final: bool) -> str | None:
    if text[at] in "\u202d\u202e":  # overrides show letters in another order than they are read
        return "bidi"
    if _RIGHT_TO_LEFT.search(text, max(0, at - _BIDI_CONTEXT), at + _BIDI_CONTEXT):
        return ""
    return "bidi" if final or at + _BIDI_CONTEXT <= len(text) else None


def _letters(part: str) -> bool:
    return len(part) == 2 and all(unicodedata.category(char)[0] in "LM" for char in part)


def build(name: str, options: InvisibleOptions, wanted: frozenset[str]) -> InvisibleCheck:
    """The check of a policy's `invisible` entry."""
    return InvisibleCheck(name, options)
