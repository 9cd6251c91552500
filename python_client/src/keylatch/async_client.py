"""`AsyncKeylatch`: the calls of the database, awaited. Its texts are those of `Keylatch`."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from datetime import timedelta
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self, TypeVar
from uuid import UUID

from . import calls
from .client import Keylatch, as_method
from .errors import NotInstalled
from .models import Revocation
from .transports import AsyncTransport, expect
from .transports.replica import AsyncReplicaTransport, async_reading

if TYPE_CHECKING:
    import asyncpg
    import psycopg
    from asyncpg.pool import PoolConnectionProxy
    from postgrest import AsyncPostgrestClient
    from psycopg_pool import AsyncConnectionPool
    from sqlalchemy.ext.asyncio import (
        AsyncConnection,
        AsyncEngine,
        AsyncSession,
        async_scoped_session,
    )
    from supabase import AsyncClient

P = ParamSpec("P")
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., object])


def awaited(
    describe: Callable[P, calls.Call[T]],
) -> Callable[Concatenate[AsyncKeylatch, P], Coroutine[Any, Any, T]]:
    """Make the method that makes a call and gives its answer to who awaits it."""

    @wraps(describe)
    async def method(self: AsyncKeylatch, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._run(describe(*args, **kwargs))

    as_method(describe, method)
    return method


def _documented_by(twin: Callable[..., object]) -> Callable[[F], F]:
    """Take the docstring of the method of `Keylatch` that does the same."""

    def document(method: F) -> F:
        method.__doc__ = twin.__doc__
        return method

    return document


class AsyncKeylatch:
    """The keys of a database, for asyncio: methods, results and errors are those of `Keylatch`."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    @classmethod
    @_documented_by(Keylatch.from_supabase)
    def from_supabase(
        cls,
        client: AsyncClient,
        *,
        reads: AsyncClient | None = None,
        max_lag: timedelta | None = None,
    ) -> Self:
        expect("AsyncKeylatch.from_supabase", client, reads)
        from .transports.postgrest import AsyncPostgrestTransport

        primary = AsyncPostgrestTransport(client)
        replica = None if reads is None else AsyncPostgrestTransport(reads)
        return cls(async_reading(primary, replica, max_lag))

    @classmethod
    @_documented_by(Keylatch.from_postgrest)
    def from_postgrest(
        cls,
        client: AsyncPostgrestClient,
        *,
        reads: AsyncPostgrestClient | None = None,
        max_lag: timedelta | None = None,
    ) -> Self:
        expect("AsyncKeylatch.from_postgrest", client, reads)
        from .transports.postgrest import AsyncPostgrestTransport

        primary = AsyncPostgrestTransport(client)
        replica = None if reads is None else AsyncPostgrestTransport(reads)
        return cls(async_reading(primary, replica, max_lag))

    @classmethod
    @_documented_by(Keylatch.from_psycopg)
    def from_psycopg(
        cls,
        connection_or_pool: psycopg.AsyncConnection[Any] | AsyncConnectionPool[Any],
        *,
        claims: Mapping[str, Any] | None = None,
        reads: psycopg.AsyncConnection[Any] | AsyncConnectionPool[Any] | None = None,
        max_lag: timedelta | None = None,
    ) -> Self:
        expect("AsyncKeylatch.from_psycopg", connection_or_pool, reads)
        from .transports.psycopg import AsyncPsycopgTransport

        primary = AsyncPsycopgTransport(connection_or_pool, claims)
        replica = None if reads is None else AsyncPsycopgTransport(reads, claims)
        return cls(async_reading(primary, replica, max_lag))

    @classmethod
    @_documented_by(Keylatch.from_sqlalchemy)
    def from_sqlalchemy(
        cls,
        source: AsyncEngine | AsyncConnection | AsyncSession | async_scoped_session[Any],
        *,
        claims: Mapping[str, Any] | None = None,
        reads: AsyncEngine | None = None,
        max_lag: timedelta | None = None,
    ) -> Self:
        expect("AsyncKeylatch.from_sqlalchemy", source, reads)
        from .transports.sqlalchemy import AsyncSqlalchemyTransport

        primary = AsyncSqlalchemyTransport(source, claims)
        replica = None if reads is None else AsyncSqlalchemyTransport(reads, claims)
        return cls(async_reading(primary, replica, max_lag))

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

        A call commits by itself. Inside a transaction that the caller has open on the connection
        it is a savepoint instead: the caller commits, and an error leaves the transaction usable.

        Args:
            pool_or_connection: Its settings and codecs stay as they are. Behind a pooler in
                transaction mode, open it with `statement_cache_size=0`. Other work of the caller
                must not run on the connection during a call. A query logger of the caller sees
                the arguments, and so the keys.
            claims: As for `from_psycopg`.
            reads: The pool of a read replica; see `from_psycopg`.
            max_lag: How old its answers may be; see `from_psycopg`.

        Returns:
            A client; it holds nothing open of its own.

        Raises:
            TypeError: It is neither a pool nor a connection of asyncpg.
            InvalidArgument: The claims are not a JSON object, or `max_lag` is out of its rule.
        """
        expect("AsyncKeylatch.from_asyncpg", pool_or_connection, reads)
        from .transports.asyncpg import AsyncpgTransport

        primary = AsyncpgTransport(pool_or_connection, claims)
        replica = None if reads is None else AsyncpgTransport(reads, claims)
        return cls(async_reading(primary, replica, max_lag))

    issue = awaited(calls.issue)
    issue_many = awaited(calls.issue_many)
    rotate = awaited(calls.rotate)

    @_documented_by(Keylatch.revoke)
    async def revoke(
        self,
        key_id: UUID | str,
        *,
        reason: str | None = None,
        cascade: bool = False,
        wait_for_replicas: bool = False,
    ) -> Revocation:
        wait = calls.as_bool("wait_for_replicas", wait_for_replicas)
        done = await self._run(calls.revoke(key_id, reason=reason, cascade=cascade))
        if wait:
            await self.wait_for_replicas()
        return done

    suspend = awaited(calls.suspend)
    unsuspend = awaited(calls.unsuspend)
    list = awaited(calls.list_keys)
    show = awaited(calls.show)
    retire_workspace = awaited(calls.retire_workspace)
    resolve = awaited(calls.resolve)
    resolve_many = awaited(calls.resolve_many)
    explain = awaited(calls.explain)
    installation = awaited(calls.installation)
    events = awaited(calls.events)
    seal_events = awaited(calls.seal_events)
    verify_events = awaited(calls.verify_events)
    record_usage = awaited(calls.record_usage)
    usage = awaited(calls.usage)
    replay_position = awaited(calls.replay_position)
    wait_for_replicas = awaited(calls.wait_for_replicas)
    resolve_session = awaited(calls.resolve_session)
    close_session = awaited(calls.close_session)
    attach_subject = awaited(calls.attach_subject)
    prune_sessions = awaited(calls.prune_sessions)
    end_sessions = awaited(calls.end_sessions)
    import_keys = awaited(calls.import_keys)
    upgrade_key = awaited(calls.upgrade_key)
    legacy_keys = awaited(calls.legacy_keys)
    revoke_legacy_key = awaited(calls.revoke_legacy_key)

    def _on_primary(self) -> AsyncKeylatch:
        """Give the same without its replica."""
        transport = self._transport
        if isinstance(transport, AsyncReplicaTransport):
            return AsyncKeylatch(transport.primary)
        return self

    async def _run(self, call: calls.Call[T]) -> T:
        try:
            rows = await self._transport.call(call.function, call.arguments)
        except NotInstalled as error:
            missing = call.explain_missing(error)
        else:
            return call.decode(rows)
        raise missing
