"""`safety-kit serve`: the guard in front of a model, with OpenAI's API."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from safety_kit import console
from safety_kit.errors import MissingExtra

_WHERE, _WHO, _WHAT = "Where it listens", "Who generates", "What is done"


def serve(
    config: Annotated[
        Path | None, typer.Option("--config", help="A YAML file of settings; the options below override it.")
    ] = None,
    policy: Annotated[
        str | None, typer.Option("--policy", help="A YAML file, or a shipped policy's name. (default: default)")
    ] = None,
    upstream: Annotated[
        str | None,
        typer.Option(
            "--upstream",
            help="An OpenAI-compatible server, such as http://127.0.0.1:8000/v1. Without it the model generates.",
            rich_help_panel=_WHO,
        ),
    ] = None,
    upstream_key_env: Annotated[
        str | None,
        typer.Option(
            "--upstream-key-env", help="The environment variable with the upstream's API key.", rich_help_panel=_WHO
        ),
    ] = None,
    pass_caller_key: Annotated[
        bool | None,
        typer.Option(
            "--pass-caller-key/--own-key",
            help="Call the upstream with the caller's own key.",
            rich_help_panel=_WHO,
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            help="The Gemma that the guard reads, and that generates without an upstream: embedded, a hub id or a "
            "folder. (default: embedded)",
            rich_help_panel=_WHO,
        ),
    ] = None,
    host: Annotated[
        str | None, typer.Option("--host", help="Address (default: 127.0.0.1).", rich_help_panel=_WHERE)
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            "--port", envvar="AIP_HTTP_PORT", help="0 takes a free one. (default: 8080)", rich_help_panel=_WHERE
        ),
    ] = None,
    keys: Annotated[
        Path | None, typer.Option("--keys", help="A file of API keys, hashed.", rich_help_panel=_WHERE)
    ] = None,
    allow_anonymous: Annotated[
        bool | None,
        typer.Option(
            "--allow-anonymous/--keys-only",
            help="Listen beyond this machine without keys.",
            rich_help_panel=_WHERE,
            show_default=False,
        ),
    ] = None,
    blocked: Annotated[
        str | None,
        typer.Option(
            "--blocked",
            help="A block is a `completion` with the policy's message, or an `error` (400). (default: completion)",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    parallel: Annotated[
        bool | None,
        typer.Option(
            "--parallel/--check-first",
            help="Send a request on while it is checked: faster, but the upstream reads it before it is redacted. "
            "Nothing is released before both are done.",
            rich_help_panel=_WHAT,
            show_default=False,
        ),
    ] = None,
    shadow: Annotated[
        str | None,
        typer.Option("--shadow", help="A second policy, judged and counted, not enforced.", rich_help_panel=_WHAT),
    ] = None,
    audit: Annotated[
        Path | None,
        typer.Option("--audit", help="An audit log: without its line nothing is answered.", rich_help_panel=_WHAT),
    ] = None,
) -> int:
    """Put the guard in front of a model.

    Clients of OpenAI's API change one URL. Requests are checked and sent on redacted, replies are checked as they
    stream, and a block is an ordinary completion with the policy's message.

    Try it, with no other server and no key:

        safety-kit serve

    In front of yours:

        safety-kit serve --policy policy.yaml --upstream http://127.0.0.1:8000/v1 --audit audit.jsonl

    Ctrl-C or SIGTERM stops it: running requests are given their time (limits.drain) to end.
    """
    try:
        import aiohttp  # noqa: F401
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise MissingExtra(error.name or "fastapi", "serve") from error
    from safety_kit.gateway.settings import Settings

    settings = Settings.load(
        config,
        {
            "policy": policy,
            "upstream.url": upstream,
            "upstream.api_key_env": upstream_key_env,
            "upstream.pass_caller_key": pass_caller_key,
            "model": model,
            "host": host,
            "port": port,
            "keys": keys,
            "allow_anonymous": allow_anonymous,
            "blocked": blocked,
            "parallel": parallel,
            "shadow": shadow,
            "audit.file": audit,
        },
    )
    _run(settings)
    return 0


def _run(settings: Any) -> None:
    from safety_kit.gateway import logs, spans
    from safety_kit.gateway.app import create_app
    from safety_kit.gateway.build import build
    from safety_kit.gateway.server import Server

    logs.configure(settings.logs.level, json=settings.logs.format == "json")
    end_spans = spans.configure(settings.telemetry)
    services = build(settings)

    def listening(address: str) -> None:
        console.note(f"listening on {address} · policy {settings.policy} · {services.backend.name} generates")

    try:
        Server(create_app(settings, services), settings, listening).run()
    finally:
        end_spans()
