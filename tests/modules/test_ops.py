"""Every script of sql/ops that cannot do its work ends with exit code 3."""

import os
import re
import subprocess
import sys
from pathlib import Path
from uuid import UUID

import pytest
from psycopg.conninfo import conninfo_to_dict

from stack import Database
from stack.tools import ROOT

pytestmark = pytest.mark.one_server

SCRIPTS = sorted((ROOT / "sql" / "ops").glob("*.sql"))
# The psql commands in the scripts' headers, and the commands in the guides that print a script.
COMMANDS = [
    *(
        (path.name, command)
        for path in SCRIPTS
        for command in re.findall(r"^--   (psql .*)$", path.read_text(), re.M)
    ),
    *(
        (path.name, command)
        for path in sorted((ROOT / "sql" / "docs").glob("*.md"))
        for command in re.findall(
            r"^(?:\$ )?(keylatch script \w+ \| psql .*)$", path.read_text(), re.M
        )
    ),
]
REQUIRED = {
    "archive_events": "before",
    "erase_person": "user_id",
    "take_back_import": "import_id",
}


def test_each_script_shows_a_command() -> None:
    assert {path.name for path in SCRIPTS} <= {name for name, _ in COMMANDS}
    assert "operate.md" in {name for name, _ in COMMANDS}


@pytest.mark.parametrize(("name", "command"), COMMANDS)
def test_the_command_that_a_page_shows_fails_for_another_role(
    database: Database, tmp_path: Path, name: str, command: str
) -> None:
    (tmp_path / "sql").symlink_to(ROOT / "sql")
    (tmp_path / "events.csv").touch()
    (tmp_path / "anchors.csv").write_text("1,ab,2026-01-01\n")
    done = _bash(
        database, command.replace("<uuid>", str(UUID(int=0))), tmp_path, "keylatch_resolver"
    )
    assert done.returncode == 3, done.stderr
    assert "permission denied" in done.stderr or "is not the owner" in done.stderr
    assert done.stderr.count("ERROR") == 1


@pytest.mark.parametrize("script", REQUIRED)
@pytest.mark.parametrize("option", ["", "--set={0}s=x", "--set={0}="])
def test_a_script_without_its_variable_says_how_to_set_it(
    database: Database, tmp_path: Path, script: str, option: str
) -> None:
    variable = REQUIRED[script]
    psql = f"psql --no-psqlrc {option.format(variable)} --file {ROOT}/sql/ops/{script}.sql"
    done = _bash(database, psql, tmp_path)
    assert done.returncode == 3, done.stderr
    assert done.stdout == ""
    [error, hint] = done.stderr.splitlines()
    assert error.endswith(f'ERROR:  The variable "{variable}" is not set.')
    assert hint.startswith(f"HINT:  Use: psql --set {variable}=")
    assert len(hint) <= 100


def _bash(
    database: Database, command: str, directory: Path, role: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run a command like a reader of the page, in a session with the given role."""
    at = conninfo_to_dict(database.url)
    names = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD"}
    environment = {
        **os.environ,
        **{variable: str(at[name]) for name, variable in names.items() if name in at},
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PGDATABASE": database.name,
        "DATABASE_URL": database.url,
        "import_id": str(UUID(int=0)),
        "PGOPTIONS": f"-c role={role}" if role else "",
    }
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],  # noqa: S607
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
