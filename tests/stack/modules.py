"""The migrations of the core and of each module, from `sql/modules.toml`."""

import tomllib
from pathlib import Path
from typing import Any

from stack.tools import ROOT

MIGRATIONS = ROOT / "supabase" / "migrations"
# An application's own workspaces, with the same names of tables and columns as keylatch's.
OWN_TENANCY = ROOT / "sql" / "tenancy" / "own_tables.sql"


def module_names() -> list[str]:
    """The modules that can be installed beside the core, in the order of their files."""
    return list(_lists()["modules"])


def migrations(*modules: str, tenancy: bool = False) -> list[Path]:
    """The migrations of the core, these modules and the modules that they need, in order.

    Args:
        modules: Names of modules; without names, the core alone.
        tenancy: Whether to add keylatch's own workspaces.
    """
    lists = _lists()
    wanted = list(modules)
    for name in wanted:  # the list grows while the loop runs
        wanted.extend(need for need in lists["modules"][name]["needs"] if need not in wanted)
    parts = [lists["core"], *(lists["modules"][name] for name in wanted)]
    if tenancy:
        parts.append(lists["tenancy"])
    return sorted(_file(concern) for part in parts for concern in part["files"])


def parts() -> list[tuple[str, str, list[Path]]]:
    """The title, the description and the migrations of the core, the tenancy and each module."""
    lists = _lists()
    named = [("Core", lists["core"]), ("Tenancy", lists["tenancy"])]
    named += [(f"Module {name}", part) for name, part in lists["modules"].items()]
    return [
        (title, part["about"], [_file(concern) for concern in part["files"]])
        for title, part in named
    ]


def _lists() -> dict[str, Any]:
    return tomllib.loads((ROOT / "sql" / "modules.toml").read_text())


def _file(concern: str) -> Path:
    [file] = MIGRATIONS.glob(f"*_keylatch_{concern}.sql")
    return file
