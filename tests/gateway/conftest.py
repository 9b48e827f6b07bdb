"""What every test of the gateway leaves as it was: the process's logging, which `safety-kit serve` takes over."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import structlog


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    structlog.reset_defaults()
    yield
    root.handlers[:], root.level = before
    structlog.reset_defaults()
