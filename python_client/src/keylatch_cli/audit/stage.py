"""The temporary workspace and the users of an audit.

Everything is made inside the audit's transaction, which is rolled back.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, LiteralString
from uuid import UUID, uuid4

import psycopg
from psycopg import sql

from keylatch.errors import PermissionDenied

from .report import ACTORS

_ROLES = {
    "anon": "anon",
    **dict.fromkeys(("stranger", "member", "other", "admin"), "authenticated"),
    "service": "service_role",
    "resolver": "keylatch_resolver",
}
_OWNER = """
select pg_catalog.pg_get_userbyid(nspowner) from pg_catalog.pg_namespace
where nspname = 'keylatch_internal'
"""
TAKE_ROLE = """
select pg_catalog.set_config('role', %s, true),
  pg_catalog.set_config('request.jwt.claims', %s, true),
  pg_catalog.set_config('request.headers', '', true)
"""
_REPLICATING = "select pg_catalog.set_config('session_replication_role', %s, true)"
_USERS = "insert into auth.users (id) values (%s), (%s), (%s)"
_WORKSPACES = """
insert into keylatch.workspaces (id, name)
values (%s, 'audit'), (%s, 'audit'), (%s, 'audit'), (%s, 'audit')
"""
_MEMBERS = """
insert into keylatch.workspace_membership (workspace_id, user_id, role)
values (%s, %s, 'admin'), (%s, %s, 'admin'), (%s, %s, 'member'), (%s, %s, 'admin')
"""
_OWN_TENANCY = """
create or replace function keylatch.admin_workspace_ids()
returns setof uuid language plpgsql stable set search_path = pg_catalog, pg_temp as {body}
"""
_ADMINISTERED = """
select w.id from (values {values}) as w (user_id, id)
where w.user_id::text = current_setting('request.jwt.claims', true)::jsonb ->> 'sub'
"""
_ISSUE = """
select key, id from keylatch.issue_key(
  %s, %s, allowed_origins => %s, expires_at => pg_catalog.now() + interval '1 day'
)
"""
# A row of the workspace in each table of a module, to show who reaches rows there.
_ROWS: dict[str, LiteralString] = {
    "usage": """
with used as (
  insert into keylatch_internal.key_usage (key_id, workspace_id, last_used_at, uses)
  values (%(key_id)s, %(workspace)s, now(), 1)
)
insert into keylatch_internal.key_days (key_id, day, verdict, workspace_id, number)
values (%(key_id)s, now()::date, 'valid', %(workspace)s, 1), (
  gen_random_uuid(), now()::date, 'origin_denied', %(workspace)s, 1
)
""",
    "sessions": """
with settings as (
  insert into keylatch.session_settings (workspace_id) values (%(workspace)s)
),
ended as (
  insert into keylatch_internal.session_endings (workspace_id, key_id)
  values (%(workspace)s, gen_random_uuid())
)
insert into keylatch_internal.sessions (
  token_hash, workspace_id, key_id, origin, created_at, expires_at
)
values (
  sha256(uuid_send(gen_random_uuid())), %(workspace)s, %(key_id)s, 'https://audit.example', now(),
  now() + interval '1 minute'
)
""",
    "legacy": """
insert into keylatch_internal.legacy_keys (
  key_id, workspace_id, scheme, import_id, seen_by, verifier, rounds
)
values (%(key_id)s, %(workspace)s, 'bcrypt', %(key_id)s, %(key_id)s, '', 1)
""",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """The workspaces, roles and values of the tests.

    Attributes:
        workspace: The tested workspace, with a row in each table.
        spare: A second, empty workspace of the same admin, to insert rows into.
        acting: The role and the claims, as JSON, of each actor.
        known: The values of function arguments, by argument name.
        publishable: The id of the workspace's publishable key. The tests change this key.
        vacant: A third workspace without members, to insert memberships into.
        user: The user who is a member of the workspace.
    """

    workspace: UUID
    spare: UUID
    acting: Mapping[str, tuple[str, str]]
    known: Mapping[str, object]
    publishable: UUID
    vacant: UUID
    user: UUID


def roles(connection: psycopg.Connection[Any]) -> dict[str, str]:
    """Return the role of each actor, after a check that the connection can act as every role.

    Args:
        connection: In the transaction of the audit.

    Raises:
        PermissionDenied: The connection cannot act as a role, so it cannot test that role.
    """
    owner = connection.execute(_OWNER).fetchall()[0][0]
    found = {**_ROLES, "owner": owner}
    login = connection.execute("select session_user").fetchall()[0][0]
    for role in dict.fromkeys(reversed(found.values())):
        try:
            with connection.transaction(force_rollback=True):
                connection.execute(TAKE_ROLE, [role, ""])
        except psycopg.Error as problem:
            if problem.sqlstate not in ("42501", "22023"):
                raise
            raise PermissionDenied(
                sqlstate=problem.sqlstate,
                detail=f"{login} cannot act as {role}, so the audit cannot test that role.",
                hint=f"Connect as {owner}, who owns keylatch."
                if role == owner
                else f'Run as a superuser: grant {role} to "{login}";',
            ) from None
    return found


def furnish(
    connection: psycopg.Connection[Any],
    actors: Mapping[str, str],
    parts: Collection[str],
    *,
    own_tenancy: bool,
) -> Stage:
    """Make the temporary workspace.

    Args:
        connection: In the transaction of the audit, as the owner.
        actors: The role of each actor.
        parts: The parts that are installed.
        own_tenancy: Whether the application's own function decides who administers a workspace.
    """
    workspace, spare, elsewhere, vacant = (uuid4() for _ in range(4))
    people = {name: uuid4() for name in ("stranger", "member", "other", "admin")}
    admins = [
        *((people["admin"], one) for one in (workspace, spare)),
        (people["other"], elsewhere),
    ]
    if own_tenancy:
        values = sql.SQL(", ").join(sql.SQL("({}, {}::uuid)").format(*row) for row in admins)
        query = sql.SQL(_ADMINISTERED).format(values=values).as_string(connection)
        body = sql.Literal(f"begin return query {query}; end")
        connection.execute(sql.SQL(_OWN_TENANCY).format(body=body))
    if "tenancy" in parts:
        _add_users(connection, [people[name] for name in ("member", "other", "admin")])
        connection.execute(_WORKSPACES, [workspace, spare, elsewhere, vacant])
        rows = [
            *((workspace, people["admin"]), (spare, people["admin"])),
            *((workspace, people["member"]), (elsewhere, people["other"])),
        ]
        connection.execute(_MEMBERS, [value for row in rows for value in row])
    keys: dict[str, tuple[str, UUID]] = {}
    origins = {"secret": [], "publishable": ["https://audit.example"]}
    for kind, allowed in origins.items():
        keys[kind] = connection.execute(_ISSUE, [workspace, kind, allowed]).fetchall()[0]
    key, key_id = keys["secret"]
    ids = {"workspace": workspace, "key_id": key_id}
    for part, statement in _ROWS.items():
        if part in parts:
            connection.execute(statement, ids)
    # Run the deferred checks now, so that the first test does not run them.
    connection.execute("set constraints all immediate")
    connection.execute("set constraints all deferred")
    claims = {
        name: json.dumps({"sub": str(user), "role": "authenticated", "aud": "authenticated"})
        for name, user in people.items()
    }
    return Stage(
        workspace=workspace,
        spare=spare,
        acting={
            actor: (actors[actor], claims.get(actor, json.dumps({"role": actors[actor]})))
            for actor in ACTORS
        },
        known={
            "workspace_id": workspace,
            "key": key,
            "key_id": key_id,
            "id": key_id,
            "keys": [key],
            "labels": ["audit"],
            "timeout": "1 ms",
        },
        publishable=keys["publishable"][1],
        vacant=vacant,
        user=people["member"],
    )


def _add_users(connection: psycopg.Connection[Any], users: list[UUID]) -> None:
    """Make the users, if possible without firing triggers of the application."""
    try:
        with connection.transaction():
            connection.execute(_REPLICATING, ["replica"])
            connection.execute(_USERS, users)
            connection.execute(_REPLICATING, ["origin"])
    except psycopg.errors.InsufficientPrivilege:
        # The triggers on auth.users run in this case, and are rolled back too.
        try:
            with connection.transaction():
                connection.execute(_USERS, users)
        except psycopg.errors.InsufficientPrivilege:
            login = connection.execute("select current_user").fetchall()[0][0]
            raise PermissionDenied(
                sqlstate="42501",
                detail=f"{login} cannot create the users that the audit acts as.",
                hint=f'Run as a superuser: alter role "{login}" bypassrls; '
                f'grant insert on auth.users to "{login}";',
            ) from None
