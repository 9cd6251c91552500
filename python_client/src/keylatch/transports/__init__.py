"""Transports send calls to the database. A transport has one method, `call`, sync or async."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, Generic, Protocol, TypeVar

Rows = Sequence[Mapping[str, object]]

VIEWS = frozenset({"keys", "key_usage", "legacy_keys"})
"""Views that are read like a function: an argument filters by the column of the same name."""
READS = VIEWS | {"explain_key", "list_keys", "resolve_key", "resolve_keys"}
"""Calls that only read: a replica may answer these calls, and they need no commit."""

T = TypeVar("T")

# The types that each constructor accepts.
_WAYS = {
    "Keylatch.from_supabase": ["supabase.Client"],
    "AsyncKeylatch.from_supabase": ["supabase.AsyncClient"],
    "Keylatch.from_postgrest": ["postgrest.SyncPostgrestClient"],
    "AsyncKeylatch.from_postgrest": ["postgrest.AsyncPostgrestClient"],
    "Keylatch.from_psycopg": ["psycopg.Connection", "psycopg_pool.ConnectionPool"],
    "AsyncKeylatch.from_psycopg": ["psycopg.AsyncConnection", "psycopg_pool.AsyncConnectionPool"],
    "Keylatch.from_sqlalchemy": [
        f"sqlalchemy.{kind}"
        for kind in ("Engine", "Connection", "orm.Session", "orm.scoped_session")
    ],
    "AsyncKeylatch.from_sqlalchemy": [
        f"sqlalchemy.ext.asyncio.{kind}"
        for kind in ("AsyncEngine", "AsyncConnection", "AsyncSession", "async_scoped_session")
    ],
    "AsyncKeylatch.from_asyncpg": [
        f"asyncpg.{kind}" for kind in ("Pool", "Connection", "pool.PoolConnectionProxy")
    ],
}
# Types that no constructor accepts, by the advice for them.
_ADVICE = {
    "Keylatch.from_psycopg with a connection of psycopg 3 (pip install 'keylatch[psycopg]'): "
    "psycopg2 writes keys into the text of statements": [
        f"psycopg2.{kind}" for kind in ("extensions.connection", "pool.AbstractConnectionPool")
    ],
    "Keylatch.from_psycopg(connection.connection), after connection.ensure_connection()": [
        f"django.{kind}"
        for kind in (
            "db.backends.base.base.BaseDatabaseWrapper",
            "utils.connection.ConnectionProxy",
        )
    ],
}


class Batch(list[Any]):
    """A list that is sent as JSON, not as an SQL array."""


class Transport(Protocol):
    """Sends calls to the database, and waits for the answers."""

    def call(self, function: str, arguments: Mapping[str, object]) -> Rows:
        """Call a function of schema `keylatch`.

        Args:
            function: The name of the function, or of a view in `VIEWS`.
            arguments: The arguments by name: JSON values, and a `Secret` where a key goes.

        Returns:
            The rows of the answer as JSON values by column name. A key is wrapped in a
            `Secret`.

        Raises:
            KeylatchError: For every failure. Errors of libraries never leave a transport.
        """


class AsyncTransport(Protocol):
    """Sends calls to the database without blocking the event loop."""

    async def call(self, function: str, arguments: Mapping[str, object]) -> Rows:
        """As `Transport.call`."""


# The code of both forms is written once, as coroutines. In the blocking form, whatever they await
# is done already, so `finish` can run them without an event loop.


def finish(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that awaits only results of `at_once`, and return its result."""
    try:
        work.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    work.close()
    raise RuntimeError("a blocking call waited for an event loop")


async def at_once(result: T) -> T:
    """Wrap the result of a blocking call, so that a coroutine can await it."""
    return result


class EnteredAtOnce(Generic[T]):
    """Wraps a blocking context manager, so that a coroutine can enter it with `async with`."""

    def __init__(self, context: AbstractContextManager[T]) -> None:
        """Wrap the context manager."""
        self._context = context

    async def __aenter__(self) -> T:
        """Enter the wrapped context manager."""
        return self._context.__enter__()

    async def __aexit__(self, *raised: Any) -> bool | None:
        """Leave the wrapped context manager."""
        return self._context.__exit__(*raised)


def as_it_is(waiting: T) -> T:
    """Return an awaitable or an async context manager unchanged: the async form of `at_once`."""
    return waiting


class Calls(ABC):
    """The calls of a transport, written once for the blocking and the async form."""

    _wait: Callable[[Any], Awaitable[Any]]
    _entered: Callable[[Any], AbstractAsyncContextManager[Any]]

    @abstractmethod
    async def _call(self, function: str, arguments: Mapping[str, object]) -> Rows:
        """As `Transport.call`."""


class Blocking(Calls):
    """Makes a blocking transport of `Calls`."""

    _wait = staticmethod(at_once)
    _entered = EnteredAtOnce

    def call(self, function: str, arguments: Mapping[str, object]) -> Rows:
        """As `Transport.call`."""
        return finish(self._call(function, arguments))


class Awaited(Calls):
    """Makes an async transport of `Calls`."""

    _wait = _entered = staticmethod(as_it_is)

    async def call(self, function: str, arguments: Mapping[str, object]) -> Rows:
        """As `Transport.call`."""
        return await self._call(function, arguments)


def is_one_of(value: object, *names: str) -> bool:
    """Check the class of a value by its name, such as `psycopg.Connection`, without importing it.

    A library that was never imported has no instances.
    """
    for name in names:
        module, _, kind = name.rpartition(".")
        found = getattr(sys.modules.get(module), kind, None)
        if isinstance(found, type) and isinstance(value, found):
            return True
    return False


def expect(way: str, source: object, reads: object = None) -> None:
    """Raise `TypeError` for a type that a constructor does not accept, and name what to use."""
    for value in (source,) if reads is None else (source, reads):
        if is_one_of(value, *_WAYS[way]):
            continue
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        for other, names in {**_WAYS, **_ADVICE}.items():
            if is_one_of(value, *names):
                raise TypeError(f"for a {kind}, use {other}")
        raise TypeError(f"expected {' or '.join(_WAYS[way])}, not {kind}")
