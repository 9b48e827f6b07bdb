"""`safety-kit review`: what the gateway kept for the people who improve the guard."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from safety_kit import console
from safety_kit.commands.models import Json
from safety_kit.errors import UserError

if TYPE_CHECKING:
    from safety_kit.gateway.review_entry import Entry
    from safety_kit.gateway.review_files import Shelf

app = typer.Typer(help="Look at what the gateway flagged or blocked, and teach from it.", no_args_is_help=True)

Folder = Annotated[
    Path,
    typer.Option("--folder", envvar="SAFETY_KIT_REVIEW", help="The store: what review.folder names."),
]
Since = Annotated[
    datetime | None,
    typer.Option("--since", formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"], help="No older ones; a time is UTC."),
]
Category = Annotated[str | None, typer.Option("--category", help="Only those in which this was found.")]
OutcomeName = Annotated[str | None, typer.Option("--outcome", help="Only these: flag, redact or block.")]
Ids = Annotated[list[str], typer.Argument(metavar="ID…", help="Ids of requests.")]


@app.callback()
def options() -> None:
    """Look at what the gateway flagged or blocked, and teach from it.

    What is older than the store keeps is deleted before anything else.
    """


@app.command("list")
def list_(
    folder: Folder,
    since: Since = None,
    category: Category = None,
    outcome: OutcomeName = None,
    as_json: Json = False,
) -> int:
    """List what is kept, the oldest first; no text is shown."""
    kept = list(_entries(_open(folder), since, category, outcome))
    if as_json:
        console.emit({"requests": [_summary(entry) for entry in kept]})
        return 0
    made = console.table("kept since (UTC)", "outcome", "found", "key", "request")
    for entry in kept:
        found = ", ".join(f"{name} {score:.2f}" for name, score in entry.categories.items())
        cells = [_when(entry), entry.outcome, found or entry.code or "", entry.key or "", entry.request_id]
        console.add_row(made, *map(console.one_line, cells), style=console.COLOURS.get(entry.outcome))
    if kept:
        console.show(made)
    print(console.safe(f"{folder}: {len(kept)} requests"))
    return 0


@app.command()
def show(
    request_id: Annotated[str, typer.Argument(metavar="ID", help="Id of a request.")],
    folder: Folder,
    as_json: Json = False,
) -> int:
    """Show a request: what was found, and its texts, redacted.

    Control characters are written as escapes, and every line of a text is marked, so that it cannot pass for ours.
    """
    found = _open(folder).find(request_id)
    if not found:
        raise UserError(f"{folder} keeps no request {request_id}; see `safety-kit review list`.")
    for entry in found:
        if as_json:
            console.emit(entry.model_dump(mode="json"))
        else:
            _show(entry)
    return 0


@app.command()
def delete(request_ids: Ids, folder: Folder, as_json: Json = False) -> int:
    """Delete all that is kept of requests.

    Exit 0 where something was kept of each of them, 1 where not.
    """
    shelf = _open(folder)
    gone = {request_id: shelf.delete(request_id) for request_id in request_ids}
    if as_json:
        console.emit({"deleted": gone})
    else:
        for request_id, count in gone.items():
            print(console.safe(f"{request_id}: {'deleted' if count else 'nothing was kept of it'}"))
    return int(not all(gone.values()))


@app.command()
def export(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The .jsonl file to write.")],
    folder: Folder,
    since: Since = None,
    category: Category = None,
    outcome: OutcomeName = None,
    force: Annotated[bool, typer.Option("--force", help="Let OUT replace a file.")] = False,
    as_json: Json = False,
) -> int:
    """Write rows to label: a row for each text in which something was found.

    `label` is null: write 1 where the text is what its category says, 0 where not; `safety-kit train` reads the file
    then. With --category all rows are about one category, as it wants them.
    """
    from safety_kit.gateway import private_files
    from safety_kit.gateway.review_rows import rows

    if out.suffix != ".jsonl" or not out.parent.is_dir():
        raise UserError(f"{out} cannot be written; name a file in a folder that is there, ending in .jsonl.")
    if out.exists() and not force:
        raise UserError(f"{out} is there already; name another file, or replace it with --force.")
    made = [row for entry in _entries(_open(folder), since, category, outcome) for row in rows(entry, category)]
    private_files.create(out, "".join(json.dumps(row) + "\n" for row in made).encode("ascii"))
    if as_json:
        console.emit({"out": str(out), "rows": len(made)})
    else:
        print(console.safe(f"{len(made)} rows → {out}: fill in their labels"))
    return 0


def _open(folder: Path) -> Shelf:
    from safety_kit.gateway.review_files import Shelf

    return Shelf.open(folder)


def _entries(shelf: Shelf, since: datetime | None, category: str | None, outcome: str | None) -> Iterator[Entry]:
    if outcome not in (None, "flag", "redact", "block"):
        raise UserError("--outcome is flag, redact or block.")
    for entry in shelf.entries(since.replace(tzinfo=UTC).timestamp() if since else None):
        if category in (None, *entry.categories) and outcome in (None, entry.outcome):
            yield entry


def _summary(entry: Entry) -> dict[str, Any]:
    told = entry.model_dump(mode="json", exclude={"request", "response", "places"})
    return {**told, "categories": entry.categories}


def _when(entry: Entry) -> str:
    return datetime.fromtimestamp(entry.at, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _show(entry: Entry) -> None:
    from safety_kit.gateway.review_rows import texts

    facts = [entry.outcome.upper(), entry.code, _when(entry), entry.route, f"model {entry.model}", entry.key]
    print(console.one_line(f"{entry.request_id}: {' · '.join(fact for fact in facts if fact)}"))
    found = console.table("at", "action", "category", "score", "check", right=["score"])
    for place in entry.places:
        for one in place.findings:
            console.add_row(found, place.path, place.action, one.category, f"{one.score:.2f}", one.check)
        for check in place.failed:
            console.add_row(found, place.path, place.action, "", "", f"{check} failed")
    console.show(found)
    for side, body in (("request", entry.request), ("response", entry.response)):
        for path, text in texts(body):
            print(console.one_line(f"{side} {path}"))
            for line in console.safe(text).split("\n"):
                print(f"  │ {line}")
