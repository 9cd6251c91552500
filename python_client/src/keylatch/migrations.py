"""The migrations that this version ships, and which of them a project or a database still lacks."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from hashlib import sha256
from importlib.resources import files
from typing import Literal

from .errors import KeylatchError

Tenancy = Literal["keylatch", "own"]
"""Whose tables say who administers a workspace: keylatch's, or the application's own."""

TENANCY_NAME = "keylatch_workspaces"
"""The migration with keylatch's tables, which an application with its own leaves out."""

_FILE_NAME = re.compile(r"([0-9]+)_(.+)\.sql")
_STAMP = "%Y%m%d%H%M%S"


@dataclass(frozen=True, slots=True)
class Migration:
    """One migration.

    Attributes:
        version: The digits before its name; the order is theirs.
        name: What tells it from the others, such as `keylatch_latch`.
        text: Its SQL.
    """

    version: str
    name: str
    text: str = field(repr=False)

    @property
    def file_name(self) -> str:
        """The name that the Supabase CLI expects of its file."""
        return f"{self.version}_{self.name}.sql"

    @property
    def checksum(self) -> str:
        """The SHA-256 of its words.

        White space is left out: version control, editors and `supabase migration fetch` all change
        it, and none of them changes what the migration does.
        """
        return sha256(" ".join(self.text.split()).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done, in order.

    Attributes:
        present: What is there.
        new: What is to come.
        left_out: What is neither, for the application has tables of its own instead.
    """

    present: tuple[Migration, ...]
    new: tuple[Migration, ...]
    left_out: tuple[Migration, ...]


def shipped() -> tuple[Migration, ...]:
    """Read the migrations of this version.

    Returns:
        The migrations, in order.
    """
    found = []
    for name, text in _read("migrations"):
        version, own_name = split_name(name) or ("", name)
        found.append(Migration(version, own_name, text))
    return tuple(found)


def platform() -> tuple[str, ...]:
    """Read what makes of a plain PostgreSQL what a Supabase project is from the start.

    Returns:
        SQL for a superuser, in order.
    """
    return tuple(text for _, text in _read("platform"))


def own_tenancy() -> str:
    """Read what an application writes that leaves `TENANCY_NAME` out.

    Returns:
        SQL to start from: the function and the trigger of an example.
    """
    example = dict(_read("tenancy"))["own_tables.sql"]
    # Before them stand what the example is, and tables that the application has.
    return "\n\n".join(example.split("\n\n")[2:])


def split_name(file_name: str) -> tuple[str, str] | None:
    """Take the name of a migration's file apart as the Supabase CLI does.

    Args:
        file_name: The name, without directories.

    Returns:
        Version and name, or `None` if the CLI does not take it for a migration.
    """
    match = _FILE_NAME.fullmatch(file_name)
    return (match[1], match[2]) if match else None


def plan(
    migrations: Sequence[Migration], present: Collection[str], tenancy: Tenancy | None = None
) -> Plan:
    """Decide which migrations are to come.

    Args:
        migrations: All of a version, in order.
        present: The names of those that are there.
        tenancy: Whether `TENANCY_NAME` belongs to it. `None`: as it was decided before, which
            shows in that it is absent where something after it is there.

    Returns:
        The plan; the migrations in it are as they are in `migrations`.

    Raises:
        KeylatchError: `migration_missing` where one is absent that later ones build on;
            `tenancy_installed` where `TENANCY_NAME` is there and is to be left out.
    """
    new: list[Migration] = []
    left_out: list[Migration] = []
    for place, migration in enumerate(migrations):
        if migration.name in present:
            continue
        later = [one.name for one in migrations[place + 1 :] if one.name in present]
        if migration.name == TENANCY_NAME:
            is_left_out = tenancy == "own" or (tenancy is None and bool(later))
            (left_out if is_left_out else new).append(migration)
        elif later:
            raise KeylatchError(
                "migration_missing",
                detail=f"{migration.name} is missing, and {later[0]}, which comes after it, is "
                "there",
                hint="bring it back: its file from version control, or its row in "
                "supabase_migrations.schema_migrations",
            )
        else:
            new.append(migration)
    if tenancy == "own" and TENANCY_NAME in present:
        raise KeylatchError(
            "tenancy_installed",
            detail=f"{TENANCY_NAME} is there already",
            hint="delete its file if it was never applied; else replace "
            "keylatch.admin_workspace_ids() in a migration of your own",
        )
    there = tuple(one for one in migrations if one.name in present)
    return Plan(there, tuple(new), tuple(left_out))


def restamp(migrations: Iterable[Migration], newest: str, now: datetime) -> tuple[Migration, ...]:
    """Give migrations versions that follow all others, a second apart.

    Args:
        migrations: The migrations, in order.
        newest: The newest version that there is; empty if there is none.
        now: The time, in UTC; no version will be older.

    Returns:
        The same migrations with new versions.

    Raises:
        KeylatchError: `migration_order` where the newest version is later than now and no time.
    """
    if newest >= f"{now:{_STAMP}}":
        try:
            now = datetime.strptime(newest, _STAMP) + timedelta(seconds=1)
            is_time = len(newest) == len(f"{now:{_STAMP}}")
        except (ValueError, OverflowError):
            is_time = False
        if not is_time:
            raise KeylatchError(
                "migration_order",
                detail=f"the newest migration is {newest}, which is no time that another follows",
                hint="give it a version of the form YYYYMMDDHHMMSS",
            )
    return tuple(
        replace(migration, version=f"{now + timedelta(seconds=place):{_STAMP}}")
        for place, migration in enumerate(migrations)
    )


def _read(directory: str) -> Iterator[tuple[str, str]]:
    """Give the files of a directory of `keylatch/sql` by name, in order."""
    found = {one.name: one for one in files("keylatch").joinpath("sql", directory).iterdir()}
    for name in sorted(found):
        yield name, found[name].read_text(encoding="utf-8")
