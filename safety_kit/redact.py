"""Writing a text without what a redact rule found."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from safety_kit.policy import Form
from safety_kit.types import Finding, Role, Sample, Stage
from safety_kit.vault import Vault


@dataclass(frozen=True, slots=True)
class Cut:
    """A span to be rewritten, the finding that stands for it, and how."""

    start: int
    end: int
    finding: Finding
    form: Form


def cuts_of(finding: Finding, form: Form) -> list[Cut]:
    """A cut for each span of a finding."""
    return [Cut(start, end, finding, form) for start, end in finding.spans]


def merge(cuts: Iterable[Cut]) -> list[Cut]:
    """In order, overlapping cuts joined; the highest score, else the longest, else the first, names them."""
    groups: list[list[Cut]] = []
    end = 0
    for cut in sorted(cuts, key=lambda cut: (cut.start, cut.end, cut.finding.category)):
        if cut.start < end:
            groups[-1].append(cut)
        else:
            groups.append([cut])
        end = max(end, cut.end)
    joined = []
    for group in groups:
        best = max(group, key=lambda cut: (cut.finding.score, cut.end - cut.start, -cut.start))
        joined.append(Cut(group[0].start, max(cut.end for cut in group), best.finding, best.form))
    return joined


def writer(sample: Sample) -> Role | None:
    """Whose a value in this text is, for a vault; None: the reply's that is being checked."""
    return sample.role if sample.stage is Stage.INPUT else None


@dataclass(slots=True)
class Redactor:
    """Rewrites one text, from left to right.

    Without a vault pseudonyms are numbered over the redactor's lifetime, and what they stand for is then forgotten.

    Attributes:
        key: Secret of the guard, so that a short hash cannot be looked up in a table.
        vault: Whose placeholders are written as pseudonyms.
        role: Who wrote the text; None: the reply that is being checked.
    """

    key: bytes = field(repr=False)
    vault: Vault | None = None
    role: Role | None = None
    _numbers: dict[tuple[str, str], int] = field(default_factory=dict, repr=False)
    _counts: dict[str, int] = field(default_factory=dict, repr=False)

    def replacement(self, value: str, cut: Cut) -> str:
        """What is written instead of `value`."""
        label = cut.finding.category.rpartition(".")[2].upper()
        match cut.form.kind:
            case "mask":
                return f"[{label}]"
            case "replace":
                return cut.form.text
            case "hash":
                data = value.encode("utf-8", "surrogatepass")
                return f"[{label}:{hashlib.blake2b(data, digest_size=5, key=self.key).hexdigest()}]"
            case "pseudonymise" if self.vault is not None:
                return self.vault.placeholder(label, value, self.role)
            case "pseudonymise":
                if (label, value) not in self._numbers:
                    self._counts[label] = self._numbers[label, value] = self._counts.get(label, 0) + 1
                return f"{label}_{self._numbers[label, value]}"

    def apply(self, text: str, cuts: Sequence[Cut], offset: int = 0) -> str:
        """The text, which begins at character `offset`, with merged cuts rewritten."""
        parts = []
        position = 0
        for cut in cuts:
            start, end = cut.start - offset, cut.end - offset
            parts += [text[position:start], self.replacement(text[start:end], cut)]
            position = end
        return "".join([*parts, text[position:]])
