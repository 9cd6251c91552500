"""What the calls give back: frozen dataclasses."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn
from uuid import UUID

from .errors import UnreadableRow
from .secret import Secret


class ReadOnlyDict(dict[str, Any]):
    """The metadata of a key: a dict for every reader and for `json.dumps`, and not for writing.

    Only the first level is closed. Source: the `metadata` column, a JSON object.
    """

    __slots__ = ()

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise TypeError("metadata of a result does not change; write dict(metadata) for a copy")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> tuple[object, ...]:
        # Pickle and copy would else fill it item by item, which is refused.
        return (type(self), (dict(self),))


class Row:
    """A row of an answer.

    In a list, a value that Python cannot read costs no other value and no other row: it is left
    out, and whoever uses it gets `UnreadableRow`.
    """

    __slots__ = ()

    # Type checkers would take any name for an attribute.
    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> NoReturn:
            """Refuse a value that was left out; Python asks here for what is not there."""
            kind = type(self)
            if name not in kind.__dataclass_fields__:
                raise AttributeError(f"{kind.__name__} has no attribute {name}")
            id_ = "?"
            for one in ("id", "key_id", "position"):
                with suppress(AttributeError):
                    id_ = str(object.__getattribute__(self, one))
                    break
            raise UnreadableRow(
                detail=f"{name} of the {kind.__name__} {id_} cannot be read",
                hint="Write a value that Python can read, in SQL.",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedKey(Row):
    """A new key, shown only here. Source: `issue_key` and `rotate_key`.

    Attributes:
        key: The key itself; `key.reveal()` gives the text.
        id: Names the key in every other call.
        workspace_id: The workspace of the key.
        kind: `publishable` or `secret`.
        environment: `live` or `test`.
        masked_key: For people to tell keys apart: `wk_sk_live_...abcd`.
        fingerprint: The first 8 hex characters of the hash. Source: `keylatch.fingerprint`.
        label: A name for people.
        allowed_origins: The canonical origins that may use a publishable key.
        scopes: The application's words for what the key may do.
        metadata: The application's JSON object.
        expires_at: When the key expires, UTC; `None` for never.
        rotated_from: The key that this one succeeds.
        created_at: When the key was made, UTC, by the server's clock.
        created_by: The user who made it; `None` for a service.
    """

    key: Secret
    id: UUID
    workspace_id: UUID
    kind: str
    environment: str
    masked_key: str
    fingerprint: str
    label: str
    allowed_origins: tuple[str, ...]
    scopes: tuple[str, ...]
    metadata: Mapping[str, Any] = field(hash=False)
    expires_at: datetime | None
    rotated_from: UUID | None
    created_at: datetime
    created_by: UUID | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Key(Row):
    """A key as its admin sees it. Source: a row of `keylatch.keys`.

    Attributes:
        id: Names the key in every call.
        workspace_id: The workspace of the key.
        kind: `publishable` or `secret`.
        environment: `live` or `test`.
        public_key: The whole key if it is publishable; `None` for a secret one.
        masked_key: For people to tell keys apart: `wk_sk_live_...abcd`.
        fingerprint: The first 8 hex characters of the stored hash. Compare it with
            `keylatch.fingerprint` of the text that a service got.
        label: A name for people.
        metadata: The application's JSON object.
        allowed_origins: The canonical origins that may use a publishable key.
        scopes: The application's words for what the key may do.
        expires_at: When the key expires or expired, UTC; `None` for never.
        suspended_at: Since when the key is suspended, UTC.
        superseded_at: When a rotation with grace replaced it, UTC.
        revoked_at: When the key was revoked, UTC.
        revoked_by: The user who revoked it; `None` for a service.
        revoke_reason: Why, in the words of who revoked it.
        rotated_from: The key that this one succeeds.
        created_at: When the key was made, UTC.
        created_by: The user who made it; `None` for a service.
        updated_at: When the row last changed, UTC.
        imported_at: When the key was imported, UTC; `None` if it was made here.
        status: `active`, `superseded`, `suspended`, `expired` or `revoked`.
    """

    id: UUID
    workspace_id: UUID
    kind: str
    environment: str
    public_key: str | None
    masked_key: str
    fingerprint: str
    label: str
    metadata: Mapping[str, Any] = field(hash=False)
    allowed_origins: tuple[str, ...]
    scopes: tuple[str, ...]
    expires_at: datetime | None
    suspended_at: datetime | None
    superseded_at: datetime | None
    revoked_at: datetime | None
    revoked_by: UUID | None
    revoke_reason: str | None
    rotated_from: UUID | None
    created_at: datetime
    created_by: UUID | None
    updated_at: datetime
    imported_at: datetime | None
    status: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Revocation(Row):
    """What a revocation did. Source: `revoke_key`.

    Attributes:
        id: The key.
        revoked_at: Since when the key is revoked, UTC, by the server's clock.
        already_revoked: Whether it was revoked before this call, which then changed nothing.
        also_revoked: The other keys of its rotation family that this call revoked.
    """

    id: UUID
    revoked_at: datetime
    already_revoked: bool
    also_revoked: tuple[UUID, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Retirement(Row):
    """What a call of `retire_workspace` did. Source: `retire_workspace`.

    Attributes:
        revoked: How many keys this call revoked.
        is_done: Whether no unrevoked key is left.
    """

    revoked: int
    is_done: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedKey(Row):
    """The active key that a text is. Source: `resolve_key`.

    Attributes:
        key_id: The key.
        workspace_id: The workspace that the request belongs to.
        kind: `publishable` (names a workspace and proves nothing) or `secret`.
        environment: `live` or `test`.
        scopes: The application's words for what the key may do.
        metadata: The application's JSON object.
        expires_at: When the key expires, UTC; `None` for never. No cache may keep it longer.
    """

    key_id: UUID
    workspace_id: UUID
    kind: str
    environment: str
    scopes: tuple[str, ...]
    metadata: Mapping[str, Any] = field(hash=False)
    expires_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation(Row):
    """Why a text resolves or does not. Source: `explain_key`.

    Attributes:
        verdict: The first that applies of `malformed`, `checksum_failed`, `unknown`, `revoked`,
            `expired`, `suspended`, `secret_in_browser`, `origin_required`, `origin_denied`,
            `valid`.
        detail: Why, in a sentence.
        hint: What to do.
        key_id: The key; `None` if none was found.
        fingerprint: The first 8 hex characters of the hash of the text. If `Key.fingerprint`
            differs, the stored key is another one.
        expires_at: When the key expires or expired, UTC; `None` for never.
    """

    verdict: str
    detail: str | None
    hint: str | None
    key_id: UUID | None
    fingerprint: str
    expires_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation(Row):
    """Which database this is: compare it between two services. Source: `installation`.

    Attributes:
        id: Made when the schema was installed. A copy of the database has the same id.
        schema_version: The version of the keylatch schema.
        modules: The modules that are installed beside the core.
        installed_at: When the schema was installed, UTC.
        database_name: The name of the database.
        database_oid: Its number in the PostgreSQL cluster.
        system_identifier: The PostgreSQL cluster: the same on primary and replica, another
            one where a dump was restored.
        is_replica: Whether this server is a read replica.
        replica_lag_seconds: How far the replica is behind, in seconds; 0 on a primary, `None`
            if the replica cannot tell.
    """

    id: UUID
    schema_version: str
    modules: tuple[str, ...]
    installed_at: datetime
    database_name: str
    database_oid: int
    system_identifier: str
    is_replica: bool
    replica_lag_seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyEvent(Row):
    """Something that happened to a key. Source: a row of `keylatch.key_events`.

    Attributes:
        id: Names the event.
        workspace_id: The workspace of the key.
        key_id: The key.
        event: A word, such as `issued`; the comment of the view lists all of them.
        occurred_at: When, UTC, by the server's clock.
        user_id: The signed-in user; `None` if there was none.
        role: The role that the session had taken.
        login: The role that had logged in.
        address: Where the request came from, as the request itself says: no proof.
        agent: Its User-Agent, or the session's `application_name`.
        reason: Why, of a revocation.
        changes: Old and new of each public field that changed, by its name; of `metadata` a
            digest.
        checkpoint: The checkpoint that seals the event; `None` until it is sealed.
    """

    id: UUID
    workspace_id: UUID
    key_id: UUID
    event: str
    occurred_at: datetime
    user_id: UUID | None
    role: str
    login: str
    address: str | None
    agent: str | None
    reason: str | None
    changes: Mapping[str, Any] = field(hash=False)
    checkpoint: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealing(Row):
    """What a call of `seal_events` did. Source: `seal_events`.

    Attributes:
        checkpoint: The last checkpoint that this call made; `None` if it made none.
        events: How many events this call sealed.
        is_done: Whether no unsealed event is left that the call could see.
    """

    checkpoint: int | None
    events: int
    is_done: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class EventVerification(Row):
    """Whether sealed events are as they were written. Source: `verify_events`.

    Attributes:
        is_intact: Whether all that was checked fits.
        checkpoints: How many checkpoints were checked.
        events: How many events were checked.
        unsealed: How many events are not sealed yet.
        next_checkpoint: The checkpoint to go on with; `None` if all are checked.
        broken_checkpoint: The first checkpoint that does not fit; `None` if all fit.
        problem: What is wrong with it.
        digest: The digest of the last checkpoint that was checked and fits, in hex.
    """

    is_intact: bool
    checkpoints: int
    events: int
    unsealed: int
    next_checkpoint: int | None
    broken_checkpoint: int | None
    problem: str | None
    digest: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyUsage(Row):
    """When a key was last used and how often, as services reported it. Source: `key_usage`.

    Attributes:
        key_id: The key.
        last_used_at: The last use that was reported, UTC.
        uses: How many uses were reported in all.
    """

    key_id: UUID
    last_used_at: datetime
    uses: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayPosition(Row):
    """How far a server is in the write-ahead log. Source: `replay_position`.

    Attributes:
        system_identifier: The PostgreSQL cluster.
        timeline: The timeline of the position. Positions of two timelines cannot be compared.
            `None` if a replica receives no stream: it is not fresh.
        is_replica: Whether the server is a read replica.
        position: How far it is, in bytes: what a primary has flushed or a replica replayed.
            `None` if the server cannot tell.
    """

    system_identifier: str
    timeline: int | None
    is_replica: bool
    position: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaWait(Row):
    """What a call of `wait_for_replicas` waited for. Source: `wait_for_replicas`.

    Attributes:
        is_synchronous: Whether all synchronous standbys have replayed what was committed before.
        waited_for: How many synchronous standbys there are.
    """

    is_synchronous: bool
    waited_for: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Session(Row):
    """A visitor's session as the application sees it. Source: `resolve_session`.

    Attributes:
        session_id: Names the session where the token must not stand.
        workspace_id: The workspace of its key.
        key_id: The key that opened the session, active or not.
        origin: The origin of the page that opened it.
        subject: The application's own id of the visitor; `None` until it is attached.
        expires_at: When the session expires, UTC.
    """

    session_id: UUID
    workspace_id: UUID
    key_id: UUID
    origin: str
    subject: str | None
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionPruning(Row):
    """What a call of `prune_sessions` did. Source: `prune_sessions`.

    Attributes:
        pruned: How many expired sessions it deleted.
    """

    pruned: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionEnding(Row):
    """What a call of `end_sessions` did. Source: `end_sessions`.

    Attributes:
        id: The key.
        revoked_at: Since when the key is revoked, UTC, by the server's clock.
        already_revoked: Whether it was revoked before this call.
        ended: How many open sessions this call ended, counted up to 100,000.
    """

    id: UUID
    revoked_at: datetime
    already_revoked: bool
    ended: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LegacyKey(Row):
    """A key that was imported with a salted hash: it waits for its first use, or has waited.

    Source: a row of `keylatch.legacy_keys`.

    Attributes:
        id: Names the legacy key.
        workspace_id: Its workspace.
        scheme: How its hash was made, for example `bcrypt`.
        masked_key: For people to tell keys apart; `...` if the import gave none.
        label: A name for people.
        kind: `publishable` or `secret`.
        environment: `live` or `test`.
        expires_at: When the key expires, UTC; `None` for never.
        suspended_at: Since when the key is suspended, UTC.
        revoked_at: When the key was revoked, UTC.
        imported_at: When the key was imported, UTC.
        upgraded_at: When its first use upgraded it, UTC; `None` while it waits.
        key_id: The key that it became; `None` while it waits.
        status: `waiting`, `suspended`, `expired`, `revoked` or `upgraded`.
    """

    id: UUID
    workspace_id: UUID
    scheme: str
    masked_key: str
    label: str
    kind: str
    environment: str
    expires_at: datetime | None
    suspended_at: datetime | None
    revoked_at: datetime | None
    imported_at: datetime
    upgraded_at: datetime | None
    key_id: UUID | None
    status: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOutcome(Row):
    """What happened to one line of an import. Source: `import_keys`.

    Attributes:
        position: The place of the line in its batch, from 1.
        outcome: `imported` (a key now), `waiting` (a legacy key until its first use), `moved` (a
            known key that the line brought closer to its end), `exists` (a known key that stays
            as it is) or `refused`.
        key_id: The key; `None` for a refused line, and where a dry run would make it.
        slug: Why it was refused, for programs; else `None`.
        detail: Why it was refused, or what is to be known of the key, in a sentence.
        hint: What to do about a refused line.
    """

    position: int
    outcome: str
    key_id: UUID | None
    slug: str | None
    detail: str | None
    hint: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportReport(Row):
    """What happened to the lines of an import. Source: `import_keys`.

    Attributes:
        imported: How many lines became keys.
        waiting: How many lines became legacy keys that wait for their first use.
        moved: How many lines brought a known key closer to its end.
        existing: How many lines were known keys that stay as they are.
        refused: How many lines were refused.
        lines: What happened to each, in their order.
    """

    imported: int
    waiting: int
    moved: int
    existing: int
    refused: int
    lines: tuple[ImportOutcome, ...]
