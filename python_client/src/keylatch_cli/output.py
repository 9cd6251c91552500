"""What a command prints: tables for people, JSON for programs, errors, and the exit codes."""

from __future__ import annotations

import json
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

Json = Annotated[bool, typer.Option("--json", metavar="", help="Print JSON instead, for programs.")]
"""The option `--json` of a command."""

OK, REFUSED, USAGE, DENIED, UNAVAILABLE, SETUP, INTERRUPTED = 0, 1, 2, 3, 4, 5, 130
EXIT_CODES = {
    OK: "done, and the answer is yes",
    REFUSED: "the answer is no: no such key, or not usable, or not valid",
    USAGE: "the command line or a value in it is wrong",
    DENIED: "not allowed to this user",
    UNAVAILABLE: "no answer; look before you repeat issue or rotate",
    SETUP: "the setup is not complete: a schema, a setting or a library is missing",
    INTERRUPTED: "interrupted",
}
"""What each exit code means."""

# By class, the first that fits; any other error is a refusal.
_CODE_BY_CLASS: tuple[tuple[type[errors.KeylatchError], int], ...] = (
    (errors.InvalidArgument, USAGE),
    (errors.PermissionDenied, DENIED),
    (errors.Unavailable, UNAVAILABLE),
    (errors.SchemaNotExposed, SETUP),
    (errors.NotInstalled, SETUP),
    (errors.UnexpectedAnswer, SETUP),
)
_CODE_BY_SLUG = {"usage": USAGE, "missing_extra": SETUP}
# PostgreSQL says only what it refused.
_DENIED_HINT = (
    "Check that the token has not expired, and that its user administers the workspace. Only the "
    "service key and keylatch_resolver may resolve."
)
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
    """The console for what was asked for: stdout."""
    return _console(stderr=False)


@cache
def err() -> Console:
    """The console for all else, errors and questions: stderr."""
    return _console(stderr=True)


def fail(error: errors.KeylatchError) -> NoReturn:
    """Say on stderr what went wrong, `slug: detail` and the hint below, and end the command.

    Args:
        error: What went wrong.

    Raises:
        typer.Exit: Always, with the exit code for the error.
    """
    # One line each for programs; a terminal gets whole words.
    as_it_is = not err().is_terminal
    detail = f": {printable(error.detail)}" if error.detail else ""
    err().print(text((error.slug, "bold red"), detail), soft_wrap=as_it_is)
    hint = error.hint
    if hint is None and isinstance(error, errors.PermissionDenied):
        hint = _DENIED_HINT
    if hint:
        err().print(text(("hint: ", "bold"), printable(hint)), soft_wrap=as_it_is)
    raise typer.Exit(exit_code(error))


def exit_code(error: errors.KeylatchError) -> int:
    """Give the exit code for an error.

    Args:
        error: What went wrong.

    Returns:
        A key of `EXIT_CODES`.
    """
    if error.slug in _CODE_BY_SLUG:
        return _CODE_BY_SLUG[error.slug]
    return next((code for kind, code in _CODE_BY_CLASS if isinstance(error, kind)), REFUSED)


def print_json(obj: object) -> None:
    """Print a value as JSON on stdout: times in ISO 8601, UUIDs as text, names as in SQL.

    Args:
        obj: JSON values, UUIDs, times, and dataclasses of `keylatch.models` with them. A `Secret`
            is none of these: reveal it where it is meant to be shown.

    Raises:
        TypeError: There is something else in it.
    """
    # ASCII, so that it is JSON whatever the encoding of stdout.
    sys.stdout.write(json.dumps(obj, indent=2, default=_as_json, allow_nan=False) + "\n")


def as_dict(row: object) -> dict[str, Any]:
    """Give the fields of a dataclass by name, not deep.

    Args:
        row: A dataclass of `keylatch.models`.

    Returns:
        Its fields, in their order; `None`, and a note, for a value that Python cannot read.
    """
    if not is_dataclass(row):
        raise TypeError(f"{type(row).__name__} is no dataclass")
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
    """Print a table on stdout that fits the terminal, 80 columns where there is none.

    Args:
        columns: The headings.
        rows: The cells of each row, as many as there are columns. A cell may have several lines;
            no markup is read in it. A `Text` brings its style along.
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
    """Print one thing on stdout, a line for each of its properties.

    Args:
        rows: Its properties by name; an empty one is left out.
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
    """Give a JSON object on one line, for people.

    Args:
        value: The object.

    Returns:
        Its JSON; an empty text for an empty one.
    """
    return json.dumps(value, ensure_ascii=False) if value else ""


def note(message: str) -> None:
    """Say something to people that is not the answer: on stderr.

    Args:
        message: A sentence.
    """
    err().print(text(printable(message)), soft_wrap=not err().is_terminal)


def confirm(question: str) -> None:
    """Ask on stderr, and go on only with a yes; typer's own writes to stdout, too.

    Args:
        question: What is about to happen.

    Raises:
        typer.Abort: The answer is anything but yes.
    """
    sys.stderr.write(f"{printable(question)} [y/N]: ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise typer.Abort


def text(*parts: str | tuple[str, str]) -> Text:
    """Put a line together that is not read as markup.

    Args:
        *parts: Texts, and texts with their style.

    Returns:
        The line.
    """
    from rich.text import Text

    return Text.assemble(*parts)


def status(word: str) -> Text:
    """Give the status of a key in its colour.

    Args:
        word: The status. Source: `keylatch.keys`.

    Returns:
        The word.
    """
    return text((word, _STATUS_STYLES.get(word, "")))


def when(time: datetime | None, *, none: str = "never") -> str:
    """Give a time as people read it, to the minute.

    Args:
        time: A time with a zone, or `None`.
        none: What stands for `None`.

    Returns:
        UTC: `2026-01-31 09:30 UTC`.
    """
    return none if time is None else f"{time.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def printable(value: str) -> str:
    """Make a text of somebody else's harmless to a terminal.

    Args:
        value: Any text.

    Returns:
        The text; what steers a terminal or turns the direction of writing stands as an escape.
    """
    return "".join(
        one if one.isprintable() or one == "\n" else one.encode("unicode_escape").decode()
        for one in value
    )


def missing_extra(library: str) -> errors.KeylatchError:
    """Say how to get what a command needs.

    Args:
        library: What could not be imported.

    Returns:
        The error, to be raised.
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
    raise TypeError(f"{type(value).__name__} has no place in JSON")
