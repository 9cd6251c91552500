"""The commands of the revocation list: revocations export and revocations apply."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .. import output
from ..connection import Options, database_only, open_database
from ..keys.times import parse_time
from ..output import Json
from ..writing import replacing
from . import lists

if TYPE_CHECKING:
    from uuid import UUID

    from .database import Outcome

revocations = typer.Typer(
    name="revocations",
    help="Export revoked keys, and revoke them again after a restore.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_MOST_NAMES = 10
_MEANING = {
    "revoked": "revoked now",
    "limited": "suspended now, or expire earlier now",
    "already": "unchanged: already so",
    "changed": "not touched: changed after the list was written, check each key",
    "unknown": "not in this database: issued after the backup",
}
_WOULD = {"revoked": "would be revoked", "limited": "would be suspended, or expire earlier"}


@revocations.command("export")
@database_only
def export(
    options: Options,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Only keys that changed since this time, for example 2027-01-31T09:30Z.",
            show_default=False,
        ),
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option(
            "--output", metavar="FILE", help="The file. Default: stdout.", show_default=False
        ),
    ] = None,
) -> None:
    """Write a list of the keys that a restored backup would reactivate.

    The list has the id of each key that is revoked, is suspended or expires, with the time and the
    reason, but no keys and no hashes. Run this from a timer, and store the list apart from the
    database's backups. A digest at the end detects a damaged list; it does not prove who wrote the
    list. Connect as the owner of keylatch, who can read every row.
    """
    start = None if since is None else parse_time("since", since)
    connection = open_database(options, as_owner=True)
    # Only now: psycopg is loaded.
    from .database import exported

    counts: Counter[str] = Counter()
    with exported(connection, start) as (head, entries):
        text = lists.lines(head, _counted(entries, counts))
        if to is None:
            sys.stdout.flush()
            sys.stdout.buffer.writelines(text)
            sys.stdout.buffer.flush()
        else:
            with replacing(to, 0o600) as file:
                file.writelines(text)
    output.note(
        f"{counts.total():,} keys: {counts['revoked']:,} revoked, {counts['suspended']:,} "
        f"suspended, {counts['expires']:,} with an expiry."
    )


@revocations.command("apply")
@database_only
def apply(
    options: Options,
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="The file that keylatch revocations export wrote."),
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", metavar="", help="Only show what would happen.")
    ] = False,
    force: Annotated[
        bool,
        typer.Option("--force", metavar="", help="Accept a list of another installation."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Revoke keys again that a restore has reactivated.

    Run this before the restored database is used. The command revokes a key that the list names as
    revoked or expired. The command suspends a key, or sets an earlier expiry, as the list says. You
    can repeat the command, because it never extends or reactivates a key. If the suspension or
    expiry of a key changed after the list was written, the command names the key, leaves it
    unchanged, and exits with 1. Scopes and origins are not in the list.
    """
    head, total = lists.read(file)
    connection = open_database(options, as_owner=True)
    # Only now: psycopg is loaded.
    from .database import apply as apply_list

    with _progress(total) as done:
        outcome = apply_list(
            connection, head, lists.entries(file), dry_run=dry_run, force=force, done=done
        )
    if as_json:
        output.print_json(
            {
                "dry_run": dry_run,
                "exported_at": head.exported_at,
                "is_behind": outcome.is_behind,
                **{name: outcome.counts[name] for name in _MEANING},
                "keys": outcome.named,
            }
        )
    else:
        _print(outcome, head, dry_run)
    if outcome.counts["changed"]:
        raise typer.Exit(output.REFUSED)


def _counted(entries: Iterator[lists.Entry], counts: Counter[str]) -> Iterator[lists.Entry]:
    for one in entries:
        what = "revoked" if one.revoked_at else "suspended" if one.suspended_at else "expires"
        counts[what] += 1
        yield one


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    from rich.progress import Progress

    console = output.err()
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("keys", total=total)

        def done(count: int) -> None:
            progress.update(task, advance=count)

        yield done


def _print(outcome: Outcome, head: lists.Head, dry_run: bool) -> None:
    meaning = _MEANING | _WOULD if dry_run else _MEANING
    for name, words in meaning.items():
        if count := outcome.counts[name]:
            sys.stdout.write(f"{count:>7,} {words}\n")
            _print_names(outcome.named.get(name, []))
    if not outcome.counts:
        sys.stdout.write("The list has no keys.\n")
    sys.stdout.flush()
    if outcome.is_behind:
        number, _ = head.checkpoint or (0, "")
        output.note(
            f"The events of this database end before checkpoint {number} of the list, or differ "
            "from it. So the database was restored to an earlier time."
        )
    output.note(
        f"The list was written at {output.when(head.exported_at)}. Later revocations are not in "
        "it: check your tickets for them."
    )


def _print_names(ids: list[UUID]) -> None:
    for key_id in ids[:_MOST_NAMES]:
        sys.stdout.write(f"        {key_id}\n")
    if len(ids) > _MOST_NAMES:
        sys.stdout.write(f"        and {len(ids) - _MOST_NAMES:,} more: see --json\n")
