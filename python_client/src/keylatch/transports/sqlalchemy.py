"""Calls in SQL, through an engine, a connection or a session of SQLAlchemy.

SQLAlchemy opens connections, lends them and ends their transactions. The statement of a call goes
straight to its driver: so SQLAlchemy's errors, events and echo see no key.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from sqlalchemy import Connection, Dialect, Engine, exc
from sqlalchemy.ext.asyncio import (
    AsyncConnection,
    AsyncEngine,
    AsyncSession,
    async_scoped_session,
)
from sqlalchemy.orm import Session, scoped_session
from sqlalchemy.pool import PoolProxiedConnection

from ..errors import InvalidArgument, KeylatchError, Unavailable
from ..secret import mask_keys
from . import AsyncTransport, Rows, is_one_of
from .claims import identity_of

# SQLAlchemy and its driver both begin a transaction with the first statement, and a call is none
# that SQLAlchemy sees.
_FIRST = "select 1"
_SYNC_URLS = "create_engine('postgresql+psycopg://…')"
_ASYNC_URLS = (
    "create_async_engine('postgresql+asyncpg://…') or create_async_engine('postgresql+psycopg://…')"
)


class SqlalchemyTransport:
    """Calls in the transaction of a connection or a session, or each in its own over an engine."""

    def __init__(
        self,
        source: Engine | Connection | Session | scoped_session[Any],
        claims: Mapping[str, Any] | None,
    ) -> None:
        identity_of(claims)
        if isinstance(source, Engine | Connection):
            _require(source.dialect, ["psycopg"], _SYNC_URLS)
        self._source = source
        self._claims = None if claims is None else dict(claims)

    def call(self, function: str, arguments: Mapping[str, object]) -> Rows:
        """As `Transport.call`."""
        try:
            with self._connection() as connection:
                return self._run(connection, function, arguments)
        except exc.SQLAlchemyError as problem:
            failure = _failure_of(problem)
        raise failure

    def _run(self, connection: Connection, function: str, arguments: Mapping[str, object]) -> Rows:
        _require(connection.dialect, ["psycopg"], _SYNC_URLS)
        from .psycopg import PsycopgTransport

        lent = connection.connection
        if _is_idle(lent):
            connection.exec_driver_sql(_FIRST)
        try:
            driver: Any = lent.driver_connection
            return PsycopgTransport(driver, self._claims).call(function, arguments)
        finally:
            if _is_broken(lent):
                connection.invalidate()

    @contextmanager
    def _connection(self) -> Iterator[Connection]:
        if isinstance(self._source, Engine):
            with self._source.connect() as connection:
                # The driver's transport makes the call a transaction of its own.
                yield connection.execution_options(isolation_level="AUTOCOMMIT")
        elif isinstance(self._source, Connection):
            yield self._source
        else:
            yield self._source.connection()


class AsyncSqlalchemyTransport:
    """As `SqlalchemyTransport`, over the async engines, connections and sessions."""

    def __init__(
        self,
        source: AsyncEngine | AsyncConnection | AsyncSession | async_scoped_session[Any],
        claims: Mapping[str, Any] | None,
    ) -> None:
        identity_of(claims)
        if isinstance(source, AsyncEngine | AsyncConnection):
            _require(source.dialect, ["asyncpg", "psycopg"], _ASYNC_URLS)
        self._source = source
        self._claims = None if claims is None else dict(claims)

    async def call(self, function: str, arguments: Mapping[str, object]) -> Rows:
        """As `Transport.call`."""
        try:
            async with self._connection() as connection:
                return await self._run(connection, function, arguments)
        except (exc.SQLAlchemyError, OSError) as problem:
            failure = _failure_of(problem)
        raise failure

    async def _run(
        self, connection: AsyncConnection, function: str, arguments: Mapping[str, object]
    ) -> Rows:
        _require(connection.dialect, ["asyncpg", "psycopg"], _ASYNC_URLS)
        lent = await connection.get_raw_connection()
        if _is_idle(lent):
            await connection.exec_driver_sql(_FIRST)
        try:
            return await self._over(lent.driver_connection).call(function, arguments)
        finally:
            if _is_broken(lent):
                await connection.invalidate()

    def _over(self, driver: Any) -> AsyncTransport:
        if is_one_of(driver, "asyncpg.Connection"):
            from .asyncpg import AsyncpgTransport

            return AsyncpgTransport(driver, self._claims)
        from .psycopg import AsyncPsycopgTransport

        return AsyncPsycopgTransport(driver, self._claims)

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[AsyncConnection]:
        if isinstance(self._source, AsyncEngine):
            async with self._source.connect() as connection:
                yield await connection.execution_options(isolation_level="AUTOCOMMIT")
        elif isinstance(self._source, AsyncConnection):
            yield self._source
        else:
            yield await self._source.connection()


def _require(dialect: Dialect, drivers: Sequence[str], urls: str) -> None:
    """Refuse a driver over which no call works, or that binds arguments in the client."""
    if dialect.name != "postgresql" or dialect.driver not in drivers:
        raise InvalidArgument(
            detail=f"keylatch does not work over {dialect.name}+{dialect.driver}",
            hint=f"Make the engine with {urls}: they send keys apart from the statement.",
        )


def _is_idle(lent: PoolProxiedConnection) -> bool:
    """Tell whether the connection opens transactions by itself, and has opened none yet."""
    driver: Any = lent.driver_connection
    # Asked of SQLAlchemy's adapter: asyncpg itself always autocommits.
    if getattr(lent.dbapi_connection, "autocommit", False):
        return False
    if is_one_of(driver, "asyncpg.Connection"):
        return not driver.is_in_transaction()
    from psycopg.pq import TransactionStatus

    return bool(driver.info.transaction_status == TransactionStatus.IDLE)


def _is_broken(lent: PoolProxiedConnection) -> bool:
    """Tell whether the connection is lost: SQLAlchemy did not see it, and would lend it again."""
    driver: Any = lent.driver_connection
    if is_one_of(driver, "asyncpg.Connection"):
        return bool(driver.is_closed())
    return bool(driver.closed)


def _failure_of(problem: exc.SQLAlchemyError | OSError) -> KeylatchError:
    """Give the error of keylatch for what SQLAlchemy raised, by the error of the driver in it."""
    raised: Any = getattr(problem, "orig", None)
    if is_one_of(raised, "psycopg.Error"):
        from .psycopg import failure_of as failure_of_psycopg

        return failure_of_psycopg(raised)
    # SQLAlchemy's adapter of asyncpg has errors of its own, caused by those of asyncpg.
    cause: Any = getattr(raised, "__cause__", None)
    if is_one_of(cause, "asyncpg.PostgresError", "asyncpg.InterfaceError"):
        from .asyncpg import failure_of as failure_of_asyncpg

        return failure_of_asyncpg(cause)
    detail = f"{type(problem).__name__}: {mask_keys(str(problem)).partition(chr(10))[0]}"
    if isinstance(problem, exc.TimeoutError | exc.ResourceClosedError | OSError):
        return Unavailable(
            detail=detail, hint="Check that the server runs and that the connection is open."
        )
    return KeylatchError("driver_error", detail=detail)
