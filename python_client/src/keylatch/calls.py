"""Declares every call once: its signature, its docstring, and the SQL function that it calls."""

# A declared call has no body: the client makes the method.
# mypy: disable-error-code="empty-body"
# pyright: reportReturnType=false

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar
from uuid import UUID

from . import models
from .arguments import Given, Optional, sent, sent_usage
from .errors import KeyNotFound, UnexpectedAnswer
from .rows import read_all, read_one, read_optional
from .secret import Secret
from .transports import Rows

P = ParamSpec("P")
T = TypeVar("T")

if TYPE_CHECKING:
    from typing import Protocol, overload

    from .client import AsyncKeylatch as Async
    from .client import Keylatch as Sync

    Result = TypeVar("Result", covariant=True)

    class Method(Protocol[P, Result]):
        """What a declared call is in each of the two clients."""

        @overload
        def __get__(self, of: Sync, kind: object) -> Callable[P, Result]: ...
        @overload
        def __get__(self, of: Async, kind: object) -> Callable[P, Coroutine[Any, Any, Result]]: ...
        @overload
        def __get__(self, of: None, kind: type[Sync]) -> Callable[Concatenate[Sync, P], Result]: ...
        @overload
        def __get__(
            self, of: None, kind: type[Async]
        ) -> Callable[Concatenate[Async, P], Coroutine[Any, Any, Result]]: ...


def call(
    function: str,
    *,
    send: Callable[[Given, Optional], dict[str, Any]] = sent,
    read: Callable[[Rows, Given], object] | None = None,
) -> Callable[[Callable[Concatenate[Any, P], T]], Method[P, T]]:
    """Declare a call. `Client` makes a method of each.

    Args:
        function: The function of schema `keylatch`, or a view to read. Its parameters have the
            names of the method's parameters. `arguments` has their types.
        send: Turns the arguments of the method into those of the function; see `sent`.
        read: Reads the answer's rows; it also gets what was sent. By default, `reader` chooses.
    """

    def declare(text: Any) -> Any:
        text.function, text.send, text.read = function, send, read
        return text

    return declare


def _send_id(given: Given, _: Optional) -> dict[str, Any]:
    return {"id": sent(given)["key_id"]}


def _read_found(rows: Rows, _: Given) -> models.Key:
    found = read_optional(models.Key, rows)
    if found is None:
        raise KeyNotFound(
            detail="You administer no key with this id.", hint="List the keys of the workspace."
        )
    return found


def _read_issued(rows: Rows, _: Given) -> tuple[models.IssuedKey, ...]:
    issued = rows[0].get("keys") if len(rows) == 1 else None
    if not isinstance(issued, list):
        raise UnexpectedAnswer(detail="the answer of issue_keys has no list of keys")
    return read_all(models.IssuedKey, issued)


def _read_places(rows: Rows, sent: Given) -> tuple[models.ResolvedKey | None, ...]:
    count = len(sent["keys"])
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


def _read_again(rows: Rows, _: Given) -> frozenset[UUID]:
    return frozenset(read_one(_UsageReport, rows).again)


class Calls:
    """The calls of both clients."""

    @call("issue_key")
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
    ) -> models.IssuedKey:
        """Make a key. For admins.

        Args:
            workspace_id: The workspace of the key.
            kind: `publishable` for a key in a web page, `secret` for a key that only servers have.
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

    @call("issue_keys", read=_read_issued)
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
    ) -> tuple[models.IssuedKey, ...]:
        """Make one key for each label: all keys or none. For admins.

        Args:
            workspace_id: The workspace of the keys.
            labels: Up to 100,000 names; over HTTP, where time is limited, a few thousand.
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

    @call("rotate_key")
    def rotate(
        self,
        key_id: UUID | str,
        *,
        grace: timedelta = timedelta(0),
        expires_at: datetime | None = None,
    ) -> models.IssuedKey:
        """Replace a key by a new one with the same properties. For admins.

        Args:
            key_id: The key to replace.
            grace: How long the old key still resolves, up to 30 days; 0 revokes it at once, and is
                required for a suspended key.
            expires_at: When the new key expires, with a time zone; `None` for the old key's expiry.

        Returns:
            The new key, shown only here. Source: SQL `keylatch.rotate_key`.

        Raises:
            KeyNotUsable: The key is already rotated, revoked, expired or suspended; see `reason`.
        """

    @call("revoke_key")
    def revoke(
        self,
        key_id: UUID | str,
        *,
        reason: str | None = None,
        cascade: bool = False,
        wait_for_replicas: bool = False,
    ) -> models.Revocation:
        """Revoke a key for good. Repeating the call is not an error. For admins.

        Args:
            key_id: The key to revoke.
            reason: The reason, up to 500 characters, for the audit log.
            cascade: Also revoke every other key of its rotation family.
            wait_for_replicas: Call `wait_for_replicas` after the commit; the key stays revoked if
                the wait fails. In your own transaction, leave this out, commit, then call it.

        Returns:
            When the key was revoked. Source: SQL `keylatch.revoke_key`.

        Raises:
            InvalidArgument: With `wait_for_replicas`, there is no synchronous standby.
            Unavailable: With `wait_for_replicas`, a standby is behind.
        """

    @call("suspend_key")
    def suspend(self, key_id: UUID | str) -> models.Key:
        """Suspend a key until `unsuspend`. Repeating the call is not an error. For admins.

        Args:
            key_id: The id of the key.

        Returns:
            The key as it is now. Source: SQL `keylatch.suspend_key`.
        """

    @call("unsuspend_key")
    def unsuspend(self, key_id: UUID | str) -> models.Key:
        """Let a suspended key resolve again. Repeating the call is not an error. For admins.

        Args:
            key_id: The id of the key.

        Returns:
            The key as it is now. Source: SQL `keylatch.unsuspend_key`.
        """

    @call("keys", send=_send_id, read=_read_found)
    def show(self, key_id: UUID | str) -> models.Key:
        """Return one key of any status. For admins.

        Args:
            key_id: The id of the key.

        Returns:
            The key as it is now. Source: a row of the view `keylatch.keys`.
        """

    @call("list_keys")
    def list(self, workspace_id: UUID | str) -> tuple[models.Key, ...]:
        """Return all keys of a workspace, of any status. For admins.

        Args:
            workspace_id: The workspace.

        Returns:
            The keys, newest first; none if the caller does not administer the workspace. Source:
            SQL `keylatch.list_keys`; to filter or page, read the view `keylatch.keys`.
        """

    @call("retire_workspace")
    def retire_workspace(
        self, workspace_id: UUID | str, *, limit: int = 10_000
    ) -> models.Retirement:
        """Revoke the keys of a large workspace in steps, before you delete it. For admins.

        Args:
            workspace_id: The workspace.
            limit: How many keys to revoke in this call, 1 to 100,000.

        Returns:
            How many keys were revoked. Call again until `is_done`, then delete the workspace.
            Source: SQL `keylatch.retire_workspace`.
        """

    @call("resolve_key")
    def resolve(self, key: str | Secret, *, origin: str | None = None) -> models.ResolvedKey | None:
        """Look up an active key by its text. For services: role `keylatch_resolver` or service key.

        The origin check stops other web pages, but not a program, which can send any `Origin`.

        Args:
            key: The text that the request presented. Any text is allowed.
            origin: The request's `Origin` header, unchanged, even if empty; `None` for no header.

        Returns:
            The key; `None` if it is unknown, revoked, expired or suspended, or does not allow the
            origin. Source: SQL `keylatch.resolve_key`.
        """

    @call("resolve_keys", read=_read_places)
    def resolve_many(
        self, keys: Iterable[str | Secret], *, origins: Iterable[str | None] | None = None
    ) -> tuple[models.ResolvedKey | None, ...]:
        """Resolve many keys in one call. For gateways.

        Args:
            keys: Up to 1000 presented texts.
            origins: The `Origin` header, or `None`, of each key's request. `None` if none had one.

        Returns:
            For each text, in order, the key or `None`. Source: SQL `keylatch.resolve_keys`.

        Raises:
            InvalidArgument: There are more than 1000 keys, or another number of origins.
            UnexpectedAnswer: The API's row limit is lower than the length of the batch.
        """

    @call("explain_key")
    def explain(self, key: str | Secret, *, origin: str | None = None) -> models.Explanation:
        """Explain why a text resolves or not. For admins, and for services that log the reason.

        Args:
            key: The text that the request presented. Any text is allowed.
            origin: As for `resolve`.

        Returns:
            The verdict (`unknown` for a key of another workspace), the reason, what to do, and the
            fingerprint of the text. Source: SQL `keylatch.explain_key`.
        """

    @call("installation")
    def installation(self) -> models.Installation:
        """Identify the database, so that you can compare the answers of two services.

        Returns:
            Its id, database, version and modules, and whether this server is a replica. Source: SQL
            `keylatch.installation`.
        """

    # Module events.
    @call("list_events")
    def events(
        self, workspace_id: UUID | str, *, after: UUID | str | None = None, limit: int = 1000
    ) -> tuple[models.KeyEvent, ...]:
        """Return the events of a workspace's keys, one page at a time. For admins.

        Args:
            workspace_id: The workspace.
            after: The id of the last event on the previous page; `None` for the first page.
            limit: How many events at most.

        Returns:
            The events, newest first; none if the caller does not administer the workspace. Source:
            SQL `keylatch.list_events`; to filter, read the view `keylatch.key_events`.
        """

    @call("seal_events")
    def seal_events(self, *, limit: int = 10_000) -> models.Sealing:
        """Seal all unsealed events, so that a later change of an event is detected. For services.

        Args:
            limit: How many events to seal in this call.

        Returns:
            The last checkpoint, and whether unsealed events are left. Call again until `is_done`.
            Source: SQL `keylatch.seal_events`.
        """

    @call("verify_events")
    def verify_events(
        self, *, from_checkpoint: int = 1, limit: int = 100
    ) -> models.EventVerification:
        """Check that no sealed event was changed.

        Args:
            from_checkpoint: The number of the first checkpoint to check.
            limit: How many checkpoints to check in this call.

        Returns:
            What was checked, the first mismatch, and the checkpoint to continue with. Source: SQL
            `keylatch.verify_events`.
        """

    # Module usage.
    @call("record_usage", send=sent_usage, read=_read_again)
    def record_usage(
        self,
        uses: Iterable[models.KeyUsage] = (),
        *,
        refusals: Mapping[UUID, Mapping[str, int]] | None = None,
    ) -> frozenset[UUID]:
        """Report how often keys were used and refused. For services; `keylatch.usage` calls this.

        Args:
            uses: Sums for up to 10,000 keys. `uses` is the unreported count, at least 1.
            refusals: How often each key was refused, by the verdict of `explain`.

        Returns:
            The keys to report again, because another report was counting them. Source: SQL
            `keylatch.record_usage`.
        """

    @call("key_usage")
    def usage(self, key_id: UUID | str) -> models.KeyUsage | None:
        """Return when a key was last used, and about how often it was used. For admins.

        Args:
            key_id: The id of the key.

        Returns:
            What services have reported; `None` if there is no report, or if the caller does not
            administer the key. Source: a row of the view `keylatch.key_usage`.
        """

    # Module notify.
    @call("replay_position")
    def replay_position(self) -> models.ReplayPosition:
        """Return this server's position in the write-ahead log. For services and admins.

        Returns:
            The position and its timeline. Source: SQL `keylatch.replay_position`.
        """

    @call("wait_for_replicas")
    def wait_for_replicas(
        self, *, timeout: timedelta = timedelta(seconds=10)
    ) -> models.ReplicaWait:
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
            Unavailable: A standby is still behind after `timeout`. The commits stay.
        """

    # Module sessions.
    @call("resolve_session")
    def resolve_session(
        self, token: str | Secret, *, extend: bool = False
    ) -> models.Session | None:
        """Look up an open session by its token. For services.

        Args:
            token: The text that the visitor's page sent. Any text is allowed.
            extend: Restart the session's lifetime from now; without it, the call writes nothing.

        Returns:
            The session; `None` if the token is wrong, or the session is expired or closed. Compare
            its `origin` with the request's `Origin`. Source: SQL `keylatch.resolve_session`.
        """

    @call("close_session")
    def close_session(self, token: str | Secret) -> models.Session:
        """Close a session at once. For services.

        Args:
            token: The token of the session.

        Returns:
            The session before it was closed. Source: SQL `keylatch.close_session`.
        """

    @call("attach_subject")
    def attach_subject(self, token: str | Secret, *, subject: str) -> models.Session:
        """Store the user id of a session's visitor, which cannot change later. For services.

        Args:
            token: The token of the session.
            subject: The application's own id of the visitor, up to 200 characters.

        Returns:
            The session. Source: SQL `keylatch.attach_subject`.

        Raises:
            LatchViolation: The session already has another subject.
        """

    @call("prune_sessions")
    def prune_sessions(self, *, batch: int = 10_000) -> models.SessionPruning:
        """Delete expired sessions. For the service key.

        Args:
            batch: How many sessions to delete at most, up to 100,000.

        Returns:
            How many sessions were deleted. Call again while this equals `batch`. Source: SQL
            `keylatch.prune_sessions`.
        """

    @call("end_sessions")
    def end_sessions(
        self, key_id: UUID | str, *, reason: str | None = None
    ) -> models.SessionEnding:
        """Revoke a key that was abused, and end every session that it opened. For admins.

        Args:
            key_id: The key. If it is revoked already, only its sessions end.
            reason: The reason, up to 500 characters, for the audit log.

        Returns:
            The revocation time, and how many sessions ended. Source: SQL `keylatch.end_sessions`.
        """

    # Module legacy.
    @call("import_keys")
    def import_keys(
        self,
        lines: Iterable[Mapping[str, object]],
        *,
        dry_run: bool = False,
        strict: bool = False,
        source: str = "",
        import_id: UUID | str | None = None,
        probes: Iterable[Mapping[str, object]] = (),
    ) -> models.ImportReport:
        """Import keys of another system. For the service key.

        A refused line does not affect other lines. You can repeat an import: it can revoke or
        suspend a key or set an earlier expiry, but never reactivates or extends a key.

        Args:
            lines: Up to 10,000 lines. The comment on the SQL function describes the fields.
            dry_run: Whether to only report what would happen.
            strict: Whether to import nothing if one line is refused.
            source: A name for the imported table, which `finish_import` needs.
            import_id: The id of the import, equal for all batches of a file; `None` for a new id.
            probes: Up to 20 keys to resolve after the import. Each has `key`, and may have
                `workspace_id` and `origin`.

        Returns:
            What happened to each line. Source: SQL `keylatch.import_keys`.
        """

    @call("declare_scheme")
    def declare_scheme(self, name: str, *, recipe: Mapping[str, object]) -> None:
        """Describe how another system makes unsalted hashes. For the service key.

        Args:
            name: The name by which a line of an import refers to the scheme.
            recipe: The steps that hash a presented text. The SQL function's comment lists them.

        Returns:
            Nothing. Source: SQL `keylatch.declare_scheme`.
        """

    @call("end_scheme")
    def end_scheme(self, name: str, *, ends_at: datetime, limit: int = 10_000) -> models.Retirement:
        """Set the expiry of up to `limit` keys imported with a scheme. For the service key.

        Args:
            name: The scheme.
            ends_at: When the keys expire at the latest. A later call can only set an earlier time.
            limit: How many keys one call changes.

        Returns:
            How many keys changed. Call again until `is_done`. Source: SQL `keylatch.end_scheme`.
        """

    @call("finish_import")
    def finish_import(
        self, source: str, *, import_id: UUID | str, limit: int = 10_000
    ) -> models.Retirement:
        """Revoke imported keys that the newest import of the same table lacks. For the service key.

        Args:
            source: The `source` of the import.
            import_id: The `import_id` of the import.
            limit: How many keys one call revokes.

        Returns:
            How many it revoked. Call again until `is_done`. Source: SQL `keylatch.finish_import`.
        """

    @call("upgrade_key")
    def upgrade_key(
        self,
        key: str | Secret,
        *,
        workspace_id: UUID | str | None = None,
        origin: str | None = None,
    ) -> models.ResolvedKey | None:
        """Resolve a legacy key with a salted hash, and make it a key of keylatch. For services.

        The call may compute slow hashes: make it only if `resolve` found nothing, and limit how
        often each sender can cause it.

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

    @call("legacy_keys")
    def legacy_keys(self, workspace_id: UUID | str) -> tuple[models.LegacyKey, ...]:
        """Return the legacy keys of a workspace, of any status. For admins.

        Args:
            workspace_id: The workspace.

        Returns:
            The keys that were imported with a salted hash; none if the caller does not administer
            the workspace. Source: the view `keylatch.legacy_keys`.
        """

    @call("revoke_legacy_key")
    def revoke_legacy_key(self, id: UUID | str, *, reason: str | None = None) -> models.Revocation:  # noqa: A002
        """Revoke a legacy key before its first use. Repeating is not an error. For admins.

        Args:
            id: The legacy key. If it was upgraded, the key that replaced it is revoked.
            reason: The reason, up to 500 characters, for the audit log.

        Returns:
            When the key was revoked. Source: SQL `keylatch.revoke_legacy_key`.
        """
