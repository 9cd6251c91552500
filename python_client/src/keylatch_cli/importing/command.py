"""The command that imports the keys of another system: import."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import dropwhile
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from keylatch.errors import KeylatchError

from .. import output
from ..connection import Options, any_connection, connect
from ..output import Json
from .files import Format, Set, defaults_of, form_of, opened

if TYPE_CHECKING:
    from .batches import Outcome

File = Annotated[
    str, typer.Argument(metavar="FILE", help="A .csv or .jsonl file; - for stdin, see --format.")
]

# A batch keeps one core of the server busy. More connections would slow the server for others.
_CONNECTIONS = 2


class _Unfit(Exception):
    """Every line of the first batch was refused: it is the wrong file."""


@any_connection
def import_(
    options: Options,
    file: File,
    form: Format = None,
    set_: Set = None,
    from_line: Annotated[
        int, typer.Option(metavar="NUMBER", min=1, help="Go on here after an interruption.")
    ] = 1,
    force: Annotated[
        str | None,
        typer.Option(
            metavar="REASON",
            help="Import keys in plaintext that are weak or look like a placeholder.",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", metavar="", help="Only say what would happen.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Import the keys of another system, plain or hashed.

    For the service key. A line has workspace_id and key, or hash with alg (sha256,
    pbkdf2_sha256, django, bcrypt), and further fields such as label, scopes, allowed_origins,
    expires_at and revoked_at: see the comment of keylatch.import_keys. A bad line costs no
    other. The same file again is safe: an import moves a key towards its end, and never away
    from it. A salted key waits until upgrade_key sees it. Exit code 1 if a line was refused.
    """
    from .batches import import_file, read_lines

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

        defaults = defaults_of(set_ or []) | ({"force": force} if force else {})
        lines = read_lines(stream, kind, defaults=defaults)
        lines = dropwhile(lambda line: line.number < from_line, lines)
        try:
            clients = [connect(options) for _ in range(_CONNECTIONS)]
            import_file(clients, lines, dry_run=dry_run, done=done)
        except _Unfit:
            output.note("Stopped: every line of the first batch was refused.")
        except (KeylatchError, KeyboardInterrupt):
            if last >= from_line and not dry_run:
                output.note(f"All lines up to {last} are done: go on with --from-line {last + 1}")
            raise
    _summary(counts, dry_run, as_json)
    if counts["refused"]:
        raise typer.Exit(output.REFUSED)


@contextmanager
def _progress(stream: BinaryIO, size: int | None) -> Iterator[Callable[[Counter[str]], None]]:
    """Show on a terminal how much of the file is read, and how many lines are done."""
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
    outcome = one.outcome
    if as_json:
        fields = {"line": one.number, **output.as_dict(outcome)}
        del fields["position"]
        sys.stdout.write(json.dumps(fields, default=str) + "\n")
        return
    word = outcome.slug if outcome.outcome == "refused" else outcome.outcome
    hint = f" ({outcome.hint})" if outcome.hint else ""
    said = output.printable(f"{outcome.detail}{hint}")
    sys.stdout.write(f"line {one.number}: {word}: {said}\n")


def _summary(counts: Counter[str], dry_run: bool, as_json: bool) -> None:
    names = {
        "imported": "imported",
        "waiting": "waiting for their first use",
        "moved": "moved towards their end",
        "exists": "unchanged",
        "refused": "refused",
    }
    if as_json:
        numbers = {name: counts[name] for name in names}
        sys.stdout.write(json.dumps({**numbers, "dry_run": dry_run}) + "\n")
        return
    said = ", ".join(
        f"{counts[name]:,} {words}"
        for name, words in names.items()
        if counts[name] or name in ("imported", "refused")
    )
    output.note(f"{'Lines of the dry run' if dry_run else 'Lines'}: {said}")
