"""Sends calls in SQL, on a connection or a pool of asyncpg that the caller opened."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, cast

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from .sql import Found, SqlCalls, Statement

# The statements that begin, end and undo a block.
_TRANSACTION = ("begin", "commit", "rollback")
_SAVEPOINT = (
    "savepoint keylatch",
    "release savepoint keylatch",
    "rollback to savepoint keylatch; release savepoint keylatch",
)


class AsyncpgTransport(SqlCalls):
    """Calls on the caller's connection, or on one borrowed from the caller's pool."""

    # A timeout is an `OSError`.
    _errors = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
    _connections = (asyncpg.Connection, PoolConnectionProxy)

    async def _borrowed(self, statement: Statement) -> Found:
        async with self._source.acquire() as connection:
            return await self._alone(connection, statement)

    def is_idle(self, connection: Any) -> bool:
        """As `SqlCalls.is_idle`."""
        return not connection.is_in_transaction()

    async def _ask(self, connection: Any, query: str, values: Sequence[object] = ()) -> Found:
        return cast(Found, await connection.fetch(query, *values))

    @asynccontextmanager
    async def _block(self, connection: Any) -> AsyncIterator[None]:
        # Not `connection.transaction()`: a cancelled BEGIN leaves its transaction open, and its
        # savepoint fails in a transaction that was begun in SQL.
        begin, end, undo = _TRANSACTION if self.is_idle(connection) else _SAVEPOINT
        try:
            await connection.execute(begin)
            yield
            await connection.execute(end)
        except BaseException:
            # The caller needs the first error, not an error of this cleanup.
            with suppress(*self._errors):
                await connection.execute(undo)
            raise
