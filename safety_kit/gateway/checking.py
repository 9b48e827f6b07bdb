"""Calling what checks: in a thread, and where a model reads, with a place in front of it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final, ParamSpec, TypeVar

from safety_kit.errors import Overloaded
from safety_kit.gateway.errors import no_service
from safety_kit.gateway.services import Services
from safety_kit.gateway.ticket import Ticket
from safety_kit.types import Stage

P = ParamSpec("P")
T = TypeVar("T")

BOTH: Final = tuple(Stage)


async def checked(
    services: Services,
    ticket: Ticket,
    stages: Collection[Stage],
    function: Callable[P, T],
    *args: P.args,
    **more: P.kwargs,
) -> T:
    """Call a function that checks texts of these stages with the ticket's guard.

    Raises:
        ApiError: 503: the guard's model has no room.
    """
    places = services.places
    if places is None or not any(ticket.guard_.checks_at(stage, "model") for stage in stages):
        return await services.workers.run(function, *args, **more)
    try:
        async with places.place(ticket.size):
            return await services.workers.run(function, *args, **more)
    except Overloaded as error:
        raise no_service(str(error), "overloaded") from error
