"""Sends calls in SQL, on a connection or a pool of asyncpg that the caller opened."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any, cast

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from .sql import Found, SqlCalls, Statement


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

    def _block(self, connection: Any) -> AbstractAsyncContextManager[Any]:
        idle: AbstractAsyncContextManager[Any] = connection.transaction()
        return idle if self.is_idle(connection) else self._savepoint(connection)

    @asynccontextmanager
    async def _savepoint(self, connection: Any) -> AsyncIterator[None]:
        """Run a block in a savepoint. asyncpg's own fails in a transaction begun in SQL."""
        await connection.execute("savepoint keylatch")
        try:
            yield
        except BaseException:
            # The caller needs the first error, not an error of this cleanup.
            with suppress(*self._errors):
                await connection.execute("rollback to savepoint keylatch")
                await connection.execute("release savepoint keylatch")
            raise
        await connection.execute("release savepoint keylatch")
