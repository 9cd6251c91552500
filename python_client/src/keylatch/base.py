"""The base class of both clients: the constructors, and how a client makes a call."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, ClassVar, Generic, Self, TypeVar

from .calls import Call, wait_for_replicas
from .errors import InvalidArgument, NotInstalled
from .transports import expect

T = TypeVar("T")
TransportT = TypeVar("TransportT")
SupabaseT = TypeVar("SupabaseT")
PostgrestT = TypeVar("PostgrestT")
PsycopgT = TypeVar("PsycopgT")
SqlalchemyT = TypeVar("SqlalchemyT")
EngineT = TypeVar("EngineT")


def as_method(describe: Callable[..., Call[Any]], method: Callable[..., Any]) -> None:
    """Give a method the signature of its call, for `inspect` and `help`.

    Args:
        describe: A function of the module `calls`, such as `calls.issue`.
        method: The method of a client.
    """
    described = inspect.signature(describe)
    # The description returns Call[Key]; the method returns Key.
    result = str(described.return_annotation).removeprefix("Call[").removesuffix("]")
    this = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    method.__annotations__ = {**describe.__annotations__, "return": result}
    method.__signature__ = described.replace(  # type: ignore[attr-defined]
        parameters=[this, *described.parameters.values()], return_annotation=result
    )


class Client(Generic[TransportT, SupabaseT, PostgrestT, PsycopgT, SqlalchemyT, EngineT]):
    """The base class of `Keylatch` and `AsyncKeylatch`, with their constructors."""

    _is_async: ClassVar[bool]

    def __init__(self, transport: TransportT) -> None:
        self._transport: Any = transport

    @classmethod
    def from_supabase(
        cls, client: SupabaseT, *, reads: SupabaseT | None = None, max_lag: timedelta | None = None
    ) -> Self:
        """Call through a client of supabase-py.

        Args:
            client: A client that is signed in as an admin, or that was made with the service key.
                keylatch sets the schema, and uses the new token after a later sign-in or refresh.
            reads: A client for a read replica; see `from_psycopg`.
            max_lag: How old answers of the replica may be; see `from_psycopg`.

        Returns:
            A client, which opens no connection of its own.

        Raises:
            TypeError: The client is of another kind, for example the async client.
            InvalidArgument: `max_lag` is not in its range.
        """
        cls._check("from_supabase", client, reads)
        from .transports.postgrest import PostgrestTransport

        return cls._over(PostgrestTransport, client, reads, max_lag)

    @classmethod
    def from_postgrest(
        cls,
        client: PostgrestT,
        *,
        reads: PostgrestT | None = None,
        max_lag: timedelta | None = None,
    ) -> Self:
        """Call through a client of postgrest-py.

        Args:
            client: A client with the caller's token: see its method `auth()`. keylatch sets the
                schema.
            reads: A client for a read replica; see `from_psycopg`.
            max_lag: How old answers of the replica may be; see `from_psycopg`.

        Returns:
            A client, which opens no connection of its own.

        Raises:
            TypeError: The client is of another kind, for example the async client.
            InvalidArgument: `max_lag` is not in its range.
        """
        cls._check("from_postgrest", client, reads)
        from .transports.postgrest import PostgrestTransport

        return cls._over(PostgrestTransport, client, reads, max_lag)

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
            connection_or_pool: The connection or pool. keylatch does not change its settings.
                Behind a pooler in transaction mode, open it with `prepare_threshold=None`. Other
                work of the caller must not run on the connection during a call.
            claims: The claims of a token. Calls then act as PostgREST would for this token. The
                claims and their role (`anon` if they name none) apply to this call only. With
                `None`, calls run as the connection's own user.
            reads: A connection or pool to a read replica. Calls that only read go to the replica
                while it answers; all other calls go to the primary.
            max_lag: How old an answer of the replica may be, at least 10 ms. If the client cannot
                show that the replica is fresh enough, the primary answers. With `None`, there is no
                limit.

        Returns:
            A client, which opens no connection of its own.

        Raises:
            TypeError: The connection or pool is of another kind, for example the async kind.
            InvalidArgument: The claims are not a JSON object, or `max_lag` is not in its range.
        """
        cls._check("from_psycopg", connection_or_pool, reads)
        from .transports.psycopg import PsycopgTransport

        return cls._over(PsycopgTransport, connection_or_pool, reads, max_lag, claims)

    @classmethod
    def from_sqlalchemy(
        cls,
        source: SqlalchemyT,
        *,
        claims: Mapping[str, Any] | None = None,
        reads: EngineT | None = None,
        max_lag: timedelta | None = None,
    ) -> Self:
        """Call in SQL, through SQLAlchemy 2 over psycopg 3, or over asyncpg in async code.

        Over an engine, each call is a transaction of its own. Over a connection or a session, a
        call is a savepoint in the caller's transaction: it commits and rolls back with the
        caller, and an error of keylatch leaves the transaction usable.

        The server binds the keys, so they appear neither in a statement's text nor in
        SQLAlchemy's log.

        Args:
            source: An engine, connection or session, made with a URL that begins with
                `postgresql+psycopg://`, or for async code with `postgresql+asyncpg://`.
            claims: As for `from_psycopg`.
            reads: The engine of a read replica; see `from_psycopg`.
            max_lag: How old answers of the replica may be; see `from_psycopg`.

        Returns:
            A client, which opens no connection of its own.

        Raises:
            TypeError: The source is of another kind, for example an async engine.
            InvalidArgument: The driver is not supported, such as psycopg2 (a session raises this at
                the first call), or `claims` or `max_lag` is not valid.
        """
        cls._check("from_sqlalchemy", source, reads)
        from .transports.sqlalchemy import SqlalchemyTransport

        return cls._over(SqlalchemyTransport, source, reads, max_lag, claims)

    @classmethod
    def _check(cls, way: str, source: object, reads: object) -> None:
        expect(f"{'AsyncKeylatch' if cls._is_async else 'Keylatch'}.{way}", source, reads)

    @classmethod
    def _over(
        cls,
        transport: Callable[..., Any],
        source: object,
        reads: object,
        max_lag: timedelta | None,
        *options: object,
    ) -> Self:
        form = {"is_async": cls._is_async}
        primary: Any = transport(source, *options, **form)
        if reads is not None:
            from .transports.replica import ReplicaTransport

            replica = transport(reads, *options, **form)
            replicated: Any = ReplicaTransport(primary, replica, max_lag, **form)
            return cls(replicated)
        if max_lag is not None:
            raise InvalidArgument.of("max_lag", "needs a replica", "Give reads as well.")
        return cls(primary)

    def _on_primary(self) -> Self:
        """Return the same client without its replica."""
        primary = getattr(self._transport, "primary", None)
        return self if primary is None else type(self)(primary)

    async def _answer(self, call: Call[T]) -> T:
        try:
            rows = self._transport.call(call.function, call.arguments)
            if self._is_async:
                rows = await rows
        except NotInstalled as error:
            missing = call.explain_missing(error)
        else:
            answer = call.decode(rows)
            if call.waits:
                await self._answer(wait_for_replicas())
            return answer
        raise missing
