"""The command audit: tests who can do what."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Annotated

import typer

from keylatch.errors import KeylatchError

from .. import output
from ..connection import Options, database_only, open_database
from ..output import Json

if TYPE_CHECKING:
    from .report import Audit, Difference

# The mark for each outcome in the table.
MARKS = {"yes": "●", "stamp": "◐", "none": "○", "rule": "□", "latch": "◆", "no": "·"}
_WIDTH = 80
_NAME_WIDTH = 40
# The lines of an ordinary terminal.
_SCREEN = 24
_INDENT = " " * 5
_OWN_TENANCY = (
    "The application's own function decides who administers a workspace. The audit called this "
    "function as an unknown user, and used a temporary workspace for all other tests."
)


@database_only
def audit(
    options: Options,
    html: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also write an HTML page.", show_default=False),
    ] = None,
    evidence: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Also write the answers to all questions of sql/audit into this empty directory,"
            " as CSV files with a manifest.",
            show_default=False,
        ),
    ] = None,
    show_all: Annotated[
        bool,
        typer.Option("--all", metavar="", help="Print all differences and all tests."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Test who can do what, as every kind of user.

    Connect as the owner of keylatch; the owner need not be a superuser. All changes are made in a
    temporary workspace, inside a transaction that is rolled back. The audit leaves nothing behind,
    waits for no lock longer than 0.1 s, and touches no key in use.

    \b
    Exit codes:
      0  everything is as expected
      1  a user can do more or less than expected, a guard is missing, or an
         answer of --evidence shows a problem
      2  the command line is wrong, or a file cannot be written
      3  the user is not the owner of keylatch, or cannot act as its roles
      4  the database did not answer, or another session held a lock
      5  keylatch is not installed
    """  # noqa: D301
    from .matrix import audit as try_all

    connection = open_database(options, as_owner=True)
    # Before the tests, which take seconds.
    if html is not None and not html.parent.is_dir():
        raise _unwritable(html, f"{html.parent} is not a directory")
    if evidence is not None:
        from .evidence import require_empty

        require_empty(evidence)
    with _progress() as done:
        found = try_all(connection, done=done)
    if html is not None:
        from .page import page

        try:
            html.write_text(page(connection, found), encoding="utf-8")
        except OSError as problem:
            raise _unwritable(html, problem.strerror) from None
    problems: list[str] = []
    if evidence is not None:
        from .evidence import write

        count, problems = write(connection, evidence)
        output.note(f"{count} answers are in {evidence}; manifest.json describes them")
        for sentence in problems:
            output.note(sentence)
    if as_json:
        whole = {"is_clean": found.is_clean and not problems, "problems": problems}
        output.print_json({**whole, **output.as_dict(found)})
    else:
        _print(found, connection.info.dbname, show_all=show_all)
    if problems or not found.is_clean:
        raise typer.Exit(output.REFUSED)


def _unwritable(file: Path, why: str | None) -> KeylatchError:
    return KeylatchError("usage", detail=f"{file} cannot be written: {why}")


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress

    console = output.err()
    with Progress(
        BarColumn(),
        MofNCompleteColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as progress:
        task = progress.add_task("", total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def verdict(found: Audit) -> str:
    """Summarize an audit in one line."""
    number = len(found.differences)
    tries = f"{found.count:,} tests as {_count_actors()} kinds of user"
    if not number:
        return f"As expected: no difference in {tries}."
    differences = f"{number:,} difference{'s' * (number != 1)}"
    if not found.count:
        return f"Not as expected: {differences}. Repair them first: nothing was tested yet."
    return f"Not as expected: {differences} in {tries}."


def _count_actors() -> int:
    from .report import ACTORS

    return len(ACTORS)


def _print(found: Audit, database: str, *, show_all: bool) -> None:
    head = wrap(verdict(found), _WIDTH)
    _line(output.printable(f"Audit of {database}"), "bold")
    for line in head:
        _line(line, "bold green" if found.is_clean else "bold red")
    notes = wrap(_OWN_TENANCY, _WIDTH) if found.has_own_tenancy else []
    for line in notes:
        _line(line)
    # The lines of the screen without the heading and the last two lines.
    left = _SCREEN - 1 - len(head) - len(notes) - 2
    for number, one in enumerate(found.differences, 1):
        block = _block(number, one)
        left -= len(block) + 1
        if left < 0 and number > 1 and not show_all:
            hidden = len(found.differences) - number + 1
            _line("")
            _line(f"{hidden:,} more: run keylatch audit --all, or keylatch audit --html FILE.")
            break
        _line("")
        for line in block:
            _line(line)
    if show_all:
        _print_tries(found)


def _block(number: int, one: Difference) -> list[str]:
    """Return the lines of a difference."""
    texts = (f"{one.who}: {one.what}", f"expected {one.expected}; found {one.found}", one.why)
    lines: list[str] = []
    for text in texts:
        # A name may contain control characters.
        words = output.printable(" ".join(text.split()))
        first = f"{number:>3}. " if not lines else _INDENT
        lines += wrap(words, _WIDTH, initial_indent=first, subsequent_indent=_INDENT)
    return lines


def _print_tries(found: Audit) -> None:
    from .report import ACTORS, OUTCOMES, by_heading, lines

    _line("")
    for outcome, meaning in OUTCOMES.items():
        _line(f"{MARKS[outcome]}  {meaning}")
    heads = "".join(f"{actor[:4]:>5}" for actor in ACTORS)
    for name, tries in by_heading(found.tries):
        rows = list(lines(tries))
        if rows:
            _line("")
            _line(f"{name:<{_NAME_WIDTH}}{heads}", "bold")
        for operation, columns, outcomes, wanted in rows:
            text = f"{operation} {', '.join(columns)}".strip()
            first, *more = wrap(text, _NAME_WIDTH - 3, subsequent_indent="  ")
            cells = "".join(
                f"{MARKS[outcome] if outcome == hoped else MARKS[outcome] + '!':>5}"
                for outcome, hoped in zip(outcomes, wanted, strict=True)
            )
            _line(f"  {first:<{_NAME_WIDTH - 2}}{cells}")
            for line in more:
                _line(f"  {line}")
    _line("")
    _line(f"Columns: {', '.join(ACTORS)}.")
    _line("! is not as expected. Operations that only the owner may do are left out.")


def _line(text: str, style: str = "") -> None:
    output.console().print(output.text((text, style)), soft_wrap=True)
