"""What every test shares: one embedded Gemma a session, a rule for missing programs, reproducible hypothesis."""

from __future__ import annotations

import os

# Set before anything is imported that reads them: no test may look anything up on a network.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TLDEXTRACT_PUBLIC_SUFFIX_LIST_URLS"] = ""
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import shutil
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from safety_kit.gemma import Gemma

settings.register_profile("local", deadline=None, print_blob=True)
settings.register_profile("ci", deadline=None, print_blob=True, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "embedded" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.model)


@pytest.fixture(autouse=True, scope="session")
def features(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Readings are cached for this session only: no test shall pass on what an earlier version computed."""
    from classifiers import cache

    folder, real = tmp_path_factory.mktemp("features"), cache.cache_dir
    cache.cache_dir = lambda: folder
    yield
    cache.cache_dir = real


@pytest.fixture(scope="session")
def embedded() -> Gemma:
    """The embedded Gemma, loaded once a session; `SAFETY_KIT_CACHE`, or the user's cache, keeps it between sessions."""
    import torch

    from safety_kit.gemma import Gemma

    torch.set_num_threads(2)
    return Gemma.load("embedded")


@pytest.fixture(scope="session")
def require() -> Callable[[str], str]:
    """`require("git")` is the program's path. Without it the test is skipped, and fails under REQUIRE_ALL=1."""

    def require(program: str) -> str:
        if path := shutil.which(program):
            return path
        message = f"the program {program} is not installed"
        if os.environ.get("REQUIRE_ALL") == "1":
            pytest.fail(message)
        pytest.skip(message)

    return require
