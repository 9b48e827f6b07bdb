"""JSON that strangers wrote: read within limits, held against a JSON Schema, faults told without a word of the text."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

LONGEST_NUMBER: Final = 300
"""Digits of an integer; no float holds more."""

_STEP: Final = re.compile(r'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)|[\[{]|[\]}]', re.DOTALL)
_PLAIN_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SYNTAX: Final = {
    # what json's messages begin with: the repair
    "Expecting ',' delimiter": "expected a comma, or the end of the array or object",
    "Expecting ':' delimiter": "expected a colon",
    "Expecting property name": "expected a property name in double quotes",
    "Illegal trailing comma": "remove the trailing comma",
    "Unterminated string": "the string is not closed",
    "Invalid control character": "escape the control character in the string",
    "Invalid \\": "the escape in the string is none of JSON's",
    "Extra data": "expected the end of the text",
}
_ASKS: Final = {
    # keyword of a schema: the repair, with the schema's own value
    "type": "expected {}",
    "required": "add the missing properties; required are {}",
    "additionalProperties": "remove properties that the schema does not name",
    "unevaluatedProperties": "remove properties that the schema does not name",
    "enum": "expected one of the schema's values",
    "const": "expected the schema's value",
    "minimum": "expected at least {}",
    "maximum": "expected at most {}",
    "exclusiveMinimum": "expected more than {}",
    "exclusiveMaximum": "expected less than {}",
    "multipleOf": "expected a multiple of {}",
    "minLength": "expected at least {} characters",
    "maxLength": "expected at most {} characters",
    "pattern": "expected a text of the schema's pattern",
    "minItems": "expected at least {} items",
    "maxItems": "expected at most {} items",
    "uniqueItems": "remove repeated items",
    "minProperties": "expected at least {} properties",
    "maxProperties": "expected at most {} properties",
}


@dataclass(frozen=True, slots=True)
class Fault(Exception):
    """What is wrong with a text: where, and what would repair it; it quotes nothing of the text."""

    detail: str


def parse(text: str, max_depth: int) -> Any:
    """The value of a JSON text.

    Raises:
        Fault: The text is no JSON (RFC 8259), is nested deeper than `max_depth`, or has an integer of more than
            `LONGEST_NUMBER` digits or a number that no float holds.
    """
    if not text.strip(" \t\r\n"):
        raise Fault("the text is empty: expected JSON")
    if _deeper_than(text, max_depth):
        raise Fault(f"expected at most {max_depth} nested arrays and objects")
    try:
        return json.loads(text, parse_int=_integer, parse_float=_float, parse_constant=_constant)
    except json.JSONDecodeError as error:
        asked = next((said for begin, said in _SYNTAX.items() if error.msg.startswith(begin)), "expected a JSON value")
        raise Fault(f"at line {error.lineno}, column {error.colno}: {asked}") from None


def _deeper_than(text: str, limit: int) -> bool:
    """Counted before parsing, because the parser's own limit depends on the caller's stack."""
    depth = 0
    for step in _STEP.finditer(text):
        if step[0] in "[{":
            depth += 1
            if depth > limit:
                return True
        elif step[0] in "]}":
            depth -= 1
    return False


def _integer(digits: str) -> int:
    if len(digits) > LONGEST_NUMBER:
        raise Fault(f"expected numbers of at most {LONGEST_NUMBER} digits")
    return int(digits)


def _float(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise Fault("expected numbers below 1.8e308")
    return value


def _constant(name: str) -> Any:
    raise Fault("NaN and Infinity are no JSON: expected a number or null")


def check_schema(schema: dict[str, Any]) -> None:
    """Refuse a schema that is none, that points outside itself, or whose patterns could take more than linear time.

    Raises:
        ValueError: With the remedy.
    """
    import re2
    from jsonschema.exceptions import SchemaError
    from referencing import Registry
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import DRAFT202012

    try:
        _validators().check_schema(schema)
    except SchemaError as error:
        raise ValueError(f"is no JSON Schema (see {error.json_path})") from error
    resolver = Registry().with_resource("", DRAFT202012.create_resource(schema)).resolver()
    options = re2.Options()
    options.log_errors = False
    for part in _parts(schema):
        if "patternProperties" in part:
            raise ValueError("has patternProperties, which are not supported; use propertyNames with a pattern")
        if isinstance(pattern := part.get("pattern"), str):
            try:
                re2.compile(pattern, options)
            except re2.error as error:
                raise ValueError("has a pattern that does not compile as RE2 (which has no look-around)") from error
        for key in ("$ref", "$dynamicRef"):
            reference = part.get(key)
            if not isinstance(reference, str):
                continue
            if not reference.startswith("#"):
                raise ValueError(f"has a {key} to another document; copy what it names under $defs")
            try:
                resolver.lookup(reference)
            except Unresolvable as error:
                raise ValueError(f"has a {key} that leads nowhere; correct it") from error


def _parts(schema: Any) -> Iterator[dict[str, Any]]:
    """All objects of a schema's document; more than its subschemas, so that no reference escapes."""
    waiting = [schema]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            yield part
            waiting += part.values()
        elif isinstance(part, list):
            waiting += part


class Schema:
    """A schema that values are held against: linear in the value for each part of the schema."""

    def __init__(self, schema: dict[str, Any]) -> None:
        from referencing import Registry

        self._validator = _validators()(schema, registry=Registry())  # an empty registry: nothing is fetched
        self._names = {
            name
            for part in _parts(schema)
            if isinstance(part.get("properties"), dict)
            for name in part["properties"]
            if _PLAIN_NAME.fullmatch(name)
        }

    def fault(self, value: Any) -> str | None:
        """The first fault: its place and its repair."""
        try:
            error = next(self._validator.iter_errors(value), None)
        except RecursionError:
            return "expected fewer nested arrays and objects"
        if error is None:
            return None
        return f"at {self._place(error.absolute_path)}: {_asked(error)}"

    def _place(self, path: Any) -> str:
        """JSONPath; a property that the schema does not name is written as `*`, because its name is the text's."""
        steps = (f"[{step}]" if isinstance(step, int) else f".{step if step in self._names else '*'}" for step in path)
        return "$" + "".join(steps)


def _asked(error: Any) -> str:
    value = error.validator_value
    said = _ASKS.get(error.validator, f"does not meet {error.validator} of the schema")
    return said.format(", ".join(map(str, value)) if isinstance(value, list) else value)


@cache
def _validators() -> Any:
    """Draft 2020-12 with the two keywords replaced that take more than linear time."""
    from jsonschema import Draft202012Validator
    from jsonschema.validators import extend

    return extend(Draft202012Validator, {"pattern": _pattern, "uniqueItems": _unique_items})


def _pattern(validator: Any, pattern: str, instance: Any, schema: Any) -> Iterator[Any]:
    import re2
    from jsonschema.exceptions import ValidationError

    if isinstance(instance, str) and not re2.search(pattern, instance.encode("utf-8", "replace").decode()):
        yield ValidationError("does not match")


def _unique_items(validator: Any, unique: bool, instance: Any, schema: Any) -> Iterator[Any]:
    from jsonschema.exceptions import ValidationError

    if unique and isinstance(instance, list):
        seen = {_key(item) for item in instance}
        if len(seen) < len(instance):
            yield ValidationError("has repeated items")


def _key(value: Any) -> Any:
    """What equal JSON values have in common: 1 equals 1.0, and true equals neither."""
    if isinstance(value, list):
        return ("array", *map(_key, value))
    if isinstance(value, dict):
        return ("object", frozenset((name, _key(item)) for name, item in value.items()))
    return (isinstance(value, bool), value)
