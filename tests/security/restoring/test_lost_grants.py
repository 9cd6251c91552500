"""A restore that lost the grants, and then the obvious repair: open functions refuse to answer."""

import re
import subprocess
from collections.abc import Iterator

import psycopg
import pytest

from security.restoring.ground import AFTER_RESTORE, Ground, psql, repair, with_role
from security.restoring.story import OPEN, Model, faults
from security.restoring.ways import without_owner_and_privileges, without_role
from stack import Database
from stack.cluster import SUPERUSER

pytestmark = pytest.mark.one_server

REPAIR = """
grant usage on schema keylatch, keylatch_internal
to anon, authenticated, service_role, keylatch_resolver;
"""
# Everybody may execute these functions without harm.
HARMLESS = {
    "keylatch_internal.refuse": "raises an error",
    "keylatch_internal.describe_installation": "tells which database this is",
    "keylatch_internal.find_key": "tells the holder of a key its id, which opens nothing",
    "keylatch_internal.request_identity": "anon may call it: it reads the key of the request",
    "keylatch_internal.start_session": "anon may call it: it opens a session for a page",
    "keylatch_internal.read_position": "tells how far the server is",
}
DEFINERS = """
select p.oid::regproc::text, p.oid::regprocedure::text,
  array(select format_type(t, null) from unnest(p.proargtypes) as t)
from pg_proc as p
where p.pronamespace::regnamespace::text in ('keylatch', 'keylatch_internal') and p.prosecdef
  and (p.prorettype = 'trigger'::regtype) = %s
order by 1
"""
VALUES = {"jsonb": "'{}'", "text[]": "'{}'", "text": "'x'", "boolean": "true"}
ATTACHED = {
    "keylatch_internal.record_new_key": "after insert on theirs.keys"
    " referencing new table as new_keys for each statement",
    "keylatch_internal.record_change": "after insert on theirs.keys for each row",
    "keylatch_internal.record_revocations": "after update on theirs.keys"
    " referencing old table as old_keys new table as new_keys for each statement",
    "keylatch_internal.delete_session": "after insert on theirs.keys for each row",
    "keylatch_internal.revoke_workspace_keys": "after delete on theirs.keys for each row",
    "keylatch_internal.share_workspaces": "after insert on theirs.keys"
    " referencing new table as new_keys for each statement",
    "keylatch_internal.notify_caches": "after insert or update on theirs.keys for each row",
    "keylatch_internal.check_session_key": "after insert on theirs.keys for each row",
    "keylatch_internal.hold_expiry": "after update on theirs.keys for each row",
    "keylatch_internal.hold_extension": "after update on theirs.keys for each row",
}
# A type with an implicit cast. The cast runs a function of the type's owner.
EVIL = """
create type theirs.{0} as enum ('x');
create function theirs.turn(theirs.{0}) returns {1} language plpgsql as $$
begin
  raise exception 'code of a stranger ran as %', current_user;
end $$;
create cast (theirs.{0} as {1}) with function theirs.turn(theirs.{0}) as implicit;
"""
COLUMNS = """
select distinct on (a.attname) a.attname, format_type(a.atttypid, null)
from pg_attribute as a
where a.attrelid in ('keylatch_internal.keys'::regclass, 'keylatch_internal.sessions'::regclass)
  and a.attnum > 0
"""


@pytest.fixture(params=[without_role, without_owner_and_privileges], ids=lambda way: way.__name__)
def opened(ground: Ground, request: pytest.FixtureRequest) -> Iterator[Database]:
    """A restored database without its grants, after the obvious repair."""
    with_role(ground.target, exists=request.param is not without_role)
    with request.param(ground) as restored:
        with_role_made = "create role keylatch_resolver;" if request.param is without_role else ""
        psql(restored, with_role_made + REPAIR)
        yield restored


def test_nobody_resolves_a_secret_key(opened: Database, ground: Ground) -> None:
    for role in ("anon", "authenticated"):
        with opened.connect(role, superuser=True) as outsider, pytest.raises(psycopg.Error) as seen:
            outsider.execute("select keylatch.resolve_key(%s)", [ground.story.keys["active"]])
        assert seen.value.diag.message_primary == "restore_incomplete"
        assert "after_restore.sql" in str(seen.value.diag.message_hint)


def test_internal_functions_with_the_rights_of_the_owner_answer_no_role(opened: Database) -> None:
    with psycopg.connect(opened.superuser_url, autocommit=True) as connection:
        functions = connection.execute(DEFINERS.encode(), [False]).fetchall()
        names = {name for name, _, _ in functions}
        assert set(HARMLESS) <= names
        open_now = {row[0] for row in connection.execute(OPEN.encode()).fetchall()}
        refusals = 0
        connection.execute("set role anon")
        for name, signature, types in functions:
            if name in HARMLESS or signature not in open_now:
                continue
            given = ", ".join(f"{VALUES.get(kind, 'null')}::{kind}" for kind in types)
            given = given.replace("'{}'::jsonb", "'[]'::jsonb") if "import" in name else given
            with pytest.raises(psycopg.Error) as refused:
                connection.execute(f"select {name}({given})".encode())
            assert refused.value.diag.message_primary == "restore_incomplete", name
            refusals += 1
        assert refusals > 5


@pytest.mark.parametrize("is_evil", [False, True], ids=["like_keys", "types_with_code"])
def test_no_trigger_works_on_the_table_of_a_stranger(opened: Database, is_evil: bool) -> None:
    with psycopg.connect(opened.superuser_url, autocommit=True) as connection:
        definers = {row[0] for row in connection.execute(DEFINERS.encode(), [True]).fetchall()}
        assert definers == set(ATTACHED)
        connection.execute("create schema theirs authorization authenticated")
        columns = connection.execute(COLUMNS.encode()).fetchall()
        # If only the role was missing, trigger functions kept their grants, so open them here.
        for function in ATTACHED:
            connection.execute(f"grant execute on function {function} to public".encode())
        connection.execute("set role authenticated")
        if is_evil:
            evil = {kind: f"evil_{n}" for n, kind in enumerate({kind for _, kind in columns})}
            for kind, name in evil.items():
                connection.execute(EVIL.format(name, kind).encode())
            columns = [(name, f"theirs.{evil[kind]}") for name, kind in columns]
        listed = ", ".join(f"{name} {kind}" for name, kind in columns)
        connection.execute(f"create table theirs.keys ({listed})".encode())
        row = "'x', 'x'" if is_evil else "gen_random_uuid(), now()"
        insert = f"insert into theirs.keys (id, expires_at) values ({row})"
        for function, how in ATTACHED.items():
            attach = f"create trigger t {how} execute function {function}('expired_is_final')"
            with pytest.raises(psycopg.Error) as refused, connection.transaction():
                for statement in (attach, insert, "update theirs.keys set key_id = id"):
                    connection.execute(statement.encode())
                connection.execute("delete from theirs.keys")
            assert refused.value.diag.message_primary == "restore_incomplete", str(refused.value)


def test_after_restore_runs_no_later_step_after_an_error_and_never_says_whole(
    opened: Database, ground: Ground, model: Model
) -> None:
    """Without ON_ERROR_STOP, psql goes on after an error, and ends with exit code 0."""
    before = faults(opened, model, ground.story)
    with opened.connect(superuser=True) as superuser:
        superuser.execute("create role nobody_here login password 'x'")
        url = opened.superuser_url.replace(SUPERUSER, "nobody_here", 1)
        url = re.sub(r":[0-9a-f]{32}@", ":x@", url)
        psql = ["psql", "--no-psqlrc", "--quiet", f"--file={AFTER_RESTORE}", url]
        done = subprocess.run(psql, capture_output=True, text=True, check=True)
        superuser.execute("drop role nobody_here")
    assert "nobody_here is not the owner of keylatch" in done.stderr
    assert "an earlier step failed" in done.stderr
    assert "keylatch is whole" not in done.stderr
    assert faults(opened, model, ground.story) == before


def test_after_restore_closes_everything_and_says_so(
    opened: Database, ground: Ground, model: Model
) -> None:
    assert "open functions" in faults(opened, model, ground.story)
    repair(opened)
    assert faults(opened, model, ground.story) == []
