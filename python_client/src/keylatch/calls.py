"""Every call once: its signature, its text, the SQL function, and how its answer is read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Generic, TypeVar
from uuid import UUID

from .arguments import sent, usage_batch
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
from .rows import read_all, read_each_once, read_one, read_optional
from .secret import Secret
from .transports import Rows

M = TypeVar("M")
T = TypeVar("T")

_CALLS_OF = {
    "events": ("list_events", "seal_events", "verify_events"),
    "usage": ("key_usage", "record_usage"),
    "notify": ("replay_position", "wait_for_replicas"),
    "sessions": (
        *("resolve_session", "close_session", "attach_subject", "prune_sessions", "end_sessions"),
    ),
    "legacy": (
        *("import_keys", "declare_scheme", "end_scheme", "finish_import", "take_back_import"),
        *("upgrade_key", "legacy_keys", "revoke_legacy_key"),
    ),
}
MODULE_OF = {name: module for module, names in _CALLS_OF.items() for name in names}
"""The module that brings a function or view; the core brings all others."""


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One call of the database.

    Attributes:
        function: The function's name in schema `keylatch`, or that of a view to read.
        arguments: Its arguments by name: JSON values, and a `Secret` where a key goes.
        decode: Reads the rows of the answer.
        waits: Whether to call `wait_for_replicas` afterwards.
    """

    function: str
    arguments: Mapping[str, object]
    decode: Callable[[Rows], T]
    waits: bool = False

    def explain_missing(self, error: NotInstalled) -> NotInstalled:
        """Name the module of this call, where the call is missing in the database."""
        module = MODULE_OF.get(self.function)
        if module is None or f"keylatch.{self.function}" not in (error.detail or ""):
            return error
        return NotInstalled(
            sqlstate=error.sqlstate,
            detail=f"{self.function} belongs to the module {module}, which is not installed.",
            hint=f"Run: keylatch install . --with {module} && supabase db push",
        )


def _call(
    function: str,
    read: Callable[[type[M], Rows], T],
    model: type[M],
    given: Mapping[str, object],
) -> Call[T]:
    """Describe a call whose parameters are named as those of the function."""
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
        LatchViolation: The workspace was deleted.
    """
    return _call("issue_key", read_one, IssuedKey, locals())


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
    """
    return Call("issue_keys", sent(locals()), _read_issued)


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
        KeyNotUsable: The key is already rotated, revoked, expired or suspended; see `reason`.
    """
    return _call("rotate_key", read_one, IssuedKey, locals())


def revoke(
    key_id: UUID | str,
    *,
    reason: str | None = None,
    cascade: bool = False,
    wait_for_replicas: bool = False,
) -> Call[Revocation]:
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
        InvalidArgument: With `wait_for_replicas`, there is no synchronous standby.
        Unavailable: With `wait_for_replicas`, a standby is behind.
    """
    given = sent(locals())
    waits = bool(given.pop("wait_for_replicas"))
    return Call("revoke_key", given, partial(read_one, Revocation), waits)


def suspend(key_id: UUID | str) -> Call[Key]:
    """Suspend a key until `unsuspend`. Again is no error. For admins.

    Args:
        key_id: The key.

    Returns:
        The key as it is now. Source: SQL `keylatch.suspend_key`.
    """
    return _call("suspend_key", read_one, Key, locals())


def unsuspend(key_id: UUID | str) -> Call[Key]:
    """Let a suspended key resolve again. Again is no error. For admins.

    Args:
        key_id: The key.

    Returns:
        The key as it is now. Source: SQL `keylatch.unsuspend_key`.
    """
    return _call("unsuspend_key", read_one, Key, locals())


def show(key_id: UUID | str) -> Call[Key]:
    """Give one key, whatever its status. For admins.

    Args:
        key_id: The key.

    Returns:
        The key as it is now. Source: a row of the view `keylatch.keys`.
    """
    return Call("keys", {"id": sent({"key_id": key_id})["key_id"]}, _read_found)


def list_keys(workspace_id: UUID | str) -> Call[tuple[Key, ...]]:
    """Give all keys of a workspace, whatever their status. For admins.

    Args:
        workspace_id: The workspace.

    Returns:
        Its keys, the newest first; none if the caller does not administer it. A value that
        Python cannot read raises `UnreadableRow` when it is used, and costs no other. Source:
        SQL `keylatch.list_keys`. To filter or page, read the view `keylatch.keys`.
    """
    return _call("list_keys", read_each_once, Key, locals())


def retire_workspace(workspace_id: UUID | str, *, limit: int = 10_000) -> Call[Retirement]:
    """Revoke keys of a workspace that has too many to delete it at once. For admins.

    Call it until `is_done`, then delete the workspace.

    Args:
        workspace_id: The workspace.
        limit: How many keys to revoke in this call, 1 to 100,000.

    Returns:
        How many keys were revoked, and whether none is left. Source: SQL
        `keylatch.retire_workspace`.
    """
    return _call("retire_workspace", read_one, Retirement, locals())


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
    """
    return _call("resolve_key", read_optional, ResolvedKey, locals())


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
    arguments = sent(locals())
    presented: Any = arguments["keys"]
    came_from: Any = arguments["origins"]
    if came_from is not None and len(came_from) != len(presented):
        raise InvalidArgument.of("origins", f"has {len(came_from)}, and keys has {len(presented)}")
    return Call("resolve_keys", arguments, partial(_read_places, len(presented)))


def explain(key: str | Secret, *, origin: str | None = None) -> Call[Explanation]:
    """Ask why a text resolves or does not. For admins; for services, for their own log.

    Args:
        key: What was presented: any text at all.
        origin: The request's `Origin` header as it came; `None` if there was none.

    Returns:
        A verdict, why, what to do, and the fingerprint of the text. A key of another workspace
        is `unknown`. Source: SQL `keylatch.explain_key`.
    """
    return _call("explain_key", read_one, Explanation, locals())


def installation() -> Call[Installation]:
    """Ask which database this is: compare the answers that two services get.

    Returns:
        The installation's id, its database, version and modules, and whether this server is a
        replica. Source: SQL `keylatch.installation`.
    """
    return _call("installation", read_one, Installation, {})


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
    """
    return _call("list_events", read_each_once, KeyEvent, locals())


def seal_events(*, limit: int = 10_000) -> Call[Sealing]:
    """Seal the events that are not sealed yet, so that a later change shows. For services.

    Args:
        limit: How many events to seal in this call.

    Returns:
        The last checkpoint, and whether events are left: call again until `is_done`. Source:
        SQL `keylatch.seal_events`.
    """
    return _call("seal_events", read_one, Sealing, locals())


def verify_events(*, from_checkpoint: int = 1, limit: int = 100) -> Call[EventVerification]:
    """Check whether sealed events are as they were written.

    Args:
        from_checkpoint: The number of the first checkpoint to check.
        limit: How many checkpoints to check in this call.

    Returns:
        What was checked, the first thing that does not fit, and where to go on. Source: SQL
        `keylatch.verify_events`.
    """
    return _call("verify_events", read_one, EventVerification, locals())


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
    """
    return Call("record_usage", {"batch": usage_batch(uses, refusals or {})}, _read_again)


def usage(key_id: UUID | str) -> Call[KeyUsage | None]:
    """Ask when a key was last used, and how often: approximately. For admins.

    Args:
        key_id: The key.

    Returns:
        What services have reported; `None` if nothing yet, or if the caller does not administer
        the key. Source: a row of the view `keylatch.key_usage`.
    """
    return _call("key_usage", read_optional, KeyUsage, locals())


# Module notify.


def replay_position() -> Call[ReplayPosition]:
    """Ask how far this server is in the write-ahead log. For services and admins.

    Returns:
        The position, and the timeline that it belongs to. Source: SQL
        `keylatch.replay_position`.
    """
    return _call("replay_position", read_one, ReplayPosition, {})


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
    return _call("wait_for_replicas", read_one, ReplicaWait, locals())


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
    """
    return _call("resolve_session", read_optional, Session, locals())


def close_session(token: str | Secret) -> Call[Session]:
    """Close a session at once. For services, as `resolve`.

    Args:
        token: Its token.

    Returns:
        The session as it was. Source: SQL `keylatch.close_session`.
    """
    return _call("close_session", read_one, Session, locals())


def attach_subject(token: str | Secret, *, subject: str) -> Call[Session]:
    """Say who the visitor of a session is, once. For services, as `resolve`.

    Args:
        token: Its token.
        subject: The application's own id of the visitor, up to 200 characters.

    Returns:
        The session. The same subject again is no error. Source: SQL `keylatch.attach_subject`.

    Raises:
        LatchViolation: The session has another subject already.
    """
    return _call("attach_subject", read_one, Session, locals())


def prune_sessions(*, batch: int = 10_000) -> Call[SessionPruning]:
    """Delete expired sessions. For the service key.

    Args:
        batch: How many at most, up to 100,000.

    Returns:
        How many were deleted: call again while it is as many as `batch`. Source: SQL
        `keylatch.prune_sessions`.
    """
    return _call("prune_sessions", read_one, SessionPruning, locals())


def end_sessions(key_id: UUID | str, *, reason: str | None = None) -> Call[SessionEnding]:
    """Revoke a key that was abused, and end every session that it opened. For admins.

    Args:
        key_id: The key. If it is revoked already, only its sessions end.
        reason: Why, up to 500 characters, for the audit.

    Returns:
        Since when the key is revoked, and how many sessions ended. Source: SQL
        `keylatch.end_sessions`.
    """
    return _call("end_sessions", read_one, SessionEnding, locals())


# Module legacy.


def import_keys(
    lines: Iterable[Mapping[str, object]],
    *,
    dry_run: bool = False,
    strict: bool = False,
    source: str = "",
    import_id: UUID | str | None = None,
    probes: Iterable[Mapping[str, object]] = (),
) -> Call[ImportReport]:
    """Import keys of another system. For the service key.

    A line that is refused costs no other. The same lines again are safe: an import moves a key
    towards its end, and never away from it. `keylatch import` does this for a file of any length.

    Args:
        lines: Up to 10,000, as the comment of the SQL function says.
        dry_run: Only say what would happen.
        strict: Import nothing if one line is refused.
        source: Which table of which system this is, for `finish_import`.
        import_id: Shared by the batches of one file; `None` for a new one.
        probes: Up to 20 keys to try: `key`, and perhaps `workspace_id` and `origin`.

    Returns:
        What happened to each line. Source: SQL `keylatch.import_keys`.
    """
    return _call("import_keys", read_one, ImportReport, locals())


def declare_scheme(name: str, *, recipe: Mapping[str, object]) -> Call[None]:
    """Say how another system made its unsalted hashes. Again is safe. For the service key.

    Args:
        name: What a line of an import names it by.
        recipe: What is done to a presented text. The comment of the SQL function names the words.

    Returns:
        Nothing. Source: SQL `keylatch.declare_scheme`.
    """
    return Call("declare_scheme", sent(locals()), lambda _: None)


def end_scheme(name: str, *, ends_at: datetime, limit: int = 10_000) -> Call[Retirement]:
    """Let the keys of a scheme expire at a time, up to `limit` of them. For the service key.

    Args:
        name: The scheme.
        ends_at: When its keys expire at the latest; it never moves to a later time.
        limit: How many keys one call changes.

    Returns:
        How many keys got this end; call it until `is_done`. Source: SQL `keylatch.end_scheme`.
    """
    return _call("end_scheme", read_one, Retirement, locals())


def finish_import(source: str, *, import_id: UUID | str, limit: int = 10_000) -> Call[Retirement]:
    """Revoke the keys of a source that an import did not name. For the service key.

    Args:
        source: As the batches of the import named it.
        import_id: As the batches of the import had it.
        limit: How many keys one call revokes.

    Returns:
        How many keys were revoked; call it until `is_done`. Source: SQL `keylatch.finish_import`.
    """
    return _call("finish_import", read_one, Retirement, locals())


def take_back_import(import_id: UUID | str, *, limit: int = 10_000) -> Call[Retirement]:
    """Take back a wrong import, as long as none of its keys was used. For the service key.

    Args:
        import_id: As the report of the import has it.
        limit: How many keys one call takes back.

    Returns:
        How many keys were; call it until `is_done`. Source: SQL `keylatch.take_back_import`.

    Raises:
        LatchViolation: `import_was_used`. `detail` says how.
    """
    return _call("take_back_import", read_one, Retirement, locals())


def upgrade_key(
    key: str | Secret, *, workspace_id: UUID | str | None = None, origin: str | None = None
) -> Call[ResolvedKey | None]:
    """Resolve a legacy key with a salted hash: its first use turns it into a key of keylatch.

    Each call may compute slow hashes: call it where `resolve` found nothing, and limit how often
    one sender may cause it. For services, as `resolve`.

    Args:
        key: What was presented: any text at all.
        workspace_id: The workspace of the key. Without it, only keys are tried whose beginning or
            end the import gave.
        origin: As for `resolve`.

    Returns:
        The key if it is good, else `None`. Source: SQL `keylatch.upgrade_key`.

    Raises:
        TooManyRequests: A limit of the installation is reached.
    """
    arguments = {**sent({"key": key, "origin": origin}), "workspace_id": None}
    if workspace_id is not None:
        arguments |= sent({"workspace_id": workspace_id})
    return Call("upgrade_key", arguments, partial(read_optional, ResolvedKey))


def legacy_keys(workspace_id: UUID | str) -> Call[tuple[LegacyKey, ...]]:
    """Give the legacy keys of a workspace, whatever their status. For admins.

    Args:
        workspace_id: The workspace.

    Returns:
        The keys that were imported with a salted hash; none if the caller does not administer
        the workspace. Source: the view `keylatch.legacy_keys`.
    """
    return _call("legacy_keys", read_each_once, LegacyKey, locals())


def revoke_legacy_key(id: UUID | str, *, reason: str | None = None) -> Call[Revocation]:  # noqa: A002
    """Revoke a legacy key that waits for its first use. Again is no error. For admins.

    Args:
        id: The legacy key. If it was upgraded meanwhile, the key that it became is revoked.
        reason: Why, up to 500 characters, for the audit.

    Returns:
        Since when the key is revoked. Source: SQL `keylatch.revoke_legacy_key`.
    """
    return _call("revoke_legacy_key", read_one, Revocation, locals())


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
