"""Calls in SQL, on a connection or a pool of psycopg 3 that the caller opened."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row
from psycopg.types.json import Jsonb

from ..errors import InvalidArgument, KeylatchError, Unavailable, error_for
from ..secret import mask_keys
from . import VIEWS, Batch, Rows, as_rows, dump_json, plain, read_json
from .claims import BECOME, BECOME_AGAIN, identity_of

if TYPE_CHECKING:
    from psycopg_pool import AsyncConnectionPool, ConnectionPool

_BECOME = sql.SQL(BECOME.format("%s", "%s"))
_BECOME_AGAIN = sql.SQL(BECOME_AGAIN.format("%s", "%s"))

# A call switches the role within a transaction, so two threads or tasks must not interleave on
# one connection. By connection, since several clients may share it.
_locks: WeakKeyDictionary[object, threading.Lock] = WeakKeyDictionary()
_async_locks: WeakKeyDictionary[object, asyncio.Lock] = WeakKeyDictionary()


class PsycopgTransport:
    """Calls on the caller's connection, or on one borrowed from the caller's pool.

    A call is one transaction that commits, or a savepoint inside the transaction that the caller
    has open, which stays open and usable whatever becomes of the call.
    """

    def __init__(
        self,
        source: psycopg.Connection[Any] | ConnectionPool[Any],
        claims: Mapping[str, Any] | None,
    ) -> None:
        self._source = source
        self._identity = identity_of(claims)

    def call(self, function: str, arguments: Mapping[str, object]) -> Rows:
        """As `Transport.call`."""
        try:
            with self._connection() as connection:
                return self._run(connection, function, arguments)
        except (psycopg.Error, UnicodeError) as problem:
            failure = failure_of(problem)
        # Out of the except block: a UnicodeError holds the whole text, and so the key.
        raise failure

    def _run(
        self, connection: psycopg.Connection[Any], function: str, arguments: Mapping[str, object]
    ) -> Rows:
        inside = _is_inside_transaction(connection)
        alone = connection.autocommit and not inside and self._identity is None
        # One statement in autocommit is its own transaction: begin and commit cost two trips.
        with nullcontext() if alone else connection.transaction():
            # Made here, not by the connection: the caller's row factory stays the caller's, and
            # a cursor that binds in the client would put the key into the statement's text.
            former = None
            if self._identity is not None:
                setting = psycopg.Cursor(connection, row_factory=tuple_row)
                former = setting.execute(_BECOME, self._identity).fetchone()
            cursor = psycopg.Cursor(connection, row_factory=tuple_row)
            cursor.execute(_statement(function, arguments), _values(arguments))
            found = as_rows([read_json(row) for (row,) in cursor.fetchall()])
            if former is not None and inside:
                # `set local` outlives a savepoint. After an error the rollback has undone it.
                psycopg.Cursor(connection).execute(_BECOME_AGAIN, former[:2])
        return found

    @contextmanager
    def _connection(self) -> Iterator[psycopg.Connection[Any]]:
        if isinstance(self._source, psycopg.Connection):
            with _locks.setdefault(self._source, threading.Lock()):
                yield self._source
        else:
            with self._source.connection() as connection:
                yield connection


class AsyncPsycopgTransport:
    """As `PsycopgTransport`, over the async connections and pools."""

    def __init__(
        self,
        source: psycopg.AsyncConnection[Any] | AsyncConnectionPool[Any],
        claims: Mapping[str, Any] | None,
    ) -> None:
        self._source = source
        self._identity = identity_of(claims)

    async def call(self, function: str, arguments: Mapping[str, object]) -> Rows:
        """As `Transport.call`."""
        try:
            async with self._connection() as connection:
                return await self._run(connection, function, arguments)
        except (psycopg.Error, UnicodeError) as problem:
            failure = failure_of(problem)
        raise failure

    async def _run(
        self,
        connection: psycopg.AsyncConnection[Any],
        function: str,
        arguments: Mapping[str, object],
    ) -> Rows:
        inside = _is_inside_transaction(connection)
        alone = connection.autocommit and not inside and self._identity is None
        async with nullcontext() if alone else connection.transaction():
            former = None
            if self._identity is not None:
                setting = psycopg.AsyncCursor(connection, row_factory=tuple_row)
                await setting.execute(_BECOME, self._identity)
                former = await setting.fetchone()
            cursor = psycopg.AsyncCursor(connection, row_factory=tuple_row)
            await cursor.execute(_statement(function, arguments), _values(arguments))
            found = as_rows([read_json(row) for (row,) in await cursor.fetchall()])
            if former is not None and inside:
                await psycopg.AsyncCursor(connection).execute(_BECOME_AGAIN, former[:2])
        return found

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
        if isinstance(self._source, psycopg.AsyncConnection):
            async with _async_locks.setdefault(self._source, asyncio.Lock()):
                yield self._source
        else:
            async with self._source.connection() as connection:
                yield connection


def _is_inside_transaction(
    connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any],
) -> bool:
    return connection.info.transaction_status != TransactionStatus.IDLE


def _statement(function: str, arguments: Mapping[str, object]) -> sql.Composed:
    """Ask for JSON, as PostgREST does.

    A row of native values would depend on what the caller's connection makes of times and arrays:
    psycopg cannot read a timestamp under every DateStyle, nor one beyond the year 9999.
    """
    named = [sql.Identifier(name) for name in arguments]
    if function in VIEWS:
        conditions = [sql.SQL("r.{} = %s").format(name) for name in named]
        rows = sql.SQL("{} as r where {}").format(
            sql.Identifier("keylatch", function), sql.SQL(" and ").join(conditions)
        )
    else:
        rows = sql.SQL("{}({}) as r").format(
            sql.Identifier("keylatch", function),
            sql.SQL(", ").join(sql.SQL("{} => %s").format(name) for name in named),
        )
    return sql.SQL("select pg_catalog.to_jsonb(r)::pg_catalog.text from {}").format(rows)


def _values(arguments: Mapping[str, object]) -> list[object]:
    return [_value(value) for value in arguments.values()]


def _value(value: object) -> object:
    if isinstance(value, Batch):
        return Jsonb(value, dumps=dump_json)
    if isinstance(value, list):
        return [plain(one) for one in value]
    return Jsonb(value) if isinstance(value, dict) else plain(value)


def failure_of(problem: psycopg.Error | UnicodeError) -> KeylatchError:
    """Give the error of keylatch for what psycopg raised, without any row in it."""
    if isinstance(problem, UnicodeError):
        return InvalidArgument(
            detail=f"a text has characters that the encoding {problem.encoding} cannot carry"
            if isinstance(problem, UnicodeEncodeError)
            else "a text of the database cannot be read in the connection's encoding",
            hint="Connect with client_encoding=utf8.",
        )
    if problem.sqlstate is not None:
        said = problem.diag
        return error_for(
            message=said.message_primary,
            code=problem.sqlstate,
            detail=said.message_detail,
            hint=said.message_hint,
        )
    detail = f"{type(problem).__name__}: {mask_keys(str(problem)).partition(chr(10))[0]}"
    if isinstance(problem, psycopg.OperationalError | psycopg.InterfaceError):
        return Unavailable(
            detail=detail, hint="Check that the server runs and that the connection is open."
        )
    return KeylatchError("driver_error", detail=detail)
