"""Adding to a policy file in its own text: comments, order and spacing stay as they were."""

from __future__ import annotations

import json
import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import yaml

from safety_kit.errors import PolicyError
from safety_kit.policy import Policy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from safety_kit.types import Stage


def add_probe(
    path: Path,
    folder: Path,
    category: str,
    stages: Sequence[Stage],
    action: Literal["block", "flag"],
    *,
    max_fpr: float | None = None,
    threshold: float | None = None,
) -> Policy:
    """Add a check that reads a classifier folder, and its rule; the file is replaced in one step, or left as it was.

    Args:
        path: The policy.
        folder: The classifier folder; written relative to the policy.
        category: What it scores; also the check's name.
        stages: Where the rule holds.
        action: What the rule does.
        max_fpr: In (0, 1), or None for `threshold`.
        threshold: In (0, 1), or None for `max_fpr`.

    Returns:
        The policy as it is now.

    Raises:
        PolicyError: The policy is not valid, has the check already, or would not be valid afterwards.
    """
    path = path.resolve()
    policy = Policy.load(path)
    if category in policy.checks:
        raise PolicyError(f"{path}: checks.{category} is there already; change it there.")
    text = path.read_bytes().decode("utf-8")
    artifact = relative(folder, path.parent)
    limit = f"max_fpr: {max_fpr}" if threshold is None else f"threshold: {threshold}"
    held = ", ".join(stage.value for stage in stages)
    name = _word(category)
    text = _append(text, "rules", f"- {{category: {name}, stages: [{held}], action: {action}, {limit}}}", path)
    text = _append(text, "checks", f"{name}: {{type: probe, artifact: {_word(artifact)}}}", path)
    try:
        added = Policy.parse(text, path.parent)
    except PolicyError as error:
        raise PolicyError(f"{path} would not be valid with it: {error}") from error
    if len(added.checks) != len(policy.checks) + 1 or len(added.rules) != len(policy.rules) + 1:
        raise PolicyError(f"{path} cannot be extended as it is written; add the check and its rule by hand.")
    _replace(path, text)
    return added


def relative(path: Path, home: Path) -> str:
    """A path as a policy in the folder `home` names it: ``./x`` or ``../x``."""
    way = Path(os.path.relpath(path.resolve(), home.resolve())).as_posix()
    return way if way.startswith(".") else f"./{way}"


def section(text: str, name: str) -> yaml.Node | None:
    """A top-level entry of a policy that was read before; None where it has none."""
    root = yaml.compose(text, yaml.SafeLoader)
    assert isinstance(root, yaml.MappingNode)
    return next((value for key, value in root.value if key.value == name), None)


def _append(text: str, name: str, entry: str, path: Path) -> str:
    """The text with a line after the last entry of a top-level section, indented as that section's entries are."""
    node = section(text, name)
    assert isinstance(node, yaml.CollectionNode)
    if node.flow_style:
        raise PolicyError(f"{path}: {name} is written in braces; write one entry a line, then add to it again.")
    sequence = isinstance(node, yaml.SequenceNode)
    # A sequence's mark is its first dash, a mapping's is its first key.
    indent = " " * node.start_mark.column
    last = _last_mark(node if sequence else node.value[-1][1])
    lines = text.splitlines(keepends=True)
    at = last.line + (1 if last.column else 0)
    newline = "\r\n" if lines and lines[0].endswith("\r\n") else "\n"
    if at and not lines[at - 1].endswith("\n"):
        lines[at - 1] += newline
    return "".join([*lines[:at], f"{indent}{entry}{newline}", *lines[at:]])


def _last_mark(node: yaml.Node) -> yaml.Mark:
    """Where the last thing in a node ends: a block's own end mark lies behind the comments that follow it."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _last_mark(last[1] if isinstance(last, tuple) else last)
    return node.end_mark


def _word(word: str) -> str:
    """A string as YAML reads it back: plain where that is safe, else in double quotes."""
    plain = re.fullmatch(r"[A-Za-z.][\w./-]*", word, re.ASCII) and yaml.safe_load(word) == word
    return word if plain else json.dumps(word, ensure_ascii=False)


def _replace(path: Path, text: str) -> None:
    """Write a file in one step, with the old one's permissions."""
    handle, scratch = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(text.encode("utf-8"))
        os.chmod(scratch, path.stat().st_mode & 0o7777)
        os.replace(scratch, path)
    except BaseException:
        os.unlink(scratch)
        raise
