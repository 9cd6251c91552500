"""Sends calls in SQL, for every driver: the statement, its role, and its transaction."""

from __future__ import annotations

import asyncio
import json
import threading
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import cache
from typing import Any, ClassVar, NamedTuple
from weakref import WeakValueDictionary

from ..arguments import SQL_TYPES, json_object
from ..errors import InvalidArgument, KeylatchError, Unavailable, error_for
from ..secret import mask_keys
from . import VIEWS, AnyTransport, Rows, is_one_of
from .wire import as_rows, dump_json, plain, read_json

BECOME = """
select pg_catalog.set_config('request.jwt.claims', $1::pg_catalog.text, true),
       pg_catalog.set_config('role', $2::pg_catalog.text, true)
"""
"""Sets claims and role for the transaction, as PostgREST does."""
# Returns the arguments with which `BECOME` restores the caller's identity.
_WHO = """
select pg_catalog.current_setting('request.jwt.claims', true),
       pg_catalog.current_setting('role')
"""

# A call switches the role within a transaction, so two threads or tasks must not interleave on
# one connection. Locks are found by the connection's id, because clients may share a connection,
# and asyncpg's pooled connections allow no weak references. Each client keeps both alive.
_locks: WeakValueDictionary[int, Any] = WeakValueDictionary()

Found = Sequence[Sequence[Any]]


def identity_of(claims: Mapping[str, Any] | None) -> tuple[str, str] | None:
    """Turn claims into the values of `BECOME`, or raise `InvalidArgument` for invalid claims."""
    if claims is None:
        return None
    copy = json_object("claims", claims)
    # As in PostgREST, a token without a role is anonymous.
    role = copy.get("role", "anon")
    if not isinstance(role, str):
        raise InvalidArgument.of(
            "claims", f"has a role of type {type(role).__name__}, not a string"
        )
    return json.dumps(copy), role


class Statement(NamedTuple):
    """The function and arguments of a call. A key is a `Secret`, so that no traceback shows it."""

    function: str
    arguments: Mapping[str, object]

    def bound(self) -> tuple[str, list[object]]:
        """Return the statement and its values, for the driver only."""
        types = {name: type_of(name, value) for name, value in self.arguments.items()}
        values = [_text(types[name], value) for name, value in self.arguments.items()]
        return _statement(self.function, tuple(types.items())), values


class SqlCalls(AnyTransport):
    """The calls of every driver.

    If the caller has a transaction open, or the connection opens transactions by itself, a call is
    a savepoint, so that the transaction stays usable after an error. Otherwise each call is a
    transaction of its own.
    """

    _errors: ClassVar[tuple[type[BaseException], ...]]
    # Any other source is a pool: its class is not named, because its library may be missing.
    _connections: ClassVar[tuple[Any, ...]]

    def __init__(
        self, source: Any, claims: Mapping[str, Any] | None, *, is_async: bool = False
    ) -> None:
        super().__init__(is_async=is_async)
        self._source = source
        self._identity = identity_of(claims)
        lock = asyncio.Lock() if is_async else threading.Lock()
        self._lock = _locks.setdefault(id(source), lock)

    @abstractmethod
    def is_idle(self, connection: Any) -> bool:
        """Check that no transaction is open on a connection of the driver."""

    @abstractmethod
    async def _borrowed(self, statement: Statement) -> Found:
        """Make the call `_alone` on a connection of the pool."""

    @abstractmethod
    async def _ask(self, connection: Any, query: str, values: Sequence[object] = ()) -> Found:
        """Run a statement with values bound on the server, and return its rows."""

    @abstractmethod
    def _block(self, connection: Any) -> AbstractAsyncContextManager[Any]:
        """Run a block in a transaction, or in a savepoint if a transaction is open."""

    async def _call(self, function: str, arguments: Mapping[str, object]) -> Rows:
        try:
            found = await self._carry(Statement(function, arguments))
            return as_rows([read_json(row[0]) for row in found])
        except self._errors as problem:
            failure = failure_of(problem, arguments)
        # Outside the except block: the driver's error has frames and texts with the key.
        raise failure

    async def _carry(self, statement: Statement) -> Found:
        if not isinstance(self._source, self._connections):
            return await self._borrowed(statement)
        await self._wait(self._lock.acquire())
        try:
            is_alone = _autocommits(self._source) and self.is_idle(self._source)
            return await (self._alone if is_alone else self._within)(self._source, statement)
        finally:
            self._lock.release()

    async def _alone(self, connection: Any, statement: Statement) -> Found:
        """Make a call that is a transaction of its own."""
        # A single statement is a transaction: BEGIN and COMMIT would cost two round trips.
        if self._identity is None and _autocommits(connection):
            return await self._ask(connection, *statement.bound())
        async with self._block(connection):
            if self._identity is not None:
                await self._ask(connection, BECOME, self._identity)
            return await self._ask(connection, *statement.bound())

    async def _within(self, connection: Any, statement: Statement) -> Found:
        """Make a call in the caller's transaction."""
        # Before the savepoint, because psycopg begins the transaction with its first statement.
        former = await self._ask(connection, _WHO)
        async with self._block(connection):
            if self._identity is None:
                return await self._ask(connection, *statement.bound())
            await self._ask(connection, BECOME, self._identity)
            found = await self._ask(connection, *statement.bound())
            # `set local` outlives a savepoint. After an error, the rollback restores the identity.
            await self._ask(connection, BECOME, tuple(former[0]))
        return found


def _autocommits(connection: Any) -> bool:
    # asyncpg always autocommits.
    return bool(getattr(connection, "autocommit", True))


@cache
def _statement(function: str, types: tuple[tuple[str, str], ...]) -> str:
    """Ask for JSON as PostgREST does, and send each argument as a string that the server casts.

    So conversions of the caller's connection change nothing, and no driver's error repeats a value.
    """
    casts = {
        f'"{name}"': f"${place}::pg_catalog.text{'[]' if kind == 'text[]' else ''}"
        f"::pg_catalog.{kind}"
        for place, (name, kind) in enumerate(types, 1)
    }
    # The names are keylatch's own. They are quoted because `limit` is an SQL keyword.
    if function in VIEWS:
        conditions = " and ".join(f"r.{name} = {cast}" for name, cast in casts.items())
        rows = f"keylatch.{function} as r where {conditions}"
    else:
        given = ", ".join(f"{name} => {cast}" for name, cast in casts.items())
        rows = f"keylatch.{function}({given}) as r"
    return f"select pg_catalog.to_jsonb(r)::pg_catalog.text from {rows}"  # noqa: S608


def type_of(name: str, value: object) -> str:
    """Return the SQL type of an argument."""
    # `batch` is an object in `record_usage`, and a number in `prune_sessions`.
    return "jsonb" if isinstance(value, dict) else SQL_TYPES.get(name, "text")


def _text(kind: str, value: object) -> object:
    if kind == "jsonb":
        return dump_json(value)
    if isinstance(value, list):
        return [plain(one) for one in value]
    return str(value) if isinstance(value, int) else plain(value)


# The errors of the libraries, without a SQLSTATE, for a server that does not answer.
_NO_ANSWER = (
    *("psycopg.OperationalError", "psycopg.InterfaceError", "builtins.OSError"),
    *("asyncpg.PostgresError", "asyncpg.InterfaceError", "asyncpg.InternalClientError"),
    *("sqlalchemy.exc.TimeoutError", "sqlalchemy.exc.ResourceClosedError"),
)


def failure_of(problem: Any, arguments: Mapping[str, object] | None = None) -> KeylatchError:
    """Turn an error of a driver or of SQLAlchemy into keylatch's error, without values of any row.

    Raise the result outside the except block, so that it does not refer to the library's error.
    """
    # SQLAlchemy wraps the driver's error, and its adapter for asyncpg wraps asyncpg's error.
    problem = getattr(problem, "orig", None) or problem
    if is_one_of(problem.__cause__, "asyncpg.PostgresError", "asyncpg.InterfaceError"):
        problem = problem.__cause__
    if isinstance(problem, UnicodeError):
        return InvalidArgument(
            detail=f"a string has characters that the encoding {problem.encoding} does not have"
            if isinstance(problem, UnicodeEncodeError)
            else "a text in the database cannot be read in the connection's encoding",
            hint="Connect with client_encoding=utf8.",
        )
    state = getattr(problem, "sqlstate", None)
    if state is not None:
        # psycopg keeps the texts of the server in `diag`, asyncpg in the error itself.
        if said := getattr(problem, "diag", None):
            texts = (said.message_primary, state, said.message_detail, said.message_hint)
        else:
            texts = (problem.message or str(problem), state, problem.detail, problem.hint)
        return error_for(*texts, arguments=arguments)
    words = mask_keys(str(problem)).partition("\n")[0]
    detail = f"{type(problem).__name__}: {words}".removesuffix(": ")
    if not is_one_of(problem, *_NO_ANSWER):
        return KeylatchError("driver_error", detail=detail)
    return Unavailable(
        detail=detail, hint="Check that the server runs and that the connection is open."
    )
