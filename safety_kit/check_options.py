"""The base of every check's options, and of those that an installed package brings."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    """Refuses what it does not know: a misspelt option must not be a check that silently does less."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class InstalledOptions(Strict):
    """Base of the options of a check that another package brings; `type` is to be a `Literal` of the type's name."""

    type: str
