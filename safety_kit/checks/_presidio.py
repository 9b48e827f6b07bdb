"""Presidio's pattern recognizers without the rest of presidio.

`import presidio_analyzer` loads spaCy, which loads torch: 7 seconds. The recognizers need a handful of small modules
only, so these are loaded under the package's own names with its `__init__` files left out; afterwards the names are
freed, so that an application's own `import presidio_analyzer` gets the whole package.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import threading
import types
from pathlib import Path
from typing import Any

from safety_kit.catalogue import COUNTRIES, PII
from safety_kit.errors import MissingExtra

_ROOT = "presidio_analyzer"
_LOCK = threading.Lock()
_CLASSES: dict[str, Any] = {}
_PARTS = {
    "analysis_explanation": "AnalysisExplanation",
    "recognizer_result": "RecognizerResult",
    "entity_recognizer": "EntityRecognizer",
    "local_recognizer": "LocalRecognizer",
    "pattern": "Pattern",
    "pattern_recognizer": "PatternRecognizer",
}


def recognizer_class(name: str) -> Any:
    """The recognizer class of a `pii.` category.

    Raises:
        MissingExtra: presidio-analyzer is not installed.
    """
    with _LOCK:
        if name not in _CLASSES:
            _load()
        return _CLASSES[name]


def _load() -> None:
    spec = importlib.util.find_spec(_ROOT)
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtra("presidio-analyzer", "all")
    root = Path(spec.submodule_search_locations[0])
    # Without this the first e-mail makes tldextract fetch the public suffix list; it has a copy of its own.
    os.environ.setdefault("TLDEXTRACT_PUBLIC_SUFFIX_LIST_URLS", "")
    before = {name: module for name, module in sys.modules.items() if name == _ROOT or name.startswith(f"{_ROOT}.")}
    for name in before:
        del sys.modules[name]
    try:
        top = _shell(_ROOT, root)
        for module, attribute in _PARTS.items():
            setattr(top, attribute, getattr(importlib.import_module(f"{_ROOT}.{module}"), attribute))
        nlp = _shell(f"{_ROOT}.nlp_engine", root / "nlp_engine")
        nlp.__dict__["NlpArtifacts"] = object  # named in annotations only
        folder = root / "predefined_recognizers"
        recognizers = _shell(f"{_ROOT}.predefined_recognizers", folder).__name__
        _shell(f"{recognizers}.generic", folder / "generic")
        _shell(f"{recognizers}.country_specific", folder / "country_specific")
        for name, (country, stem, class_name) in PII.items():
            place = f"country_specific.{COUNTRIES[country][0]}" if country else "generic"
            _CLASSES[name] = _import_class(f"{recognizers}.{place}.{stem}", class_name)
    finally:
        for name in [name for name in sys.modules if name == _ROOT or name.startswith(f"{_ROOT}.")]:
            del sys.modules[name]
        sys.modules.update(before)


def _shell(name: str, folder: Path) -> types.ModuleType:
    module = types.ModuleType(name)
    module.__path__ = [str(folder)]
    sys.modules[name] = module
    return module


def _import_class(module: str, name: str) -> Any:
    parent = module.rpartition(".")[0]
    if parent not in sys.modules:
        parts = parent.split(".")
        root = sys.modules[".".join(parts[:-1])]
        _shell(parent, Path(root.__path__[0]) / parts[-1])
    return getattr(importlib.import_module(module), name)
