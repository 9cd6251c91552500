"""A whole installation is found whole, however it was made; and the doctor writes nothing."""

import psycopg
import pytest

from doctor.patient import examined, run, told
from manifest import FILE, manifest
from stack import Cluster, Database, People

NOBODY = ("note", "nobody_administers", "function keylatch.admin_workspace_ids()")
# What projects have set for what they make: shut, and open to everybody.
SHUT = (
    "alter default privileges for role postgres revoke execute on functions from public",
    "alter default privileges for role postgres revoke usage on types from public",
)
OPEN = tuple(
    f"alter default privileges for role postgres grant all on {what} to anon, authenticated,"
    " service_role"
    for what in ("schemas", "tables", "sequences", "functions", "types")
)


def test_a_fresh_install_is_whole_and_waits_for_its_first_admin(database: Database) -> None:
    report = examined(database)
    assert told(report.findings) == [NOBODY]
    assert [one.subject for one in report.unchecked] == ["API"]


def test_an_install_with_people_is_whole(database: Database, people: People) -> None:
    assert examined(database).findings == ()


def test_any_user_finds_it_whole_and_is_told_what_they_could_not_see(
    database: Database, people: People
) -> None:
    for url in (database.superuser_url, database.authenticator_url):
        report = examined(database, url)
        assert report.findings == ()
        unchecked = {one.subject for one in report.unchecked} - {"API"}
        assert unchecked == (
            set()
            if url == database.superuser_url
            else {"version and replica lag", "tenancy", "keys"}
        )
        assert all("permission denied" in one.reason for one in report.unchecked[:-1])


@pytest.mark.parametrize("defaults", [SHUT, OPEN], ids=["shut", "open"])
def test_what_a_project_grants_by_default_makes_no_difference(
    server: Cluster, bare: Database, defaults: tuple[str, ...]
) -> None:
    run(bare, *defaults)
    assert manifest(bare.url) == FILE.read_text()
    assert told(examined(bare).findings) == [NOBODY]


def test_an_install_by_a_superuser_belongs_to_them_and_is_whole(bare: Database) -> None:
    assert manifest(bare.superuser_url) == FILE.read_text()
    assert told(examined(bare, bare.superuser_url).findings) == [NOBODY]


def test_a_database_without_keylatch_has_that_one_finding(bare: Database) -> None:
    report = examined(bare)
    assert told(report.findings) == [("error", "not_installed", f"database {bare.name}")]
    assert report.unchecked == ()
    assert report.site.installation is None


def test_another_version_is_named_and_its_objects_are_not_compared(database: Database) -> None:
    run(database, "drop policy keys_select_admin on keylatch_internal.keys")
    for version, slug, mend in (
        ("0.0.9", "schema_older", "keylatch install"),
        ("0.10.0", "client_older", "pip install"),
    ):
        run(database, f"update keylatch_internal.installation set schema_version = '{version}'")
        report = examined(database)
        assert told(report.findings) == [
            ("warning", slug, f"schema keylatch {version}"),
            NOBODY,
        ]
        assert mend in report.findings[0].mend
        assert "objects" in [one.subject for one in report.unchecked]


def test_nothing_can_be_written_and_the_connection_is_as_it_was(
    database: Database, people: People
) -> None:
    run(
        database,
        "create table public.written (at timestamptz)",
        "grant all on public.written to authenticated",
        "create or replace function keylatch.admin_workspace_ids() returns setof uuid"
        " language sql as $$ insert into public.written values (now()); select null::uuid $$",
        "create trigger workspaces_go after delete on public.written"
        " for each row execute function keylatch_internal.revoke_workspace_keys()",
    )
    with psycopg.connect(database.url) as connection:
        connection.read_only, connection.isolation_level = False, None
        report = examined(database)
        assert told(report.findings)[0][1] == "tenancy_fails"
        assert "read-only transaction" in report.findings[0].what
        assert (connection.read_only, connection.isolation_level) == (False, None)
        assert connection.execute("select count(*) from public.written").fetchone() == (0,)
