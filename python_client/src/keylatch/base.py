"""What both clients are: how they are made, and how a call is made through them."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
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
    """Give a method the signature of the call that it makes, as `inspect` and `help` show it.

    Args:
        describe: A function of `calls`.
        method: The method of a client.
    """
    described = inspect.signature(describe)
    # Call[Key] is what the description gives, and Key what the method gives.
    result = str(described.return_annotation).removeprefix("Call[").removesuffix("]")
    this = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    method.__annotations__ = {**describe.__annotations__, "return": result}
    method.__signature__ = described.replace(  # type: ignore[attr-defined]
        parameters=[this, *described.parameters.values()], return_annotation=result
    )


class Client(Generic[TransportT, SupabaseT, PostgrestT, PsycopgT, SqlalchemyT, EngineT]):
    """What `Keylatch` and `AsyncKeylatch` share; the types are what each of them takes."""

    _is_async: ClassVar[bool]
    _wait: Callable[[Any], Awaitable[Any]]

    def __init__(self, transport: TransportT) -> None:
        self._transport: Any = transport

    @classmethod
    def from_supabase(
        cls, client: SupabaseT, *, reads: SupabaseT | None = None, max_lag: timedelta | None = None
    ) -> Self:
        """Call through a client of supabase-py.

        Args:
            client: Signed in as an admin, or made with the service key. The schema is chosen
                here, and a later sign-in or refreshed token is followed.
            reads: The same for a read replica; see `from_psycopg`.
            max_lag: How old its answers may be; see `from_psycopg`.

        Returns:
            A client; it holds nothing open of its own.

        Raises:
            TypeError: The client is of another kind, for example the async one.
            InvalidArgument: `max_lag` is out of its rule.
        """
        cls._check("from_supabase", client, reads)
        from .transports import postgrest

        return cls._over(postgrest.TRANSPORTS[cls._is_async], client, reads, max_lag)

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
            client: Its `auth()` says who calls. The schema is chosen here.
            reads: The same for a read replica; see `from_psycopg`.
            max_lag: How old its answers may be; see `from_psycopg`.

        Returns:
            A client; it holds nothing open of its own.

        Raises:
            TypeError: The client is of another kind, for example the async one.
            InvalidArgument: `max_lag` is out of its rule.
        """
        cls._check("from_postgrest", client, reads)
        from .transports import postgrest

        return cls._over(postgrest.TRANSPORTS[cls._is_async], client, reads, max_lag)

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

        Where the connection opens transactions by itself, and inside one that the caller has
        open, a call is part of it: it commits and rolls back with the caller, and an error leaves
        the transaction usable. Where the connection autocommits, each call commits by itself; so
        does each call through a pool. A service that resolves, caches or counts has no
        transaction to commit: give it a pool.

        Args:
            connection_or_pool: Its settings stay as they are. Behind a pooler in transaction
                mode, open it with `prepare_threshold=None`. Other work of the caller must not
                run on the connection during a call.
            claims: Act as PostgREST would for a token with these claims: the role that they
                name (`anon` without one) and the claims hold for the call and no longer. With
                `None` the connection's own user calls.
            reads: The same for a read replica: it is asked for what only reads, as long as it
                answers, and the primary for all else.
            max_lag: How old an answer of the replica may be, from 10 ms on; where the replica
                cannot be shown to know all that was acknowledged so long ago, the primary answers.
                With `None` it is as old as the replica is behind.

        Returns:
            A client; it holds nothing open of its own.

        Raises:
            TypeError: The connection or pool is of another kind, for example the async one.
            InvalidArgument: The claims are not a JSON object, or `max_lag` is out of its rule.
        """
        cls._check("from_psycopg", connection_or_pool, reads)
        from .transports import psycopg

        return cls._over(
            psycopg.TRANSPORTS[cls._is_async], connection_or_pool, reads, max_lag, claims
        )

    @classmethod
    def from_sqlalchemy(
        cls,
        source: SqlalchemyT,
        *,
        claims: Mapping[str, Any] | None = None,
        reads: EngineT | None = None,
        max_lag: timedelta | None = None,
    ) -> Self:
        """Call in SQL, through SQLAlchemy 2 over psycopg 3, or asyncpg where it is async.

        Over an engine each call is a transaction of its own. Over a connection or a session a
        call is a savepoint in its transaction: it commits and rolls back with the caller, and an
        error of keylatch leaves the transaction usable.

        Keys are bound on the server. They are neither in the text of a statement nor in what
        SQLAlchemy logs.

        Args:
            source: Made with a URL that begins with `postgresql+psycopg://`, or where it is
                async, also with `postgresql+asyncpg://`.
            claims: As for `from_psycopg`.
            reads: The engine of a read replica; see `from_psycopg`.
            max_lag: How old its answers may be; see `from_psycopg`.

        Returns:
            A client; it holds nothing open of its own.

        Raises:
            TypeError: The source is of another kind, for example an async engine.
            InvalidArgument: The driver is another one, such as psycopg2; of a session that shows
                at the first call. Or the claims or `max_lag` are out of their rule.
        """
        cls._check("from_sqlalchemy", source, reads)
        from .transports import sqlalchemy

        return cls._over(sqlalchemy.TRANSPORTS[cls._is_async], source, reads, max_lag, claims)

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
        primary = transport(source, *options)
        if reads is not None:
            from .transports import replica

            replicated: Any = replica.TRANSPORTS[cls._is_async]
            return cls(replicated(primary, transport(reads, *options), max_lag))
        if max_lag is not None:
            raise InvalidArgument.of("max_lag", "is for reads of a replica", "give reads too")
        return cls(primary)

    def _on_primary(self) -> Self:
        """Give the same without its replica."""
        primary = getattr(self._transport, "primary", None)
        return self if primary is None else type(self)(primary)

    async def _answer(self, call: Call[T]) -> T:
        try:
            rows = await self._wait(self._transport.call(call.function, call.arguments))
        except NotInstalled as error:
            missing = call.explain_missing(error)
        else:
            answer = call.decode(rows)
            if call.waits:
                await self._answer(wait_for_replicas())
            return answer
        raise missing
