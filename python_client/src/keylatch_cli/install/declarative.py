"""Describes keylatch in a project with declarative schemas, so that a sync does not drop it.

A project with declarative schemas describes its database in `supabase/schemas`. A sync of the
Supabase CLI writes a migration that drops all objects which the description does not have. The CLI
cannot ignore a schema, so the description must include keylatch.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..writing import replacing
from .migrations import Installed, Release

NAME = "00_keylatch.sql"
"""The name of the file. It sorts before the application's files, which may use keylatch."""

_DIRECTORY = "./schemas"
_HEADER = (
    "-- keylatch {version}, for the declarative schemas of the Supabase CLI.\n"
    "-- Written by `keylatch install`, beside the migrations: never edit it, and never run it.\n\n"
)
_FOOTER = """
-- A description has no rows. The migrations bring them.
{}"""
_ROWS = re.compile(r"^insert into (keylatch_internal\.\w+)", re.MULTILINE)
_MAKES_SCHEMA = re.compile(
    r'^\s*create\s+schema\s+(?:if\s+not\s+exists\s+)?"?keylatch"?\s*(?:;|authorization)',
    re.IGNORECASE | re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class Tree:
    """The declarative schemas of a project.

    Attributes:
        file: The file with the declarative schema of keylatch.
        exported: Another file that already describes keylatch, such as an export of the database;
            else `None`.
        entry: The entry to add to `schema_paths` of config.toml; `None` if no entry is missing.
    """

    file: Path
    exported: Path | None
    entry: str | None


def find(root: Path, config: dict[str, Any]) -> Tree | None:
    """Find the declarative schemas of a project.

    Args:
        root: The directory `supabase`.
        config: The content of its config.toml.

    Returns:
        The files that matter; `None` for a project without declarative schemas.
    """
    listed = [
        str(one) for one in config.get("db", {}).get("migrations", {}).get("schema_paths", [])
    ]
    named = config.get("experimental", {}).get("pgdelta", {}).get("declarative_schema_path")
    directory = root / str(named or _DIRECTORY)
    file = directory / NAME
    others = [path for path in sorted(directory.rglob("*.sql")) if path != file]
    for pattern in listed:
        others += [path for path in _matching(root, pattern) if path not in (*others, file)]
    if not listed and not named and not others and not file.exists():
        return None
    exported = next((path for path in others if _describes(path)), None)
    entry = f"./{file.relative_to(root)}"
    is_covered = not listed or any(_covers(root, pattern, file) for pattern in listed)
    return Tree(file, exported, None if is_covered else entry)


def describe(release: Release, installed: Installed) -> str:
    """Write the SQL that describes an installation of keylatch.

    Args:
        release: The release that is installed.
        installed: What is, or will be, installed.

    Returns:
        The text of the file.
    """
    body = release.whole(installed)
    tables = dict.fromkeys(_ROWS.findall(body))
    rows = "".join(f"truncate {table};\n" for table in tables)
    return _HEADER.format(version=release.version) + body + _FOOTER.format(rows)


def write(tree: Tree, text: str) -> None:
    """Write the file.

    Args:
        tree: The declarative schemas of the project.
        text: The result of `describe`.

    Raises:
        OSError: The file cannot be written.
    """
    tree.file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(tree.file, 0o644) as file:
        file.write(text.encode())


def list_first(config: Path, entry: str) -> None:
    """Add a file to the front of `schema_paths`, and keep the rest of config.toml.

    Args:
        config: The file config.toml.
        entry: The entry to add.

    Raises:
        OSError: The file cannot be written.
    """
    import tomlkit

    document = tomlkit.parse(config.read_bytes().decode())
    document["db"]["migrations"]["schema_paths"].insert(0, entry)
    with replacing(config, config.stat().st_mode & 0o7777) as file:
        file.write(document.as_string().encode())


def _matching(root: Path, pattern: str) -> Iterator[Path]:
    """Return the SQL files that an entry of `schema_paths` names."""
    path = root / pattern
    if path.is_dir():
        yield from sorted(path.rglob("*.sql"))
    elif not Path(pattern).is_absolute():
        yield from sorted(one for one in root.glob(pattern.removeprefix("./")) if one.is_file())


def _covers(root: Path, pattern: str, file: Path) -> bool:
    path = (root / pattern).resolve()
    if path.is_dir():
        return file.resolve().is_relative_to(path)
    return file.relative_to(root).match(pattern.removeprefix("./"))


def _describes(path: Path) -> bool:
    return _MAKES_SCHEMA.search(path.read_text(encoding="utf-8", errors="replace")) is not None
