"""Structured logs on stderr: what happened to a request, never what it said.

The gateway's own lines have named fields. Lines of other packages are told by their logger and place alone, because
their messages may quote a prompt (a client's debug line, a traceback): only uvicorn's are known to be safe.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, TextIO

if TYPE_CHECKING:
    from safety_kit.gateway.record import Record

LOGGER: Final = "safety_kit.gateway"
_SAFE: Final = frozenset({"uvicorn", "uvicorn.error"})
_NAME = re.compile(r"[\w.:/@+-]{1,64}", re.ASCII)


def configure(
    level: Literal["debug", "info", "warning", "error"] = "info", *, json: bool = True, to: TextIO | None = None
) -> None:
    """Send all logs of this process through one handler, uvicorn's included.

    Other packages are heard from `warning` on, whatever the level: below it they tell what they send.
    """
    import structlog

    own = [structlog.contextvars.merge_contextvars, structlog.stdlib.add_log_level]
    renderer: Any = (
        structlog.processors.JSONRenderer(ensure_ascii=True)
        if json
        else structlog.processors.KeyValueRenderer(key_order=["time", "level", "event"], repr_native_str=True)
    )
    handler = logging.StreamHandler(to or sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_log_level, _foreign],
            processors=[
                structlog.processors.TimeStamper("iso", utc=True, key="time"),
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                renderer,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.captureWarnings(True)
    for name in (*_SAFE, "uvicorn.access", "uvicorn.asgi"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(max(logging.INFO, logging.getLevelNamesMapping()[level.upper()]))
    logging.getLogger("uvicorn.access").disabled = True
    logging.getLogger(LOGGER).setLevel(level.upper())
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *own,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def _foreign(_: Any, method: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
    """A line of another package: where it comes from; its words only where they are known to be none of a user's."""
    record: logging.LogRecord = event["_record"]
    told = {key: value for key, value in event.items() if key in ("level", "_record", "_from_structlog")}
    told |= {"logger": record.name, "at": f"{Path(record.pathname).name}:{record.lineno}"}
    told["event"] = event["event"].strip() if record.name in _SAFE else "a line of another package"
    if record.exc_info and record.exc_info[1] is not None:
        told |= {"event": "a fault of another package", **described(record.exc_info[1])}
    return told


def request(record: Record) -> None:
    """The one line that a request gets."""
    import structlog

    fields: dict[str, Any] = {
        "request_id": record.request_id,
        "route": record.route,
        "key": record.key,
        "model": record.model if _NAME.fullmatch(record.model) else "other",
        "status": record.status,
        "outcome": record.outcome,
        "code": record.code,
        "seconds": round(record.seconds, 6),
        "first_byte": None if record.first_byte is None else round(record.first_byte, 6),
        "held": record.held,
        "policy": record.policy[:12],
    }
    structlog.get_logger(LOGGER).info("request", **{name: value for name, value in fields.items() if value is not None})


def told(event: str, *, level: Literal["debug", "info", "warning", "error"] = "info", **fields: str | float) -> None:
    """A line about the gateway itself: a reload, a start, a drain. No field may hold a user's text."""
    import structlog

    getattr(structlog.get_logger(LOGGER), level)(event, **fields)


def fault(where: str, error: BaseException, **fields: str | float) -> None:
    """What failed, and where in the code; not its message, which may quote what it failed on."""
    import structlog

    structlog.get_logger(LOGGER).error("fault", during=where, **described(error), **fields)


def described(error: BaseException) -> dict[str, Any]:
    """Type and place of a fault, and those of what it came from."""
    described: dict[str, Any] = {"error": type(error).__name__, "place": _place(error.__traceback__)}
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None:
        described |= {"cause": type(cause).__name__, "cause_place": _place(cause.__traceback__)}
    return described


def _place(trace: TracebackType | None) -> str:
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return "unknown"
    code = trace.tb_frame.f_code
    return f"{Path(code.co_filename).name}:{trace.tb_lineno} {code.co_name}"
