"""Sends calls in SQL, on a connection or a pool of psycopg 3 that the caller opened."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from ..errors import InvalidArgument, KeylatchError, error_for
from . import READS, Awaited, Blocking
from .sql import BECOME, Call, Found, SqlCalls, driver_failure


class _Calls(SqlCalls):
    _errors = (psycopg.Error, UnicodeError)
    # Not `connection.cursor()`: the caller may have set a row factory, or a cursor class that
    # binds in the client and so puts the key into the statement's text.
    _cursor: Callable[..., Any]

    def _is_inside(self, connection: Any) -> bool:
        return not (connection.autocommit and is_idle(connection))

    async def _borrowed(self, call: Call) -> Found:
        connection = await self._wait(self._source.getconn())
        # A read needs no BEGIN and COMMIT, which are two round trips.
        switches = call.function in READS and not connection.autocommit
        try:
            if switches:
                await self._wait(connection.set_autocommit(True))
            return await self._alone(connection, call)
        finally:
            if switches and is_idle(connection):
                await self._wait(connection.set_autocommit(False))
            await self._wait(self._source.putconn(connection))

    async def _alone(self, connection: Any, call: Call) -> Found:
        if self._identity and call.function in READS and psycopg.Pipeline.is_supported():
            # One round trip. A pipeline is one transaction, which commits at the end. psycopg does
            # not report a failed commit there, but the commit of a read cannot fail.
            asked = self._cursor(connection, row_factory=tuple_row)
            try:
                async with self._entered(connection.pipeline()):
                    # Suppressed here, because the end of the pipeline raises the error again. If a
                    # refusal of the claims arrives at once, the call is not sent and has no result.
                    with suppress(psycopg.Error):
                        await self._wait(self._cursor(connection).execute(BECOME, self._identity))
                        await self._wait(asked.execute(*call.bound()))
                if asked.pgresult is not None:
                    found: Found = await self._wait(asked.fetchall())
                    return found
            except psycopg.Error as problem:
                # After an error in a pipeline, PgBouncer 1.18 may keep the server's session for
                # this client until its next statement.
                with suppress(psycopg.Error):
                    await self._ask(connection, "select")
                if not isinstance(problem, psycopg.errors.PipelineAborted):
                    raise
            # The claims were refused. Single statements show why.
        return await super()._alone(connection, call)

    async def _ask(self, connection: Any, query: str, values: Sequence[object] = ()) -> Found:
        cursor = self._cursor(connection, row_factory=tuple_row)
        await self._wait(cursor.execute(query, values))
        found: Found = await self._wait(cursor.fetchall())
        return found

    def _block(self, connection: Any) -> AbstractAsyncContextManager[Any]:
        return self._entered(connection.transaction())

    def _failure(self, problem: Any, arguments: Mapping[str, object]) -> KeylatchError:
        return failure_of(problem, arguments)


class PsycopgTransport(Blocking, _Calls):
    """Calls on the caller's connection, or on one borrowed from the caller's pool."""

    _connections, _cursor = (psycopg.Connection,), psycopg.RawCursor
    _new_lock = staticmethod(threading.Lock)


class AsyncPsycopgTransport(Awaited, _Calls):
    """`PsycopgTransport` for the async connections and pools."""

    _connections, _cursor = (psycopg.AsyncConnection,), psycopg.AsyncRawCursor
    _new_lock = staticmethod(asyncio.Lock)


TRANSPORTS = (PsycopgTransport, AsyncPsycopgTransport)


def is_idle(connection: Any) -> bool:
    """Check that no transaction is open."""
    return bool(connection.info.transaction_status == TransactionStatus.IDLE)


def failure_of(
    problem: psycopg.Error | UnicodeError,
    arguments: Mapping[str, object] | None = None,
) -> KeylatchError:
    """Turn an error of psycopg into keylatch's error, without the values of any row."""
    if isinstance(problem, UnicodeError):
        return InvalidArgument(
            detail=f"a string has characters that the encoding {problem.encoding} does not have"
            if isinstance(problem, UnicodeEncodeError)
            else "a text in the database cannot be read in the connection's encoding",
            hint="Connect with client_encoding=utf8.",
        )
    if problem.sqlstate is None:
        return driver_failure(problem, psycopg.OperationalError, psycopg.InterfaceError)
    said = problem.diag
    return error_for(
        message=said.message_primary,
        code=problem.sqlstate,
        detail=said.message_detail,
        hint=said.message_hint,
        arguments=arguments,
    )
