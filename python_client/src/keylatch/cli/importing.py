"""The command that takes over the keys of an older system: import."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import dropwhile
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from ..errors import KeylatchError
from . import output
from .connection import Options, any_connection, connect
from .files import Format, Set, defaults_of, form_of, opened
from .output import Json

if TYPE_CHECKING:
    from ..importing import Outcome

File = Annotated[
    str, typer.Argument(metavar="FILE", help="A .csv or .jsonl file; - for stdin, see --format.")
]

# A batch keeps one core of the server busy; more of them would take the server from others.
_CONNECTIONS = 2


class _Unfit(Exception):
    """Nothing of the beginning of a file can be imported: it is not what was meant."""


@any_connection
def import_(
    options: Options,
    file: File,
    form: Format = None,
    set_: Set = None,
    from_line: Annotated[
        int, typer.Option(metavar="NUMBER", min=1, help="Go on here after an interruption.")
    ] = 1,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", metavar="", help="Only say what would come of it.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Take over the keys of an older system, in clear or as hashes.

    For the service key. A line has workspace_id and key, or hash with alg (sha256,
    pbkdf2_sha256, django, bcrypt) and what comes along: label, scopes, allowed_origins,
    expires_at, revoked_at and others, see the comment of keylatch.import_keys. A bad line costs
    no other. The same file again is safe: what is there already is left as it is. Exit code 1
    where a line was refused.
    """
    from ..importing import import_file, read_lines

    kind = form_of(file, form)
    counts: Counter[str] = Counter()
    last = from_line - 1
    with opened(file) as (stream, size), _progress(stream, size) as advance:

        def done(number: int, outcomes: list[Outcome]) -> None:
            nonlocal last
            first = not counts
            for one in outcomes:
                counts[one.outcome.outcome] += 1
                if one.outcome.detail:
                    _say(one, as_json)
            last = number
            advance(counts)
            if first and counts["refused"] == len(outcomes) > 100:
                raise _Unfit

        lines = read_lines(stream, kind, defaults=defaults_of(set_ or []))
        lines = dropwhile(lambda line: line.number < from_line, lines)
        try:
            clients = [connect(options) for _ in range(_CONNECTIONS)]
            import_file(clients, lines, dry_run=dry_run, done=done)
        except _Unfit:
            output.note("Stopped: of the beginning of the file nothing can be imported.")
        except (KeylatchError, KeyboardInterrupt):
            if last >= from_line and not dry_run:
                output.note(f"All lines up to {last} are done: go on with --from-line {last + 1}")
            raise
    _summary(counts, dry_run, as_json)
    if counts["refused"]:
        raise typer.Exit(output.REFUSED)


@contextmanager
def _progress(stream: BinaryIO, size: int | None) -> Iterator[Callable[[Counter[str]], None]]:
    """Show on a terminal how far the reading is, by bytes, and how many lines went."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.fields[lines]:,} lines"),
        BarColumn(),
        TimeRemainingColumn(compact=True),
    )
    with Progress(
        *columns, console=output.err(), transient=True, disable=not output.err().is_terminal
    ) as progress:
        task = progress.add_task("", total=size, lines=0)

        def advance(counts: Counter[str]) -> None:
            place = stream.tell() if size else 0
            progress.update(task, completed=place, lines=counts.total())

        yield advance


def _say(one: Outcome, as_json: bool) -> None:
    came = one.outcome
    if as_json:
        fields = {"line": one.number, **output.as_dict(came)}
        del fields["position"]
        sys.stdout.write(json.dumps(fields, default=str) + "\n")
        return
    word = came.slug if came.outcome == "refused" else came.outcome
    hint = f" ({came.hint})" if came.hint else ""
    sys.stdout.write(f"line {one.number}: {word}: {output.printable(f'{came.detail}{hint}')}\n")


def _summary(counts: Counter[str], dry_run: bool, as_json: bool) -> None:
    names = {"imported": "imported", "exists": "there already", "refused": "refused"}
    if as_json:
        numbers = {name: counts[name] for name in names}
        sys.stdout.write(json.dumps({**numbers, "dry_run": dry_run}) + "\n")
        return
    said = ", ".join(f"{counts[name]:,} {words}" for name, words in names.items())
    output.note(f"{'It would come to' if dry_run else 'Lines'}: {said}")
