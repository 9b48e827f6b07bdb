"""YAML that people write: a key given twice is refused, and what is wrong becomes a place and a remedy."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from safety_kit.errors import UserError


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice, where YAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                line = key.start_mark.line + 1
                raise UserError(f"line {line}: the key {key.value!r} is given twice; remove one of them.")
            if isinstance(key, yaml.ScalarNode):
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def parse(text: str) -> Any:
    """The document that a text is, by YAML's safe loader.

    Raises:
        UserError: It is no YAML, or gives a key twice; the line and the remedy are told.
    """
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}: " if mark else ""
        problem = getattr(error, "problem", None) or "unreadable"
        raise UserError(f"{place}this is no valid YAML ({problem}); correct it.") from error


def first_fault(error: ValidationError) -> ErrorDetails:
    """What pydantic says first, without the value that it met."""
    return error.errors(include_url=False, include_input=False)[0]


def place_of(loc: Sequence[int | str], root: str) -> str:
    """A place as it is written in the file, such as ``rules[2].action``; `root` where it is the whole."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).lstrip(".") or root


def remedy(fault: ErrorDetails) -> str:
    """What to do about a fault, to stand after its place."""
    context = fault.get("ctx", {})
    match fault["type"]:
        case "extra_forbidden":
            return "unknown key; correct its spelling or remove it."
        case "missing":
            return "is missing."
        case "string_type":
            return "must be a text; put it in quotes."
        case "literal_error":
            return f"use {context['expected']}."
        case "value_error":
            return f"{context['error']}."
        case "int_type" | "int_parsing" | "int_from_float":
            return "use a whole number."
        case "float_type" | "float_parsing" | "finite_number":
            return "use a number."
        case "bool_type" | "bool_parsing":
            return "use true or false."
        case "greater_than":
            return f"use a number above {context['gt']}."
        case "greater_than_equal":
            return f"use a number of at least {context['ge']}."
        case "less_than_equal":
            return f"use a number of at most {context['le']}."
        case "path_type":
            return "use the path of a file."
        case "model_type" | "model_attributes_type" | "dict_type":
            return "must be a mapping: names with values below it."
        case _:
            return f"{fault['msg'][:1].lower()}{fault['msg'][1:]}."
