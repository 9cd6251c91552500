"""doctor finds nothing wrong with a healthy installation, and it writes nothing."""

import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from cli.doctor.examining import examined, run, summaries
from cli.install.test_own_tenancy import EXAMPLES
from core.fingerprint import fingerprint
from keylatch_cli.doctor.catalog import Entry, Name, read_catalog
from keylatch_cli.doctor.examination import examine
from keylatch_cli.install.apply import apply
from keylatch_cli.install.migrations import Choice, Tenancy, shipped
from stack import Cluster, Database, Janitor, People, Server
from stack.checks import libpq
from stack.modules import module_names
from stack.tools import ROOT, MissingTool

NOBODY = ("note", "nobody_administers", "function keylatch.admin_workspace_ids()")
# Default privileges that a project may have: revoked from public, or granted to the API's roles.
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
    assert summaries(report.findings) == [NOBODY]
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
        assert all(
            "permission denied" in one.reason or "authenticator has no rights" in one.reason
            for one in report.unchecked[:-1]
        )


@pytest.mark.parametrize("defaults", [SHUT, OPEN], ids=["shut", "open"])
def test_default_privileges_of_a_project_make_no_difference(
    bare: Database, defaults: tuple[str, ...]
) -> None:
    run(bare, *defaults)
    apply(bare.connect(), Choice(all=True), "keylatch")
    assert summaries(examined(bare).findings) == [NOBODY]


def test_an_install_by_a_superuser_belongs_to_them_and_is_whole(bare: Database) -> None:
    with psycopg.connect(bare.superuser_url) as superuser:
        for part in shipped().parts.values():
            superuser.execute(part.text.encode())
    assert summaries(examined(bare, bare.superuser_url).findings) == [NOBODY]


@pytest.mark.parametrize("choice", [Choice(only=("core",)), Choice(added=("usage",))])
def test_only_what_is_installed_is_asked_for(bare: Database, choice: Choice) -> None:
    apply(bare.connect(), choice, "keylatch")
    report = examined(bare)
    assert summaries(report.findings) == [NOBODY]
    assert [one.subject for one in report.unchecked] == ["API"]
    assert report.site.installation is not None
    assert set(report.site.installation.modules) == set(choice.added and ("events", "usage"))


def test_a_module_that_was_dropped_by_hand_is_missed(bare: Database) -> None:
    apply(bare.connect(), Choice(only=("usage",)), "keylatch")
    run(bare, "drop table keylatch_internal.key_usage cascade")
    slugs = summaries(examined(bare).findings)
    assert ("error", "object_missing", "table keylatch_internal.key_usage") in slugs


def test_the_recipe_for_a_first_key_is_noted_and_no_damage(
    database: Database, people: People
) -> None:
    run(database, (ROOT / "sql" / "recipes" / "first_key.sql").read_text())
    report = examined(database)
    assert [one.level.value for one in report.findings] == ["note"]
    assert "sql/recipes/first_key.sql" in report.findings[0].why


WAYS: dict[str, tuple[Choice, Tenancy, Path | None]] = {
    "everything": (Choice(all=True), "keylatch", None),
    "the core alone": (Choice(only=("core",)), "own", None),
    **{module: (Choice(only=(module,)), "keylatch", None) for module in module_names()},
    **{file.stem: (Choice(all=True), "own", file) for file in EXAMPLES.glob("*.sql")},
}


# A newer server may print an object differently. These installations together have every object.
ALL_OBJECTS = [way for way in WAYS if way not in (*module_names(), "the core alone")]
RESTORED = [(15, way) for way in WAYS]
RESTORED += [(version, way) for version in (17, 18) for way in ALL_OBJECTS]


@pytest.mark.one_server  # pg_dump reads servers up to its own version
@pytest.mark.parametrize(("version", "way"), RESTORED)
def test_a_database_that_was_dumped_and_restored_is_whole(
    server: Cluster, newer: Callable[[int], Cluster], way: str, version: int
) -> None:
    """PostgreSQL must print the same expressions after a dump and a restore."""
    choice, tenancy, example = WAYS[way]
    target = server if version == 15 else newer(version)
    with (
        Database(server, f"dumped_{uuid4().hex}") as dumped,
        Database(target, f"restored_{uuid4().hex}") as restored,
    ):
        server.install_platform(dumped.name)
        apply(dumped.connect(), choice, tenancy)
        if example:
            dumped.connect().execute(example.read_bytes())
        (key,) = one(dumped, "select key from keylatch.issue_key(gen_random_uuid(), 'secret')")
        healthy = summaries(examined(dumped).findings)
        assert [found for found in healthy if found[0] == "error"] == []
        target.install_platform(restored.name)
        run(restored, MAKE_ROLE)
        copy(dumped, restored)
        assert catalog(restored) == catalog(dumped)
        if version == 15:
            assert fingerprint(restored.url) == fingerprint(dumped.url)
        assert one(restored, "select count(*) from keylatch.resolve_key(%s)", key) == (1,)
        (number,) = one(restored, "select id from keylatch.installation()")
        healthy.insert(0, ("warning", "installed_elsewhere", f"installation {number}"))
        assert summaries(examined(restored).findings) == healthy
        assert summaries(examined(restored, restored.superuser_url).findings) == healthy


def one(database: Database, query: str, *values: object) -> Any:
    """Return the first row of a query that the owner runs."""
    return database.connect().execute(query.encode(), values or None).fetchone()


def catalog(database: Database) -> Mapping[Name, Entry]:
    """Return the installed objects in a form that is equal in every version of PostgreSQL."""
    with psycopg.connect(database.url) as connection:
        return read_catalog(connection)


MAKE_ROLE = """
do $$ begin
  if to_regrole('keylatch_resolver') is null then
    create role keylatch_resolver nologin noinherit;
    grant keylatch_resolver to authenticator;
  end if;
end $$
"""


@pytest.fixture(scope="module")
def newer(janitor: Janitor) -> Iterator[Callable[[int], Cluster]]:
    """Return a function that returns a server of a version, and starts it at the first call."""
    with ExitStack() as stack:
        servers: dict[int, Cluster] = {}

        def start(version: int) -> Cluster:
            if version not in servers:
                servers[version] = stack.enter_context(Server(version, janitor=janitor))
            return servers[version]

        yield start


def is_platform(line: str) -> bool:
    """Whether a line of a dump creates the schema public or its default privileges."""
    return " SCHEMA public" in line or line.startswith("ALTER DEFAULT PRIVILEGES")


def copy(source: Database, target: Database) -> None:
    """Dump public and keylatch's schemas of a database, and restore them in another one."""
    pg_dump, psql = shutil.which("pg_dump"), shutil.which("psql")
    if pg_dump is None or psql is None:
        raise MissingTool("pg_dump")
    parts = ("--schema=public", "--schema=keylatch", "--schema=keylatch_internal")
    dump = subprocess.run(
        [pg_dump, *parts], env=libpq(source), capture_output=True, check=True, text=True
    ).stdout
    subprocess.run(
        [psql, "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "-1"],
        input="\n".join(line for line in dump.splitlines() if not is_platform(line)),
        env=libpq(target),
        stdout=subprocess.DEVNULL,
        check=True,
        text=True,
    )


def test_a_database_without_keylatch_has_that_one_finding(bare: Database) -> None:
    report = examined(bare)
    assert summaries(report.findings) == [("error", "not_installed", f"database {bare.name}")]
    assert report.unchecked == ()
    assert report.site.installation is None


def test_another_version_is_named_and_its_objects_are_not_compared(database: Database) -> None:
    run(database, "drop policy keys_select_admin on keylatch_internal.keys")
    for version, slug, fix in (
        ("0.0.9", "schema_older", "keylatch install"),
        ("0.10.0", "client_older", "pip install"),
    ):
        run(database, f"update keylatch_internal.installation set schema_version = '{version}'")
        report = examined(database)
        assert summaries(report.findings) == [
            ("warning", slug, f"schema keylatch {version}"),
            NOBODY,
        ]
        assert fix in report.findings[0].fix
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
        report = examine(connection)
        assert summaries(report.findings)[0][1] == "tenancy_fails"
        assert "read-only transaction" in report.findings[0].what
        assert (connection.read_only, connection.isolation_level) == (False, None)
        assert connection.execute("select count(*) from public.written").fetchone() == (0,)
