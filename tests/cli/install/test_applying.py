"""`keylatch apply` and `keylatch sql` do what a push does, in one transaction, also in parallel."""

import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from cli.install.project import NEXT, next_release
from cli.program import Program
from core.fingerprint import fingerprint
from keylatch.errors import KeylatchError
from keylatch_cli.install.apply import apply, read_database
from keylatch_cli.install.migrations import Choice, Installed, Release, shipped
from stack import HANG_SECONDS, Cluster, Database, People, notifications
from stack.checks import libpq
from stack.tools import MissingTool

VERSION = shipped().version
NAME = f"keylatch_{VERSION}"
ALL = Choice(all=True)
CORE = Choice(only=("core",))
AT_ONCE = 20

# An application with its own PostgREST and users. Its roles differ from Supabase's roles.
_APPLICATION = """
drop role authenticated;
alter role anon noinherit;
alter role anon set statement_timeout = '1min';
comment on role anon is 'Visitors of the shop.';
alter role service_role nobypassrls;
alter role authenticator inherit;
alter role authenticator reset all;
alter role postgres nocreatedb;
revoke pg_monitor from postgres;
revoke anon from authenticator;
alter role postgres reset all;
comment on role postgres is null;
create schema extensions authorization postgres;
create schema auth;
comment on schema auth is 'Who buys.';
create table auth.users (id uuid primary key, name text);
comment on table auth.users is 'Buyers.';
create function auth.uid() returns uuid language sql stable
as $$ select nullif(current_setting('shop.buyer', true), '')::uuid $$;
"""
_STATE = """
select r.rolname::text, r.rolinherit, r.rolbypassrls, r.rolcreatedb, s.setconfig,
  shobj_description(r.oid, 'pg_authid')
from pg_roles as r left join pg_db_role_setting as s on s.setrole = r.oid
where r.rolname in ('anon', 'service_role', 'authenticator', 'postgres')
union all
select m.roleid::regrole || ' to ' || m.member::regrole, m.admin_option, null, null, null, null
from pg_auth_members as m
where m.member in ('postgres'::regrole, 'authenticator'::regrole)
  and m.roleid::regrole::text not in ('authenticated', 'keylatch_resolver')
union all
select n.nspname, n.nspowner = 'supabase_admin'::regrole, null, null, null,
  obj_description(n.oid, 'pg_namespace')
from pg_namespace as n where n.nspname in ('auth', 'extensions')
union all
select c.relname, c.relrowsecurity, null, null, c.relacl::text[], obj_description(c.oid, 'pg_class')
from pg_class as c where c.relname = 'users'
union all
select p.proname, null, null, null, null, p.prosrc
from pg_proc as p where p.oid = 'auth.uid()'::regprocedure
order by 1
"""


def names(database: Database, choice: Choice = ALL, release: Release | None = None) -> list[str]:
    """Apply with keylatch's tenancy, and return the names of the applied migrations."""
    made = apply(database.connect(), choice, "keylatch", release=release)
    return [one.name for one in made]


def broken(text: str) -> Release:
    """Return this release with more SQL at the end of the module usage."""
    release = shipped()
    usage = replace(release.parts["usage"], text=f"{release.parts['usage'].text}{text}")
    return replace(release, parts={**release.parts, "usage": usage})


def test_a_database_gets_what_the_cli_would_give_it(
    applying: Program, empty: Database, database: Database
) -> None:
    shown = applying("apply", "--all", "--tenancy", "keylatch")
    assert fingerprint(empty.url) == fingerprint(database.url)
    assert shown.out == f"{NAME}\n"
    assert shown.err.startswith("Applied:\n\nFor calls over HTTP, ")
    found = empty.connect().execute("select to_regnamespace('supabase_migrations')").fetchone()
    assert found == (None,), "the history of the CLI is the CLI's"


def test_psql_gets_the_same_from_the_printed_sql(
    program: Program, empty: Database, database: Database
) -> None:
    psql = shutil.which("psql")
    if psql is None:
        raise MissingTool("psql")
    printed = program("sql", "--all", "--tenancy", "keylatch").out
    subprocess.run(
        [psql, "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "-1"],
        input=printed,
        text=True,
        env=libpq(empty),
        check=True,
        capture_output=True,
        timeout=30,
    )
    assert fingerprint(empty.url) == fingerprint(database.url)


@pytest.mark.one_server
def test_the_printed_sql_is_what_a_project_gets(program: Program, tmp_path: Path) -> None:
    (tmp_path / "supabase").mkdir()
    (tmp_path / "supabase" / "config.toml").write_text("")
    options = ("--tenancy", "own", "--with", "usage")
    program("install", tmp_path, *options)
    (file,) = (tmp_path / "supabase" / "migrations").iterdir()
    shown = program("sql", *options)
    assert shown.out == file.read_text()
    assert "create or replace function keylatch.admin_workspace_ids()" in shown.err
    assert program("sql", code=2).err.startswith("tenancy_undecided: ")


@pytest.mark.one_server
def test_a_second_run_changes_nothing_and_says_so(applying: Program, empty: Database) -> None:
    applying("apply", "--tenancy", "keylatch")
    before = fingerprint(empty.url)
    for more in ((), ("--tenancy", "keylatch"), ("--with", "events")):
        shown = applying("apply", *more)
        assert shown.out == ""
        there = f"keylatch {VERSION} is already installed, with the core, events: nothing to do.\n"
        assert shown.err == there
    assert fingerprint(empty.url) == before
    assert applying.having("--db-url", empty.url)("sql").out == ""


@pytest.mark.one_server
def test_modules_may_be_named_in_one_option_or_in_several(
    applying: Program, empty: Database
) -> None:
    applying("apply", "--tenancy", "keylatch", "--with", "usage", "--with", "notify,legacy")
    row = empty.connect().execute("select modules from keylatch.installation()").fetchone()
    assert row is not None
    assert {"usage", "notify", "legacy"} <= set(row[0])


@pytest.mark.one_server
def test_a_dry_run_writes_nothing(applying: Program, empty: Database) -> None:
    shown = applying("apply", "--dry-run", "--tenancy", "own")
    assert shown.out == f"{NAME}\n"
    assert empty.connect().execute("select to_regnamespace('keylatch')").fetchone() == (None,)
    assert applying.ok("apply", "--dry-run", "--tenancy", "own", "--only", "usage") == {
        "dry_run": True,
        "version": None,
        "modules": [],
        "tenancy": "own",
        "adds": ["core", "usage"],
        "applied": [NAME],
    }


@pytest.mark.one_server
def test_modules_that_are_added_make_the_installation_that_has_them_from_the_start(
    applying: Program, empty: Database, database: Database
) -> None:
    applying("apply", "--only", "core", "--tenancy", "keylatch")
    assert applying("apply", "--with", "sessions").out == "keylatch_request_sessions\n"
    lacking = applying.having("--db-url", empty.url)("sql", "--all").out
    assert "-- made by: keylatch install . --with events,usage,notify,legacy\n" in lacking
    assert applying.ok("apply", "--all")["adds"] == ["events", "usage", "notify", "legacy"]
    assert sorted(fingerprint(empty.url)) == sorted(fingerprint(database.url))
    installed = read_database(empty.connect())
    assert installed == Installed(VERSION, frozenset(shipped().modules), "keylatch")


@pytest.mark.one_server
@pytest.mark.parametrize("tenancy", ["keylatch", "own"])
@pytest.mark.parametrize("choice", [CORE, Choice(), ALL], ids=["core", "default", "all"])
def test_an_upgraded_database_is_equal_to_a_fresh_one(
    server: Cluster, empty: Database, choice: Choice, tenancy: str
) -> None:
    whose = "own" if tenancy == "own" else "keylatch"
    later = next_release()
    apply(empty.connect(), choice, whose)  # type: ignore[arg-type]
    key = "insert into keylatch_internal.keys (workspace_id) values (gen_random_uuid())"
    empty.connect().execute(key.encode())
    made = apply(empty.connect(), release=later)
    assert [one.name for one in made] == [f"keylatch_{VERSION}_to_{NEXT}"]
    with Database(server, f"fresh_{tenancy}_{id(choice)}") as fresh:
        server.install_platform(fresh.name)
        apply(fresh.connect(), choice, whose, release=later)  # type: ignore[arg-type]
        assert fingerprint(empty.url) == fingerprint(fresh.url)
        assert read_database(empty.connect()) == read_database(fresh.connect())
    assert empty.connect().execute("select count(*) from keylatch.keys").fetchone() == (1,)
    assert apply(empty.connect(), release=later) == ()


@pytest.mark.one_server
def test_an_upgrade_that_forgets_something_is_seen_by_the_catalog(
    server: Cluster, empty: Database
) -> None:
    """The test above can fail: here the upgrade leaves out the comment on the table."""
    later = next_release("create table keylatch_internal.ledger (id uuid primary key);\n")
    apply(empty.connect(), CORE, "own")
    apply(empty.connect(), release=later)
    with Database(server, "fresh_forgetful") as fresh:
        server.install_platform(fresh.name)
        apply(fresh.connect(), CORE, "own", release=later)
        differ = set(fingerprint(fresh.url)) ^ set(fingerprint(empty.url))
    assert [line.split()[0] for line in differ] == ["comment"]


@pytest.mark.one_server
def test_a_file_for_another_state_refuses_to_run(empty: Database) -> None:
    owner = empty.connect()
    apply(owner, CORE, "own")
    sessions = Choice(added=("sessions",))
    for release, there, choice in (
        # The database lacks a module that sessions needs, the module events, and the new version.
        (shipped(), Installed(VERSION, frozenset({"request"}), "own"), sessions),
        (next_release(), Installed(VERSION, frozenset({"events"}), "own"), Choice()),
        (next_release(), Installed(NEXT, frozenset(), "own"), sessions),
    ):
        (one,) = release.plan(there, choice, None)
        with pytest.raises(psycopg.errors.RaiseException, match="This file needs keylatch"):
            owner.execute(one.text.encode())


@pytest.mark.one_server
@pytest.mark.parametrize("isolation", ["read committed", "repeatable read", "serializable"])
def test_twenty_at_once_apply_it_once(empty: Database, database: Database, isolation: str) -> None:
    """With every default isolation level, a waiting session must see what the others committed."""
    empty.connect().execute(
        f"alter database {empty.name} set default_transaction_isolation = '{isolation}'".encode()
    )
    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers = list(
            pool.map(lambda _: names(empty, CORE), range(AT_ONCE), timeout=2 * HANG_SECONDS)
        )
    assert sorted(answers) == [*[[]] * (AT_ONCE - 1), [NAME]]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers = list(pool.map(lambda _: names(empty), range(AT_ONCE), timeout=2 * HANG_SECONDS))
    assert sorted(answers) == [*[[]] * (AT_ONCE - 1), [f"keylatch_{'_'.join(shipped().modules)}"]]
    assert sorted(fingerprint(empty.url)) == sorted(fingerprint(database.url))


@pytest.mark.one_server
def test_a_failed_migration_is_named_with_its_line_and_leaves_nothing(empty: Database) -> None:
    release = broken("\nselect no_such_column;\n")
    with pytest.raises(KeylatchError) as raised:
        apply(empty.connect(), Choice(only=("usage",)), "own", release=release)
    error = raised.value
    (made,) = release.plan(None, Choice(only=("usage",)), "own")
    assert (error.slug, error.sqlstate) == ("migration_failed", "42703")
    assert error.detail == (
        f"{NAME}, line {made.text[: made.text.index('no_such_column')].count(chr(10)) + 1}: "
        'column "no_such_column" does not exist'
    )
    assert empty.connect().execute("select to_regnamespace('keylatch')").fetchone() == (None,)
    names(empty, CORE)
    with pytest.raises(KeylatchError, match="keylatch_usage, line"):
        names(empty, Choice(added=("usage",)), release)
    assert read_database(empty.connect()) == Installed(VERSION, frozenset(), "keylatch")


@pytest.mark.one_server
def test_an_error_is_one_line_with_a_hint_for_people(applying: Program, empty: Database) -> None:
    empty.connect().execute("create schema keylatch_internal")
    shown = applying("apply", "--tenancy", "own", code=1)
    assert shown.out == ""
    first, second = shown.err.splitlines()
    assert first == f'migration_failed: {NAME}: schema "keylatch_internal" already exists'
    assert second == (
        "hint: Another role owns the schema: rename the schema, or drop it if nobody needs it."
    )


@pytest.mark.one_server
def test_an_installation_of_an_earlier_checkout_is_told_to_drop_and_install_again(
    applying: Program, empty: Database
) -> None:
    empty.connect().execute(
        "create schema keylatch_internal;"
        "create table keylatch_internal.installation (schema_version text)"
    )
    shown = applying("apply", "--tenancy", "own", code=1)
    first, *hint = shown.err.splitlines()
    assert first == (
        "earlier_checkout: The database has keylatch from a checkout before the first release."
    )
    assert 'psql "$DATABASE_URL" -c \'drop schema if exists keylatch_hooks' in hint[1]


@pytest.mark.one_server
def test_an_own_tenancy_is_left_out_and_shown_and_never_replaced(
    applying: Program, empty: Database
) -> None:
    assert applying("apply", code=2).err.startswith("tenancy_undecided: ")
    shown = applying("apply", "--tenancy", "own")
    assert "create or replace function keylatch.admin_workspace_ids()" in shown.err
    applying("apply", "--with", "usage")
    refused = applying("apply", "--tenancy", "keylatch", code=1)
    assert refused.err.startswith("tenancy_installed: ")
    found = empty.connect().execute("select to_regclass('keylatch.workspaces')").fetchone()
    assert found == (None,)


@pytest.mark.one_server
def test_a_superuser_applies_as_the_owner(program: Program, empty: Database) -> None:
    """The first command acts as the owner of the database, the second as the owner of keylatch."""
    superuser = program.having(DATABASE_URL=empty.superuser_url)
    superuser("apply", "--tenancy", "keylatch", "--only", "core")
    superuser("apply", "--all")
    owners = empty.connect().execute(
        "select distinct relowner::regrole::text from pg_class"
        " where relnamespace::regnamespace::text in ('keylatch', 'keylatch_internal')"
    )
    assert owners.fetchall() == [("postgres",)]


@pytest.mark.one_server
def test_a_user_without_the_right_is_told_so(program: Program, empty: Database) -> None:
    stranger = program.having(DATABASE_URL=empty.authenticator_url)
    before = stranger("apply", "--tenancy", "own", code=3)
    names(empty, CORE)
    after = stranger("apply", "--all", code=3)
    assert "permission denied" in before.err
    assert "logs in as authenticator; this command needs the owner's login." in after.err
    assert before.out == after.out == ""


@pytest.mark.one_server
def test_postgrest_is_told_once_that_there_are_new_calls(empty: Database) -> None:
    listener = empty.connect()
    listener.execute("listen pgrst")
    names(empty)
    names(empty)
    assert notifications(listener, empty.connect()) == ["reload schema"]


def test_apply_platform_names_what_a_plain_server_lacks_and_creates_it(
    program: Program, other_server: Cluster
) -> None:
    with Database(other_server, "plain") as database:
        superuser = database.connect(superuser=True)
        superuser.execute("drop role anon, authenticated, service_role")
        owner = program.having("--tenancy", "keylatch", DATABASE_URL=database.url)
        chief = program.having("--tenancy", "keylatch", DATABASE_URL=database.superuser_url)
        what = "role anon, role authenticated, role service_role, function auth.uid(), table "
        what += "auth.users"
        shown = owner("apply", code=5)
        assert shown.err.startswith(f"platform_missing: The database has no {what}, ")
        assert "keylatch apply --platform" in shown.err
        assert f"Missing: {what}. " in owner("apply", "--dry-run").err
        assert "Only a superuser" in owner("apply", "--platform", code=3).err
        chief("apply", "--platform", "--dry-run")
        assert superuser.execute("select to_regrole('anon')").fetchone() == (None,)

        assert (
            "Created the roles of a Supabase project, without" in chief("apply", "--platform").err
        )
        assert "nothing to do" in owner("apply", "--platform").err
        People.seed(database.url)


@pytest.mark.parametrize(("attributes", "keeper"), [("", "postgres"), ("createrole", "shop_owner")])
def test_apply_platform_leaves_the_database_to_its_owner(
    program: Program, other_server: Cluster, attributes: str, keeper: str
) -> None:
    """Threat: an application can no longer change its own database."""
    with Database(other_server, "shop") as database:
        chief = database.connect(superuser=True)
        chief.execute(f"create role shop_owner login {attributes}".encode())
        try:
            chief.execute("alter database shop owner to shop_owner")
            superuser = program.having(DATABASE_URL=database.superuser_url)
            superuser("apply", "--platform", "--tenancy", "keylatch")
            assert superuser.ok("issue", People.a, "--kind", "secret")["id"]
            owners = "select datdba::regrole::text, n.nspowner::regrole::text from pg_database"
            owners += ", pg_namespace as n where datname = current_database() and nspname = %s"
            row = chief.execute(owners.encode(), ["keylatch_internal"]).fetchone()
            assert row == ("shop_owner", keeper)
            assert chief.execute("select from pg_default_acl").rowcount == 0
            chief.execute("set role shop_owner")
            chief.execute("create table public.orders (id bigint)")
            acl = "select relacl from pg_class where relname = 'orders'"
            assert chief.execute(acl).fetchone() == (None,)
        finally:
            chief.execute("reset role")
            chief.execute("alter database shop owner to postgres")
            chief.execute("drop owned by shop_owner")
            chief.execute("drop role shop_owner")


def test_apply_platform_changes_nothing_that_another_application_has(
    program: Program, other_server: Cluster
) -> None:
    """Threat: the roles and users of somebody else's PostgREST behave otherwise."""
    with Database(other_server, "shop") as database:
        chief = database.connect(superuser=True)
        chief.execute(_APPLICATION)
        before = chief.execute(_STATE).fetchall()
        superuser = program.having(DATABASE_URL=database.superuser_url)
        assert "Created the roles" in superuser("apply", "--platform", "--tenancy", "own").err
        assert chief.execute(_STATE).fetchall() == before
        assert len(before) > 12
        row = chief.execute("select to_regprocedure('auth.role()') is not null").fetchone()
        assert row == (True,)


@pytest.mark.one_server
def test_a_server_that_goes_away_is_an_error_of_its_own(empty: Database) -> None:
    connection = psycopg.connect(empty.url, autocommit=True)
    empty.connect(superuser=True).execute(
        "select pg_terminate_backend(%s)", [connection.info.backend_pid]
    )
    with pytest.raises(KeylatchError) as raised:
        apply(connection, CORE, "own")
    assert raised.value.slug == "unavailable"


def test_no_function_or_operator_of_another_role_is_called_or_kept(empty: Database) -> None:
    """Threat: on an old cluster everybody may create functions in the schema public."""
    hostile = """
        grant create on schema public to anon;
        set role anon;
        create table public.called (what text);
        grant insert on public.called to public;
        create function public.array_append(text[], text) returns text[] language plpgsql as $f$
          begin insert into public.called values ('array_append'); return $1 || array[$2]; end $f$;
        create function public.convert_to(text, text) returns bytea language plpgsql immutable as
          $f$ begin return pg_catalog.convert_to($1, $2::name); end $f$;
        create function public.equal(text[], text[]) returns boolean language sql immutable as
          'select true';
        create operator public.= (leftarg = text[], rightarg = text[], function = public.equal);
    """
    with psycopg.connect(empty.superuser_url) as superuser:
        superuser.execute(hostile)
    applying = empty.connect()
    before = applying.execute("show search_path").fetchone()
    assert apply(applying, ALL, "keylatch")
    assert applying.execute("show search_path").fetchone() == before
    with psycopg.connect(empty.superuser_url) as superuser:
        assert superuser.execute("select * from public.called").fetchall() == []
        kept = superuser.execute(
            "select pg_describe_object(classid, objid, objsubid) from pg_depend"
            " where refobjid in ("
            "  select oid from pg_proc where pronamespace = 'public'::regnamespace"
            "  union select oid from pg_operator where oprnamespace = 'public'::regnamespace)"
            " and classid not in ('pg_proc'::regclass, 'pg_operator'::regclass)"
        ).fetchall()
        assert kept == []
