"""Where the kit keeps what it made once: the converted model, prepared classifiers, cached features."""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import user_cache_dir


def cache_dir() -> Path:
    """The cache folder: `SAFETY_KIT_CACHE` where it is set, else the platform's own place."""
    return Path(os.environ.get("SAFETY_KIT_CACHE") or user_cache_dir("safety-kit", appauthor=False))
