"""Checks that need a migrated database: the pgTAP files, and the Supabase CLI's linters."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from stack.chosen import chosen_cluster
from stack.database import Database, make_template
from stack.server import Server
from stack.supabase import run_supabase
from stack.tools import ROOT, pg_prove

_SCHEMAS = "keylatch,keylatch_internal"


def prove(files: Sequence[Path]) -> int:
    """Run pgTAP files with pg_prove as `postgres`, on one database; return its exit code.

    Each file is a transaction that it rolls back, as `supabase test db` expects, too.
    """
    with (
        chosen_cluster() as server,
        Database(server, "keylatch", make_template(server)) as database,
    ):
        result = subprocess.run(
            [pg_prove(), *(files or specification())], env=libpq(database), check=False
        )
    return result.returncode


def specification() -> list[Path]:
    """All pgTAP files."""
    return sorted(ROOT.glob("supabase/tests/database/*.test.sql"))


def libpq(database: Database) -> dict[str, str]:
    """The environment for a program that is to connect to a database as `postgres`."""
    return {
        **os.environ,
        "PGHOST": database.server.host,
        "PGPORT": str(database.server.port),
        "PGUSER": "postgres",
        "PGDATABASE": database.name,
        "PGPASSWORD": database.server.passwords["postgres"],
    }


def lint() -> int:
    """Run `supabase db lint` and `supabase db advisors`; a warning is an error."""
    with Server() as server:
        database = Database(server, "keylatch")
        database.migrate()
        # Only a superuser may install it here; on Supabase the CLI itself can.
        database.create_extension("plpgsql_check")
        for arguments in (
            ["db", "lint", "--schema", _SCHEMAS, "--level", "warning", "--fail-on", "warning"],
            ["db", "advisors", "--level", "info", "--fail-on", "warn"],
        ):
            print(run_supabase(arguments, database.url))
    return 0
