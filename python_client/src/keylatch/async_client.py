"""`AsyncKeylatch`: the client for asyncio."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from datetime import timedelta
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self, TypeVar

from . import calls
from .base import Client, as_method
from .transports import AsyncTransport

if TYPE_CHECKING:
    import asyncpg
    import psycopg
    import supabase
    from asyncpg.pool import PoolConnectionProxy
    from postgrest import AsyncPostgrestClient
    from psycopg_pool import AsyncConnectionPool
    from sqlalchemy.ext.asyncio import (
        AsyncConnection,
        AsyncEngine,
        AsyncSession,
        async_scoped_session,
    )

    _Base = Client[
        AsyncTransport,
        supabase.AsyncClient,
        AsyncPostgrestClient,
        psycopg.AsyncConnection[Any] | AsyncConnectionPool[Any],
        AsyncEngine | AsyncConnection | AsyncSession | async_scoped_session[Any],
        AsyncEngine,
    ]
else:
    _Base = Client

P = ParamSpec("P")
T = TypeVar("T")


def awaited(
    describe: Callable[P, calls.Call[T]],
) -> Callable[Concatenate[AsyncKeylatch, P], Coroutine[Any, Any, T]]:
    """Build the client method for a call: the caller awaits the answer."""

    @wraps(describe)
    async def method(self: AsyncKeylatch, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._answer(describe(*args, **kwargs))

    as_method(describe, method)
    return method


class AsyncKeylatch(_Base):
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
            pool_or_connection: The pool or connection. keylatch does not change its settings and
                codecs. Behind a pooler in transaction mode, open it with `statement_cache_size=0`.
                Other work of the caller must not run on the connection during a call. A query
                logger of the caller sees the arguments, keys included.
            claims: As for `from_psycopg`.
            reads: The pool of a read replica; see `from_psycopg`.
            max_lag: How old answers of the replica may be; see `from_psycopg`.

        Returns:
            A client, which opens no connection of its own.

        Raises:
            TypeError: The argument is neither a pool nor a connection of asyncpg.
            InvalidArgument: The claims are not a JSON object, or `max_lag` is not in its range.
        """
        cls._check("from_asyncpg", pool_or_connection, reads)
        from .transports.asyncpg import AsyncpgTransport

        return cls._over(AsyncpgTransport, pool_or_connection, reads, max_lag, claims)

    issue = awaited(calls.issue)
    issue_many = awaited(calls.issue_many)
    rotate = awaited(calls.rotate)
    revoke = awaited(calls.revoke)
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
    declare_scheme = awaited(calls.declare_scheme)
    end_scheme = awaited(calls.end_scheme)
    finish_import = awaited(calls.finish_import)
    upgrade_key = awaited(calls.upgrade_key)
    legacy_keys = awaited(calls.legacy_keys)
    revoke_legacy_key = awaited(calls.revoke_legacy_key)
