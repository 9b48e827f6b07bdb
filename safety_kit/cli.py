"""The command line: the composition root. It maps every fault to an exit code, in one place.

0 done · 1 the answer is no (blocked) · 2 bad arguments, data or policy · 3 any other fault · 130 Ctrl-C
"""

from __future__ import annotations

import errno
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from safety_kit import __version__, console
from safety_kit.commands import (
    audit,
    calibrate,
    check,
    classify,
    data,
    debug,
    demo,
    explain,
    generate,
    inspect,
    judge,
    keys,
    measure,
    policy,
    publish,
    review,
    scan,
    serve,
    study,
    teach,
)
from safety_kit.errors import SafetyKitError

INTERRUPTED = 130
FAULT = 3
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""What a full disk, a full quota and a file past its limit say."""


class Commands(TyperGroup):
    """The root: a command returns its exit code, and any fault becomes one sentence and a code."""

    def main(self, *args: Any, **extra: Any) -> NoReturn:
        console.prepare()
        warnings.showwarning = console.show_warning
        try:
            code = super().main(*args, **{**extra, "standalone_mode": False})
        except BaseException as error:
            code = _code_of(error)
        if code == INTERRUPTED:
            console.note("Interrupted.")
        sys.exit(code or 0)


def _code_of(error: BaseException) -> int:
    """Tell what happened, in a sentence without the user's text, and give the exit code."""
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return INTERRUPTED
    if isinstance(error, SystemExit | BrokenPipeError):  # the reader of our output has gone: nobody to tell
        return FAULT
    if console.debug:
        import traceback

        traceback.print_exception(error, file=sys.stderr)
    if isinstance(error, SafetyKitError):
        console.fail(str(error))
        return error.exit_code
    if hasattr(error, "format_message"):  # typer's own: a wrong option, a missing argument
        context = getattr(error, "ctx", None)
        hint = f" See: {context.command_path} --help" if context else ""
        console.fail(f"{error.format_message()}{hint}")
        return int(getattr(error, "exit_code", 2))
    if isinstance(error, OSError) and error.strerror and error.filename:
        remedy = "; make room and run it again" if error.errno in FULL else ""
        console.fail(f"{error.strerror}: {error.filename}{remedy}")
        return FAULT
    hint = "" if console.debug else " Run it as `safety-kit --debug …` to see where (the trace may quote your text)."
    console.fail(f"Something went wrong inside the kit: {type(error).__name__}{_place(error)}.{hint}")
    return FAULT


def _place(error: BaseException) -> str:
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    return f" in {Path(trace.tb_frame.f_code.co_filename).name}, line {trace.tb_lineno}" if trace else ""


app = typer.Typer(
    name="safety-kit",
    cls=Commands,
    help="Teach, guard and generate with Gemma inside a policy.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"safety-kit {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and end.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where a fault came from.")] = False,
) -> None:
    """Teach, guard and generate with Gemma inside a policy."""
    console.debug = debug


app.command()(demo.demo)
app.command()(teach.train)
app.command()(teach.prepare)
app.command()(classify.classify)
app.command()(explain.explain)
app.command()(measure.evaluate)
app.command()(measure.compare)
app.command("next")(study.next_texts)
app.command()(study.curve)
app.command()(judge.judge)
app.command()(calibrate.calibrate)
app.command()(publish.publish)
app.command()(check.check)
app.command()(scan.scan)
app.command()(generate.generate)
app.command()(serve.serve)
app.command()(inspect.inspect)
app.command()(debug.debug)
app.add_typer(policy.app, name="policy")
app.add_typer(data.app, name="data")
app.add_typer(keys.app, name="keys")
app.add_typer(audit.app, name="audit")
app.add_typer(review.app, name="review")


def main() -> NoReturn:
    """The `safety-kit` script."""
    app()
    raise AssertionError("the root command exits")
