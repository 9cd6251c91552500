"""A project with the real Supabase CLI: install, push, use, add a module, and upgrade."""

import re
from uuid import UUID

import pytest
from supabase import create_client

from cli.install.project import NEXT, OWN, Project, next_release
from cli.program import Program
from core.fingerprint import fingerprint
from keylatch import Keylatch
from keylatch_cli.install import project as install
from keylatch_cli.install.migrations import own_tenancy, shipped
from stack import (
    CommandFailed,
    Database,
    Janitor,
    People,
    Rest,
    Tokens,
    push_migrations,
    run_supabase,
)

SITE = "https://client.example"
VERSION = shipped().version
NAME = f"keylatch_{VERSION}"
TENANCY_TABLES = """
create table public.workspaces (id uuid primary key default gen_random_uuid());
create table public.workspace_membership (workspace_id uuid, user_id uuid, role text);
grant select on public.workspace_membership to authenticated;
"""


def applied(database: Database) -> list[str]:
    """The names in the history, in the order of their stamps."""
    query = "select name from supabase_migrations.schema_migrations order by version"
    return [name for (name,) in database.connect().execute(query.encode())]


def issue_and_resolve(database: Database, user: UUID, workspace: UUID) -> None:
    claims = {"sub": str(user), "role": "authenticated"}
    with database.connect("authenticator") as connection:
        issued = Keylatch.from_psycopg(connection, claims=claims).issue(
            workspace, allowed_origins=[SITE]
        )
        runtime = Keylatch.from_psycopg(connection, claims={"role": "keylatch_resolver"})
        found = runtime.resolve(issued.key.reveal(), origin=SITE)
    assert found is not None
    assert found.key_id == issued.id


def test_install_push_issue_and_resolve_then_add_update_and_push_again(
    program: Program, project: Project, empty: Database, tokens: Tokens, janitor: Janitor
) -> None:
    push_migrations(empty.url, project.path)
    program("install", project.path, "--tenancy", "keylatch", "--expose")
    push_migrations(empty.url, project.path)
    assert applied(empty) == [*OWN, NAME], "exactly one file"
    people = People(tokens)
    people.seed(empty.url)
    # Over HTTP with supabase-py, as a user does: signed in as an admin, and with the service key.
    with Rest(empty, tokens, janitor=janitor) as rest:
        keys = {"admin": rest.anon_key, "service": rest.service_key}
        clients = {who: create_client(rest.url, key) for who, key in keys.items()}
        clients["admin"].postgrest.auth(people.token("alice"))
        issued = Keylatch.from_supabase(clients["admin"]).issue(people.a, allowed_origins=[SITE])
        text = issued.key.reveal()
        found = Keylatch.from_supabase(clients["service"]).resolve(text, origin=SITE)
        assert found is not None
        assert (found.key_id, found.workspace_id) == (issued.id, people.a)

    project.add("invoices", "create table public.invoices (id uuid);\n", days=30)
    push_migrations(empty.url, project.path)
    program("install", project.path, "--with", "usage")
    push_migrations(empty.url, project.path)
    there = program.having(DATABASE_URL=empty.url)
    assert "nothing to do" in there("apply", "--with", "usage").err
    # The next push would fail on what apply has created.
    refused = there("apply", "--with", "legacy", code=2).err
    assert refused.startswith("usage: the Supabase CLI manages keylatch in this database\n")
    install.write(project.path, install.prepare(project.path, release=next_release()))
    push_migrations(empty.url, project.path)
    upgrade = f"keylatch_{VERSION}_to_{NEXT}"
    assert applied(empty) == [*OWN, NAME, "invoices", "keylatch_usage", upgrade]
    assert "up to date" in push_migrations(empty.url, project.path)
    issue_and_resolve(empty, people.alice, people.a)


@pytest.mark.one_server
def test_doctor_finds_nothing_until_a_policy_is_edited_by_hand(
    program: Program, project: Project, empty: Database
) -> None:
    program("install", project.path, "--tenancy", "keylatch")
    push_migrations(empty.url, project.path)
    there = program.having(DATABASE_URL=empty.url)
    found = there.ok("doctor")["findings"]
    assert [one["subject"] for one in found if one["level"] != "note"] == []
    empty.connect().execute("alter policy keys_select_admin on keylatch_internal.keys using (true)")
    assert "policy keys_select_admin" in there("doctor", code=1).out


@pytest.mark.one_server
def test_a_diff_between_the_project_and_the_repository_is_clean(
    program: Program, project: Project, empty: Database, database: Database
) -> None:
    """`database` has the migrations of this repository, file by file."""
    for path in project.migrations.iterdir():
        path.unlink()
    program("install", project.path, "--tenancy", "keylatch", "--all")
    push_migrations(empty.url, project.path)

    def diff() -> list[str]:
        urls = ["--from", database.url, "--to", empty.url]
        shown = run_supabase(["db", "diff", *urls], None, project.path)
        statement = r"^\s*(?:create|alter|drop|grant|revoke|comment)\b[^;]*;"
        return re.findall(statement, shown, re.IGNORECASE | re.MULTILINE)

    # The template of the tests' databases has pgTAP.
    assert [line for line in diff() if "pgtap" not in line.lower()] == []
    empty.connect().execute("alter table keylatch_internal.keys add column note text")
    assert any("note" in line for line in diff())


@pytest.mark.one_server
def test_the_cli_refuses_a_stamp_that_is_older_than_what_it_has_applied(
    program: Program, project: Project, empty: Database
) -> None:
    push_migrations(empty.url, project.path)
    program("install", project.path, "--tenancy", "keylatch")
    path = project.file(NAME)
    path.rename(path.with_name(f"20261120000010_{NAME}.sql"))
    with pytest.raises(CommandFailed, match="--include-all"):
        push_migrations(empty.url, project.path)


@pytest.mark.one_server
def test_a_file_that_the_cli_fetches_from_its_history_is_not_an_edit(
    program: Program, project: Project, empty: Database
) -> None:
    """The CLI stores statements, not files, so a fetched file has other blank lines."""
    program("install", project.path, "--tenancy", "keylatch", "--all")
    push_migrations(empty.url, project.path)
    run_supabase(["migration", "fetch", "--yes"], empty.url, project.path)
    assert project.names() == [*OWN, NAME]
    assert "nothing to do" in program("install", project.path).err


@pytest.mark.one_server
def test_the_statements_that_install_shows_make_an_own_tenancy(
    program: Program, project: Project, empty: Database
) -> None:
    program("install", project.path, "--tenancy", "own")
    project.add("own_tenancy", TENANCY_TABLES + own_tenancy(), days=30)
    push_migrations(empty.url, project.path)
    owner = empty.connect()
    owner.execute("insert into public.workspaces values (%s)", [People.a])
    owner.execute(
        "insert into public.workspace_membership values (%s, %s, 'admin')", [People.a, People.alice]
    )
    issue_and_resolve(empty, People.alice, People.a)
    with pytest.raises(Exception, match="keys_are_kept"):
        owner.execute("truncate public.workspaces")
    owner.execute("delete from public.workspaces")
    assert owner.execute("select status from keylatch.keys").fetchall() == [("revoked",)]
    there = program.having(DATABASE_URL=empty.url)
    assert "nothing to do" in there("apply").err
    assert [one["slug"] for one in there.ok("doctor")["findings"]] == [
        "tenancy_own",
        "nobody_administers",
    ]


@pytest.mark.one_server
def test_a_project_fills_an_empty_database_from_nothing_but_its_files(
    program: Program, project: Project, empty: Database, database: Database
) -> None:
    """A colleague checks the project out and pushes: first the old file, then the added file."""
    program("install", project.path, "--tenancy", "keylatch", "--only", "core")
    program("install", project.path, "--all")
    push_migrations(empty.url, project.path)
    assert sorted(fingerprint(empty.url)) == sorted(fingerprint(database.url))
