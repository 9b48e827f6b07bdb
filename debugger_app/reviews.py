"""The gateway's review store, opened from here: what was blocked, by its request id, or all of it as rows."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from debugger_app.row_files import bytes_of
from safety_kit.errors import DataError, UserError
from safety_kit.gateway.review_files import Shelf
from safety_kit.gateway.review_rows import rows


def records(source: str, request_id: str | None = None) -> list[dict[str, Any]]:
    """Rows of a review store, as `safety-kit review export` writes them.

    Args:
        source: The store's folder, or a JSONL file that was exported from it.
        request_id: Only those of one request.

    Raises:
        DataError: It cannot be read, or holds nothing of the request.
        UserError: The folder is no review store.
    """
    path = Path(source)
    if os.path.isdir(path):  # unlike Path's, it answers for a name that no file can have, too
        shelf = Shelf.open(path)
        entries = shelf.entries() if request_id is None else shelf.find(request_id)
        made = [row for entry in entries for row in rows(entry)]
    else:
        made = [row for row in _exported(path) if request_id in (None, row.get("request_id"))]
    if not made:
        wanted = "nothing" if request_id is None else "nothing of that request"
        raise DataError(f"{source} keeps {wanted}; what is too old is deleted, and what is allowed is never kept.")
    return made


def _exported(path: Path) -> list[dict[str, Any]]:
    neither = f"{path} is neither a review store nor rows exported from one"
    remedy = "name the folder that the gateway's review.folder names"
    if not os.path.isfile(path):
        raise UserError(f"{neither}; {remedy}.")
    try:
        lines = [json.loads(line) for line in bytes_of(str(path)).decode().splitlines() if line.strip()]
    except (ValueError, RecursionError) as error:
        raise UserError(f"{neither} ({type(error).__name__}); {remedy}.") from error
    if not all(isinstance(line, dict) and isinstance(line.get("text"), str) for line in lines):
        raise DataError(f"{path} has lines without a text; export it again with: safety-kit review export")
    return lines
