"""Describes the objects of a database, and the objects that this version installs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Any, TypeAlias

import psycopg
from psycopg import sql
from psycopg.rows import dict_row, tuple_row

from ..install.migrations import CORE, TENANCY

_PACKAGE = "keylatch_cli.doctor"
_USUAL: Mapping[str, Mapping[str, Any]] = {
    "column": {"default": None, "generated": False, "not null": True},
    "constraint": {"enforced": True},
    "function": {
        "language": "plpgsql",
        "leakproof": "not leakproof",
        "null input": "called on null input",
        "parallel": "parallel unsafe",
        "security": "security invoker",
        "settings": ["search_path=pg_catalog, pg_temp"],
    },
    "index": {"valid": True},
    "policy": {"permissive": True, "roles": ["authenticated"], "with check": None},
    "table": {"forced row level security": False, "logged": True, "row level security": True},
    "trigger": {"fires": "origin"},
}

Name: TypeAlias = tuple[str, str]
"""Kind and name of an object: `("trigger", "keys_update_stamp on keylatch_internal.keys")`."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One object of the schemas `keylatch` and `keylatch_internal`.

    Attributes:
        kind: The kind of object as in SQL, such as `function`.
        name: The name of the object, as SQL writes it after the kind.
        relation: The table or view that the object belongs to, or `None`.
        owner: The owner of the object; `None` for parts of a relation, and in a manifest.
        comment: The comment on the object.
        grants: Who may do what: `authenticated: select`.
        definition: All other properties by name.
    """

    kind: str
    name: str
    relation: str | None
    owner: str | None
    comment: str | None
    grants: frozenset[str]
    definition: Mapping[str, Any]

    @property
    def key(self) -> Name:
        """The kind and name, which identify the object."""
        return self.kind, self.name

    @property
    def schema(self) -> str:
        """The schema of the object."""
        return (self.relation or self.name).partition(".")[0]


@dataclass(frozen=True, slots=True)
class Expected:
    """What a database should contain.

    Attributes:
        schema_version: The version of the schema.
        entries: The objects, without owners.
        parts: The part that creates or last changes each object: `core`, `tenancy` or a module.
    """

    schema_version: str
    entries: Mapping[Name, Entry]
    parts: Mapping[Name, str]


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a version of keylatch installs.

    Attributes:
        schema_version: The version of the schema.
        parts: The objects that each part creates or changes, in the order of installation: core,
            tenancy, modules.
        rows: How many rows each part writes into each table.
    """

    schema_version: str
    parts: Mapping[str, Mapping[Name, Entry]]
    rows: Mapping[str, Mapping[str, int]]

    @property
    def modules(self) -> frozenset[str]:
        """The names of the modules."""
        return frozenset(self.parts) - {CORE, TENANCY}

    def expected(self, parts: Collection[str]) -> Expected:
        """Return what a database with these parts should contain.

        Args:
            parts: Names of parts.

        Returns:
            The objects of all parts. If several parts change an object, the object has the grants
            of all these parts, and the other properties of the last part.
        """
        entries: dict[Name, Entry] = {}
        made_by: dict[Name, str] = {}
        for part, objects in self.parts.items():
            if part not in parts:
                continue
            for key, entry in objects.items():
                before = entries[key].grants if key in entries else frozenset()
                entries[key] = replace(entry, grants=entry.grants | before)
                made_by[key] = part
        return Expected(self.schema_version, entries, made_by)

    def expected_rows(self, parts: Collection[str]) -> Mapping[str, int]:
        """Return the number of rows that the migrations of these parts write into each table.

        Args:
            parts: Names of parts.

        Returns:
            The number of rows by table. A table may have more rows, from the application.
        """
        counts: Counter[str] = Counter()
        for part in parts:
            counts.update(self.rows[part])
        return counts

    def installed(
        self, live: Mapping[Name, Entry], modules: Collection[str] | None
    ) -> tuple[str, ...]:
        """Find out which parts a database has.

        Args:
            live: The objects of the database.
            modules: The modules that the table `installation` lists; `None` if the table could not
                be read. A module also counts as installed if one of its tables or functions exists.

        Returns:
            The parts, in order.
        """
        makers = Counter(key for objects in self.parts.values() for key in objects)

        def is_there(part: str) -> bool:
            if part == CORE:
                return True
            if part in (modules or ()):
                return True
            # Objects that the part only changes, or shares with another part, do not count.
            own = (key for key in self.parts[part] if makers[key] == 1)
            return any(key in live for key in own if key[0] in ("table", "function"))

        return tuple(part for part in self.parts if is_there(part))


def read_catalog(connection: psycopg.Connection[Any]) -> dict[Name, Entry]:
    """Read the installed objects.

    Args:
        connection: Inside a transaction, as any user.

    Returns:
        The objects; empty if keylatch is not installed.
    """
    with connection.cursor(row_factory=dict_row) as cursor:
        # These settings change how PostgreSQL prints expressions.
        cursor.execute(
            "select pg_catalog.set_config(name, value, true) from (values ('search_path', ''), "
            "('timezone', 'UTC'), ('datestyle', 'ISO'), ('intervalstyle', 'postgres'), "
            "('quote_all_identifiers', 'off')) as settings (name, value)"
        )
        rows = cursor.execute(_resource("catalog.sql").encode()).fetchall()
    entries = (
        Entry(
            kind=row["kind"],
            name=row["full_name"],
            relation=row["relation"],
            owner=row["owned_by"],
            comment=row["remark"],
            grants=frozenset(row["rights"]),
            definition=row["definition"],
        )
        for row in rows
    )
    return {entry.key: entry for entry in entries}


def read_manifest() -> Manifest:
    """Read what this version installs.

    Returns:
        The manifest of this package.
    """
    read = json.loads(_resource("manifest.json"))
    parts = {
        part: {entry.key: entry for entry in map(_entry, objects)}
        for part, objects in read["parts"].items()
    }
    return Manifest(read["schema_version"], parts, read["rows"])


def count_rows(connection: psycopg.Connection[Any], tables: Collection[str]) -> dict[str, int]:
    """Count rows in the tables that this user can read completely.

    Args:
        connection: Inside a transaction.
        tables: Names of existing tables.

    Returns:
        The number of rows of each table whose rows are all visible to this user.

    Raises:
        psycopg.Error: A table cannot be read.
    """
    counts = {}
    with connection.cursor(row_factory=tuple_row) as cursor:
        visible = cursor.execute(
            # By oid: looking up a name needs usage of the schema.
            "select c.relname, n.nspname from pg_catalog.pg_class as c "
            "inner join pg_catalog.pg_namespace as n on c.relnamespace = n.oid "
            "where n.nspname || '.' || c.relname = any(%s) "
            "and pg_catalog.has_schema_privilege(n.oid, 'usage') "
            "and pg_catalog.has_table_privilege(c.oid, 'select') "
            "and not pg_catalog.row_security_active(c.oid)",
            [list(tables)],
        ).fetchall()
        for table, schema in visible:
            name = sql.Identifier(schema, table)
            ((counts[f"{schema}.{table}"],),) = cursor.execute(
                sql.SQL("select pg_catalog.count(*) from {}").format(name)
            ).fetchall()
    return counts


def usual(kind: str) -> Mapping[str, Any]:
    """Return the default properties of a kind of object. The manifest leaves these out.

    Args:
        kind: The kind of an object.

    Returns:
        Values by property.
    """
    return _USUAL.get(kind, {})


def _entry(one: Mapping[str, Any]) -> Entry:
    return Entry(
        kind=one["kind"],
        name=one["name"],
        relation=one.get("relation"),
        owner=None,
        comment=one.get("comment"),
        grants=frozenset(
            f"{role}: {privilege}"
            for role, privileges in one.get("grants", {}).items()
            for privilege in privileges.split(", ")
        ),
        definition={**usual(one["kind"]), **one.get("definition", {})},
    )


def _resource(name: str) -> str:
    return files(_PACKAGE).joinpath(name).read_text(encoding="utf-8")
