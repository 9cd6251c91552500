"""What carries a call to the database: one method, in a sync and an async form."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, Generic, Protocol, TypeVar

Rows = Sequence[Mapping[str, object]]

VIEWS = frozenset({"keys", "key_usage", "legacy_keys"})
"""What is read where a function would be called: an argument is the value of a column."""
READS = VIEWS | {"explain_key", "list_keys", "resolve_key", "resolve_keys"}
"""What only reads: a replica may answer it, and its transaction has nothing to commit."""

T = TypeVar("T")

# What each way takes.
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
# What is no way in, by what to use for it.
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
    """A list that is sent as JSON, and not as an array of SQL."""


class Transport(Protocol):
    """Carries calls and waits for the answer."""

    def call(self, function: str, arguments: Mapping[str, object]) -> Rows:
        """Call a function of schema `keylatch`.

        Args:
            function: Its name, or one of `VIEWS`.
            arguments: Its arguments by name: JSON values, and a `Secret` where a key goes.

        Returns:
            The rows of the answer by column, values as JSON has them; a key in them is a
            `Secret`.

        Raises:
            KeylatchError: Whatever went wrong; never an error of a library.
        """


class AsyncTransport(Protocol):
    """Carries calls without blocking the event loop."""

    async def call(self, function: str, arguments: Mapping[str, object]) -> Rows:
        """As `Transport.call`."""


# What both forms do is written once, as coroutines. The blocking form gives them what is there
# already instead of something to wait for, and `finish` runs them without an event loop.


def finish(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that awaits only what `at_once` gives, and give its result."""
    try:
        work.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    work.close()
    raise RuntimeError("a blocking call waited for an event loop")


async def at_once(result: T) -> T:
    """Give the result of a blocking call to a coroutine that awaits it."""
    return result


class EnteredAtOnce(Generic[T]):
    """Gives a blocking context manager to a coroutine that enters it with `async with`."""

    def __init__(self, context: AbstractContextManager[T]) -> None:
        """Take the context manager."""
        self._context = context

    async def __aenter__(self) -> T:
        """Enter it."""
        return self._context.__enter__()

    async def __aexit__(self, *raised: Any) -> bool | None:
        """Leave it."""
        return self._context.__exit__(*raised)


def as_it_is(waiting: T) -> T:
    """Give what the async form awaits or enters."""
    return waiting


class Calls(ABC):
    """The calls of a transport, written once for both forms."""

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
    """Tell whether a value is of a class, `psycopg.Connection`, of a library that may be absent.

    What was never imported has no instances, so nothing is imported.
    """
    for name in names:
        module, _, kind = name.rpartition(".")
        found = getattr(sys.modules.get(module), kind, None)
        if isinstance(found, type) and isinstance(value, found):
            return True
    return False


def expect(way: str, source: object, reads: object = None) -> None:
    """Raise `TypeError` for what a way, `Keylatch.from_psycopg`, does not take; name what does."""
    for value in (source,) if reads is None else (source, reads):
        if is_one_of(value, *_WAYS[way]):
            continue
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        for other, names in {**_WAYS, **_ADVICE}.items():
            if is_one_of(value, *names):
                raise TypeError(f"for a {kind} use {other}")
        raise TypeError(f"expected {' or '.join(_WAYS[way])}, not {kind}")
