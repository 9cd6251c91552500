"""A user's Supabase project: what `supabase init` makes, with migrations of the user's own."""

import os
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

from keylatch.migrations import Migration, shipped
from stack.tools import ROOT, supabase_cli

# Far enough ahead to be newer than all that is shipped, and than the clock.
AHEAD = datetime.now(UTC) + timedelta(days=400)
OWN = ("orders", "order_lines")
LEDGER = Migration(
    "20990101000000",
    "keylatch_ledger",
    "-- What a later version may bring.\n"
    "create table keylatch_internal.ledger (id uuid primary key);\n"
    "comment on table keylatch_internal.ledger is 'A semicolon; and a quote: ''.';\n",
)
"""A migration that no version ships."""
REPOSITORY = ROOT / "supabase" / "migrations"


def next_version() -> tuple[Migration, ...]:
    """What a version with one more migration would ship."""
    return (*shipped(), LEDGER)


def init(path: Path) -> Path:
    """Have the Supabase CLI make a project of a directory."""
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
        """Give what `init` made in a directory two migrations that are newer than ours."""
        self.path = path
        self.config = path / "supabase" / "config.toml"
        self.migrations = path / "supabase" / "migrations"
        self.migrations.mkdir()
        for place, table in enumerate(OWN):
            self.add(table, f"create table public.{table} (id uuid);\n", place)

    def add(self, name: str, text: str, days: int = 0) -> Path:
        """Write a migration of the user's own, so many days after the first."""
        path = self.migrations / f"{AHEAD + timedelta(days=days):%Y%m%d%H%M%S}_{name}.sql"
        path.write_text(text)
        return path

    def file(self, name: str) -> Path:
        """The file of the migration of that name."""
        (found,) = self.migrations.glob(f"*_{name}.sql")
        return found

    def names(self) -> list[str]:
        """The migrations' names without their stamps, in order."""
        return [path.stem.partition("_")[2] for path in sorted(self.migrations.iterdir())]

    def snapshot(self) -> dict[str, tuple[bytes, int]]:
        """Every file with its content and when it was written."""
        return {
            str(path.relative_to(self.path)): (path.read_bytes(), path.stat().st_mtime_ns)
            for path in sorted(self.path.rglob("*"))
            if path.is_file()
        }
