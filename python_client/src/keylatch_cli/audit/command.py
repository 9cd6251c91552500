"""The command audit: who can do what, tried."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Annotated

import typer

from keylatch.errors import KeylatchError

from .. import output
from ..connection import Options, database_only, open_database
from ..output import Json

if TYPE_CHECKING:
    from .matrix import Audit, Try

# How an outcome is shown where there is room for a mark alone.
MARKS = {"yes": "●", "none": "○", "latch": "◆", "no": "·"}
_NAME_WIDTH = 42


@database_only
def audit(
    options: Options,
    html: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also write a page of it.", show_default=False),
    ] = None,
    as_json: Json = False,
) -> None:
    """Try every operation as every kind of user: who can do what.

    As the owner of keylatch, on a workspace of its own, in a transaction that is rolled back: on
    a live database nothing is left of it, and nothing of anybody else is touched. The page also
    has the policies in words, the keys over time, and what doctor found. Exit code 1 where
    somebody could do more or less than expected.
    """
    from .matrix import audit as try_all

    connection = open_database(options)
    with _progress() as done:
        found = try_all(connection, done=done)
    if html is not None:
        from .page import page

        try:
            html.write_text(page(connection, found), encoding="utf-8")
        except OSError as problem:
            raise KeylatchError(
                "usage", detail=f"{html} cannot be written: {problem.strerror}"
            ) from None
    if as_json:
        output.print_json(found)
    else:
        _print(found)
    if not found.is_clean:
        raise typer.Exit(output.REFUSED)


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


def _print(found: Audit) -> None:
    from .matrix import ACTORS, OUTCOMES

    out = output.console()
    for outcome, meaning in OUTCOMES.items():
        out.print(f"{MARKS[outcome]}  {meaning}", markup=False, highlight=False)
    out.print(f"by {', '.join(ACTORS)}; other administers another workspace", highlight=False)
    heads = "".join(f"{actor[:4]:>5}" for actor in ACTORS)
    for name, tries in groupby(found.tries, key=heading):
        rows = list(lines(tries))
        if rows:
            out.print(f"\n{name:<{_NAME_WIDTH}}{heads}", markup=False, highlight=False)
        for operation, columns, outcomes in rows:
            text = f"{operation} {', '.join(columns)}".strip()
            first, *more = wrap(text, _NAME_WIDTH - 4, subsequent_indent="  ")
            cells = "".join(f"{MARKS[outcome]:>5}" for outcome in outcomes)
            out.print(f"  {first:<{_NAME_WIDTH - 2}}{cells}", markup=False, highlight=False)
            for line in more:
                out.print(f"  {line}", markup=False, highlight=False)
    out.print()
    for one in found.differences:
        for actor in one.differs:
            wanted = one.expected.get(actor, "nothing is known of it")
            out.print(
                f"differs: {actor}: {one.name}: {one.found[actor]}, expected: {wanted}",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )
    for name in found.missing:
        out.print(f"missing: {name}", markup=False, highlight=False, soft_wrap=True)
    if found.has_own_tenancy:
        output.note("The tenancy is your own: in its place stood one for the workspace tried on.")
    count = len(found.tries) * len(ACTORS)
    wrong = sum(len(one.differs) for one in found.differences) + len(found.missing)
    output.note(f"{count:,} tries, {wrong:,} not as expected")


def heading(one: Try) -> str:
    """Give the object, or for functions their schema."""
    if one.operation in ("call", "execute"):
        return f"functions of {one.object.split('.')[0]}"
    return one.object


def lines(tries: Iterable[Try]) -> Iterator[tuple[str, list[str], tuple[str, ...]]]:
    """Put together what came out alike, and leave out what is refused to all.

    Args:
        tries: Those of one heading.

    Yields:
        The operation or function, the columns, and the outcomes in the order of the actors.
    """
    alike: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for one in tries:
        outcomes = tuple(one.found.values())
        if set(outcomes) == {"no"}:
            continue
        of_function = one.operation in ("call", "execute")
        name = one.object.split(".")[1] if of_function else one.operation
        columns = alike.setdefault((name, outcomes), [])
        if one.column:
            columns.append(one.column)
    for (name, outcomes), columns in alike.items():
        yield name, columns, outcomes
