"""Calls in SQL, on a connection or a pool of asyncpg that the caller opened."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any, TypeAlias
from weakref import WeakValueDictionary

import asyncpg

from ..errors import KeylatchError, Unavailable, error_for
from ..secret import mask_keys
from . import VIEWS, Batch, Rows, as_rows, dump_json, plain, read_json
from .claims import BECOME, WHO, identity_of

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    Connection: TypeAlias = asyncpg.Connection | PoolConnectionProxy

_BECOME = BECOME.format("$1", "$2")

# The types of arguments that are texts or integers in a call of `calls`, where they are another
# type in SQL. Every other text is text, and every other integer is integer.
_TYPES = {
    "after": "uuid",
    "ends_at": "timestamptz",
    "expires_at": "timestamptz",
    "from_checkpoint": "int8",
    "grace": "interval",
    "id": "uuid",
    "import_id": "uuid",
    "key_id": "uuid",
    "origins": "text[]",
    "timeout": "interval",
    "workspace_id": "uuid",
}

# A call switches the role within a transaction, so two tasks must not interleave on one
# connection. By the id of the connection, since several clients may share it, and what a pool
# lends has no weak references. Each client holds its connection and the lock.
_locks: WeakValueDictionary[int, asyncio.Lock] = WeakValueDictionary()

ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
"""What asyncpg raises; a time-out is an `OSError`."""


class AsyncpgTransport:
    """Calls on the caller's connection, or on one borrowed from the caller's pool.

    A call is one transaction that commits, or a savepoint inside the transaction that the caller
    has open, which stays open and usable whatever becomes of the call.
    """

    def __init__(self, source: asyncpg.Pool | Connection, claims: Mapping[str, Any] | None) -> None:
        self._source = source
        self._identity = identity_of(claims)
        self._lock = _locks.setdefault(id(source), asyncio.Lock())

    async def call(self, function: str, arguments: Mapping[str, object]) -> Rows:
        """As `Transport.call`."""
        try:
            async with self._connection() as connection:
                return await self._run(connection, function, arguments)
        except ERRORS as problem:
            failure = failure_of(problem)
        # Out of the except block, so that nothing of asyncpg, with its frames, is in the chain.
        raise failure

    async def _run(
        self, connection: Connection, function: str, arguments: Mapping[str, object]
    ) -> Rows:
        inside = connection.is_in_transaction()
        alone = not inside and self._identity is None
        scope = _savepoint(connection) if inside else connection.transaction()
        # One statement outside of a transaction is its own: begin and commit cost two trips.
        async with nullcontext() if alone else scope:
            former = await connection.fetchrow(WHO) if inside and self._identity else None
            if self._identity is not None:
                await connection.fetchrow(_BECOME, *self._identity)
            values = [_value(value) for value in arguments.values()]
            rows = await connection.fetch(_statement(function, arguments), *values)
            found = as_rows([read_json(row[0]) for row in rows])
            if former is not None:
                # `set local` outlives a savepoint. After an error the rollback has undone it.
                await connection.fetchrow(_BECOME, *former)
        return found

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        if isinstance(self._source, asyncpg.Pool):
            async with self._source.acquire() as connection:
                yield connection
        else:
            async with self._lock:
                yield self._source


@asynccontextmanager
async def _savepoint(connection: Connection) -> AsyncIterator[None]:
    """Hold a savepoint; asyncpg's own refuses a transaction that a statement has begun."""
    await connection.execute("savepoint keylatch")
    try:
        yield
    except BaseException:
        # What went wrong before is what the caller needs to hear.
        with suppress(*ERRORS):
            await connection.execute("rollback to savepoint keylatch")
            await connection.execute("release savepoint keylatch")
        raise
    await connection.execute("release savepoint keylatch")


def _statement(function: str, arguments: Mapping[str, object]) -> str:
    """Ask for JSON as PostgREST does, and send each argument as a text that the server casts.

    asyncpg would want a `datetime` for a time and whatever the caller's codecs want for JSON, and
    its own complaint about a value repeats the value.
    """
    casts = {
        f'"{name}"': f"${place}::pg_catalog.text{'[]' if type(value) is list else ''}"
        f"::pg_catalog.{_type(name, value)}"
        for place, (name, value) in enumerate(arguments.items(), 1)
    }
    if function in VIEWS:
        conditions = " and ".join(f"r.{name} = {cast}" for name, cast in casts.items())
        rows = f'keylatch."{function}" as r where {conditions}'
    else:
        given = ", ".join(f"{name} => {cast}" for name, cast in casts.items())
        rows = f'keylatch."{function}"({given}) as r'
    # The names are those of `calls`; no value is in the text.
    return f"select pg_catalog.to_jsonb(r)::pg_catalog.text from {rows}"  # noqa: S608


def _type(name: str, value: object) -> str:
    match value:
        case bool():
            return "bool"
        case int():
            return _TYPES.get(name, "int4")
        case Batch() | dict():
            return "jsonb"
        case list():
            return "text[]"
    return _TYPES.get(name, "text")


def _value(value: object) -> object:
    match value:
        case bool() | int():
            return str(value)
        case Batch() | dict():
            return dump_json(value)
        case list():
            return [plain(one) for one in value]
    return plain(value)


def failure_of(problem: BaseException) -> KeylatchError:
    """Give the error of keylatch for what asyncpg raised, without any row in it.

    Args:
        problem: One of `ERRORS`.

    Returns:
        The error, to be raised outside of the except block.
    """
    sqlstate = getattr(problem, "sqlstate", None)
    if isinstance(problem, asyncpg.PostgresError) and sqlstate is not None:
        return error_for(
            message=getattr(problem, "message", None) or str(problem),
            code=sqlstate,
            detail=getattr(problem, "detail", None),
            hint=getattr(problem, "hint", None),
        )
    detail = f"{type(problem).__name__}: {mask_keys(str(problem)).partition(chr(10))[0]}"
    return Unavailable(
        detail=detail.removesuffix(": "),
        hint="Check that the server runs and that the connection is open.",
    )
