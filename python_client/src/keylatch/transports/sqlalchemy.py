"""Sends calls in SQL, through an engine, a connection or a session of SQLAlchemy.

SQLAlchemy manages the connections and ends their transactions. The statement of a call goes
straight to the driver, so that SQLAlchemy's errors, events and echo see no key.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast

from sqlalchemy import Connection, Engine, exc
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from ..errors import InvalidArgument
from . import AnyTransport, Rows, is_one_of
from .sql import failure_of, identity_of


class SqlalchemyTransport(AnyTransport):
    """Calls through SQLAlchemy over psycopg 3, or in the async form over psycopg 3 or asyncpg."""

    def __init__(
        self, source: Any, claims: Mapping[str, Any] | None, *, is_async: bool = False
    ) -> None:
        super().__init__(is_async=is_async)
        identity = identity_of(claims)
        if isinstance(source, Engine | Connection | AsyncEngine | AsyncConnection):
            self._require(source)
        self._source = source
        # A copy through JSON, so that later changes of the caller do not reach the calls.
        self._claims = None if identity is None else json.loads(identity[0])

    async def _call(self, function: str, arguments: Mapping[str, object]) -> Rows:
        try:
            async with self._opened() as connection:
                self._require(connection)
                raw = connection.get_raw_connection() if self._is_async else connection.connection
                lent = await self._wait(raw)
                driver = lent.driver_connection
                is_asyncpg = is_one_of(driver, "asyncpg.Connection")
                inner = _transport(is_asyncpg)(driver, self._claims, is_async=self._is_async)
                # SQLAlchemy's adapter knows: asyncpg itself always autocommits.
                autocommits = getattr(lent.dbapi_connection, "autocommit", False)
                if not autocommits and inner.is_idle(driver):
                    # SQLAlchemy and its driver both begin a transaction with the first statement,
                    # but SQLAlchemy does not see the statement of a call.
                    await self._wait(connection.exec_driver_sql("select 1"))
                try:
                    return cast(Rows, await self._wait(inner.call(function, arguments)))
                finally:
                    # SQLAlchemy does not notice a lost connection, and would reuse it.
                    if driver.is_closed() if is_asyncpg else driver.closed:
                        await self._wait(connection.invalidate())
        except (exc.SQLAlchemyError, OSError) as problem:
            failure = failure_of(problem)
        raise failure

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[Any]:
        if isinstance(self._source, Engine | AsyncEngine):
            async with self._entered(self._source.connect()) as connection:
                # The driver's transport runs the call in a transaction of its own.
                yield await self._wait(connection.execution_options(isolation_level="AUTOCOMMIT"))
        elif isinstance(self._source, Connection | AsyncConnection):
            yield self._source
        else:
            yield await self._wait(self._source.connection())

    def _require(self, source: Any) -> None:
        """Refuse a driver that does not work, or that binds arguments in the client."""
        dialect, make, drivers = source.dialect, "create_engine", ["psycopg"]
        if self._is_async:
            make, drivers = "create_async_engine", ["asyncpg", "psycopg"]
        if dialect.name != "postgresql" or dialect.driver not in drivers:
            engines = " or ".join(f"{make}('postgresql+{driver}://…')" for driver in drivers)
            raise InvalidArgument(
                detail=f"keylatch does not work with {dialect.name}+{dialect.driver}",
                hint=f"Make the engine with {engines}: these send keys separately from the "
                "statement.",
            )


def _transport(is_asyncpg: bool) -> Callable[..., Any]:
    # Imported here, because only one of the drivers needs to be installed.
    if is_asyncpg:
        from .asyncpg import AsyncpgTransport

        return AsyncpgTransport
    from .psycopg import PsycopgTransport

    return PsycopgTransport
