"""Removing keylatch: what still uses it is named, and the removal leaves nothing."""

import subprocess
from typing import Any

import psycopg
import pytest
from psycopg.errors import Diagnostic

from cli.install.project import Project
from cli.program import Program
from keylatch_cli.install.apply import apply
from keylatch_cli.install.migrations import Choice
from stack import (
    Cluster,
    CommandFailed,
    Database,
    Janitor,
    Rest,
    Tokens,
    push_migrations,
    until,
)
from stack.checks import libpq

pytestmark = pytest.mark.one_server

# Like basejump: accounts, their users, and a function that the policies call.
ACCOUNTS = """
create schema basejump;
grant usage on schema basejump to authenticated, service_role;
create table basejump.accounts (id uuid primary key default gen_random_uuid(), name text);
create table basejump.account_user (
  account_id uuid references basejump.accounts (id) on delete cascade,
  user_id uuid, account_role text, primary key (account_id, user_id)
);
create function basejump.get_accounts_with_role(passed_in_role text)
returns setof uuid language sql stable security definer set search_path = '' as $$
  select u.account_id from basejump.account_user as u
  where u.user_id = (select auth.uid()) and u.account_role = passed_in_role
$$;
create table public.bookings (id uuid primary key, account_id uuid references basejump.accounts);
alter table public.bookings enable row level security;
create policy bookings_select_owner on public.bookings for select to authenticated
using (account_id in (select basejump.get_accounts_with_role('owner')));
"""
# One object of each kind that an application builds on keylatch.
USES = """
create or replace function keylatch.admin_workspace_ids()
returns setof uuid language sql stable set search_path = pg_catalog, pg_temp as $$
  select basejump.get_accounts_with_role('owner')
$$;
create trigger accounts_delete_revoke_keys after delete on basejump.accounts
for each row execute function keylatch_internal.revoke_workspace_keys();
create policy bookings_select_key on public.bookings for select to anon
using (account_id = keylatch.current_workspace_id() and keylatch.has_scope('bookings:read'));
create view public.live_keys with (security_invoker = true) as
select k.id, k.label from keylatch.keys as k where k.status = 'active';
create table public.prints (key_hash bytea default keylatch.hash_key('none'));
create table public.uses (key_id uuid references keylatch_internal.keys (id));
create function public.bookings_of_key() returns setof public.bookings language plpgsql as $$
begin
  return query select o.* from public.bookings as o
  where o.account_id = keylatch.current_workspace_id();
end $$;
create publication changes for table keylatch_internal.keys;
"""
NAMED = [
    "default value for public.prints.key_hash",
    "function public.bookings_of_key()",
    "policy bookings_select_key on public.bookings",
    "publication relation keylatch_internal.keys in publication changes",
    "setting pgrst.db_pre_request=keylatch.check_request of role authenticator",
    "setting pgrst.db_schemas=public, keylatch of role authenticator",
    "table constraint uses_key_id_fkey on public.uses",
    "trigger accounts_delete_revoke_keys on basejump.accounts",
    "view public.live_keys",
]
UNUSE = """
drop trigger accounts_delete_revoke_keys on basejump.accounts;
drop policy bookings_select_key on public.bookings;
drop view public.live_keys;
drop table public.prints, public.uses;
drop function public.bookings_of_key;
drop publication changes;
"""
EXPOSE = (
    "alter role authenticator set pgrst.db_schemas = 'public, keylatch'",
    "alter role authenticator set pgrst.db_pre_request = 'keylatch.check_request'",
)
UNEXPOSE = (
    "alter role authenticator reset pgrst.db_schemas",
    "alter role authenticator reset pgrst.db_pre_request",
)
# The named objects, privileges, comments, settings and roles of a database and its server.
CATALOG = """
select c.relkind::text || ' ' || c.oid::regclass || ' ' || coalesce(c.relacl::text, '')
from pg_class as c where c.relnamespace <> 'pg_toast'::regnamespace and {0}
union all
select 'function ' || p.oid::regprocedure || ' ' || coalesce(p.proacl::text, '')
from pg_proc as p where {1}
union all select 'schema ' || nspname || coalesce(nspacl::text, '') from pg_namespace
where nspname !~ '^pg_(toast_)?temp'
union all select 'type ' || oid::regtype || typname from pg_type as t where {2}
union all select 'trigger ' || tgrelid::regclass || tgname from pg_trigger where not tgisinternal
union all select 'policy ' || polrelid::regclass || polname from pg_policy
union all select 'constraint ' || conrelid::regclass || conname from pg_constraint
where conrelid <> 0
union all select 'default ' || adrelid::regclass || adnum from pg_attrdef
union all select 'acl ' || defaclrole::regrole || defaclobjtype::text || defaclacl::text
from pg_default_acl
union all select 'publication ' || pubname from pg_publication
union all select 'extension ' || extname || extnamespace::regnamespace from pg_extension
union all select 'comment ' || description from pg_description where objoid > 16383
union all select 'setting ' || setconfig::text from pg_db_role_setting
union all select 'role ' || rolname from pg_roles
union all select 'member ' || member::regrole || roleid::regrole from pg_auth_members
"""
AFTER_INITDB = ("c.oid > 16383", "p.oid > 16383", "t.oid > 16383")


def catalog(database: Database) -> list[str]:
    """Return the catalog of a database and its server, as sorted lines."""
    with database.connect(superuser=True) as connection:
        rows = connection.execute(CATALOG.format(*AFTER_INITDB).encode()).fetchall()
    lines = sorted(row[0] for row in rows)
    assert len(lines) > 50
    return lines


@pytest.fixture
def alone(other_server: Cluster) -> Any:
    """A database on a server where no other database has keylatch."""
    with Database(other_server, "shop") as database:
        other_server.install_platform(database.name)
        yield database


def test_objects_that_use_keylatch_are_named_and_the_removal_leaves_nothing(
    program: Program, project: Project, alone: Database
) -> None:
    project.add("accounts", ACCOUNTS, days=5)
    push_migrations(alone.url, project.path)
    before = catalog(alone)
    program("install", project.path, "--all", "--tenancy", "own", "--expose")
    project.add("uses", USES, days=30)
    push_migrations(alone.url, project.path)
    server = alone.connect(superuser=True)
    for statement in EXPOSE:
        server.execute(statement.encode())
    owner = alone.connect()
    owner.execute("select keylatch.issue_key(gen_random_uuid(), 'secret')")

    there = program.having(DATABASE_URL=alone.url)
    files = project.snapshot()
    refused = there("uninstall", project.path, "--json", code=1)
    assert refused.err.startswith("still_used: 10 things use keylatch, and nothing was written.\n")
    named = [f"{one['kind']} {one['thing']}" for one in refused.json["used_by"]]
    assert sorted(named) == sorted([*NAMED, "setting [api] schemas in supabase/config.toml"])
    shown = there.having(COLUMNS="80")("uninstall", project.path, code=1)
    assert max(map(len, shown.out.splitlines())) <= 80
    assert project.snapshot() == files

    for statement in UNEXPOSE:
        server.execute(statement.encode())
    project.config.write_text(project.config.read_text().replace(', "keylatch"', ""))
    project.add("unuse", UNUSE, days=60)
    push_migrations(alone.url, project.path)
    written = there("uninstall", project.path)
    assert project.names()[-1] == "keylatch_removal"
    assert "This deletes 1 keys and their events for good." in written.err
    assert written.err.index("1. Unexpose") < written.err.index("2. Drop: supabase db push")
    push_migrations(alone.url, project.path)
    assert catalog(alone) == before

    # The project has no keylatch now, and can install keylatch again.
    assert there("uninstall", project.path, code=5).err.startswith("not_installed: ")
    program("install", project.path, "--tenancy", "own", "--only", "core")
    push_migrations(alone.url, project.path)
    assert owner.execute("select id from keylatch.installation()").fetchone()


def test_the_migration_itself_stops_where_keylatch_is_used(
    program: Program, project: Project, alone: Database
) -> None:
    project.add("accounts", ACCOUNTS, days=5)
    program("install", project.path, "--all", "--tenancy", "own")
    project.add("uses", USES, days=30)
    push_migrations(alone.url, project.path)
    for statement in EXPOSE:
        alone.connect(superuser=True).execute(statement.encode())
    before = catalog(alone)
    shown = program("uninstall", project.path)
    assert "No database was checked for objects that use keylatch" in shown.err
    with pytest.raises(CommandFailed) as refused:
        push_migrations(alone.url, project.path)
    for thing in NAMED:
        assert thing in str(refused.value)
    assert catalog(alone) == before
    # Without ON_ERROR_STOP, psql goes on after the error.
    (removal,) = project.path.rglob("*_keylatch_removal.sql")
    psql = ["psql", "--no-psqlrc", "--quiet", f"--file={removal}"]
    done = subprocess.run(psql, env=libpq(alone), capture_output=True, text=True, check=True)
    assert "keylatch is still in use" in done.stderr
    assert catalog(alone) == before


def test_an_exposed_schema_is_never_dropped_under_the_api(
    program: Program, alone: Database, tokens: Tokens, janitor: Janitor
) -> None:
    apply(alone.connect(), Choice(all=True), "keylatch")
    server = alone.connect(superuser=True)
    for statement in EXPOSE:
        server.execute(statement.encode())
    there = program.having(DATABASE_URL=alone.url)
    with Rest(alone, tokens, janitor=janitor, schemas="public") as rest:
        for statement in UNEXPOSE:
            refused = there("uninstall", code=1)
            assert refused.err.startswith("still_used: ")
            assert statement.rpartition(" ")[2] in refused.out
            server.execute(statement.encode())
        text = there("uninstall").out
        alone.connect().execute(text.encode())
        public = {"Accept-Profile": "public"}
        until(lambda: rest.request("GET", "/", headers=public).status_code == 200)
    assert there("uninstall").err.startswith("\nThis deletes every key")


def test_a_job_that_calls_keylatch_is_named(program: Program, alone: Database) -> None:
    apply(alone.connect(), Choice(only=("events",)), "keylatch")
    server, owner = alone.connect(superuser=True), alone.connect()
    # The part of pg_cron's schema that uninstall reads.
    server.execute("create schema cron authorization postgres")
    owner.execute("create table cron.job (jobname text, command text)")
    owner.execute("insert into cron.job values ('other', 'select 1')")
    owner.execute("insert into cron.job values ('seal', 'select keylatch.seal_events(9)')")
    refused = program.having(DATABASE_URL=alone.url)("uninstall", "--json", code=1)
    job = {"kind": "cron job", "thing": "seal: select keylatch.seal_events(9)"}
    assert refused.json["used_by"] == [job]
    text = program("uninstall").out
    with pytest.raises(psycopg.errors.DependentObjectsStillExist, match="cron job seal: "):
        owner.execute(text.encode())
    owner.execute("delete from cron.job where jobname = 'seal'")
    owner.execute(text.encode())
    assert owner.execute("select to_regnamespace('keylatch')").fetchone() == (None,)


class Said:
    """The notices of a server."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def hear(self, notice: Diagnostic) -> None:
        self.lines.append(notice.message_primary or "")


def test_a_role_that_another_database_uses_stays(alone: Database, program: Program) -> None:
    apply(alone.connect(), Choice(), "keylatch")
    with Database(alone.server, "other") as other:
        other.server.install_platform(other.name)
        apply(other.connect(), Choice(), "keylatch")
        for one, stays in ((alone, True), (other, False)):
            text = program.having(DATABASE_URL=one.url)("uninstall").out
            connection = one.connect()
            said = Said()
            connection.add_notice_handler(said.hear)
            connection.execute(text.encode())
            found = connection.execute("select to_regrole('keylatch_resolver')").fetchone()
            assert (found != (None,)) is stays
            assert any("another database" in line for line in said.lines) is stays


def test_a_role_that_the_application_uses_stays(alone: Database, program: Program) -> None:
    apply(alone.connect(), Choice(), "keylatch")
    owner = alone.connect()
    owner.execute("create table public.mine ()")
    owner.execute("grant select on public.mine to keylatch_resolver")
    text = program.having(DATABASE_URL=alone.url)("uninstall").out
    with alone.connect() as connection:
        connection.execute(text.encode())
        assert connection.execute("select to_regrole('keylatch_resolver')").fetchone() != (None,)
        assert connection.execute("select to_regnamespace('keylatch')").fetchone() == (None,)
        connection.execute("revoke select on public.mine from keylatch_resolver")
        connection.execute("create role edge nologin in role keylatch_resolver")
        hints: list[str] = []
        connection.add_notice_handler(lambda notice: hints.append(notice.message_hint or ""))
        connection.execute(text.encode())
        assert connection.execute("select to_regrole('keylatch_resolver')").fetchone() != (None,)
        # The hint keeps the application's role.
        assert hints[-1].startswith("Run: revoke keylatch_resolver from edge; drop role")
        connection.execute(hints[-1].removeprefix("Run: ").encode())
        assert connection.execute("select to_regrole('edge')").fetchone() != (None,)
        assert connection.execute("select to_regrole('keylatch_resolver')").fetchone() == (None,)
        with pytest.raises(psycopg.errors.InvalidParameterValue):
            connection.execute("set role keylatch_resolver")
