"""Where the upstream is, and what it is called with: all that can be wrong with either is told at the start."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import Final
from urllib.request import getproxies, proxy_bypass

from yarl import URL

from safety_kit.errors import UserError
from safety_kit.gateway.settings import Upstream

_KEY: Final = re.compile(r"[!-~]+")
"""What a header can carry as one word: a key read from a file often ends in a line break."""


@dataclass(frozen=True, slots=True)
class Address:
    """An upstream's.

    Attributes:
        base: Its URL, which ends in a slash.
        host: Its host alone, which may be shown.
        key: The gateway's own key for it.
        proxy: What the environment says that it is reached through. The rest of the environment, such as the passwords
            of ``~/.netrc``, is not looked at: they would be sent beside a key, or in place of one.
    """

    base: URL
    host: str
    key: str | None = field(repr=False)
    proxy: URL | None = field(repr=False)

    @classmethod
    def of(cls, settings: Upstream) -> Address:
        """Read it from the settings and the environment.

        Raises:
            UserError: The URL is no plain http(s) URL, the key is none that can be sent, the environment variable of
                the key is not set, or the proxy is not an HTTP proxy.
        """
        base = _base(settings.url)
        host = base.host or ""
        return cls(base, host, _key(settings), _proxy(base.scheme, host))


def _base(url: str) -> URL:
    try:
        base = URL(url.rstrip("/") + "/")
    except ValueError:
        base = URL("")
    if base.scheme not in ("http", "https") or not base.host or "?" in url or "#" in url:
        raise UserError("The upstream's url must be one such as http://127.0.0.1:8000/v1.")
    if base.raw_user is not None or base.raw_password is not None:
        raise UserError("The upstream's url holds a password; name its key as upstream.api_key_env instead.")
    return base


def _key(settings: Upstream) -> str | None:
    if settings.api_key_env is not None:
        if not (key := os.environ.get(settings.api_key_env)):
            raise UserError(f"The environment variable {settings.api_key_env} holds no key for the upstream; set it.")
    elif settings.api_key is not None:
        key = settings.api_key.get_secret_value()
    else:
        return None
    if not _KEY.fullmatch(key):
        raise UserError("The upstream's key holds a space, a line break or no ASCII; give the key alone.")
    return key


def _proxy(scheme: str, host: str) -> URL | None:
    found = getproxies().get(scheme)
    if not found or proxy_bypass(host):
        return None
    try:
        proxy = URL(found if "://" in found else f"http://{found}")
    except ValueError:
        proxy = URL("")
    if proxy.scheme != "http" or not proxy.host:
        raise UserError(
            f"The environment variable {scheme.upper()}_PROXY names no HTTP proxy; use one such as "
            "http://127.0.0.1:3128, or name the upstream's host in NO_PROXY."
        )
    return proxy
