"""Reads the keys for a revocation list, and revokes keys again that a restore has reactivated."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import Any
from uuid import UUID

import psycopg
from psycopg.rows import tuple_row

from keylatch.errors import KeylatchError, NotInstalled, PermissionDenied

from ..asking import own_errors
from ..output import when
from .lists import Entry, Head

_BATCH = 500
# If row security hides keys, an incomplete list would look complete.
_READABLE = """
select
  not coalesce(pg_catalog.row_security_active('keylatch_internal.keys'), true),
  pg_catalog.to_regclass('keylatch_internal.key_event_checkpoints') is not null
"""
_THERE = "select pg_catalog.to_regclass('keylatch_internal.keys') is not null"
_SITE = """
select i.id, i.database_name, i.is_replica, pg_catalog.now() from keylatch.installation() as i
"""
_CHECKPOINT = """
select c.number, pg_catalog.encode(c.digest, 'hex')
from keylatch_internal.key_event_checkpoints as c
where c.number = coalesce(
  %(number)s, (select max(l.number) from keylatch_internal.key_event_checkpoints as l)
)
"""
_ENDED = """
select k.id, k.revoked_at, k.revoke_reason, k.suspended_at, k.expires_at
from keylatch_internal.keys as k
where
  (k.revoked_at is not null or k.suspended_at is not null or k.expires_at is not null)
  and (%(since)s::timestamptz is null or k.updated_at >= %(since)s)
order by k.id
"""
# What to do with a key. A revocation is never undone, so the list is always right about it. For
# suspensions and expiries, the later change counts; a row has the time of its last change.
_JUDGE = """
select
  k.id,
  case
    when k.revoked_at is not null then 'already'
    when w.revoked_at is not null then 'revoked'
    when k.expires_at <= pg_catalog.clock_timestamp() then 'already'
    when coalesce(w.expires_at, 'infinity') >= coalesce(k.expires_at, 'infinity')
      and (w.suspended_at is null or k.suspended_at is not null) then 'already'
    when k.updated_at > %(exported_at)s then 'changed'
    when w.expires_at <= pg_catalog.clock_timestamp() then 'revoked'
    else 'limited'
  end
from pg_catalog.jsonb_to_recordset(%(wanted)s) as w (
  id uuid, revoked_at timestamptz, suspended_at timestamptz, expires_at timestamptz
)
inner join keylatch_internal.keys as k on w.id = k.id
order by k.id
"""
_REVOKE = """
update keylatch_internal.keys as k
set revoked_at = pg_catalog.clock_timestamp(), revoke_reason = w.reason
from pg_catalog.jsonb_to_recordset(%(wanted)s) as w (id uuid, reason text)
where k.id = w.id and k.revoked_at is null
"""
_LIMIT = """
update keylatch_internal.keys as k
set
  expires_at = least(k.expires_at, w.expires_at),
  suspended_at = coalesce(k.suspended_at, w.suspended_at)
from pg_catalog.jsonb_to_recordset(%(wanted)s) as w (
  id uuid, suspended_at timestamptz, expires_at timestamptz
)
where k.id = w.id and k.revoked_at is null
"""
_LONGEST_REASON = 500


@dataclass(slots=True)
class Outcome:
    """The result of applying a list.

    Attributes:
        counts: How many keys had each outcome: `revoked`, `limited`, `already`, `changed`,
            `unknown`.
        named: The ids of the keys, by outcome, without `already`.
        is_behind: Whether the database lacks the events of the list, or has other events.
    """

    counts: Counter[str] = field(default_factory=Counter)
    named: dict[str, list[UUID]] = field(default_factory=dict)
    is_behind: bool = False

    def add(self, outcome: str, key_id: UUID) -> None:
        """Count a key.

        Args:
            outcome: What happened to the key.
            key_id: Its id.
        """
        self.counts[outcome] += 1
        if outcome != "already":
            self.named.setdefault(outcome, []).append(key_id)


@contextmanager
def exported(
    connection: psycopg.Connection[Any], since: datetime | None
) -> Iterator[tuple[Head, Iterator[Entry]]]:
    """Read all keys that are revoked or suspended or that expire, in one snapshot.

    Args:
        connection: In autocommit mode, as the owner of keylatch or another role that reads every
            row.
        since: Read only keys that changed since this time; `None` for all keys.

    Yields:
        The first line, and the keys.

    Raises:
        NotInstalled: keylatch is not installed.
        PermissionDenied: Row security hides keys from this user.
        KeylatchError: The server reported an error.
    """
    with own_errors(), connection.transaction():
        connection.execute("set transaction isolation level repeatable read, read only")
        has_events = _check_rights(connection)
        found, name, _, now = _row(connection, _SITE)
        checkpoint = _checkpoint(connection, None) if has_events else None

        def read() -> Iterator[Entry]:
            with psycopg.ServerCursor(connection, "ended", row_factory=tuple_row) as cursor:
                cursor.execute(_ENDED.encode(), {"since": since})
                for row in cursor:
                    yield Entry(*row)

        yield Head(found, name, now, since, checkpoint), read()


def apply(
    connection: psycopg.Connection[Any],
    head: Head,
    entries: Iterable[Entry],
    *,
    dry_run: bool,
    force: bool,
    done: Callable[[int], None],
) -> Outcome:
    """Revoke or limit the keys of a list that are active in a restored database.

    Each batch is a transaction of its own. Repeating is safe.

    Args:
        connection: As for `exported`.
        head: The first line of the list.
        entries: The keys of the list.
        dry_run: Whether to change nothing.
        force: Whether to accept a list of another installation.
        done: Called after each batch with the number of its keys.

    Returns:
        What happened.

    Raises:
        NotInstalled: keylatch is not installed.
        PermissionDenied: Row security hides keys from this user.
        KeylatchError: `other_installation`; `replica` if nothing can be written; or an error of
            the server.
    """
    with own_errors():
        has_events = _check_rights(connection)
        found, name, is_replica, _ = _row(connection, _SITE)
        if found != head.installation and not force:
            raise KeylatchError(
                "other_installation",
                detail=f"The list belongs to installation {head.installation}, but the database "
                f"{name} is installation {found}.",
                hint="Check the database URL. If this database is a copy with its own id, add "
                "--force.",
            )
        if is_replica and not dry_run:
            raise KeylatchError(
                "replica",
                detail=f"The database {name} is a read replica: no key can be revoked here.",
                hint="Use the database URL of the primary, or promote this server first.",
            )
        outcome = Outcome()
        if head.checkpoint and has_events:
            outcome.is_behind = _checkpoint(connection, head.checkpoint[0]) != head.checkpoint
        waiting = iter(entries)
        while batch := {one.id: one for one in islice(waiting, _BATCH)}:
            size = len(batch)
            with connection.transaction():
                _apply_batch(connection, head, batch, outcome, dry_run)
            for key_id in batch:
                outcome.add("unknown", key_id)
            done(size)
        return outcome


def _apply_batch(
    connection: psycopg.Connection[Any],
    head: Head,
    batch: dict[UUID, Entry],
    outcome: Outcome,
    dry_run: bool,
) -> None:
    """Apply one batch, and remove from the batch the keys that exist in the database."""
    # Locks in the order of the ids, like every statement of keylatch that locks several keys.
    lock = "" if dry_run else "\nfor update of k"
    judged = _rows(
        connection,
        _JUDGE + lock,
        {"wanted": _wanted(batch.values()), "exported_at": head.exported_at},
    )
    by_action: dict[str, list[Entry]] = {}
    for key_id, action in judged:
        by_action.setdefault(action, []).append(batch.pop(key_id))
        outcome.add(action, key_id)
    if dry_run:
        return
    for action, statement in (("revoked", _REVOKE), ("limited", _LIMIT)):
        if action in by_action:
            wanted = {"wanted": _wanted(by_action[action])}
            connection.execute(statement.encode(), wanted)


def _wanted(entries: Iterable[Entry]) -> str:
    return json.dumps(
        [
            {
                "id": str(one.id),
                "revoked_at": one.revoked_at and one.revoked_at.isoformat(),
                "suspended_at": one.suspended_at and one.suspended_at.isoformat(),
                "expires_at": one.expires_at and one.expires_at.isoformat(),
                "reason": _reason(one),
            }
            for one in entries
        ]
    )


def _reason(entry: Entry) -> str:
    """Build the reason, with the time of the first revocation or of the expiry."""
    revoked = entry.revoked_at is not None
    what = (
        f"revoked at {when(entry.revoked_at)}"
        if revoked
        else f"expired at {when(entry.expires_at)}"
    )
    again = f"{what}; revoked again after a restore"
    if not entry.reason:
        return again
    return f"{entry.reason[: _LONGEST_REASON - len(again) - 3]} ({again})"


def _check_rights(connection: psycopg.Connection[Any]) -> bool:
    """Check that this user can read every key. Return whether the module events is installed."""
    if not _row(connection, _THERE)[0]:
        raise NotInstalled(
            detail="The database has no keylatch.",
            hint="Check the database URL, or restore the schema first.",
        )
    may_read, has_events = _row(connection, _READABLE)
    if not may_read:
        raise PermissionDenied(
            detail="Row security hides keys from this user, so the list would not be complete.",
            hint="Connect as the owner of keylatch: postgres in a Supabase project.",
        )
    return bool(has_events)


def _checkpoint(connection: psycopg.Connection[Any], number: int | None) -> tuple[int, str] | None:
    rows = _rows(connection, _CHECKPOINT, {"number": number})
    return rows[0] if rows else None


def _row(connection: psycopg.Connection[Any], query: str) -> Any:
    (row,) = _rows(connection, query, {})
    return row


def _rows(
    connection: psycopg.Connection[Any], query: str, parameters: dict[str, object]
) -> list[Any]:
    cursor = psycopg.Cursor(connection, row_factory=tuple_row)
    return cursor.execute(query.encode(), parameters).fetchall()
