"""Writes the manifest with which `keylatch doctor` compares a database, from fresh installs.

`make generate` runs this program. With --check it writes nothing, and exits with 1 if the file in
the tree is out of date.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import psycopg

from keylatch_cli.doctor import catalog
from keylatch_cli.doctor.catalog import Entry, Name, count_rows, read_catalog, usual
from keylatch_cli.install.migrations import CORE, Release, shipped
from stack import Cluster, Server
from stack.database import Database

FILE = Path(catalog.__file__).parent / "manifest.json"


class _Found(NamedTuple):
    """The objects of an install, and the number of rows that the migrations wrote."""

    entries: dict[Name, Entry]
    rows: dict[str, int]


def manifest(server: Cluster) -> str:
    """Describe the objects that each part adds to the core and the modules that it needs."""
    release = shipped()
    base: dict[frozenset[str], _Found] = {}
    parts, rows = {}, {}
    for part in release.parts:
        modules = release.with_needs([part]) if part in release.modules else ()
        parts_below = {CORE, *modules} - {part}
        before = _installed(server, release, parts_below, base) if part != CORE else _Found({}, {})
        found = _installed(server, release, {*parts_below, part}, base)
        new = {key: one for key, one in found.entries.items() if before.entries.get(key) != one}
        parts[part] = [_described(new[key]) for key in sorted(new)]
        rows[part] = {
            table: count - before.rows.get(table, 0)
            for table, count in sorted(found.rows.items())
            if count > before.rows.get(table, 0)
        }
    head = json.dumps({"schema_version": release.version, "rows": rows})[:-1]
    dense = (",", ":")
    # One line for each object, so that a diff between two versions is readable.
    texts = (
        f'"{part}": [\n'
        + ",\n".join(
            json.dumps(one, ensure_ascii=False, sort_keys=True, separators=dense) for one in objects
        )
        + "\n]"
        for part, objects in parts.items()
    )
    return head + ', "parts": {\n' + ",\n".join(texts) + "\n}}\n"


def _installed(
    server: Cluster,
    release: Release,
    parts: Collection[str],
    known: dict[frozenset[str], _Found],
) -> _Found:
    """Install these parts in a new database, and read its catalog."""
    if frozenset(parts) not in known:
        with Database(server, f"manifest_{uuid4().hex}") as database:
            server.install_platform(database.name)
            with psycopg.connect(database.url) as owner:
                for part in release.parts:
                    if part in parts:
                        owner.execute(release.parts[part].text.encode())
                entries = read_catalog(owner)
                tables = [name for kind, name in entries if kind == "table"]
                known[frozenset(parts)] = _Found(entries, count_rows(owner, tables))
    return known[frozenset(parts)]


def _described(entry: Entry) -> Mapping[str, Any]:
    usually = usual(entry.kind)
    definition = {
        name: value
        for name, value in entry.definition.items()
        if name not in usually or usually[name] != value
    }
    grants: dict[str, str] = {}
    for role, _, privilege in (line.partition(": ") for line in sorted(entry.grants)):
        grants[role] = f"{grants[role]}, {privilege}" if role in grants else privilege
    described = {
        "kind": entry.kind,
        "name": entry.name,
        "relation": entry.relation,
        "comment": entry.comment,
        "grants": grants,
        "definition": definition,
    }
    return {name: value for name, value in described.items() if value}


def main(arguments: list[str]) -> int:
    """Make fresh installs, describe them, and write or compare the file."""
    with Server() as server:
        text = manifest(server)
    if arguments == ["--check"]:
        if FILE.read_text() == text:
            return 0
        print("manifest.json is not what the migrations install; run: make generate")
        return 1
    FILE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
