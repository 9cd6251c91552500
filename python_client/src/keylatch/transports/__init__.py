"""Transports send calls to the database. A transport has one method, `call`, sync or async."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, Protocol, TypeVar, cast

Rows = Sequence[Mapping[str, object]]

VIEWS = frozenset({"keys", "key_usage", "legacy_keys"})
"""Views that are read like a function: an argument filters by the column of the same name."""
READS = VIEWS | {"explain_key", "list_keys", "resolve_key", "resolve_keys"}
"""Calls that a replica may answer. They only read, so they need no commit."""

T = TypeVar("T")

# The types that each constructor accepts.
_WAYS = {
    "Keylatch.from_supabase": "supabase.Client",
    "AsyncKeylatch.from_supabase": "supabase.AsyncClient",
    "Keylatch.from_postgrest": "postgrest.SyncPostgrestClient",
    "AsyncKeylatch.from_postgrest": "postgrest.AsyncPostgrestClient",
    "Keylatch.from_psycopg": "psycopg.Connection psycopg_pool.ConnectionPool",
    "AsyncKeylatch.from_psycopg": "psycopg.AsyncConnection psycopg_pool.AsyncConnectionPool",
    "Keylatch.from_sqlalchemy": "sqlalchemy.Engine sqlalchemy.Connection sqlalchemy.orm.Session "
    "sqlalchemy.orm.scoped_session",
    "AsyncKeylatch.from_sqlalchemy": "sqlalchemy.ext.asyncio.AsyncEngine "
    "sqlalchemy.ext.asyncio.AsyncConnection sqlalchemy.ext.asyncio.AsyncSession "
    "sqlalchemy.ext.asyncio.async_scoped_session",
    "AsyncKeylatch.from_asyncpg": "asyncpg.Pool asyncpg.Connection "
    "asyncpg.pool.PoolConnectionProxy",
}
# Types that no constructor accepts, by the advice for them.
_NOT_ACCEPTED = {
    "Keylatch.from_psycopg with a connection of psycopg 3 (pip install 'keylatch[psycopg]'): "
    "psycopg2 writes keys into the text of statements": "psycopg2.extensions.connection "
    "psycopg2.pool.AbstractConnectionPool",
    "Keylatch.from_psycopg(connection.connection), after connection.ensure_connection()": (
        "django.db.backends.base.base.BaseDatabaseWrapper django.utils.connection.ConnectionProxy"
    ),
}


class Transport(Protocol):
    """Sends calls to the database, and waits for the answers."""

    def call(self, function: str, arguments: Mapping[str, object]) -> Rows:
        """Call a function of schema `keylatch`, or read a view in `VIEWS`.

        Args:
            function: The name of the function or view.
            arguments: JSON values by name, and a `Secret` where a key goes.

        Returns:
            The rows of the answer as JSON values by column name. A key is wrapped in a `Secret`.

        Raises:
            KeylatchError: For every failure. Errors of libraries never leave a transport.
        """


class AsyncTransport(Protocol):
    """Sends calls to the database without blocking the event loop."""

    async def call(self, function: str, arguments: Mapping[str, object]) -> Rows:
        """As `Transport.call`."""


def finish(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that waits for nothing, without an event loop, and return its result."""
    try:
        work.send(None)
    except StopIteration as end:
        return cast(T, end.value)
    work.close()
    raise RuntimeError("a blocking call waited for an event loop")


class AnyTransport(ABC):
    """A `Transport` or an `AsyncTransport`: `finish` runs the coroutines of the blocking form."""

    def __init__(self, *, is_async: bool) -> None:
        self._is_async = is_async

    def call(self, function: str, arguments: Mapping[str, object]) -> Any:
        """As `Transport.call`, or as `AsyncTransport.call` in the async form."""
        work = self._call(function, arguments)
        return work if self._is_async else finish(work)

    @abstractmethod
    async def _call(self, function: str, arguments: Mapping[str, object]) -> Rows:
        """As `Transport.call`."""

    async def _wait(self, result: Any) -> Any:
        """Return the result of a library's function. The async form awaits it first."""
        return await result if self._is_async else result

    def _entered(self, context: Any) -> AbstractAsyncContextManager[Any]:
        """Wrap a library's context manager of this form, for `async with`."""
        return context if self._is_async else _Entered(context)


class _Entered:
    # A class, because a call enters twice, and `asynccontextmanager` takes longer.
    def __init__(self, context: AbstractContextManager[Any]) -> None:
        self._context = context

    async def __aenter__(self) -> Any:
        return self._context.__enter__()

    async def __aexit__(self, *raised: Any) -> bool | None:
        return self._context.__exit__(*raised)


def is_one_of(value: object, *names: str) -> bool:
    """Check a value's class by names such as `psycopg.Connection`, without importing a library."""
    for name in names:
        module, _, kind = name.rpartition(".")
        found = getattr(sys.modules.get(module), kind, None)
        if isinstance(found, type) and isinstance(value, found):
            return True
    return False


def expect(way: str, source: object, reads: object = None) -> None:
    """Raise `TypeError` for a type that a constructor does not accept, and name what to use."""
    for value in (source,) if reads is None else (source, reads):
        accepted = _WAYS[way].split()
        if is_one_of(value, *accepted):
            continue
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        for other, names in {**_WAYS, **_NOT_ACCEPTED}.items():
            if is_one_of(value, *names.split()):
                raise TypeError(f"for a {kind}, use {other}")
        raise TypeError(f"expected {' or '.join(accepted)}, not {kind}")
