"""Writes access.json, the access that `keylatch audit` expects, from a fresh install.

Read the difference to the old file: it shows what a role may do now and could not do before, or the
reverse. The tests of the audit compare every installation with this file.
"""

from __future__ import annotations

import json
from pathlib import Path

from keylatch_cli.audit import matrix as auditing
from keylatch_cli.audit.report import ACTORS
from keylatch_cli.doctor.catalog import read_manifest
from keylatch_cli.install.apply import apply
from keylatch_cli.install.migrations import Choice
from stack import Database, Server

FILE = Path(auditing.__file__).parent / "access.json"
# The columns or functions with equal outcomes, by part, table or schema, operation, and outcomes.
Tree = dict[str, dict[str, dict[str, dict[str, list[str]]]]]


def access() -> str:
    """Audit an installation with all modules, and group the tries with equal outcomes."""
    with Server() as server, Database(server, "access") as database:
        server.install_platform(database.name)
        owner = database.connect()
        apply(owner, Choice(all=True), "keylatch")
        tries = auditing.audit(owner).tries
    made_by: dict[str, str] = {}
    manifest = read_manifest()
    for part, objects in manifest.parts.items():
        for _, name in objects:
            made_by.setdefault(name.partition("(")[0], part)
    found: Tree = {part: {} for part in manifest.parts}
    for one in tries:
        is_function = one.operation in ("call", "execute")
        where, word = one.object.split(".") if is_function else (one.object, one.column)
        objects_of_part = found[made_by[one.object]]
        alike = objects_of_part.setdefault(where, {}).setdefault(one.operation, {})
        alike.setdefault(" ".join(one.found[actor] for actor in ACTORS), []).append(word)
    return _written(found)


def _written(found: Tree) -> str:
    """The JSON, with one line for all tries that have equal outcomes."""

    def line(alike: dict[str, list[str]]) -> str:
        pairs = [
            f"{json.dumps(outcomes)}: {json.dumps(' '.join(words))}"
            for outcomes, words in alike.items()
        ]
        between = "" if len(pairs) == 1 else "\n        "
        return f"{{{between}{f',{between}'.join(pairs)}{between[:-2]}}}"

    parts = []
    for part, objects in found.items():
        texts = []
        for where, operations in objects.items():
            lines = [f'      "{name}": {line(alike)}' for name, alike in operations.items()]
            texts.append(f'    "{where}": {{\n' + ",\n".join(lines) + "\n    }")
        parts.append(f'  "{part}": {{\n' + ",\n".join(texts) + "\n  }")
    return "{\n" + ",\n".join(parts) + "\n}\n"


if __name__ == "__main__":
    FILE.write_text(access())
