"""Whether the files that a policy is made of have changed: a cheap look at each, and a full one where that differs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from safety_kit.check_options import JudgeOptions, ProbeOptions
from safety_kit.data import shipped_policy
from safety_kit.policy import Policy

Stamp: TypeAlias = tuple[tuple[int, ...] | None, ...]
"""Time, size and place of each file, None for one that is not there; equal stamps are taken for equal files."""


def file_of(name: str) -> Path:
    """The file of a policy: a shipped one by its name, any other by its path."""
    return shipped_policy(name) or Path(name)


def files_of(name: str, policy: Policy, classifiers: Path | None = None) -> tuple[Path, ...]:
    """A policy's file and those that it names: calibration, classifiers, evidence of judges.

    Args:
        name: What the policy was loaded by.
        policy: The policy.
        classifiers: Folder of the model's own classifiers, which policies name without a path.
    """
    files = [file_of(name), *([policy.calibration] if policy.calibration else [])]
    for options in policy.checks.values():
        if isinstance(options, ProbeOptions):
            folder = policy.folder if options.is_folder else classifiers
            if folder is not None:
                files += [folder / options.artifact / part for part in ("manifest.json", "weights.safetensors")]
        elif isinstance(options, JudgeOptions) and options.evidence is not None:
            files.append(policy.folder / options.evidence)
    return tuple(dict.fromkeys(files))


@dataclass(frozen=True, slots=True)
class Look:
    """What some files were at one moment.

    Attributes:
        stamp: Their times, sizes and places.
        digest: SHA-256 over their contents.
    """

    stamp: Stamp
    digest: str


def stamp(files: Iterable[Path]) -> Stamp:
    """What the file system says of each file; links are followed, so that a swapped link is a change."""
    return tuple(map(_stamp, files))


def look(files: Iterable[Path], before: Look | None = None) -> Look:
    """The files now; they are read only where their stamps are not those of `before`."""
    files = tuple(files)
    now = stamp(files)
    if before is not None and now == before.stamp:
        return before
    whole = hashlib.sha256()
    for file in files:
        try:
            content = file.read_bytes()
        except OSError:
            whole.update(b"-")
        else:
            whole.update(b"%d:" % len(content) + hashlib.sha256(content).digest())
    return Look(now, whole.hexdigest())


def _stamp(file: Path) -> tuple[int, ...] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_dev, found.st_ino
