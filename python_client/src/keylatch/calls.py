"""Describes every call once: signature, docstring, SQL function, and how to read the answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Generic, TypeVar
from uuid import UUID

from . import models
from .arguments import sent, usage_batch
from .errors import KeyNotFound, UnexpectedAnswer
from .rows import read_all, read_each_once, read_one, read_optional
from .secret import Secret
from .transports import Rows

M = TypeVar("M")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One call of the database.

    Attributes:
        function: The name of the function, or of the view to read, in schema `keylatch`.
        arguments: The arguments by name: JSON values, and a `Secret` where a key goes.
        decode: Reads the rows of the answer.
        waits: Whether to call `wait_for_replicas` afterwards.
    """

    function: str
    arguments: Mapping[str, object]
    decode: Callable[[Rows], T]
    waits: bool = False


def _call(
    function: str, read: Callable[[type[M], Rows], T], model: type[M], given: Mapping[str, object]
) -> Call[T]:
    """Describe a call whose parameters have the same names as those of the SQL function."""
    return Call(function, sent(given), partial(read, model))


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
) -> Call[models.IssuedKey]:
    """Make a key. For admins.

    Args:
        workspace_id: The workspace of the key.
        kind: `publishable` for a key in a web page, or `secret` for a key that only servers have.
        label: A name for people, up to 200 characters.
        allowed_origins: Up to 100 canonical origins, `https://client.example` or
            `https://*.client.example`, that may use a publishable key. If the list is empty, no
            page can use the key. For a secret key, the list must be empty.
        scopes: Up to 64 words for what the key may do. The application gives them meaning.
        environment: `live` or `test`.
        expires_at: When the key expires, with a time zone; `None` for never.
        metadata: A JSON object of up to 8 kB; `None` for an empty one.
        prefix: The first word of the key, 2 to 12 lower-case letters and digits.

    Returns:
        The key, shown only here. Source: SQL `keylatch.issue_key`.

    Raises:
        LatchViolation: The workspace was deleted.
    """
    return _call("issue_key", read_one, models.IssuedKey, locals())


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
) -> Call[tuple[models.IssuedKey, ...]]:
    """Make one key for each label: all keys or none. For admins.

    Args:
        workspace_id: The workspace of the keys.
        labels: Up to 100,000 names; over HTTP, where a request has limited time, a few thousand.
        kind: As for `issue`. All keys share this and the arguments below.
        allowed_origins: As for `issue`.
        scopes: As for `issue`.
        environment: As for `issue`.
        expires_at: As for `issue`.
        metadata: As for `issue`.
        prefix: As for `issue`.

    Returns:
        The keys in the order of the labels, shown only here. Source: SQL `keylatch.issue_keys`.
    """
    return Call("issue_keys", sent(locals()), _read_issued)


def rotate(
    key_id: UUID | str, *, grace: timedelta = timedelta(0), expires_at: datetime | None = None
) -> Call[models.IssuedKey]:
    """Replace a key by a new one with the same properties. For admins.

    Args:
        key_id: The key to replace.
        grace: How long the old key still resolves, up to 30 days; 0 revokes it at once.
            For a suspended key, `grace` must be 0.
        expires_at: When the new key expires, with a time zone; `None` for the old key's expiry.

    Returns:
        The new key, shown only here. Source: SQL `keylatch.rotate_key`.

    Raises:
        KeyNotUsable: The key is already rotated, revoked, expired or suspended; see `reason`.
    """
    return _call("rotate_key", read_one, models.IssuedKey, locals())


def revoke(
    key_id: UUID | str,
    *,
    reason: str | None = None,
    cascade: bool = False,
    wait_for_replicas: bool = False,
) -> Call[models.Revocation]:
    """Revoke a key for good. Repeating the call is not an error. For admins.

    Args:
        key_id: The key to revoke.
        reason: The reason, up to 500 characters, for the audit log.
        cascade: Also revoke every other key of its rotation family.
        wait_for_replicas: After the commit, call `wait_for_replicas`. The key stays revoked if the
            wait fails. In your own transaction, leave this out: commit, then make that call.

    Returns:
        When the key was revoked. Source: SQL `keylatch.revoke_key`.

    Raises:
        InvalidArgument: With `wait_for_replicas`, there is no synchronous standby.
        Unavailable: With `wait_for_replicas`, a standby is behind.
    """
    given = sent(locals())
    waits = bool(given.pop("wait_for_replicas"))
    return Call("revoke_key", given, partial(read_one, models.Revocation), waits)


def suspend(key_id: UUID | str) -> Call[models.Key]:
    """Suspend a key until `unsuspend`. Repeating the call is not an error. For admins.

    Args:
        key_id: The id of the key.

    Returns:
        The key as it is now. Source: SQL `keylatch.suspend_key`.
    """
    return _call("suspend_key", read_one, models.Key, locals())


def unsuspend(key_id: UUID | str) -> Call[models.Key]:
    """Let a suspended key resolve again. Repeating the call is not an error. For admins.

    Args:
        key_id: The id of the key.

    Returns:
        The key as it is now. Source: SQL `keylatch.unsuspend_key`.
    """
    return _call("unsuspend_key", read_one, models.Key, locals())


def show(key_id: UUID | str) -> Call[models.Key]:
    """Return one key of any status. For admins.

    Args:
        key_id: The id of the key.

    Returns:
        The key as it is now. Source: a row of the view `keylatch.keys`.
    """
    return Call("keys", {"id": sent({"key_id": key_id})["key_id"]}, _read_found)


def list_keys(workspace_id: UUID | str) -> Call[tuple[models.Key, ...]]:
    """Return all keys of a workspace, of any status. For admins.

    Args:
        workspace_id: The workspace.

    Returns:
        The keys, newest first; none if the caller does not administer the workspace. A value that
        Python cannot read raises `UnreadableRow` when you use it. Source: SQL
        `keylatch.list_keys`; to filter or page, read the view `keylatch.keys`.
    """
    return _call("list_keys", read_each_once, models.Key, locals())


def retire_workspace(workspace_id: UUID | str, *, limit: int = 10_000) -> Call[models.Retirement]:
    """Revoke the keys of a workspace in steps, before you delete a large workspace. For admins.

    Args:
        workspace_id: The workspace.
        limit: How many keys to revoke in this call, 1 to 100,000.

    Returns:
        How many keys were revoked. Call again until `is_done`, then delete the workspace. Source:
        SQL `keylatch.retire_workspace`.
    """
    return _call("retire_workspace", read_one, models.Retirement, locals())


def resolve(key: str | Secret, *, origin: str | None = None) -> Call[models.ResolvedKey | None]:
    """Look up an active key by its text. For services: role `keylatch_resolver` or service key.

    The origin check stops other web pages, but not a program, which can send any `Origin`.

    Args:
        key: The text that the request presented. Any text is allowed.
        origin: The request's `Origin` header, unchanged, even if empty; `None` for no header.

    Returns:
        The key. `None` if the key is unknown, revoked, expired or suspended, or does not allow the
        origin. Source: SQL `keylatch.resolve_key`.
    """
    return _call("resolve_key", read_optional, models.ResolvedKey, locals())


def resolve_many(
    keys: Iterable[str | Secret], *, origins: Iterable[str | None] | None = None
) -> Call[tuple[models.ResolvedKey | None, ...]]:
    """Resolve many keys in one call. For gateways.

    Args:
        keys: Up to 1000 presented texts.
        origins: The `Origin` header, or `None`, of each key's request. `None` if none had one.

    Returns:
        For each text, in the same order, the key or `None`. A value that Python cannot read raises
        `UnreadableRow` when you use it. Source: SQL `keylatch.resolve_keys`.

    Raises:
        InvalidArgument: There are more than 1000 keys, or another number of origins.
        UnexpectedAnswer: The API's row limit is lower than the length of the batch.
    """
    arguments = sent(locals())
    presented: Any = arguments["keys"]
    return Call("resolve_keys", arguments, partial(_read_places, len(presented)))


def explain(key: str | Secret, *, origin: str | None = None) -> Call[models.Explanation]:
    """Explain why a text resolves or not. For admins, and for services that log the reason.

    Args:
        key: The text that the request presented. Any text is allowed.
        origin: As for `resolve`.

    Returns:
        The verdict (`unknown` for a key of another workspace), the reason, what to do, and the
        fingerprint of the text. Source: SQL `keylatch.explain_key`.
    """
    return _call("explain_key", read_one, models.Explanation, locals())


def installation() -> Call[models.Installation]:
    """Identify the database, so that you can compare the answers of two services.

    Returns:
        Its id, database, version and modules, and whether this server is a replica. Source: SQL
        `keylatch.installation`.
    """
    return _call("installation", read_one, models.Installation, {})


# Module events.
def events(
    workspace_id: UUID | str, *, after: UUID | str | None = None, limit: int = 1000
) -> Call[tuple[models.KeyEvent, ...]]:
    """Return the events of a workspace's keys, one page at a time. For admins.

    Args:
        workspace_id: The workspace.
        after: The id of the last event on the previous page; `None` for the first page.
        limit: How many events at most.

    Returns:
        The events, newest first; none if the caller does not administer the workspace. A value
        that Python cannot read raises `UnreadableRow` when you use it. Source: SQL
        `keylatch.list_events`; to filter, read the view `keylatch.key_events`.
    """
    return _call("list_events", read_each_once, models.KeyEvent, locals())


def seal_events(*, limit: int = 10_000) -> Call[models.Sealing]:
    """Seal all unsealed events, so that a later change of an event is detected. For services.

    Args:
        limit: How many events to seal in this call.

    Returns:
        The last checkpoint, and whether unsealed events are left. Call again until `is_done`.
        Source: SQL `keylatch.seal_events`.
    """
    return _call("seal_events", read_one, models.Sealing, locals())


def verify_events(*, from_checkpoint: int = 1, limit: int = 100) -> Call[models.EventVerification]:
    """Check that no sealed event was changed.

    Args:
        from_checkpoint: The number of the first checkpoint to check.
        limit: How many checkpoints to check in this call.

    Returns:
        What was checked, the first mismatch, and the checkpoint to continue with. Source: SQL
        `keylatch.verify_events`.
    """
    return _call("verify_events", read_one, models.EventVerification, locals())


# Module usage.
def record_usage(
    uses: Iterable[models.KeyUsage] = (),
    *,
    refusals: Mapping[UUID, Mapping[str, int]] | None = None,
) -> Call[frozenset[UUID]]:
    """Report how often keys were used and refused. For services; `keylatch.usage` calls this.

    Args:
        uses: Sums for up to 10,000 keys. `uses` is the unreported count, at least 1.
        refusals: How often each key was refused, by the verdict of `explain`.

    Returns:
        The keys to report again, because another report was counting them. Source: SQL
        `keylatch.record_usage`.
    """
    return Call("record_usage", {"batch": usage_batch(uses, refusals or {})}, _read_again)


def usage(key_id: UUID | str) -> Call[models.KeyUsage | None]:
    """Return when a key was last used, and about how often it was used. For admins.

    Args:
        key_id: The id of the key.

    Returns:
        What services have reported; `None` if there is no report, or if the caller does not
        administer the key. Source: a row of the view `keylatch.key_usage`.
    """
    return _call("key_usage", read_optional, models.KeyUsage, locals())


# Module notify.
def replay_position() -> Call[models.ReplayPosition]:
    """Return this server's position in the write-ahead log. For services and admins.

    Returns:
        The position and its timeline. Source: SQL `keylatch.replay_position`.
    """
    return _call("replay_position", read_one, models.ReplayPosition, {})


def wait_for_replicas(*, timeout: timedelta = timedelta(seconds=10)) -> Call[models.ReplicaWait]:
    """Wait until the synchronous standbys have replayed everything committed before the call.

    Call this after the commit of a revocation. The call is refused in a transaction that has
    changed something, because the change is not committed yet.

    Args:
        timeout: How long to wait at most, up to a minute.

    Returns:
        How many standbys have replayed these commits. Source: SQL `keylatch.wait_for_replicas`.

    Raises:
        InvalidArgument: `timeout` is not in its range, there is no synchronous standby, or the
            transaction has changed something. `detail` says which.
        Unavailable: A standby is still behind after `timeout`. Committed changes stay committed.
    """
    return _call("wait_for_replicas", read_one, models.ReplicaWait, locals())


# Module sessions.
def resolve_session(token: str | Secret, *, extend: bool = False) -> Call[models.Session | None]:
    """Look up an open session by its token. For services.

    Args:
        token: The text that the visitor's page sent. Any text is allowed.
        extend: Restart the session's lifetime from now; without it, the call writes nothing.

    Returns:
        The session; `None` if the token is wrong, or the session is expired or closed. Compare
        its `origin` with the request's `Origin`. Source: SQL `keylatch.resolve_session`.
    """
    return _call("resolve_session", read_optional, models.Session, locals())


def close_session(token: str | Secret) -> Call[models.Session]:
    """Close a session at once. For services.

    Args:
        token: The token of the session.

    Returns:
        The session before it was closed. Source: SQL `keylatch.close_session`.
    """
    return _call("close_session", read_one, models.Session, locals())


def attach_subject(token: str | Secret, *, subject: str) -> Call[models.Session]:
    """Store the user id of a session's visitor, which cannot change later. For services.

    Args:
        token: The token of the session.
        subject: The application's own id of the visitor, up to 200 characters.

    Returns:
        The session. Source: SQL `keylatch.attach_subject`.

    Raises:
        LatchViolation: The session already has another subject.
    """
    return _call("attach_subject", read_one, models.Session, locals())


def prune_sessions(*, batch: int = 10_000) -> Call[models.SessionPruning]:
    """Delete expired sessions. For the service key.

    Args:
        batch: How many sessions to delete at most, up to 100,000.

    Returns:
        How many sessions were deleted. Call again while this equals `batch`. Source: SQL
        `keylatch.prune_sessions`.
    """
    return _call("prune_sessions", read_one, models.SessionPruning, locals())


def end_sessions(key_id: UUID | str, *, reason: str | None = None) -> Call[models.SessionEnding]:
    """Revoke a key that was abused, and end every session that it opened. For admins.

    Args:
        key_id: The key. If it is revoked already, only its sessions end.
        reason: The reason, up to 500 characters, for the audit log.

    Returns:
        When the key was revoked, and how many sessions ended. Source: SQL `keylatch.end_sessions`.
    """
    return _call("end_sessions", read_one, models.SessionEnding, locals())


# Module legacy.
def import_keys(
    lines: Iterable[Mapping[str, object]],
    *,
    dry_run: bool = False,
    strict: bool = False,
    source: str = "",
    import_id: UUID | str | None = None,
    probes: Iterable[Mapping[str, object]] = (),
) -> Call[models.ImportReport]:
    """Import keys of another system. For the service key.

    A refused line does not affect other lines. You can repeat an import: an import can revoke or
    suspend a key or set an earlier expiry, but never reactivates or extends a key.

    Args:
        lines: Up to 10,000 lines. The comment on the SQL function describes the fields.
        dry_run: Whether to only report what would happen.
        strict: Whether to import nothing if one line is refused.
        source: A name for the imported table, which `finish_import` needs.
        import_id: The id of the import, the same for all batches of a file; `None` for a new id.
        probes: Up to 20 keys to resolve after the import. Each has `key`, and may have
            `workspace_id` and `origin`.

    Returns:
        What happened to each line. Source: SQL `keylatch.import_keys`.
    """
    return _call("import_keys", read_one, models.ImportReport, locals())


def declare_scheme(name: str, *, recipe: Mapping[str, object]) -> Call[None]:
    """Describe how another system makes unsalted hashes. For the service key.

    Args:
        name: The name by which a line of an import refers to the scheme.
        recipe: The steps that hash a presented text. The SQL function's comment lists them.

    Returns:
        Nothing. Source: SQL `keylatch.declare_scheme`.
    """
    return Call("declare_scheme", sent(locals()), lambda _: None)


def end_scheme(name: str, *, ends_at: datetime, limit: int = 10_000) -> Call[models.Retirement]:
    """Set the expiry of up to `limit` keys that were imported with a scheme. For the service key.

    Args:
        name: The scheme.
        ends_at: When the keys expire at the latest. A later call can only set an earlier time.
        limit: How many keys one call changes.

    Returns:
        How many keys changed. Call again until `is_done`. Source: SQL `keylatch.end_scheme`.
    """
    return _call("end_scheme", read_one, models.Retirement, locals())


def finish_import(
    source: str, *, import_id: UUID | str, limit: int = 10_000
) -> Call[models.Retirement]:
    """Revoke imported keys that the newest import of the same table lacks. For the service key.

    Args:
        source: The `source` of the import.
        import_id: The `import_id` of the import.
        limit: How many keys one call revokes.

    Returns:
        How many it revoked. Call again until `is_done`. Source: SQL `keylatch.finish_import`.
    """
    return _call("finish_import", read_one, models.Retirement, locals())


def upgrade_key(
    key: str | Secret, *, workspace_id: UUID | str | None = None, origin: str | None = None
) -> Call[models.ResolvedKey | None]:
    """Resolve a legacy key with a salted hash, and turn it into a key of keylatch. For services.

    The call may compute slow hashes: make it only if `resolve` found nothing, and limit how often
    each sender can cause it.

    Args:
        key: The text that the request presented. Any text is allowed.
        workspace_id: The workspace of the key; `None` tries only keys that were imported with
            `starts_with` or `ends_with`.
        origin: As for `resolve`.

    Returns:
        The key if it is active, else `None`. Source: SQL `keylatch.upgrade_key`.

    Raises:
        TooManyRequests: A rate limit is reached.
    """
    arguments = {**sent({"key": key, "origin": origin}), "workspace_id": None}
    if workspace_id is not None:
        arguments |= sent({"workspace_id": workspace_id})
    return Call("upgrade_key", arguments, partial(read_optional, models.ResolvedKey))


def legacy_keys(workspace_id: UUID | str) -> Call[tuple[models.LegacyKey, ...]]:
    """Return the legacy keys of a workspace, of any status. For admins.

    Args:
        workspace_id: The workspace.

    Returns:
        The keys that were imported with a salted hash; none if the caller does not administer
        the workspace. Source: the view `keylatch.legacy_keys`.
    """
    return _call("legacy_keys", read_each_once, models.LegacyKey, locals())


def revoke_legacy_key(id: UUID | str, *, reason: str | None = None) -> Call[models.Revocation]:  # noqa: A002
    """Revoke a legacy key before its first use. Repeating is not an error. For admins.

    Args:
        id: The legacy key. If it was upgraded, the key that replaced it is revoked.
        reason: The reason, up to 500 characters, for the audit log.

    Returns:
        When the key was revoked. Source: SQL `keylatch.revoke_legacy_key`.
    """
    return _call("revoke_legacy_key", read_one, models.Revocation, locals())


def _read_issued(rows: Rows) -> tuple[models.IssuedKey, ...]:
    issued = rows[0].get("keys") if len(rows) == 1 else None
    if not isinstance(issued, list):
        raise UnexpectedAnswer(detail="the answer of issue_keys has no list of keys")
    return read_all(models.IssuedKey, issued)


def _read_places(count: int, rows: Rows) -> tuple[models.ResolvedKey | None, ...]:
    places = {row.get("position"): row for row in rows}
    if len(rows) != count or set(places) != set(range(1, count + 1)):
        raise UnexpectedAnswer(
            detail=f"{count} keys were sent and {len(rows)} answers came back",
            hint="Send fewer keys per call, or increase max-rows of the API.",
        )
    return tuple(
        None if row.get("key_id") is None else read_all(models.ResolvedKey, [row])[0]
        for row in (places[place] for place in range(1, count + 1))
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _UsageReport:
    again: tuple[UUID, ...]


def _read_again(rows: Rows) -> frozenset[UUID]:
    return frozenset(read_one(_UsageReport, rows).again)


def _read_found(rows: Rows) -> models.Key:
    found = read_optional(models.Key, rows)
    if found is None:
        raise KeyNotFound(
            detail="You administer no key with this id.", hint="List the keys of the workspace."
        )
    return found
