"""Applies the migrations to a database, with the history where the Supabase CLI keeps its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

from .errors import KeylatchError, NotInstalled, PermissionDenied, Unavailable, error_for
from .migrations import (
    TENANCY_NAME,
    Migration,
    Plan,
    Tenancy,
    plan,
    platform,
    restamp,
    shipped,
)
from .secret import mask_keys

# For a transaction and not a session: it holds behind a pooler in transaction mode, too.
_LOCK = """
select pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended('keylatch migrate', 0))
"""
# The oldest CLIs made the table without a column for the name.
_HAS_HISTORY = """
select true
from pg_catalog.pg_class as c
inner join pg_catalog.pg_namespace as n on c.relnamespace = n.oid
inner join pg_catalog.pg_attribute as a on c.oid = a.attrelid
where n.nspname = 'supabase_migrations' and c.relname = 'schema_migrations' and a.attname = 'name'
"""
_HISTORY = "select version, name from supabase_migrations.schema_migrations"
# As the CLI makes it.
_MAKE_HISTORY = """
create schema if not exists supabase_migrations;
create table if not exists supabase_migrations.schema_migrations (
  version text not null primary key
);
alter table supabase_migrations.schema_migrations
  add column if not exists statements text[],
  add column if not exists name text;
"""
_RECORD = """
insert into supabase_migrations.schema_migrations (version, name, statements)
values (%s, %s, array[%s])
"""
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
# What is only missed by this migration; by none where that is None.
_MISSED_BY = {"role authenticator": None, "table auth.users": TENANCY_NAME}
_DUPLICATE_SCHEMA = "42P06"


def prepare(
    connection: psycopg.Connection[Any],
    migrations: Sequence[Migration] | None = None,
    *,
    tenancy: Tenancy | None = None,
) -> Plan:
    """Say what `apply` would do; nothing is written.

    Args:
        connection: In autocommit.
        migrations: What to apply; what this version ships unless given.
        tenancy: Whether keylatch's tenancy is a part of it; see `migrations.plan`.

    Returns:
        The plan. What is there is known by its name, whatever its version.

    Raises:
        KeylatchError: As `migrations.plan`, and what the server says.
    """
    migrations = shipped() if migrations is None else migrations
    with _own_errors():
        return plan(migrations, _history(_cursor(connection)).values(), tenancy)


def apply(
    connection: psycopg.Connection[Any],
    migrations: Sequence[Migration] | None = None,
    *,
    tenancy: Tenancy | None = None,
) -> Iterator[Migration]:
    """Apply what is not there, each in a transaction of its own; any number may do so at once.

    Args:
        connection: In autocommit, as the owner of keylatch or a superuser.
        migrations: What to apply; what this version ships unless given.
        tenancy: Whether keylatch's tenancy is a part of it; see `migrations.plan`.

    Yields:
        Each migration, when this call has applied it, with its version in the history: its own,
        or a new one where the history has a later one.

    Raises:
        KeylatchError: `migration_failed` with the file's name; those before it are applied, and
            it is not. Else as `prepare`.
        NotInstalled: `platform_missing` where the database lacks what they stand on.
    """
    migrations = shipped() if migrations is None else migrations
    while (migration := _apply_next(connection, migrations, tenancy)) is not None:
        yield migration


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
    with _own_errors(), connection.transaction():
        cursor = _cursor(connection)
        cursor.execute(_LOCK)
        if not _missing(cursor):
            return False
        if not _first(cursor, _IS_SUPERUSER):
            raise PermissionDenied(
                detail="only a superuser can make the roles and schemas of a Supabase project",
                hint="name one in the database URL, this once",
            )
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
    with _own_errors():
        return _missing(_cursor(connection), migrations)


def _apply_next(
    connection: psycopg.Connection[Any], migrations: Sequence[Migration], tenancy: Tenancy | None
) -> Migration | None:
    """Apply the first that is not there, and give it."""
    migration = None
    try:
        with connection.transaction():
            cursor = _cursor(connection)
            # What others did while this waited for the lock must be seen.
            cursor.execute("set transaction isolation level read committed")
            cursor.execute(_LOCK)
            history = _history(cursor)
            new = plan(migrations, history.values(), tenancy).new
            if not new:
                return None
            if missing := _missing(cursor, new):
                raise _platform_missing(missing)
            if owner := _first(cursor, _OWNER):
                cursor.execute(sql.SQL("set local role {}").format(sql.Identifier(owner)))
            migration, newest = new[0], max(history, default="")
            if newest >= migration.version:
                (migration,) = restamp([migration], newest, datetime.now(UTC))
            # Looked for first: to make what is there takes rights that are not needed otherwise.
            if not _first(cursor, _HAS_HISTORY):
                cursor.execute(_MAKE_HISTORY.encode())
            cursor.execute(migration.text.encode())
            # `supabase migration fetch` puts this end behind each statement.
            statements = migration.text.rstrip().removesuffix(";")
            cursor.execute(_RECORD, [migration.version, migration.name, statements])
            if len(new) == 1:
                # PostgREST knows the schema from when it last looked.
                cursor.execute("notify pgrst, 'reload schema'")
            return migration
    except psycopg.Error as problem:
        failure = _failure(problem, migration)
    raise failure


def _cursor(connection: psycopg.Connection[Any]) -> psycopg.Cursor[tuple[Any, ...]]:
    return psycopg.Cursor(connection, row_factory=tuple_row)


def _first(cursor: psycopg.Cursor[tuple[Any, ...]], query: str) -> Any:
    row = cursor.execute(query.encode()).fetchone()
    return None if row is None else row[0]


def _history(cursor: psycopg.Cursor[tuple[Any, ...]]) -> dict[str, str]:
    """Give the names of what was applied, by version."""
    if not _first(cursor, _HAS_HISTORY):
        return {}
    return {version: name or "" for version, name in cursor.execute(_HISTORY.encode())}


def _missing(
    cursor: psycopg.Cursor[tuple[Any, ...]], new: Sequence[Migration] | None = None
) -> list[str]:
    """Give what the migrations stand on that is not there; unless they are given, all of it."""
    missing = [what for (what,) in cursor.execute(_MISSING.encode())]
    if new is None:
        return missing
    names = {one.name for one in new}
    return [what for what in missing if what not in _MISSED_BY or _MISSED_BY[what] in names]


def _platform_missing(missing: Sequence[str]) -> NotInstalled:
    return NotInstalled(
        "platform_missing",
        detail=f"the database lacks {', '.join(missing)}, which a Supabase project has",
        hint="as a superuser, this once: keylatch migrate --platform",
    )


@contextmanager
def _own_errors() -> Iterator[None]:
    try:
        yield
    except psycopg.Error as problem:
        raise _failure(problem) from None


def _failure(problem: psycopg.Error, migration: Migration | None = None) -> KeylatchError:
    """Say what the server said, and in which file and line."""
    said = problem.diag
    if problem.sqlstate is None:
        return Unavailable(
            detail=mask_keys(str(problem)).partition("\n")[0],
            hint="what is applied stays so; run it again",
        )
    found = error_for(
        message=said.message_primary,
        code=problem.sqlstate,
        detail=said.message_detail,
        hint=said.message_hint,
    )
    if migration is None:
        return found
    where = migration.file_name
    if said.statement_position:
        end = int(said.statement_position) - 1
        where += f", line {migration.text.count(chr(10), 0, end) + 1}"
    hint = "what is before it is applied, it is not; mend what is wrong and run it again"
    if problem.sqlstate == _DUPLICATE_SCHEMA:
        hint = (
            "keylatch is there, and supabase_migrations.schema_migrations does not say so; "
            "keylatch doctor tells which of it differs from this version"
        )
    return type(found)(
        "migration_failed",
        problem.sqlstate,
        f"{where}: {mask_keys(said.message_primary or '')}",
        said.message_hint or hint,
    )
