"""Texts that are too long, in characters or in tokens, and conversations of too many messages.

    checks:
      too_long: {type: length, characters: 20000, tokens: 4000, turns: 50}
    rules:
      - {category: too_long, stages: [input], action: block}

The finding's span is where the limit was crossed. A reply is stopped there: nothing waits for its end. Of too many
messages there is a finding without a span, which belongs to the conversation, not to any of its texts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from safety_kit.check_options import LengthOptions
from safety_kit.checks.base import Delta, StepResult, TextCheck, utf8_safe
from safety_kit.types import Finding, Span

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tokenizers import Tokenizer

    from safety_kit.policy_schema import CheckOptions

# Tokens are counted in blocks cut before a single space, which Gemma's tokens do not cross: the sum is that of the
# whole text, but for a token or two where a block without such a space is cut at its greatest length.
_CUT: Final = re.compile(r"(?<=\S) (?=\S)")
_SHORTEST, _LONGEST = 32, 128


@dataclass(frozen=True, slots=True)
class _State:
    """`block` begins at character `base` and is not counted yet; what was crossed is not looked at again."""

    total: int = 0
    base: int = 0
    block: str = ""
    tokens: int = 0
    crossed_characters: bool = False
    crossed_tokens: bool = False


class LengthCheck(TextCheck):
    """Finds the place where a limit is crossed; scores are 1, of the kind ``rule``."""

    def __init__(self, name: str, options: LengthOptions, tokenizer: Tokenizer | None = None) -> None:
        self.name = name
        self.category = options.category or name
        self.categories = frozenset({self.category})
        self._characters = options.characters
        self._tokens = options.tokens
        self._tokenizer = tokenizer
        self.lookahead = _LONGEST + 2 if options.tokens else 0

    def start(self) -> _State:
        return _State()

    def step(self, state: Any, new: Delta, final: bool) -> StepResult:
        found = []
        total = state.total + len(new.text)
        over = state.crossed_characters
        if self._characters is not None and not over and total > self._characters:
            found.append(self._finding((self._characters, self._characters + 1), f"over {self._characters} characters"))
            over = True
        if self._tokens is None or self._tokenizer is None or state.crossed_tokens:
            crossed = state.crossed_tokens
            return _State(total, total, "", state.tokens, over, crossed), found, total
        base, block, tokens = state.base, state.block + new.text, state.tokens
        while (size := _block(block, final)) and tokens <= self._tokens:
            counted = self._tokenizer.encode(utf8_safe(block[:size]), add_special_tokens=False)
            tokens += len(counted.ids)
            if tokens > self._tokens:
                found.append(self._finding((base, base + size), f"over {self._tokens} tokens"))
            base, block = base + size, block[size:]
        if tokens > self._tokens:
            return _State(total, total, "", tokens, over, True), found, total
        return _State(total, base, block, tokens, over), found, base

    def _finding(self, span: Span, detail: str) -> Finding:
        return Finding(self.name, self.category, 1.0, "rule", (span,), detail)


def _block(text: str, final: bool) -> int:
    """How long the block at the text's start is; 0: not to be told yet, or there is none."""
    cut = _CUT.search(text, _SHORTEST, _LONGEST + 2)
    if cut:
        return cut.start()
    if len(text) >= _LONGEST + 2:
        return _LONGEST
    return len(text) if final else 0


def too_many_turns(checks: Mapping[str, CheckOptions], turns: int) -> list[Finding]:
    """What the checks of a policy find in the number of a conversation's messages, of any role."""
    return [
        Finding(name, options.category or name, 1.0, "rule", (), f"over {options.turns} turns")
        for name, options in checks.items()
        if isinstance(options, LengthOptions) and options.turns is not None and turns > options.turns
    ]


def build(name: str, options: LengthOptions, wanted: frozenset[str]) -> LengthCheck:
    """The check of a policy's `length` entry; the tokenizer is loaded only where tokens are limited.

    Raises:
        ModelError: The embedded Gemma, whose tokenizer it is, cannot be had.
    """
    return LengthCheck(name, options, _embedded_tokenizer() if options.tokens else None)


def _embedded_tokenizer() -> Tokenizer:
    from tokenizers import Tokenizer

    from safety_kit.gemma.sources import embedded_folder

    return Tokenizer.from_file(str(embedded_folder() / "tokenizer.json"))
