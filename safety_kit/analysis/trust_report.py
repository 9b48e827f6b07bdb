"""What the checks of a run say: each comparison, how far it may go, and the run that was compared."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

if TYPE_CHECKING:
    from safety_kit.analysis.inspection import Inspection

Chart: TypeAlias = Literal["probabilities", "classifiers", "lens", "attention", "attribution", "salience", "cause"]
"""What is drawn of a run, and may have to carry a warning."""

EVERY: tuple[Chart, ...] = get_args(Chart)


@dataclass(frozen=True, slots=True)
class Tolerances:
    """By how much two right numbers may differ in one float type; all but the first two grow with what is compared.

    Attributes:
        logprob: Of a run whose every token is compared, in nats: the same pass, and only the softmax is another.
        again: The same where the run was read in a longer pass, or by eager attention.
        forward: Activations, logits and the lens, as a share of the largest of them (of 1 at least).
        attention: A weight; eager attention rounds its products in the model's float type, ours in float32.
        attribution: The sum of the shares, as a share of the logit (of 1 at least).
        gap: Of integrated gradients, as a share of what they explain (of 1 at least).
    """

    logprob: float
    again: float
    forward: float
    attention: float
    attribution: float
    gap: float


TOLERANCES = {
    "float32": Tolerances(1e-5, 2e-4, 1e-5, 1e-5, 1e-3, 5e-2),
    "bfloat16": Tolerances(0.25, 0.5, 2e-2, 0.25, 5e-2, 0.5),
}


@dataclass(frozen=True, slots=True)
class Check:
    """One comparison.

    Attributes:
        name: Of it.
        compared: What with what, and on how much.
        value: The difference; nan where it could not be taken.
        tolerance: The largest that passes.
        passed: Whether it lies within it.
        charts: What must not be believed where it does not.
    """

    name: str
    compared: str
    value: float
    tolerance: float
    passed: bool
    charts: tuple[Chart, ...]


@dataclass(frozen=True, slots=True)
class Record:
    """What a run shows and says of itself.

    Attributes:
        ids: Its T tokens.
        logprobs: Of each token, as they were shown, natural logarithms; None for what is not there. Or empty.
        digest: Of the model.
        dtype: That it ran in.
        attention: Implementation.
        revision: Of a hub model; None where none was named.
    """

    ids: tuple[int, ...]
    logprobs: tuple[float | None, ...]
    digest: str
    dtype: str
    attention: str
    revision: str | None = None

    @classmethod
    def of(cls, made: Inspection, revision: str | None = None) -> Record:
        """An inspection's."""
        gemma, shown = made.gemma, made.probabilities.raw.logprobs[:-1].tolist()
        known = tuple(None if math.isnan(value) else value for value in shown)
        return cls(made.trace.ids, known, gemma.digest, gemma.dtype, gemma.attention, revision)


@dataclass(frozen=True, slots=True)
class Trust:
    """Every check of a run.

    Attributes:
        checks: In the order in which they were made.
        tokens: How many of the run's first tokens were compared.
        of: How many it has.
        notes: What was left out, and why.
    """

    checks: tuple[Check, ...]
    tokens: int
    of: int
    notes: tuple[str, ...] = ()

    @property
    def failed(self) -> tuple[Check, ...]:
        """Those that did not pass."""
        return tuple(check for check in self.checks if not check.passed)

    def to_json(self) -> dict[str, Any]:
        """For a run's document; null for a value that could not be taken."""
        return {
            "tokens": self.tokens,
            "of": self.of,
            "notes": list(self.notes),
            "checks": [
                {
                    "name": check.name,
                    "compared": check.compared,
                    "value": check.value if math.isfinite(check.value) else None,
                    "tolerance": check.tolerance,
                    "passed": check.passed,
                    "charts": list(check.charts),
                }
                for check in self.checks
            ],
        }
