"""`safety-kit debug`: the model debugger, in the browser."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from safety_kit.commands import models
from safety_kit.errors import MissingExtra


def debug(
    model: models.Model = "embedded",
    policy: models.PolicyName = "default",
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Of the page, on this machine.")] = 8501,
    host: Annotated[
        str, typer.Option("--host", help="Where it listens: anyone who reaches it may run the model and read files.")
    ] = "127.0.0.1",
    headless: Annotated[bool, typer.Option("--headless", help="Open no browser.")] = False,
    revision: models.Revision = None,
    device: models.Device = "auto",
    dtype: models.Dtype = "auto",
) -> int:
    """Open the debugger: what the model and the guard saw, token by token.

    It listens on this machine alone and sends nothing to another; end it with Ctrl-C.
    """
    if find_spec("streamlit") is None:
        raise MissingExtra("streamlit", "app")
    import debugger_app

    page = Path(debugger_app.__file__).with_name("app.py")
    own = ["--model", model, "--device", device, "--dtype", dtype, "--policy", policy]
    if revision is not None:
        own += ["--revision", revision]
    settings = {
        "server.address": host,
        "server.port": port,
        "server.headless": str(headless).lower(),
        "server.fileWatcherType": "none",
        "browser.gatherUsageStats": "false",
        "client.toolbarMode": "viewer",
        "client.showErrorDetails": "none",
    }
    flags = [f"--{name}={value}" for name, value in settings.items()]
    try:
        return subprocess.call([sys.executable, "-m", "streamlit", "run", str(page), *flags, "--", *own])
    except KeyboardInterrupt:
        return 0
