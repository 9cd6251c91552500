"""`AsyncKeylatch`: the calls of the database, awaited. Its texts are those of `Keylatch`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Self, TypeVar
from uuid import UUID

from . import _calls
from .client import Keylatch
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
from .transports import AsyncTransport, expect
from .transports.replica import AsyncReplicaTransport, async_reading

if TYPE_CHECKING:
    import psycopg
    from postgrest import AsyncPostgrestClient
    from psycopg_pool import AsyncConnectionPool
    from supabase import AsyncClient

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., object])


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
        for one in (client,) if reads is None else (client, reads):
            expect(
                one,
                ["supabase.AsyncClient"],
                ["supabase.Client"],
                "Keylatch.from_supabase",
            )
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
        for one in (client,) if reads is None else (client, reads):
            expect(
                one,
                ["postgrest.AsyncPostgrestClient"],
                ["postgrest.SyncPostgrestClient"],
                "Keylatch.from_postgrest",
            )
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
        for one in (connection_or_pool,) if reads is None else (connection_or_pool, reads):
            expect(
                one,
                ["psycopg.AsyncConnection", "psycopg_pool.AsyncConnectionPool"],
                ["psycopg.Connection", "psycopg_pool.ConnectionPool"],
                "Keylatch.from_psycopg",
            )
        from .transports.psycopg import AsyncPsycopgTransport

        primary = AsyncPsycopgTransport(connection_or_pool, claims)
        replica = None if reads is None else AsyncPsycopgTransport(reads, claims)
        return cls(async_reading(primary, replica, max_lag))

    @_documented_by(Keylatch.issue)
    async def issue(
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
        return await self._run(
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

    @_documented_by(Keylatch.issue_many)
    async def issue_many(
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
        return await self._run(
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

    @_documented_by(Keylatch.rotate)
    async def rotate(
        self,
        key_id: UUID | str,
        *,
        grace: timedelta = timedelta(0),
        expires_at: datetime | None = None,
    ) -> IssuedKey:
        return await self._run(_calls.rotate(key_id, grace=grace, expires_at=expires_at))

    @_documented_by(Keylatch.revoke)
    async def revoke(
        self,
        key_id: UUID | str,
        *,
        reason: str | None = None,
        cascade: bool = False,
        wait_for_replicas: bool = False,
        end_sessions: bool = False,
    ) -> Revocation:
        return await self._run(
            _calls.revoke(
                key_id,
                reason=reason,
                cascade=cascade,
                wait_for_replicas=wait_for_replicas,
                end_sessions=end_sessions,
            )
        )

    @_documented_by(Keylatch.suspend)
    async def suspend(self, key_id: UUID | str) -> Key:
        return await self._run(_calls.suspend(key_id))

    @_documented_by(Keylatch.resume)
    async def resume(self, key_id: UUID | str) -> Key:
        return await self._run(_calls.resume(key_id))

    @_documented_by(Keylatch.list)
    async def list(self, workspace_id: UUID | str) -> tuple[Key, ...]:
        return await self._run(_calls.list_keys(workspace_id))

    @_documented_by(Keylatch.show)
    async def show(self, key_id: UUID | str) -> Key:
        return await self._run(_calls.show(key_id))

    @_documented_by(Keylatch.resolve)
    async def resolve(
        self,
        key: str | Secret,
        *,
        origin: str | None = None,
        workspace_id: UUID | str | None = None,
    ) -> ResolvedKey | None:
        found = await self._run(_calls.resolve(key, origin=origin))
        if found is None and workspace_id is not None:
            return await self.claim_key(key, workspace_id=workspace_id, origin=origin)
        return found

    @_documented_by(Keylatch.claim_key)
    async def claim_key(
        self, key: str | Secret, *, workspace_id: UUID | str, origin: str | None = None
    ) -> ResolvedKey | None:
        return await self._run(_calls.claim(key, workspace_id=workspace_id, origin=origin))

    @_documented_by(Keylatch.unclaimed)
    async def unclaimed(self, workspace_id: UUID | str) -> tuple[UnclaimedKey, ...]:
        return await self._run(_calls.unclaimed(workspace_id))

    @_documented_by(Keylatch.import_keys)
    async def import_keys(
        self, lines: Iterable[Mapping[str, object]], *, dry_run: bool = False
    ) -> ImportReport:
        return await self._run(_calls.import_keys(lines, dry_run=dry_run))

    @_documented_by(Keylatch.resolve_many)
    async def resolve_many(
        self, keys: Iterable[str | Secret], *, origins: Iterable[str | None] | None = None
    ) -> tuple[ResolvedKey | None, ...]:
        return await self._run(_calls.resolve_many(keys, origins=origins))

    @_documented_by(Keylatch.resume_session)
    async def resume_session(self, token: str | Secret, *, slide: bool = False) -> Session | None:
        return await self._run(_calls.resume_session(token, slide=slide))

    @_documented_by(Keylatch.close_session)
    async def close_session(self, token: str | Secret) -> Session:
        return await self._run(_calls.close_session(token))

    @_documented_by(Keylatch.attach_subject)
    async def attach_subject(self, token: str | Secret, *, subject: str) -> Session:
        return await self._run(_calls.attach_subject(token, subject))

    @_documented_by(Keylatch.prune_sessions)
    async def prune_sessions(self, *, batch: int = 10000) -> SessionPruning:
        return await self._run(_calls.prune_sessions(batch=batch))

    @_documented_by(Keylatch.record_usage)
    async def record_usage(self, uses: Iterable[KeyUsage]) -> frozenset[UUID]:
        return await self._run(_calls.record_usage(uses))

    @_documented_by(Keylatch.usage)
    async def usage(self, key_id: UUID | str) -> KeyUsage | None:
        return await self._run(_calls.usage(key_id))

    @_documented_by(Keylatch.events)
    async def events(self, workspace_id: UUID | str) -> tuple[KeyEvent, ...]:
        return await self._run(_calls.events(workspace_id))

    @_documented_by(Keylatch.verify_events)
    async def verify_events(self, workspace_id: UUID | str) -> EventVerification:
        return await self._run(_calls.verify_events(workspace_id))

    @_documented_by(Keylatch.explain)
    async def explain(self, key: str | Secret, *, origin: str | None = None) -> Explanation:
        return await self._run(_calls.explain(key, origin=origin))

    @_documented_by(Keylatch.installation)
    async def installation(self) -> Installation:
        return await self._run(_calls.installation())

    def _on_primary(self) -> AsyncKeylatch:
        """Give the same without its replica."""
        transport = self._transport
        if isinstance(transport, AsyncReplicaTransport):
            return AsyncKeylatch(transport.primary)
        return self

    async def _run(self, call: _calls.Call[T]) -> T:
        return call.decode(await self._transport.call(call.function, call.arguments))
