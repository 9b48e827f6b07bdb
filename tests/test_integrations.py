"""What all wrappers promise: a missing package is named with its install command, and nothing heavy is loaded."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from safety_kit.errors import MissingExtra

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    ("module", "package", "named"),
    [
        ("openai", "openai", "openai"),
        ("langchain", "langchain_core.language_models", "langchain-core"),
        ("litellm", "litellm.exceptions", "litellm"),
    ],
)
def test_a_missing_package_is_named(module: str, package: str, named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"safety_kit.integrations.{module}"
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(MissingExtra, match=rf"{named} is not installed; .* pip install 'safety-kit\[integrations\]'"):
        importlib.import_module(name)


def test_no_wrapper_of_a_service_loads_a_model_library() -> None:
    names = ", ".join(f"safety_kit.integrations.{module}" for module in ("callable", "openai", "langchain"))
    code = f"import sys, {names}\nprint(sorted({{'torch', 'transformers', 'litellm'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
