"""Checks that need a migrated database: the pgTAP files, and the Supabase CLI's linters."""

import itertools
import json
import os
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from stack.chosen import chosen_cluster
from stack.cluster import Cluster
from stack.database import Database, make_template
from stack.modules import migrations
from stack.server import Server
from stack.supabase import run_supabase
from stack.tools import ROOT, pg_prove

_SCHEMAS = "keylatch,keylatch_internal"
_numbers = itertools.count(1)


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
        # Three processes, each on a database of its own: pg_prove itself uses one core.
        everything = specification()
        parts = [(everything[::2], False), (everything[1::2], False), (specification("core"), True)]
    with chosen_cluster() as server, ThreadPoolExecutor() as pool:
        templates = {
            alone: make_template(server, f"proof_{alone}".lower(), migrations() if alone else None)
            for alone in {alone for _, alone in parts}
        }
        done = pool.map(lambda part: _prove(server, templates[part[1]], part[0]), parts)
        codes = []
        for result in done:
            print(result.stdout, end="", flush=True)
            codes.append(result.returncode)
        for template in templates.values():
            server.drop_database(template)
    return next((code for code in codes if code != 0), 0)


def _prove(
    server: Cluster, template: str, files: Sequence[Path]
) -> subprocess.CompletedProcess[str]:
    with Database(server, f"proof_{next(_numbers)}", template) as database:
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
