"""`safety-kit keys`: the API keys of a gateway."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from safety_kit import console
from safety_kit.commands.models import Json

app = typer.Typer(help="Make, list and revoke the API keys of a gateway.", no_args_is_help=True)

File = Annotated[Path, typer.Option("--file", metavar="FILE", help="Where the keys' hashes are; mode 0600.")]


@app.command()
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What logs and metrics call the caller.")],
    file: File,
    policy: Annotated[
        str | None, typer.Option("--policy", help="Its own policy: a shipped one's name, or a file beside FILE.")
    ] = None,
    rate: Annotated[str | None, typer.Option("--rate", help="Its own rate, such as 60/minute.")] = None,
) -> int:
    """Make a key and print it, this once: FILE keeps its hash only."""
    from safety_kit.gateway import keys

    print(keys.add(file, name, policy, rate))
    console.note(f"The key of {name}; it is shown this once. A gateway that runs reads {file} again by itself.")
    return 0


@app.command("list")
def list_keys(file: File, as_json: Json = False) -> int:
    """Show whose keys there are."""
    from safety_kit.gateway.keys import KeyRing

    found = KeyRing.load(file).keys
    if as_json:
        console.emit({"keys": [asdict(key) for key in found]})
    elif not found:
        print("no keys")
    else:
        made = console.table("name", "policy", "rate")
        for key in found:
            console.add_row(made, key.name, key.policy or "", key.rate or "")
        console.show(made)
    return 0


@app.command()
def revoke(name: Annotated[str, typer.Argument(metavar="NAME", help="Whose key.")], file: File) -> int:
    """Take a key out of FILE; a gateway that runs refuses it within seconds."""
    from safety_kit.gateway import keys

    keys.revoke(file, name)
    print(console.safe(f"The key of {name} is revoked."))
    return 0
