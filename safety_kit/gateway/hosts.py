"""By which names a gateway may be called: the defence against web pages that give loopback a name of their own.

A page of ``evil.example`` whose name resolves to 127.0.0.1 is, to the browser, of one origin with a gateway there: it
could ask whatever its visitor's machine may ask, and read the answers (DNS rebinding). Its name stands in ``Host``.
Where a key is asked for, such a page has none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from safety_kit.gateway.settings import is_loopback

if TYPE_CHECKING:
    from safety_kit.gateway.settings import Settings

_LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "[::1]"})
_HOST: Final = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:\d{1,5})?")


def names_us(headers: Iterable[tuple[bytes, bytes]], settings: Settings) -> bool:
    """Whether a request names a host that this gateway answers for.

    Anything is taken where a key is asked for, or where it was told to listen beyond loopback; and a request that names
    none, which no browser sends.

    Args:
        headers: Of the request; names in lower case.
        settings: Of the gateway.
    """
    if settings.keys is not None or not is_loopback(settings.host):
        return True
    own = f"[{settings.host}]" if ":" in settings.host else settings.host
    served = _LOOPBACK | {own.lower()} | {host.lower() for host in settings.hosts}
    return all(_name(value) in served for name, value in headers if name == b"host")


def _name(host: bytes) -> str | None:
    """A ``Host`` without its port; None where it is none."""
    found = _HOST.fullmatch(host.decode("latin-1").lower())
    return found[1] if found else None
