"""`Keylatch`, the blocking client, and `AsyncKeylatch`, the client for asyncio."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar, cast

from .calls import Calls
from .errors import InvalidArgument
from .rows import reader
from .transports import AsyncTransport, Transport, expect, finish

if TYPE_CHECKING:
    import asyncpg
    import psycopg
    import psycopg_pool
    import supabase
    from asyncpg.pool import PoolConnectionProxy
    from postgrest import AsyncPostgrestClient, SyncPostgrestClient
    from sqlalchemy import Connection, Engine
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession
    from sqlalchemy.ext.asyncio import async_scoped_session as async_scoped
    from sqlalchemy.orm import Session, scoped_session

TransportT = TypeVar("TransportT")
SupabaseT = TypeVar("SupabaseT")
RestT = TypeVar("RestT")
PsycopgT = TypeVar("PsycopgT")
SqlalchemyT = TypeVar("SqlalchemyT")


class Client(Calls, Generic[TransportT, SupabaseT, RestT, PsycopgT, SqlalchemyT]):
    """The base class of `Keylatch` and `AsyncKeylatch`, with their constructors."""

    _is_async: ClassVar[bool]

    def __init_subclass__(cls) -> None:
        """Make the methods of the two clients."""
        if "_is_async" in vars(cls):
            for name, call in vars(Calls).items():
                if not name.startswith("_"):
                    setattr(cls, name, _method(call, cls._is_async))

    def __init__(self, transport: TransportT) -> None:
        self._transport: Any = transport

    @classmethod
    def from_supabase(
        cls, client: SupabaseT, *, reads: SupabaseT | None = None, max_lag: timedelta | None = None
    ) -> Self:
        """Call through a client of supabase-py.

        Args:
            client: A client with the service key, or signed in as an admin. keylatch sets the
                schema, and uses the new token after a later sign-in or refresh.
            reads: A client for a read replica; see `from_psycopg`.
            max_lag: How old answers of the replica may be; see `from_psycopg`.
        """
        return cls._over_http("from_supabase", client, reads, max_lag)

    @classmethod
    def from_postgrest(
        cls, client: RestT, *, reads: RestT | None = None, max_lag: timedelta | None = None
    ) -> Self:
        """Call through a client of postgrest-py.

        Args:
            client: A client with the caller's token (`auth()`). keylatch sets the schema.
            reads: A client for a read replica; see `from_psycopg`.
            max_lag: How old answers of the replica may be; see `from_psycopg`.
        """
        return cls._over_http("from_postgrest", client, reads, max_lag)

    @classmethod
    def from_psycopg(
        cls,
        connection_or_pool: PsycopgT,
        *,
        claims: Mapping[str, Any] | None = None,
        reads: PsycopgT | None = None,
        max_lag: timedelta | None = None,
    ) -> Self:
        """Call in SQL, through psycopg 3.

        If the caller has a transaction open, or the connection opens transactions by itself, a
        call is part of that transaction: it commits and rolls back with the caller, and an error
        leaves the transaction usable. On a connection in autocommit mode, and through a pool,
        each call commits by itself. Give a pool to a service that resolves keys, caches keys or
        counts uses: it has no transaction to commit.

        Args:
            connection_or_pool: A connection or pool; behind a pooler in transaction mode, one with
                `prepare_threshold=None`. Use the connection for nothing else during a call.
            claims: The claims of a token: each call acts as PostgREST would for this token (as
                `anon` without a role), then undoes it. With `None`, the connection's user acts.
            reads: A connection or pool to a read replica. Calls that only read go to the replica
                while it answers; all other calls go to the primary.
            max_lag: How old an answer of the replica may be, 10 ms to a day; `None` for any age. If
                it is not certain that the replica is fresh enough, the primary answers.
        """
        cls._check("from_psycopg", connection_or_pool, reads)
        from .transports.psycopg import PsycopgTransport

        make = partial(PsycopgTransport, claims=claims)
        return cls._over(make, connection_or_pool, reads, max_lag)

    @classmethod
    def from_sqlalchemy(
        cls,
        source: SqlalchemyT,
        *,
        claims: Mapping[str, Any] | None = None,
        reads: SqlalchemyT | None = None,
        max_lag: timedelta | None = None,
    ) -> Self:
        """Call in SQL, through SQLAlchemy 2 over psycopg 3, or over asyncpg in async code.

        Over an engine, each call is a transaction of its own. Over a connection or a session, a
        call is a savepoint in the caller's transaction: it commits and rolls back with the
        caller, and an error leaves the transaction usable. The server binds the keys: they appear
        neither in a statement's text nor in SQLAlchemy's log.

        Args:
            source: An engine, connection or session with a URL `postgresql+psycopg://…`, or for
                async code also `postgresql+asyncpg://…`.
            claims: As for `from_psycopg`.
            reads: The engine of a read replica; see `from_psycopg`.
            max_lag: How old answers of the replica may be; see `from_psycopg`.

        Raises:
            InvalidArgument: Also for a driver such as psycopg2; with a session, at the first call.
        """
        cls._check("from_sqlalchemy", source, reads)
        from .transports.sqlalchemy import SqlalchemyTransport

        return cls._over(partial(SqlalchemyTransport, claims=claims), source, reads, max_lag)

    @classmethod
    def _check(cls, way: str, source: object, reads: object) -> None:
        expect(f"{'Async' if cls._is_async else ''}Keylatch.{way}", source, reads)

    @classmethod
    def _over_http(cls, way: str, client: object, reads: object, max_lag: timedelta | None) -> Self:
        cls._check(way, client, reads)
        from .transports.postgrest import PostgrestTransport

        return cls._over(PostgrestTransport, client, reads, max_lag)

    @classmethod
    def _over(cls, make: Any, source: object, reads: object, max_lag: timedelta | None) -> Self:
        primary = make(source, is_async=cls._is_async)
        if reads is not None:
            from .transports.replica import ReplicaTransport

            replica = make(reads, is_async=cls._is_async)
            primary = ReplicaTransport(primary, replica, max_lag, is_async=cls._is_async)
        elif max_lag is not None:
            raise InvalidArgument.of("max_lag", "needs a replica", "Give reads as well.")
        return cls(primary)

    def _on_primary(self) -> Self:
        """Return the same client without its replica."""
        return type(self)(getattr(self._transport, "primary", self._transport))

    async def _answer(self, function: str, sent: dict[str, Any], read: Callable[..., Any]) -> Any:
        # An option of the client: the SQL function has no such argument.
        waits = sent.pop("wait_for_replicas", False)
        rows = self._transport.call(function, sent)
        answer = read(await rows if self._is_async else rows, sent)
        if waits:
            waiting = cast(Any, self).wait_for_replicas()
            await waiting if self._is_async else waiting
        return answer


def _method(call: Any, is_async: bool) -> Callable[..., Any]:
    """Make the method of a declared call."""
    function, send, read = call.function, call.send, call.read
    if read is None:
        read = reader(call.__annotations__["return"])
    _, *parameters = inspect.signature(call).parameters.values()
    defaults = {one.name: one.default for one in parameters}
    optional = {name for name, default in defaults.items() if default is None}

    def sent(*args: Any, **kwargs: Any) -> dict[str, Any]:
        call(None, *args, **kwargs)  # Python refuses arguments that the call does not have.
        subject = dict(zip(defaults, args, strict=False))
        arguments: dict[str, Any] = send({**defaults, **subject, **kwargs}, optional)
        return arguments

    if is_async:

        @wraps(call)
        async def awaited(self: Any, /, *args: Any, **kwargs: Any) -> Any:
            return await self._answer(function, sent(*args, **kwargs), read)

        return awaited

    @wraps(call)
    def blocking(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        return finish(self._answer(function, sent(*args, **kwargs), read))

    return blocking


if TYPE_CHECKING:
    _Blocking = Client[
        Transport,
        supabase.Client,
        SyncPostgrestClient,
        psycopg.Connection[Any] | psycopg_pool.ConnectionPool[Any],
        Engine | Connection | Session | scoped_session[Any],
    ]
    _Awaited = Client[
        AsyncTransport,
        supabase.AsyncClient,
        AsyncPostgrestClient,
        psycopg.AsyncConnection[Any] | psycopg_pool.AsyncConnectionPool[Any],
        AsyncEngine | AsyncConnection | AsyncSession | async_scoped[Any],
    ]
else:
    _Blocking = _Awaited = Client


class Keylatch(_Blocking):
    """A client for the keys of a database, over a connection that the caller opens and closes.

    A constructor changes no setting of the connection. It raises `TypeError` for an object of
    another kind, such as an async one, and `InvalidArgument` for wrong `claims` or `max_lag`.

    Every call can raise `InvalidArgument` (a value breaks a rule; `detail` names it),
    `KeyNotFound` or `SessionNotFound` (no such id or token that the caller may see),
    `KeyNotUsable` (the call needs an active key; `reason` says why it is not active),
    `PermissionDenied` (the row policies or grants refuse), `Unavailable` (nothing answers), and
    `SchemaNotExposed` or `NotInstalled` (the setup is not complete). All are `KeylatchError`.
    Each method lists what else it raises. In results of many rows, such as those of `list`, a
    value that Python cannot read raises `UnreadableRow` when you use it.
    """

    _is_async = False


class AsyncKeylatch(_Awaited):
    """A client for the keys of a database, for asyncio.

    Methods, results and errors are the same as in `Keylatch`. Await every call.
    """

    _is_async = True

    @classmethod
    def from_asyncpg(
        cls,
        pool_or_connection: asyncpg.Pool | asyncpg.Connection | PoolConnectionProxy,
        *,
        claims: Mapping[str, Any] | None = None,
        reads: asyncpg.Pool | None = None,
        max_lag: timedelta | None = None,
    ) -> Self:
        """Call in SQL, through asyncpg.

        A call commits by itself. If the caller has a transaction open on the connection, a call
        is a savepoint instead: the caller commits, and an error leaves the transaction usable.

        Args:
            pool_or_connection: A pool or connection; behind a pooler in transaction mode, one with
                `statement_cache_size=0`. Use the connection for nothing else during a call. Your
                own query loggers see the keys.
            claims: As for `from_psycopg`.
            reads: The pool of a read replica; see `from_psycopg`.
            max_lag: How old answers of the replica may be; see `from_psycopg`.
        """
        cls._check("from_asyncpg", pool_or_connection, reads)
        from .transports.asyncpg import AsyncpgTransport

        make = partial(AsyncpgTransport, claims=claims)
        return cls._over(make, pool_or_connection, reads, max_lag)
