"""A guideline, and the evidence that a judge of it tells right from wrong: a judge may block only with it.

The file is JSON that `safety-kit judge --data ROWS --evidence FILE` writes. It holds figures and digests, no rows.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from safety_kit.artifacts import Calibration
from safety_kit.errors import PolicyError
from safety_kit.types import Stage

PROMPT_FORMAT = 1
"""Of `safety_kit.gemma.judge`; part of a guideline's digest, so that evidence ends with the prompt it was found by."""

ENOUGH = 20
"""Rows of each label that a stage needs: among a handful, a perfect AUROC and an interval of no width are chance."""

BLOCKS_ABOVE = 0.7
"""The lower end of a 95 % interval of the AUROC must lie above this before a judge may block."""


@dataclass(frozen=True, slots=True)
class Guideline:
    """What a text must not do.

    Attributes:
        name: The category.
        text: The policy, in a sentence or a few, such as ``"No Insults": The text shall not insult anybody.``
    """

    name: str
    text: str

    @property
    def digest(self) -> str:
        """SHA-256 of the text and the format of the prompt, without the name: what the model reads."""
        return hashlib.sha256(f"{PROMPT_FORMAT}\n{self.text.strip()}".encode(errors="surrogatepass")).hexdigest()


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Interval(_Record):
    """A figure with its 95 % interval."""

    value: float = Field(ge=0, le=1)
    low: float = Field(ge=0, le=1)
    high: float = Field(ge=0, le=1)


class Measured(_Record):
    """How a judge did on one stage's rows; `calibration` is of its log-odds of Yes."""

    auroc: Interval
    positives: int = Field(ge=ENOUGH)
    negatives: int = Field(ge=ENOUGH)
    calibration: Calibration


class JudgeModel(_Record):
    """Which Gemma was asked."""

    name: str
    digest: str


class Evidence(_Record):
    """What a judge was measured at: texts at input, replies with the message they answer at output."""

    format: Literal[1] = 1
    kind: Literal["judge-evidence"] = "judge-evidence"
    guideline: str
    guideline_digest: str
    model: JudgeModel
    stages: dict[Stage, Measured] = Field(min_length=1)
    data_digest: str
    created: str
    kit_version: str

    def may_block(self, stage: Stage) -> bool:
        """Whether the rows of this stage show an AUROC above `BLOCKS_ABOVE`, chance aside."""
        return stage in self.stages and self.stages[stage].auroc.low > BLOCKS_ABOVE

    @property
    def digest(self) -> str:
        """SHA-256 of the content."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


def read_evidence(path: Path) -> Evidence:
    """Read an evidence file.

    Raises:
        PolicyError: It is missing, or no evidence file.
    """
    try:
        return Evidence.model_validate_json(path.read_bytes())
    except (OSError, ValueError) as error:
        reason = "is no evidence file" if isinstance(error, ValidationError) else "cannot be read"
        raise PolicyError(
            f"{path} {reason}; write it with: safety-kit judge --guideline-file F --data ROWS --evidence {path.name}"
        ) from error
