"""From settings to a gateway's parts: the one place that knows which parts there are."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

from safety_kit.errors import PolicyError, UserError
from safety_kit.gateway.backends.upstream import UpstreamBackend
from safety_kit.gateway.services import Services
from safety_kit.gateway.settings import Settings
from safety_kit.gateway.workers import Workers
from safety_kit.guard import Guard
from safety_kit.policy import Policy

WAITING: Final = 64
"""Threads, where checks wait for a model that reads many texts at once."""


@dataclass(frozen=True, slots=True)
class OneGuard:
    """One policy for all."""

    one: Guard

    def guard(self, policy: str | None = None) -> Guard:
        if policy is not None and policy != self.one.policy.name:
            raise PolicyError(f"The gateway enforces {self.one.policy.name!r} and has no policy {policy!r}.")
        return self.one


def build(settings: Settings) -> Services:
    """Load what the settings name.

    Raises:
        UserError: Something of it cannot be had; the message says what to change.
    """
    policy = Policy.load(settings.policy)
    gemma = None
    if policy.needs_model:
        from safety_kit.gemma import Gemma

        gemma = Gemma.load(settings.model)
    if settings.upstream is None:
        raise UserError("Name who generates: --upstream URL, or upstream.url in the configuration.")
    return Services(
        guards=OneGuard(Guard(policy, gemma)),
        backend=UpstreamBackend(settings.upstream),
        workers=Workers(WAITING if policy.needs_model else os.cpu_count() or 2),
    )
