"""`keylatch migrate`: each migration once, in a transaction each, by however many at a time."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import psycopg
import pytest

from cli.program import Program
from database.fingerprint import fingerprint
from install.project import LEDGER, next_version
from keylatch import migrate
from keylatch.errors import KeylatchError
from keylatch.migrations import TENANCY_NAME, Migration, shipped
from stack import Cluster, Database, People

ALL = [one.name for one in shipped()]
AT_ONCE = 20


def history(database: Database) -> list[tuple[str, str]]:
    """Version and name of what was applied, in order; nothing where there is no history."""
    owner = database.connect()
    table = owner.execute("select to_regclass('supabase_migrations.schema_migrations')").fetchone()
    if table == (None,):
        return []
    query = "select version, name from supabase_migrations.schema_migrations order by version"
    return owner.execute(query).fetchall()


def apply(database: Database, migrations: tuple[Migration, ...]) -> list[str]:
    """Apply a set of migrations and give the names of those that were."""
    return [one.name for one in migrate.apply(database.connect(), migrations)]


def changed(name: str, text: str) -> tuple[Migration, ...]:
    """The shipped migrations with more at the end of one."""
    return tuple(
        replace(one, text=one.text + text) if one.name == name else one for one in shipped()
    )


def test_a_database_gets_what_the_cli_would_give_it(
    migrating: Program, empty: Database, database: Database
) -> None:
    shown = migrating("migrate")
    assert fingerprint(empty.url) == fingerprint(database.url)
    assert history(empty) == [(one.version, one.name) for one in shipped()]
    assert shown.out.splitlines() == [one.file_name for one in shipped()]
    assert shown.err.startswith("Applied:\n\nFor calls over HTTP, ")


@pytest.mark.one_server
def test_again_nothing_happens_and_that_is_said(migrating: Program, empty: Database) -> None:
    migrating("migrate")
    before = fingerprint(empty.url), history(empty)
    shown = migrating("migrate")
    assert (fingerprint(empty.url), history(empty)) == before
    assert shown.out == ""
    assert shown.err == f"{len(ALL)} migrations are there already: nothing to apply.\n"


@pytest.mark.one_server
def test_a_dry_run_writes_nothing(migrating: Program, empty: Database) -> None:
    shown = migrating("migrate", "--dry-run")
    assert history(empty) == []
    assert empty.connect().execute("select to_regnamespace('keylatch')").fetchone() == (None,)
    assert shipped()[0].file_name in shown.out
    answer = migrating.ok("migrate", "--dry-run")
    assert answer == {
        "dry_run": True,
        "present": [],
        "applied": [one.file_name for one in shipped()],
        "left_out": [],
    }


@pytest.mark.one_server
def test_a_later_version_adds_what_it_has_more(migrating: Program, empty: Database) -> None:
    migrating("migrate")
    assert apply(empty, next_version()) == [LEDGER.name]
    assert history(empty)[-1] == (LEDGER.version, LEDGER.name)
    assert migrating.ok("migrate")["applied"] == []


@pytest.mark.one_server
def test_what_comes_behind_newer_versions_is_stamped_anew(
    migrating: Program, empty: Database
) -> None:
    migrating("migrate")
    empty.connect().execute(
        "insert into supabase_migrations.schema_migrations values ('21000101000000', null, 'shop')"
    )
    assert apply(empty, next_version()) == [LEDGER.name]
    assert history(empty)[-1] == ("21000101000001", LEDGER.name)


@pytest.mark.one_server
@pytest.mark.parametrize("isolation", ["read committed", "repeatable read", "serializable"])
def test_twenty_at_once_apply_each_migration_once(
    empty: Database, database: Database, isolation: str
) -> None:
    """Under every default: who waited must see what was done meanwhile."""
    empty.connect().execute(
        f"alter database {empty.name} set default_transaction_isolation = '{isolation}'".encode()
    )
    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers = list(pool.map(lambda _: apply(empty, shipped()), range(AT_ONCE)))
    assert sorted(name for answer in answers for name in answer) == sorted(ALL)
    assert history(empty) == [(one.version, one.name) for one in shipped()]
    assert fingerprint(empty.url) == fingerprint(database.url)


@pytest.mark.one_server
def test_a_failing_file_is_named_and_only_those_before_it_are_applied(empty: Database) -> None:
    broken = changed("keylatch_minting", "\nselect no_such_column;\n")
    with pytest.raises(KeylatchError) as raised:
        apply(empty, broken)
    error = raised.value
    line = broken[5].text.count("\n")
    assert (error.slug, error.sqlstate) == ("migration_failed", "42703")
    assert error.detail == (
        f'{broken[5].file_name}, line {line}: column "no_such_column" does not exist'
    )
    assert [name for _, name in history(empty)] == ALL[:5]
    found = empty.connect().execute("select to_regproc('keylatch_internal.mint_key')").fetchone()
    assert found == (None,), "nothing of the file that failed is there"
    assert apply(empty, shipped()) == ALL[5:]


@pytest.mark.one_server
def test_an_error_is_one_line_with_a_hint_for_people(migrating: Program, empty: Database) -> None:
    empty.connect().execute("create schema keylatch_internal")
    shown = migrating("migrate", code=1)
    assert shown.out == ""
    first, second = shown.err.splitlines()
    assert first.startswith(f"migration_failed: {shipped()[0].file_name}: schema ")
    assert second.startswith("hint: ")
    assert "keylatch doctor" in second


@pytest.mark.one_server
def test_own_tenancy_is_left_out_and_stays_out(migrating: Program, empty: Database) -> None:
    shown = migrating("migrate", "--tenancy", "own")
    assert "create or replace function keylatch.admin_workspace_ids()" in shown.err
    rest = [name for name in ALL if name != TENANCY_NAME]
    assert [name for _, name in history(empty)] == rest
    later = migrating("migrate")
    assert [name for _, name in history(empty)] == rest
    assert f"{TENANCY_NAME} is left out" in later.err
    migrating("migrate", "--tenancy", "keylatch")
    # With a version of its own time: it was applied after all others.
    assert [name for _, name in history(empty)] == [*rest, TENANCY_NAME]


def test_a_superuser_applies_as_the_owner(program: Program, empty: Database) -> None:
    """First as the owner of the database, then as that of keylatch."""
    superuser = program.having(DATABASE_URL=empty.superuser_url)
    list(migrate.apply(empty.connect(superuser=True), shipped()[:3]))
    superuser("migrate")
    owners = empty.connect().execute(
        "select distinct relowner::regrole::text from pg_class"
        " where relnamespace::regnamespace::text in ('keylatch', 'supabase_migrations')"
    )
    assert owners.fetchall() == [("postgres",)]


def test_who_may_not_is_told_so(program: Program, empty: Database) -> None:
    stranger = program.having(DATABASE_URL=empty.authenticator_url)
    before = stranger("migrate", code=3)
    apply(empty, shipped()[:-1])
    # What is there is for its owner to add to.
    after = stranger("migrate", code=3)
    for shown in (before, after):
        assert "permission denied" in shown.err
        assert shown.out == ""
    assert [name for _, name in history(empty)] == ALL[:-1]


@pytest.mark.one_server
def test_postgrest_is_told_once_that_there_are_new_calls(empty: Database) -> None:
    listener = empty.connect()
    listener.execute("listen pgrst")
    apply(empty, shipped())
    told = [one.payload for one in listener.notifies(timeout=1)]
    assert told == ["reload schema"]


@pytest.mark.one_server
def test_a_history_of_an_old_cli_gets_the_columns_that_are_missing(
    migrating: Program, empty: Database
) -> None:
    empty.connect().execute(
        "create schema supabase_migrations;"
        "create table supabase_migrations.schema_migrations (version text primary key);"
        "insert into supabase_migrations.schema_migrations values ('20200101000000')"
    )
    migrating("migrate", "--dry-run")
    migrating("migrate")
    assert history(empty) == [
        ("20200101000000", None),
        *((one.version, one.name) for one in shipped()),
    ]


def test_a_plain_server_is_told_what_it_lacks_and_gets_it(
    program: Program, other_server: Cluster
) -> None:
    with Database(other_server, "plain") as database:
        superuser = database.connect(superuser=True)
        superuser.execute("drop role anon, authenticated, service_role")
        owner = program.having(DATABASE_URL=database.url)
        chief = program.having(DATABASE_URL=database.superuser_url)
        what = "role anon, role authenticated, role service_role, function auth.uid()"
        shown = owner("migrate", code=5)
        assert shown.err.startswith(f"platform_missing: the database lacks {what}, ")
        assert "keylatch migrate --platform" in shown.err
        assert f"by --platform: {what}" in owner("migrate", "--dry-run").err
        assert "only a superuser" in owner("migrate", "--platform", code=3).err
        chief("migrate", "--platform", "--dry-run")
        assert superuser.execute("select to_regrole('anon')").fetchone() == (None,)

        assert "The platform is made." in chief("migrate", "--platform").err
        assert [name for _, name in history(database)] == ALL
        assert owner("migrate", "--platform").err.endswith("nothing to apply.\n")
        People.seed(database.url)


@pytest.mark.one_server
def test_a_server_that_goes_away_is_an_error_of_its_own(empty: Database) -> None:
    connection = psycopg.connect(empty.url, autocommit=True)
    steps = migrate.apply(connection)
    next(steps)
    empty.connect(superuser=True).execute(
        "select pg_terminate_backend(%s)", [connection.info.backend_pid]
    )
    with pytest.raises(KeylatchError) as raised:
        next(steps)
    assert raised.value.default_slug == "unavailable"
    assert [name for _, name in history(empty)] == ALL[:1]
