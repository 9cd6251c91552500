"""Brings keylatch into a Supabase project: reads which part of it is there, and adds a file."""

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
"""What the API has to expose."""

# What the Supabase CLI exposes where config.toml does not say.
_EXPOSED_BY_DEFAULT = ("public", "graphql_public")
# How the first file of an installation begins, generated or not.
_MAKES_SCHEMA = re.compile(r"^create schema keylatch;", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Plan:
    """What an install would do.

    Attributes:
        installed: What the project has; `None` for nothing.
        present: The names of the generated files that are there.
        new: What is to be written, by the names of the files.
        tenancy: Whose tenancy the project has or will have.
        tree: The project's declarative schemas; `None` where it has none.
        description: What has to stand there of keylatch; `None` where that is there already, or
            an export describes keylatch.
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
    """Say what an install would do; nothing is written.

    Args:
        project: The directory with `supabase/config.toml`.
        choice: Which modules are asked for; what is there, or the default ones, unless given.
        tenancy: Whose tenancy is asked for; see `Release.plan`.
        release: What to install; what this version ships unless given.
        now: The time, in UTC; the clock's unless given.

    Returns:
        The plan, with names that follow all migrations of the project: the Supabase CLI refuses
        what is older than what it has applied.

    Raises:
        InvalidArgument: The directory is no Supabase project, or leads out of itself.
        KeylatchError: `migration_differs` where a generated file was edited; `earlier_checkout`
            where keylatch is there in another form; else as `Release.plan`, `read_installed` and
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
    """Say what removes keylatch from a project; nothing is written.

    Args:
        project: The directory with `supabase/config.toml`.
        removal: Writes the migration, for what is there.
        now: The time, in UTC; the clock's unless given.

    Returns:
        The plan, with one migration that removes.

    Raises:
        InvalidArgument: As `prepare`.
        NotInstalled: The project has no keylatch, or removes it already.
        KeylatchError: As `prepare`.
    """
    installed, newest, present = _read(project)
    if installed is None:
        raise NotInstalled(
            detail="The migrations of this project install no keylatch, or remove it already.",
            hint="For a database without such a project leave PROJECT out: "
            "keylatch uninstall --db-url URL > remove.sql",
        )
    new = _stamped(newest, (removal(installed),), now)
    tree = find_tree(project / "supabase", _read_config(project))
    return Plan(installed, present, new, installed.tenancy, tree)


def write(project: Path, plan: Plan) -> None:
    """Write the files of a plan into a project: all of them or, whatever interrupts it, none.

    Args:
        project: The directory with `supabase/config.toml`.
        plan: What to write.

    Raises:
        InvalidArgument: The directory of the migrations leads out of the project.
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
    """Read which schemas the project's own API exposes.

    Args:
        project: The directory with `supabase/config.toml`.

    Returns:
        The schemas, in order.

    Raises:
        InvalidArgument: The directory is no Supabase project, or leads out of itself.
        KeylatchError: `config_unreadable` where the file cannot be read.
    """
    schemas = _read_config(project).get("api", {}).get("schemas", _EXPOSED_BY_DEFAULT)
    return tuple(map(str, schemas))


def expose(project: Path) -> None:
    """Let the project's own API expose the schema; all else in the file stays as it is.

    Args:
        project: The directory with `supabase/config.toml`.

    Raises:
        InvalidArgument: The directory is no Supabase project, or leads out of itself.
        KeylatchError: `config_unreadable` where the file cannot be read.
    """
    import tomlkit

    schemas = exposed_schemas(project)
    if SCHEMA in schemas:
        return
    # The file itself where a link of the project leads to it.
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
    """Give what lets a hosted project's API expose the schema, in SQL.

    Args:
        schemas: What it exposes already.

    Returns:
        The statements. The last one is needed too: with the one before it PostgREST reads the new
        list, and not what is in the schemas.
    """
    names = ", ".join(dict.fromkeys((*schemas, SCHEMA)))
    return (
        f"alter role authenticator\n  set pgrst.db_schemas = '{names}';\n"
        "notify pgrst, 'reload config';\n"
        "notify pgrst, 'reload schema';"
    )


def _read_config(project: Path) -> dict[str, Any]:
    """Read config.toml; what keylatch asks of it has the type that the Supabase CLI wants."""
    path = _config(project)
    try:
        found = tomllib.loads(path.read_bytes().decode())
        for section in (("api",), ("db", "migrations"), ("experimental", "pgdelta")):
            part: Any = found
            for name in section:
                part = part.get(name, {})
            if not isinstance(part, dict):
                raise TypeError(f"{'.'.join(section)} is no section")
        list(map(str, found.get("api", {}).get("schemas", ())))
        list(map(str, found.get("db", {}).get("migrations", {}).get("schema_paths", ())))
    except (ValueError, AttributeError, TypeError) as problem:
        raise KeylatchError(
            "config_unreadable",
            detail=f"supabase/config.toml cannot be read: {problem}",
            hint="Mend the file; `supabase init --force` shows what belongs in it.",
        ) from None
    return found


def _read(project: Path) -> tuple[Installed | None, str, tuple[str, ...]]:
    """Give what the project has, its newest stamp, and the names of the generated files."""
    _config(project)
    newest, headers = "", dict[str, Header]()
    for path in sorted(_directory(project).glob("*.sql")):
        stamp, _ = split_name(path.name) or ("", "")
        newest = max(newest, stamp)
        text = path.read_text(encoding="utf-8", errors="replace")
        if (header := read_header(text)) is not None:
            headers[path.name] = header
        elif _MAKES_SCHEMA.search(text):
            raise earlier_checkout(f"{path.name} makes the schema of")
    if edited := [name for name, header in headers.items() if not header.is_intact]:
        raise KeylatchError(
            "migration_differs",
            detail=f"Somebody edited {', '.join(edited)}.",
            hint="Take the file back from version control. Put your changes into a migration of "
            "your own.",
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
            "is no Supabase project: it has no supabase/config.toml.",
            "Name the directory that holds supabase/, or make it a project: supabase init",
        )
    return _inside(project, path)


def _directory(project: Path) -> Path:
    return _inside(project, project / "supabase" / "migrations")


def _inside(project: Path, path: Path) -> Path:
    """Refuse a path that a link leads out of the project: a checkout may bring such a link."""
    if path.resolve().is_relative_to(project.resolve()):
        return path
    raise InvalidArgument.of(
        "PROJECT",
        f"is not safe to write to: {path.relative_to(project)} leads out of it.",
        "Replace the symbolic link by what it leads to.",
    )
