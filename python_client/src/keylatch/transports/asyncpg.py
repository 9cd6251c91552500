"""Calls in SQL, on a connection or a pool of asyncpg that the caller opened."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeAlias
from weakref import WeakValueDictionary

import asyncpg

from ..errors import KeylatchError, error_for
from . import Awaited, driver_failure
from .sql import Call, Found, SqlCalls

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    Connection: TypeAlias = asyncpg.Connection | PoolConnectionProxy

# A call switches the role within a transaction, so two tasks must not interleave on one
# connection. By the id of the connection, since several clients may share it, and what a pool
# lends has no weak references. Each client holds its connection and the lock.
_locks: WeakValueDictionary[int, asyncio.Lock] = WeakValueDictionary()


class AsyncpgTransport(Awaited, SqlCalls):
    """Calls on the caller's connection, or on one borrowed from the caller's pool."""

    # A time-out is an `OSError`.
    _errors = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)

    def __init__(self, source: asyncpg.Pool | Connection, claims: Mapping[str, Any] | None) -> None:
        super().__init__(source, claims)
        self._lock = _locks.setdefault(id(source), asyncio.Lock())

    async def _carry(self, call: Call) -> Found:
        if isinstance(self._source, asyncpg.Pool):
            async with self._source.acquire() as connection:
                return await self._alone(connection, call)
        async with self._lock:
            is_inside = self._source.is_in_transaction()
            return await (self._within if is_inside else self._alone)(self._source, call)

    async def _ask(self, connection: Any, query: str, values: Sequence[object] = ()) -> Found:
        found: Found = await connection.fetch(query, *values)
        return found

    def _block(self, connection: Any) -> AbstractAsyncContextManager[Any]:
        is_inside = connection.is_in_transaction()
        block: AbstractAsyncContextManager[Any] = (
            self._savepoint(connection) if is_inside else connection.transaction()
        )
        return block

    @asynccontextmanager
    async def _savepoint(self, connection: Any) -> AsyncIterator[None]:
        """Hold a savepoint; asyncpg's own refuses a transaction that a statement has begun."""
        await connection.execute("savepoint keylatch")
        try:
            yield
        except BaseException:
            # What went wrong before is what the caller needs to hear.
            with suppress(*self._errors):
                await connection.execute("rollback to savepoint keylatch")
                await connection.execute("release savepoint keylatch")
            raise
        await connection.execute("release savepoint keylatch")

    def _failure(self, problem: Any, arguments: Mapping[str, object]) -> KeylatchError:
        return failure_of(problem, arguments)


def failure_of(problem: Any, arguments: Mapping[str, object] | None = None) -> KeylatchError:
    """Give the error of keylatch for what asyncpg raised, without any row in it."""
    if not isinstance(problem, asyncpg.PostgresError) or problem.sqlstate is None:
        return driver_failure(problem, BaseException)
    return error_for(
        message=getattr(problem, "message", None) or str(problem),
        code=problem.sqlstate,
        detail=getattr(problem, "detail", None),
        hint=getattr(problem, "hint", None),
        arguments=arguments,
    )
