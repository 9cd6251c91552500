"""What is installed in a database, and what this version installs, in one form."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, TypeAlias

import psycopg
from psycopg.rows import dict_row

_PACKAGE = "keylatch"

Name: TypeAlias = tuple[str, str]
"""Kind and name of an object: `("trigger", "keys_update_latch on keylatch_internal.keys")`."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One object of the schemas `keylatch` and `keylatch_internal`.

    Attributes:
        kind: The word for it in SQL, such as `function`.
        name: Its name, as SQL takes it behind the kind.
        relation: The table or view that it is a part of, or `None`.
        owner: Its owner; `None` for parts, and in a manifest, where no name is known.
        comment: Its comment.
        grants: Who may do what: `authenticated: select`.
        definition: All else, by property.
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
        """What tells it from all others."""
        return self.kind, self.name

    @property
    def schema(self) -> str:
        """The schema that it is in."""
        return (self.relation or self.name).partition(".")[0]


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a version of keylatch installs.

    Attributes:
        schema_version: The version.
        entries: Its objects, without owners.
        migrations: The migration that made or last changed each object.
        stub_body: The digest of `admin_workspace_ids` before the migration `keylatch_workspaces`.
    """

    schema_version: str
    entries: Mapping[Name, Entry]
    migrations: Mapping[Name, str]
    stub_body: str


def read_catalog(connection: psycopg.Connection[Any]) -> dict[Name, Entry]:
    """Read what is installed.

    Args:
        connection: Inside a transaction. Any user may ask.

    Returns:
        The objects; none where keylatch is not installed.
    """
    with connection.cursor(row_factory=dict_row) as cursor:
        # What PostgreSQL shows of an expression depends on these.
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
    entries: dict[Name, Entry] = {}
    migrations: dict[Name, str] = {}
    for one in read["objects"]:
        migration = one.pop("migration")
        entry = Entry(**{**one, "owner": None, "grants": frozenset(one["grants"])})
        entries[entry.key], migrations[entry.key] = entry, migration
    return Manifest(read["schema_version"], entries, migrations, read["stub_body"])


def _resource(name: str) -> str:
    return files(_PACKAGE).joinpath(name).read_text(encoding="utf-8")
