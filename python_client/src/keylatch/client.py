"""`Keylatch`: the calls of the database, blocking."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Self, TypeVar
from uuid import UUID

from . import _calls
from .models import (
    EventVerification,
    Explanation,
    ImportReport,
    Installation,
    IssuedKey,
    Key,
    KeyEvent,
    KeyUsage,
    ResolvedKey,
    Revocation,
    Session,
    SessionPruning,
    UnclaimedKey,
)
from .secret import Secret
from .transports import Transport, expect
from .transports.replica import ReplicaTransport, reading

if TYPE_CHECKING:
    import psycopg
    from postgrest import SyncPostgrestClient
    from psycopg_pool import ConnectionPool
    from supabase import Client

T = TypeVar("T")


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
        for one in (client,) if reads is None else (client, reads):
            expect(
                one,
                ["supabase.Client"],
                ["supabase.AsyncClient"],
                "AsyncKeylatch.from_supabase",
            )
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
        for one in (client,) if reads is None else (client, reads):
            expect(
                one,
                ["postgrest.SyncPostgrestClient"],
                ["postgrest.AsyncPostgrestClient"],
                "AsyncKeylatch.from_postgrest",
            )
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
        for one in (connection_or_pool,) if reads is None else (connection_or_pool, reads):
            expect(
                one,
                ["psycopg.Connection", "psycopg_pool.ConnectionPool"],
                ["psycopg.AsyncConnection", "psycopg_pool.AsyncConnectionPool"],
                "AsyncKeylatch.from_psycopg",
            )
        from .transports.psycopg import PsycopgTransport

        primary = PsycopgTransport(connection_or_pool, claims)
        replica = None if reads is None else PsycopgTransport(reads, claims)
        return cls(reading(primary, replica, max_lag))

    def issue(
        self,
        workspace_id: UUID | str,
        *,
        kind: str = "publishable",
        label: str = "",
        allowed_origins: Iterable[str] = (),
        scopes: Iterable[str] = (),
        environment: str = "live",
        expires_at: datetime | None = None,
        metadata: Mapping[str, Any] | None = None,
        prefix: str = "wk",
    ) -> IssuedKey:
        """Make a key.

        Args:
            workspace_id: Whose key it becomes.
            kind: `publishable`, to stand in a web page, or `secret`, never to reach a browser.
            label: A name for people, up to 200 characters.
            allowed_origins: Up to 100 canonical origins, `https://client.example` or
                `https://*.client.example`, that may use a publishable key. Without any, no page
                can. Always empty for a secret key.
            scopes: Up to 64 words for what the key may do; the application gives them meaning.
            environment: `live` or `test`.
            expires_at: When it ends, with a time zone; `None` for never.
            metadata: A JSON object of up to 8 kB; `None` for an empty one.
            prefix: The first word of the key, 2 to 12 lower case letters and digits.

        Returns:
            The key, shown this once. Source: SQL `keylatch.issue_key`.

        Raises:
            InvalidArgument: A value is out of its rule; `detail` names it.
            PermissionDenied: The caller does not administer the workspace.
        """
        return self._run(
            _calls.issue(
                workspace_id,
                kind=kind,
                label=label,
                allowed_origins=allowed_origins,
                scopes=scopes,
                environment=environment,
                expires_at=expires_at,
                metadata=metadata,
                prefix=prefix,
            )
        )

    def issue_many(
        self,
        workspace_id: UUID | str,
        *,
        labels: Iterable[str],
        kind: str = "secret",
        allowed_origins: Iterable[str] = (),
        scopes: Iterable[str] = (),
        environment: str = "live",
        expires_at: datetime | None = None,
        metadata: Mapping[str, Any] | None = None,
        prefix: str = "wk",
    ) -> tuple[IssuedKey, ...]:
        """Make a key for each label, all of them or none: for a fleet.

        Args:
            workspace_id: Whose keys they become.
            labels: Up to 100,000 names; over HTTP some thousands, as a request's time is limited.
            kind: This and the others are for all of them, and as for `issue`.
            allowed_origins: As for `issue`.
            scopes: As for `issue`.
            environment: As for `issue`.
            expires_at: As for `issue`.
            metadata: As for `issue`.
            prefix: As for `issue`.

        Returns:
            The keys in the order of the labels, shown this once. Source: SQL
            `keylatch.issue_keys`.

        Raises:
            InvalidArgument: A value is out of its rule; `detail` names it.
            PermissionDenied: The caller does not administer the workspace.
        """
        return self._run(
            _calls.issue_many(
                workspace_id,
                labels=labels,
                kind=kind,
                allowed_origins=allowed_origins,
                scopes=scopes,
                environment=environment,
                expires_at=expires_at,
                metadata=metadata,
                prefix=prefix,
            )
        )

    def rotate(
        self,
        key_id: UUID | str,
        *,
        grace: timedelta = timedelta(0),
        expires_at: datetime | None = None,
    ) -> IssuedKey:
        """Replace a key by a new one with the same properties.

        Args:
            key_id: The key to replace.
            grace: How long the old key lives on, up to 30 days; with 0 it is revoked at once.
                A suspended key can only be rotated with 0.
            expires_at: When the new key ends, with a time zone; `None` for the same as the old.

        Returns:
            The new key, shown this once. Source: SQL `keylatch.rotate_key`.

        Raises:
            KeyNotFound: There is no such key, or it is not the caller's to see.
            KeyNotUsable: It is already rotated, revoked, expired or suspended; see `reason`.
            InvalidArgument: A value is out of its rule; `detail` names it.
        """
        return self._run(_calls.rotate(key_id, grace=grace, expires_at=expires_at))

    def revoke(
        self,
        key_id: UUID | str,
        *,
        reason: str | None = None,
        cascade: bool = False,
        wait_for_replicas: bool = False,
        end_sessions: bool = False,
    ) -> Revocation:
        """End a key for good; nothing brings it back. To do it again is no error.

        Args:
            key_id: The key to end.
            reason: Why, up to 500 characters, for the audit.
            cascade: Also end every other key of its rotation family.
            wait_for_replicas: Return only when every synchronous standby refuses the key too; a
                time-out of the statement ends the waiting and not the revocation. Inside the
                caller's own transaction it is the commit that waits.
            end_sessions: Also end the sessions that visitors opened with it; else they live on.

        Returns:
            Since when it is revoked. Source: SQL `keylatch.revoke_key`.

        Raises:
            KeyNotFound: There is no such key, or it is not the caller's to see.
            InvalidArgument: A value is out of its rule, or there is no synchronous standby to wait
                for, and the key is as it was; `detail` says which.
        """
        return self._run(
            _calls.revoke(
                key_id,
                reason=reason,
                cascade=cascade,
                wait_for_replicas=wait_for_replicas,
                end_sessions=end_sessions,
            )
        )

    def suspend(self, key_id: UUID | str) -> Key:
        """Refuse a key until it is resumed.

        Args:
            key_id: The key.

        Returns:
            The key as it is now. Source: SQL `keylatch.suspend_key`.

        Raises:
            KeyNotFound: There is no such key, or it is not the caller's to see.
            KeyNotUsable: It is revoked or expired; see `reason`.
            InvalidArgument: The id is not a UUID.
        """
        return self._run(_calls.suspend(key_id))

    def resume(self, key_id: UUID | str) -> Key:
        """Accept a suspended key again.

        Args:
            key_id: The key.

        Returns:
            The key as it is now. Source: SQL `keylatch.resume_key`.

        Raises:
            KeyNotFound: There is no such key, or it is not the caller's to see.
            KeyNotUsable: It is revoked or expired; see `reason`.
            InvalidArgument: The id is not a UUID.
        """
        return self._run(_calls.resume(key_id))

    def list(self, workspace_id: UUID | str) -> tuple[Key, ...]:
        """Give all keys of a workspace, dead ones too.

        Args:
            workspace_id: The workspace.

        Returns:
            Its keys, however many; none where the caller does not administer it. Source: SQL
            `keylatch.list_keys`. To filter or page, read the view `keylatch.keys`.

        Raises:
            InvalidArgument: The id is not a UUID.
        """
        return self._run(_calls.list_keys(workspace_id))

    def show(self, key_id: UUID | str) -> Key:
        """Give one key, a dead one too.

        Args:
            key_id: The key.

        Returns:
            The key as it is now. Source: a row of the view `keylatch.keys`.

        Raises:
            KeyNotFound: There is no such key, or it is not the caller's to see.
            InvalidArgument: The id is not a UUID.
        """
        return self._run(_calls.show(key_id))

    def resolve(
        self,
        key: str | Secret,
        *,
        origin: str | None = None,
        workspace_id: UUID | str | None = None,
    ) -> ResolvedKey | None:
        """Ask which living key a text is. For services: role `keylatch_resolver` or service key.

        The check of the origin stops a foreign web page. It does not stop a program, which
        sends what `Origin` it likes.

        Args:
            key: What was presented: any text at all.
            origin: The request's `Origin` header as it came; `None` where there was none, which
                is not the same as an empty one.
            workspace_id: Whose key it would be, where something else than the key says so: what
                is not found is then claimed, see `claim_key`. With `None` nothing is claimed.

        Returns:
            The key, or `None`: unknown, dead, suspended and wrong origin look alike. Source:
            SQL `keylatch.resolve_key`.

        Raises:
            InvalidArgument: `key` or `origin` is not a text, or `workspace_id` not a UUID.
        """
        found = self._run(_calls.resolve(key, origin=origin))
        if found is None and workspace_id is not None:
            return self.claim_key(key, workspace_id=workspace_id, origin=origin)
        return found

    def claim_key(
        self, key: str | Secret, *, workspace_id: UUID | str, origin: str | None = None
    ) -> ResolvedKey | None:
        """Resolve a key that was imported with a salted hash: its first use makes it native.

        Each question may cost slow hashes, as many as `claim_limit` of the database says (10, of
        0.05 to 1 s each): ask where `resolve` found nothing, and limit how often one may ask.

        Args:
            key: What was presented: any text at all.
            workspace_id: Whose key it would be.
            origin: As for `resolve`.

        Returns:
            The key, if it is one of that workspace and good. Source: SQL `keylatch.claim_key`.

        Raises:
            InvalidArgument: `key` or `origin` is not a text, or `workspace_id` not a UUID.
        """
        return self._run(_calls.claim(key, workspace_id=workspace_id, origin=origin))

    def unclaimed(self, workspace_id: UUID | str) -> tuple[UnclaimedKey, ...]:
        """Give the keys that `resolve` finds only after a claim. For admins.

        Args:
            workspace_id: The workspace.

        Returns:
            Its living keys that were imported with a salted hash and not used since; none where
            the caller does not administer it. Source: the view `keylatch.unclaimed_keys`.

        Raises:
            InvalidArgument: The id is not a UUID.
        """
        return self._run(_calls.unclaimed(workspace_id))

    def import_keys(
        self, lines: Iterable[Mapping[str, object]], *, dry_run: bool = False
    ) -> ImportReport:
        """Take over the keys of an older system. For the service key.

        A bad line is refused and costs no other. The same lines again are safe: what is there
        already is left as it is. `keylatch import` does this for a file of any length.

        Args:
            lines: Up to 10,000. Each has `workspace_id`, and either `key` in clear, or `hash` with
                `alg`: `sha256`, `pbkdf2_sha256`, `django` or `bcrypt`. The comment of the SQL
                function names the other fields.
            dry_run: Only say what would come of it.

        Returns:
            What came of each line. Source: SQL `keylatch.import_keys`.

        Raises:
            InvalidArgument: There are too many lines, or a value in one cannot be sent at all;
                `detail` names it, and nothing is imported.
            PermissionDenied: The caller is not a service.
        """
        return self._run(_calls.import_keys(lines, dry_run=dry_run))

    def resolve_many(
        self, keys: Iterable[str | Secret], *, origins: Iterable[str | None] | None = None
    ) -> tuple[ResolvedKey | None, ...]:
        """Ask for a batch what `resolve` asks for one: for gateways.

        Args:
            keys: Up to 1000 presented texts.
            origins: The `Origin` header of each, `None` where there was none; `None` for no
                headers at all.

        Returns:
            For each text in its place the key, or `None`. Source: SQL `keylatch.resolve_keys`.

        Raises:
            InvalidArgument: A value is not a text, there are too many, or origins has another
                length.
            UnexpectedAnswer: The API cuts its answers below the length of the batch.
        """
        return self._run(_calls.resolve_many(keys, origins=origins))

    def resume_session(self, token: str | Secret, *, slide: bool = False) -> Session | None:
        """Ask which open session a token is of. For services, as `resolve`.

        Args:
            token: What the visitor's page sent: any text at all.
            slide: Let it last its whole lifetime again from now on; else nothing is written.

        Returns:
            The session, or `None`: mistyped, expired and closed look alike. Compare its `origin`
            with that of the request. Source: SQL `keylatch.resume_session`.

        Raises:
            InvalidArgument: `token` is not a text.
        """
        return self._run(_calls.resume_session(token, slide=slide))

    def close_session(self, token: str | Secret) -> Session:
        """End a session at once. For services, as `resolve`.

        Args:
            token: Its token.

        Returns:
            What it was. Source: SQL `keylatch.close_session`.

        Raises:
            SessionNotFound: The text is not the token of an open session.
            InvalidArgument: `token` is not a text.
        """
        return self._run(_calls.close_session(token))

    def attach_subject(self, token: str | Secret, *, subject: str) -> Session:
        """Say who the visitor of a session is, once. For services, as `resolve`.

        Args:
            token: Its token.
            subject: The application's own id of the visitor, up to 200 characters.

        Returns:
            The session; the same subject again is no error. Source: SQL `keylatch.attach_subject`.

        Raises:
            SessionNotFound: The text is not the token of an open session.
            LatchViolation: It has another subject already.
            InvalidArgument: A value is out of its rule.
        """
        return self._run(_calls.attach_subject(token, subject))

    def prune_sessions(self, *, batch: int = 10000) -> SessionPruning:
        """Delete expired sessions, which are of no use before, too. For the service key.

        Args:
            batch: How many at most, up to 100,000.

        Returns:
            How many there were: call again while it is as many. Source: SQL
            `keylatch.prune_sessions`.

        Raises:
            InvalidArgument: `batch` is out of its rule.
        """
        return self._run(_calls.prune_sessions(batch=batch))

    def record_usage(self, uses: Iterable[KeyUsage]) -> frozenset[UUID]:
        """Add up how often keys were used. For services; `keylatch.usage` does it by itself.

        Args:
            uses: Sums of up to 10,000 keys: `uses` counts what was not reported yet, from 1 on.

        Returns:
            The keys that another report was counting: report those again. Source: SQL
            `keylatch.record_usage`.

        Raises:
            InvalidArgument: A number or time is out of its rule.
        """
        return self._run(_calls.record_usage(uses))

    def usage(self, key_id: UUID | str) -> KeyUsage | None:
        """Ask when a key was last used, and how often: approximately. For admins.

        Args:
            key_id: The key.

        Returns:
            What services have reported, or `None`: nothing yet, or not the caller's to see.
            Source: a row of the view `keylatch.key_usage`.

        Raises:
            InvalidArgument: The id is not a UUID.
        """
        return self._run(_calls.usage(key_id))

    def events(self, workspace_id: UUID | str) -> tuple[KeyEvent, ...]:
        """Give what happened to the keys of a workspace.

        Args:
            workspace_id: The workspace.

        Returns:
            Its events, the newest first, however many; none where the caller does not administer
            it. Source: SQL `keylatch.list_events`. To filter or page, read the view
            `keylatch.key_events`.

        Raises:
            InvalidArgument: The id is not a UUID.
        """
        return self._run(_calls.events(workspace_id))

    def verify_events(self, workspace_id: UUID | str) -> EventVerification:
        """Compute the chain of a workspace's events again, and find the first broken link.

        Args:
            workspace_id: The workspace.

        Returns:
            Whether they are as they were written. A workspace that the caller does not administer
            has no events. Source: SQL `keylatch.verify_events`.

        Raises:
            InvalidArgument: The id is not a UUID.
        """
        return self._run(_calls.verify_events(workspace_id))

    def explain(self, key: str | Secret, *, origin: str | None = None) -> Explanation:
        """Ask why a text is accepted or refused as a key. For admins, and the service key.

        Args:
            key: What was presented: any text at all.
            origin: The request's `Origin` header as it came; `None` where there was none.

        Returns:
            A verdict, why, and what to do; a key of another workspace is `unknown`. Source: SQL
            `keylatch.explain_key`.

        Raises:
            InvalidArgument: `key` or `origin` is not a text.
        """
        return self._run(_calls.explain(key, origin=origin))

    def installation(self) -> Installation:
        """Ask which database this is: compare the answer of two services.

        Returns:
            The installation's id, its version, and whether this server is a replica. Source:
            SQL `keylatch.installation`.
        """
        return self._run(_calls.installation())

    def _on_primary(self) -> Keylatch:
        """Give the same without its replica."""
        transport = self._transport
        return Keylatch(transport.primary) if isinstance(transport, ReplicaTransport) else self

    def _run(self, call: _calls.Call[T]) -> T:
        return call.decode(self._transport.call(call.function, call.arguments))
