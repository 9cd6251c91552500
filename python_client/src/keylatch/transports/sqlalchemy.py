"""Sends calls in SQL, through an engine, a connection or a session of SQLAlchemy.

SQLAlchemy manages the connections and ends their transactions. The statement of a call goes
straight to the driver, so that SQLAlchemy's errors, events and echo see no key.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, ClassVar

from sqlalchemy import Connection, Engine, exc
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from ..errors import InvalidArgument, KeylatchError
from . import Awaited, Blocking, Calls, Rows, is_one_of
from .sql import driver_failure, identity_of

# SQLAlchemy and its driver both begin a transaction with the first statement, but SQLAlchemy does
# not see the statement of a call.
_FIRST = "select 1"


class _Calls(Calls):
    """The calls, written once for the blocking and the async form: see `finish`.

    A call over a connection or session is part of its transaction. A call over an engine is a
    transaction of its own.
    """

    _engine: ClassVar[Any]
    _connection: ClassVar[Any]
    _lent: Callable[[Any], Any]
    # The drivers that bind on the server, and how to make an engine for each.
    _drivers: ClassVar[Mapping[str, str]]

    def __init__(self, source: Any, claims: Mapping[str, Any] | None) -> None:
        identity_of(claims)
        if isinstance(source, self._engine | self._connection):
            self._require(source)
        self._source = source
        self._claims = None if claims is None else dict(claims)

    async def _call(self, function: str, arguments: Mapping[str, object]) -> Rows:
        try:
            async with self._opened() as connection:
                self._require(connection)
                lent = await self._wait(self._lent(connection))
                if _is_idle(lent):
                    await self._wait(connection.exec_driver_sql(_FIRST))
                driver = lent.driver_connection
                try:
                    transport = _transport_of(driver)(driver, self._claims)
                    rows: Rows = await self._wait(transport.call(function, arguments))
                    return rows
                finally:
                    # SQLAlchemy does not notice a lost connection, and would reuse it.
                    if driver.is_closed() if _is_asyncpg(driver) else driver.closed:
                        await self._wait(connection.invalidate())
        except (exc.SQLAlchemyError, OSError) as problem:
            failure = _failure_of(problem)
        raise failure

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[Any]:
        if isinstance(self._source, self._engine):
            async with self._entered(self._source.connect()) as connection:
                # The driver's transport runs the call in a transaction of its own.
                yield await self._wait(connection.execution_options(isolation_level="AUTOCOMMIT"))
        elif isinstance(self._source, self._connection):
            yield self._source
        else:
            yield await self._wait(self._source.connection())

    def _require(self, source: Any) -> None:
        """Refuse a driver that does not work, or that binds arguments in the client."""
        dialect = source.dialect
        if dialect.name != "postgresql" or dialect.driver not in self._drivers:
            raise InvalidArgument(
                detail=f"keylatch does not work with {dialect.name}+{dialect.driver}",
                hint=f"Make the engine with {' or '.join(self._drivers.values())}: these send keys "
                "separately from the statement.",
            )


class SqlalchemyTransport(Blocking, _Calls):
    """Calls through SQLAlchemy over psycopg 3."""

    _engine, _connection = Engine, Connection
    _lent = staticmethod(lambda connection: connection.connection)
    _drivers: ClassVar = {"psycopg": "create_engine('postgresql+psycopg://…')"}


class AsyncSqlalchemyTransport(Awaited, _Calls):
    """`SqlalchemyTransport` for async code, over psycopg 3 or asyncpg."""

    _engine, _connection = AsyncEngine, AsyncConnection
    _lent = staticmethod(AsyncConnection.get_raw_connection)
    _drivers: ClassVar = {
        name: f"create_async_engine('postgresql+{name}://…')" for name in ("asyncpg", "psycopg")
    }


TRANSPORTS = (SqlalchemyTransport, AsyncSqlalchemyTransport)


def _is_asyncpg(driver: Any) -> bool:
    return is_one_of(driver, "asyncpg.Connection")


def _transport_of(driver: Any) -> Callable[..., Any]:
    if _is_asyncpg(driver):
        from .asyncpg import AsyncpgTransport

        return AsyncpgTransport
    from .psycopg import TRANSPORTS as OVER_PSYCOPG

    return OVER_PSYCOPG[is_one_of(driver, "psycopg.AsyncConnection")]


def _is_idle(lent: Any) -> bool:
    """Check whether the connection opens transactions by itself, but no transaction is open."""
    # SQLAlchemy's adapter knows: asyncpg itself always autocommits.
    if getattr(lent.dbapi_connection, "autocommit", False):
        return False
    if _is_asyncpg(lent.driver_connection):
        return not lent.driver_connection.is_in_transaction()
    from .psycopg import is_idle

    return is_idle(lent.driver_connection)


def _failure_of(problem: exc.SQLAlchemyError | OSError) -> KeylatchError:
    """Turn an error of SQLAlchemy into keylatch's error, by the driver's error inside."""
    raised: Any = getattr(problem, "orig", None)
    if is_one_of(raised, "psycopg.Error"):
        from .psycopg import failure_of

        return failure_of(raised)
    # SQLAlchemy's adapter for asyncpg has its own errors, caused by asyncpg's errors.
    cause: Any = getattr(raised, "__cause__", None)
    if is_one_of(cause, "asyncpg.PostgresError", "asyncpg.InterfaceError"):
        from .asyncpg import failure_of as failure_of_asyncpg

        return failure_of_asyncpg(cause)
    return driver_failure(problem, exc.TimeoutError, exc.ResourceClosedError, OSError)
