"""Checks that need a migrated database: the pgTAP files, and the Supabase CLI's linters."""

import json
import os
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from stack.chosen import chosen_cluster
from stack.database import Database, make_template
from stack.modules import migrations
from stack.server import Server
from stack.supabase import run_supabase
from stack.tools import ROOT, pg_prove

_SCHEMAS = "keylatch,keylatch_internal"


def prove(files: Sequence[Path], *, core_alone: bool = False) -> int:
    """Run pgTAP files with pg_prove as `postgres`; return the first exit code that is not 0.

    Each file runs in a transaction and rolls it back, as `supabase test db` expects.

    Args:
        files: Only these files. If empty, all files, and those of the core on the core alone.
        core_alone: Run `files`, or else those of the core, on a database that has no module.
    """
    if files or core_alone:
        parts = [(files or specification("core"), core_alone)]
    else:
        # pg_prove itself uses one core. Each part has its own server: the files grant roles, and
        # from PostgreSQL 16 on, transactions that grant the same role wait for each other.
        everything = specification()
        parts = [(everything[::2], False), (everything[1::2], False), (specification("core"), True)]
    codes = []
    with ThreadPoolExecutor() as pool:
        for result in pool.map(_prove, parts):
            print(result.stdout, end="", flush=True)
            codes.append(result.returncode)
    return next((code for code in codes if code != 0), 0)


def _prove(part: tuple[Sequence[Path], bool]) -> subprocess.CompletedProcess[str]:
    files, core_alone = part
    with chosen_cluster() as server:
        template = make_template(server, "proof_template", migrations() if core_alone else None)
        with Database(server, "proof", template) as database:
            return subprocess.run(
                [pg_prove(), *files],
                env=libpq(database),
                check=False,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )


def specification(folder: str = "") -> list[Path]:
    """All pgTAP files, or the files of one folder: `core` or the name of a module."""
    return sorted((ROOT / "supabase/tests/database" / folder).rglob("*.test.sql"))


def libpq(database: Database) -> dict[str, str]:
    """The environment of a program that connects to a database as `postgres`."""
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
        # Only a superuser may install this extension here. On Supabase the CLI may install it.
        database.create_extension("plpgsql_check")
        warnings = _warnings(
            run_supabase(["db", "lint", "--schema", _SCHEMAS, "--level", "warning"], database.url)
        )
        print(json.dumps(warnings, indent=2) if warnings else "db lint: no warning")
        advice = _advice(
            run_supabase(
                ["db", "advisors", "--level", "warn", "--output-format", "json"], database.url
            )
        )
        print(json.dumps(advice, indent=2) if advice else "db advisors: no warning")
    return 1 if warnings or advice else 0


def _advice(printed: str) -> list[dict[str, object]]:
    """The findings of `db advisors` without the one about `list_keys`; its migration says why."""
    return [one for one in _listed(printed) if "`keylatch.list_keys`" not in one["detail"]]


def _warnings(printed: str) -> list[dict[str, object]]:
    """The findings of `db lint` without the parameter name `limit`, which the contract requires."""
    return [
        {"function": one["function"], **issue}
        for one in _listed(printed)
        for issue in one["issues"]
        if issue["message"] != 'name of parameter "limit" is reserved keyword'
    ]


def _listed(printed: str) -> list[dict[str, Any]]:
    """The JSON list in the output of the CLI; empty if the CLI found nothing."""
    if "[" not in printed:
        return []
    found: list[dict[str, Any]] = json.JSONDecoder().raw_decode(printed[printed.index("[") :])[0]
    return found
