"""Attacks on functions: shadowing names, unexpected arguments, and who may call them."""

from pathlib import Path

import psycopg
import pytest

from security.system import System, sqlstate

DEFINERS = """
select p.oid::regprocedure::text as name, p.prosrc, p.prorettype = 'trigger'::regtype as is_trigger
from pg_proc as p
where p.prosecdef and p.pronamespace::regnamespace::text like 'keylatch%'
"""
# The functions with the owner's rights, besides resolve_key and resolve_keys.
DEFINER_NAMES = (
    "add_usage(jsonb)",
    "await_replicas(numeric)",
    "change_session(text,text,text)",
    "check_session_key()",
    "delete_old_sessions(integer)",
    "delete_session()",
    "describe_installation()",
    "explain_for_resolver(text,text)",
    "find_key(text)",
    "find_session(text)",
    "hold_expiry()",
    "hold_extension()",
    "keep_scheme(text,jsonb)",
    "move_scheme_end(text,timestamp with time zone)",
    "notify_caches()",
    "read_heartbeat(boolean)",
    "read_position()",
    "record_change()",
    "record_new_key()",
    "record_revocations()",
    "refuse(text,text,text,timestamp with time zone)",
    "request_identity()",
    "revoke_workspace_keys()",
    "seal_key_events(integer)",
    "share_workspaces()",
    "start_session(text)",
    "take_import(jsonb,boolean,boolean,jsonb,jsonb)",
    "upgrade_legacy_key(text,uuid)",
    "verify_checkpoints(bigint,integer)",
)
# Objects with names that the functions use, in the schema that is searched first.
SHADOWS = """
create temporary table keys (id uuid, key_hash bytea, revoked_at timestamptz);
create temporary table workspaces (id uuid);
create temporary table installation (id uuid);
create type pg_temp.uuid as (a integer);
create type pg_temp.text as (a integer);
create type pg_temp.jsonb as (a integer);
create type pg_temp.timestamptz as (a integer);
create function pg_temp.clock_timestamp() returns pg_catalog.timestamptz
  language sql as 'select ''2000-01-01''::pg_catalog.timestamptz';
create function pg_temp.sha256(pg_catalog.bytea) returns pg_catalog.bytea
  language sql as 'select ''\\x00''::pg_catalog.bytea';
create function pg_temp.hash_key(pg_catalog.text) returns pg_catalog.bytea
  language sql as 'select ''\\x00''::pg_catalog.bytea';
create function pg_temp.gen_random_uuid() returns pg_catalog.uuid
  language sql as 'select ''00000000-0000-4000-8000-000000000000''::pg_catalog.uuid';
create function pg_temp.current_setting(pg_catalog.text) returns pg_catalog.text
  language sql as 'select ''replica''::pg_catalog.text';
"""


def test_shadowing_names_change_nothing(system: System) -> None:
    """Threat: temp tables or functions shadowing names (`search_path`, `pg_temp`)."""
    active, revoked = system.keys["active"], system.keys["revoked"]
    for path in ("pg_temp, public", "pg_temp, keylatch, keylatch_internal, pg_catalog"):
        with system.connect("service_role") as service:
            with system.nothing_changes():
                service.execute(SHADOWS)
                service.execute(f"set search_path = {path}")
                resolve = "select key_id from keylatch.resolve_key(%s)"
                assert service.execute(resolve, [active.key]).fetchall() == [(active.id,)]
                assert service.execute(resolve, [revoked.key]).fetchall() == []
                assert (
                    sqlstate(
                        service,
                        "update keylatch.keys set revoked_at = null where id = %s",
                        revoked.id,
                    )
                    == "PT409"
                )
                row = service.execute("select (keylatch.installation()).id").fetchone()
            with system.database.connect() as owner:
                assert owner.execute("select (keylatch.installation()).id").fetchone() == row
            service.execute("set search_path = ''")
    # The deletion runs a definer function while the service role's shadows exist.
    with system.connect("service_role") as service:
        service.execute(SHADOWS)
        service.execute("set search_path = pg_temp, pg_catalog")
        service.execute("delete from keylatch.workspaces where id = %s", [system.people.a])
    assert not system.resolves(active.key)


def test_no_routine_is_for_public_and_only_the_listed_ones_for_anon(system: System) -> None:
    """Threat: every routine in both schemas executable by public or anon that is not listed."""
    with system.database.connect() as owner:
        found = owner.execute(
            """
            select p.oid::regprocedure::text, exists (
              select 1 from aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) as a
              where a.grantee = 0
            )
            from pg_proc as p
            where p.pronamespace::regnamespace::text like 'keylatch%'
              and has_function_privilege('anon', p.oid, 'execute')
            """
        ).fetchall()
    # These functions find the key in the header of the request and no other key, or they open a
    # session with a key that the caller has.
    assert set(found) == {
        ("keylatch.check_request()", False),
        ("keylatch.current_key_id()", False),
        ("keylatch.current_session_id()", False),
        ("keylatch.current_workspace_id()", False),
        ("keylatch.has_scope(text)", False),
        ("keylatch.key_metadata()", False),
        ("keylatch.open_session(text)", False),
        ("keylatch_internal.request_identity()", False),
        ("keylatch_internal.start_session(text)", False),
    }


@pytest.mark.parametrize("who", ["anon", "stranger", "alice", "service_role", "keylatch_resolver"])
def test_a_definer_function_does_nothing_for_an_unexpected_caller(system: System, who: str) -> None:
    """Threat: a definer function reachable with arguments its author did not expect."""
    with system.nothing_changes(), system.connect(who) as caller:
        if who != "anon":
            caller.execute("create temporary table mine (id uuid)")
        for trigger in ("revoke_workspace_keys", "share_workspaces"):
            # Nobody may call a trigger function, or attach it to a table of their own.
            call = f"select keylatch_internal.{trigger}()"
            assert sqlstate(caller, call) in ("0A000", "42501", "42883")
            if who != "anon":
                assert (
                    sqlstate(
                        caller,
                        "create trigger t after delete on mine for each row"
                        f" execute function keylatch_internal.{trigger}('id')",
                    )
                    == "42501"
                )
        for argument in (None, "", "x" * 100_000, "\\x00", "' or true --"):
            for function in ("keylatch_internal.find_key", "keylatch.resolve_key"):
                try:
                    found = caller.execute(f"select * from {function}(%s)", [argument]).fetchall()
                except psycopg.errors.InsufficientPrivilege:
                    caller.rollback()
                else:
                    assert found in ([], [(None,)])


def test_the_definer_functions_are_the_known_ones(system: System) -> None:
    """Threat: a definer function that nobody reviewed."""
    with system.database.connect() as owner:
        found = owner.execute(DEFINERS).fetchall()
    assert {name for name, _, _ in found} == {
        "keylatch.resolve_key(text,text)",
        "keylatch.resolve_keys(text[],text[])",
        *(f"keylatch_internal.{name}" for name in DEFINER_NAMES),
    }
    # Only this function runs dynamic SQL, because the name of the id column is an argument.
    assert {name for name, source, _ in found if "execute " in source} == {
        "keylatch_internal.revoke_workspace_keys()"
    }


def test_a_domain_that_is_named_like_a_type_does_not_loosen_the_latch(system: System) -> None:
    """Threat: temporary types shadowing names: as a date, the clock is last midnight."""
    expired = system.keys["expired"].id
    for who in ("alice", "service_role"):
        with system.nothing_changes(), system.connect(who) as writer:
            for name in ("timestamptz", "text", "uuid", "bytea", "jsonb"):
                writer.execute(f"create domain pg_temp.{name} as pg_catalog.date")
            update = "update keylatch.keys set expires_at = '2099-01-01' where id = %s"
            assert sqlstate(writer, update, expired) == "PT409"
            assert sqlstate(writer, "select keylatch.suspend_key(%s)", expired) == "PT409"


def test_the_one_function_without_a_search_path_names_everything_in_full(system: System) -> None:
    """Threat: as above; the planner looks inside of list_keys, so it can have no search_path."""
    shadows = """
    create type pg_temp.keys as (id integer);
    create function pg_temp.always(pg_catalog.uuid, pg_catalog.uuid) returns pg_catalog.bool
      language sql as 'select true';
    create operator mine.= (leftarg = pg_catalog.uuid, rightarg = pg_catalog.uuid,
      function = pg_temp.always)
    """
    with system.database.connect(superuser=True) as root:
        root.execute("create schema mine; grant all on schema mine to authenticated")
    with system.connect("alice") as alice:
        alice.execute(shadows.encode())
        alice.execute("set search_path = mine, pg_temp, pg_catalog")
        listed = alice.execute("select id from keylatch.list_keys(%s)", [system.people.b])
        assert listed.fetchall() == []
        listed = alice.execute("select id from keylatch.list_keys(%s)", [system.people.a])
        assert {row.id for row in listed.fetchall()} >= {made.id for made in system.keys.values()}


def test_a_tenancy_whose_policies_ask_keylatch_in_turn_ends_in_an_error(system: System) -> None:
    """Threat: a user's policy subquery that recurses."""
    with system.database.connect() as owner:
        owner.execute(
            """
            create table public.teams (id uuid primary key);
            alter table public.teams enable row level security;
            grant select on public.teams to authenticated;
            insert into public.teams select id from keylatch.workspaces;
            create policy teams_select on public.teams for select to authenticated
              using (id in (select workspace_id from keylatch.keys));
            create or replace function keylatch.admin_workspace_ids() returns setof uuid
              language sql stable security invoker set search_path = pg_catalog, pg_temp
              as 'select id from public.teams';
            """
        )
    with system.nothing_changes():
        with system.connect("alice") as alice:
            assert sqlstate(alice, "select * from keylatch.keys") in ("42P17", "54001")
        response = system.rest.request("GET", "keys", token=system.token("alice"))
        assert response.status_code >= 400
        assert system.keys["active"].key not in response.text
    # The runtime does not need the list of administered workspaces.
    assert system.resolves(system.keys["active"].key)


def test_the_migrations_call_nothing_outside_of_the_database(system: System) -> None:
    """Threat: an install script that calls out of the database."""
    folder = Path(__file__).parents[2] / "supabase" / "migrations"
    for file in sorted(folder.glob("*.sql")):
        text = file.read_text().lower()
        for word in (
            "dblink",
            "pg_net",
            "http_",
            "\ncopy ",
            "lo_import",
            "pg_read_file",
            "plpython",
            "\\!",
            "\\i ",
            "postgres_fdw",
            "pg_execute",
        ):
            assert word not in text, (file.name, word)
    with system.database.connect() as owner:
        names = {row[0] for row in owner.execute("select extname from pg_extension")}
    assert names <= {"plpgsql", "pgcrypto", "pgtap"}
