"""The steps of `keylatch adopt`: replace a plaintext column of keys by a column of hashes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from math import ceil
from typing import Any, TypeVar

import psycopg
from psycopg import sql
from psycopg.rows import class_row, tuple_row

from keylatch.errors import AdoptionNotReady, KeylatchError, PermissionDenied
from keylatch.transports.sql import failure_of

from ..sql_files import sql_text

_Row = TypeVar("_Row")


@dataclass(frozen=True, slots=True, kw_only=True)
class AdoptedColumn:
    """A plaintext column and its column of hashes. Source: `adopt_column` and the later steps.

    Attributes:
        table_name: The table, as SQL writes it.
        key_column: The column with the plaintext keys.
        hash_column: The column with the hashes.
        phase: hashing, reading, emptying, dropped or reverted.
    """

    table_name: str
    key_column: str
    hash_column: str
    phase: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AdoptionProgress:
    """How much of the table a step has processed. Source: `hash_rows`.

    Attributes:
        pages_done: Pages of 8 kB that the step has processed.
        pages: Pages of the table.
        rows_written: Rows that this call wrote.
        is_done: Whether the step has processed all pages.
    """

    pages_done: int
    pages: int
    rows_written: int
    is_done: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AdoptionProof:
    """The state of the table. Source: `prove_column`.

    Attributes:
        table_name: The table, as SQL writes it.
        key_column: The column with the plaintext keys.
        phase: hashing, reading, emptying or dropped.
        rows: All rows.
        keys: Rows with a plaintext key.
        hashed: Rows with a hash.
        missing: Rows with a key but without a hash.
        wrong: Rows whose hash does not match the key.
        index_is_ready: Whether the column of hashes has all its indexes.
        trigger_is_ready: Whether the trigger that writes the hashes exists and always fires.
        fallback_reads: At least this many reads have used plaintext since the last step.
        last_fallback_at: When a read last used plaintext, UTC, by the server's clock.
        is_clean: Whether the next step is allowed.
        reading_since: When `read_by_hash` was last called, UTC; `None` for never.
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
    reading_since: datetime | None


_ADOPT = "select * from keylatch_adoption.adopt_column(%s, %s, %s, %s)"
_INDEXES = "select * from keylatch_adoption.index_statements(%s, %s)"
_HASH = "select * from keylatch_adoption.hash_rows(%s, %s, %s)"
_PROVE = "select * from keylatch_adoption.prove_column(%s, %s)"
_READ = "select * from keylatch_adoption.read_by_hash(%s, %s)"
_DROP = "select * from keylatch_adoption.drop_plaintext(%s, %s, %s, %s, %s)"
_REVERT = "select * from keylatch_adoption.revert_column(%s, %s)"
# The owner of the schema, whether the caller is the owner, whether the functions are loaded, and
# from which files. The check of the owner matters because this connection runs the functions.
_SCHEMA = """
select n.nspowner::regrole::text, r.rolname = current_user, c.oid is not null,
  pg_catalog.obj_description(n.oid, 'pg_namespace')
from pg_catalog.pg_namespace as n
inner join pg_catalog.pg_roles as r on r.oid = n.nspowner
left join pg_catalog.pg_class as c on c.relnamespace = n.oid and c.relname = 'adoptions'
where n.nspname = 'keylatch_adoption'
"""
# Another session loaded the schema at the same moment: duplicate_schema, unique_violation.
_JUST_LOADED = ("42P06", "23505")
_FILES = ("1_columns.sql", "2_rows.sql", "3_phases.sql")


class Adoption:
    """The steps for one column, over an autocommit connection of the table's owner.

    After an interruption, repeat the step: it continues where it stopped. The SQL functions are in
    the schema `keylatch_adoption`. `start` creates this schema, and the end of the last adoption
    drops it.

    Args:
        connection: The connection.
        table_name: The table as SQL writes it, with its schema.
        key_column: The column with the plaintext keys, without quotes.
    """

    def __init__(self, connection: psycopg.Connection[Any], table_name: str, key_column: str):
        self._connection = connection
        self._names = (table_name, key_column)

    def start(self, *, hash_column: str | None = None, form: str = "hex") -> AdoptedColumn:
        """Load the schema, and add the column of hashes with the trigger that fills it.

        Args:
            hash_column: The name of the new column; by default the key column's name with `_hash`.
            form: `hex` or `bytea`.

        Returns:
            The column, in phase hashing.

        Raises:
            InvalidArgument: The table or column does not exist, or the column cannot be adopted.
            AdoptionNotReady: The column is adopted with other settings, or the table stayed locked.
            PermissionDenied: The connection's role may not create a schema.
        """
        # One transaction, so that a refusal leaves no schema behind.
        try:
            with self._connection.transaction():
                if not self._is_loaded():
                    self._load()
                return self._ask(AdoptedColumn, _ADOPT, hash_column, form)
        except KeylatchError as problem:
            if problem.sqlstate not in _JUST_LOADED:
                raise
        return self._ask(AdoptedColumn, _ADOPT, hash_column, form)

    def hash_rows(
        self,
        *,
        pause: float = 0,
        milliseconds: int = 40,
        done: Callable[[AdoptionProgress], None] | None = None,
    ) -> int:
        """Hash all keys without a hash, in batches. In phase 3, empty the plaintext column instead.

        Args:
            pause: How many seconds to wait between two batches.
            milliseconds: How long a batch should lock its rows.
            done: Called after the commit of each batch.

        Returns:
            How many rows were written.

        Raises:
            AdoptionNotReady: The column is not adopted, or dropped.
        """
        self._require_loaded()
        written, pages = 0, 16
        while True:
            began = time.monotonic()
            progress = self._ask(AdoptionProgress, _HASH, pages)
            taken = 1000 * (time.monotonic() - began)
            pages = min(ceil(pages * min(0.8 * milliseconds / taken, 2)), 4096)
            written += progress.rows_written
            if done is not None:
                done(progress)
            if progress.is_done:
                return written
            time.sleep(pause)

    def make_indexes(self) -> None:
        """Create the indexes on the hashes concurrently, and replace invalid leftovers.

        Raises:
            AdoptionNotReady: The column is not adopted.
        """
        self._require_loaded()
        for (statement,) in self._run(_INDEXES, self._names).fetchall():
            self._run(statement)

    def prove(self) -> AdoptionProof:
        """Count the keys and hashes of the whole table, without locks.

        Raises:
            AdoptionNotReady: The column is not adopted.
        """
        self._require_loaded()
        return self._ask(AdoptionProof, _PROVE)

    def read_by_hash(self) -> AdoptionProof:
        """Begin phase 2, or reset the count of fallback reads.

        Raises:
            AdoptionNotReady: The proof is not clean.
        """
        self._require_loaded()
        return self._ask(AdoptionProof, _READ)

    def drop_plaintext(
        self, confirm: str, *, backup_taken: bool = False, days: int = 7
    ) -> AdoptedColumn:
        """Begin phase 3, or finish phase 3 when no row has plaintext.

        Args:
            confirm: The words `drop plaintext`.
            backup_taken: Whether there is a backup. The drop cannot be undone.
            days: For how many days no read may have used plaintext, from 0 to 365.

        Returns:
            The column. If its phase is emptying, call `hash_rows`, then this method again.

        Raises:
            InvalidArgument: The drop is not confirmed, or no backup was taken.
            AdoptionNotReady: The proof is not clean, reads used plaintext, days are left, or
                something depends on the column.
        """
        return self._ask_and_remove(_DROP, confirm, backup_taken, days)

    def revert(self) -> AdoptedColumn:
        """Undo phases 1 and 2: drop the column of hashes, its indexes and the trigger.

        Raises:
            AdoptionNotReady: Phase 3 has begun, or something depends on the column of hashes.
        """
        return self._ask_and_remove(_REVERT)

    def _ask_and_remove(self, statement: str, *arguments: object) -> AdoptedColumn:
        self._require_loaded()
        with self._connection.transaction():
            column = self._ask(AdoptedColumn, statement, *arguments)
            if column.phase in ("dropped", "reverted"):
                self._run(sql_text("adoption", "remove.sql"))
        return column

    def _require_loaded(self) -> None:
        if not self._is_loaded():
            table_name, key_column = self._names
            raise AdoptionNotReady(
                detail=f"The column {key_column} of {table_name} is not adopted.",
                hint="Begin with: keylatch adopt hash TABLE COLUMN. After drop or revert, nothing "
                "is left to do.",
            )

    def _is_loaded(self) -> bool:
        """Check that the functions exist, have this version, and are owned by the caller."""
        found = self._run(_SCHEMA).fetchone()
        if found is None:
            return False
        owner, is_ours, is_loaded, comment = found
        if not is_ours:
            raise AdoptionNotReady(
                detail=f"The schema keylatch_adoption belongs to {owner}.",
                hint=f"Connect as {owner}, or let {owner} finish or revert its adoptions first.",
            )
        if is_loaded and _digest() not in (comment or ""):
            raise AdoptionNotReady(
                detail="The schema keylatch_adoption was made by another version of keylatch.",
                hint=f"Finish or revert the adoption with that version. Comment: {comment}",
            )
        return bool(is_loaded)

    def _load(self) -> None:
        from keylatch import __version__

        try:
            for name in _FILES:
                self._run(sql_text("adoption", name))
        except PermissionDenied as problem:
            raise PermissionDenied(
                sqlstate=problem.sqlstate,
                detail=problem.detail,
                hint="Ask an administrator to run, with the name of this role: "
                "create schema keylatch_adoption authorization …;",
            ) from None
        comment = (
            "Moves plaintext columns to hashes. "
            "keylatch adopt drops the schema when no adoption is running. "
            f"Made by keylatch {__version__} ({_digest()})."
        )
        self._run(sql.SQL("comment on schema keylatch_adoption is {}").format(comment))

    def _ask(self, kind: type[_Row], statement: str, *arguments: object) -> _Row:
        with self._connection.cursor(row_factory=class_row(kind)) as cursor:
            row: _Row = self._guarded(cursor, statement, (*self._names, *arguments)).fetchall()[0]
            return row

    def _run(
        self, statement: str | sql.Composed, arguments: tuple[object, ...] | None = None
    ) -> Any:
        return self._guarded(self._connection.cursor(row_factory=tuple_row), statement, arguments)

    def _guarded(self, cursor: Any, statement: object, arguments: object) -> Any:
        try:
            return cursor.execute(statement, arguments)
        except (psycopg.Error, UnicodeError) as problem:
            failure = failure_of(problem)
        # Outside the except block: the database's error may contain a row.
        raise failure


def _digest() -> str:
    return sha256("".join(sql_text("adoption", name) for name in _FILES).encode()).hexdigest()[:12]
