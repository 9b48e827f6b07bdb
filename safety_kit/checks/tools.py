"""Tool calls: whether the tool may be called, and whether its arguments meet their schema."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from safety_kit.check_options import ToolsOptions
from safety_kit.checks.base import Delta, Lookahead, StepResult, TextCheck, joined
from safety_kit.schemas import Fault, Schema, parse
from safety_kit.types import Finding, Sample

MAX_DEPTH = 64
"""How deep arguments may be nested."""


@dataclass(frozen=True, slots=True)
class _State:
    """A call's arguments so far; `tool` is None for a text that is no tool call."""

    tool: str | None = None
    pieces: Any = ()
    total: int = 0


class ToolsCheck(TextCheck):
    """Finds calls of other tools than those allowed, and arguments that do not fit; other texts are none of its.

    Scores are 1, of the kind ``rule``. A call's arguments are read whole.
    """

    lookahead: Lookahead = 0

    def __init__(self, name: str, options: ToolsOptions, wanted: frozenset[str]) -> None:
        self.name = name
        self.categories = wanted
        self._allowed = {tool: Schema(schema) if schema is not None else None for tool, schema in options.allow.items()}

    def start(self) -> _State:
        return _State()

    def start_for(self, sample: Sample) -> _State:
        return _State(sample.tool)

    def step(self, state: Any, new: Delta, final: bool) -> StepResult:
        state = replace(state, total=state.total + len(new.text))
        if state.tool is None:
            return state, [], state.total
        state = replace(state, pieces=(state.pieces, new.text) if new.text else state.pieces)
        if not final:
            return state, [], 0
        return state, self.check_call(state.tool, joined(state.pieces)), state.total

    def check_call(self, tool: str, arguments: str) -> list[Finding]:
        """What is wrong with one call.

        Args:
            tool: The tool's name, as the model wrote it.
            arguments: A JSON object, or nothing.
        """
        if tool not in self._allowed:
            found = ("tools.not_allowed", f"the tool is none of the {len(self._allowed)} that are allowed")
        elif asked := self._fault(self._allowed[tool], arguments):
            found = ("tools.arguments", asked)
        else:
            return []
        return [Finding(self.name, found[0], 1.0, "rule", (), found[1])] if found[0] in self.categories else []

    @staticmethod
    def _fault(schema: Schema | None, arguments: str) -> str | None:
        try:
            value = parse(arguments, MAX_DEPTH) if arguments.strip() else {}
        except Fault as fault:
            return fault.detail
        if not isinstance(value, dict):
            return "at $: expected object"
        return schema.fault(value) if schema else None


def build(name: str, options: ToolsOptions, wanted: frozenset[str]) -> ToolsCheck:
    """The check of a policy's `tools` entry."""
    return ToolsCheck(name, options, wanted)
