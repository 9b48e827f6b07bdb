"""The protocol of a check, and the registry that builds one from a policy's options."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypeAlias

from safety_kit.check_options import InstalledOptions
from safety_kit.errors import PolicyError
from safety_kit.plugins import plugin
from safety_kit.policy_schema import CheckOptions
from safety_kit.types import Finding, Sample

if TYPE_CHECKING:
    from safety_kit.gemma.trace import Capture  # at run time this would load torch

WHOLE: Final = "whole"
"""Lookahead of a check that clears nothing before the text's end."""

Lookahead: TypeAlias = int | Literal["whole"]

StepResult: TypeAlias = tuple[Any, list[Finding], int]
"""The new state, what was found (spans in the whole text), and how many characters of the text are cleared:
no match that is still undecided touches them."""


@dataclass(frozen=True, slots=True)
class Delta:
    """What a growing text grew by.

    Attributes:
        text: The new characters; empty for a token that ends none.
        hidden: For each captured block the n x d activations of the tokens whose text this is, or None.
    """

    text: str
    hidden: Mapping[int, Any] | None = None


class Check(Protocol):
    """A check, built once a guard. It holds no state of its own: one may serve many threads and streams.

    Attributes:
        name: Its name in the policy.
        categories: All that it may find.
        capture: The activations it reads, or None.
        lookahead: Characters it must see beyond one before it can clear that one, or WHOLE.
    """

    @property
    def name(self) -> str: ...
    @property
    def categories(self) -> frozenset[str]: ...
    @property
    def capture(self) -> Capture | None: ...
    @property
    def lookahead(self) -> Lookahead: ...

    def run(self, samples: Sequence[Sample]) -> list[list[Finding]]:
        """What is found in each sample, in order."""
        ...

    def start(self) -> Any:
        """The state, immutable, of a stream of which nothing was seen."""
        ...

    def step(self, state: Any, new: Delta, final: bool) -> StepResult:
        """Read on: however a text is cut into steps, the findings of all together are those of `run`."""
        ...


class TextCheck:
    """A check of text alone: `run` is one step over the whole, so that stepping equals it.

    Attributes:
        views: Whether it also reads what a text hides; a guard sets it by its policy.
    """

    name: str
    categories: frozenset[str]
    lookahead: Lookahead
    capture: Capture | None = None
    views: bool = True

    def run(self, samples: Sequence[Sample]) -> list[list[Finding]]:
        return [self.step(started(self, sample), Delta(sample.text), final=True)[1] for sample in samples]

    def start(self) -> Any:
        raise NotImplementedError

    def step(self, state: Any, new: Delta, final: bool) -> StepResult:
        raise NotImplementedError


def started(check: Check, sample: Sample) -> Any:
    """The state of a check before a text, by what is known beside it: the system prompt, the tool that is called.

    Args:
        check: One that needs any of this has `start_for(sample)`.
        sample: The text's sample; its text is not read.
    """
    start_for = getattr(check, "start_for", None)
    return start_for(sample) if start_for else check.start()


REGISTRY: Final[dict[str, str]] = {
    "patterns": "safety_kit.checks.patterns",
    "pii": "safety_kit.checks.pii",
    "secrets": "safety_kit.checks.secrets",
    "urls": "safety_kit.checks.urls",
    "invisible": "safety_kit.checks.invisible",
    "length": "safety_kit.checks.length",
    "language": "safety_kit.checks.language",
    "json": "safety_kit.checks.json_schema",
    "tools": "safety_kit.checks.tools",
    "leak": "safety_kit.checks.leak",
    "refusal": "safety_kit.checks.refusal",
}
"""The kit's own text checks: type → module with a `build`, loaded when a policy asks for it."""


def build(name: str, options: CheckOptions, wanted: frozenset[str]) -> Check:
    """Build a text check, the kit's own or one that an installed package brings.

    Args:
        name: Its name in the policy.
        options: Its options.
        wanted: Categories for which there are rules; what only serves others need not be made.

    Raises:
        PolicyError: The package that brings the check is broken, or is gone.
    """
    if isinstance(options, InstalledOptions):
        brought = plugin(options.type)
        if brought is None:
            raise PolicyError(f"checks.{name}: no installed package brings the check type {options.type!r} any more.")
        built: Check = brought.build(name, options, wanted)
        return built
    check: Check = importlib.import_module(REGISTRY[options.type]).build(name, options, wanted)
    return check


def utf8_safe(text: str) -> str:
    """The text with lone surrogates replaced one for one, for libraries that take UTF-8; offsets stay."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return "".join("\ufffd" if "\ud800" <= char <= "\udfff" else char for char in text)
    return text


def joined(pieces: Any) -> str:
    """The text of pieces that are linked each to those before it."""
    parts = []
    while pieces:
        pieces, part = pieces
        parts.append(part)
    return "".join(reversed(parts))
