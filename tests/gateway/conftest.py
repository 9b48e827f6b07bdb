"""What tests of the gateway share: an upstream and a recorder a module, and logging that is left as it was."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import structlog
from gateway_helpers import FakeUpstream, Memory, served


@pytest.fixture(scope="module")
def fake() -> FakeUpstream:
    return FakeUpstream()


@pytest.fixture(scope="module")
def upstream(fake: FakeUpstream) -> Iterator[str]:
    """The fake, served: its address."""
    with served(fake.app) as address:
        yield address


@pytest.fixture(scope="module")
def memory() -> Memory:
    return Memory()


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """`safety-kit serve` takes over the process's logging."""
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    structlog.reset_defaults()
    yield
    root.handlers[:], root.level = before
    structlog.reset_defaults()
