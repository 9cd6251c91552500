"""Checks what keylatch depends on: pgcrypto, roles, and the schemas that PostgREST exposes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from enum import Enum
from typing import Any

import psycopg
from psycopg.rows import scalar_row, tuple_row

from .report import Finding, Level


class Kind(Enum):
    """The kind of database, which decides how keylatch is installed."""

    SUPABASE = "Supabase"
    """A database that the Supabase CLI manages."""
    PREPARED = "prepared"
    """A PostgreSQL database with the roles and schemas of a Supabase project."""
    PLAIN = "plain"
    """A PostgreSQL database without these roles and schemas."""


HIDDEN_SCHEMAS = ("keylatch_internal",)
"""The schemas that must never be exposed."""

_PGCRYPTO = """
select exists (
  select 1
  from pg_catalog.pg_depend as d
  inner join pg_catalog.pg_extension as e on d.refobjid = e.oid
  inner join pg_catalog.pg_proc as p on d.objid = p.oid
  inner join pg_catalog.pg_namespace as n on p.pronamespace = n.oid
  where n.nspname = 'extensions' and p.proname = 'gen_random_bytes'
    and d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass
    and d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass
    and d.deptype = 'e' and e.extname = 'pgcrypto'
)
"""
_ROLES = """
select r.rolname, r.rolsuper or r.rolbypassrls
from pg_catalog.pg_roles as r
where r.rolname in ('anon', 'authenticated', 'service_role', 'keylatch_resolver')
order by 1
"""
# Superusers are members of every role; _ROLES reports them.
_MEMBERSHIPS = """
select
  lower_role.rolname,
  higher_role.rolname,
  array(
    select pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(m.grantor))
    from pg_catalog.pg_auth_members as m
    where m.member = lower_role.oid and m.roleid = higher_role.oid
  )
from pg_catalog.pg_roles as lower_role, pg_catalog.pg_roles as higher_role
where (lower_role.rolname, higher_role.rolname) in (
    ('anon', 'authenticated'), ('anon', 'service_role'), ('anon', 'keylatch_resolver'),
    ('authenticated', 'service_role'), ('authenticated', 'keylatch_resolver'),
    ('keylatch_resolver', 'authenticated'), ('keylatch_resolver', 'service_role')
  )
  and not lower_role.rolsuper
  and pg_catalog.pg_has_role(lower_role.oid, higher_role.oid, 'member')
order by 1, 2
"""
_RESOLVER = """
select pg_catalog.pg_has_role(a.oid, r.oid, 'member')
from pg_catalog.pg_roles as a, pg_catalog.pg_roles as r
where a.rolname = 'authenticator' and r.rolname = 'keylatch_resolver'
"""
# The CLI keeps its history in a schema, and a hosted project has a role of the platform.
_IS_SUPABASE = """
select pg_catalog.to_regnamespace('supabase_migrations') is not null
  or pg_catalog.to_regrole('supabase_admin') is not null
"""
_IS_PREPARED = """
select pg_catalog.to_regnamespace('auth') is not null
  and pg_catalog.to_regnamespace('extensions') is not null
  and pg_catalog.to_regrole('authenticator') is not null
"""
# As in PostgREST, the setting for the database wins.
_EXPOSED = """
select pg_catalog.split_part(c.setting, '=', 2)
from pg_catalog.pg_db_role_setting as s, pg_catalog.unnest(s.setconfig) as c (setting)
where s.setrole = pg_catalog.to_regrole('authenticator')
  and s.setdatabase in (
    0, (select d.oid from pg_catalog.pg_database as d where d.datname = current_database())
  )
  and pg_catalog.starts_with(c.setting, 'pgrst.db_schemas=')
order by s.setdatabase desc
limit 1
"""


def kind_of(connection: psycopg.Connection[Any]) -> Kind:
    """Find out whether this is a Supabase project or a plain PostgreSQL database.

    Args:
        connection: Inside a transaction.

    Returns:
        The kind.
    """
    if not _one(connection, _IS_PREPARED):
        return Kind.PLAIN
    return Kind.SUPABASE if _one(connection, _IS_SUPABASE) else Kind.PREPARED


def check_pgcrypto(connection: psycopg.Connection[Any]) -> Iterator[Finding]:
    """Check that keys are made from pgcrypto's random bytes.

    Args:
        connection: Inside a transaction.

    Yields:
        A finding if they are not.
    """
    if not _one(connection, _PGCRYPTO):
        yield Finding(
            Level.ERROR,
            "pgcrypto_missing",
            "function extensions.gen_random_bytes(integer)",
            "is not the function of pgcrypto",
            "No key can be issued, or keys are made from bytes that others may know.",
            "create extension if not exists pgcrypto with schema extensions;\n"
            "alter extension pgcrypto set schema extensions;",
        )


def check_roles(connection: psycopg.Connection[Any]) -> Iterator[Finding]:
    """Check that the API's roles have exactly the rights that keylatch relies on.

    Args:
        connection: Inside a transaction.

    Yields:
        A finding for each role with more or fewer rights.
    """
    roles = dict(_rows(connection, _ROLES))
    for role, is_above in roles.items():
        if role == "service_role" and not is_above:
            yield Finding(
                Level.ERROR,
                "role_below_policies",
                f"role {role}",
                "is subject to row policies",
                "The backend cannot see or manage keys: the policies are for signed-in users.",
                "alter role service_role bypassrls;",
            )
        elif role != "service_role" and is_above:
            yield Finding(
                Level.ERROR,
                "role_above_policies",
                f"role {role}",
                "bypasses row policies",
                "Row policies are the authorization: this role can read and change all keys.",
                f"alter role {role} nosuperuser nobypassrls;",
            )
    for role, higher, grantors in _rows(connection, _MEMBERSHIPS):
        # From PostgreSQL 16 on, only the grantor's own grant can be revoked.
        fixes = [f"revoke {higher} from {role} granted by {one};" for one in grantors]
        yield Finding(
            Level.ERROR,
            "role_member",
            f"role {role}",
            f"is a member of {higher}",
            f"It has all rights of {higher}, which is more than keylatch allows.",
            "\n".join(fixes) or f"-- remove {role} from the role that is a member of {higher}",
        )
    if _one(connection, _RESOLVER) is False:
        yield Finding(
            Level.WARNING,
            "resolver_not_granted",
            "role keylatch_resolver",
            "is not granted to authenticator",
            "A service that resolves keys over HTTP needs the service key instead.",
            "grant keylatch_resolver to authenticator;",
        )


def check_exposure(connection: psycopg.Connection[Any]) -> Iterator[Finding]:
    """Check the exposed schemas, if they are set in the database.

    Args:
        connection: Inside a transaction.

    Yields:
        A finding for a schema that is wrongly exposed or not exposed.
    """
    setting = _one(connection, _EXPOSED)
    if setting is None:
        return
    exposed = [one.strip() for one in str(setting).split(",")]
    wanted = [one for one in exposed if one not in HIDDEN_SCHEMAS]
    if "keylatch" not in exposed:
        wanted.append("keylatch")
        yield _exposure("schema_not_exposed", "keylatch", "is not exposed", wanted)
    for schema in HIDDEN_SCHEMAS:
        if schema in exposed:
            yield _exposure("internal_exposed", schema, "is exposed", wanted)


def check_early_exposure(connection: psycopg.Connection[Any]) -> Iterator[Finding]:
    """Check whether PostgREST exposes the schema keylatch although keylatch is not installed.

    Args:
        connection: Inside a transaction.

    Yields:
        A finding if it is.
    """
    exposed = [one.strip() for one in str(_one(connection, _EXPOSED) or "").split(",")]
    if "keylatch" in exposed:
        wanted = [one for one in exposed if one not in ("keylatch", *HIDDEN_SCHEMAS)]
        finding = _exposure("exposed_too_early", "keylatch", "is exposed", wanted)
        yield replace(
            finding,
            what="is exposed by pgrst.db_schemas of authenticator, but is not installed",
            why="PostgREST 13 and later refuse every request while an exposed schema is missing.",
            fix=f"{finding.fix}\n-- install keylatch first, then expose the schema again",
        )


def _exposure(slug: str, schema: str, what: str, wanted: list[str]) -> Finding:
    return Finding(
        Level.ERROR,
        slug,
        f"schema {schema}",
        f"{what} by pgrst.db_schemas of authenticator",
        "Every call over HTTP fails."
        if schema == "keylatch"
        else "Clients can call internal functions and read internal tables.",
        f"alter role authenticator set pgrst.db_schemas = '{', '.join(wanted)}';\n"
        "notify pgrst, 'reload config';",
    )


def _one(connection: psycopg.Connection[Any], query: str) -> Any:
    with connection.cursor(row_factory=scalar_row) as cursor:
        return cursor.execute(query.encode()).fetchone()


def _rows(connection: psycopg.Connection[Any], query: str) -> list[tuple[Any, ...]]:
    with connection.cursor(row_factory=tuple_row) as cursor:
        return cursor.execute(query.encode()).fetchall()
