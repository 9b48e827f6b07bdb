"""Teaching safety classifiers on Gemma's activations; the only room that imports scikit-learn.

From rows to a folder that a policy can name:

    from classifiers import SafetyClassifier, read_examples

    examples = read_examples("insults.jsonl")
    taught = examples.teach()
    classifier = SafetyClassifier(gemma).fit(taught.pairs(), taught.labels, groups=taught.groups)

The names below load what they need when they are first used: reading rows loads no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from classifiers.data import Examples, read_examples
    from classifiers.fit import SafetyClassifier
    from classifiers.lora import AdapterClassifier
    from classifiers.teach import teach_missing

__all__ = ["AdapterClassifier", "Examples", "SafetyClassifier", "read_examples", "teach_missing"]

_HOMES = {
    "AdapterClassifier": "classifiers.lora",
    "Examples": "classifiers.data",
    "SafetyClassifier": "classifiers.fit",
    "read_examples": "classifiers.data",
    "teach_missing": "classifiers.teach",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
