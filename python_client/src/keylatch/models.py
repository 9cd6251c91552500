"""What the calls give back: frozen dataclasses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NoReturn
from uuid import UUID

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


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedKey:
    """A new key, the only time that it is shown. Source: `issue_key` and `rotate_key`.

    Attributes:
        key: The key itself; `key.reveal()` gives the text.
        id: Names the key in every other call.
        workspace_id: The workspace that it belongs to.
        kind: `publishable` or `secret`.
        environment: `live` or `test`.
        hint: For people to tell keys apart: `wk_sk_live_…abcd`.
        label: A name for people.
        allowed_origins: The canonical origins that may use a publishable key.
        scopes: The application's words for what the key may do.
        metadata: The application's JSON object.
        expires_at: When the key ends, UTC; `None` for never.
        rotated_from: The key that this one succeeds.
        created_at: When it was made, UTC, by the server's clock.
        created_by: The user who made it; `None` for a service.
    """

    key: Secret
    id: UUID
    workspace_id: UUID
    kind: str
    environment: str
    hint: str
    label: str
    allowed_origins: tuple[str, ...]
    scopes: tuple[str, ...]
    metadata: Mapping[str, Any] = field(hash=False)
    expires_at: datetime | None
    rotated_from: UUID | None
    created_at: datetime
    created_by: UUID | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A key as its admin sees it. Source: a row of `keylatch.keys`.

    Attributes:
        id: Names the key in every call.
        workspace_id: The workspace that it belongs to.
        kind: `publishable` or `secret`.
        environment: `live` or `test`.
        public_key: The whole key where it is publishable; `None` for a secret one.
        hint: For people to tell keys apart: `wk_sk_live_…abcd`.
        label: A name for people.
        metadata: The application's JSON object.
        allowed_origins: The canonical origins that may use a publishable key.
        scopes: The application's words for what the key may do.
        expires_at: When the key ends or ended, UTC; `None` for never.
        suspended_at: Since when it is suspended, UTC.
        superseded_at: When a rotation with grace replaced it, UTC.
        revoked_at: When it was revoked, UTC.
        revoked_by: Who revoked it; `None` for a service.
        revoke_reason: Why, in the words of who did.
        rotated_from: The key that this one succeeds.
        created_at: When it was made, UTC.
        created_by: Who made it; `None` for a service.
        imported_at: When it came from another system, UTC; `None` where it was made here.
        status: `active`, `superseded`, `suspended`, `expired` or `revoked`.
    """

    id: UUID
    workspace_id: UUID
    kind: str
    environment: str
    public_key: str | None
    hint: str
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
    imported_at: datetime | None
    status: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Revocation:
    """What a revocation did. Source: `revoke_key`.

    Attributes:
        id: The key.
        revoked_at: Since when it is revoked, UTC, by the server's clock.
        already_revoked: Whether it was so before this call, which then changed nothing of it.
        also_revoked: The other keys of its rotation family that this call revoked.
    """

    id: UUID
    revoked_at: datetime
    already_revoked: bool
    also_revoked: tuple[UUID, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedKey:
    """The living key that a text stands for. Source: `resolve_key`.

    Attributes:
        key_id: The key.
        workspace_id: The workspace that the request belongs to.
        kind: `publishable` (names a workspace and proves nothing) or `secret`.
        environment: `live` or `test`.
        scopes: The application's words for what the key may do.
        metadata: The application's JSON object.
        expires_at: When it ends, UTC; `None` for never. Keep it in no cache beyond that.
    """

    key_id: UUID
    workspace_id: UUID
    kind: str
    environment: str
    scopes: tuple[str, ...]
    metadata: Mapping[str, Any] = field(hash=False)
    expires_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyUsage:
    """When a key was last used and how often, as services reported it. Source: `key_usage`.

    Attributes:
        key_id: The key.
        last_used_at: The last use that was reported, UTC.
        uses: How many were reported in all.
    """

    key_id: UUID
    last_used_at: datetime
    uses: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyEvent:
    """Something that happened to a key. Source: a row of `keylatch.key_events`.

    Attributes:
        workspace_id: The workspace of the key.
        number: The place in the chain of the workspace: from 1 on, without gaps.
        key_id: The key.
        event: A word, such as `issued`; all of them are in the comment of that view.
        occurred_at: When, UTC, by the server's clock.
        user_id: The signed-in user; `None` where it was none.
        role: The role that the session had taken; `login` is that which had logged in.
        address: Where the request came from, as it says itself: no proof.
        agent: Its User-Agent, or the session's `application_name`.
        reason: Why, of a revocation.
        changes: Old and new of each public field that changed, by its name.
        hash: SHA-256 over the hash before and this event, in hex.
    """

    workspace_id: UUID
    number: int
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
    hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EventVerification:
    """Whether events are as they were written. Source: `verify_events`.

    Attributes:
        workspace_id: Their workspace.
        is_intact: Whether they are.
        events: How many are, from the first one on.
        head: The hash of the last of those, in hex; `None` without events.
        broken_number: The number of the first broken link; `None` where none is.
        problem: What is wrong with it.
    """

    workspace_id: UUID
    is_intact: bool
    events: int
    head: str | None
    broken_number: int | None
    problem: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A visitor's session as the application sees it. Source: `resume_session`.

    Attributes:
        session_id: Names it where the token must not stand.
        workspace_id: The workspace of its key.
        key_id: The key that it was opened with, dead or alive.
        origin: The origin of the page that opened it.
        subject: The application's own id of the visitor; `None` until it is attached.
        expires_at: Until when it lasts, UTC.
    """

    session_id: UUID
    workspace_id: UUID
    key_id: UUID
    origin: str
    subject: str | None
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionPruning:
    """What a pruning came to. Source: `prune_sessions`.

    Attributes:
        pruned: How many expired sessions it deleted.
    """

    pruned: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UnclaimedKey:
    """A living key that was imported with a salted hash and not used since.

    Source: a row of `keylatch.unclaimed_keys`.

    Attributes:
        key_id: The key.
        workspace_id: Its workspace.
        algorithm: `pbkdf2_sha256` or `bcrypt`.
        imported_at: When it was imported, UTC.
    """

    key_id: UUID
    workspace_id: UUID
    algorithm: str
    imported_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOutcome:
    """What came of one line of an import. Source: `import_keys`.

    Attributes:
        position: The place of the line in its batch, from 1.
        outcome: `imported`, `exists` (it was there already and is as it was) or `refused`.
        key_id: The key; `None` for a refused line, and where a dry run would make it.
        slug: Why it was refused, for programs; else `None`.
        detail: Why it was refused, or what should be known of an imported key, in a sentence.
        hint: What to do about a refused line.
    """

    position: int
    outcome: str
    key_id: UUID | None
    slug: str | None
    detail: str | None
    hint: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportReport:
    """What came of an import. Source: `import_keys`.

    Attributes:
        imported: How many lines became keys.
        existing: How many were keys already.
        refused: How many were refused.
        lines: What came of each, in their order.
    """

    imported: int
    existing: int
    refused: int
    lines: tuple[ImportOutcome, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Why a key is accepted or refused. Source: `explain_key`.

    Attributes:
        verdict: The first that applies of `malformed`, `checksum_failed`, `unknown`, `revoked`,
            `expired`, `suspended`, `secret_in_browser`, `origin_required`, `origin_denied`,
            `valid`.
        detail: Why, in a sentence.
        hint: What to do.
        key_id: The key; `None` where none was found.
        expires_at: When it ends or ended, UTC; `None` for never.
    """

    verdict: str
    detail: str | None
    hint: str | None
    key_id: UUID | None
    expires_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """Which database this is: compare it between two services. Source: `installation`.

    Attributes:
        id: Made when the schema was installed.
        schema_version: The version of the keylatch schema.
        installed_at: When it was installed, UTC.
        system_identifier: The PostgreSQL cluster: the same on primary and replica, another
            one where a dump was restored.
        is_replica: Whether this server only follows another.
        replica_lag_seconds: How far it is behind, in seconds; 0 on a primary, `None` where a
            replica cannot tell.
    """

    id: UUID
    schema_version: str
    installed_at: datetime
    system_identifier: str
    is_replica: bool
    replica_lag_seconds: float | None
