"""Settings from a YAML file and a command's options."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from safety_kit.errors import UserError
from safety_kit.gateway.settings import Settings


def read_settings(file: Path | None, options: Mapping[str, Any]) -> Settings:
    """The settings of a file, overridden by options.

    Args:
        file: YAML; None: the defaults.
        options: By dotted name, such as ``limits.rate``; one that is None says nothing.

    Raises:
        UserError: The file cannot be read, or a setting is not valid: which, and why; never with its value.
    """
    given: Any = {}
    if file is not None:
        try:
            given = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
            raise UserError(f"The configuration {file} cannot be read; name a YAML file.") from error
        if not isinstance(given, dict | None):
            raise UserError(f"{file}: must be a mapping of settings, such as `policy: default`.")
    try:
        settings = Settings.model_validate(_over(given or {}, options))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise UserError(f"{file or 'The options'}: {place}: {first['msg']}.") from error
    if not (is_loopback(settings.host) or settings.keys is not None or settings.allow_anonymous):
        raise UserError(
            f"{settings.host} can be reached from other machines: name a file of API keys with --keys, "
            "or let anybody in with --allow-anonymous."
        )
    return settings


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect to it."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _over(given: dict[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    for name, value in options.items():
        if value is None:
            continue
        where, (*sections, key) = given, name.split(".")
        for section in sections:
            if not isinstance(where.get(section), dict):
                where[section] = {}
            where = where[section]
        where[key] = value
    return given
