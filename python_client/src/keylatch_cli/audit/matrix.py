"""Tests every operation as every kind of user, in a transaction that is rolled back.

The expected outcomes are in access.json beside this file, grouped by part. Operations are read from
the catalog, so an object that access.json does not list is reported too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from importlib.resources import files
from typing import Any
from uuid import uuid4

import psycopg
from psycopg import sql

from keylatch.errors import KeylatchError, NotInstalled
from keylatch.transports.sql import failure_of

from ..install.migrations import TENANCY
from . import causes
from .report import (
    ACTORS,
    Audit,
    Difference,
    Try,
    differences_of,
    name_of,
    ranked,
)
from .stage import TAKE_ROLE, Stage, furnish, roles
from .trying import UNTRIED, Operation, outcomes
from .values import assignments, row_of

_RELATIONS = """
select n.nspname, c.relname,
  array(
    select array[
      a.attname, format_type(a.atttypid, null),
      (c.relkind in ('r', 'p') and a.attnotnull and not a.atthasdef and a.attidentity = '')::text
    ]
    from pg_catalog.pg_attribute as a
    where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
    order by a.attnum
  ),
  c.relkind in ('r', 'p')
from pg_catalog.pg_class as c
inner join pg_catalog.pg_namespace as n on c.relnamespace = n.oid
where n.nspname in ('keylatch', 'keylatch_internal') and c.relkind in ('r', 'v', 'm', 'p', 'f')
order by n.nspname, c.relname
"""
_FUNCTIONS = """
select n.nspname, p.proname, p.oid::regprocedure::text,
  array(
    select array[
      p.proargnames[u.place], format_type(u.type, null),
      (u.place > p.pronargs - p.pronargdefaults)::text
    ]
    from unnest(p.proargtypes) with ordinality as u (type, place) order by u.place
  )
from pg_catalog.pg_proc as p
inner join pg_catalog.pg_namespace as n on p.pronamespace = n.oid
where n.nspname in ('keylatch', 'keylatch_internal')
  and p.prokind in ('f', 'p') and p.prorettype <> 'pg_catalog.trigger'::regtype
order by n.nspname, p.proname, 3
"""
_INSTALLED = "select array['core'] || modules from keylatch_internal.installation"
_SETTINGS = """
select pg_catalog.set_config(name, value, true) from (values
  ('lock_timeout', '100ms'), ('statement_timeout', '60s'), ('search_path', ''),
  ('row_security', 'on'), ('request.jwt.claim.sub', ''), ('request.jwt.claim', '')
) as settings (name, value)
"""
_STRANGER = "select pg_catalog.count(*) from keylatch.admin_workspace_ids()"
_EXECUTE = "select 1 where pg_catalog.has_function_privilege({}::regprocedure, 'execute')"
_TRUNCATE = "select 1 where pg_catalog.has_table_privilege({}::regclass, 'truncate')"
# 32 is the bit of "truncate", 2 that of "before".
_TRUNCATE_HELD = """
select 1 from pg_catalog.pg_trigger as t
where t.tgrelid = {}::regclass and t.tgtype & 34 = 34 and t.tgenabled = 'A'
"""


def expectations(parts: Collection[str] | None = None) -> dict[str, dict[str, str]]:
    """Read the expected outcomes.

    Args:
        parts: The installed parts: `core`, `tenancy` and modules. All parts if not given.

    Returns:
        For each test, by name, the outcome for each actor.
    """
    text = (files(__package__) / "access.json").read_text(encoding="utf-8")
    return {
        name_of(
            *(where, operation, word) if "." in where else (f"{where}.{word}", operation, "")
        ): (dict(zip(ACTORS, outcomes.split(), strict=True)))
        for part, objects in json.loads(text).items()
        if parts is None or part in parts
        # By table or view the columns; by schema the functions.
        for where, operations in objects.items()
        for operation, alike in operations.items()
        for outcomes, words in alike.items()
        for word in words.split(" ")
    }


def audit(
    connection: psycopg.Connection[Any], *, done: Callable[[int, int], None] | None = None
) -> Audit:
    """Test all operations as all kinds of user on a temporary workspace, and roll back.

    The audit waits for no lock longer than 100 ms, and commits nothing. The audit takes the locks
    of ordinary reads and writes (access share, row share, row exclusive) on keylatch's tables and
    on auth.users, row locks only on its own rows, and no lock that blocks the use of a key.
    Sequence numbers stay used.

    Args:
        connection: As the owner of keylatch, outside a transaction.
        done: Called after each operation with the number done and the total.

    Returns:
        The result.

    Raises:
        KeylatchError: The server is a replica, keylatch is not installed, or the connection is not
            the owner's.
    """
    try:
        with connection.transaction(force_rollback=True):
            return _audit(connection, done or (lambda _done, _total: None))
    except (psycopg.Error, UnicodeError) as problem:
        failure: KeylatchError = failure_of(problem)
    raise failure


def _audit(connection: psycopg.Connection[Any], done: Callable[[int, int], None]) -> Audit:
    connection.execute(_SETTINGS)
    found = causes.read(connection)
    if found is None:
        raise NotInstalled(
            detail="The database has no schema keylatch.", hint="Run: keylatch install --help"
        )
    actors = roles(connection)
    connection.execute("select pg_catalog.set_config('role', %s, true)", [actors["owner"]])
    differences = list(found.differences)
    tries: list[Try] = []
    missing: list[str] = []
    try:
        # A nested transaction: if damage stops the tests, the result of the catalog is kept.
        with connection.transaction():
            parts = _parts(connection, found.parts)
            if found.has_own_tenancy:
                differences += _asked_as_stranger(connection, actors["stranger"])
            stage = furnish(connection, actors, parts, own_tenancy=found.has_own_tenancy)
            tries, missing = _all_tries(connection, stage, expectations(parts), done)
    except psycopg.Error as problem:
        if not differences or problem.sqlstate is None or problem.sqlstate in UNTRIED:
            raise
        differences.append(_not_tried(failure_of(problem)))
    differences += differences_of(tries, missing)
    return Audit(
        differences=ranked(differences),
        tries=tuple(tries),
        has_own_tenancy=found.has_own_tenancy,
    )


def _all_tries(
    connection: psycopg.Connection[Any],
    stage: Stage,
    expected: dict[str, dict[str, str]],
    done: Callable[[int, int], None],
) -> tuple[list[Try], list[str]]:
    """Run all tests, and name the expected tests that could not be made."""
    operations = list(_operations(connection, stage))
    tries = []
    for number, (one, found) in enumerate(outcomes(connection, stage, operations), 1):
        tries.append(
            Try(
                object=one.object,
                operation=one.operation,
                column=one.column,
                found=found,
                expected=expected.pop(name_of(one.object, one.operation, one.column), {}),
            )
        )
        done(number, len(operations))
    return tries, list(expected)


def _parts(connection: psycopg.Connection[Any], parts: Collection[str]) -> list[str]:
    row = connection.execute(_INSTALLED.encode()).fetchone()
    if row is None:
        raise KeylatchError("installation_missing", detail="The installation table is empty.")
    return [*row[0], *({TENANCY} & set(parts))]


def _asked_as_stranger(connection: psycopg.Connection[Any], role: str) -> Iterator[Difference]:
    """Call the application's own function as an unknown user."""
    claims = json.dumps({"sub": str(uuid4()), "role": role, "aud": role})
    try:
        with connection.transaction(force_rollback=True):
            connection.execute(TAKE_ROLE, [role, claims])
            count = connection.execute(_STRANGER).fetchall()[0][0]
    except psycopg.Error as problem:
        if problem.sqlstate in UNTRIED:
            raise
        found = f"an error: {failure_of(problem).detail or problem.sqlstate}"
        why, rank = "Every call and every query of a signed-in user fails with this error.", 2
    else:
        if not count:
            return
        found, rank = f"{count:,} workspaces", 0
        why = "Every signed-in user can read, issue and revoke keys of these workspaces."
    yield Difference(
        who=ACTORS["stranger"],
        what="administers, according to the application's keylatch.admin_workspace_ids()",
        expected="no workspace",
        found=found,
        why=why,
        rank=rank,
        is_cause=True,
    )


def _not_tried(problem: KeylatchError) -> Difference:
    return Difference(
        who="everyone",
        what="what each kind of user can do",
        expected="tests on a temporary workspace",
        found=f"not testable: {problem.detail or problem.slug}",
        why="The damage above prevents the tests. Repair the damage, then run the audit again.",
        rank=1,
        is_cause=False,
    )


def _operations(connection: psycopg.Connection[Any], stage: Stage) -> Iterator[Operation]:
    """List the operations to test: first on no rows, then only on the rows of the workspace.

    These operations read, lock and change no row of another workspace.
    """
    for schema, name, described, is_table in connection.execute(_RELATIONS).fetchall():
        columns = {column: kind for column, kind, _ in described}
        required = [column for column, _, must in described if must == "true"]
        yield from _of_relation(schema, name, columns, required, stage, is_table=is_table)
    for schema, name, signature, arguments in connection.execute(_FUNCTIONS).fetchall():
        shown = f"{schema}.{name}"
        if schema == "keylatch":
            call = _call(sql.Identifier(schema, name), arguments, stage.known)
            yield Operation(shown, "call", "", (call,))
        else:
            asked = sql.SQL(_EXECUTE).format(sql.Literal(signature))
            yield Operation(shown, "execute", "", (asked,))


def _of_relation(
    schema: str,
    name: str,
    columns: Mapping[str, str],
    required: list[str],
    stage: Stage,
    *,
    is_table: bool,
) -> Iterator[Operation]:
    where, shown = sql.Identifier(schema, name), f"{schema}.{name}"
    reach = _reach(name, columns, stage)
    # "false" first: it shows a grant even if the second condition needs another grant.
    reaches = (sql.SQL("false"), reach)
    for column in columns:
        text = sql.SQL("select {} from {} where {} limit 1")
        tried = tuple(text.format(sql.Identifier(column), where, one) for one in reaches)
        yield Operation(shown, "select", column, tried)
    given = row_of(columns, required, stage, is_minted=name == "keys")
    insert = sql.SQL("insert into {} default values").format(where)
    if given:
        insert = sql.SQL("insert into {} ({}) values ({})").format(
            where,
            sql.SQL(", ").join(map(sql.Identifier, given)),
            sql.SQL(", ").join(given.values()),
        )
    yield Operation(shown, "insert", "", (insert,))
    if name == "workspace_membership":
        # Only one row, so that its user_id can be changed.
        reach = sql.SQL("{} and role = 'member'").format(reach)
        reaches = (sql.SQL("false"), reach)
    for column in columns:
        pairs, value = assignments(column, columns, stage)
        text = sql.SQL("update {} set {} where {}")
        tried = tuple(text.format(where, pairs, one) for one in reaches)
        taken = sql.SQL(
            "select pg_catalog.bool_and({} is not distinct from {}) from {} where {}"
        ).format(sql.Identifier(column), value, where, reach)
        yield Operation(shown, "update", column, tried, taken)
    text = sql.SQL("delete from {} where {}")
    yield Operation(shown, "delete", "", tuple(text.format(where, one) for one in reaches))
    if is_table:
        # Looked up, not tested: truncating locks the table for all sessions.
        asked = tuple(sql.SQL(one).format(shown) for one in (_TRUNCATE, _TRUNCATE_HELD))
        yield Operation(shown, "truncate", "", asked)


def _reach(name: str, columns: Mapping[str, str], stage: Stage) -> sql.Composable:
    """Return the condition for the rows of the workspace, or "false" if it has no such rows."""
    if name in ("keys", "active_keys"):
        return sql.SQL("id = {}").format(sql.Literal(stage.publishable))
    column = "id" if name == "workspaces" else "workspace_id"
    if column not in columns:
        return sql.SQL("false")
    return sql.SQL("{} = {}").format(sql.Identifier(column), sql.Literal(stage.workspace))


def _call(
    name: sql.Identifier, arguments: list[list[str]], known: Mapping[str, object]
) -> sql.Composed:
    """Call a function for the temporary workspace, with nulls for all other required arguments."""
    given = []
    if "workspace_id" in (argument for argument, _, _ in arguments):
        known = {**known, "limit": 1}
    for argument, kind, has_default in arguments:
        # A limit never keeps its default, which could reach rows of other workspaces.
        if argument in known or has_default == "false" or kind == "integer":
            kind = "keylatch.issued_key" if kind == "anyelement" else kind
            value = sql.Literal(known.get(argument))
            typed = sql.SQL("{} => {}::" + kind)
            given.append(typed.format(sql.Identifier(argument), value))
    return sql.SQL("select * from {}({})").format(name, sql.SQL(", ").join(given))
