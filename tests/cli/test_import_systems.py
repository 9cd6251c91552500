"""The keys of thirty systems: a preset imports a dump of each system, and the real keys work.

The system's own code makes eight dumps, if pip or npm has this code: see also made_by/README.md.
The other dumps follow the source that the preset names. The guide's table comes from this list.
"""

import csv
import io
import json
import os
import secrets
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest

from cli.old_systems import FIRST, NEVER, NOW, OTHER_FORMS, A, OldSystem, systems
from cli.program import Program
from cli.system import System
from keylatch_cli.importing import presets
from stack import HANG_SECONDS, Database, People
from stack.tools import ROOT, MissingTool

pytestmark = pytest.mark.one_server

GUIDE = ROOT / "sql" / "docs" / "legacy_systems.md"
MADE_BY = ROOT / "tests" / "cli" / "made_by"
MADE = tomllib.loads((MADE_BY / "keys.toml").read_text("utf-8"))


@pytest.fixture
def old_installation(database: Database, people: People) -> System:
    """A separate database for each test, because an installation has at most eight schemes."""
    return System(database, None, people)  # type: ignore[arg-type]


@dataclass
class Old:
    """An old system, and an installation with the system's secret and a map of its tenant."""

    installed: System
    service: Program
    connection: psycopg.Connection[object]
    system: OldSystem
    options: list[str] = field(default_factory=list)


@pytest.fixture
def old(old_installation: System, program: Program) -> Iterator[Callable[[OldSystem], Old]]:
    service = old_installation.acting_as(program, "database", "service")
    with psycopg.connect(old_installation.database.url, autocommit=True) as connection:

        def begin(system: OldSystem) -> Old:
            if system.secret:
                connection.execute(
                    "insert into keylatch_internal.legacy_secrets (name, secret) values (%s, %s)",
                    [system.secret, system.pepper],
                )
            text = io.StringIO()
            rows = csv.DictWriter(text, list(system.row))
            rows.writeheader()
            rows.writerow(system.row)
            (program.directory / "dump.csv").write_text(text.getvalue())
            (program.directory / "tenants.csv").write_text(f"name,id\n{system.owner},{A}\n")
            options = (
                ["--workspace-map", "tenants.csv"]
                if system.owner
                else ["--set", f"workspace_id={A}"]
            )
            return Old(old_installation, service, connection, system, options)

        yield begin


def found(old: Old, key: str) -> str:
    """Return whether a text resolves, resolves after its first use, or is refused."""
    ask = "select key_id from keylatch.resolve_key(%s)"
    if old.connection.execute(ask, [key]).fetchone():
        return NOW
    workspace = ["--workspace", A] if old.system.needs_workspace else []
    old.service("upgrade", *workspace, stdin=key, code=None)
    return FIRST if old.connection.execute(ask, [key]).fetchone() else NEVER


def check(old: Old, name: str) -> None:
    system = old.system
    if system.becomes == NEVER:
        done = old.service("import", "dump.csv", "--from", name, code=1)
        assert done.err.startswith("not_importable: ")
        assert "sql/docs/first_use.md" in done.err
        return
    done = old.service("import", "dump.csv", "--from", name, *old.options)
    word = "1 imported" if system.becomes == NOW else "1 waiting for first use"
    assert word in done.err, done
    assert found(old, f"{system.key[:-2]}~{system.key[-1]}") == NEVER
    assert found(old, system.key) == system.becomes
    again = old.service("import", "dump.csv", "--from", name, *old.options)
    assert "1 unchanged" in again.err
    kept = old.connection.execute("select workspace_id::text from keylatch.keys").fetchall()
    assert {row[0] for row in kept} == {A}  # type: ignore[index]


@pytest.mark.parametrize("name", systems())
def test_the_keys_of_a_system_come_over_by_its_preset(
    old: Callable[[OldSystem], Old], name: str
) -> None:
    check(old(systems()[name]()), name)


@pytest.mark.parametrize("form", OTHER_FORMS)
def test_the_older_form_of_a_hash_comes_over_too(
    old: Callable[[OldSystem], Old], form: str
) -> None:
    name, make = OTHER_FORMS[form]
    check(old(make()), name)


@pytest.fixture(scope="session")
def made_by_django() -> dict[str, tuple[str, str]]:
    script = ROOT / "tests" / "cli" / "django_systems.py"
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, check=True, timeout=HANG_SECONDS
    )
    return json.loads(done.stdout)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "name", ["django-rest-knox", "drf-authtoken", "djangorestframework-api-key"]
)
def test_a_dump_that_the_library_itself_made_comes_over(
    old: Callable[[OldSystem], Old], made_by_django: Mapping[str, tuple[str, str]], name: str
) -> None:
    key, dump = made_by_django[name]
    (row,) = csv.DictReader(io.StringIO(dump))
    check(old(OldSystem(key=key, row=row, owner="42" if "user_id" in row else "")), name)


def test_a_dump_that_better_auth_itself_made_comes_over(old: Callable[[OldSystem], Old]) -> None:
    node = shutil.which("node")
    if node is None:
        raise MissingTool("node")
    done = subprocess.run(
        [node, ROOT / "tests" / "cli" / "better_auth_system.mjs"],
        capture_output=True,
        text=True,
        check=True,
        timeout=HANG_SECONDS,
        env={**os.environ, "BETTER_AUTH_SECRET": secrets.token_hex(32)},
    )
    made = json.loads(done.stdout)
    (row,) = csv.DictReader(io.StringIO(made["dump"]))
    check(old(OldSystem(key=made["key"], row=row, owner=made["owner"])), "better-auth")


@pytest.mark.parametrize("name", MADE)
def test_a_dump_that_a_system_too_large_for_the_tests_made_comes_over(
    old: Callable[[OldSystem], Old], name: str
) -> None:
    text = (MADE_BY / f"{name}.csv").read_text("utf-8")
    (row,) = csv.DictReader(io.StringIO(text))
    check(old(OldSystem(row=row, **MADE[name])), name)


def test_every_preset_is_tried_here_and_told_in_80_columns(program: Program) -> None:
    assert sorted(systems()) == presets.names()
    listed = program("import", "--presets").out
    assert max(map(len, listed.splitlines())) <= 80
    for name in presets.names():
        preset = presets.load(name)
        assert f"\n{name} " in f"\n{listed}"
        assert preset.system in listed
        assert preset.about
        assert preset.presented
    assert [one["name"] for one in program.ok("import", "--presets")] == presets.names()


BEGIN, END = "<!-- systems -->\n", "<!-- end of systems -->\n"


def table() -> str:
    rows = [
        "| `--from` | system: table | format of a key | after the import |",
        "|---|---|---|---|",
    ]
    for name, make in systems().items():
        preset, system = presets.load(name), make()
        needs = " (needs its workspace)" if system.needs_workspace else ""
        secret = f"; secret `{system.secret}`" if system.secret else ""
        why = f": {preset.refused}" if preset.refused else ""
        rows.append(
            f"| {name} | {preset.system}: `{preset.table}` | {preset.presented}"
            f" | {system.becomes}{needs}{secret}{why} |".replace("12|", "12\\|")
        )
    return "\n".join(rows) + "\n"


def test_the_table_of_the_guide_is_what_was_tried_here() -> None:
    page = Path(GUIDE).read_text("utf-8")
    before, _, rest = page.partition(BEGIN)
    now, _, after = rest.partition(END)
    if os.environ.get("KEYLATCH_WRITE"):
        Path(GUIDE).write_text(before + BEGIN + table() + END + after, "utf-8")
        return
    assert now == table()
    refused = [name for name, make in systems().items() if make().becomes == NEVER]
    assert len(systems()) == 30
    assert len(refused) <= 4
