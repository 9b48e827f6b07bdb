"""JSON: whether a text is any, and whether it meets a schema. It is read whole."""

from __future__ import annotations

from typing import Any

from safety_kit.check_options import JsonOptions
from safety_kit.checks.base import WHOLE, Delta, Lookahead, StepResult, TextCheck, joined
from safety_kit.schemas import Fault, Schema, parse
from safety_kit.types import Finding

_FENCE = "```"


class JsonCheck(TextCheck):
    """Finds what is no JSON or not of the schema; scores are 1, of the kind ``rule``; details name the repair."""

    lookahead: Lookahead = WHOLE

    def __init__(self, name: str, options: JsonOptions, wanted: frozenset[str]) -> None:
        self.name = name
        self.categories = wanted
        self._schema = Schema(options.json_schema) if options.json_schema is not None else None
        self._fences = options.fences
        self._max_depth = options.max_depth

    def start(self) -> tuple[()]:
        return ()

    def step(self, state: Any, new: Delta, final: bool) -> StepResult:
        """Collect the pieces, each with those before it, and clear nothing before the end."""
        state = (state, new.text) if new.text else state
        if not final:
            return state, [], 0
        text = joined(state)
        return state, self._findings(text), len(text)

    def _findings(self, text: str) -> list[Finding]:
        try:
            value = parse(_inside_fence(text) if self._fences else text, self._max_depth)
        except Fault as fault:
            found = ("json.invalid", fault.detail)
        else:
            asked = self._schema.fault(value) if self._schema else None
            if asked is None:
                return []
            found = ("json.schema", asked)
        return [Finding(self.name, found[0], 1.0, "rule", (), found[1])] if found[0] in self.categories else []


def _inside_fence(text: str) -> str:
    """What stands in the Markdown fence that makes up the text; the text itself where there is none."""
    inner = text.strip()
    if not (inner.startswith(_FENCE) and inner.endswith(_FENCE) and "\n" in inner):
        return text
    opening, _, rest = inner.partition("\n")
    if opening.strip("`").strip().lower() not in ("", "json"):
        return text
    return rest[: -len(_FENCE)]


def build(name: str, options: JsonOptions, wanted: frozenset[str]) -> JsonCheck:
    """The check of a policy's `json` entry."""
    return JsonCheck(name, options, wanted)
