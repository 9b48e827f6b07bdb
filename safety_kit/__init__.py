"""Teach, guard and debug Gemma inside a policy.

The names below load what they need when they are first used, so that `import safety_kit` alone loads neither
torch nor transformers. Classifiers are taught in the package `classifiers`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from safety_kit.gemma import Gemma
    from safety_kit.generate import GuardedGemma
    from safety_kit.guard import Guard
    from safety_kit.policy import Policy
    from safety_kit.vault import Vault

__version__ = "0.1.0"

__all__ = ["Gemma", "Guard", "GuardedGemma", "Policy", "Vault", "__version__"]

_HOMES = {
    "Gemma": "safety_kit.gemma",
    "Guard": "safety_kit.guard",
    "GuardedGemma": "safety_kit.generate",
    "Policy": "safety_kit.policy",
    "Vault": "safety_kit.vault",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
