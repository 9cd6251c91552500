"""Installs keylatch into a database in one transaction, without psql or the Supabase CLI."""

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

# From the catalog, which everyone may read. Only the owner may read the row itself.
_COLUMNS = """
select pg_catalog.array_agg(a.attname)
from pg_catalog.pg_attribute as a
where a.attrelid = pg_catalog.to_regclass('keylatch_internal.installation')
"""
_HAS_WORKSPACES = "select pg_catalog.to_regclass('keylatch.workspaces') is not null"
# The lock lets only one session at a time change an installation. Only the owner can take it.
_INSTALLED = "select i.schema_version, i.modules from keylatch_internal.installation as i"
# All objects of keylatch need the same owner, and a superuser should not own definer functions.
_OWNER = """
select o.rolname
from pg_catalog.pg_roles as o
where o.rolname <> current_user and o.oid = coalesce(
  (select n.nspowner from pg_catalog.pg_namespace as n where n.nspname = 'keylatch_internal'),
  (
    select r.oid
    from pg_catalog.pg_database as d
    inner join pg_catalog.pg_roles as r
      on r.rolcreaterole and pg_catalog.has_database_privilege(r.oid, d.oid, 'create')
      and (d.datdba = r.oid or r.rolname = 'postgres')
    inner join pg_catalog.pg_roles as u on u.rolname = current_user and u.rolsuper
    where d.datname = pg_catalog.current_database()
    order by d.datdba = r.oid desc limit 1
  )
)
"""
_HAS_HISTORY = "select pg_catalog.to_regclass('supabase_migrations.schema_migrations') is not null"
_PUSHED = """
select exists (
  select from supabase_migrations.schema_migrations as m
  where pg_catalog.starts_with(m.name, 'keylatch')
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
# The part that needs an object of the platform; None if no part does.
_MISSED_BY = {
    "role authenticator": None,
    "function auth.uid()": TENANCY,
    "table auth.users": TENANCY,
}
# Pauses in seconds between attempts, while another session uses a table that must be locked.
_PAUSES = (0.1, 0.2, 0.4, 0.8, *([1.0] * 28))
# Another session is installing at this moment: the schema or its catalog row exists.
_AT_ONCE = (psycopg.errors.UniqueViolation, psycopg.errors.DuplicateSchema)


def read_database(connection: psycopg.Connection[Any]) -> Installed | None:
    """Find out what is installed in a database.

    Args:
        connection: In autocommit mode, as the owner of keylatch or a superuser.

    Returns:
        What is installed; `None` if the database has no keylatch.

    Raises:
        KeylatchError: `earlier_checkout` for a version before the first release, or an error of
            the server.
    """
    with own_errors(), connection.transaction():
        return _read(_cursor(connection))


def refuse_pushed(connection: psycopg.Connection[Any]) -> None:
    """Refuse a database whose migrations of keylatch the Supabase CLI has pushed.

    Args:
        connection: In autocommit mode.

    Raises:
        KeylatchError: `usage`, because the next push would not know what was applied.
    """
    with own_errors(), _cursor(connection) as cursor:
        if not (_first(cursor, _HAS_HISTORY) and _first(cursor, _PUSHED)):
            return
    raise KeylatchError(
        "usage",
        detail="the Supabase CLI manages keylatch in this database",
        hint="Run with the same options: keylatch install . && supabase db push",
    )


def apply(
    connection: psycopg.Connection[Any],
    choice: Choice | None = None,
    tenancy: Tenancy | None = None,
    *,
    release: Release | None = None,
) -> tuple[Migration, ...]:
    """Apply all missing migrations in one transaction. Parallel calls are safe.

    Args:
        connection: In autocommit mode, as the owner of keylatch or a superuser.
        choice: The requested modules. Default: the installed or the default modules.
        tenancy: The requested tenancy; see `Release.plan`.
        release: What to install. Default: this version.

    Returns:
        The applied migrations.

    Raises:
        KeylatchError: `migration_failed`, which names the line; an error of `Release.plan`; or an
            error of the server.
        NotInstalled: `platform_missing` if roles or schemas that keylatch needs are missing.
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
        # The other session was first. There may still be something to add.
        return apply(connection, choice, tenancy, release=release)
    raise _failure(problem.reason, problem.migration)


def install_platform(connection: psycopg.Connection[Any]) -> bool:
    """Create the roles and schemas of a Supabase project in a plain PostgreSQL database.

    Args:
        connection: In autocommit mode, as a superuser.

    Returns:
        Whether anything was missing.

    Raises:
        PermissionDenied: The user is not a superuser.
        KeylatchError: The server reported an error.
    """
    with own_errors(), connection.transaction():
        cursor = _cursor(connection)
        if not _missing(cursor):
            return False
        if not _first(cursor, _IS_SUPERUSER):
            raise PermissionDenied(
                detail="Only a superuser can create the roles and schemas of a Supabase project.",
                hint="Use a superuser in the database URL for this command.",
            )
        # A role that another database of the server has already is no news.
        cursor.execute("set local client_min_messages = warning")
        for text in platform():
            cursor.execute(text.encode())
        return True


def missing_platform(
    connection: psycopg.Connection[Any], migrations: Sequence[Migration]
) -> list[str]:
    """List the roles and objects that migrations need and the database does not have.

    Args:
        connection: In autocommit mode.
        migrations: The migrations to apply.

    Returns:
        What is missing, such as `role anon`. Empty for a Supabase project.
    """
    with own_errors():
        return _missing(_cursor(connection), migrations)


class _Failed(Exception):
    """A migration failed.

    Attributes:
        migration: The migration.
        reason: The error of the server.
    """

    def __init__(self, migration: Migration, reason: psycopg.Error) -> None:
        super().__init__()
        self.migration, self.reason = migration, reason


def _apply(
    connection: psycopg.Connection[Any], release: Release, choice: Choice, tenancy: Tenancy | None
) -> tuple[Migration, ...]:
    with connection.transaction():
        cursor = _cursor(connection)
        # Changes that others made while this session waited for the lock must be visible.
        cursor.execute("set transaction isolation level read committed")
        plan = release.plan(_read(cursor, lock=True), choice, tenancy)
        if missing := _missing(cursor, plan) if plan else []:
            raise NotInstalled(
                "platform_missing",
                detail=f"The database has no {', '.join(missing)}, as a Supabase project has.",
                hint="Run this command again as a superuser, with --platform. For example: "
                "keylatch apply --platform --tenancy keylatch",
            )
        if owner := _first(cursor, _OWNER):
            cursor.execute(sql.SQL("set local role {}").format(sql.Identifier(owner)))
        for migration in plan:
            try:
                cursor.execute(migration.text.encode())
            except psycopg.Error as problem:
                raise _Failed(migration, problem) from None
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
            hint="Restore this row, which has the installed version and modules, from a backup.",
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
    """List the missing roles and objects that these migrations, or the whole platform, need."""
    missing = [what for (what,) in cursor.execute(_MISSING.encode())]
    if new is None:
        return missing
    parts = {part for one in new for part in one.parts}
    return [what for what in missing if what not in _MISSED_BY or _MISSED_BY[what] in parts]


def _failure(problem: psycopg.Error, migration: Migration) -> KeylatchError:
    """Build the error with the server's message and the line of the migration."""
    said, found = problem.diag, own_error(problem)
    if problem.sqlstate is None:
        return found
    where = migration.name
    if said.statement_position:
        end = int(said.statement_position) - 1
        where += f", line {migration.text.count(chr(10), 0, end) + 1}"
    hint = "Nothing was changed. Fix the problem, and run the command again."
    if isinstance(problem, psycopg.errors.LockNotAvailable):
        hint = (
            "Nothing was changed: a long transaction uses the table. Wait for its end and run the "
        )
        hint += "command again. To find it: select pid, xact_start, query from pg_stat_activity;"
    elif isinstance(problem, psycopg.errors.DuplicateSchema):
        hint = "Another role owns the schema: rename the schema, or drop it if nobody needs it."
    return type(found)(
        "migration_failed",
        problem.sqlstate,
        f"{where}: {mask_keys(said.message_primary or '')}",
        said.message_hint or hint,
    )
