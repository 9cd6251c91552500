"""The command that moves a plaintext column of keys to hashes: adopt."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from .. import output
from ..connection import Options, database_only, open_database
from ..output import Json

if TYPE_CHECKING:
    from .adoption import AdoptedColumn, Adoption, AdoptionProgress, AdoptionProof

_CONFIRM = "drop plaintext"
_AFTERWARDS = (
    "The table has no plaintext keys now. Older copies may still contain keys: dead rows until "
    "you run vacuum full on the table; WAL archives, backups, dumps and replicas' snapshots until"
    " you delete them; and logs."
)


class Step(StrEnum):
    """The step to run."""

    HASH = "hash"
    READ = "read"
    PROVE = "prove"
    DROP = "drop"
    REVERT = "revert"


class Form(StrEnum):
    """The format of the hashes."""

    HEX = "hex"
    BYTEA = "bytea"


@database_only
def adopt(
    options: Options,
    step: Annotated[
        Step,
        typer.Argument(help="The step: hash, read, prove, drop or revert.", show_default=False),
    ],
    table: Annotated[
        str, typer.Argument(metavar="TABLE", help="The table with its schema: public.sessions.")
    ],
    column: Annotated[
        str, typer.Argument(metavar="COLUMN", help="The column with the plaintext keys.")
    ],
    hash_column: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="For hash: the name of the new column. Default: COLUMN_hash."
        ),
    ] = None,
    form: Annotated[Form, typer.Option(help="For hash: the format of the hashes.")] = Form.HEX,
    pause: Annotated[
        int, typer.Option(metavar="MS", min=0, help="The pause between two batches.")
    ] = 0,
    confirm: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help=f"For drop: type '{_CONFIRM}'.", show_default=False),
    ] = None,
    backup_taken: Annotated[
        bool,
        typer.Option(
            "--backup-taken", metavar="", help="For drop: confirm that you have a backup."
        ),
    ] = False,
    days: Annotated[
        int,
        typer.Option(metavar="N", help="For drop: the required days without a read of plaintext."),
    ] = 7,
    as_json: Json = False,
) -> None:
    """Move a plaintext column of keys, of any table, to hashes.

    Connect as the owner of the table, and run the steps in this order. hash adds a column of hashes
    with a trigger that fills it, hashes the old rows and creates the indexes. read starts the count
    of reads that use plaintext. prove counts rows without a right hash. drop empties and drops the
    plaintext column for good; before that, revert undoes everything. After an interruption, run
    the same step again: it continues where it stopped. Until the last drop or revert, the database
    has a schema keylatch_adoption. The exit code is 1 if prove finds a problem.
    """
    from .adoption import Adoption

    adoption = Adoption(open_database(options), table, column)
    if step is Step.REVERT:
        _show_column(adoption.revert(), as_json)
    elif step is Step.DROP:
        _drop(adoption, confirm or "", backup_taken, days, pause / 1000, as_json)
    else:
        if step is Step.HASH:
            _hash(adoption, hash_column, form, pause / 1000)
        proof = adoption.read_by_hash() if step is Step.READ else adoption.prove()
        _show_proof(proof, as_json)
        if not proof.is_clean:
            raise typer.Exit(output.REFUSED)


def _hash(adoption: Adoption, hash_column: str | None, form: Form, pause: float) -> None:
    adoption.start(hash_column=hash_column, form=form.value)
    # A row that is locked during one pass is usually free in a later pass.
    for _ in range(3):
        with _progress("hashing") as advance:
            written = adoption.hash_rows(pause=pause, done=advance)
        if not written:
            break
    output.note("making the indexes")
    adoption.make_indexes()


def _drop(
    adoption: Adoption, confirm: str, backup_taken: bool, days: int, pause: float, as_json: bool
) -> None:
    column = adoption.drop_plaintext(confirm, backup_taken=backup_taken, days=days)
    while column.phase == "emptying":
        with _progress("emptying") as advance:
            adoption.hash_rows(pause=pause, done=advance)
        column = adoption.drop_plaintext(confirm, backup_taken=backup_taken, days=days)
    _show_column(column, as_json)
    output.note(_AFTERWARDS)


@contextmanager
def _progress(what: str) -> Iterator[Callable[[AdoptionProgress], None]]:
    """Show the progress and the remaining time of a pass on a terminal."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn(f"{what} {{task.fields[rows]:,}} rows"),
        BarColumn(),
        TimeRemainingColumn(compact=True),
    )
    rows = 0
    with Progress(
        *columns, console=output.err(), transient=True, disable=not output.err().is_terminal
    ) as progress:
        task = progress.add_task("", total=None, rows=0)

        def advance(now: AdoptionProgress) -> None:
            nonlocal rows
            rows += now.rows_written
            progress.update(task, completed=now.pages_done, total=now.pages, rows=rows)

        yield advance
    output.note(f"{what}: {rows:,} rows written")


def _show_column(column: AdoptedColumn, as_json: bool) -> None:
    if as_json:
        output.print_json(column)
        return
    names = {"table": column.table_name, "column": column.key_column, "hashes": column.hash_column}
    output.details({**names, "phase": column.phase})


def _show_proof(proof: AdoptionProof, as_json: bool) -> None:
    if as_json:
        output.print_json(proof)
        return
    shown = {name: value for name, value in asdict(proof).items() if value is not None}
    output.details(
        {
            "table": proof.table_name,
            "column": proof.key_column,
            "phase": proof.phase,
            **{
                name.replace("_", " "): f"{shown[name]:,}"
                for name in ("rows", "keys", "hashed", "missing", "wrong", "fallback_reads")
            },
            "reading since": output.when(proof.reading_since) if proof.reading_since else "never",
            "index": "ready" if proof.index_is_ready else "missing",
            "trigger": "ready" if proof.trigger_is_ready else "missing or off",
            "clean": "yes" if proof.is_clean else "no",
        }
    )
    sys.stdout.flush()
