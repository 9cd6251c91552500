"""`keylatch migrate` and the Supabase CLI on one database, in either order."""

import pytest

from cli.program import Program
from install.project import LEDGER, OWN, REPOSITORY, Project, next_version
from keylatch import install, migrate
from keylatch.migrations import shipped
from stack import Database, push_migrations, run_supabase

pytestmark = pytest.mark.one_server

ALL = [one.name for one in shipped()]
COLUMNS = """
select a.attname::text, format_type(a.atttypid, a.atttypmod), a.attnotnull
from pg_attribute a
where a.attrelid = 'supabase_migrations.schema_migrations'::regclass and a.attnum > 0
order by a.attnum
"""


def fetch(database: Database, project: Project) -> None:
    """Have the CLI write the files of what is in the database's history."""
    run_supabase(["migration", "fetch", "--yes"], database.url, project.path)


def is_one_history(database: Database, project: Project) -> bool:
    """Whether the CLI lists each version as local and remote, and has nothing to push."""
    listed = run_supabase(["migration", "list"], database.url, project.path).splitlines()
    rows = [line.split("|")[:2] for line in listed if line.count("|") == 2]
    pairs = [[cell.strip() for cell in row] for row in rows if row[0].strip(" -") != "Local"]
    versions = [pair for pair in pairs if pair[0].strip("`-").isdigit()]
    assert len(versions) >= len(ALL)
    same = all(local == remote for local, remote in versions)
    return same and "up to date" in push_migrations(database.url, project.path)


def test_what_migrate_applied_is_applied_to_the_cli(migrating: Program, empty: Database) -> None:
    migrating("migrate")
    assert "up to date" in push_migrations(empty.url, REPOSITORY.parents[1])


def test_the_history_is_the_table_that_the_cli_makes(
    migrating: Program, empty: Database, database: Database
) -> None:
    migrating("migrate")
    ours, theirs = (one.connect() for one in (empty, database))
    assert ours.execute(COLUMNS.encode()).fetchall() == theirs.execute(COLUMNS.encode()).fetchall()
    owner = "select relowner::regrole::text, relacl::text from pg_class where relname = %s"
    name = ["schema_migrations"]
    assert ours.execute(owner, name).fetchall() == theirs.execute(owner, name).fetchall()


def test_a_project_fetches_what_migrate_applied_word_for_word(
    migrating: Program, empty: Database, project: Project
) -> None:
    push_migrations(empty.url, project.path)
    migrating("migrate")
    fetch(empty, project)
    for one in shipped():
        assert project.file(one.name).read_text() == one.text
    assert project.names() == [*OWN, *ALL], "behind what was applied before them"
    assert is_one_history(empty, project)
    assert install.prepare(project.path).new == ()


def test_what_the_cli_applied_under_other_versions_is_applied_to_migrate(
    migrating: Program, empty: Database, project: Project
) -> None:
    install.copy(project.path, install.prepare(project.path).new)
    push_migrations(empty.url, project.path)
    assert migrating.ok("migrate") == {
        "dry_run": False,
        "present": ALL,
        "applied": [],
        "left_out": [],
    }
    assert is_one_history(empty, project)


def test_the_cli_migrate_and_the_cli_again(empty: Database, project: Project) -> None:
    install.copy(project.path, install.prepare(project.path, shipped()[:4]).new)
    push_migrations(empty.url, project.path)
    assert [one.name for one in migrate.apply(empty.connect(), shipped())] == ALL[4:]
    fetch(empty, project)
    assert is_one_history(empty, project)
    install.copy(project.path, install.prepare(project.path, next_version()).new)
    push_migrations(empty.url, project.path)
    assert project.names() == [*OWN, *ALL, LEDGER.name]
    assert is_one_history(empty, project)
    assert list(migrate.apply(empty.connect(), next_version())) == []


def test_what_the_cli_applied_and_fetched_is_no_edit(empty: Database, project: Project) -> None:
    """The CLI keeps statements, not files: what it writes from them has other blank lines."""
    install.copy(project.path, install.prepare(project.path).new)
    push_migrations(empty.url, project.path)
    fetch(empty, project)
    assert install.prepare(project.path).new == ()
