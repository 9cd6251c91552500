"""The program: its commands, its own options, and its error handling."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Annotated

import typer

from keylatch import __version__
from keylatch.errors import KeylatchError
from keylatch.secret import mask_keys

from . import output

# In the order of `keylatch --help`: the folder of a tool, and the commands in its command.py. For a
# fast start, command.py must not import psycopg, postgrest, httpx or rich at its top.
_COMMANDS = {
    "keys": (
        *("issue", "list_", "show", "rotate", "revoke", "suspend", "unsuspend"),
        *("end_sessions", "retire", "legacy"),
    ),
    "explain": ("resolve", "upgrade", "explain"),
    "importing": ("import_",),
    "adopt": ("adopt",),
    "install": ("install", "sql", "apply"),
    "uninstall": ("uninstall",),
    "doctor": ("doctor",),
    "scripts": ("script",),
    "audit": ("audit",),
}

_HELP = """
Manage API keys inside your PostgreSQL database or Supabase project.

If $SUPABASE_URL is set, commands call the API of this project with the key in $SUPABASE_KEY. If
$KEYLATCH_TOKEN is set too, commands act as the user of this token. Without $SUPABASE_URL, or with
neither key nor token, commands use the database at $DATABASE_URL. apply, adopt, audit, doctor,
revocations, uninstall and installation renew always use this database. Options win over the
environment, and the environment wins over a .env file in the current directory. The key may also be
in $SUPABASE_SECRET_KEY, $SUPABASE_SERVICE_ROLE_KEY or $SUPABASE_SERVICE_KEY; with a token, also in
$SUPABASE_PUBLISHABLE_KEY or $SUPABASE_ANON_KEY.
"""
# "\b" keeps the line breaks.
_EPILOG = "\b\nExit codes:\n" + "\n".join(
    f"  {code:<4} {meaning}" for code, meaning in output.EXIT_CODES.items()
)

app = typer.Typer(
    name="keylatch",
    help=_HELP,
    epilog=_EPILOG,
    no_args_is_help=True,
    # Plain help: typer's panels leave only 33 of 80 columns for the text, and load rich.
    rich_markup_mode=None,
    # A traceback with the values of variables could show a key.
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"keylatch {__version__}")
        raise typer.Exit


@app.callback()
def _program(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", metavar="", help="Show the version.", callback=_show_version, is_eager=True
        ),
    ] = False,
) -> None:
    pass


# Commands that have subcommands.
_GROUPS = ("revocations", "installation")

for _module, _functions in _COMMANDS.items():
    for _function in _functions:
        _command = getattr(import_module(f"{__package__}.{_module}.command"), _function)
        app.command(_function.rstrip("_").replace("_", "-"))(_command)
for _module in _GROUPS:
    app.add_typer(getattr(import_module(f"{__package__}.{_module}.command"), _module))


def run() -> int:
    """Run the command on the command line.

    Returns:
        The exit code. Source: `output.EXIT_CODES`.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        # A closed stream is None; some schedulers start programs with closed streams.
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))
    try:
        code: int | None = app(standalone_mode=False, prog_name="keylatch")
        if code == output.INTERRUPTED and sys.stderr.isatty():
            # Move the shell's prompt below the open question.
            sys.stderr.write("\n")
        # Flush now and not at exit, so that a full disk is reported like any other error.
        sys.stdout.flush()
    except OSError as problem:
        output.discard_stdout()
        # A reader that closes the pipe early is not an error worth a message.
        return output.REFUSED if isinstance(problem, BrokenPipeError) else _failed(problem)
    except Exception as problem:
        return _failed(problem)
    return code or output.OK


def _failed(problem: Exception) -> int:
    """Print an error, and return the exit code. A bug of the program is raised again."""
    if isinstance(problem, typer.Abort):
        error = KeylatchError("aborted", detail="nothing was changed")
    elif isinstance(problem, typer.TyperException):
        if type(problem).__name__ == "NoArgsIsHelpError":
            sys.stderr.write(f"{problem.format_message()}\n")
            return output.USAGE
        context = getattr(problem, "ctx", None)
        error = KeylatchError(
            "usage",
            # The message repeats what was typed, which may be a key.
            detail=mask_keys(problem.format_message()),
            hint=f"{context.command_path if context else 'keylatch'} --help",
        )
    elif isinstance(problem, KeylatchError):
        error = problem
    elif isinstance(problem, OSError):
        file = f": {problem.filename}" if problem.filename else ""
        error = KeylatchError("io_error", detail=f"{problem.strerror}{file}")
    else:
        raise problem
    try:
        output.fail(error)
    except typer.Exit as end:
        return end.exit_code
