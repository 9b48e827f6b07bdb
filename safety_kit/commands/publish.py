"""`safety-kit publish`: a classifier folder to the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from safety_kit import console
from safety_kit.commands import models


def publish(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A classifier folder that `train` wrote.")],
    repo: Annotated[str, typer.Argument(metavar="REPO", help="A Hub repository such as name/insults.")],
    public: Annotated[bool, typer.Option("--public", help="Let everyone read it; private otherwise.")] = False,
    licence: Annotated[
        str, typer.Option("--license", help="The Hub's identifier of a licence; the Gemma terms may apply.")
    ] = "gemma",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be sent, and send nothing.")] = False,
    as_json: models.Json = False,
) -> int:
    """Publish a classifier on the Hugging Face Hub.

    The folder's files and a README with the Hub's header. The token is that of `hf auth login` or HF_TOKEN.
    """
    from classifiers import hub

    artifact = hub.read(folder)
    files = hub.publication(artifact, repo, licence)
    sizes = {name: len(data) for name, data in files.items()}
    if not dry_run:
        console.note(f"sending {len(files)} files to {repo} …")
    url = None if dry_run else hub.push(folder, repo, private=not public, license=licence)
    if as_json:
        console.emit({"repo": repo, "public": public, "digest": artifact.digest, "files": sizes, "url": url})
    elif dry_run:
        print(console.safe(files["README.md"].decode()))
        listed = ", ".join(f"{name} ({size:,} bytes)" for name, size in sizes.items())
        console.note(f"Nothing was sent. {'Public' if public else 'Private'}, to {repo}: {listed}")
    else:
        print(console.safe(f"Published: {url}"))
    return 0
