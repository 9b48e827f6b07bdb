"""From settings to a gateway's parts: the one place that knows which parts there are."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from safety_kit.data import classifiers_dir
from safety_kit.errors import UserError
from safety_kit.followed_stream import Follow
from safety_kit.gateway import logs
from safety_kit.gateway.backends import Backend
from safety_kit.gateway.backends.upstream import UpstreamBackend
from safety_kit.gateway.keys import KeyRing
from safety_kit.gateway.limits import RateLimits
from safety_kit.gateway.metrics import Metrics
from safety_kit.gateway.policies import Event, Policies
from safety_kit.gateway.services import Services
from safety_kit.gateway.settings import Settings
from safety_kit.gateway.shadow import Shadow
from safety_kit.gateway.workers import Workers
from safety_kit.guard import Guard
from safety_kit.policy import Policy

if TYPE_CHECKING:
    from safety_kit.gateway.backends.local import LocalBackend
    from safety_kit.gateway.batching import ModelQueue
    from safety_kit.gateway.review import ReviewStore
    from safety_kit.gemma import Gemma

WAITING: Final = 64
"""Threads, where checks wait for a model that reads many texts at once."""


def build(settings: Settings, gemma: Gemma | None = None) -> Services:
    """Load what the settings name.

    Args:
        settings: What the gateway is told.
        gemma: The model that `settings.model` names, where this process has it already; None: it is loaded.

    Raises:
        UserError: Something of it cannot be had; the message says what to change.
    """
    ring = KeyRing.load(settings.keys, every=settings.reload) if settings.keys is not None else None

    def asked_for() -> list[str]:
        """The policies that keys name."""
        return [key.policy for key in ring.keys if key.policy is not None] if ring is not None else []

    queue: ModelQueue | None = None
    local: LocalBackend | None = None
    if settings.upstream is not None:
        backend: Backend = UpstreamBackend(settings.upstream)
    else:
        queue = _queue(settings, gemma)
        backend = local = _local(settings, queue)
    metrics = Metrics(queued=lambda: queue.admission.waiting if queue is not None else 0)
    started = False

    def model_of(policy: Policy) -> ModelQueue | None:
        nonlocal queue
        if queue is None and policy.needs_model and not started:  # later there is no room in front of it
            queue = _queue(settings, gemma)
        return queue

    def classifiers_of(policy: Policy) -> Path | None:
        model = model_of(policy)
        return classifiers_dir(model.name, model.digest) if model is not None else None

    def guard_of(policy: Policy) -> Guard:
        guard = Guard(policy, model_of(policy))
        if local is not None and guard.capture is not None:
            local.bring(guard.capture)
        checks = [check.name for check in (*guard.text_checks, *guard.judges)] + (["probe"] if guard.probes else [])
        categories = {category for check in guard.text_checks for category in check.categories}
        categories |= guard.probes.categories if guard.probes else frozenset()
        metrics.know(categories=categories, checks=checks)
        return guard

    stores: list[ReviewStore] = []

    def tell(name: str, event: Event, message: str) -> None:
        logs.told(f"policy {event}", level="info" if event == "loaded" else "warning", policy=name, why=message)
        if started:
            metrics.reloaded(event == "loaded")
        for store in stores:
            try:
                store.use(guard.policy for guard in in_force())
            except UserError as error:  # what is kept is redacted as before
                logs.told("review store", level="warning", why=str(error))

    policies = Policies(
        settings.policy,
        asked_for,
        shadow=settings.shadow,
        build=guard_of,
        on_event=tell,
        classifiers=classifiers_of,
    )
    started = True

    def in_force() -> list[Guard]:
        return [policies.guard(), *map(policies.guard, asked_for())]

    shadow = Shadow(policies.shadow) if settings.shadow is not None else None
    may_count = ring is not None or settings.limits.rate is not None or settings.limits.redis is not None
    limits = RateLimits(settings.limits) if may_count else None  # its library takes a while to load
    audit = None
    if settings.audit.path is not None:
        from safety_kit.gateway.audit import AuditLog

        audit = AuditLog(settings.audit)
    if settings.review.keep != "none":
        from safety_kit.gateway.review import ReviewStore

        stores.append(ReviewStore(settings.review, [guard.policy for guard in in_force()]))

    def follow(guard: Guard) -> Follow | None:
        """A local Gemma brings a reply's activations; an upstream's replies are read beside it."""
        if queue is None or settings.upstream is None or guard.capture is None:
            return None
        return queue.follower(guard.capture)

    policies.start(settings.reload)
    return Services(
        guards=policies,
        backend=backend,
        workers=Workers(WAITING if queue is not None else os.cpu_count() or 2),
        audit=audit,
        recorders=tuple(stores),
        keys=ring,
        limits=limits,
        metrics=metrics,
        shadow=shadow,
        places=queue,
        streams=queue.streams if queue is not None else None,
        follow=follow,
        keeps_texts=bool(stores) or audit is not None,
        policies=lambda: {
            name: (status.digest, status.fault is not None) for name, status in policies.status().items()
        },
        closing=(
            policies.stop,
            *([shadow.close] if shadow is not None else []),
            *([limits.close] if limits is not None else []),
            *([queue.close] if queue is not None else []),
        ),
    )


def _queue(settings: Settings, gemma: Gemma | None) -> ModelQueue:
    """The Gemma that the guards read, and that generates where there is no upstream."""
    from safety_kit.gateway.batching import ModelQueue
    from safety_kit.gemma import Gemma

    model = gemma or Gemma.load(settings.model)
    return ModelQueue(model, max_waiting=settings.limits.waiting, overload=settings.overload)


def _local(settings: Settings, queue: ModelQueue) -> LocalBackend:
    from safety_kit.gateway.backends.local import LocalBackend

    return LocalBackend(queue, waiting=settings.limits.waiting, overload=settings.overload)
