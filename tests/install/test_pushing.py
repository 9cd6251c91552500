"""A project's story with the real Supabase CLI: install, push, use; an update; own tenancy."""

from uuid import UUID

import pytest
from supabase import create_client

from cli.program import Program
from install.project import LEDGER, OWN, Project, next_version
from keylatch import Keylatch, install
from keylatch.migrations import TENANCY_NAME, own_tenancy, shipped
from stack import (
    CommandFailed,
    Database,
    Janitor,
    People,
    Rest,
    Tokens,
    push_migrations,
)

SITE = "https://client.example"
TENANCY_TABLES = """
create table public.workspaces (id uuid primary key default gen_random_uuid());
create table public.workspace_membership (workspace_id uuid, user_id uuid, role text);
grant select on public.workspace_membership to authenticated;
"""


def applied(database: Database) -> list[str]:
    """The names in the history, in the order of their versions."""
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


def test_install_push_issue_and_resolve_then_update_and_push_again(
    program: Program,
    project: Project,
    empty: Database,
    tokens: Tokens,
    janitor: Janitor,
) -> None:
    push_migrations(empty.url, project.path)
    program("install", project.path, "--expose")
    push_migrations(empty.url, project.path)
    assert applied(empty) == [*OWN, *(one.name for one in shipped())]
    people = People(tokens)
    people.seed(empty.url)
    # As a user has it: over HTTP, with supabase-py, signed in as an admin and as the service.
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
    install.copy(project.path, install.prepare(project.path, next_version()).new)
    push_migrations(empty.url, project.path)
    assert applied(empty)[-2:] == ["invoices", LEDGER.name]
    assert "up to date" in push_migrations(empty.url, project.path)
    issue_and_resolve(empty, people.alice, people.a)
    # Whose versions these are is nothing to `migrate`.
    there = program.having(DATABASE_URL=empty.url)
    assert "nothing to apply" in there("migrate").err
    # All is whole, but for what this version does not know, until somebody edits a policy by hand.
    found = there.ok("doctor")["findings"]
    assert [one["subject"] for one in found] == ["table keylatch_internal.ledger"]
    empty.connect().execute("alter policy keys_select_admin on keylatch_internal.keys using (true)")
    assert "policy keys_select_admin" in there("doctor", code=1).out


def test_the_cli_refuses_them_with_the_stamps_that_they_are_shipped_with(
    project: Project, empty: Database
) -> None:
    push_migrations(empty.url, project.path)
    install.copy(project.path, shipped())
    with pytest.raises(CommandFailed, match="--include-all"):
        push_migrations(empty.url, project.path)


def test_own_tenancy_with_what_the_install_shows(
    program: Program, project: Project, empty: Database
) -> None:
    program("install", project.path, "--tenancy", "own")
    project.add("own_tenancy", TENANCY_TABLES + own_tenancy(), days=30)
    push_migrations(empty.url, project.path)
    assert TENANCY_NAME not in applied(empty)
    owner = empty.connect()
    owner.execute("insert into public.workspaces values (%s)", [People.a])
    owner.execute(
        "insert into public.workspace_membership values (%s, %s, 'admin')", [People.a, People.alice]
    )
    issue_and_resolve(empty, People.alice, People.a)
    owner.execute("delete from public.workspaces")
    assert owner.execute("select status from keylatch.keys").fetchall() == [("revoked",)]
    assert "nothing to apply" in program.having(DATABASE_URL=empty.url)("migrate").err
