"""One interface to SQLAlchemy's engines, connections and sessions, sync and async."""

import asyncio
from collections.abc import Callable
from typing import Any, cast

import sqlalchemy
from sqlalchemy import URL, make_url
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from client.system import Blocking
from keylatch import AsyncKeylatch, Keylatch

DRIVERS = ("psycopg", "psycopg-async", "asyncpg-async")
"""The drivers that keylatch works with. The name of an async engine ends in `-async`."""


def url_for(url: str, driver: str) -> URL:
    """Convert a PostgreSQL URL to the form that SQLAlchemy needs for a driver."""
    made = make_url(url).set(drivername=f"postgresql+{driver.removesuffix('-async')}")
    if driver == "asyncpg-async":
        made = made.difference_update_query(["sslmode"]).update_query_dict({"ssl": "disable"})
    return made


class Alchemy:
    """An engine over one driver, with connections, sessions and clients on it.

    Attributes:
        engine: The engine, sync or async.
        is_async: Whether the engine is async.
    """

    def __init__(self, url: str, driver: str, runner: asyncio.Runner, **options: Any) -> None:
        """Make the engine; options go to SQLAlchemy."""
        self.is_async = driver.endswith("-async")
        self._runner = runner
        make: Callable[..., Any] = (
            create_async_engine if self.is_async else sqlalchemy.create_engine
        )
        self.engine = make(url_for(url, driver), **options)

    def wait(self, result: Any) -> Any:
        """Return the result of a SQLAlchemy call, sync or async."""
        return self._runner.run(_as_coroutine(result)) if self.is_async else result

    def open(self, kind: str) -> Any:
        """Open a new connection or session."""
        if kind == "connection":
            return self.wait(_opened(self.engine) if self.is_async else self.engine.connect())
        return AsyncSession(self.engine) if self.is_async else Session(self.engine)

    def ask(self, source: Any, statement: str) -> Any:
        """Run a statement and return its only row."""
        row = self.wait(source.execute(sqlalchemy.text(statement))).one()
        return tuple(row)

    def client(self, source: Any, claims: dict[str, str] | None = None, **more: Any) -> Keylatch:
        """Return a client over an engine, a connection or a session."""
        if not self.is_async:
            return Keylatch.from_sqlalchemy(source, claims=claims, **more)
        kl = AsyncKeylatch.from_sqlalchemy(source, claims=claims, **more)
        return cast(Keylatch, Blocking(kl, self._runner))


async def _opened(engine: Any) -> Any:
    return await engine.connect()


async def _as_coroutine(awaitable: Any) -> Any:
    return await awaitable
