"""Sends calls in SQL, on a connection or a pool of asyncpg that the caller opened."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from ..errors import KeylatchError, error_for
from . import Awaited
from .sql import Call, Found, SqlCalls, driver_failure


class AsyncpgTransport(Awaited, SqlCalls):
    """Calls on the caller's connection, or on one borrowed from the caller's pool."""

    # A timeout is an `OSError`.
    _errors = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
    _connections = (asyncpg.Connection, PoolConnectionProxy)
    _new_lock = staticmethod(asyncio.Lock)

    async def _borrowed(self, call: Call) -> Found:
        async with self._source.acquire() as connection:
            return await self._alone(connection, call)

    def _is_inside(self, connection: Any) -> bool:
        return bool(connection.is_in_transaction())

    async def _ask(self, connection: Any, query: str, values: Sequence[object] = ()) -> Found:
        found: Found = await connection.fetch(query, *values)
        return found

    def _block(self, connection: Any) -> AbstractAsyncContextManager[Any]:
        if self._is_inside(connection):
            return self._savepoint(connection)
        block: AbstractAsyncContextManager[Any] = connection.transaction()
        return block

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

    def _failure(self, problem: Any, arguments: Mapping[str, object]) -> KeylatchError:
        return failure_of(problem, arguments)


def failure_of(problem: Any, arguments: Mapping[str, object] | None = None) -> KeylatchError:
    """Turn an error of asyncpg into keylatch's error, without the values of any row."""
    if not isinstance(problem, asyncpg.PostgresError) or problem.sqlstate is None:
        return driver_failure(problem, BaseException)
    return error_for(
        message=getattr(problem, "message", None) or str(problem),
        code=problem.sqlstate,
        detail=getattr(problem, "detail", None),
        hint=getattr(problem, "hint", None),
        arguments=arguments,
    )
