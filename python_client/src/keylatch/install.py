"""Puts the migrations into a Supabase project: says which are new there, and copies those."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from difflib import unified_diff
from pathlib import Path
from shutil import copymode
from tempfile import TemporaryDirectory

from . import __version__
from .errors import InvalidArgument, KeylatchError
from .migrations import Migration, Plan, Tenancy, plan, restamp, shipped, split_name

SCHEMA = "keylatch"
"""What the API has to expose."""

# What the Supabase CLI exposes where config.toml does not say.
_EXPOSED_BY_DEFAULT = ("public", "graphql_public")


class MigrationsDiffer(KeylatchError):
    """Files in the project have the names of shipped ones, and other words in them.

    Attributes:
        diff: The unified diff of all of them, from what is shipped to what is there.
    """

    default_slug = "migration_differs"

    def __init__(self, paths: Sequence[Path], diff: str) -> None:
        them = ", ".join(path.name for path in paths)
        super().__init__(
            detail=f"not what keylatch {__version__} ships: {them}",
            hint="take the files back as they were, from version control; what you want to be "
            "different belongs in a migration of your own",
        )
        self.diff = diff


def prepare(
    project: Path,
    migrations: Sequence[Migration] | None = None,
    *,
    tenancy: Tenancy | None = None,
    now: datetime | None = None,
) -> Plan:
    """Say what an install would do; nothing is written.

    Args:
        project: The directory with `supabase/config.toml`.
        migrations: What to install; what this version ships unless given.
        tenancy: Whether keylatch's tenancy is a part of it; see `migrations.plan`.
        now: The time, in UTC; the clock's unless given.

    Returns:
        The plan, with the versions that the files have or will have: the Supabase CLI refuses
        what is older than what it has applied, so new ones follow all others.

    Raises:
        InvalidArgument: The directory is no Supabase project.
        MigrationsDiffer: A file there differs from what is shipped.
        KeylatchError: As `migrations.plan` and `migrations.restamp`; `migration_twice` where one
            is there under two versions.
    """
    migrations = shipped() if migrations is None else migrations
    _config(project)
    ours = {one.name: one for one in migrations}
    newest, there, installed = "", dict[str, str](), dict[str, Path]()
    for path in sorted(_directory(project).glob("*.sql")):
        version, name = split_name(path.name) or ("", "")
        newest = max(newest, version)
        if name in installed:
            raise KeylatchError(
                "migration_twice",
                detail=f"{installed[name].name} and {path.name} are the same migration",
                hint="keep the one that `supabase migration list` shows as applied",
            )
        if name in ours:
            there[name], installed[name] = version, path
    _compare(ours, installed)
    found = plan(migrations, there, tenancy)
    return replace(
        found,
        present=tuple(replace(one, version=there[one.name]) for one in found.present),
        new=restamp(found.new, newest, now or datetime.now(UTC)),
    )


def copy(project: Path, migrations: Iterable[Migration]) -> None:
    """Write migrations into a project: all of them or, whatever interrupts it, none.

    Args:
        project: The directory with `supabase/config.toml`.
        migrations: The migrations, with the versions that they shall have.

    Raises:
        OSError: They cannot be written.
    """
    directory = _directory(project)
    directory.mkdir(exist_ok=True)
    # Beside their place, so that moving them there is one step for each; first written in full.
    with TemporaryDirectory(prefix=".keylatch-", dir=directory) as partial:
        written = []
        for migration in migrations:
            written.append(Path(partial, migration.file_name))
            written[-1].write_text(migration.text, encoding="utf-8", newline="\n")
        try:
            for path in written:
                path.rename(directory / path.name)
        except BaseException:
            for path in written:
                if not path.exists():
                    (directory / path.name).unlink(missing_ok=True)
            raise


def exposed_schemas(project: Path) -> tuple[str, ...]:
    """Read which schemas the project's own API exposes.

    Args:
        project: The directory with `supabase/config.toml`.

    Returns:
        The schemas, in order.

    Raises:
        InvalidArgument: The directory is no Supabase project.
        KeylatchError: `config_unreadable` where the file cannot be read.
    """
    try:
        found = tomllib.loads(_config(project).read_bytes().decode())
        schemas = found.get("api", {}).get("schemas", _EXPOSED_BY_DEFAULT)
        return tuple(map(str, schemas))
    except (ValueError, AttributeError, TypeError) as problem:
        raise KeylatchError(
            "config_unreadable",
            detail=f"supabase/config.toml: {problem}",
            hint="mend the file; `supabase init --force` shows what belongs in it",
        ) from None


def expose(project: Path) -> None:
    """Have the project's own API expose the schema; all else in the file stays as it is.

    Args:
        project: The directory with `supabase/config.toml`.

    Raises:
        InvalidArgument: The directory is no Supabase project.
        KeylatchError: `config_unreadable` where the file cannot be read.
    """
    import tomlkit

    schemas = exposed_schemas(project)
    if SCHEMA in schemas:
        return
    # Not the link where there is one.
    path = _config(project).resolve()
    document = tomlkit.parse(path.read_bytes().decode())
    api = document.setdefault("api", tomlkit.table())
    if "schemas" in api:
        api["schemas"].append(SCHEMA)
    else:
        api["schemas"] = [*schemas, SCHEMA]
    partial = path.with_name(f".{path.name}.keylatch")
    try:
        partial.write_bytes(document.as_string().encode())
        copymode(path, partial)
        os.replace(partial, path)
    finally:
        with suppress(OSError):
            partial.unlink()


def expose_statements(schemas: Iterable[str]) -> str:
    """Give what has a hosted project's API expose the schema, in SQL.

    Args:
        schemas: What it exposes already.

    Returns:
        The statements. The last one is needed too: PostgREST reads the new list, and not what is
        in the schemas, with the one before it.
    """
    names = ", ".join(dict.fromkeys((*schemas, SCHEMA)))
    return (
        f"alter role authenticator\n  set pgrst.db_schemas = '{names}';\n"
        "notify pgrst, 'reload config';\n"
        "notify pgrst, 'reload schema';"
    )


def _config(project: Path) -> Path:
    path = project / "supabase" / "config.toml"
    if not path.is_file():
        raise InvalidArgument.of(
            "PROJECT",
            "is no Supabase project: it has no supabase/config.toml",
            "name the directory that holds supabase/, or make it one: supabase init",
        )
    return path


def _directory(project: Path) -> Path:
    return project / "supabase" / "migrations"


def _compare(ours: dict[str, Migration], installed: dict[str, Path]) -> None:
    """Refuse files that are not what is shipped under their names."""
    differing: list[Path] = []
    diff: list[str] = []
    for name, path in installed.items():
        text = path.read_text(encoding="utf-8", errors="replace")
        if replace(ours[name], text=text).checksum != ours[name].checksum:
            differing.append(path)
            diff += unified_diff(
                ours[name].text.splitlines(),
                text.splitlines(),
                f"keylatch {__version__}: {name}",
                str(path),
                lineterm="",
            )
    if differing:
        raise MigrationsDiffer(differing, "\n".join(diff))
