"""A project with declarative schemas: no sync and no diff touches keylatch."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.install.project import Project, next_release
from cli.program import Program
from keylatch_cli.install import project as install
from keylatch_cli.install.migrations import Choice
from stack import Cluster, Database, push_migrations, run_supabase

pytestmark = pytest.mark.one_server

KEYLATCH = ("--tenancy", "keylatch", "--all")
BOOKINGS = "create table public.bookings (id uuid primary key, key_id uuid);\n"
PATHS = "schema_paths = []"


@pytest.fixture
def tree(project: Project) -> Path:
    """The declarative schemas of a project, with the tables that its migrations create."""
    project.add("bookings", BOOKINGS, days=3)
    tree = project.path / "supabase" / "schemas"
    tree.mkdir()
    (tree / "bookings.sql").write_text(BOOKINGS)
    for path in sorted(project.migrations.iterdir())[:2]:
        (tree / path.name.partition("_")[2]).write_text(path.read_text())
    return tree


@pytest.fixture
def described(server: Cluster) -> Iterator[Database]:
    """An empty database, into which a test loads the declarative schemas to compare them."""
    with Database(server, "described") as database:
        server.install_platform(database.name)
        yield database


def load(database: Database, tree: Path) -> None:
    """Load a tree as the CLI's engine does: file by file, without checking function bodies."""
    with database.connect() as connection:
        connection.execute("set check_function_bodies = off")
        for path in sorted(tree.glob("*.sql")):
            connection.execute(path.read_bytes())


def diff(project: Project, one: Database, other: Database) -> str:
    """Return the statements of `supabase db diff` that turn one database into the other."""
    said = run_supabase(
        ["db", "diff", "--from", one.url, "--to", other.url], None, directory=project.path
    )
    return "\n".join(line for line in said.splitlines() if not re.match("[│▲●]|Target", line))


def test_a_sync_and_a_diff_in_both_directions_touch_nothing_of_keylatch(
    program: Program, project: Project, tree: Path, empty: Database, described: Database
) -> None:
    shown = program("install", project.path, *KEYLATCH)
    assert "supabase/schemas/00_keylatch.sql\n" in shown.out
    assert "so that a sync does not drop it" in " ".join(shown.err.split())
    push_migrations(empty.url, project.path)
    load(described, tree)
    history = "supabase_migrations"
    assert "keylatch" not in diff(project, empty, described).replace(history, "")
    assert "keylatch" not in diff(project, described, empty).replace(history, "")
    # The CLI's engine complains about a description that inserts rows.
    tables = described.connect().execute(
        "select c.oid::regclass::text from pg_class as c"
        " where c.relkind = 'r' and c.relnamespace::regnamespace::text ~ '^keylatch'"
    )
    for (table,) in tables.fetchall():
        found = described.connect().execute(f"select count(*) from {table}".encode()).fetchone()
        assert found == (0,), table


def test_without_the_description_a_sync_would_drop_every_key(
    program: Program, project: Project, tree: Path, empty: Database, described: Database
) -> None:
    program("install", project.path, *KEYLATCH)
    push_migrations(empty.url, project.path)
    (tree / "00_keylatch.sql").unlink()
    load(described, tree)
    assert 'DROP TABLE "keylatch_internal"."keys"' in diff(project, empty, described)


def test_the_description_follows_modules_and_upgrades(
    program: Program, project: Project, tree: Path, empty: Database, described: Database
) -> None:
    program("install", project.path, "--tenancy", "own", "--only", "core")
    file = tree / "00_keylatch.sql"
    assert "key_usage" not in file.read_text()
    assert "keylatch.workspaces" not in file.read_text()
    assert "nothing to do" in program("install", project.path).err
    shown = program("install", project.path, "--with", "usage", "--dry-run")
    assert "key_usage" not in file.read_text()
    shown = program("install", project.path, "--with", "usage", "--json")
    assert shown.json["described"] == "supabase/schemas/00_keylatch.sql"
    assert "create view keylatch.key_usage" in file.read_text()
    install.write(project.path, install.prepare(project.path, Choice(), release=next_release()))
    assert "keylatch_internal.ledger" in file.read_text()
    push_migrations(empty.url, project.path)
    load(described, tree)
    for one, other in ((empty, described), (described, empty)):
        assert "keylatch" not in diff(project, one, other).replace("supabase_migrations", "")
    # An install restores a lost description without a new migration.
    file.unlink()
    plan = install.prepare(project.path, release=next_release())
    assert plan.new == {}
    install.write(project.path, plan)
    assert "keylatch_internal.ledger" in file.read_text()


@pytest.mark.parametrize(
    ("listed", "becomes"),
    [
        ([], []),
        (["./schemas/*.sql"], ["./schemas/*.sql"]),
        (["./schemas"], ["./schemas"]),
        (["schemas/bookings.sql"], ["./schemas/00_keylatch.sql", "schemas/bookings.sql"]),
    ],
    ids=["none", "pattern", "directory", "files"],
)
def test_schema_paths_name_it_where_they_would_leave_it_out(
    program: Program, project: Project, tree: Path, listed: list[str], becomes: list[str]
) -> None:
    text = project.config.read_text()
    assert PATHS in text
    project.config.write_text(text.replace(PATHS, f"schema_paths = {listed}".replace("'", '"')))
    for _ in range(2):
        program("install", project.path, *KEYLATCH)
        found = tomllib.loads(project.config.read_text())["db"]["migrations"]["schema_paths"]
        assert found == becomes
        assert (tree / "00_keylatch.sql").exists()


def test_another_directory_is_found(program: Program, project: Project) -> None:
    text = project.config.read_text()
    line = '# declarative_schema_path = "./schemas"'
    assert line in text
    project.config.write_text(text.replace(line, 'declarative_schema_path = "./database"'))
    program("install", project.path, *KEYLATCH)
    assert (project.path / "supabase" / "database" / "00_keylatch.sql").exists()


def test_an_export_that_describes_keylatch_is_left_as_it_is(
    program: Program, project: Project, tree: Path
) -> None:
    export = tree / "schemas" / "keylatch" / "schema.sql"
    export.parent.mkdir(parents=True)
    export.write_text('CREATE SCHEMA "keylatch";\n')
    shown = program("install", project.path, *KEYLATCH)
    assert not (tree / "00_keylatch.sql").exists()
    assert "supabase db schema declarative generate" in " ".join(shown.err.split())


def test_a_project_without_a_tree_gets_none(program: Program, project: Project) -> None:
    shown = program("install", project.path, *KEYLATCH)
    assert not (project.path / "supabase" / "schemas").exists()
    assert "declarative" not in shown.err


def test_a_link_out_of_the_project_is_not_followed(
    program: Program, project: Project, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "x.sql").write_text("select 1;")
    (project.path / "supabase" / "schemas").symlink_to(outside)
    shown = program("install", project.path, *KEYLATCH, code=2)
    assert "links out of it" in shown.err
    assert [path.name for path in outside.iterdir()] == ["x.sql"]


def test_uninstall_takes_the_description_along(
    program: Program, project: Project, tree: Path
) -> None:
    program("install", project.path, *KEYLATCH)
    shown = program("uninstall", project.path)
    assert not (tree / "00_keylatch.sql").exists()
    assert "schema_paths in config.toml" in " ".join(shown.err.split())
