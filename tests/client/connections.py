"""One interface to the caller's connections, sync and async."""

import asyncio
from collections.abc import Callable
from typing import Any, cast

import psycopg
from psycopg.pq import TransactionStatus

from client.system import Blocking
from keylatch import AsyncKeylatch, Keylatch


class CallerConnection:
    """A connection of the caller, sync or async, and clients over it.

    Attributes:
        connection: The connection.
    """

    def __init__(self, url: str, *, is_async: bool, runner: asyncio.Runner, **options: Any) -> None:
        """Open the connection."""
        self._runner = runner
        self._is_async = is_async
        kind: Any = psycopg.AsyncConnection if is_async else psycopg.Connection
        self.connection: Any = self.wait(kind.connect(url, **options))

    def wait(self, result: Any) -> Any:
        """Return the result of a psycopg call, sync or async."""
        return self._runner.run(_as_coroutine(result)) if self._is_async else result

    def ask(self, statement: str, *values: object) -> Any:
        """Run a statement and return its only row, or None if it returns no rows."""
        cursor = self.wait(self.connection.execute(statement, values or None))
        return self.wait(cursor.fetchone()) if cursor.description else None

    def client(self, claims: dict[str, str] | None = None) -> Keylatch:
        """Return a client over the connection."""
        if not self._is_async:
            return Keylatch.from_psycopg(self.connection, claims=claims)
        kl = AsyncKeylatch.from_psycopg(self.connection, claims=claims)
        return cast(Keylatch, Blocking(kl, self._runner))

    @property
    def status(self) -> TransactionStatus:
        """The transaction status of the connection."""
        return TransactionStatus(self.connection.info.transaction_status)


async def _as_coroutine(awaitable: Any) -> Any:
    return await awaitable


Open = Callable[..., CallerConnection]
"""Opens a connection, from a URL and the options of `psycopg.connect`."""
