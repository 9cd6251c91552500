"""doctor checks who administers workspaces: with keylatch's tables, or an application's own."""

from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from cli.doctor.examining import examined, only, run, summaries
from cli.install.test_own_tenancy import EXAMPLES, install
from keylatch_cli.doctor.examination import examine
from stack import Cluster, Database, People

pytestmark = pytest.mark.one_server

FUNCTION = "function keylatch.admin_workspace_ids()"
OWN = ("note", "tenancy_own", FUNCTION)
REPLACE = "create or replace function keylatch.admin_workspace_ids() returns setof uuid "
ADMIN = (
    f"insert into auth.users (id) values ('{People.alice}')",
    f"insert into public.workspaces (id, name) values ('{People.a}', 'A')",
    "insert into public.workspace_membership (workspace_id, user_id, role)"
    f" values ('{People.a}', '{People.alice}', 'admin')",
)


def own(server: Cluster, example: Path, *, leave_out: bool) -> Database:
    """Create a database whose tenancy is one of the examples."""
    database = install(server, f"own_{uuid4().hex}", "own" if leave_out else "keylatch")
    run(database, example.read_text())
    return database


@pytest.mark.parametrize("leave_out", [True, False], ids=["left out", "replaced"])
def test_tables_of_the_application_are_a_note_and_no_error(
    server: Cluster, leave_out: bool
) -> None:
    with own(server, EXAMPLES / "own_tables.sql", leave_out=leave_out) as database:
        assert summaries(examined(database).findings) == [
            OWN,
            ("note", "nobody_administers", FUNCTION),
        ]
        run(database, *ADMIN)
        assert summaries(examined(database).findings) == [OWN]
        run(database, "drop trigger workspaces_delete_revoke_keys on public.workspaces")
        findings = examined(database).findings
        assert summaries(findings)[0][:2] == ("warning", "workspace_deletion_unguarded")
        run(database, findings[0].fix)
        assert summaries(examined(database).findings) == [OWN]


@pytest.mark.parametrize(
    "statement",
    [
        "drop trigger workspaces_truncate_keep on public.workspaces",
        "alter table public.workspaces enable trigger workspaces_truncate_keep",
        "create or replace trigger workspaces_truncate_keep before truncate on public.workspaces"
        " for each statement when (current_user = 'x')"
        " execute function keylatch_internal.revoke_workspace_keys()",
    ],
)
def test_a_table_of_workspaces_that_can_be_truncated_is_a_warning(
    server: Cluster, statement: str
) -> None:
    with own(server, EXAMPLES / "own_tables.sql", leave_out=True) as database:
        run(database, *ADMIN, statement)
        findings = examined(database).findings
        assert summaries(findings)[0][:2] == ("warning", "workspace_truncation_unguarded")
        run(database, *findings[0].fix.split("\n\n"))
        assert summaries(examined(database).findings) == [OWN]


def test_a_trigger_with_a_condition_does_not_revoke_the_keys_of_each_workspace(
    server: Cluster,
) -> None:
    with own(server, EXAMPLES / "own_tables.sql", leave_out=True) as database:
        run(
            database,
            *ADMIN,
            "create or replace trigger workspaces_delete_revoke_keys"
            " after delete on public.workspaces for each row when (old.name = 'x')"
            " execute function keylatch_internal.revoke_workspace_keys()",
        )
        findings = examined(database).findings
        assert summaries(findings)[0][:2] == ("warning", "workspace_deletion_unguarded")


def test_claims_of_ones_own_are_noted_and_cannot_be_tried(server: Cluster) -> None:
    with own(server, EXAMPLES / "organization_claim.sql", leave_out=True) as database:
        run(database, f"insert into auth.users (id) values ('{People.alice}')")
        findings = examined(database).findings
        assert summaries(findings) == [OWN, ("note", "nobody_administers", FUNCTION)]
        assert "any tested user (1 tested)" in findings[1].what
        assert "KEYLATCH_TOKEN" in findings[1].fix


def test_without_a_tenancy_function_of_its_own_nobody_administers_anything(
    server: Cluster,
) -> None:
    with install(server, f"none_{uuid4().hex}", "own") as database:
        finding = only(examined(database))
        assert summaries([finding]) == [("warning", "tenancy_missing", FUNCTION)]
        assert "service_role" in finding.why


def test_one_of_the_tables_of_keylatchs_own_tenancy_is_missed(database: Database) -> None:
    run(database, "drop table keylatch.workspaces cascade")
    slugs = summaries(examined(database).findings)
    assert ("error", "object_missing", "table keylatch.workspaces") in slugs


def test_memberships_without_an_admin_are_noted_with_what_makes_one(
    database: Database, people: People
) -> None:
    run(database, "update keylatch.workspace_membership set role = 'member'")
    finding = only(examined(database))
    assert summaries([finding]) == [("note", "nobody_administers", FUNCTION)]
    fix = finding.fix.replace("WORKSPACE", str(people.b)).replace("USER", str(people.mia))
    run(database, fix)
    assert examined(database).findings == ()


@pytest.mark.parametrize(
    "body",
    ["select id from keylatch.workspaces", "select gen_random_uuid()"],
    ids=["every workspace", "any"],
)
def test_a_function_that_gives_everybody_workspaces_is_an_error(
    database: Database, people: People, body: str
) -> None:
    run(
        database, f"{REPLACE} language sql stable security definer set search_path = '' as '{body}'"
    )
    slugs = summaries(examined(database).findings)
    assert slugs[0] == ("error", "everybody_administers", FUNCTION)
    assert OWN in slugs


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("select workspace_id from public.hidden", "permission denied for table hidden"),
        ("select workspace_id from public.endless", "infinite recursion detected in policy"),
        ("select (auth.jwt() ->> 'org_id')::uuid from pg_sleep(3)", "statement timeout"),
        ("select ('user_' || auth.uid()::text)::uuid", "invalid input syntax for type uuid"),
    ],
)
def test_a_function_that_fails_for_a_user_is_an_error_with_what_it_says(
    database: Database, people: People, body: str, words: str
) -> None:
    run(
        database,
        "create table public.hidden (workspace_id uuid)",
        "revoke all on public.hidden from authenticated",
        "create table public.endless (workspace_id uuid)",
        "create policy own on public.endless using (exists (select 1 from public.endless))",
        "alter table public.endless enable row level security",
        "grant select on public.endless to authenticated",
    )
    run(database, f"{REPLACE} language sql stable as $${body}$$")
    first = examined(database).findings[0]
    assert summaries([first]) == [("error", "tenancy_fails", FUNCTION)]
    assert words in first.what


def test_a_definer_function_without_a_search_path_is_an_error(
    database: Database, people: People
) -> None:
    body = "select workspace_id from keylatch.workspace_membership where user_id = auth.uid()"
    run(database, f"{REPLACE} language sql stable security definer as '{body}'")
    findings = examined(database).findings
    assert summaries(findings) == [("error", "tenancy_unpinned", FUNCTION), OWN]
    run(database, findings[0].fix)
    assert summaries(examined(database).findings) == [OWN]


@pytest.mark.parametrize(
    ("statement", "slug"),
    [
        ("grant execute on function keylatch.admin_workspace_ids() to anon", "grant_extra"),
        (
            "revoke execute on function keylatch.admin_workspace_ids() from authenticated",
            "grant_missing",
        ),
        (
            "alter function keylatch.admin_workspace_ids() owner to supabase_admin",
            "owner_differs",
        ),
        (
            "drop function keylatch.admin_workspace_ids() cascade;"
            " create function keylatch.admin_workspace_ids() returns uuid[] language sql stable"
            " as 'select null::uuid[]'",
            "object_changed",
        ),
    ],
)
def test_the_properties_that_an_own_function_must_keep_are_compared(
    server: Cluster, statement: str, slug: str
) -> None:
    with own(server, EXAMPLES / "own_tables.sql", leave_out=True) as database:
        run(database, *ADMIN, statement)
        found = summaries(examined(database).findings)
        assert ("error", slug, FUNCTION) in found


def test_the_report_says_so_if_the_users_cannot_be_read(server: Cluster) -> None:
    with own(server, EXAMPLES / "own_tables.sql", leave_out=True) as database:
        run(database, *ADMIN, "revoke all on auth.users from postgres")
        # On Supabase `postgres` reads every table; the owner of a plain installation may not.
        superuser = database.connect(superuser=True)
        superuser.execute("revoke pg_read_all_data from postgres")
        try:
            report = examined(database)
        finally:
            superuser.execute("grant pg_read_all_data to postgres")
        assert summaries(report.findings) == [OWN]
        assert ("tenancy", "permission denied for table users") in [
            (one.subject, one.reason) for one in report.unchecked
        ]


def test_asking_as_users_leaves_the_session_what_it_was(database: Database, people: People) -> None:
    query = "select current_user::text, current_setting('request.jwt.claims', true)"
    with psycopg.connect(database.url, autocommit=True) as connection:
        connection.execute("set request.jwt.claims = '{}'")
        before: Any = connection.execute(query.encode()).fetchone()
        examine(connection)
        assert connection.execute(query.encode()).fetchone() == before
