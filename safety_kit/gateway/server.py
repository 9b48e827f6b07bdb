"""The process around the application: where it listens, how it stops."""

from __future__ import annotations

import signal
import socket
import sys
from collections.abc import Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI

from safety_kit.gateway.connection import server_options
from safety_kit.gateway.intake import in_front
from safety_kit.gateway.settings import Settings

SWITCH = 0.0005
"""Seconds after which a thread that computes a check lets the event loop have the interpreter."""


class Server(uvicorn.Server):
    """A uvicorn server that says when it listens, and is not ready once it is told to stop."""

    def __init__(self, app: FastAPI, settings: Settings, listening: Callable[[str], None]) -> None:
        """Set it up.

        Args:
            app: What `create_app` made.
            settings: Where to listen, and how long running requests get when it is told to stop.
            listening: Called with the address, once there is one.
        """
        turned_away = app.state.turned_away
        doors = in_front(app, settings, turned_away, app.state.known)
        config = uvicorn.Config(doors, log_level="warning", **server_options(settings, turned_away))
        super().__init__(config)
        self._gateway = app
        self._listening = listening
        self._interrupted = False

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        before = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH)
        try:
            super().run(sockets)
        finally:
            sys.setswitchinterval(before)
        if self._interrupted:  # uvicorn raises the signal again, which its loop now and then swallows
            raise KeyboardInterrupt

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for server in self.servers:
            for listener in server.sockets:
                host, port, *_ = listener.getsockname()
                self._listening(f"http://{f'[{host}]' if ':' in host else host}:{port}")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._gateway.state.gateway.draining = True
        self._interrupted |= sig == signal.SIGINT
        super().handle_exit(sig, frame)
