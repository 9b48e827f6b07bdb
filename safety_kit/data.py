"""Where the files that the kit ships are, and where a model's classifiers are."""

from __future__ import annotations

import re
from pathlib import Path

from safety_kit.cache import cache_dir


def data_dir() -> Path:
    """The shipped data: `safety_kit/_data` in an installed wheel, the checkout's `data/` otherwise."""
    here = Path(__file__).resolve().parent
    packaged = here / "_data"
    return packaged if packaged.is_dir() else here.parent / "data"


def policy_names() -> list[str]:
    """The shipped policies, each named by its file."""
    return sorted(path.stem for path in (data_dir() / "policies").glob("*.yaml"))


def shipped_policy(name: str) -> Path | None:
    """The file of a shipped policy; None where `name` is the name of none."""
    return data_dir() / "policies" / f"{name}.yaml" if name in policy_names() else None


def classifiers_dir(model: str, digest: str) -> Path:
    """Folder of one model's classifiers, one folder a category: the shipped one for `embedded`, else `prepare`'s cache.

    Args:
        model: The model's name.
        digest: The model's digest.
    """
    if model == "embedded":
        return data_dir() / "classifiers"
    slug = re.sub(r"[^A-Za-z0-9.]+", "-", model).strip("-.")[-60:]
    return cache_dir() / "classifiers" / f"{slug}-{digest[:16]}"
