"""Brings keylatch into a database without psql or the Supabase CLI, in one transaction."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

from keylatch.errors import KeylatchError, NotInstalled, PermissionDenied
from keylatch.secret import mask_keys

from ..asking import own_error, own_errors
from .migrations import (
    TENANCY,
    Choice,
    Installed,
    Migration,
    Release,
    Tenancy,
    earlier_checkout,
    platform,
    shipped,
)

# By the catalog, which everybody may read; the row itself is the owner's.
_COLUMNS = """
select pg_catalog.array_agg(a.attname)
from pg_catalog.pg_attribute as a
where a.attrelid = pg_catalog.to_regclass('keylatch_internal.installation')
"""
_HAS_WORKSPACES = "select pg_catalog.to_regclass('keylatch.workspaces') is not null"
# The lock lets one at a time add to an installation. Nobody but the owner can take it.
_INSTALLED = "select i.schema_version, i.modules from keylatch_internal.installation as i"
# All of keylatch has one owner; and a definer function should not be a superuser's.
_OWNER = """
select o.rolname
from pg_catalog.pg_roles as o
where o.rolname <> current_user and o.oid = coalesce(
  (select n.nspowner from pg_catalog.pg_namespace as n where n.nspname = 'keylatch_internal'),
  (
    select d.datdba
    from pg_catalog.pg_database as d
    inner join pg_catalog.pg_roles as r on d.datdba = r.oid and r.rolcreaterole
    inner join pg_catalog.pg_roles as u on u.rolname = current_user and u.rolsuper
    where d.datname = pg_catalog.current_database()
  )
)
"""
_IS_SUPERUSER = "select rolsuper from pg_catalog.pg_roles where rolname = current_user"
_MISSING = """
select 'role ' || name
from pg_catalog.unnest(array['anon', 'authenticated', 'service_role', 'authenticator']) as name
where pg_catalog.to_regrole(name) is null
union all
select 'function auth.uid()'
where not exists (
  select 1
  from pg_catalog.pg_proc as p
  inner join pg_catalog.pg_namespace as n on p.pronamespace = n.oid
  where n.nspname = 'auth' and p.proname = 'uid'
)
union all
select 'table auth.users'
where not exists (
  select 1
  from pg_catalog.pg_class as c
  inner join pg_catalog.pg_namespace as n on c.relnamespace = n.oid
  where n.nspname = 'auth' and c.relname = 'users'
)
"""
# What only this part misses; no part where that is None.
_MISSED_BY = {
    "role authenticator": None,
    "function auth.uid()": TENANCY,
    "table auth.users": TENANCY,
}
# In seconds: how long to wait before the next try where somebody uses what a migration has to lock.
_PAUSES = (0.1, 0.2, 0.4, 0.8, *([1.0] * 28))
# Somebody else installs at this moment: the schema, or the row of it in the catalog, is there.
_AT_ONCE = (psycopg.errors.UniqueViolation, psycopg.errors.DuplicateSchema)


def read_database(connection: psycopg.Connection[Any]) -> Installed | None:
    """Find out what a database has.

    Args:
        connection: In autocommit, as the owner of keylatch or a superuser.

    Returns:
        What is there; `None` for nothing.

    Raises:
        KeylatchError: `earlier_checkout` where keylatch is there in another form; else what the
            server says.
    """
    with own_errors(), connection.transaction():
        return _read(_cursor(connection))


def apply(
    connection: psycopg.Connection[Any],
    choice: Choice | None = None,
    tenancy: Tenancy | None = None,
    *,
    release: Release | None = None,
) -> tuple[Migration, ...]:
    """Apply what a database lacks, all of it or nothing; any number may do so at once.

    Args:
        connection: In autocommit, as the owner of keylatch or a superuser.
        choice: Which modules are asked for; what is there, or the default ones, unless given.
        tenancy: Whose tenancy is asked for; see `Release.plan`.
        release: What to install; what this version ships unless given.

    Returns:
        What was applied.

    Raises:
        KeylatchError: `migration_failed` with the line; as `Release.plan`; what the server says.
        NotInstalled: `platform_missing` where the database lacks what keylatch stands on.
    """
    release = shipped() if release is None else release
    choice = choice or Choice()
    pauses = iter(_PAUSES)
    while True:
        with own_errors():
            try:
                return _apply(connection, release, choice, tenancy)
            except _Failed as failed:
                problem = failed
        is_busy = isinstance(problem.reason, psycopg.errors.LockNotAvailable)
        if (pause := next(pauses, None) if is_busy else None) is None:
            break
        time.sleep(pause)
    if isinstance(problem.reason, _AT_ONCE) and read_database(connection) is not None:
        # The other one was first; perhaps there is still something to add.
        return apply(connection, choice, tenancy, release=release)
    raise _failure(problem.reason, problem.migration)


def install_platform(connection: psycopg.Connection[Any]) -> bool:
    """Make of a plain PostgreSQL what a Supabase project is from the start, if it is not that.

    Args:
        connection: In autocommit, as a superuser.

    Returns:
        Whether there was anything to do.

    Raises:
        PermissionDenied: The user is no superuser.
        KeylatchError: What the server says.
    """
    with own_errors(), connection.transaction():
        cursor = _cursor(connection)
        if not _missing(cursor):
            return False
        if not _first(cursor, _IS_SUPERUSER):
            raise PermissionDenied(
                detail="Only a superuser can make the roles and schemas of a Supabase project.",
                hint="Name a superuser in the database URL, this once.",
            )
        # A role that another database of the server has already is no news.
        cursor.execute("set local client_min_messages = warning")
        for text in platform():
            cursor.execute(text.encode())
        return True


def missing_platform(
    connection: psycopg.Connection[Any], migrations: Sequence[Migration]
) -> list[str]:
    """Tell what migrations stand on that the database lacks.

    Args:
        connection: In autocommit.
        migrations: What is to be applied.

    Returns:
        What is missing: `role anon`. Nothing in a Supabase project.
    """
    with own_errors():
        return _missing(_cursor(connection), migrations)


class _Failed(Exception):
    """A migration failed.

    Attributes:
        migration: The migration.
        reason: What the server said.
    """

    def __init__(self, migration: Migration, reason: psycopg.Error) -> None:
        super().__init__()
        self.migration, self.reason = migration, reason


def _apply(
    connection: psycopg.Connection[Any], release: Release, choice: Choice, tenancy: Tenancy | None
) -> tuple[Migration, ...]:
    with connection.transaction():
        cursor = _cursor(connection)
        # What others did while this waited for the lock must be seen.
        cursor.execute("set transaction isolation level read committed")
        plan = release.plan(_read(cursor, lock=True), choice, tenancy)
        if missing := _missing(cursor, plan) if plan else []:
            raise NotInstalled(
                "platform_missing",
                detail=f"The database lacks {', '.join(missing)}, which a Supabase project has.",
                hint="Run this once as a superuser: keylatch apply --platform",
            )
        if owner := _first(cursor, _OWNER):
            cursor.execute(sql.SQL("set local role {}").format(sql.Identifier(owner)))
        for migration in plan:
            try:
                cursor.execute(migration.text.encode())
            except psycopg.Error as problem:
                raise _Failed(migration, problem) from None
        if plan:
            # PostgREST knows the schema from when it last looked.
            cursor.execute("notify pgrst, 'reload schema'")
        return plan


def _read(cursor: psycopg.Cursor[tuple[Any, ...]], *, lock: bool = False) -> Installed | None:
    columns = _first(cursor, _COLUMNS)
    if columns is None:
        return None
    if "modules" not in columns:
        raise earlier_checkout("The database has")
    row = cursor.execute(f"{_INSTALLED}{' for update' if lock else ''}".encode()).fetchone()
    if row is None:
        raise KeylatchError(
            "installation_missing",
            detail="The table keylatch_internal.installation has no row.",
            hint="Restore the row from a backup. It says which version and modules are installed.",
        )
    tenancy: Tenancy = "keylatch" if _first(cursor, _HAS_WORKSPACES) else "own"
    return Installed(row[0], frozenset(row[1]), tenancy)


def _cursor(connection: psycopg.Connection[Any]) -> psycopg.Cursor[tuple[Any, ...]]:
    return psycopg.Cursor(connection, row_factory=tuple_row)


def _first(cursor: psycopg.Cursor[tuple[Any, ...]], query: str) -> Any:
    row = cursor.execute(query.encode()).fetchone()
    return None if row is None else row[0]


def _missing(
    cursor: psycopg.Cursor[tuple[Any, ...]], new: Sequence[Migration] | None = None
) -> list[str]:
    """Give what the migrations stand on that is not there; unless they are given, all of it."""
    missing = [what for (what,) in cursor.execute(_MISSING.encode())]
    if new is None:
        return missing
    parts = {part for one in new for part in one.parts}
    return [what for what in missing if what not in _MISSED_BY or _MISSED_BY[what] in parts]


def _failure(problem: psycopg.Error, migration: Migration) -> KeylatchError:
    """Say what the server said, and at which line."""
    said, found = problem.diag, own_error(problem)
    if problem.sqlstate is None:
        return found
    where = migration.name
    if said.statement_position:
        end = int(said.statement_position) - 1
        where += f", line {migration.text.count(chr(10), 0, end) + 1}"
    hint = "Nothing was changed. Mend what is wrong, and run the command again."
    if isinstance(problem, psycopg.errors.LockNotAvailable):
        hint = "A long transaction uses the table, and nothing was changed. Find it, and run the "
        hint += "command again: select pid, xact_start, query from pg_stat_activity order by 2;"
    elif isinstance(problem, psycopg.errors.DuplicateSchema):
        hint = "The schema belongs to somebody else: rename it, or drop it if nobody needs it."
    return type(found)(
        "migration_failed",
        problem.sqlstate,
        f"{where}: {mask_keys(said.message_primary or '')}",
        said.message_hint or hint,
    )
