"""Sends calls in SQL, on a connection or a pool of psycopg 3 that the caller opened."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, suppress
from typing import Any, cast

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from . import READS
from .sql import BECOME, Found, SqlCalls, Statement


class PsycopgTransport(SqlCalls):
    """Calls on the caller's connection, or on one borrowed from the caller's pool."""

    _errors = (psycopg.Error, UnicodeError)
    _connections = (psycopg.Connection, psycopg.AsyncConnection)

    def is_idle(self, connection: Any) -> bool:
        """As `SqlCalls.is_idle`."""
        return bool(connection.info.transaction_status == TransactionStatus.IDLE)

    async def _borrowed(self, statement: Statement) -> Found:
        connection = await self._wait(self._source.getconn())
        # A read needs no BEGIN and COMMIT, which are two round trips.
        switches = statement.function in READS and not connection.autocommit
        try:
            if switches:
                await self._wait(connection.set_autocommit(True))
            return await self._alone(connection, statement)
        finally:
            if switches and self.is_idle(connection):
                await self._wait(connection.set_autocommit(False))
            await self._wait(self._source.putconn(connection))

    async def _alone(self, connection: Any, statement: Statement) -> Found:
        if self._identity and statement.function in READS and psycopg.Pipeline.is_supported():
            # One round trip. A pipeline is one transaction, which commits at the end. psycopg does
            # not report a failed commit there, but the commit of a read cannot fail.
            asked = self._cursor(connection)
            try:
                async with self._entered(connection.pipeline()):
                    # Suppressed here, because the end of the pipeline raises the error again. If a
                    # refusal of the claims arrives at once, the call is not sent and has no result.
                    with suppress(psycopg.Error):
                        await self._wait(self._cursor(connection).execute(BECOME, self._identity))
                        await self._wait(asked.execute(*statement.bound()))
                if asked.pgresult is not None:
                    return cast(Found, await self._wait(asked.fetchall()))
            except psycopg.Error as problem:
                # After an error in a pipeline, PgBouncer 1.18 may keep the server's session for
                # this client until its next statement.
                with suppress(psycopg.Error):
                    await self._ask(connection, "select")
                if not isinstance(problem, psycopg.errors.PipelineAborted):
                    raise
            # The claims were refused. Single statements show why.
        return await super()._alone(connection, statement)

    async def _ask(self, connection: Any, query: str, values: Sequence[object] = ()) -> Found:
        cursor = self._cursor(connection)
        await self._wait(cursor.execute(query, values))
        return cast(Found, await self._wait(cursor.fetchall()))

    def _cursor(self, connection: Any) -> Any:
        # Not `connection.cursor()`: the caller may have set a row factory, or a cursor class that
        # binds in the client and so puts the key into the text of the statement.
        kind: Any = psycopg.AsyncRawCursor if self._is_async else psycopg.RawCursor
        return kind(connection, row_factory=tuple_row)

    def _block(self, connection: Any) -> AbstractAsyncContextManager[Any]:
        return self._entered(connection.transaction())
