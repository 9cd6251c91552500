"""What carries a call to the database: one method, in a sync and an async form."""

from __future__ import annotations

import json
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager
from typing import Any, Protocol, TypeVar

from ..errors import UnexpectedAnswer
from ..secret import Secret

Rows = Sequence[Mapping[str, object]]

VIEWS = frozenset({"keys", "key_usage", "legacy_keys"})
"""What is read where a function would be called: an argument is the value of a column."""
READS = VIEWS | {"explain_key", "list_keys", "resolve_key", "resolve_keys"}
"""What only reads: a replica may answer it, and its transaction has nothing to commit."""

VOID = ("/declare_scheme",)
"""How the addresses of functions end that return nothing."""

T = TypeVar("T")

# A text of JSON as a whole, or one of the marks between values.
_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{},]')
# What readers of every kind refuse; it stands for a value that Python cannot read.
_UNREADABLE = object()
# Members of an answer that are rows themselves.
_ROWS = ("keys", "lines", "probes")


# What each way takes.
_WAYS: dict[str, tuple[str, ...]] = {
    "Keylatch.from_supabase": ("supabase.Client",),
    "AsyncKeylatch.from_supabase": ("supabase.AsyncClient",),
    "Keylatch.from_postgrest": ("postgrest.SyncPostgrestClient",),
    "AsyncKeylatch.from_postgrest": ("postgrest.AsyncPostgrestClient",),
    "Keylatch.from_psycopg": ("psycopg.Connection", "psycopg_pool.ConnectionPool"),
    "AsyncKeylatch.from_psycopg": ("psycopg.AsyncConnection", "psycopg_pool.AsyncConnectionPool"),
    "Keylatch.from_sqlalchemy": (
        "sqlalchemy.Engine",
        "sqlalchemy.Connection",
        "sqlalchemy.orm.Session",
        "sqlalchemy.orm.scoped_session",
    ),
    "AsyncKeylatch.from_sqlalchemy": (
        "sqlalchemy.ext.asyncio.AsyncEngine",
        "sqlalchemy.ext.asyncio.AsyncConnection",
        "sqlalchemy.ext.asyncio.AsyncSession",
        "sqlalchemy.ext.asyncio.async_scoped_session",
    ),
    "AsyncKeylatch.from_asyncpg": (
        "asyncpg.Pool",
        "asyncpg.Connection",
        "asyncpg.pool.PoolConnectionProxy",
    ),
}
# What is no way in, by what to use for it.
_ADVICE: dict[str, tuple[str, ...]] = {
    "Keylatch.from_psycopg with a connection of psycopg 3 (pip install 'keylatch[psycopg]'): "
    "psycopg2 writes keys into the text of statements": (
        "psycopg2.extensions.connection",
        "psycopg2.pool.AbstractConnectionPool",
    ),
    "Keylatch.from_psycopg(connection.connection), after connection.ensure_connection()": (
        "django.db.backends.base.base.BaseDatabaseWrapper",
        "django.utils.connection.ConnectionProxy",
    ),
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


@asynccontextmanager
async def entered_at_once(context: AbstractContextManager[T]) -> AsyncIterator[T]:
    """Give a blocking context manager to a coroutine that enters it with `async with`."""
    with context as value:
        yield value


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
    _entered = staticmethod(entered_at_once)

    def call(self, function: str, arguments: Mapping[str, object]) -> Rows:
        """As `Transport.call`."""
        return finish(self._call(function, arguments))


class Awaited(Calls):
    """Makes an async transport of `Calls`."""

    _wait = _entered = staticmethod(as_it_is)

    async def call(self, function: str, arguments: Mapping[str, object]) -> Rows:
        """As `Transport.call`."""
        return await self._call(function, arguments)


def read_json(text: str) -> object:
    """Read JSON, each value for itself where Python cannot read all: a number of 5,000 digits.

    No reader of `rows` accepts what then stands for an unreadable value.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise
    except (ValueError, RecursionError):
        return _read_rows(text)


def _read_rows(text: str) -> object:
    text = text.strip()
    if text.startswith("["):
        return [_read_rows(part) for part in _parts(text)]
    if not text.startswith("{"):
        return _UNREADABLE
    row: dict[str, object] = {}
    for member in _parts(text):
        member = member.strip()
        name, end = json.JSONDecoder().raw_decode(member)
        value = member[end:].lstrip().removeprefix(":")
        try:
            row[name] = json.loads(value)
        except (ValueError, RecursionError):
            row[name] = _read_rows(value) if name in _ROWS else _UNREADABLE
    return row


def _parts(text: str) -> Iterator[str]:
    """Give the members of a JSON list or object, by the commas of its first level."""
    depth = start = 0
    for token in _TOKEN.finditer(text):
        mark = token[0]
        if mark in ("[", "{"):
            depth += 1
            start = token.end() if depth == 1 else start
        elif mark in ("]", "}"):
            depth -= 1
        if (depth == 1 and mark == ",") or depth == 0:
            if text[start : token.start()].strip():
                yield text[start : token.start()]
            start = token.end()


def as_rows(answer: object) -> Rows:
    """Give any answer as rows, and hide a new key in it before anything can fail over it."""
    rows: list[dict[str, object]] = []
    for row in answer if isinstance(answer, list) else [answer]:
        # A function that returns nothing answers with an empty text.
        if row == "":
            continue
        if not isinstance(row, dict):
            raise UnexpectedAnswer(detail="the answer is not made of JSON objects")
        key, keys = row.get("key"), row.get("keys")
        if isinstance(keys, list):
            row = {**row, "keys": as_rows(keys)}
        rows.append({**row, "key": Secret(key)} if isinstance(key, str) else row)
    return rows


def plain(value: object) -> object:
    """Give an argument as the wire takes it: a `Secret` as its text, all else as it is."""
    return value.reveal() if isinstance(value, Secret) else value


def dump_json(value: object) -> str:
    """Give a `Batch` or an object as JSON, with the text of each `Secret` in it."""
    return json.dumps(value, default=plain, allow_nan=False)


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
