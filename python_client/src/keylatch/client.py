"""`Keylatch`: the calls of the database, blocking."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self, TypeVar
from uuid import UUID

from . import calls
from .errors import NotInstalled
from .models import Revocation
from .transports import Transport, expect
from .transports.replica import ReplicaTransport, reading

if TYPE_CHECKING:
    import psycopg
    from postgrest import SyncPostgrestClient
    from psycopg_pool import ConnectionPool
    from sqlalchemy import Connection, Engine
    from sqlalchemy.orm import Session, scoped_session
    from supabase import Client

P = ParamSpec("P")
T = TypeVar("T")


def as_method(describe: Callable[..., calls.Call[Any]], method: Callable[..., Any]) -> None:
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


def blocking(
    describe: Callable[P, calls.Call[T]],
) -> Callable[Concatenate[Keylatch, P], T]:
    """Make the method that makes a call and waits for its answer."""

    @wraps(describe)
    def method(self: Keylatch, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._run(describe(*args, **kwargs))

    as_method(describe, method)
    return method


class Keylatch:
    """The keys of a database, through a connection that the caller made and closes.

    Every call raises `PermissionDenied` where the row policies or grants refuse, `Unavailable`
    where nothing answers, and `SchemaNotExposed` or `NotInstalled` where the setup is not
    complete; all are `KeylatchError`.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    @classmethod
    def from_supabase(
        cls,
        client: Client,
        *,
        reads: Client | None = None,
        max_lag: timedelta | None = None,
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
        expect("Keylatch.from_supabase", client, reads)
        from .transports.postgrest import PostgrestTransport

        primary = PostgrestTransport(client)
        replica = None if reads is None else PostgrestTransport(reads)
        return cls(reading(primary, replica, max_lag))

    @classmethod
    def from_postgrest(
        cls,
        client: SyncPostgrestClient,
        *,
        reads: SyncPostgrestClient | None = None,
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
        expect("Keylatch.from_postgrest", client, reads)
        from .transports.postgrest import PostgrestTransport

        primary = PostgrestTransport(client)
        replica = None if reads is None else PostgrestTransport(reads)
        return cls(reading(primary, replica, max_lag))

    @classmethod
    def from_psycopg(
        cls,
        connection_or_pool: psycopg.Connection[Any] | ConnectionPool[Any],
        *,
        claims: Mapping[str, Any] | None = None,
        reads: psycopg.Connection[Any] | ConnectionPool[Any] | None = None,
        max_lag: timedelta | None = None,
    ) -> Self:
        """Call in SQL, through psycopg 3.

        A call commits by itself. Inside a transaction that the caller has open it is a
        savepoint instead: the caller commits, and an error leaves the transaction usable.

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
        expect("Keylatch.from_psycopg", connection_or_pool, reads)
        from .transports.psycopg import PsycopgTransport

        primary = PsycopgTransport(connection_or_pool, claims)
        replica = None if reads is None else PsycopgTransport(reads, claims)
        return cls(reading(primary, replica, max_lag))

    @classmethod
    def from_sqlalchemy(
        cls,
        source: Engine | Connection | Session | scoped_session[Any],
        *,
        claims: Mapping[str, Any] | None = None,
        reads: Engine | None = None,
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
        expect("Keylatch.from_sqlalchemy", source, reads)
        from .transports.sqlalchemy import SqlalchemyTransport

        primary = SqlalchemyTransport(source, claims)
        replica = None if reads is None else SqlalchemyTransport(reads, claims)
        return cls(reading(primary, replica, max_lag))

    issue = blocking(calls.issue)
    issue_many = blocking(calls.issue_many)
    rotate = blocking(calls.rotate)

    def revoke(
        self,
        key_id: UUID | str,
        *,
        reason: str | None = None,
        cascade: bool = False,
        wait_for_replicas: bool = False,
    ) -> Revocation:
        """Revoke a key for good. Again is no error. For admins.

        Args:
            key_id: The key to revoke.
            reason: Why, up to 500 characters, for the audit.
            cascade: Also revoke every other key of its rotation family.
            wait_for_replicas: After the commit call `wait_for_replicas`. The key stays revoked
                if the waiting fails. Inside a transaction of your own leave this out: commit,
                then call `wait_for_replicas`.

        Returns:
            Since when the key is revoked. Source: SQL `keylatch.revoke_key`.

        Raises:
            KeyNotFound: There is no such key, or the caller does not administer it.
            InvalidArgument: A value is out of its rule; `detail` names it. With
                `wait_for_replicas`, there is no synchronous standby.
            Unavailable: With `wait_for_replicas`, a standby is behind.
        """
        wait = calls.as_bool("wait_for_replicas", wait_for_replicas)
        done = self._run(calls.revoke(key_id, reason=reason, cascade=cascade))
        if wait:
            self.wait_for_replicas()
        return done

    suspend = blocking(calls.suspend)
    unsuspend = blocking(calls.unsuspend)
    list = blocking(calls.list_keys)
    show = blocking(calls.show)
    retire_workspace = blocking(calls.retire_workspace)
    resolve = blocking(calls.resolve)
    resolve_many = blocking(calls.resolve_many)
    explain = blocking(calls.explain)
    installation = blocking(calls.installation)
    events = blocking(calls.events)
    seal_events = blocking(calls.seal_events)
    verify_events = blocking(calls.verify_events)
    record_usage = blocking(calls.record_usage)
    usage = blocking(calls.usage)
    replay_position = blocking(calls.replay_position)
    wait_for_replicas = blocking(calls.wait_for_replicas)
    resolve_session = blocking(calls.resolve_session)
    close_session = blocking(calls.close_session)
    attach_subject = blocking(calls.attach_subject)
    prune_sessions = blocking(calls.prune_sessions)
    end_sessions = blocking(calls.end_sessions)
    import_keys = blocking(calls.import_keys)
    upgrade_key = blocking(calls.upgrade_key)
    legacy_keys = blocking(calls.legacy_keys)
    revoke_legacy_key = blocking(calls.revoke_legacy_key)

    def _on_primary(self) -> Keylatch:
        """Give the same without its replica."""
        transport = self._transport
        return Keylatch(transport.primary) if isinstance(transport, ReplicaTransport) else self

    def _run(self, call: calls.Call[T]) -> T:
        try:
            rows = self._transport.call(call.function, call.arguments)
        except NotInstalled as error:
            missing = call.explain_missing(error)
        else:
            return call.decode(rows)
        raise missing
