"""`safety-kit audit`: whether an audit log holds together, and where it ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from safety_kit import console
from safety_kit.commands.inputs import one_text
from safety_kit.commands.models import Json
from safety_kit.errors import UserError

if TYPE_CHECKING:
    from safety_kit.gateway.audit_verify import Report

app = typer.Typer(help="Verify the gateway's audit log.", no_args_is_help=True)

Log = Annotated[Path, typer.Argument(metavar="FILE", help="The .jsonl file that audit.file names.")]


@app.callback()
def options() -> None:
    """Verify the gateway's audit log."""


@app.command()
def verify(
    path: Annotated[Path, typer.Argument(metavar="FILE|FOLDER", help="A log, or a folder of them.")],
    expect: Annotated[
        str | None, typer.Option("--expect", metavar="HASH", help="A line that must be there: an earlier `audit head`.")
    ] = None,
    count: Annotated[int | None, typer.Option("--count", min=1, help="Lines that there must be at least.")] = None,
    after: Annotated[
        str | None, typer.Option("--after", metavar="HASH", help="The last line of earlier files that were archived.")
    ] = None,
    as_json: Json = False,
) -> int:
    """Find a changed, removed, inserted or reordered line.

    All files of a log are read as one chain. A line torn at the end is told and is no fault. That whole lines were cut
    off at the end can only be seen with --expect or --count.

    Exit 0 where everything holds, 1 with the first line that does not, 2 where there is no log.
    """
    from safety_kit.gateway.audit_files import logs
    from safety_kit.gateway.audit_line import GENESIS
    from safety_kit.gateway.audit_verify import verify as follow

    found = logs(path) if path.is_dir() else [path]
    if not found:
        raise UserError(f"{path} holds no .jsonl file; name the one that audit.file names.")
    if len(found) > 1 and (expect or count or after):
        raise UserError(f"{path} holds {len(found)} logs; --expect, --count and --after need the name of one.")
    reports = [follow(log, expect=expect, count=count, after=after or GENESIS) for log in found]
    if as_json:
        console.emit({"ok": not any(r.fault for r in reports), "logs": [report.to_json() for report in reports]})
    else:
        for report in reports:
            _show(report)
    return int(any(report.fault for report in reports))


@app.command()
def head(log: Log, as_json: Json = False) -> int:
    """Print the last line's number and hash.

    Kept where the log's writer cannot reach it, it proves later, with `verify --expect`, that nothing was cut off.
    """
    from safety_kit.gateway.audit_verify import head as end_of

    end = end_of(log)
    if as_json:
        console.emit({"file": str(end.file), "chain": end.chain, "number": end.number, "head": end.head})
    else:
        print(f"{end.head}  line {end.number}")
    return 0


@app.command()
def digest(
    key: Annotated[Path, typer.Option("--key", help="The log's key file.")],
    text: Annotated[str | None, typer.Argument(help="The text, in quotes; - reads standard input.")] = None,
    body: Annotated[bool, typer.Option("--body", help="It is a request's or a reply's whole JSON body.")] = False,
) -> int:
    """Print a text's digest as the log has it: whether this text was the one that a line is about."""
    from safety_kit.gateway.audit_key import read_key
    from safety_kit.gateway.audit_record import digest as made

    value: Any = one_text(text, "TEXT")
    if body:
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise UserError("The body is no JSON; without --body the digest of a text is printed.") from None
    print(made(read_key(key), value))
    return 0


def _show(report: Report) -> None:
    if report.fault:
        good = f"; the {report.number} lines before it hold" if report.number else ""
        print(console.safe(f"{report.fault}{good}"))
    else:
        counted = f"{report.number} lines in {report.files} files, {report.requests} of requests"
        print(console.safe(f"{report.file}: {counted}; they hold, up to {report.head}"))
    if report.torn:
        console.note(
            f"{report.file}: {report.torn} bytes of a torn line stand at the end; the next start sets them aside."
        )
    if report.set_aside:
        console.note(f"{report.file}: {report.set_aside} bytes of torn lines were set aside by later starts.")
    if report.lost:
        console.note(f"{report.file}: {report.lost} lines could not be written when they should have been.")
