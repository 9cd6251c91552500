"""Moves a column of keys in clear, in any table, to hashes. For `keylatch adopt`."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

import psycopg
from psycopg.rows import class_row, dict_row

from .transports.psycopg import failure_of

_Row = TypeVar("_Row")


@dataclass(frozen=True, slots=True, kw_only=True)
class AdoptedColumn:
    """A column that is being moved, or was. Source: `adopt_column` and the steps after it.

    Attributes:
        table_name: The table, as SQL writes it.
        key_column: The column of the keys in clear.
        hash_column: The column of their hashes.
        phase: hashing, reading, emptying, dropped or reverted.
        index_statement: What makes the index on the hashes; `None` after phase 1.
    """

    table_name: str
    key_column: str
    hash_column: str
    phase: str
    index_statement: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AdoptionProgress:
    """How far a pass over the table is. Source: `hash_rows`.

    Attributes:
        pages_done: Pages of 8 kB that the pass has seen.
        pages: Pages of the table.
        rows_written: Rows that this call wrote.
        is_done: Whether the pass has seen them all.
    """

    pages_done: int
    pages: int
    rows_written: int
    is_done: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AdoptionProof:
    """What stands in the table. Source: `prove_column`.

    Attributes:
        table_name: The table, as SQL writes it.
        key_column: The column of the keys in clear.
        phase: hashing, reading, emptying or dropped.
        rows: All rows.
        keys: Rows with a key in clear.
        hashed: Rows with a hash.
        missing: Rows with a key and no hash.
        wrong: Rows with a hash that is not of their key.
        index_is_ready: Whether the hashes have an index.
        trigger_is_ready: Whether the trigger that keeps them is there and always fires.
        fallback_reads: Reads since the last step that went by the key in clear; at least so many.
        last_fallback_at: When the last of them was, UTC, by the server's clock.
        is_clean: Whether the next step may be taken.
    """

    table_name: str
    key_column: str
    phase: str
    rows: int
    keys: int
    hashed: int
    missing: int
    wrong: int
    index_is_ready: bool
    trigger_is_ready: bool
    fallback_reads: int
    last_fallback_at: datetime | None
    is_clean: bool


_ADOPT = "select * from keylatch.adopt_column(%s, %s, %s, %s)"
_HASH = "select * from keylatch.hash_rows(%s, %s, %s)"
_PROVE = "select * from keylatch.prove_column(%s, %s)"
_READ = "select * from keylatch.read_by_hash(%s, %s)"
_DROP = "select * from keylatch.drop_plaintext(%s, %s, %s)"
_REVERT = "select * from keylatch.revert_column(%s, %s)"
# One that was being made when somebody was killed stays behind, and is of no use.
_BROKEN_INDEX = """
select format('drop index concurrently %%s', i.indexrelid::regclass) as statement
from pg_catalog.pg_index as i
inner join pg_catalog.pg_attribute as a on i.indrelid = a.attrelid and i.indkey[0] = a.attnum
where i.indrelid = to_regclass(%s) and a.attname = %s and not i.indisvalid
"""


class Adoption:
    """The steps for one column, over a connection in autocommit of the owner of table and keylatch.

    Each may be repeated after an interruption: it goes on where it was.

    Args:
        connection: The connection.
        table_name: The table as SQL writes it, with its schema.
        key_column: The column that holds the keys in clear, without quotes.
    """

    def __init__(self, connection: psycopg.Connection[Any], table_name: str, key_column: str):
        self._connection = connection
        self._names = (table_name, key_column)

    def start(self, *, hash_column: str | None = None, form: str = "hex") -> AdoptedColumn:
        """Add the column of hashes and the trigger that keeps it.

        Args:
            hash_column: Its name; `None` for that of the keys with `_hash` behind it.
            form: `hex` or `bytea`.

        Returns:
            The column, in phase hashing.

        Raises:
            InvalidArgument: There is no such table or column, or it cannot be adopted.
            AdoptionNotReady: It is adopted in another way, or the table was in use all the time.
        """
        return self._ask(AdoptedColumn, _ADOPT, hash_column, form)

    def hash_rows(
        self,
        *,
        pause: float = 0,
        milliseconds: int = 40,
        done: Callable[[AdoptionProgress], None] | None = None,
    ) -> int:
        """Pass over the table: hash what is not hashed, or empty it in phase 3.

        Args:
            pause: How many seconds to rest between two batches.
            milliseconds: How long a batch may hold its rows.
            done: Called after each batch, which is committed then.

        Returns:
            How many rows were written.

        Raises:
            AdoptionNotReady: The column is not adopted, or dropped.
        """
        written = 0
        while True:
            progress = self._ask(AdoptionProgress, _HASH, milliseconds)
            written += progress.rows_written
            if done is not None:
                done(progress)
            if progress.is_done:
                return written
            time.sleep(pause)

    def make_index(self, column: AdoptedColumn) -> None:
        """Make the index on the hashes, while others write. What a kill left half made goes first.

        Args:
            column: What `start` gave.
        """
        names = (column.table_name, column.hash_column)
        for broken in self._run(_BROKEN_INDEX, names).fetchall():
            self._run(broken["statement"])
        if column.index_statement is not None:
            self._run(column.index_statement)

    def prove(self) -> AdoptionProof:
        """Count over the whole table, locking nothing.

        Raises:
            AdoptionNotReady: The column is not adopted.
        """
        return self._ask(AdoptionProof, _PROVE)

    def read_by_hash(self) -> AdoptionProof:
        """Begin phase 2, or count fallback reads anew.

        Raises:
            AdoptionNotReady: The proof is not clean.
        """
        return self._ask(AdoptionProof, _READ)

    def drop_plaintext(self, confirm: str) -> AdoptedColumn:
        """Begin phase 3, and end it when all rows are emptied.

        Args:
            confirm: `drop plaintext`, in these words.

        Returns:
            The column: in phase emptying, which is for `hash_rows` to do, or dropped.

        Raises:
            InvalidArgument: It is not confirmed.
            AdoptionNotReady: The proof is not clean, reads fell back, or something needs the
                column.
        """
        return self._ask(AdoptedColumn, _DROP, confirm)

    def revert(self) -> AdoptedColumn:
        """Take phases 1 and 2 back.

        Raises:
            AdoptionNotReady: Phase 3 has begun, or something needs the column of hashes.
        """
        return self._ask(AdoptedColumn, _REVERT)

    def _ask(self, kind: type[_Row], statement: str, *arguments: object) -> _Row:
        with self._connection.cursor(row_factory=class_row(kind)) as cursor:
            row: _Row = self._guarded(cursor, statement, (*self._names, *arguments)).fetchall()[0]
            return row

    def _run(self, statement: str, arguments: tuple[object, ...] | None = None) -> Any:
        return self._guarded(self._connection.cursor(row_factory=dict_row), statement, arguments)

    def _guarded(self, cursor: Any, statement: str, arguments: object) -> Any:
        try:
            return cursor.execute(statement, arguments)
        except (psycopg.Error, UnicodeError) as problem:
            failure = failure_of(problem)
        # Out of the except block: what the database says may hold a row.
        raise failure
