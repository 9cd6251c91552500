"""keylatch audit finds nothing in a healthy installation, and names the cause of each damage."""

import re
import shutil
import subprocess
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from cli.program import Program, Result
from keylatch_cli.install.apply import apply
from keylatch_cli.install.migrations import Choice
from stack import Cluster, Database, People, notifications
from stack.tools import ROOT, MissingTool

KEYS = "keylatch_internal.keys"
TENANCIES = sorted(path.stem for path in (ROOT / "sql" / "tenancy").glob("*.sql"))
DOOR = "returns setof keylatch.keys language sql security definer set search_path = '' as"

# The statement, and the `who` and the beginning of `what` of the first difference.
DAMAGE: dict[str, tuple[str, str, str]] = {
    "foreign policy": (
        f"create policy wide on {KEYS} for select to authenticated using (true)",
        *("authenticated", f"policy wide on {KEYS}"),
    ),
    "policy for one user": (
        f"create policy one on {KEYS} for select to authenticated"
        " using (current_setting('request.jwt.claims', true)::jsonb ->> 'sub' = 'mallory')",
        *("authenticated", f"policy one on {KEYS}"),
    ),
    "policy changed": (
        f"alter policy keys_update_admin on {KEYS} with check (true)",
        *("authenticated", f"policy keys_update_admin on {KEYS}"),
    ),
    "policy dropped": (
        f"drop policy keys_select_admin on {KEYS}",
        *("authenticated", f"policy keys_select_admin on {KEYS}"),
    ),
    "row level security off": (
        f"alter table {KEYS} disable row level security",
        *("everyone with a grant on the table", f"table {KEYS}"),
    ),
    "extra grant": (
        f"grant select (key_hash) on {KEYS} to authenticated",
        *("authenticated", f"select (key_hash) on {KEYS}"),
    ),
    "grant to an unknown role": (
        f"grant select on {KEYS} to pg_monitor",
        *("pg_monitor", f"select on table {KEYS}"),
    ),
    "grant to everybody": (
        "grant execute on function keylatch.resolve_key to public",
        *("everyone (public)", "execute on function keylatch.resolve_key(text,text)"),
    ),
    "grant option": (
        f"grant update (label) on {KEYS} to service_role with grant option",
        *("service_role", f"update with grant option (label) on {KEYS}"),
    ),
    "truncate granted": (
        f"grant truncate on {KEYS} to service_role",
        *("service_role", f"truncate on table {KEYS}"),
    ),
    "anon usage": (
        "grant usage on schema keylatch_internal to anon",
        *("anon", "usage on schema keylatch_internal"),
    ),
    "create in the schema": (
        "grant create on schema keylatch to authenticated",
        *("authenticated", "create on schema keylatch"),
    ),
    "latch off": (
        f"alter table {KEYS} disable trigger keys_update_revoked_is_final",
        *("everyone who writes to the table", f"trigger keys_update_revoked_is_final on {KEYS}"),
    ),
    "latch not in replication mode": (
        f"alter table {KEYS} enable trigger keys_truncate_keep",
        *("everyone who writes to the table", f"trigger keys_truncate_keep on {KEYS}"),
    ),
    "latch dropped": (
        f"drop trigger keys_delete_keep on {KEYS}",
        *("everyone who writes to the table", f"trigger keys_delete_keep on {KEYS}"),
    ),
    "foreign trigger": (
        f"create trigger spy before insert on {KEYS}"
        " for each row execute function keylatch_internal.stamp_update()",
        *("everyone who writes to the table", f"trigger spy on {KEYS}"),
    ),
    "definer function replaced": (
        "create or replace function keylatch_internal.find_key(p_text text) returns uuid"
        " language sql stable security definer set search_path = pg_catalog, pg_temp"
        " as 'select id from keylatch_internal.keys limit 1'",
        *("every caller", "function keylatch_internal.find_key(text)"),
    ),
    "definer function added": (
        f"create function keylatch.door() {DOOR} 'select k.* from keylatch.keys as k'",
        *("every caller", "function keylatch.door()"),
    ),
    "invoker made definer": (
        "alter function keylatch.list_keys security definer",
        *("every caller", "function keylatch.list_keys(uuid)"),
    ),
    "search path reset": (
        "alter function keylatch.resolve_key reset search_path",
        *("every caller", "function keylatch.resolve_key(text,text)"),
    ),
    "latch function replaced": (
        "create or replace function keylatch_internal.hold_latch() returns trigger"
        " language plpgsql set search_path = pg_catalog, pg_temp as 'begin return new; end'",
        *("every caller", "function keylatch_internal.hold_latch()"),
    ),
    "view without security_invoker": (
        "alter view keylatch.keys reset (security_invoker)",
        *("every reader", "view keylatch.keys"),
    ),
    "table owner changed": (
        f"alter table {KEYS} owner to service_role",
        *("service_role", f"owns table {KEYS}"),
    ),
    "call revoked": (
        "revoke execute on function keylatch.rotate_key from authenticated",
        *("authenticated", "execute on function keylatch.rotate_key(uuid,interval,timestamp"),
    ),
    "everybody administers everything": (
        "create or replace function keylatch.admin_workspace_ids() returns setof uuid"
        " language sql stable set search_path = pg_catalog, pg_temp"
        " as $$ select '00000000-0000-4000-8000-000000000000'::uuid $$",
        *(
            "a signed-in user without a workspace",
            "administers, according to the application's keylatch.admin_workspace_ids()",
        ),
    ),
}


@pytest.fixture
def owner(core: Database) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    """The owner of an installation of the core alone."""
    with psycopg.connect(core.url, autocommit=True) as owner:
        yield owner


@pytest.mark.one_server
@pytest.mark.parametrize("name", DAMAGE)
def test_each_kind_of_damage_is_named_by_its_cause_first(
    program: Program, core: Database, name: str
) -> None:
    done, who, what = DAMAGE[name]
    # A superuser runs the statement: `postgres` may not give its table to another owner.
    core.connect(superuser=True).execute(done.encode())
    result = program.having(DATABASE_URL=core.superuser_url)("audit", "--json", code=1).json
    first = result["differences"][0]
    assert (first["who"], first["is_cause"]) == (who, True)
    assert first["what"].startswith(what)
    assert all(first[field] for field in ("expected", "found", "why"))
    assert not result["is_clean"]


def as_expected(program: Program, database: Database) -> Result:
    """Audit as the owner, who is no superuser, and assert that nothing differs."""
    found = program.having(DATABASE_URL=database.url)("audit", code=None)
    assert found.code == 0, found.out + found.err
    assert found.out.splitlines()[1].startswith("As expected: ")
    return found


def test_the_core_alone_is_as_expected(program: Program, core: Database) -> None:
    as_expected(program, core)


@pytest.mark.one_server
@pytest.mark.parametrize("example", TENANCIES)
@pytest.mark.parametrize("tables", ["left out", "replaced"])
def test_each_example_of_an_own_tenancy_is_as_expected(
    program: Program, empty: Database, example: str, tables: str
) -> None:
    owner = empty.connect()
    apply(owner, Choice(all=True), "own" if tables == "left out" else "keylatch")
    owner.execute((ROOT / "sql" / "tenancy" / f"{example}.sql").read_bytes())
    found = as_expected(program, empty)
    assert "The application's own function decides who administers" in found.out
    # The audit has restored the application's function.
    body = "select prosrc from pg_proc where proname = 'admin_workspace_ids'"
    assert "audit" not in str(owner.execute(body).fetchall())


def _tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise MissingTool(name)
    return path


def restored(server: Cluster, source: Database, name: str) -> Database:
    """Copy a database with pg_dump and psql, including its owners and grants."""
    pg_dump, psql = (_tool(name) for name in ("pg_dump", "psql"))
    dump = subprocess.run(
        [pg_dump, "--dbname", source.superuser_url], capture_output=True, check=True
    ).stdout
    copy = Database(server, name)
    # pg_dump sets transaction_timeout, which a server older than pg_dump may not know.
    lines = [line for line in dump.splitlines() if b"transaction_timeout" not in line]
    form = [psql, "--no-psqlrc", "-q", "--set=ON_ERROR_STOP=1", "--dbname", copy.superuser_url]
    subprocess.run(form, input=b"\n".join(lines), capture_output=True, check=True)
    return copy


@pytest.mark.one_server
def test_a_dump_that_was_restored_is_as_expected(
    program: Program, database: Database, people: People, server: Cluster
) -> None:
    issue = "select from keylatch.issue_key(%s, 'secret')"
    database.connect().execute(issue, [People.a])
    with restored(server, database, f"{database.name}_restored") as copy:
        as_expected(program, copy)


@pytest.mark.one_server
def test_an_owner_may_be_anybody_who_can_act_as_the_roles(
    program: Program, other_server: Cluster
) -> None:
    """An owner may lack the right to set session_replication_role, but not what an audit needs."""
    with Database(other_server, "plain") as database:
        other_server.install_platform(database.name)
        admin = database.connect(superuser=True)
        for statement in (
            "revoke set on parameter session_replication_role from postgres",
            "alter role postgres nocreatedb noreplication",
        ):
            admin.execute(statement.encode())
        apply(database.connect(), Choice(all=True), "keylatch")
        as_expected(program, database)
        admin.execute("alter role postgres nobypassrls")
        said = program.having(DATABASE_URL=database.url)("audit", code=3).err
        assert "postgres cannot create the users that the audit acts as." in said
        assert 'hint: Run as a superuser: alter role "postgres" bypassrls;' in said
        admin.execute("revoke keylatch_resolver from postgres")
        said = program.having(DATABASE_URL=database.url)("audit", code=3).err
        assert "postgres cannot act as keylatch_resolver" in said
        assert 'Run as a superuser: grant keylatch_resolver to "postgres";' in said


def test_an_audit_holds_no_lock_that_blocks_the_use_or_change_of_keys(
    program: Program, database: Database, people: People
) -> None:
    """During an audit's longest transaction, keys are resolved, issued, changed and revoked."""
    from keylatch_cli.audit import matrix

    issue = "select id, key from keylatch.issue_key(%s, 'secret')"
    key_id, key = database.connect().execute(issue, [People.a]).fetchall()[0]
    busy = database.connect()
    busy.execute("set lock_timeout = '20ms'")
    seen: set[str] = set()
    steps = []

    def use(done: int, total: int) -> None:
        if done % 50 == 0:
            steps.append(done)
            assert busy.execute("select from keylatch.resolve_key(%s)", [key]).rowcount == 1
            new = busy.execute(issue, [People.a]).fetchall()[0]
            busy.execute("update keylatch.keys set label = label where id = %s", [key_id])
            busy.execute("select from keylatch.revoke_key(%s)", [new[0]])
        rows = busy.execute(
            "select distinct l.mode from pg_locks as l join pg_class as c on l.relation = c.oid"
            " where l.pid = %s and c.relkind = 'r' and l.granted"
            " and c.relnamespace::regnamespace::text in ('keylatch', 'keylatch_internal', 'auth')",
            [auditor.info.backend_pid],
        ).fetchall()
        seen.update(mode for (mode,) in rows)

    with psycopg.connect(database.url, autocommit=True) as auditor:
        assert matrix.audit(auditor, done=use).is_clean
    assert len(steps) > 5
    assert seen == {"AccessShareLock", "RowShareLock", "RowExclusiveLock"}


@pytest.mark.one_server
def test_an_audit_writes_little_and_nothing_that_stays(
    program: Program, database: Database, people: People
) -> None:
    owner = database.connect()
    owner.execute("listen keylatch")
    tables = owner.execute(
        "select c.oid::regclass::text from pg_class as c where c.relkind = 'r'"
        " and c.relnamespace::regnamespace::text in ('keylatch', 'keylatch_internal', 'auth')"
    ).fetchall()

    def counts() -> list[object]:
        count = sql.SQL("select count(*), max(xmin::text) from {}")
        return [owner.execute(count.format(sql.SQL(str(name)))).fetchall() for (name,) in tables]

    before = counts()
    start = owner.execute("select pg_current_wal_insert_lsn()").fetchall()[0][0]
    as_expected(program, database)
    written = "select pg_current_wal_insert_lsn() - %s::pg_lsn"
    assert owner.execute(written, [start]).fetchall()[0][0] < 4_000_000
    assert counts() == before
    assert notifications(owner, database.connect()) == []


@pytest.mark.one_server
def test_another_sessions_lock_is_named_and_not_waited_for(
    program: Program, core: Database, owner: psycopg.Connection[tuple[object, ...]]
) -> None:
    with owner.transaction():
        owner.execute(f"lock table {KEYS} in access exclusive mode".encode())
        assert "lock" in program.having(DATABASE_URL=core.url)("audit", code=4).err


@pytest.mark.one_server
def test_a_database_without_keylatch_is_told_apart(program: Program, empty: Database) -> None:
    said = program.having(DATABASE_URL=empty.url)("audit", code=5).err
    assert said.startswith("not_installed: ")


@pytest.mark.one_server
def test_the_help_lists_each_exit_code_on_a_line_of_its_own(program: Program) -> None:
    shown = [line.strip() for line in program("audit", "--help").out.splitlines()]
    assert [line[0] for line in shown if re.match(r"\d  ", line)] == list("012345")


@pytest.mark.one_server
def test_an_audit_that_could_test_nothing_says_so(
    program: Program, core: Database, owner: psycopg.Connection[tuple[object, ...]]
) -> None:
    owner.execute("alter table keylatch_internal.keys disable trigger user")
    shown = program.having(DATABASE_URL=core.url)("audit", code=1).out
    assert "Repair them first: nothing was tested yet." in " ".join(shown.split())
    assert "in 0 tests" not in shown


@pytest.mark.one_server
def test_the_terminal_shows_a_screen_with_the_worst_first(
    program: Program, core: Database, owner: psycopg.Connection[tuple[object, ...]]
) -> None:
    for name in ("call revoked", "latch off", "foreign policy", "extra grant"):
        owner.execute(DAMAGE[name][0].encode())
    audit = program.having(DATABASE_URL=core.url)
    lines = audit("audit", code=1).out.splitlines()
    assert len(lines) <= 24
    assert all(len(line) <= 80 for line in lines)
    assert re.fullmatch(r"Audit of \w+", lines[0])
    assert lines[1].startswith("Not as expected: ")
    first = next(line for line in lines if line.startswith("  1. "))
    assert first == f"  1. authenticated: policy wide on {KEYS}"
    assert lines[-1].endswith("more: run keylatch audit --all, or keylatch audit --html FILE.")
    whole = audit("audit", "--all", code=1).out
    assert "●!" in whole
    assert all(len(line) <= 80 for line in whole.splitlines())
    assert whole.index("trigger keys_update_revoked_is_final") < whole.index("rotate_key")
