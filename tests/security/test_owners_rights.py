"""Functions with the owner's rights never run a caller's code."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from security.shared import open_system
from security.system import ORIGIN, System, sqlstate
from stack import Cluster, Janitor, Tokens

# As in a hosted project: the casts name no schema, and the functions set no search path.
HOSTED_AUTH = """
create or replace function auth.uid() returns uuid language sql stable as $$
  select coalesce(
    nullif(current_setting('request.jwt.claim.sub', true), ''),
    (nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')
  )::uuid
$$;
create or replace function auth.jwt() returns jsonb language sql stable as $$
  select coalesce(
    nullif(current_setting('request.jwt.claim', true), ''),
    nullif(current_setting('request.jwt.claims', true), '')
  )::jsonb
$$;
"""
# A domain named like a type runs its check wherever that name is used without a schema.
SPY = """
create function pg_temp.spy(pg_catalog.{name}) returns pg_catalog.bool language plpgsql as $$
begin
  raise notice 'ran as %', current_user;
  return true;
end $$;
create domain pg_temp.{name} as pg_catalog.{name} check (pg_temp.spy(value));
"""
SPIED = ("uuid", "jsonb", "text", "timestamptz", "bytea", "json")


@pytest.fixture(scope="module")
def shared(server: Cluster, template: str, tokens: Tokens, janitor: Janitor) -> Iterator[System]:
    with open_system(server, template, tokens, janitor, "owners_rights") as system:
        with system.database.connect(superuser=True) as root:
            root.execute(HOSTED_AUTH.encode())
        yield system


def users_who_ran_it(system: System, who: str, name: str, statements: list[str]) -> set[str]:
    """Return the users that ran the check of a type with this name, which the caller owns."""
    heard: set[str] = set()
    with system.connect(who) as caller:
        caller.add_notice_handler(lambda said: heard.add(str(said.message_primary)))
        caller.execute(SPY.format(name=name).encode())
        caller.autocommit = False
        for statement in statements:
            with caller.transaction(force_rollback=True):
                try:
                    with caller.transaction():
                        caller.execute(statement.encode())
                except psycopg.Error as error:
                    # Expected: a refusal, or a row that others refer to. Another error would come
                    # from the spy.
                    if error.sqlstate not in ("42501", "PT404", "PT400", "23503"):
                        raise
    return {line.removeprefix("ran as ") for line in heard if line.startswith("ran as ")}


def calls(system: System) -> list[str]:
    """Return statements that reach all the functions, for a caller with all rights."""
    living, b = system.keys["active"], system.people.b
    return [
        f"select keylatch.issue_key('{system.people.a}', 'secret', expires_at => '2090-01-01')",
        f"insert into keylatch.keys (workspace_id) values ('{system.people.a}')",
        f"select keylatch.rotate_key('{living.id}', '1 hour')",
        f"select keylatch.revoke_key('{living.id}', 'x', true)",
        f"select keylatch.suspend_key('{living.id}')",
        f"select keylatch.unsuspend_key('{system.keys['suspended'].id}')",
        f"update keylatch.keys set label = 'x', expires_at = '2090-01-01' where id = '{living.id}'",
        f"select keylatch.list_keys('{system.people.a}')",
        f"select keylatch.explain_key('{living.key}')",
        f"select keylatch.explain_key('{system.keys['widget'].key}', '{ORIGIN}')",
        f"select * from keylatch.resolve_key('{living.key}')",
        f"select * from keylatch.resolve_key('{system.keys['widget'].key}', '{ORIGIN}')",
        f"delete from keylatch.workspaces where id = '{b}'",
        f"update keylatch.workspaces set id = gen_random_uuid() where id = '{b}'",
        "select keylatch.installation()",
        f"""select set_config('request.headers', '{{"x-api-key": "{living.key}"}}', true),
        keylatch.current_workspace_id(), keylatch.current_key_id(), keylatch.key_metadata(),
        keylatch.has_scope('orders:read'), keylatch.check_request()""",
    ]


@pytest.mark.parametrize("name", SPIED)
@pytest.mark.parametrize("who", ["alice", "bob", "keylatch_resolver", "anon"])
def test_no_call_of_a_user_runs_their_code_with_other_rights(
    shared: System, who: str, name: str
) -> None:
    """Threat: temp tables or functions shadowing names; here types, beneath `auth` as hosted."""
    role = who if who in ("keylatch_resolver", "anon") else "authenticated"
    with shared.nothing_changes():
        assert users_who_ran_it(shared, who, name, calls(shared)) <= {role}


@pytest.mark.parametrize("name", SPIED)
def test_no_call_of_the_service_role_runs_its_code_with_other_rights(
    shared: System, name: str
) -> None:
    """Threat: the same; `service_role` may delete a workspace, which runs a definer function."""
    with shared.nothing_changes():
        assert users_who_ran_it(shared, "service_role", name, calls(shared)) <= {"service_role"}


def test_the_spy_hears_what_runs_with_the_owners_rights(shared: System) -> None:
    """The tests above can fail: the spy finds a function that names a type without a schema."""
    with shared.database.connect() as owner:
        owner.execute(
            """
            create function public.careless(t text) returns text
            language plpgsql security definer set search_path = ''
            as $$ begin return t::jsonb ->> 'a'; end $$
            """
        )
    heard = users_who_ran_it(shared, "alice", "jsonb", ["select public.careless('{\"a\": 1}')"])
    assert heard == {"postgres"}


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    "inner",
    [
        "perform keylatch.issue_key(new.workspace_id, label => 'companion')",
        "insert into keylatch.keys (workspace_id, label) values (new.workspace_id, 'companion')",
    ],
)
def test_a_trigger_of_the_application_that_makes_a_key_does_not_swallow_the_callers(
    system: System, when: str, inner: str
) -> None:
    """Threat: report 000 again: the caller gets the key of the row, or an error and no row."""
    with system.database.connect() as owner:
        owner.execute(
            f"""
            create function public.companion() returns trigger
            language plpgsql security definer set search_path = ''
            as $$ begin
              if new.label = 'main' then {inner}; end if;
              return new;
            end $$;
            create trigger a_companion {when} insert on keylatch_internal.keys
            for each row execute function public.companion()
            """.encode()
        )
    before = system.rows()
    with system.connect("alice") as alice:
        try:
            issue = "select key, masked_key from keylatch.issue_key(%s, 'secret', 'main')"
            row = alice.execute(issue, [system.people.a]).fetchone()
        except psycopg.Error:
            assert system.rows() == before
        else:
            assert row is not None
            assert row.key.startswith("wk_sk_live_")
            assert row.key[-4:] == row.masked_key[-4:]
            assert system.resolves(row.key)


ATTACHMENTS = (
    "after delete on public.teams for each row execute function {function}('ID')",
    "after delete on public.teams for each row execute function {function}('title')",
    "after delete on public.teams for each row execute function {function}('')",
    "after delete on public.teams for each statement execute function {function}()",
    "before delete on public.teams for each row execute function {function}()",
    "after delete or insert on public.teams for each row execute function {function}()",
)


@pytest.mark.parametrize("attachment", ATTACHMENTS)
def test_an_application_that_attaches_the_trigger_wrongly_hears_of_it(
    system: System, attachment: str
) -> None:
    """Threat: a definer function reachable with arguments its author did not expect: `tg_argv`."""
    with system.database.connect() as owner:
        owner.execute("create table public.teams (id uuid primary key, title text)")
        owner.execute("insert into public.teams values (%s, 'A')", [system.people.a])
        function = "keylatch_internal.revoke_workspace_keys"
        refused = sqlstate(owner, f"create trigger t {attachment.format(function=function)}")
        refused = refused or sqlstate(owner, "delete from public.teams")
        left: Any = owner.execute("select count(*) from public.teams").fetchone()
    if refused:
        assert left == (1,)
    else:
        assert left == (0,)
        assert not system.resolves(system.keys["active"].key)


def test_a_workspace_table_of_somebody_else_runs_no_code_of_theirs_with_our_rights(
    system: System,
) -> None:
    """Threat: a cast of a table's owner that runs as keylatch's owner, when a row is deleted."""
    heard: list[str] = []
    with system.database.connect(superuser=True) as root:
        root.add_notice_handler(lambda said: heard.append(str(said.message_primary)))
        root.execute(
            """
            create role tenant_owner; grant create on schema public to tenant_owner;
            grant execute on function keylatch_internal.revoke_workspace_keys() to tenant_owner;
            grant usage on schema keylatch_internal to tenant_owner;
            set role tenant_owner;
            create type public.mood as (word text);
            create function public.to_json(public.mood) returns json language plpgsql as
              $$ begin raise notice 'ran as %', current_user; return '{}'; end $$;
            create function public.to_text(public.mood) returns text language plpgsql as
              $$ begin raise notice 'ran as %', current_user; return 'x'; end $$;
            create cast (public.mood as json) with function public.to_json(public.mood);
            create cast (public.mood as text) with function public.to_text(public.mood)
              as assignment;
            create table public.teams (id uuid, mood public.mood);
            create trigger t after delete on public.teams for each row
              execute function keylatch_internal.revoke_workspace_keys();
            create trigger u after update on public.teams for each row
              execute function keylatch_internal.revoke_workspace_keys('mood');
            reset role;
            """
        )
        root.execute("insert into public.teams values (%s, row('x'))", [system.people.a])
        # An id column of this type is refused and not read.
        assert sqlstate(root, "update public.teams set mood = row('y')") == "55000"
        root.execute("select mood::text, to_jsonb(t) from public.teams as t")
        assert heard, "the spy itself is heard"
        heard.clear()
        root.execute("delete from public.teams")
        assert heard == []
        root.execute("drop owned by tenant_owner cascade; drop role tenant_owner")
    assert not system.resolves(system.keys["active"].key)


EVERYBODY_SIGNED_IN = ("authenticated", "keylatch_resolver", "service_role")
RUNTIME = ("keylatch_resolver", "service_role")
CALLABLE = {
    "keylatch.resolve_key(text,text)": RUNTIME,
    "keylatch.resolve_keys(text[],text[])": RUNTIME,
    "keylatch_internal.add_usage(jsonb)": RUNTIME,
    "keylatch_internal.await_replicas(numeric)": EVERYBODY_SIGNED_IN,
    "keylatch_internal.change_session(text,text,text)": RUNTIME,
    "keylatch_internal.delete_old_sessions(integer)": ("service_role",),
    "keylatch_internal.describe_installation()": EVERYBODY_SIGNED_IN,
    "keylatch_internal.explain_for_resolver(text,text)": ("keylatch_resolver",),
    "keylatch_internal.find_key(text)": ("authenticated", "service_role"),
    "keylatch_internal.find_session(text)": RUNTIME,
    "keylatch_internal.keep_scheme(text,jsonb)": ("service_role",),
    "keylatch_internal.move_scheme_end(text,timestamp with time zone)": ("service_role",),
    "keylatch_internal.read_heartbeat(boolean)": RUNTIME,
    "keylatch_internal.read_position()": EVERYBODY_SIGNED_IN,
    "keylatch_internal.refuse(text,text,text,timestamp with time zone)": EVERYBODY_SIGNED_IN,
    "keylatch_internal.request_identity()": ("anon", *EVERYBODY_SIGNED_IN),
    "keylatch_internal.seal_key_events(integer)": ("service_role",),
    "keylatch_internal.start_session(text)": ("anon", "authenticated"),
    "keylatch_internal.take_import(jsonb,boolean,boolean,jsonb,jsonb)": ("service_role",),
    "keylatch_internal.upgrade_legacy_key(text,uuid)": RUNTIME,
    "keylatch_internal.verify_checkpoints(bigint,integer)": ("authenticated", "service_role"),
}


def test_the_callers_of_functions_with_the_owners_rights_are_written_down(shared: System) -> None:
    """Threat: every routine executable by `public` that is not on the list: extensions, public."""
    with shared.database.connect() as owner:
        found = owner.execute(
            """
            select p.oid::regprocedure::text, array_agg(r.rolname::text order by r.rolname)
            from pg_proc as p cross join pg_roles as r
            where p.prosecdef
              and p.pronamespace::regnamespace::text like 'keylatch%'
              and r.rolname in ('anon', 'authenticated', 'service_role', 'keylatch_resolver')
              and has_function_privilege(r.oid, p.oid, 'execute')
            group by p.oid
            """
        ).fetchall()
    assert {name: tuple(roles) for name, roles in found} == CALLABLE
