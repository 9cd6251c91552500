"""Every call once: its signature, its text, the SQL function, and how its answer is read."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Generic, TypeVar
from uuid import UUID

from .errors import InvalidArgument, KeyNotFound, NotInstalled, UnexpectedAnswer
from .models import (
    EventVerification,
    Explanation,
    ImportReport,
    Installation,
    IssuedKey,
    Key,
    KeyEvent,
    KeyUsage,
    LegacyKey,
    ReplayPosition,
    ReplicaWait,
    ResolvedKey,
    Retirement,
    Revocation,
    Sealing,
    Session,
    SessionEnding,
    SessionPruning,
)
from .rows import read_all, read_one, read_optional
from .secret import Secret
from .transports import Batch, Rows

T = TypeVar("T")

MODULE_OF = {
    "list_events": "events",
    "seal_events": "events",
    "verify_events": "events",
    "key_usage": "usage",
    "record_usage": "usage",
    "replay_position": "notify",
    "wait_for_replicas": "notify",
    "resolve_session": "sessions",
    "close_session": "sessions",
    "attach_subject": "sessions",
    "prune_sessions": "sessions",
    "end_sessions": "sessions",
    "import_keys": "legacy",
    "upgrade_key": "legacy",
    "legacy_keys": "legacy",
    "revoke_legacy_key": "legacy",
}
"""The module that brings a function or view; the core brings all others."""

# PostgreSQL reads these forms; `uuid.UUID` reads more, such as underscores and signs.
_UUID = re.compile(r"[0-9a-fA-F]{8}(-?)(?:[0-9a-fA-F]{4}\1){3}[0-9a-fA-F]{12}")
# No text of PostgreSQL can hold these characters.
_UNSENDABLE = re.compile("[\x00\ud800-\udfff]")
# Far above every key and origin there is, far below what a gateway refuses.
_LONGEST_SENT = 8192
# An interval of PostgreSQL counts microseconds in 64 bits.
_LONGEST_INTERVAL = timedelta(microseconds=2**63 - 1)


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One call of the database.

    Attributes:
        function: The function's name in schema `keylatch`, or that of a view to read.
        arguments: Its arguments by name: JSON values, and a `Secret` where a key goes.
        decode: Reads the rows of the answer.
    """

    function: str
    arguments: Mapping[str, object]
    decode: Callable[[Rows], T]

    def explain_missing(self, error: NotInstalled) -> NotInstalled:
        """Name the module of this call, where the call is missing in the database.

        Args:
            error: What the transport raised.

        Returns:
            The error to raise instead.
        """
        module = MODULE_OF.get(self.function)
        if module is None or f"keylatch.{self.function}" not in (error.detail or ""):
            return error
        return NotInstalled(
            sqlstate=error.sqlstate,
            detail=f"{self.function} belongs to the module {module}, which is not installed.",
            hint=f"Run: keylatch install . --with {module} && supabase db push",
        )


def issue(
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
) -> Call[IssuedKey]:
    """Make a key. For admins.

    Args:
        workspace_id: The workspace of the key.
        kind: `publishable`, to stand in a web page, or `secret`, never to reach a browser.
        label: A name for people, up to 200 characters.
        allowed_origins: Up to 100 canonical origins, `https://client.example` or
            `https://*.client.example`, that may use a publishable key. Without any, no page
            can. Always empty for a secret key.
        scopes: Up to 64 words for what the key may do. The application gives them meaning.
        environment: `live` or `test`.
        expires_at: When the key expires, with a time zone; `None` for never.
        metadata: A JSON object of up to 8 kB; `None` for an empty one.
        prefix: The first word of the key, 2 to 12 lower-case letters and digits.

    Returns:
        The key, shown only here. Source: SQL `keylatch.issue_key`.

    Raises:
        InvalidArgument: A value is out of its rule; `detail` names it.
        PermissionDenied: The caller does not administer the workspace.
        LatchViolation: The workspace was deleted.
    """
    arguments = {
        "workspace_id": _uuid("workspace_id", workspace_id),
        "kind": _text("kind", kind),
        "label": _text("label", label),
        "allowed_origins": _texts("allowed_origins", allowed_origins),
        "scopes": _texts("scopes", scopes),
        "environment": _text("environment", environment),
        "expires_at": _time("expires_at", expires_at),
        "metadata": _json("metadata", {} if metadata is None else metadata),
        "prefix": _text("prefix", prefix),
    }
    return Call("issue_key", arguments, partial(read_one, IssuedKey))


def issue_many(
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
) -> Call[tuple[IssuedKey, ...]]:
    """Make a key for each label, all of them or none: for a fleet. For admins.

    Args:
        workspace_id: The workspace of the keys.
        labels: Up to 100,000 names. Over HTTP send some thousands at a time: a request has
            limited time.
        kind: As for `issue`, and shared by all keys, as are the arguments below.
        allowed_origins: As for `issue`.
        scopes: As for `issue`.
        environment: As for `issue`.
        expires_at: As for `issue`.
        metadata: As for `issue`.
        prefix: As for `issue`.

    Returns:
        The keys in the order of the labels, shown only here. Source: SQL `keylatch.issue_keys`.

    Raises:
        InvalidArgument: A value is out of its rule; `detail` names it.
        PermissionDenied: The caller does not administer the workspace.
        LatchViolation: The workspace was deleted.
    """
    common = issue(
        workspace_id,
        kind=kind,
        allowed_origins=allowed_origins,
        scopes=scopes,
        environment=environment,
        expires_at=expires_at,
        metadata=metadata,
        prefix=prefix,
    )
    arguments = {**common.arguments, "labels": _texts("labels", labels)}
    del arguments["label"]
    return Call("issue_keys", arguments, _read_issued)


def rotate(
    key_id: UUID | str,
    *,
    grace: timedelta = timedelta(0),
    expires_at: datetime | None = None,
) -> Call[IssuedKey]:
    """Replace a key by a new one with the same properties. For admins.

    Args:
        key_id: The key to replace.
        grace: How long the old key still resolves, up to 30 days; 0 revokes it at once.
            A suspended key can only be rotated with 0.
        expires_at: When the new key expires, with a time zone; `None` for the same as the old.

    Returns:
        The new key, shown only here. Source: SQL `keylatch.rotate_key`.

    Raises:
        KeyNotFound: There is no such key, or the caller does not administer it.
        KeyNotUsable: The key is already rotated, revoked, expired or suspended; see `reason`.
        InvalidArgument: A value is out of its rule; `detail` names it.
    """
    arguments = {
        "key_id": _uuid("key_id", key_id),
        "grace": _interval("grace", grace),
        "expires_at": _time("expires_at", expires_at),
    }
    return Call("rotate_key", arguments, partial(read_one, IssuedKey))


def revoke(
    key_id: UUID | str, *, reason: str | None = None, cascade: bool = False
) -> Call[Revocation]:
    """Revoke a key for good. Again is no error. For admins.

    Args:
        key_id: The key to revoke.
        reason: Why, up to 500 characters, for the audit.
        cascade: Also revoke every other key of its rotation family.

    Returns:
        Since when the key is revoked. Source: SQL `keylatch.revoke_key`.

    Raises:
        KeyNotFound: There is no such key, or the caller does not administer it.
        InvalidArgument: A value is out of its rule; `detail` names it.
    """
    arguments = {
        "key_id": _uuid("key_id", key_id),
        "reason": _reason(reason),
        "cascade": as_bool("cascade", cascade),
    }
    return Call("revoke_key", arguments, partial(read_one, Revocation))


def suspend(key_id: UUID | str) -> Call[Key]:
    """Suspend a key until `unsuspend`. Again is no error. For admins.

    Args:
        key_id: The key.

    Returns:
        The key as it is now. Source: SQL `keylatch.suspend_key`.

    Raises:
        KeyNotFound: There is no such key, or the caller does not administer it.
        KeyNotUsable: The key is revoked or expired; see `reason`.
        InvalidArgument: The id is not a UUID.
    """
    return Call("suspend_key", {"key_id": _uuid("key_id", key_id)}, partial(read_one, Key))


def unsuspend(key_id: UUID | str) -> Call[Key]:
    """Let a suspended key resolve again. Again is no error. For admins.

    Args:
        key_id: The key.

    Returns:
        The key as it is now. Source: SQL `keylatch.unsuspend_key`.

    Raises:
        KeyNotFound: There is no such key, or the caller does not administer it.
        KeyNotUsable: The key is revoked or expired; see `reason`.
        InvalidArgument: The id is not a UUID.
    """
    return Call("unsuspend_key", {"key_id": _uuid("key_id", key_id)}, partial(read_one, Key))


def show(key_id: UUID | str) -> Call[Key]:
    """Give one key, whatever its status. For admins.

    Args:
        key_id: The key.

    Returns:
        The key as it is now. Source: a row of the view `keylatch.keys`.

    Raises:
        KeyNotFound: There is no such key, or the caller does not administer it.
        InvalidArgument: The id is not a UUID.
    """
    return Call("keys", {"id": _uuid("key_id", key_id)}, _read_found)


def list_keys(workspace_id: UUID | str) -> Call[tuple[Key, ...]]:
    """Give all keys of a workspace, whatever their status. For admins.

    Args:
        workspace_id: The workspace.

    Returns:
        Its keys, the newest first; none if the caller does not administer it. A value that
        Python cannot read raises `UnreadableRow` when it is used, and costs no other. Source:
        SQL `keylatch.list_keys`. To filter or page, read the view `keylatch.keys`.

    Raises:
        InvalidArgument: The id is not a UUID.
    """
    arguments = {"workspace_id": _uuid("workspace_id", workspace_id)}
    return Call("list_keys", arguments, partial(_read_each_once, Key))


def retire_workspace(workspace_id: UUID | str, *, limit: int = 10_000) -> Call[Retirement]:
    """Revoke keys of a workspace that has too many to delete it at once. For admins.

    Call it until `is_done`, then delete the workspace.

    Args:
        workspace_id: The workspace.
        limit: How many keys to revoke in this call, 1 to 100,000.

    Returns:
        How many keys were revoked, and whether none is left. Source: SQL
        `keylatch.retire_workspace`.

    Raises:
        InvalidArgument: A value is out of its rule; `detail` names it.
    """
    arguments = {
        "workspace_id": _uuid("workspace_id", workspace_id),
        "limit": _int("limit", limit),
    }
    return Call("retire_workspace", arguments, partial(read_one, Retirement))


def resolve(key: str | Secret, *, origin: str | None = None) -> Call[ResolvedKey | None]:
    """Ask which active key a text is. For services: role `keylatch_resolver` or service key.

    The check of the origin stops a foreign web page. It does not stop a program, which
    sends any `Origin`.

    Args:
        key: What was presented: any text at all.
        origin: The request's `Origin` header as it came; `None` if there was none, which
            is not the same as an empty one.

    Returns:
        The key, or `None`: unknown, revoked, expired, suspended and wrong origin look alike.
        Source: SQL `keylatch.resolve_key`.

    Raises:
        InvalidArgument: `key` or `origin` is not a text.
    """
    return Call("resolve_key", _presented(key, origin), partial(read_optional, ResolvedKey))


def resolve_many(
    keys: Iterable[str | Secret], *, origins: Iterable[str | None] | None = None
) -> Call[tuple[ResolvedKey | None, ...]]:
    """Ask for a batch what `resolve` asks for one: for gateways.

    Args:
        keys: Up to 1000 presented texts.
        origins: The `Origin` header of each, `None` if it had none; `None` for no
            headers at all.

    Returns:
        For each text in its place the key, or `None`. A value that Python cannot read raises
        `UnreadableRow` when it is used, and costs no other key. Source: SQL
        `keylatch.resolve_keys`.

    Raises:
        InvalidArgument: A value is not a text, there are too many, or origins has another
            length.
        UnexpectedAnswer: The API cuts its answers below the length of the batch.
    """
    if isinstance(keys, str | Secret):
        raise InvalidArgument.of("keys", "is one text, not a list of texts")
    presented = list(keys)
    came_from = [None] * len(presented) if origins is None else list(origins)
    if len(came_from) != len(presented):
        raise InvalidArgument.of("origins", f"has {len(came_from)}, and keys has {len(presented)}")
    each = [_presented(key, origin) for key, origin in zip(presented, came_from, strict=True)]
    arguments = {
        "keys": [one["key"] for one in each],
        "origins": None if origins is None else [one["origin"] for one in each],
    }
    return Call("resolve_keys", arguments, partial(_read_places, len(presented)))


def explain(key: str | Secret, *, origin: str | None = None) -> Call[Explanation]:
    """Ask why a text resolves or does not. For admins; for services, for their own log.

    Args:
        key: What was presented: any text at all.
        origin: The request's `Origin` header as it came; `None` if there was none.

    Returns:
        A verdict, why, what to do, and the fingerprint of the text. A key of another workspace
        is `unknown`. Source: SQL `keylatch.explain_key`.

    Raises:
        InvalidArgument: `key` or `origin` is not a text.
    """
    return Call("explain_key", _presented(key, origin), partial(read_one, Explanation))


def installation() -> Call[Installation]:
    """Ask which database this is: compare the answers that two services get.

    Returns:
        The installation's id, its database, version and modules, and whether this server is a
        replica. Source: SQL `keylatch.installation`.
    """
    return Call("installation", {}, partial(read_one, Installation))


# Module events.


def events(
    workspace_id: UUID | str, *, after: UUID | str | None = None, limit: int = 1000
) -> Call[tuple[KeyEvent, ...]]:
    """Give what happened to the keys of a workspace, a page at a time. For admins.

    Args:
        workspace_id: The workspace.
        after: The id of the last event of the page before; `None` for the first page.
        limit: How many events at most.

    Returns:
        Its events, the newest first; none if the caller does not administer it. A value that
        Python cannot read raises `UnreadableRow` when it is used. Source: SQL
        `keylatch.list_events`. To filter, read the view `keylatch.key_events`.

    Raises:
        InvalidArgument: An id is not a UUID, or `limit` is out of its rule.
    """
    arguments = {
        "workspace_id": _uuid("workspace_id", workspace_id),
        "after": None if after is None else _uuid("after", after),
        "limit": _int("limit", limit),
    }
    return Call("list_events", arguments, partial(_read_each_once, KeyEvent))


def seal_events(*, limit: int = 10_000) -> Call[Sealing]:
    """Seal the events that are not sealed yet, so that a later change shows. For services.

    Args:
        limit: How many events to seal in this call.

    Returns:
        The last checkpoint, and whether events are left: call again until `is_done`. Source:
        SQL `keylatch.seal_events`.

    Raises:
        InvalidArgument: `limit` is out of its rule.
    """
    return Call("seal_events", {"limit": _int("limit", limit)}, partial(read_one, Sealing))


def verify_events(*, from_checkpoint: int = 1, limit: int = 100) -> Call[EventVerification]:
    """Check whether sealed events are as they were written.

    Args:
        from_checkpoint: The number of the first checkpoint to check.
        limit: How many checkpoints to check in this call.

    Returns:
        What was checked, the first thing that does not fit, and where to go on. Source: SQL
        `keylatch.verify_events`.

    Raises:
        InvalidArgument: A number is out of its rule.
    """
    arguments = {
        "from_checkpoint": _int("from_checkpoint", from_checkpoint),
        "limit": _int("limit", limit),
    }
    return Call("verify_events", arguments, partial(read_one, EventVerification))


# Module usage.


def record_usage(
    uses: Iterable[KeyUsage] = (), *, refusals: Mapping[UUID, Mapping[str, int]] | None = None
) -> Call[frozenset[UUID]]:
    """Add up how often keys were used and refused. For services; `keylatch.usage` calls it.

    Args:
        uses: Sums of up to 10,000 keys: `uses` counts what was not reported yet, from 1 on.
        refusals: How often each key was refused, by the verdict of `explain`.

    Returns:
        The keys that another report was counting: report those again. Source: SQL
        `keylatch.record_usage`.

    Raises:
        InvalidArgument: A number, time or verdict is out of its rule.
    """
    batch: dict[str, dict[str, object]] = {}
    for one in uses:
        if str(one.key_id) in batch:
            raise InvalidArgument.of("uses", "names a key twice")
        batch[str(one.key_id)] = {
            "uses": one.uses,
            "last_used_at": _time("last_used_at", one.last_used_at),
        }
    for key_id, counts in (refusals or {}).items():
        batch.setdefault(str(key_id), {})["refusals"] = dict(counts)
    return Call("record_usage", {"batch": batch}, _read_again)


def usage(key_id: UUID | str) -> Call[KeyUsage | None]:
    """Ask when a key was last used, and how often: approximately. For admins.

    Args:
        key_id: The key.

    Returns:
        What services have reported; `None` if nothing yet, or if the caller does not administer
        the key. Source: a row of the view `keylatch.key_usage`.

    Raises:
        InvalidArgument: The id is not a UUID.
    """
    arguments = {"key_id": _uuid("key_id", key_id)}
    return Call("key_usage", arguments, partial(read_optional, KeyUsage))


# Module notify.


def replay_position() -> Call[ReplayPosition]:
    """Ask how far this server is in the write-ahead log. For services and admins.

    Returns:
        The position, and the timeline that it belongs to. Source: SQL
        `keylatch.replay_position`.
    """
    return Call("replay_position", {}, partial(read_one, ReplayPosition))


def wait_for_replicas(*, timeout: timedelta = timedelta(seconds=10)) -> Call[ReplicaWait]:
    """Wait until the synchronous standbys have replayed all that was committed before the call.

    Call it after the commit of a revocation: in a transaction that has changed something it
    waits for nothing, and is refused.

    Args:
        timeout: How long to wait at most, up to a minute.

    Returns:
        That all of them have, and how many there are. Source: SQL `keylatch.wait_for_replicas`.

    Raises:
        InvalidArgument: `timeout` is out of its rule, there is no synchronous standby, or the
            transaction has changed something; `detail` says which.
        Unavailable: A standby is behind after this time. What was committed stays.
    """
    arguments = {"timeout": _interval("timeout", timeout)}
    return Call("wait_for_replicas", arguments, partial(read_one, ReplicaWait))


# Module sessions.


def resolve_session(token: str | Secret, *, extend: bool = False) -> Call[Session | None]:
    """Ask which open session a token is of. For services, as `resolve`.

    Args:
        token: What the visitor's page sent: any text at all.
        extend: Let the session last its whole lifetime again from now on. Without it, nothing
            is written.

    Returns:
        The session, or `None`: mistyped, expired and closed look alike. Compare its `origin`
        with that of the request. Source: SQL `keylatch.resolve_session`.

    Raises:
        InvalidArgument: `token` is not a text.
    """
    arguments = {**_token(token), "extend": as_bool("extend", extend)}
    return Call("resolve_session", arguments, partial(read_optional, Session))


def close_session(token: str | Secret) -> Call[Session]:
    """Close a session at once. For services, as `resolve`.

    Args:
        token: Its token.

    Returns:
        The session as it was. Source: SQL `keylatch.close_session`.

    Raises:
        SessionNotFound: The text is not the token of an open session.
        InvalidArgument: `token` is not a text.
    """
    return Call("close_session", _token(token), partial(read_one, Session))


def attach_subject(token: str | Secret, *, subject: str) -> Call[Session]:
    """Say who the visitor of a session is, once. For services, as `resolve`.

    Args:
        token: Its token.
        subject: The application's own id of the visitor, up to 200 characters.

    Returns:
        The session. The same subject again is no error. Source: SQL `keylatch.attach_subject`.

    Raises:
        SessionNotFound: The text is not the token of an open session.
        LatchViolation: The session has another subject already.
        InvalidArgument: A value is out of its rule.
    """
    arguments = {**_token(token), "subject": _text("subject", subject)}
    return Call("attach_subject", arguments, partial(read_one, Session))


def prune_sessions(*, batch: int = 10_000) -> Call[SessionPruning]:
    """Delete expired sessions. For the service key.

    Args:
        batch: How many at most, up to 100,000.

    Returns:
        How many were deleted: call again while it is as many as `batch`. Source: SQL
        `keylatch.prune_sessions`.

    Raises:
        InvalidArgument: `batch` is out of its rule.
    """
    return Call(
        "prune_sessions", {"batch": _int("batch", batch)}, partial(read_one, SessionPruning)
    )


def end_sessions(key_id: UUID | str, *, reason: str | None = None) -> Call[SessionEnding]:
    """Revoke a key that was abused, and end every session that it opened. For admins.

    Args:
        key_id: The key. If it is revoked already, only its sessions end.
        reason: Why, up to 500 characters, for the audit.

    Returns:
        Since when the key is revoked, and how many sessions ended. Source: SQL
        `keylatch.end_sessions`.

    Raises:
        KeyNotFound: There is no such key, or the caller does not administer it.
        InvalidArgument: A value is out of its rule; `detail` names it.
    """
    arguments = {"key_id": _uuid("key_id", key_id), "reason": _reason(reason)}
    return Call("end_sessions", arguments, partial(read_one, SessionEnding))


# Module legacy.


def import_keys(
    lines: Iterable[Mapping[str, object]], *, dry_run: bool = False, strict: bool = False
) -> Call[ImportReport]:
    """Import keys of another system. For the service key.

    A line that is refused costs no other. The same lines again are safe: an import moves a key
    towards its end, and never away from it. `keylatch import` does this for a file of any length.

    Args:
        lines: Up to 10,000. Each has `workspace_id`, and either `key` in plaintext, or `hash`
            with `alg`. The comment of the SQL function names the other fields.
        dry_run: Only say what would happen.
        strict: Import nothing if one line is refused.

    Returns:
        What happened to each line. Source: SQL `keylatch.import_keys`.

    Raises:
        InvalidArgument: There are too many lines, or a value in one cannot be sent at all;
            `detail` names it, and nothing is imported.
        PermissionDenied: The caller is not a service.
    """
    if isinstance(lines, str | bytes | Mapping) or not isinstance(lines, Iterable):
        raise InvalidArgument.of("lines", f"is {_name(lines)}, not a list of lines")
    if isinstance(lines, Batch):
        batch = lines  # of a file, whose reader looked at each line
    else:
        batch = Batch(import_line(f"lines[{n}]", line) for n, line in enumerate(lines, 1))
    arguments = {
        "lines": batch,
        "dry_run": as_bool("dry_run", dry_run),
        "strict": as_bool("strict", strict),
    }
    return Call("import_keys", arguments, partial(read_one, ImportReport))


def import_line(name: str, line: object) -> dict[str, object]:
    """Give a line of an import as JSON values, with a `Secret` for the key.

    Args:
        name: What the line is called in an error.
        line: What the caller gave.

    Returns:
        A copy.

    Raises:
        InvalidArgument: A value cannot be sent, or would arrive as something else.
    """
    if not isinstance(line, Mapping):
        raise InvalidArgument.of(name, f"is {_name(line)}, not a JSON object")
    return {
        # Most are plain texts, and of a file there are millions.
        _text(name, field): value
        if type(value) is str and field != "key" and not _UNSENDABLE.search(value)
        else _line_value(f"{name}.{field}", field, value)
        for field, value in line.items()
    }


def upgrade_key(
    key: str | Secret, *, workspace_id: UUID | str | None = None, origin: str | None = None
) -> Call[ResolvedKey | None]:
    """Resolve a legacy key with a salted hash: its first use turns it into a key of keylatch.

    Each call may compute slow hashes: call it where `resolve` found nothing, and limit how often
    one sender may cause it. For services, as `resolve`.

    Args:
        key: What was presented: any text at all.
        workspace_id: The workspace of the key, if something else than the key names it. Without
            it, only keys are tried whose beginning the import gave.
        origin: As for `resolve`.

    Returns:
        The key if it is good, else `None`. Source: SQL `keylatch.upgrade_key`.

    Raises:
        InvalidArgument: `key` or `origin` is not a text, or `workspace_id` is not a UUID or is
            needed.
        TooManyRequests: A limit of the installation is reached.
    """
    workspace = None if workspace_id is None else _uuid("workspace_id", workspace_id)
    arguments = {**_presented(key, origin), "workspace_id": workspace}
    return Call("upgrade_key", arguments, partial(read_optional, ResolvedKey))


def legacy_keys(workspace_id: UUID | str) -> Call[tuple[LegacyKey, ...]]:
    """Give the legacy keys of a workspace, whatever their status. For admins.

    Args:
        workspace_id: The workspace.

    Returns:
        The keys that were imported with a salted hash; none if the caller does not administer
        the workspace. Source: the view `keylatch.legacy_keys`.

    Raises:
        InvalidArgument: The id is not a UUID.
    """
    arguments = {"workspace_id": _uuid("workspace_id", workspace_id)}
    return Call("legacy_keys", arguments, partial(_read_each_once, LegacyKey))


def revoke_legacy_key(id: UUID | str, *, reason: str | None = None) -> Call[Revocation]:  # noqa: A002
    """Revoke a legacy key that waits for its first use. Again is no error. For admins.

    Args:
        id: The legacy key. If it was upgraded meanwhile, the key that it became is revoked.
        reason: Why, up to 500 characters, for the audit.

    Returns:
        Since when the key is revoked. Source: SQL `keylatch.revoke_legacy_key`.

    Raises:
        KeyNotFound: There is no such key, or the caller does not administer it.
        InvalidArgument: A value is out of its rule; `detail` names it.
    """
    arguments = {"id": _uuid("id", id), "reason": _reason(reason)}
    return Call("revoke_legacy_key", arguments, partial(read_one, Revocation))


def _line_value(name: str, field: str, value: object) -> object:
    match value:
        case None | bool() | int() | float() | Secret():
            return value
        case str():
            return Secret(_text(name, value)) if field == "key" else _text(name, value)
        case UUID():
            return str(value)
        case datetime():
            return _time(name, value)
        case Mapping():
            return _json(name, value)
    return _texts(name, value)


def _read_each_once(model: type[T], rows: Rows) -> tuple[T, ...]:
    """Read rows that have an id; pages overlap if a row was made between them."""
    return read_all(model, {str(row.get("id")): row for row in rows}.values())


def _read_issued(rows: Rows) -> tuple[IssuedKey, ...]:
    issued = rows[0].get("keys") if len(rows) == 1 else None
    if not isinstance(issued, list):
        raise UnexpectedAnswer(detail="the answer of issue_keys has no list of keys")
    return read_all(IssuedKey, issued)


def _read_places(count: int, rows: Rows) -> tuple[ResolvedKey | None, ...]:
    places = {row.get("position"): row for row in rows}
    if len(rows) != count or set(places) != set(range(1, count + 1)):
        raise UnexpectedAnswer(
            detail=f"{count} keys were asked for and {len(rows)} answers came",
            hint="Ask for fewer keys at once, or raise the API's max-rows.",
        )
    found = [places[place] for place in range(1, count + 1)]
    keys = iter(read_all(ResolvedKey, [row for row in found if row.get("key_id") is not None]))
    return tuple(None if row.get("key_id") is None else next(keys) for row in found)


@dataclass(frozen=True, slots=True, kw_only=True)
class _UsageReport:
    again: tuple[UUID, ...]


def _read_again(rows: Rows) -> frozenset[UUID]:
    return frozenset(read_one(_UsageReport, rows).again)


def _read_found(rows: Rows) -> Key:
    found = read_optional(Key, rows)
    if found is None:
        raise KeyNotFound(
            detail="You administer no key of this id.",
            hint="List the keys of the workspace.",
        )
    return found


# Below, a value is refused only where it cannot be sent, or would arrive as something else than
# the caller meant. All other rules are the database's, which words them once for everybody.


def as_bool(name: str, value: object) -> bool:
    """Give a bool, and refuse what is none."""
    if not isinstance(value, bool):
        raise InvalidArgument.of(name, f"is {_name(value)}, not a bool")
    return value


def _int(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidArgument.of(name, f"is {_name(value)}, not an int")
    if abs(value) >= 2**63:
        raise InvalidArgument.of(name, "is larger than the database can hold")
    return value


def _reason(value: object) -> str | None:
    return None if value is None else _text("reason", value)


def _token(token: str | Secret) -> dict[str, object]:
    """Carry a session's token as `_presented` carries a key."""
    if not isinstance(token, str | Secret):
        raise InvalidArgument.of("token", f"is {_name(token)}, not a text")
    return {"token": _presented(token, None)["key"]}


def _presented(key: str | Secret, origin: str | None) -> dict[str, object]:
    """Carry what a stranger sent, whatever it is: the database judges it."""
    if not isinstance(key, str | Secret):
        raise InvalidArgument.of("key", f"is {_name(key)}, not a text")
    if origin is not None and not isinstance(origin, str):
        raise InvalidArgument.of("origin", f"is {_name(origin)}, not a text")
    return {
        "key": Secret(_sendable(key.reveal() if isinstance(key, Secret) else key)),
        "origin": None if origin is None else _sendable(origin),
    }


def _sendable(text: str) -> str:
    if len(text) > _LONGEST_SENT:
        # The mark keeps the cut text from being a key or an origin that the whole was not.
        text = text[:_LONGEST_SENT] + "\ufffd"
    return _UNSENDABLE.sub("\ufffd", text)


def _uuid(field: str, value: object) -> str:
    text = str(value) if isinstance(value, UUID) else value
    # The value is not repeated: somebody may have put a key where its id belongs.
    if not isinstance(text, str):
        raise InvalidArgument.of(field, f"is {_name(value)}, not a UUID")
    if not _UUID.fullmatch(text):
        raise InvalidArgument.of(
            field, "is not a UUID", "Give the id, not the key, its masked key or its label."
        )
    return str(UUID(text))


def _text(field: str, value: object) -> str:
    if not isinstance(value, str):
        raise InvalidArgument.of(field, f"is {_name(value)}, not a text")
    if _UNSENDABLE.search(value):
        raise InvalidArgument.of(field, "has a NUL or a lone surrogate, which no text may have")
    return value


def _texts(field: str, value: object) -> list[str]:
    # A text is iterable too, and would arrive as its characters.
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise InvalidArgument.of(field, f"is {_name(value)}, not a list of texts")
    return [_text(field, one) for one in value]


def _time(field: str, value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, datetime):
        raise InvalidArgument.of(field, f"is {_name(value)}, not a datetime")
    if value.utcoffset() is None:
        raise InvalidArgument.of(
            field, "has no time zone", "Give the time a zone: datetime(…, tzinfo=UTC)."
        )
    try:
        return value.astimezone(UTC).isoformat()
    except OverflowError:
        raise InvalidArgument.of(field, "is outside the years 1 to 9999") from None


def _interval(field: str, value: object) -> str:
    if not isinstance(value, timedelta):
        raise InvalidArgument.of(field, f"is {_name(value)}, not a timedelta")
    if abs(value) > _LONGEST_INTERVAL:
        raise InvalidArgument.of(field, "is longer than an interval can be")
    # Not days: a day of PostgreSQL has 23 or 25 hours when the clocks change.
    return f"{value // timedelta(microseconds=1)} microseconds"


def _json(field: str, value: object) -> object:
    """Give a copy of what JSON makes of the value, so that later changes do not reach the call."""
    if not isinstance(value, Mapping):
        raise InvalidArgument.of(field, f"is {_name(value)}, not a JSON object")
    try:
        copy = json.loads(json.dumps(dict(value), allow_nan=False))
    except (TypeError, ValueError, RecursionError):
        copy = None
    if copy is None:
        raise InvalidArgument.of(field, "has a value that JSON cannot hold")
    _check_json(field, copy)
    return copy


def _check_json(field: str, value: object) -> None:
    if isinstance(value, str):
        _text(field, value)
    elif isinstance(value, dict):
        for name, one in value.items():
            _text(field, name)
            _check_json(field, one)
    elif isinstance(value, list):
        for one in value:
            _check_json(field, one)


def _name(value: object) -> str:
    return "None" if value is None else type(value).__name__
