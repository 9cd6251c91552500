"""Calls in SQL, on a connection or a pool of psycopg 3 that the caller opened."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row
from psycopg.types.json import Jsonb

from ..errors import InvalidArgument, KeylatchError, Unavailable, error_for
from ..secret import mask_keys
from . import (
    READS,
    VIEWS,
    Awaited,
    Batch,
    Blocking,
    Calls,
    Rows,
    as_rows,
    dump_json,
    plain,
    read_json,
)
from .claims import BECOME, WHO, identity_of

_Found = list[tuple[Any, ...]]

_BECOME = BECOME.format("%s", "%s")

# A call switches the role within a transaction, so two threads or tasks must not interleave on
# one connection. By connection, since several clients may share it.
_locks: WeakKeyDictionary[object, Any] = WeakKeyDictionary()


class _Call(NamedTuple):
    """A call as the transport got it: with the key as a `Secret`, which no traceback shows."""

    function: str
    arguments: Mapping[str, object]

    def bound(self) -> tuple[str, list[object]]:
        """Give the statement and its values, for psycopg alone."""
        names = tuple(self.arguments)
        return _statement(self.function, names), [_value(one) for one in self.arguments.values()]


class _Calls(Calls):
    """The calls of both forms, written once: see `finish`.

    On the caller's connection a call is part of the transaction that the caller has open, or that
    the connection opens by itself; it is a savepoint there, so that the transaction stays usable
    whatever becomes of the call. Where the connection autocommits, and on one that is borrowed
    from the caller's pool, each call is a transaction of its own.
    """

    _connection: Any
    # Made here, not by the connection: the caller's row factory stays the caller's, and a cursor
    # that binds in the client would put the key into the statement's text.
    _cursor: Callable[..., Any]
    _lock: Callable[[], Any]

    def __init__(self, source: Any, claims: Mapping[str, Any] | None) -> None:
        self._source = source
        self._identity = identity_of(claims)

    async def _call(self, function: str, arguments: Mapping[str, object]) -> Rows:
        source, call = self._source, _Call(function, arguments)
        try:
            if not isinstance(source, self._connection):
                rows = await self._borrowed(call)
            else:
                lock = _locks.setdefault(source, self._lock())
                await self._wait(lock.acquire())
                try:
                    if source.autocommit and _is_idle(source):
                        rows = await self._alone(source, call)
                    else:
                        rows = await self._within(source, call)
                finally:
                    lock.release()
            return as_rows([read_json(row) for (row,) in rows])
        except (psycopg.Error, UnicodeError) as problem:
            failure = failure_of(problem)
        # Out of the except block: a UnicodeError holds the whole text, and so the key.
        raise failure

    async def _borrowed(self, call: _Call) -> _Found:
        connection = await self._wait(self._source.getconn())
        # What only reads needs no BEGIN and COMMIT, which are two round trips.
        switches = call.function in READS and not connection.autocommit
        try:
            if switches:
                await self._wait(connection.set_autocommit(True))
            return await self._alone(connection, call)
        finally:
            if switches and _is_idle(connection):
                await self._wait(connection.set_autocommit(False))
            await self._wait(self._source.putconn(connection))

    async def _alone(self, connection: Any, call: _Call) -> _Found:
        """Make a call that is a transaction of its own."""
        if self._identity is None and connection.autocommit:
            return await self._ask(connection, *call.bound())
        if call.function in READS and psycopg.Pipeline.is_supported():
            # One round trip. What is sent together is one transaction, which commits at the end;
            # psycopg cannot tell of a commit that fails there, and that of a read does not.
            asked, refused = self._cursor(connection, row_factory=tuple_row), None
            with suppress(psycopg.errors.PipelineAborted):
                async with self._entered(connection.pipeline()):
                    try:
                        await self._wait(self._cursor(connection).execute(_BECOME, self._identity))
                        await self._wait(asked.execute(*call.bound()))
                    except psycopg.Error as problem:
                        refused = problem  # Not through the pipeline, which would log the rest.
                if refused is not None:
                    raise refused
                return await self._all(asked)
            # The claims were refused. One statement after the other tells why.
        async with self._entered(connection.transaction()):
            if self._identity is not None:
                await self._ask(connection, _BECOME, self._identity)
            return await self._ask(connection, *call.bound())

    async def _within(self, connection: Any, call: _Call) -> _Found:
        """Make a call in the caller's transaction."""
        # Before the savepoint: with its first statement psycopg begins the transaction.
        former = await self._ask(connection, WHO)
        async with self._entered(connection.transaction()):
            if self._identity is None:
                return await self._ask(connection, *call.bound())
            await self._ask(connection, _BECOME, self._identity)
            found = await self._ask(connection, *call.bound())
            # `set local` outlives a savepoint. After an error the rollback has undone it.
            await self._ask(connection, _BECOME, former[0])
        return found

    async def _ask(self, connection: Any, query: str, values: Sequence[object] = ()) -> _Found:
        cursor = self._cursor(connection, row_factory=tuple_row)
        await self._wait(cursor.execute(query, values))
        return await self._all(cursor)

    async def _all(self, cursor: Any) -> _Found:
        found: _Found = await self._wait(cursor.fetchall())
        return found


class PsycopgTransport(Blocking, _Calls):
    """Calls on the caller's connection, or on one borrowed from the caller's pool."""

    _connection, _cursor, _lock = psycopg.Connection, psycopg.Cursor, threading.Lock


class AsyncPsycopgTransport(Awaited, _Calls):
    """As `PsycopgTransport`, over the async connections and pools."""

    _connection, _cursor, _lock = psycopg.AsyncConnection, psycopg.AsyncCursor, asyncio.Lock


def _is_idle(connection: Any) -> bool:
    return bool(connection.info.transaction_status == TransactionStatus.IDLE)


@cache
def _statement(function: str, names: tuple[str, ...]) -> str:
    """Ask for JSON, as PostgREST does.

    A row of native values would depend on what the caller's connection makes of times and arrays:
    psycopg cannot read a timestamp under every DateStyle, nor one beyond the year 9999.
    """
    # These are names of ours, and one of them is a word of SQL: limit.
    if function in VIEWS:
        conditions = " and ".join(f'r."{name}" = %s' for name in names)
        rows = f"keylatch.{function} as r where {conditions}"
    else:
        named = ", ".join(f'"{name}" => %s' for name in names)
        rows = f"keylatch.{function}({named}) as r"
    return f"select pg_catalog.to_jsonb(r)::pg_catalog.text from {rows}"  # noqa: S608


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
