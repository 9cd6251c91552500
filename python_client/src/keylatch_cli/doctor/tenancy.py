"""Checks `keylatch.admin_workspace_ids()`, which decides who administers a workspace."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, LiteralString, NamedTuple
from uuid import UUID, uuid4

import psycopg
from psycopg.rows import scalar_row, tuple_row

from keylatch.secret import mask_keys

from ..install.migrations import CORE, TENANCY
from .catalog import Entry, Manifest, Name
from .report import Finding, Level, Unchecked

FUNCTION: Name = ("function", "keylatch.admin_workspace_ids()")
"""The function that an application with its own tables replaces."""
KEPT = ("arguments", "result")
"""The properties that stay the same when the function is replaced."""

_SUBJECT = " ".join(FUNCTION)
# Counts ids, not rows: to count rows, PostgreSQL may skip computing the ids.
_ASK = "select pg_catalog.count(w.id) from keylatch.admin_workspace_ids() as w (id)"


class _People(NamedTuple):
    """The table and the query that find users for the check."""

    table: str
    query: LiteralString


_ADMINS = _People(
    "keylatch.workspace_membership",
    "select m.user_id from keylatch.workspace_membership as m where m.role = 'admin' limit 1",
)
# Enough users to find an admin, and few enough to be fast if there is none.
_OWN_USERS = _People("auth.users", "select u.id from auth.users as u limit 100")

_WHY = "Row policies call this function to decide who may see and change keys."
_REPLACE = (
    "create or replace function keylatch.admin_workspace_ids()  -- see sql/tenancy for examples"
)
# The bits of tgtype: 1 row, 2 before, 8 delete, 32 truncate, 64 instead of. Only a trigger without
# a condition (tgqual) fires for all rows.
_GUARDS = """
select
  c.oid::pg_catalog.regclass::text,
  pg_catalog.bool_or(t.tgtype & 75 = 9 and t.tgqual is null and t.tgenabled <> 'D'),
  pg_catalog.bool_or(t.tgtype & 35 = 34 and t.tgqual is null and t.tgenabled = 'A')
from pg_catalog.pg_trigger as t
inner join pg_catalog.pg_proc as p on t.tgfoid = p.oid
inner join pg_catalog.pg_class as c on t.tgrelid = c.oid
where p.pronamespace::pg_catalog.regnamespace::text = 'keylatch_internal'
  and p.proname = 'revoke_workspace_keys'
  and c.relnamespace::pg_catalog.regnamespace::text <> 'keylatch'
group by c.oid
"""
_ADMIN = (
    "-- to let a user manage the keys of a workspace:\n"
    "insert into keylatch.workspace_membership (workspace_id, user_id, role)\n"
    "values ('WORKSPACE', 'USER', 'admin');"
)
_TRIGGER = (
    "create trigger workspaces_delete_revoke_keys\n"
    "after delete or update of id on public.workspaces\n"
    "for each row execute function keylatch_internal.revoke_workspace_keys();"
)
_TRUNCATE_TRIGGER = (
    "create or replace trigger workspaces_truncate_keep before truncate on {table}\n"
    "for each statement execute function keylatch_internal.revoke_workspace_keys();\n"
    "alter table {table} enable always trigger workspaces_truncate_keep;"
)


def is_replaced(live: Mapping[Name, Entry], manifest: Manifest) -> bool:
    """Check whether the application has replaced `keylatch.admin_workspace_ids()`.

    Args:
        live: The objects of the database.
        manifest: What this version installs.

    Returns:
        Whether the function differs from the function for keylatch's own tables.
    """
    return FUNCTION in live and _body(live) != _body(manifest.parts[TENANCY])


def check(
    connection: psycopg.Connection[Any], manifest: Manifest, live: Mapping[Name, Entry]
) -> Iterator[Finding | Unchecked]:
    """Call the function as several users, and look for the trigger on the table of workspaces.

    Args:
        connection: Inside a read-only transaction, as a user who may become `authenticated`.
        manifest: What this version installs.
        live: The objects of the database.

    Yields:
        The findings.

    Raises:
        psycopg.Error: A query failed.
    """
    function = live.get(FUNCTION)
    if function is None:
        return
    own = is_replaced(live, manifest)
    if _body(live) == _body(manifest.parts[CORE]):
        yield Finding(
            Level.WARNING,
            "tenancy_missing",
            _SUBJECT,
            "is the core's default, which returns no workspace for anyone",
            "Signed-in users cannot see or issue keys; only the owner and service_role can.",
            _REPLACE,
        )
        return
    if own:
        yield from _check_own(connection, live)
    elif any(key[0] == "table" and key not in live for key in manifest.parts[TENANCY]):
        # Another finding names the missing table, without which the function fails.
        return
    yield from _ask(connection, own)


def _body(entries: Mapping[Name, Entry]) -> str:
    return str(entries[FUNCTION].definition["body"])


def _check_own(
    connection: psycopg.Connection[Any], live: Mapping[Name, Entry]
) -> Iterator[Finding]:
    function = live[FUNCTION]
    yield Finding(
        Level.NOTE,
        "tenancy_own",
        _SUBJECT,
        "is the application's own, so only its results were checked",
        _WHY,
        "select pg_catalog.pg_get_functiondef(\n"
        "  'keylatch.admin_workspace_ids()'::regprocedure);  -- to read it",
    )
    is_pinned = any(one.startswith("search_path=") for one in function.definition["settings"])
    if function.definition["security"] == "security definer" and not is_pinned:
        yield Finding(
            Level.ERROR,
            "tenancy_unpinned",
            _SUBJECT,
            "is a definer function without a search_path of its own",
            "A caller can replace a table or function that the function uses, and so "
            "administer everything.",
            "alter function keylatch.admin_workspace_ids() set search_path = pg_catalog, pg_temp;",
        )
    with connection.cursor(row_factory=scalar_row) as cursor:
        # The application's function may still use keylatch's tables, which have the trigger.
        is_guarded = ("table", "keylatch.workspaces") in live and cursor.execute(
            "select exists (select 1 from keylatch.workspaces)"
        ).fetchone()
    with connection.cursor(row_factory=tuple_row) as cursor:
        guards = cursor.execute(_GUARDS).fetchall()
    if not is_guarded and not any(revokes for _, revokes, _ in guards):
        yield Finding(
            Level.WARNING,
            "workspace_deletion_unguarded",
            "trigger on the application's table of workspaces",
            "is missing",
            "The keys of a deleted workspace stay active.",
            _TRIGGER,
        )
    for table, _, keeps in sorted(guards):
        if not keeps:
            yield Finding(
                Level.WARNING,
                "workspace_truncation_unguarded",
                f"trigger workspaces_truncate_keep on {table}",
                "is missing, or does not fire always and for each TRUNCATE",
                "After a TRUNCATE, the keys of the deleted workspaces stay active.",
                _TRUNCATE_TRIGGER.format(table=table),
            )


def _ask(connection: psycopg.Connection[Any], own: bool) -> Iterator[Finding | Unchecked]:
    try:
        if _count(connection, uuid4()):
            yield Finding(
                Level.ERROR,
                "everybody_administers",
                _SUBJECT,
                "returns workspaces for a user who does not exist",
                "Every signed-in user can manage the keys of others.",
                _REPLACE,
            )
            return
        people = _OWN_USERS if own else _ADMINS
        users = _users(connection, people)
        if users is None:
            hidden = f"row policies hide {people.table} from this user; connect as the owner"
            yield Unchecked("tenancy", hidden)
            return
        if any(_count(connection, user) for user in users):
            return
    except _Refused as refused:
        yield Finding(
            Level.ERROR,
            "tenancy_fails",
            _SUBJECT,
            f"fails for a signed-in user: {refused}",
            "Every call and every query of a signed-in user fails with this error.",
            _REPLACE,
        )
        return
    yield Finding(
        Level.NOTE,
        "nobody_administers",
        _SUBJECT,
        f"returns no workspace for any tested user ({len(users)} tested)"
        if own
        else "returns no workspace, because no user is an admin",
        "No signed-in user can see or issue keys, unless the function uses more than the user's id."
        if own
        else "Signed-in users cannot manage keys. There is nothing to fix if only the owner or "
        "service_role manages keys.",
        "KEYLATCH_TOKEN=… keylatch list WORKSPACE  # with the token of an admin" if own else _ADMIN,
    )


def _users(connection: psycopg.Connection[Any], people: _People) -> list[UUID] | None:
    """Find users for the check; `None` if row policies hide some users."""
    with connection.cursor(row_factory=scalar_row) as cursor:
        # If row policies hide rows, the visible rows would look like all rows.
        if cursor.execute("select pg_catalog.row_security_active(%s)", [people.table]).fetchone():
            return None
        return cursor.execute(people.query).fetchall()


class _Refused(Exception):
    """The error message of the function."""


def _count(connection: psycopg.Connection[Any], user: UUID) -> int:
    """Count the workspaces of a signed-in user, and reset the role."""
    claims = json.dumps({"sub": str(user), "role": "authenticated", "aud": "authenticated"})
    with connection.transaction(force_rollback=True):
        connection.execute(
            "select pg_catalog.set_config('request.jwt.claims', %s, true), "
            "pg_catalog.set_config('statement_timeout', '2s', true), "
            "pg_catalog.set_config('role', 'authenticated', true)",
            [claims],
        )
        try:
            with connection.cursor(row_factory=scalar_row) as cursor:
                return int(cursor.execute(_ASK).fetchone() or 0)
        except psycopg.Error as problem:
            refused = mask_keys(problem.diag.message_primary or "without a reason")
            raise _Refused(refused) from problem
