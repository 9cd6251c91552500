"""The output of commands: tables for people, JSON for programs, errors and exit codes."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, NoReturn
from uuid import UUID

import typer

from keylatch import errors

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

Json = Annotated[bool, typer.Option("--json", metavar="", help="Print JSON, for programs.")]
"""The option `--json` of a command."""

OK, REFUSED, USAGE, DENIED, UNAVAILABLE, SETUP, INTERRUPTED = 0, 1, 2, 3, 4, 5, 130
EXIT_CODES = {
    OK: "done, or the answer is yes",
    REFUSED: "refused, or the answer is no: no such key, not usable, not valid",
    USAGE: "the command line or a value in it is wrong",
    DENIED: "this user is not allowed to do that",
    UNAVAILABLE: "no answer; list the keys before you repeat issue or rotate",
    SETUP: "the setup is not complete: a schema, a setting or a library is missing",
    INTERRUPTED: "interrupted",
}
"""The meaning of each exit code."""

# The first class that fits decides. Any other error is a refusal.
_CODE_BY_CLASS: tuple[tuple[type[errors.KeylatchError], int], ...] = (
    (errors.InvalidArgument, USAGE),
    (errors.PermissionDenied, DENIED),
    (errors.Unavailable, UNAVAILABLE),
    (errors.SchemaNotExposed, SETUP),
    (errors.NotInstalled, SETUP),
    (errors.UnexpectedAnswer, SETUP),
)
_CODE_BY_SLUG = {"usage": USAGE, "missing_extra": SETUP}
# For errors without a hint: PostgreSQL names only what it refused.
_DENIED_HINT = (
    "Check that the token has not expired, and that its user administers the workspace. Only the "
    "service key and the role keylatch_resolver may resolve keys."
)
# In a hint of the database, a function that is also a command; not in SQL text.
_CALLED = re.compile(
    r"(?:\b([Cc])all )?(?<![.\w])(issue|rotate|revoke|suspend|unsuspend|explain|list)_keys?\b"
    r"(?!\(| in your trigger)"
)
_RUN = {"C": "Run ", "c": "run "}
_STATUS_STYLES = {
    "active": "green",
    "superseded": "yellow",
    "suspended": "yellow",
    "expired": "red",
    "revoked": "red",
    "waiting": "yellow",
    "upgraded": "green",
}


@cache
def console() -> Console:
    """The console for results: stdout."""
    return _console(stderr=False)


@cache
def err() -> Console:
    """The console for errors, notes and questions: stderr."""
    return _console(stderr=True)


def fail(error: errors.KeylatchError) -> NoReturn:
    """Print an error on stderr as `slug: detail` with the hint below, and end the command.

    Args:
        error: The error.

    Raises:
        typer.Exit: Always, with the exit code for the error.
    """
    # Programs get one line for each; on a terminal, lines break between words.
    as_it_is = not err().is_terminal
    detail = f": {printable(error.detail)}" if error.detail else ""
    err().print(text((error.slug, "bold red"), detail), soft_wrap=as_it_is)
    hint = error.hint
    if hint is None and isinstance(error, errors.PermissionDenied):
        hint = _DENIED_HINT
    if hint:
        err().print(text(("hint: ", "bold"), printable(_in_commands(hint))), soft_wrap=as_it_is)
    raise typer.Exit(exit_code(error))


def _in_commands(hint: str) -> str:
    """Say `Run keylatch issue` where a hint of the database says `Call issue_key`."""
    hint = _CALLED.sub(lambda found: f"{_RUN.get(found[1], '')}keylatch {found[2]}", hint)
    return hint.replace("Pass null", "Leave the option out")


def exit_code(error: errors.KeylatchError) -> int:
    """Return the exit code for an error.

    Args:
        error: The error.

    Returns:
        A key of `EXIT_CODES`.
    """
    if error.slug in _CODE_BY_SLUG:
        return _CODE_BY_SLUG[error.slug]
    return next((code for kind, code in _CODE_BY_CLASS if isinstance(error, kind)), REFUSED)


def print_json(obj: object) -> None:
    """Print a value as JSON on stdout: times in ISO 8601, UUIDs as text, names as in SQL.

    Args:
        obj: JSON values, UUIDs, times, and dataclasses of `keylatch.models`. A `Secret` is
            refused: reveal it if it is meant to be shown.

    Raises:
        TypeError: The value contains another type.
    """
    # ASCII, so that the output is valid JSON in every encoding of stdout.
    sys.stdout.write(json.dumps(obj, indent=2, default=_as_json, allow_nan=False) + "\n")


def as_dict(row: object) -> dict[str, Any]:
    """Return the fields of a dataclass by name. Dataclasses inside it stay as they are.

    Args:
        row: A dataclass of `keylatch.models`.

    Returns:
        The fields in order. A value that Python cannot read is `None`, with a note on stderr.
    """
    if not is_dataclass(row):
        raise TypeError(f"{type(row).__name__} is not a dataclass")
    return {one.name: _value_of(row, one.name) for one in fields(row)}


def _value_of(row: object, name: str) -> object:
    try:
        return getattr(row, name)
    except errors.UnreadableRow as error:
        note(str(error))
        return None


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str | Text]],
    *,
    whole: Collection[str] = (),
) -> None:
    """Print a table on stdout, as wide as the terminal, or 80 columns without a terminal.

    Args:
        columns: The headings.
        rows: The cells of each row, one for each column. A cell may have several lines. Markup in
            a cell is printed literally. A `Text` has its own style.
        whole: The headings of the columns whose lines are never broken.
    """
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, header_style="bold")
    for column in columns:
        made.add_column(column, overflow="fold", no_wrap=column in whole)
    for row in rows:
        made.add_row(*(printable(cell) if isinstance(cell, str) else cell for cell in row))
    console().print(made)


def details(rows: Mapping[str, str | Text]) -> None:
    """Print the properties of a key or a database on stdout, one property per line.

    Args:
        rows: The properties by name. Empty properties are left out.
    """
    from rich.table import Table

    made = Table.grid(padding=(0, 2))
    made.add_column(style="dim", no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in rows.items():
        if value:
            made.add_row(name, printable(value) if isinstance(value, str) else value)
    console().print(made)


def compact(value: Mapping[str, Any]) -> str:
    """Write a JSON object on one line, for people.

    Args:
        value: The object.

    Returns:
        The JSON, or an empty string for an empty object.
    """
    return json.dumps(value, ensure_ascii=False) if value else ""


def discard_stdout() -> None:
    """Discard what could not be written to stdout, or Python reports an error at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def note(message: str) -> None:
    """Print a message for people on stderr, apart from the result.

    Args:
        message: A sentence.
    """
    err().print(text(printable(message)), soft_wrap=not err().is_terminal)


def confirm(question: str) -> None:
    """Ask on stderr, and continue only after a yes. Typer's own prompt also writes to stdout.

    Args:
        question: What is about to happen.

    Raises:
        typer.Abort: The answer is not yes.
    """
    sys.stderr.write(f"{printable(question)} [y/N]: ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise typer.Abort


def text(*parts: str | tuple[str, str]) -> Text:
    """Build a line in which markup is printed literally.

    Args:
        *parts: Strings, or strings with a style.

    Returns:
        The line.
    """
    from rich.text import Text

    return Text.assemble(*parts)


def status(word: str) -> Text:
    """Return the status of a key in its colour.

    Args:
        word: The status. Source: `keylatch.keys`.

    Returns:
        The word.
    """
    return text((word, _STATUS_STYLES.get(word, "")))


def when(time: datetime | None, *, none: str = "never") -> str:
    """Format a time for people, to the minute.

    Args:
        time: A time with a zone, or `None`.
        none: The text for `None`.

    Returns:
        UTC: `2026-01-31 09:30 UTC`.
    """
    return none if time is None else f"{time.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def printable(value: str) -> str:
    """Escape a text from the database or a user, so that it cannot control the terminal.

    Args:
        value: Any text.

    Returns:
        The text, in which control characters and changes of the writing direction are escaped.
    """
    return "".join(
        one if one.isprintable() or one == "\n" else one.encode("unicode_escape").decode()
        for one in value
    )


def missing_extra(library: str) -> errors.KeylatchError:
    """Build the error for a missing library, with the command that installs it.

    Args:
        library: The library that could not be imported.

    Returns:
        The error for the caller to raise.
    """
    return errors.KeylatchError(
        "missing_extra",
        detail=f"{library} is not installed, and this command needs it",
        hint='Run: pip install "keylatch[cli]"',
    )


def _console(*, stderr: bool) -> Console:
    from rich.console import Console

    return Console(stderr=stderr, markup=False, highlight=False, emoji=False)


def _as_json(value: object) -> object:
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if is_dataclass(value):
        return as_dict(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")
