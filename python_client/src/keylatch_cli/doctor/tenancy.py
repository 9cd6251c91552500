"""Whether it is decided who administers which workspace, by keylatch's tables or one's own."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, LiteralString, NamedTuple
from uuid import UUID, uuid4

import psycopg
from psycopg.rows import scalar_row

from keylatch.secret import mask_keys

from ..install.migrations import CORE, TENANCY
from .catalog import Entry, Manifest, Name
from .report import Finding, Level, Unchecked

FUNCTION: Name = ("function", "keylatch.admin_workspace_ids()")
"""What an application with tables of its own replaces."""
KEPT = ("arguments", "result")
"""What of the function stays the same whatever it does."""

_SUBJECT = " ".join(FUNCTION)
# Of the ids, not of rows: to count those, PostgreSQL need not work the ids out.
_ASK = "select pg_catalog.count(w.id) from keylatch.admin_workspace_ids() as w (id)"


class _People(NamedTuple):
    """Where users to ask as are found."""

    table: str
    query: LiteralString


_ADMINS = _People(
    "keylatch.workspace_membership",
    "select m.user_id from keylatch.workspace_membership as m where m.role = 'admin' limit 1",
)
# Enough to meet one who administers something, and soon over where nobody does.
_OWN_USERS = _People("auth.users", "select u.id from auth.users as u limit 100")

_WHY = "Row policies ask this function who may see and change the keys of a workspace."
_REPLACE = (
    "create or replace function keylatch.admin_workspace_ids()  -- see sql/tenancy for examples"
)
# 8 is the bit of "delete".
_GUARDED = """
select exists (
  select 1
  from pg_catalog.pg_trigger as t
  inner join pg_catalog.pg_proc as p on t.tgfoid = p.oid
  inner join pg_catalog.pg_class as c on t.tgrelid = c.oid
  where p.pronamespace::pg_catalog.regnamespace::text = 'keylatch_internal'
    and p.proname = 'revoke_workspace_keys'
    and c.relnamespace::pg_catalog.regnamespace::text <> 'keylatch'
    and t.tgtype & 8 > 0 and t.tgenabled <> 'D'
)
"""
_ADMIN = (
    "insert into keylatch.workspace_membership (workspace_id, user_id, role)\n"
    "values ('WORKSPACE', 'USER', 'admin');"
)
_TRIGGER = (
    "create trigger workspaces_delete_revoke_keys\n"
    "after delete or update of id on public.workspaces\n"
    "for each row execute function keylatch_internal.revoke_workspace_keys();"
)


def is_replaced(live: Mapping[Name, Entry], manifest: Manifest) -> bool:
    """Tell whether the function of the tenancy is another than the one of keylatch's tables.

    Args:
        live: What is there.
        manifest: What this version installs.

    Returns:
        Whether what the function does is for `check` to judge.
    """
    return FUNCTION in live and _body(live) != _body(manifest.parts[TENANCY])


def check(
    connection: psycopg.Connection[Any], manifest: Manifest, live: Mapping[Name, Entry]
) -> Iterator[Finding | Unchecked]:
    """Ask the function as several users, and look for the trigger on the table of workspaces.

    Args:
        connection: Inside a read-only transaction, as a user who may become `authenticated`.
        manifest: What this version installs.
        live: What is there.

    Yields:
        What is the matter.

    Raises:
        psycopg.Error: Something could not be asked.
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
            "is as the core makes it, and gives nobody anything",
            "No signed-in user sees or makes a key; only service_role manages keys.",
            _REPLACE,
        )
        return
    if own:
        yield from _check_own(connection, live)
    elif any(key[0] == "table" and key not in live for key in manifest.parts[TENANCY]):
        # The missing table is named, and the function fails for want of it.
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
        "is the application's own, so only what it answers was checked",
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
            "A caller who shadows a table or a function that it names administers everything.",
            "alter function keylatch.admin_workspace_ids() set search_path = pg_catalog, pg_temp;",
        )
    with connection.cursor(row_factory=scalar_row) as cursor:
        # The function may be one's own and still go by keylatch's tables, which have the trigger.
        is_guarded = ("table", "keylatch.workspaces") in live and cursor.execute(
            "select exists (select 1 from keylatch.workspaces)"
        ).fetchone()
        is_guarded = is_guarded or cursor.execute(_GUARDED).fetchone()
    if not is_guarded:
        yield Finding(
            Level.WARNING,
            "workspace_deletion_unguarded",
            "trigger on the application's table of workspaces",
            "is missing",
            "The keys of a deleted workspace stay active.",
            _TRIGGER,
        )


def _ask(connection: psycopg.Connection[Any], own: bool) -> Iterator[Finding | Unchecked]:
    try:
        if _count(connection, uuid4()):
            yield Finding(
                Level.ERROR,
                "everybody_administers",
                _SUBJECT,
                "gives workspaces to a user who does not exist",
                "Every signed-in user has the keys of others.",
                _REPLACE,
            )
            return
        people = _OWN_USERS if own else _ADMINS
        users = _users(connection, people)
        if users is None:
            hidden = f"row policies hide {people.table} from this user; ask as the owner"
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
            "Every call and every page of keys of a signed-in user fails with it.",
            _REPLACE,
        )
        return
    yield Finding(
        Level.NOTE,
        "nobody_administers",
        _SUBJECT,
        f"gives nothing to any of {len(users)} users who were asked for"
        if own
        else "gives nobody anything: no membership has the role admin",
        "No signed-in user sees or makes a key, unless more than the user's id decides it."
        if own
        else "No signed-in user sees or makes a key; only service_role manages keys.",
        "KEYLATCH_TOKEN=… keylatch list WORKSPACE  # as one of its admins" if own else _ADMIN,
    )


def _users(connection: psycopg.Connection[Any], people: _People) -> list[UUID] | None:
    """Find users to ask as; `None` where their table would not show all."""
    with connection.cursor(row_factory=scalar_row) as cursor:
        # Row policies would hide rows, and what is left would look like all.
        if cursor.execute("select pg_catalog.row_security_active(%s)", [people.table]).fetchone():
            return None
        return cursor.execute(people.query).fetchall()


class _Refused(Exception):
    """The function raised an error; this is what it said."""


def _count(connection: psycopg.Connection[Any], user: UUID) -> int:
    """Ask as a signed-in user, and become oneself again."""
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
