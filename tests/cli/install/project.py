"""A user's Supabase project: the files of `supabase init`, and migrations of the user."""

import os
import subprocess
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from keylatch_cli.install.migrations import Release, shipped
from stack.tools import ROOT, supabase_cli

# Newer than every shipped migration, and than the current time.
AHEAD = datetime.now(UTC) + timedelta(days=400)
OWN = ("orders", "order_lines")
REPOSITORY = ROOT / "supabase" / "migrations"
NEXT = "9.2.0"
# What the next version adds to each part.
MORE = {
    "core": "create table keylatch_internal.ledger (id uuid primary key);\n"
    "comment on table keylatch_internal.ledger is 'A semicolon; and a quote: ''.';\n",
    "tenancy": "alter table keylatch.workspaces add column note text;\n"
    "comment on column keylatch.workspaces.note is 'A note.';\n",
    "events": "create function keylatch_internal.count_events()\n"
    "returns bigint language sql stable security invoker\n"
    "set search_path = pg_catalog, pg_temp as $$ select 1::bigint $$;\n"
    "revoke all on function keylatch_internal.count_events from public;\n",
}


def next_release(upgrade: str | None = None) -> Release:
    """Return a later release, with more in the core, the tenancy and the module events.

    Args:
        upgrade: The SQL of the upgrade to that release; by default the correct SQL.
    """
    now = shipped()
    parts = {
        name: replace(part, text=part.text + MORE.get(name, "")) for name, part in now.parts.items()
    }
    version = f"(schema_version) values ('{now.version}')"
    text = parts["core"].text
    assert version in text
    text = text.replace(version, f"(schema_version) values ('{NEXT}')")
    parts["core"] = replace(parts["core"], text=text)
    if upgrade is None:
        upgrade = MORE["core"] + "".join(
            f"\n-- module: {name}\n{MORE[name]}" for name in ("tenancy", "events")
        )
    return replace(now, version=NEXT, parts=parts, upgrades={(now.version, NEXT): upgrade})


def init(path: Path) -> Path:
    """Create a project in a directory with the Supabase CLI."""
    subprocess.run(
        [supabase_cli(), "init", "--workdir", path, "--agent", "no"],
        env={
            **os.environ,
            "SUPABASE_HOME": str(path / "supabase" / ".temp"),
            "SUPABASE_TELEMETRY_DISABLED": "1",
            "DO_NOT_TRACK": "1",
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
        timeout=60,
    )
    return path


class Project:
    """A project in a directory.

    Attributes:
        path: The directory with `supabase/`.
        config: Its configuration.
        migrations: The directory of its migrations.
    """

    def __init__(self, path: Path) -> None:
        """Add two migrations that are newer than keylatch's to the project in a directory."""
        self.path = path
        self.config = path / "supabase" / "config.toml"
        self.migrations = path / "supabase" / "migrations"
        self.migrations.mkdir()
        for place, table in enumerate(OWN):
            self.add(table, f"create table public.{table} (id uuid);\n", place)

    def add(self, name: str, text: str, days: int = 0) -> Path:
        """Write a migration of the user, with a stamp this many days after the first."""
        path = self.migrations / f"{AHEAD + timedelta(days=days):%Y%m%d%H%M%S}_{name}.sql"
        path.write_text(text)
        return path

    def file(self, name: str) -> Path:
        """Return the file of the migration with this name."""
        (found,) = self.migrations.glob(f"*_{name}.sql")
        return found

    def names(self) -> list[str]:
        """The migrations' names without their stamps, in order."""
        return [path.stem.partition("_")[2] for path in sorted(self.migrations.iterdir())]

    def snapshot(self) -> dict[str, tuple[bytes, int]]:
        """Every file with its content and its modification time."""
        return {
            str(path.relative_to(self.path)): (path.read_bytes(), path.stat().st_mtime_ns)
            for path in sorted(self.path.rglob("*"))
            if path.is_file()
        }
