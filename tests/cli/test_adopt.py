"""keylatch adopt on the tables of a team's report: sessions and assistants with plaintext keys."""

import hashlib
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from cli.program import Program
from keylatch_cli.adopt.adoption import Adoption
from stack import HANG_SECONDS, Database, until
from stack.cluster import SUPERUSER

pytestmark = pytest.mark.one_server

Connection = psycopg.Connection[tuple[Any, ...]]
READY = ("--backup-taken", "--days", "0")
SESSIONS = ("public.sessions", "owner_api_key")
ASSISTANTS = ("public.assistants", "owner_api_key")
TABLES = """
create table public.sessions (
    id uuid primary key default gen_random_uuid(), created_at timestamptz not null default now(),
    status text not null default 'active', model text not null, owner_api_key varchar(255),
    session_metadata jsonb
);
create index idx_sessions_owner_api_key on public.sessions (owner_api_key);
create table public.assistants (
    id varchar(50) primary key, name text, owner_api_key varchar(255)
);
insert into public.sessions (model, owner_api_key)
select 'sonnet', case when n % 10 > 0 then 'key-' || n % 97 end
from generate_series(1, {rows}) as n;
insert into public.assistants
select 'asst_' || n, 'helper', 'key-' || n from generate_series(1, 20) as n;
"""
COUNTED = """
select count(*), count(owner_api_key_hash), count(distinct owner_api_key_hash),
    count(*) filter (where owner_api_key_hash is distinct from expected.hash)
from public.sessions as s
left join public.expected using (id)
"""


@pytest.fixture
def owner(empty: Database) -> Iterator[Connection]:
    with psycopg.connect(empty.url, autocommit=True) as owner:
        yield owner


@pytest.fixture
def adopt(empty: Database, program: Program) -> Program:
    return program.having(DATABASE_URL=empty.url)


def schemas(owner: Connection) -> list[Any]:
    """Return the schemas, triggers and functions of keylatch."""
    return owner.execute(
        "select nspname from pg_namespace where nspname ~ 'keylatch'"
        " union all select tgname from pg_trigger where tgname ~ 'keylatch'"
        " union all select proname from pg_proc where prosrc ~ 'keylatch'"
    ).fetchall()


def fill(owner: Connection, rows: int) -> None:
    owner.execute(TABLES.format(rows=rows).encode())
    owner.execute(
        "create table public.expected as select"
        " id, encode(sha256(convert_to(owner_api_key, 'UTF8')), 'hex') as hash from public.sessions"
    )


def test_both_tables_of_the_report_lose_their_plaintext_keys(
    adopt: Program, owner: Connection
) -> None:
    fill(owner, 1000)
    for table in (SESSIONS, ASSISTANTS):
        hashed = adopt("adopt", "hash", *table)
        assert "rows written" in hashed.err
        assert "clean           yes" in hashed.out
        assert all(len(line) <= 80 for line in hashed.out.splitlines())
        assert adopt.ok("adopt", "prove", *table)["missing"] == 0
        assert adopt.ok("adopt", "read", *table)["phase"] == "reading"
    wanted = hashlib.sha256(b"key-7").hexdigest()
    found = owner.execute("select owner_api_key_hash from public.assistants where id = 'asst_7'")
    assert found.fetchone() == (wanted,)
    refused = adopt("adopt", "drop", *SESSIONS, code=2)
    assert "confirm must be: drop plaintext" in refused.err
    for table in (SESSIONS, ASSISTANTS):
        dropped = adopt("adopt", "drop", *table, "--confirm", "drop plaintext", *READY)
        assert "phase   dropped" in dropped.out
        assert "Older copies may still contain keys" in dropped.err
        assert (schemas(owner) == []) is (table is ASSISTANTS)
    for step in ("prove", "read", "revert"):
        assert "is not adopted" in adopt("adopt", step, *SESSIONS, code=1).err
    again = adopt("adopt", "drop", *SESSIONS, "--confirm", "drop plaintext", *READY, code=1)
    assert "After drop or revert, nothing is left to do" in again.err
    assert owner.execute(COUNTED).fetchone() == (1000, 900, 97, 0)
    columns = "select * from public.sessions limit 0"
    assert "owner_api_key" not in [c.name for c in owner.execute(columns).description or ()]


def test_revert_undoes_an_adoption_and_refuses_what_it_cannot_undo(
    adopt: Program, owner: Connection
) -> None:
    fill(owner, 10)
    for step in ("prove", "read", "revert"):
        assert "adoption_not_ready: " in adopt("adopt", step, *SESSIONS, code=1).err
    assert schemas(owner) == []
    adopt("adopt", "hash", *SESSIONS, "--form", "bytea", "--hash-column", "digest", "--pause", "1")
    assert len(schemas(owner)) > 2
    assert "phase   reverted" in adopt("adopt", "revert", *SESSIONS).out
    assert schemas(owner) == []
    missing = adopt("adopt", "hash", "public.nothing", "k", code=2)
    assert "invalid_argument: The table public.nothing does not exist." in missing.err
    # A refused adoption leaves nothing behind.
    assert schemas(owner) == []
    adopt("adopt", "burn", *SESSIONS, code=2)
    adopt("adopt", "hash", *SESSIONS)
    owner.execute("alter table public.sessions disable trigger all")
    assert "clean           no" in adopt("adopt", "prove", *SESSIONS, code=1).out


def test_functions_that_somebody_else_put_there_are_not_run(
    adopt: Program, owner: Connection, empty: Database
) -> None:
    fill(owner, 10)
    with psycopg.connect(empty.superuser_url, autocommit=True) as superuser:
        superuser.execute("create schema keylatch_adoption; create table public.trap (who name)")
        superuser.execute("grant insert on public.trap to public")
        superuser.execute("grant usage on schema keylatch_adoption to public")
        superuser.execute("create table keylatch_adoption.adoptions ()")
        superuser.execute(
            "create function keylatch_adoption.adopt_column(text, text, text, text, out table_name"
            " text, out key_column text, out hash_column text, out phase text) language sql as"
            " $$ insert into public.trap values (current_user); select 'a', 'b', 'c', 'd' $$"
        )
        for step in ("hash", "prove", "read", "revert"):
            said = adopt("adopt", step, *SESSIONS, code=1).err
            assert f"The schema keylatch_adoption belongs to {SUPERUSER}." in said
        assert superuser.execute("select * from public.trap").fetchall() == []


def test_functions_of_another_version_are_not_mixed_with_these(
    adopt: Program, owner: Connection
) -> None:
    fill(owner, 10)
    adopt("adopt", "hash", *SESSIONS)
    owner.execute("comment on schema keylatch_adoption is 'Made by keylatch 0.0.9 (012345678901).'")
    for step in ("hash", "prove", "read", "revert"):
        said = adopt("adopt", step, *SESSIONS, code=1).err
        assert "was made by another version of keylatch" in said
        assert "Made by keylatch 0.0.9" in said


def test_an_owner_who_may_make_no_schema_is_told_who_can(
    adopt: Program, owner: Connection, empty: Database
) -> None:
    fill(owner, 10)
    with psycopg.connect(empty.superuser_url, autocommit=True) as superuser:
        superuser.execute(f"alter database {empty.name} owner to {SUPERUSER}")
        superuser.execute(f"revoke create on database {empty.name} from public, postgres")
        denied = adopt("adopt", "hash", *SESSIONS, code=3)
        assert "create schema keylatch_adoption authorization" in denied.err
        superuser.execute("create schema keylatch_adoption authorization postgres")
        superuser.execute("grant create on schema public to postgres")
    assert "clean           yes" in adopt("adopt", "hash", *SESSIONS).out
    adopt("adopt", "revert", *SESSIONS)
    assert schemas(owner) == []


def test_two_adoptions_may_start_at_the_same_moment(
    adopt: Program, owner: Connection, empty: Database
) -> None:
    fill(owner, 10)
    with psycopg.connect(empty.url) as first:
        first.execute("select")  # begins a transaction that stays open
        Adoption(first, *ASSISTANTS).start()
        with ThreadPoolExecutor(1) as pool:
            second = pool.submit(adopt, "adopt", "hash", *SESSIONS)
            waits = (
                "select count(*) from pg_stat_activity"
                " where datname = current_database() and wait_event_type = 'Lock'"
            )
            while owner.execute(waits).fetchone() == (0,) and not second.done():
                time.sleep(0.02)
            assert not second.done()
            first.commit()
            assert "clean           yes" in second.result(HANG_SECONDS).out
    assert "phase           hashing" in adopt("adopt", "hash", *ASSISTANTS).out


def kill_when(
    adopt: Program, owner: Connection, arguments: tuple[str, ...], reached: Callable[[], bool]
) -> None:
    """Start the command, and kill it with SIGKILL as soon as `reached` is true."""
    running = subprocess.Popen(
        adopt.command("adopt", *arguments),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        **adopt.surroundings(),
    )

    def in_time() -> bool:
        assert running.poll() is None, "it was done before it could be killed"
        return reached()

    until(in_time)
    running.send_signal(signal.SIGKILL)
    running.wait(HANG_SECONDS)
    # Wait until the server has finished or cancelled the command's statement.
    busy = (
        "select 1 from pg_stat_activity where datname = current_database()"
        " and pid <> pg_backend_pid() and application_name = 'keylatch'"
    )
    until(lambda: not owner.execute(busy).fetchone())


def test_killed_in_each_phase_and_run_again_nothing_is_lost_and_nothing_doubled(
    adopt: Program, owner: Connection
) -> None:
    rows = 60_000
    fill(owner, rows)

    def some(condition: str) -> Callable[[], bool]:
        def reached() -> bool:
            try:
                return owner.execute(f"select {condition}".encode()).fetchone() == (True,)
            except psycopg.errors.UndefinedTable:
                return False  # the table is not there yet

        return reached

    page = "exists (select from keylatch_adoption.adoptions where phase = '{}' and next_page > 0)"
    kill_when(adopt, owner, ("hash", *SESSIONS), some(page.format("hashing")))
    before = adopt("adopt", "prove", *SESSIONS, "--json", code=1).json
    assert 0 < before["hashed"] < before["keys"] == rows * 9 // 10
    # The index cannot be finished while an open transaction has read the table.
    with owner.transaction():
        owner.execute("select set_config('idle_in_transaction_session_timeout', '60s', true)")
        owner.execute("select from public.sessions limit 1")
        with psycopg.connect(
            owner.info.dsn, password=owner.info.password, autocommit=True
        ) as other:
            made = "select exists (select from pg_index where not indisvalid)"

            def half_made() -> bool:
                return other.execute(made.encode()).fetchone() == (True,)

            kill_index(adopt, other, half_made)
    again = adopt("adopt", "hash", *SESSIONS)
    assert "clean           yes" in again.out
    valid = "select count(*), bool_and(indisvalid) from pg_index where indrelid = %s::regclass"
    assert owner.execute(valid, [SESSIONS[0]]).fetchone() == (3, True)
    adopt("adopt", "read", *SESSIONS)
    drop = ("drop", *SESSIONS, "--confirm", "drop plaintext", *READY)
    kill_when(adopt, owner, drop, some(page.format("emptying")))
    left = "select count(owner_api_key) from public.sessions"
    assert 0 < owner.execute(left).fetchone()[0] < rows  # type: ignore[index]
    assert "phase   dropped" in adopt("adopt", *drop).out
    assert owner.execute(COUNTED).fetchone() == (rows, rows * 9 // 10, 97, 0)
    assert schemas(owner) == []


def kill_index(adopt: Program, owner: Connection, half_made: Callable[[], bool]) -> None:
    """Kill the command, and then its backend, while the index waits for older transactions."""
    running = subprocess.Popen(
        adopt.command("adopt", "hash", *SESSIONS),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        **adopt.surroundings(),
    )

    def in_time() -> bool:
        assert running.poll() is None
        return half_made()

    until(in_time)
    running.send_signal(signal.SIGKILL)
    running.wait(HANG_SECONDS)
    owner.execute(
        "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
        " where query like 'create index concurrently%' and datname = current_database()"
    )
