"""Rate limits: how many requests a caller may make, counted here or, for several replicas, in Redis."""

from __future__ import annotations

import time
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from safety_kit.errors import MissingExtra, SafetyKitError, UserError
from safety_kit.gateway import logs

if TYPE_CHECKING:
    from limits import RateLimitItem
    from limits.aio.storage import Storage
    from limits.aio.strategies import SlidingWindowCounterRateLimiter

    from safety_kit.gateway.settings import Limits

REDIS_TIMEOUT: Final = 0.5
"""Seconds that Redis may take to connect, and to answer."""
PAUSE: Final = 1.0
"""Seconds between attempts while Redis is gone: a request then waits for none of them."""
_SCHEMES: Final = ("redis://", "rediss://")


class CountsUnavailable(SafetyKitError):
    """Redis is gone and the settings say to refuse: a 503 with `retry_after` seconds."""

    retry_after = PAUSE

    def __init__(self) -> None:
        super().__init__("Requests cannot be counted at the moment; try again later.")


class RateLimits:
    """Counts the requests of each caller over a sliding window.

    The window is the library's counter of two halves: two numbers a caller however high its rate is, and in Redis ages
    are by Redis's own clock, so that replicas whose clocks differ agree.
    """

    def __init__(self, settings: Limits) -> None:
        """Prepare the counts; Redis is not called yet.

        Raises:
            MissingExtra: Counts are to be in Redis and its client is not installed.
            UserError: The URL of Redis has another form.
        """
        self._rate = settings.rate
        self._failure = settings.redis_failure
        self._here = _strategy(_memory())
        self._shared = None if settings.redis is None else _strategy(_redis(settings.redis.get_secret_value()))
        self._gone_until = 0.0
        self._items: dict[str, RateLimitItem] = {}

    @property
    def degraded(self) -> bool:
        """Whether Redis did not answer when it was last asked."""
        return self._gone_until > 0

    async def take(self, who: str, rate: str | None = None) -> float | None:
        """Count a request of a caller.

        Args:
            who: Whose: a key's name, or an address.
            rate: The caller's own, in place of the settings'.

        Returns:
            None when it may pass; else the seconds until the next one may.

        Raises:
            CountsUnavailable: Redis is gone, and the settings say to refuse then.
        """
        rate = rate or self._rate
        if rate is None:
            return None
        item = self._item(rate)
        if self._shared is None:
            return await _take(self._here, item, who)
        if time.monotonic() >= self._gone_until:
            try:
                wait = await _take(self._shared, item, who)
            except (
                Exception
            ) as error:  # of the client, the connection or the server: whatever it is, nothing was counted
                if not self.degraded:
                    logs.fault("counting in Redis", error, then=self._failure)
                self._gone_until = time.monotonic() + PAUSE
            else:
                if self.degraded:
                    logs.told("counting in Redis again")
                    self._gone_until = 0.0
                return wait
        if self._failure == "refuse":
            raise CountsUnavailable
        return await _take(self._here, item, who)

    async def close(self) -> None:
        """Leave Redis."""
        if self._shared is not None:
            await self._shared.storage.bridge.get_connection().aclose()  # type: ignore[attr-defined]

    def _item(self, rate: str) -> RateLimitItem:
        from limits import parse

        if rate not in self._items:
            self._items[rate] = parse(rate)
        return self._items[rate]


async def _take(strategy: SlidingWindowCounterRateLimiter, item: RateLimitItem, who: str) -> float | None:
    if await strategy.hit(item, who):
        return None
    window = item.get_expiry()
    counts = await strategy.storage.get_sliding_window(item.key_for(who), window)  # type: ignore[attr-defined]
    return seconds_left(item.amount, window, *counts)


def seconds_left(amount: int, window: float, previous: int, left: float, current: int, ends: float) -> float:
    """How long a caller that was refused has to wait.

    Args:
        amount: Requests that a window allows.
        window: Its seconds.
        previous: Requests of the window before, which count by the share of it that the sliding window still covers.
        left: Seconds until they count nothing.
        current: Requests of the window that runs.
        ends: Seconds until those are forgotten: what is left of their own window, and one more.
    """
    if current < amount and previous:
        wait = left - (amount - current) * window / previous
    else:
        wait = ends - window + window * (1 - amount / max(current, amount))
    return min(max(wait, 0.001), 2 * window)


def _memory() -> Storage:
    from limits.aio.storage import MemoryStorage

    return MemoryStorage()


def _redis(url: str) -> Storage:
    if find_spec("redis") is None:
        raise MissingExtra("redis", "scale")
    if not url.startswith(_SCHEMES):
        raise UserError("limits.redis: use a URL such as redis://127.0.0.1:6379/0 or rediss://….")
    from limits.aio.storage import RedisStorage
    from limits.errors import ConfigurationError
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    options: dict[str, object] = {
        "socket_timeout": REDIS_TIMEOUT,
        "socket_connect_timeout": REDIS_TIMEOUT,
        "retry": Retry(NoBackoff(), 1),  # one: an idle connection that Redis closed is no failure
    }
    try:
        return RedisStorage(f"async+{url}", implementation="redispy", key_prefix="safety-kit", **options)  # type: ignore[arg-type]
    except (ValueError, ConfigurationError):  # their messages hold the URL, and it a password
        raise UserError("limits.redis: use a URL with host and port, such as redis://127.0.0.1:6379/0.") from None


def _strategy(storage: Storage) -> SlidingWindowCounterRateLimiter:
    from limits.aio.strategies import SlidingWindowCounterRateLimiter

    return SlidingWindowCounterRateLimiter(storage)
