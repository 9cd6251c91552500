"""Reads which migrations of keylatch a Supabase project has, and adds a migration."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from keylatch.errors import InvalidArgument, KeylatchError, NotInstalled

from ..writing import replacing
from .declarative import Tree, describe, list_first
from .declarative import find as find_tree
from .declarative import write as write_description
from .migrations import (
    Choice,
    Header,
    Installed,
    Migration,
    Release,
    Tenancy,
    earlier_checkout,
    next_stamps,
    read_header,
    read_installed,
    shipped,
    split_name,
)

SCHEMA = "keylatch"
"""The schema that the Data API must expose."""

# The schemas that the Supabase CLI exposes by default.
_EXPOSED_BY_DEFAULT = ("public", "graphql_public")
# A statement of the first file of every installation.
_MAKES_SCHEMA = re.compile(r"^create schema keylatch;", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Plan:
    """The plan of an installation.

    Attributes:
        installed: What the project has, or `None`.
        present: The names of the migrations that keylatch generated earlier.
        new: The migrations to write, by file name.
        tenancy: The tenancy that the project has or will have.
        tree: The project's declarative schemas, or `None`.
        description: The text to write into the declarative schemas; `None` if the file is up to
            date, or if an export describes keylatch.
    """

    installed: Installed | None
    present: tuple[str, ...]
    new: dict[str, Migration]
    tenancy: Tenancy
    tree: Tree | None = None
    description: str | None = None


def prepare(
    project: Path,
    choice: Choice | None = None,
    tenancy: Tenancy | None = None,
    *,
    release: Release | None = None,
    now: datetime | None = None,
) -> Plan:
    """Plan an installation without writing anything.

    Args:
        project: The directory with `supabase/config.toml`.
        choice: The requested modules. Default: the installed or the default modules.
        tenancy: The requested tenancy; see `Release.plan`.
        release: What to install. Default: this version.
        now: The time, in UTC. Default: the current time.

    Returns:
        The plan. New files sort after all migrations of the project, because the Supabase CLI
        refuses a file that is older than an applied one.

    Raises:
        InvalidArgument: The directory is not a Supabase project, or links out of itself.
        KeylatchError: `migration_differs` if a generated file was edited; `earlier_checkout` for a
            version before the first release; or an error of `Release.plan`, `read_installed` or
            `next_stamps`.
    """
    release = shipped() if release is None else release
    installed, newest, present = _read(project)
    migrations = release.plan(installed, choice or Choice(), tenancy)
    decided = installed.tenancy if installed else migrations[0].tenancy
    tree = find_tree(project / "supabase", _read_config(project))
    description = None
    if tree is not None:
        _inside(project, tree.file)
        added = {part for one in migrations for part in one.parts} & set(release.modules)
        modules = (installed.modules if installed else frozenset()) | added
        text = describe(release, Installed(release.version, modules, decided))
        is_there = tree.file.exists() and tree.file.read_text(encoding="utf-8") == text
        description = None if tree.exported or (is_there and not tree.entry) else text
    return Plan(installed, present, _stamped(newest, migrations, now), decided, tree, description)


def prepare_removal(
    project: Path,
    removal: Callable[[Installed], Migration],
    *,
    now: datetime | None = None,
) -> Plan:
    """Plan a removal without writing anything.

    Args:
        project: The directory with `supabase/config.toml`.
        removal: Builds the migration for what is installed.
        now: The time, in UTC. Default: the current time.

    Returns:
        The plan, with one migration that removes keylatch.

    Raises:
        InvalidArgument: As `prepare`.
        NotInstalled: No migration of the project installs keylatch, or a migration already removes
            it.
        KeylatchError: As `prepare`.
    """
    installed, newest, present = _read(project)
    if installed is None:
        raise NotInstalled(
            detail="The migrations of this project do not install keylatch, or remove it already.",
            hint="For a database without a project, leave out PROJECT: "
            "keylatch uninstall --db-url URL > remove.sql",
        )
    new = _stamped(newest, (removal(installed),), now)
    tree = find_tree(project / "supabase", _read_config(project))
    return Plan(installed, present, new, installed.tenancy, tree)


def write(project: Path, plan: Plan) -> None:
    """Write all files of a plan. An interruption leaves none of them.

    Args:
        project: The directory with `supabase/config.toml`.
        plan: The plan.

    Raises:
        InvalidArgument: The directory of the migrations links out of the project.
        OSError: A file cannot be written.
    """
    directory = _directory(project)
    directory.mkdir(exist_ok=True)
    written: list[Path] = []
    try:
        for name, migration in plan.new.items():
            with replacing(directory / name, 0o644) as file:
                file.write(migration.text.encode())
            written.append(directory / name)
        if plan.tree and plan.description:
            write_description(plan.tree, plan.description)
            if plan.tree.entry:
                list_first(_config(project).resolve(), plan.tree.entry)
    except BaseException:
        for path in written:
            path.unlink(missing_ok=True)
        raise


def exposed_schemas(project: Path) -> tuple[str, ...]:
    """Read which schemas the project's local API exposes.

    Args:
        project: The directory with `supabase/config.toml`.

    Returns:
        The schemas, in order.

    Raises:
        InvalidArgument: The directory is not a Supabase project, or links out of itself.
        KeylatchError: `config_unreadable` if the file cannot be read.
    """
    schemas = _read_config(project).get("api", {}).get("schemas", _EXPOSED_BY_DEFAULT)
    return tuple(map(str, schemas))


def expose(project: Path) -> None:
    """Expose the schema in the project's local API, and keep the rest of the file.

    Args:
        project: The directory with `supabase/config.toml`.

    Raises:
        InvalidArgument: The directory is not a Supabase project, or links out of itself.
        KeylatchError: `config_unreadable` if the file cannot be read.
    """
    import tomlkit

    schemas = exposed_schemas(project)
    if SCHEMA in schemas:
        return
    # The target file, if config.toml is a link.
    path = _config(project).resolve()
    document = tomlkit.parse(path.read_bytes().decode())
    api = document.setdefault("api", tomlkit.table())
    if "schemas" in api:
        api["schemas"].append(SCHEMA)
    else:
        api["schemas"] = [*schemas, SCHEMA]
    with replacing(path, path.stat().st_mode & 0o7777) as file:
        file.write(document.as_string().encode())


def expose_statements(schemas: Iterable[str]) -> str:
    """Return the SQL that exposes the schema in a hosted project's API.

    Args:
        schemas: The schemas that are exposed already.

    Returns:
        The statements. 'reload config' makes PostgREST read the new list, and 'reload schema' makes
        it read the objects in the schemas.
    """
    names = ", ".join(dict.fromkeys((*schemas, SCHEMA)))
    return (
        f"alter role authenticator\n  set pgrst.db_schemas = '{names}';\n"
        "notify pgrst, 'reload config';\n"
        "notify pgrst, 'reload schema';"
    )


def _read_config(project: Path) -> dict[str, Any]:
    """Read config.toml, and check the types of the settings that keylatch uses."""
    path = _config(project)
    try:
        found = tomllib.loads(path.read_bytes().decode())
        for section in (("api",), ("db", "migrations"), ("experimental", "pgdelta")):
            part: Any = found
            for name in section:
                part = part.get(name, {})
            if not isinstance(part, dict):
                raise TypeError(f"{'.'.join(section)} is not a section")
        list(map(str, found.get("api", {}).get("schemas", ())))
        list(map(str, found.get("db", {}).get("migrations", {}).get("schema_paths", ())))
    except (ValueError, AttributeError, TypeError) as problem:
        raise KeylatchError(
            "config_unreadable",
            detail=f"supabase/config.toml cannot be read: {problem}",
            hint="Correct the file. `supabase init --force` writes a valid example.",
        ) from None
    return found


def _read(project: Path) -> tuple[Installed | None, str, tuple[str, ...]]:
    """Return what is installed, the newest stamp of a migration, and the generated files."""
    _config(project)
    newest, headers = "", dict[str, Header]()
    for path in sorted(_directory(project).glob("*.sql")):
        stamp, _ = split_name(path.name) or ("", "")
        newest = max(newest, stamp)
        text = path.read_text(encoding="utf-8", errors="replace")
        if (header := read_header(text)) is not None:
            headers[path.name] = header
        elif _MAKES_SCHEMA.search(text):
            raise earlier_checkout(f"{path.name} installs")
    if edited := [name for name, header in headers.items() if not header.is_intact]:
        raise KeylatchError(
            "migration_differs",
            detail=f"A generated file was edited: {', '.join(edited)}.",
            hint="Restore the file from version control. Put your changes into your own migration.",
        )
    return read_installed(headers.values()), newest, tuple(headers)


def _stamped(
    newest: str, migrations: Sequence[Migration], now: datetime | None
) -> dict[str, Migration]:
    stamps = next_stamps(newest, now or datetime.now(UTC), len(migrations))
    return {f"{stamp}_{one.name}.sql": one for stamp, one in zip(stamps, migrations, strict=True)}


def _config(project: Path) -> Path:
    path = project / "supabase" / "config.toml"
    if not path.is_file():
        raise InvalidArgument.of(
            "PROJECT",
            "is not a Supabase project: it has no supabase/config.toml.",
            "Give the directory that contains supabase/, or make it a project: supabase init. "
            "For a plain PostgreSQL, run keylatch apply.",
        )
    return _inside(project, path)


def _directory(project: Path) -> Path:
    return _inside(project, project / "supabase" / "migrations")


def _inside(project: Path, path: Path) -> Path:
    """Refuse a path that links out of the project: a cloned repository may have such a link."""
    if path.resolve().is_relative_to(project.resolve()):
        return path
    raise InvalidArgument.of(
        "PROJECT",
        f"is not safe to write to: {path.relative_to(project)} links out of it.",
        "Replace the symbolic link by a copy of its target.",
    )
