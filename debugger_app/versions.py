"""New versions of policies and classifiers beside the old ones: nothing is overwritten."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from safety_kit.commands.policy_edit import add_probe, relative, section
from safety_kit.data import shipped_policy
from safety_kit.errors import PolicyError, UserError
from safety_kit.policy import Policy

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Literal

    from safety_kit.types import Stage

_VERSION = re.compile(r"(.*?)-v(\d+)")


def policy_text(source: str) -> tuple[str, Path]:
    """The YAML of a policy named as the command line names it, and the file that holds it.

    Raises:
        PolicyError: It cannot be read.
    """
    path = shipped_policy(source) or Path(source)
    try:
        return path.read_text(encoding="utf-8"), path
    except (OSError, ValueError) as error:
        raise PolicyError(f"The policy {path} cannot be read ({type(error).__name__}); name another one.") from error


def with_thresholds(text: str, thresholds: Mapping[int, float]) -> str:
    """A policy's text with other thresholds in place of rates and thresholds; comments and order stay.

    Args:
        text: The YAML.
        thresholds: In (0, 1), by the rule's number from 0.

    Raises:
        PolicyError: A rule has neither in a place of its own.
    """
    rules = section(text, "rules")
    assert isinstance(rules, yaml.SequenceNode)  # a policy's rules are a list
    edits = []
    for number, threshold in thresholds.items():
        entry = rules.value[number]
        own = [
            (k, v)
            for k, v in entry.value
            if k.value in ("max_fpr", "threshold") and v.start_mark.index > k.start_mark.index
        ]  # no alias
        if len(own) != 1:
            raise PolicyError(f"rules[{number}] has no rate and no threshold of its own; write one into it by hand.")
        ((key, value),) = own
        edits.append((key.start_mark.index, value.end_mark.index, f"threshold: {threshold:.6g}"))
    return _edited(text, edits)


def with_artifact(text: str, check: str, folder: Path, home: Path) -> str:
    """A policy's text in which a check reads another classifier folder.

    Args:
        text: The YAML.
        check: The probe's name.
        folder: The classifier.
        home: The folder that the policy is in.

    Raises:
        PolicyError: There is no such check.
    """
    checks = section(text, "checks")
    assert isinstance(checks, yaml.MappingNode)
    for key, options in checks.value:
        for name, value in options.value if key.value == check else ():
            if name.value == "artifact":
                return _edited(
                    text, [(value.start_mark.index, value.end_mark.index, json.dumps(relative(folder, home)))]
                )
    raise PolicyError(f"checks.{check} reads no classifier folder; name another check.")


def save_policy(text: str, like: Path, folder: Path | None = None) -> Path:
    """Write a policy as the next version, ``NAME-v2.yaml`` and so on; no file is overwritten.

    Args:
        text: The YAML.
        like: The policy that it comes from.
        folder: Where to; None: beside it.

    Raises:
        PolicyError: It is not valid there, or cannot be written.
    """
    home = folder or like.parent
    Policy.parse(text, home)
    try:
        home.mkdir(parents=True, exist_ok=True)
        for path in _next(home, like.stem, ".yaml"):
            try:
                with path.open("x", encoding="utf-8") as file:
                    file.write(text)
                return path
            except FileExistsError:
                continue
    except OSError as error:
        raise PolicyError(f"No policy can be written to {home}: {error.strerror}; name another folder.") from error
    raise AssertionError("numbers do not end")


def put_into_policy(
    source: str,
    artifact: Path,
    category: str,
    stages: Sequence[Stage],
    action: Literal["block", "flag"],
    *,
    max_fpr: float | None = None,
    threshold: float | None = None,
    check: str | None = None,
    folder: Path | None = None,
) -> Path:
    """A new version of a policy that reads a classifier: instead of the one that a check reads now, or added.

    Where the policy names a calibration, the new version names another file: what a log said of the old classifier
    does not hold for the new one.

    Args:
        source: The policy, as the command line names it.
        artifact: The classifier's folder.
        category: What it scores.
        stages: Where a new rule holds; a rule that is there stays as it is.
        action: What a new rule does.
        max_fpr: A new rule's rate, in (0, 1), or None for `threshold`.
        threshold: Its threshold, in (0, 1), or None for `max_fpr`.
        check: The check that shall read it; None: a new one, called like the category.
        folder: Where the new version goes; None: beside the old one.

    Raises:
        PolicyError: It would not be valid, or cannot be written; no file is left then.
    """
    text, path = policy_text(source)
    Policy.parse(text, path.parent)
    home = folder or path.parent
    text = _with_new_calibration(text, home)
    if check is not None:
        return save_policy(with_artifact(text, check, artifact, home), path, home)
    made = save_policy(text, path, home)
    try:
        add_probe(made, artifact, category, stages, action, max_fpr=max_fpr, threshold=threshold)
    except BaseException:
        made.unlink()
        raise
    return made


def next_folder(folder: Path) -> Path:
    """The next version of a folder that is not there yet: the name itself, or ``NAME-v2`` and so on.

    Raises:
        UserError: Its name is that of no folder.
    """
    if not folder.name:
        raise UserError("Name a folder for the classifier, such as classifiers/dosing.")
    if not folder.exists():
        return folder
    return next(path for path in _next(folder.parent, folder.name, "") if not path.exists())


def _with_new_calibration(text: str, home: Path) -> str:
    value = section(text, "calibration")
    if value is None:
        return text
    old = home / value.value
    new = next(path for path in _next(old.parent, old.stem, old.suffix) if not path.exists())
    return _edited(text, [(value.start_mark.index, value.end_mark.index, json.dumps(relative(new, home)))])


def _next(home: Path, stem: str, suffix: str) -> Iterator[Path]:
    match = _VERSION.fullmatch(stem)
    name, number = (match[1], int(match[2])) if match else (stem, 1)
    while True:
        number += 1
        yield home / f"{name}-v{number}{suffix}"


def _edited(text: str, edits: list[tuple[int, int, str]]) -> str:
    for start, end, new in sorted(edits, reverse=True):
        text = text[:start] + new + text[end:]
    return text
