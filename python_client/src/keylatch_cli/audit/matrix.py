"""Tries who can do what: every operation, as every kind of user, in a transaction that is undone.

For `keylatch audit`. What is expected stands in access.json beside this file, by the part that
brings it. What there is to try is read from the catalog, so something new without an expectation is
a finding as well.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, LiteralString
from uuid import UUID, uuid4

import psycopg
from psycopg import sql

from keylatch.errors import KeylatchError
from keylatch.transports.psycopg import failure_of

ACTORS: dict[str, str] = {
    "anon": "anon",
    "stranger": "authenticated",
    "member": "authenticated",
    "other": "authenticated",
    "admin": "authenticated",
    "service": "service_role",
    "resolver": "keylatch_resolver",
}
"""Who tries, and by which role: nobody, signed in without a workspace, a member of the workspace
who does not administer it, the admin of another one, its admin, and the two roles of services."""

NO, NONE, YES, LATCH = "no", "none", "yes", "latch"
OUTCOMES: dict[str, str] = {
    NO: "refused, by a grant, a row policy, or because a view cannot be written",
    NONE: "allowed, and reaches nothing of the workspace",
    YES: "allowed",
    LATCH: "refused by the latch, whoever asks",
}
"""What a try comes to."""

_RELATIONS = """
select n.nspname, c.relname,
  array(
    select a.attname from pg_catalog.pg_attribute as a
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
# A workspace of its own with a member and an admin, and the admin of another one.
_WORKSPACES = "insert into keylatch.workspaces (id, name) values (%s, 'audit'), (%s, 'audit')"
_MEMBERS = """
insert into keylatch.workspace_membership (workspace_id, user_id, role)
values (%s, %s, 'admin'), (%s, %s, 'member'), (%s, %s, 'admin')
"""
_REPLICATING = "select set_config('session_replication_role', %s, true)"
_OWN_TENANCY = """
create or replace function keylatch.admin_workspace_ids()
returns setof uuid language plpgsql stable set search_path = pg_catalog, pg_temp as {body}
"""
_ADMINISTERED = """
select w.id from (values {values}) as w (user_id, id)
where w.user_id::text = current_setting('request.jwt.claims', true)::jsonb ->> 'sub'
"""
_SELECT: LiteralString = "select {column} from {table} where {reach} limit 1"
_UPDATE: LiteralString = "update {table} set {column} = default where {reach}"
_DELETE: LiteralString = "delete from {table} where {reach}"
# No privilege; a view, or a column of one, that cannot be written; a generated column.
_REFUSED = ("42501", "55000", "0A000", "428C9")
# A row of the workspace in each table of a module, so that it shows who reaches rows there.
_ROWS: dict[str, LiteralString] = {
    "usage": """
with used as (
  insert into keylatch_internal.key_usage (key_id, workspace_id, last_used_at, uses)
  values (%(key_id)s, %(workspace)s, now(), 1)
)
insert into keylatch_internal.key_days (key_id, day, verdict, workspace_id, number)
values (%(key_id)s, now()::date, 'valid', %(workspace)s, 1), (
  %(key_id)s, now()::date, 'origin_denied', %(workspace)s, 1
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
values (%(legacy_id)s, %(workspace)s, 'bcrypt', %(legacy_id)s, %(legacy_id)s, '', 1)
""",
}
_INSTALLED = """
select array['core'] || modules from keylatch_internal.installation
"""
_TAKE_ROLE = """
select set_config('role', %s, true), set_config('request.jwt.claims', %s, true),
  set_config('request.headers', '', true)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Try:
    """An operation, and what came of it for each kind of user.

    Attributes:
        object: A table, view or function, with its schema; a function with its argument types.
        operation: select, insert, update, delete, truncate, call; execute of what is not for
            callers, which is asked of the catalog and not tried.
        column: Which column is selected or updated; empty for the rest.
        found: What came of it by actor: a key of `OUTCOMES`.
        expected: What should have; empty where nothing is known of such an object.
    """

    object: str
    operation: str
    column: str
    found: dict[str, str]
    expected: dict[str, str]

    @property
    def name(self) -> str:
        """One text for all three."""
        return _name(self.object, self.operation, self.column)

    @property
    def differs(self) -> tuple[str, ...]:
        """The actors for whom it came out otherwise than expected."""
        return tuple(actor for actor in ACTORS if self.found.get(actor) != self.expected.get(actor))


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What was tried.

    Attributes:
        tries: All tries, in the order of their objects.
        missing: What is expected and was not there to be tried.
        has_own_tenancy: Whether the application says itself who administers what. Then its
            function was replaced, within the transaction, by one for the throwaway workspace.
    """

    tries: tuple[Try, ...]
    missing: tuple[str, ...]
    has_own_tenancy: bool

    @property
    def differences(self) -> tuple[Try, ...]:
        """The tries that came out otherwise than expected."""
        return tuple(one for one in self.tries if one.differs)

    @property
    def is_clean(self) -> bool:
        """Whether all came out as expected."""
        return not self.differences and not self.missing


def expectations(parts: Collection[str] | None = None) -> dict[str, dict[str, str]]:
    """Read what is expected.

    Args:
        parts: The parts that are installed: `core`, `tenancy`, and modules; all unless given.

    Returns:
        By the name of a try, what comes of it for each actor.
    """
    text = (files(__package__) / "access.json").read_text(encoding="utf-8")
    return {
        _name(*(where, operation, word) if "." in where else (f"{where}.{word}", operation, "")): (
            dict(zip(ACTORS, outcomes.split(), strict=True))
        )
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
    """Try everything as everybody on a throwaway workspace, and undo all of it.

    Nothing waits for a lock longer than 100 ms, and nothing is committed; numbers that a sequence
    gave are the only thing not given back.

    Args:
        connection: Of the owner of keylatch, in no transaction.
        done: Called after each operation, with how many are done of how many.

    Returns:
        What came of it.

    Raises:
        KeylatchError: The database cannot be audited so: a replica, no keylatch, not its owner.
    """
    try:
        with connection.transaction(force_rollback=True):
            connection.execute("select set_config('lock_timeout', '100ms', true)")
            own_tenancy = _has_own_tenancy(connection)
            parts = _parts(connection, own_tenancy=own_tenancy)
            expected = expectations(parts)
            workspace = uuid4()
            claims, known = _furnish(connection, workspace, parts, own_tenancy=own_tenancy)
            operations = list(_operations(connection, workspace, known))
            tries = []
            for number, (name, operation, column, statements) in enumerate(operations, 1):
                found = {
                    actor: _outcome(connection, role, claims.get(actor), operation, statements)
                    for actor, role in ACTORS.items()
                }
                wanted = expected.pop(_name(name, operation, column), {})
                tries.append(
                    Try(
                        object=name,
                        operation=operation,
                        column=column,
                        found=found,
                        expected=wanted,
                    )
                )
                if done is not None:
                    done(number, len(operations))
    except (psycopg.Error, UnicodeError) as problem:
        failure: KeylatchError = failure_of(problem)
    else:
        return Audit(tries=tuple(tries), missing=tuple(expected), has_own_tenancy=own_tenancy)
    raise failure


def _name(of: str, operation: str, column: str) -> str:
    return f"{operation} {column} {of}" if column else f"{operation} {of}"


def _has_own_tenancy(connection: psycopg.Connection[Any]) -> bool:
    row = connection.execute("select to_regclass('keylatch.workspaces') is null").fetchone()
    return row != (False,)


def _parts(connection: psycopg.Connection[Any], *, own_tenancy: bool) -> list[str]:
    row = connection.execute(_INSTALLED.encode()).fetchone()
    if row is None:
        raise KeylatchError("installation_missing", detail="The installation has no row.")
    return [*row[0], *([] if own_tenancy else ["tenancy"])]


def _furnish(
    connection: psycopg.Connection[Any],
    workspace: UUID,
    parts: Collection[str],
    *,
    own_tenancy: bool,
) -> tuple[dict[str, str], dict[str, object]]:
    """Make the throwaway workspace, with a row in what is shown of it.

    Returns:
        The claims of each actor, and what to call with by the name of the argument.
    """
    elsewhere = uuid4()
    people = {name: uuid4() for name in ("stranger", "member", "other", "admin")}
    if own_tenancy:
        rows = [(people["admin"], workspace), (people["other"], elsewhere)]
        values = sql.SQL(", ").join(sql.SQL("({}, {}::uuid)").format(*row) for row in rows)
        query = sql.SQL(_ADMINISTERED).format(values=values).as_string(connection)
        body = sql.Literal(f"begin return query {query}; end")
        connection.execute(sql.SQL(_OWN_TENANCY).format(body=body))
    else:
        connection.execute(_WORKSPACES, [workspace, elsewhere])
        # The people are nobody's users, and no trigger of the application's need hear of them.
        with connection.transaction():
            connection.execute(_REPLICATING, ["replica"])
            connection.execute(
                _MEMBERS,
                [
                    *(workspace, people["admin"]),
                    *(workspace, people["member"]),
                    *(elsewhere, people["other"]),
                ],
            )
            connection.execute(_REPLICATING, ["origin"])
    claims = {
        name: json.dumps({"sub": str(user), "role": "authenticated", "aud": "authenticated"})
        for name, user in people.items()
    }
    with connection.transaction():
        connection.execute(_TAKE_ROLE, ["authenticated", claims["admin"]])
        key, key_id = connection.execute(
            "select key, id from keylatch.issue_key(%s, 'secret')", [workspace]
        ).fetchall()[0]
        connection.execute("select set_config('role', 'none', true)")
    legacy_id = uuid4()
    for part, statement in _ROWS.items():
        if part in parts:
            ids = {"workspace": workspace, "key_id": key_id, "legacy_id": legacy_id}
            connection.execute(statement, ids)
    known = {
        "workspace_id": workspace,
        "key": key,
        "key_id": key_id,
        "id": legacy_id,
        "keys": [key],
        "labels": ["audit"],
    }
    return claims, known


def _operations(
    connection: psycopg.Connection[Any], workspace: UUID, known: dict[str, object]
) -> Iterator[tuple[str, str, str, tuple[sql.Composed, ...]]]:
    """Give what there is to try: first whether at all, then on the rows of the workspace alone.

    So no row of anybody else is read, locked or changed, however many there are.
    """
    for schema, name, columns, is_table in connection.execute(_RELATIONS).fetchall():
        where, shown = sql.Identifier(schema, name), f"{schema}.{name}"
        # Of a table without workspaces nothing but the grant is tried.
        reach: sql.Composable = sql.SQL("false")
        if "workspace_id" in columns or name == "workspaces":
            column = "id" if name == "workspaces" else "workspace_id"
            reach = sql.SQL("{} = {}").format(sql.Identifier(column), sql.Literal(workspace))
        for column in columns:
            names = {"table": where, "column": sql.Identifier(column)}
            yield shown, "select", column, _twice(_SELECT, reach, names)
        given = {"workspace_id": workspace, "kind": "secret"}
        if given.keys() & set(columns):
            some = [name for name in given if name in columns]
            insert = sql.SQL("insert into {} ({}) values ({})").format(
                where,
                sql.SQL(", ").join(map(sql.Identifier, some)),
                sql.SQL(", ").join(sql.Literal(given[name]) for name in some),
            )
        else:
            insert = sql.SQL("insert into {} default values").format(where)
        yield shown, "insert", "", (insert,)
        for column in columns:
            names = {"table": where, "column": sql.Identifier(column)}
            yield shown, "update", column, _twice(_UPDATE, reach, names)
        yield shown, "delete", "", _twice(_DELETE, reach, {"table": where})
        if is_table:
            yield shown, "truncate", "", (sql.SQL("truncate {}").format(where),)
    for schema, name, signature, arguments in connection.execute(_FUNCTIONS).fetchall():
        if schema == "keylatch":
            call = _call(sql.Identifier(schema, name), arguments, known)
            yield f"{schema}.{name}", "call", "", (call,)
        else:
            asked = sql.SQL("select 1 where has_function_privilege({}::regprocedure, 'execute')")
            yield f"{schema}.{name}", "execute", "", (asked.format(sql.Literal(signature)),)


def _twice(
    statement: LiteralString, reach: sql.Composable, names: dict[str, sql.Identifier]
) -> tuple[sql.Composed, ...]:
    """Give a statement that reaches no row, and the same for those of the workspace."""
    text = sql.SQL(statement)
    return text.format(reach=sql.SQL("false"), **names), text.format(reach=reach, **names)


def _call(
    name: sql.Identifier, arguments: list[list[str]], known: dict[str, object]
) -> sql.Composed:
    """Call it for the throwaway workspace, and with nulls for what else it has to be told."""
    given = []
    if "workspace_id" in (argument for argument, _, _ in arguments):
        known = {**known, "limit": 1}
    for argument, kind, has_default in arguments:
        # How many at the most is never left to a default: it would be for other people's rows.
        if argument in known or has_default == "false" or kind == "integer":
            kind = "keylatch.issued_key" if kind == "anyelement" else kind
            value = sql.Literal(known.get(argument))
            typed = sql.SQL("{} => {}::" + kind)
            given.append(typed.format(sql.Identifier(argument), value))
    return sql.SQL("select * from {}({})").format(name, sql.SQL(", ").join(given))


def _outcome(
    connection: psycopg.Connection[Any],
    role: str,
    claims: str | None,
    operation: str,
    statements: tuple[sql.Composed, ...],
) -> str:
    """Try it as somebody, and undo it."""
    came = NO
    for statement in statements:
        try:
            with connection.transaction(force_rollback=True):
                connection.execute(_TAKE_ROLE, [role, claims or json.dumps({"role": role})])
                rows = connection.execute(statement).rowcount
        except psycopg.Error as problem:
            if problem.sqlstate in _REFUSED:
                return came
            if operation != "call":
                # It got as far as a value that was no good: whoever has a better one may do it.
                return LATCH if problem.sqlstate == "PT409" else YES
            return NONE if problem.sqlstate in ("PT401", "PT404") else YES
        if operation == "execute":
            return YES if rows else NO
        came = YES if rows > 0 else NONE
    return came
