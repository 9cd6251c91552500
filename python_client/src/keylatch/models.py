"""The results of the calls: frozen dataclasses."""

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
    """The metadata of a key: a dict that `json.dumps` accepts. Its first level is read-only."""

    __slots__ = ()

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise TypeError("metadata of a result is read-only; make a copy with dict(metadata)")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> tuple[object, ...]:
        # By default, pickle and copy would add item by item, which is refused.
        return (type(self), (dict(self),))


class Row:
    """A row of an answer.

    If Python cannot read a value of a row in a list, the value is left out, and using the value
    raises `UnreadableRow`. All other values and rows can be used.
    """

    __slots__ = ()

    # Hidden from type checkers, which would otherwise accept any attribute name.
    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> NoReturn:
            """Raise for a missing attribute, such as a value that was left out."""
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
                hint="Replace the value in SQL by a value that Python can read.",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedKey(Row):
    """A new key, shown only here. Source: `issue_key` and `rotate_key`."""

    key: Secret  #: The key itself; `key.reveal()` gives the text.
    id: UUID  #: Names the key in every other call.
    workspace_id: UUID  #: The workspace of the key.
    kind: str  #: `publishable` or `secret`.
    environment: str  #: `live` or `test`.
    masked_key: str  #: For people to tell keys apart: `wk_sk_live_...abcd`.
    #: The first 8 hex characters of the stored hash. Compare it with `keylatch.fingerprint` of the
    #: text that a service got.
    fingerprint: str
    label: str  #: A name for people.
    allowed_origins: tuple[str, ...]  #: The canonical origins that may use a publishable key.
    scopes: tuple[str, ...]  #: The application's words for what the key may do.
    metadata: Mapping[str, Any] = field(hash=False)  #: The application's JSON object.
    expires_at: datetime | None  #: When the key expires, UTC; `None` for never.
    rotated_from: UUID | None  #: The key that this one succeeds.
    created_at: datetime  #: When the key was made, UTC, by the server's clock.
    created_by: UUID | None  #: The user who made it; `None` for a service.


@dataclass(frozen=True, slots=True, kw_only=True)
class Key(Row):
    """A key as its admin sees it. Source: a row of `keylatch.keys`."""

    id: UUID  #: Names the key in every call.
    workspace_id: UUID  #: The workspace of the key.
    kind: str  #: `publishable` or `secret`.
    environment: str  #: `live` or `test`.
    public_key: str | None  #: The whole key if it is publishable; `None` for a secret one.
    masked_key: str  #: For people to tell keys apart: `wk_sk_live_...abcd`.
    fingerprint: str  #: The first 8 hex characters of the hash. Source: `keylatch.fingerprint`.
    label: str  #: A name for people.
    metadata: Mapping[str, Any] = field(hash=False)  #: The application's JSON object.
    allowed_origins: tuple[str, ...]  #: The canonical origins that may use a publishable key.
    scopes: tuple[str, ...]  #: The application's words for what the key may do.
    expires_at: datetime | None  #: When the key expires or expired, UTC; `None` for never.
    suspended_at: datetime | None  #: Since when the key is suspended, UTC.
    superseded_at: datetime | None  #: When a rotation with grace replaced it, UTC.
    revoked_at: datetime | None  #: When the key was revoked, UTC.
    revoked_by: UUID | None  #: The user who revoked it; `None` for a service.
    revoke_reason: str | None  #: The reason that the caller of the revocation gave.
    rotated_from: UUID | None  #: The key that this one succeeds.
    created_at: datetime  #: When the key was made, UTC; for an imported key, as the import says.
    created_by: UUID | None  #: The user who made it; `None` for a service.
    updated_at: datetime  #: When the row last changed, UTC.
    imported_at: datetime | None  #: When the key was imported, UTC; `None` if it was made here.
    status: str  #: `active`, `superseded`, `suspended`, `expired` or `revoked`.


@dataclass(frozen=True, slots=True, kw_only=True)
class Revocation(Row):
    """What a revocation did. Source: `revoke_key`."""

    id: UUID  #: The key.
    revoked_at: datetime  #: When the key was revoked, UTC, by the server's clock.
    already_revoked: bool  #: Whether it was revoked before; then this call changed nothing.
    also_revoked: tuple[UUID, ...]  #: The other keys of its rotation family, revoked by this call.


@dataclass(frozen=True, slots=True, kw_only=True)
class Retirement(Row):
    """What a call did to many keys. Source: `retire_workspace`, `finish_import`, `end_scheme`."""

    revoked: int  #: How many keys this call revoked; for `end_scheme`, how many got the expiry.
    is_done: bool  #: Whether no key is left for another call.


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedKey(Row):
    """The active key of a presented text. Source: `resolve_key`."""

    key_id: UUID  #: The key.
    workspace_id: UUID  #: The workspace that the request belongs to.
    kind: str  #: `publishable` (names a workspace and proves nothing) or `secret`.
    environment: str  #: `live` or `test`.
    scopes: tuple[str, ...]  #: The application's words for what the key may do.
    metadata: Mapping[str, Any] = field(hash=False)  #: The application's JSON object.
    #: When the key expires, UTC; `None` for never. No cache may keep it longer.
    expires_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation(Row):
    """Why a text resolves or not. Source: `explain_key`."""

    #: `malformed`, `checksum_failed`, `unknown`, `revoked`, `expired`, `suspended`,
    #: `secret_in_browser`, `origin_required`, `origin_denied` or `valid`: the first that applies.
    verdict: str
    detail: str | None  #: Why, in a sentence.
    hint: str | None  #: What to do.
    key_id: UUID | None  #: The key; `None` if none was found.
    #: The first 8 hex characters of the text's hash. `Key.fingerprint` differs for another text.
    fingerprint: str
    expires_at: datetime | None  #: When the key expires or expired, UTC; `None` for never.


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation(Row):
    """Identifies the database, for comparing two services. Source: `installation`."""

    id: UUID  #: Made when the schema was installed. A copy of the database has the same id.
    schema_version: str  #: The version of the keylatch schema.
    modules: tuple[str, ...]  #: The modules that are installed beside the core.
    installed_at: datetime  #: When the schema was installed, UTC.
    database_name: str  #: The name of the database.
    database_oid: int  #: Its number in the PostgreSQL cluster.
    #: The PostgreSQL cluster: equal on primary and replica, different after a dump was restored
    #: into another cluster.
    system_identifier: str
    is_replica: bool  #: Whether this server is a read replica.
    #: How far the replica is behind, in seconds; 0 on a primary, `None` if it is not known.
    replica_lag_seconds: float | None
    #: The database where keylatch was installed: `system_identifier/database_oid/timeline`. A copy
    #: and a restored dump keep the old value.
    made_in: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyEvent(Row):
    """Something that happened to a key. Source: a row of `keylatch.key_events`."""

    id: UUID  #: Names the event.
    workspace_id: UUID  #: The workspace of the key.
    key_id: UUID  #: The key.
    event: str  #: The kind of event, such as `issued`. The comment of the view lists all kinds.
    occurred_at: datetime  #: When, UTC, by the server's clock.
    user_id: UUID | None  #: The signed-in user; `None` if there was none.
    role: str  #: The role that the session used.
    login: str  #: The role that logged in.
    address: str | None  #: The sender's address. The request claims it; it is not verified.
    agent: str | None  #: Its User-Agent, or the session's `application_name`.
    reason: str | None  #: Why the key was revoked, for a revocation.
    #: The old and new value of each public field that changed; for `metadata`, digests.
    changes: Mapping[str, Any] = field(hash=False)
    checkpoint: int | None  #: The checkpoint that seals the event; `None` until it is sealed.


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealing(Row):
    """What a call of `seal_events` did. Source: `seal_events`."""

    checkpoint: int | None  #: The last checkpoint that this call made; `None` if it made none.
    events: int  #: How many events this call sealed.
    is_done: bool  #: Whether no unsealed event that the call could see is left.


@dataclass(frozen=True, slots=True, kw_only=True)
class EventVerification(Row):
    """Whether every sealed event is unchanged. Source: `verify_events`."""

    is_intact: bool  #: Whether every checkpoint that was checked matches its events.
    checkpoints: int  #: How many checkpoints were checked.
    events: int  #: How many events were checked.
    unsealed: int  #: How many events are not sealed yet.
    next_checkpoint: int | None  #: The checkpoint to continue with; `None` if all are checked.
    broken_checkpoint: int | None  #: The first checkpoint that does not match, or `None`.
    problem: str | None  #: What is wrong with the broken checkpoint.
    digest: str | None  #: The digest of the last checkpoint that matches, in hex.


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyUsage(Row):
    """How often a key was used, and when last, as services reported. Source: `key_usage`."""

    key_id: UUID  #: The key.
    last_used_at: datetime  #: The last use that was reported, UTC.
    uses: int  #: How many uses were reported in all.


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayPosition(Row):
    """A server's position in the write-ahead log. Source: `replay_position`."""

    system_identifier: str  #: The PostgreSQL cluster.
    #: Positions of two timelines cannot be compared. `None` on a replica that receives no stream,
    #: and so is not up to date.
    timeline: int | None
    is_replica: bool  #: Whether the server is a read replica.
    #: In bytes: what a primary has flushed, or a replica has replayed; `None` if it is not known.
    position: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaWait(Row):
    """The replicas that `wait_for_replicas` waited for. Source: `wait_for_replicas`."""

    is_synchronous: bool  #: Whether all synchronous standbys have replayed the earlier commits.
    waited_for: int  #: How many synchronous standbys there are.


@dataclass(frozen=True, slots=True, kw_only=True)
class Session(Row):
    """A visitor's session as the application sees it. Source: `resolve_session`."""

    session_id: UUID  #: Names the session in logs and tables, where the token must not appear.
    workspace_id: UUID  #: The workspace of its key.
    key_id: UUID  #: The key that opened the session, active or not.
    origin: str  #: The origin of the page that opened it.
    subject: str | None  #: The application's own id of the visitor; `None` until it is attached.
    expires_at: datetime  #: When the session expires, UTC.


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionPruning(Row):
    """What a call of `prune_sessions` did. Source: `prune_sessions`."""

    pruned: int  #: How many expired sessions it deleted.


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionEnding(Row):
    """What a call of `end_sessions` did. Source: `end_sessions`."""

    id: UUID  #: The key.
    revoked_at: datetime  #: When the key was revoked, UTC, by the server's clock.
    already_revoked: bool  #: Whether it was revoked before this call.
    ended: int  #: How many open sessions this call ended, counted up to 100,000.


@dataclass(frozen=True, slots=True, kw_only=True)
class LegacyKey(Row):
    """A key with a salted hash, upgraded by its first use. Source: `keylatch.legacy_keys`."""

    id: UUID  #: Names the legacy key.
    workspace_id: UUID  #: Its workspace.
    scheme: str  #: How its hash was made, for example `bcrypt`.
    masked_key: str  #: For people to tell keys apart; `...` if the import gave none.
    label: str  #: A name for people.
    kind: str  #: `publishable` or `secret`.
    environment: str  #: `live` or `test`.
    expires_at: datetime | None  #: When the key expires, UTC; `None` for never.
    suspended_at: datetime | None  #: Since when the key is suspended, UTC.
    revoked_at: datetime | None  #: When the key was revoked, UTC.
    imported_at: datetime  #: When the key was imported, UTC.
    upgraded_at: datetime | None  #: When its first use upgraded it, UTC; `None` while it waits.
    key_id: UUID | None  #: The key that it became; `None` while it waits.
    status: str  #: `waiting`, `suspended`, `expired`, `revoked` or `upgraded`.


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOutcome(Row):
    """What happened to one line of an import. Source: `import_keys`."""

    position: int  #: The place of the line in its batch, from 1.
    #: `imported` (a key now), `waiting` (a legacy key until its first use), `moved` (a known key:
    #: the line revoked it, suspended it or shortened its life), `changed` (its label or scopes),
    #: `exists` (a known key, not changed) or `refused`.
    outcome: str
    key_id: UUID | None  #: The key; `None` for a refused line, and for a new key in a dry run.
    slug: str | None  #: Why the line was refused, for programs; else `None`.
    detail: str | None  #: Why the line was refused, or a note about the key.
    hint: str | None  #: What to do about a refused line.


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportProbe(Row):
    """The verdict on a key that was tried after an import. Source: `import_keys`."""

    position: int  #: The place of the key among the probes, from 1.
    verdict: str  #: As `Explanation.verdict`.
    key_id: UUID | None  #: The key that was found, or `None`.


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportReport(Row):
    """What happened to the lines of an import. Source: `import_keys`."""

    imported: int  #: How many lines became keys.
    waiting: int  #: How many lines became legacy keys that wait for their first use.
    moved: int  #: How many lines revoked, suspended or shortened a known key.
    existing: int  #: How many lines were known keys and changed nothing.
    refused: int  #: How many lines were refused.
    lines: tuple[ImportOutcome, ...]  #: What happened to each line, in order.
    changed: int  #: How many lines changed the label or the scopes of a known key.
    import_id: UUID  #: The import; the same for all batches of one file.
    probes: tuple[ImportProbe, ...]  #: The verdict on each probe.
