"""Writes the manifest that `keylatch doctor` compares with, from a fresh install.

`make manifest` writes it; with --check it only says whether the file in the tree is what it should
be, and exits with 1 if not.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import psycopg

from keylatch.doctor.catalog import Entry, Name, read_catalog
from keylatch.doctor.tenancy import FUNCTION
from keylatch.migrations import TENANCY_NAME, shipped
from stack.database import Database
from stack.server import Server

FILE = Path(__file__).parent.parent / "python_client" / "src" / "keylatch" / "manifest.json"


def manifest(url: str) -> str:
    """Apply the migrations to a database that has the platform alone, and describe the result."""
    entries: dict[Name, Entry] = {}
    migrations: dict[Name, str] = {}
    stub_body = ""
    with psycopg.connect(url, autocommit=True) as connection:
        for migration in shipped():
            if migration.name == TENANCY_NAME:
                stub_body = str(entries[FUNCTION].definition["body"])
            connection.execute(migration.text.encode())
            with connection.transaction():
                found = read_catalog(connection)
            new = (key for key, one in found.items() if entries.get(key) != one)
            migrations |= dict.fromkeys(new, migration.name)
            entries = found
        row = connection.execute("select schema_version from keylatch.installation()").fetchone()
    assert row is not None
    head = {"schema_version": row[0], "stub_body": stub_body}
    objects = [_described(entries[key], migrations[key]) for key in sorted(entries)]
    # A line for each object, so that a difference between two versions can be read.
    lines = ",\n".join(json.dumps(one, ensure_ascii=False, sort_keys=True) for one in objects)
    return f'{json.dumps(head)[:-1]}, "objects": [\n{lines}\n]}}\n'


def _described(entry: Entry, migration: str) -> dict[str, Any]:
    return {
        "kind": entry.kind,
        "name": entry.name,
        "relation": entry.relation,
        "comment": entry.comment,
        "grants": sorted(entry.grants),
        "definition": entry.definition,
        "migration": migration,
    }


def main(arguments: list[str]) -> int:
    """Make a fresh install, describe it, and write or compare the file."""
    with Server() as server:
        database = Database(server, "manifest")
        server.install_platform(database.name)
        text = manifest(database.url)
    if arguments == ["--check"]:
        if FILE.read_text() == text:
            return 0
        print("manifest.json is not what the migrations install; run: make manifest")
        return 1
    FILE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
