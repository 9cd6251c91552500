"""Events with several sessions: written without locks, sealed in turns, restored, replicated."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest
from postgrest import SyncPostgrestClient

from core.racing import (
    ISSUE,
    REVOKE,
    ROTATE,
    Connection,
    Outcome,
    System,
    attempt,
    together,
)
from keylatch import Keylatch
from stack import Cluster, Database, People, Rest, Server, until
from stack.database import make_template
from stack.modules import migrations
from stack.subscriber import subscribed
from stack.tools import MissingTool

SUSPEND = "select id from keylatch.suspend_key(%s)"
LABEL = "update keylatch.keys set label = %s where id = any (%s)"
SEAL = "select checkpoint, events, is_done from keylatch.seal_events()"
MANY = "select from keylatch.issue_keys(%s, array(select 'x' from generate_series(1, %s)))"
FORGE = (
    "insert into keylatch_internal.key_events"
    " (workspace_id, key_id, event, occurred_at, role, login, changes)"
    " values (gen_random_uuid(), gen_random_uuid(), 'revoked', now(), 'forged', 'forged', '{}')"
)


@pytest.fixture
def system(database: Database, people: People) -> System:
    return System(database, people)


def verified(connection: Connection) -> tuple[Any, ...]:
    """Whether the chain is intact, and how many checkpoints, events and unsealed events it has."""
    row = connection.execute(
        "select is_intact, checkpoints, events, unsealed, problem from keylatch.verify_events()"
    ).fetchone()
    assert row is not None
    return row


def events(connection: Connection) -> list[str]:
    """The names of all events, in order."""
    rows = connection.execute("select event from keylatch.key_events order by occurred_at, id")
    return [event for (event,) in rows]


def everything(connection: Connection) -> list[tuple[Any, ...]]:
    return connection.execute("select e from keylatch.key_events as e order by e.id").fetchall()


# Writing.


def test_a_rolled_back_change_leaves_no_event(system: System) -> None:
    key, _ = system.issue()
    with system.session(autocommit=False) as alice:
        alice.execute(REVOKE, [key, False])
        alice.rollback()
        alice.execute("savepoint before")
        alice.execute(SUSPEND, [key])
        alice.execute("rollback to savepoint before")
        alice.execute(LABEL, ["kept", [key]])
    assert events(system.owner) == ["issued", "changed"]


def test_no_event_waits_for_another_transaction(system: System) -> None:
    keys = [system.issue()[0] for _ in range(3)]
    first = system.session(autocommit=False)
    first.execute(ISSUE, [system.workspace])
    first.execute(REVOKE, [keys[0], False])
    second = system.session()
    second.execute("set lock_timeout = '1ms'")
    assert attempt(second, ISSUE, [system.workspace]).word == "done"
    assert attempt(second, ROTATE, [keys[1], "0"]).word == "done"
    assert attempt(second, REVOKE, [keys[2], False]).word == "done"
    first.commit()
    assert len(events(system.owner)) == 3 + 2 + 4


def test_changes_of_the_same_keys_in_another_order_do_not_meet_in_a_deadlock(
    system: System,
) -> None:
    one, other = system.issue()[0], system.issue()[0]
    first, second = system.session(autocommit=False), system.session(autocommit=False)
    first.execute(REVOKE, [one, False])
    second.execute(SUSPEND, [other])
    # The first session waits for the row that the second has locked. The second commits.
    waiting = system.waiting(REVOKE, [other, False], waits_for=second, session=first)
    second.commit()
    assert waiting.outcome().word == "done"
    first.commit()
    assert sorted(events(system.owner)[2:]) == ["revoked", "revoked", "suspended"]


def test_each_event_of_a_transaction_names_who_made_its_change(
    database: Database, people: People
) -> None:
    with database.connect("authenticator", autocommit=False) as connection:
        for name, workspace in (("alice", people.a), ("bob", people.b)):
            keylatch = Keylatch.from_psycopg(connection, claims=people.claims(name))
            keylatch.issue(workspace, kind="secret")
    rows = database.connect().execute("select workspace_id, user_id, role from keylatch.key_events")
    assert set(rows) == {
        (people.a, people.alice, "authenticated"),
        (people.b, people.bob, "authenticated"),
    }


def test_a_plan_that_was_made_for_one_key_serves_thousands(system: System) -> None:
    owner, many = system.database.connect(superuser=True), 3000
    plans: list[str] = []
    owner.add_notice_handler(lambda notice: plans.append(str(notice.message_primary)))
    owner.execute("load 'auto_explain'")
    owner.execute("set auto_explain.log_nested_statements = on")

    def delete_workspace(keys: int) -> None:
        workspace = uuid4()
        owner.execute("insert into keylatch.workspaces (id, name) values (%s, 'x')", [workspace])
        owner.execute(
            "insert into keylatch_internal.keys (workspace_id, kind)"
            " select %s, 'secret' from generate_series(1, %s)",
            [workspace, keys],
        )
        owner.execute("delete from keylatch.workspaces where id = %s", [workspace])

    for _ in range(8):  # after five calls PostgreSQL may choose a generic plan
        owner.execute(REVOKE, [system.issue()[0], False])
        delete_workspace(1)
    with owner.transaction():
        # Statistics omit the rows of transition tables, so the test reads the plan of their join.
        owner.execute("set local client_min_messages = log")
        owner.execute("set local auto_explain.log_min_duration = 0")
        delete_workspace(many)
        row = owner.execute(
            "select sum(seq_tup_read + idx_tup_fetch)::integer from pg_stat_xact_user_tables"
        ).fetchone()
    # A scan of the table, or of the events, for each key would read nine million rows.
    assert row is not None
    assert many < row[0] < 20 * many
    joined = [plan for plan in plans if "old_keys" in plan]
    assert len(joined) == 1
    assert re.search("(Hash|Merge) Join", joined[0]), joined
    assert "Nested Loop" not in joined[0]
    pairs = "select from pg_trigger where tgoldtable is not null and tgnewtable is not null"
    assert owner.execute(pairs.encode()).rowcount == 1  # No other trigger joins two of them.
    row = owner.execute(
        "select count(*), count(distinct key_id) from keylatch.key_events"
        " where reason = 'workspace deleted'"
    ).fetchone()
    assert row == (many + 8, many + 8)


def test_the_events_of_many_keys_are_written_without_jit(system: System) -> None:
    """JIT compilation takes a second, even for a few keys."""
    plans: list[str] = []
    owner = system.database.connect(superuser=True)
    owner.add_notice_handler(lambda notice: plans.append(str(notice.message_primary)))
    with owner.transaction():
        for _ in range(300):
            system.issue()
        owner.execute("load 'auto_explain'")
        for setting in (
            "jit_above_cost = 10",
            "client_min_messages = log",
            "auto_explain.log_nested_statements = on",
            "auto_explain.log_analyze = on",
            "auto_explain.log_min_duration = 0",
        ):
            owner.execute(f"set local {setting}".encode())
        owner.execute("delete from keylatch.workspaces where id = %s", [system.workspace])
    (plan,) = (plan for plan in plans if "old_keys" in plan)
    cost = re.search(r"cost=\d.*?\.\.(\d+)", plan)
    assert cost is not None
    assert int(cost[1]) > 10
    assert "JIT:" not in plan


def test_the_events_need_no_other_module(server: Cluster, people: People) -> None:
    name = make_template(server, "only_events", migrations("events", tenancy=True))
    with Database(server, "events_alone", name) as database:
        people.seed(database.url)
        system = System(database, people)
        key, _ = system.issue()
        system.owner.execute(REVOKE, [key, False])
        system.owner.execute(SEAL)
        assert verified(system.owner) == (True, 1, 2, 0, None)


# Limits.


@pytest.fixture
def limited(system: System) -> System:
    """A system in which a user may make three changes a minute."""
    system.owner.execute("update keylatch_internal.event_settings set changes_per_minute = 3")
    return system


def test_nobody_waits_for_the_count_of_changes(limited: System) -> None:
    # A session waits for the first key of a workspace, so the owner issues this first key.
    assert attempt(limited.owner, ISSUE, [limited.workspace]).word == "done"
    slow, other = limited.session(autocommit=False), limited.session()
    other.execute("set lock_timeout = '1ms'")
    assert [attempt(slow, ISSUE, [limited.workspace]).word for _ in range(3)] == ["done"] * 3
    # Uncommitted changes are not visible, so the limit does not count them or wait for them.
    mine = [attempt(other, ISSUE, [limited.workspace]) for _ in range(3)]
    assert [one.word for one in mine] == ["done"] * 3
    assert attempt(other, ISSUE, [limited.workspace]).word == "too_many_requests"
    slow.rollback()
    assert attempt(other, ISSUE, [limited.workspace]).word == "too_many_requests"
    assert attempt(other, REVOKE, [mine[0].row[0], False]).word == "done"
    assert attempt(other, SUSPEND, [mine[1].row[0]]).word == "done"


def test_changes_of_users_without_a_uuid_count_together(limited: System) -> None:
    """Clerk and Auth0 name their users otherwise. Changes of services do not count."""
    limited.owner.execute(
        "create or replace function keylatch.admin_workspace_ids() returns setof uuid"
        f" language sql stable as $$ select '{limited.workspace}'::uuid $$"
    )
    limited.database.connect("service_role").execute(MANY, [limited.workspace, 5])
    for number in range(4):
        claims = {"role": "authenticated", "sub": f"user_2abc{number}"}
        outcome = attempt(limited.database.connect(claims=claims), ISSUE, [limited.workspace])
        assert outcome.word == ("done" if number < 3 else "too_many_requests")


def test_a_rolled_back_change_does_not_count(limited: System) -> None:
    alice = limited.session(autocommit=False)
    for _ in range(3):
        assert attempt(alice, ISSUE, [limited.workspace]).word == "done"
    assert attempt(alice, ISSUE, [limited.workspace]).word == "too_many_requests"
    alice.rollback()
    assert attempt(alice, ISSUE, [limited.workspace]).word == "done"


def test_many_sessions_make_as_many_keys_as_the_limit_and_those_in_flight(system: System) -> None:
    system.owner.execute("update keylatch_internal.event_settings set keys_per_workspace = 10")

    def issue() -> Outcome:
        alice = system.session()
        for _ in range(14):
            outcome = attempt(alice, ISSUE, [system.workspace])
        return outcome

    assert {one.word for one in together([issue] * 4)} == {"too_many_keys"}
    assert 10 <= len(system.statuses()) <= 10 + 3


def test_a_large_limit_stops_one_statement_that_changes_many_keys(system: System) -> None:
    system.owner.execute("update keylatch_internal.event_settings set changes_per_minute = 500")
    system.owner.execute(
        "insert into keylatch_internal.keys (workspace_id, kind)"
        " select %s, 'secret' from generate_series(1, 5000)",
        [system.workspace],
    )
    alice = system.session()
    relabel = "update keylatch.keys set label = 'x' where workspace_id = %s"
    # On average one change in 25 counts all changes. At least one of 4,500 practically always does.
    assert attempt(alice, relabel, [system.workspace]).word == "too_many_requests"
    revoke = "update keylatch.keys set revoked_at = now() where workspace_id = %s"
    assert attempt(alice, revoke, [system.workspace]).word == "done"
    assert set(system.statuses()) == {"revoked"}


def test_a_user_who_made_too_many_changes_hears_over_http_when_to_go_on(
    limited: System, people: People, rest: Rest
) -> None:
    headers = {"Authorization": f"Bearer {people.token('alice')}", "Content-Profile": "keylatch"}
    key, _ = limited.issue()
    with httpx.Client(base_url=rest.rest_url, headers=headers) as alice:
        issue = {"workspace_id": str(limited.workspace), "kind": "secret"}
        answers = [alice.post("/rpc/issue_key", json=issue) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert answers[2].json()["message"] == "too_many_requests"
        assert 1 <= int(answers[2].headers["Retry-After"]) <= 60
        assert alice.post("/rpc/revoke_key", json={"key_id": str(key)}).status_code == 200


# Only the triggers may write.


def test_an_owner_cannot_forge_an_event_even_by_copy(system: System) -> None:
    assert attempt(system.owner, FORGE).word == "events_are_kept"
    superuser = system.database.connect(superuser=True)
    assert attempt(superuser, FORGE).word == "events_are_kept"
    with (
        pytest.raises(psycopg.Error, match="events_are_kept"),
        superuser.cursor().copy("copy keylatch_internal.key_events from stdin") as copy,
    ):
        copy.write("")


# Sealing.


def test_two_sealers_take_turns_and_seal_each_event_once(system: System) -> None:
    system.owner.execute(MANY, [system.workspace, 1500])
    first = system.database.connect("service_role", autocommit=False)
    assert attempt(first, SEAL) == Outcome("done", (2, 1500, True))
    system.owner.execute(MANY, [system.workspace, 10])
    second = system.waiting(
        SEAL, [], waits_for=first, session=system.database.connect("service_role")
    )
    first.commit()
    assert second.outcome() == Outcome("done", (3, 10, True))
    assert verified(system.owner) == (True, 3, 1510, 0, None)


def test_many_sealers_and_writers_at_once_leave_one_chain(system: System) -> None:
    def seal() -> Outcome:
        service = system.database.connect("service_role")
        for _ in range(10):
            outcome = attempt(service, "select from keylatch.seal_events(25)")
            if outcome.word != "done":
                break
        return outcome

    def write() -> Outcome:
        alice = system.session()
        for turn in range(15):
            key, _ = attempt(alice, ISSUE, [system.workspace]).row
            with alice.transaction() as change:
                alice.execute(LABEL, ["x", [key]])
                outcome = attempt(alice, REVOKE, [key, False])
                if turn % 3 == 0:
                    raise psycopg.Rollback(change)
        return outcome

    calls = [seal, write] * 3
    assert {one.word for one in together(calls)} == {"done"}
    system.owner.execute(SEAL)
    assert verified(system.owner)[0::2] == (True, 3 * (15 + 10 * 2), None)
    assert verified(system.owner)[3] == 0


def test_a_sealer_that_does_not_end_holds_up_no_change_of_a_key(system: System) -> None:
    keys = [system.issue()[0] for _ in range(3)]
    sealer = system.database.connect(autocommit=False)
    assert attempt(sealer, SEAL).word == "done"
    alice = system.session()
    alice.execute("set lock_timeout = '1ms'")
    assert attempt(alice, REVOKE, [keys[0], False]).word == "done"
    assert attempt(alice, ROTATE, [keys[1], "1 hour"]).word == "done"
    assert attempt(alice, SUSPEND, [keys[2]]).word == "done"
    assert attempt(alice, "select from keylatch.verify_events()").word == "done"
    sealer.rollback()
    assert verified(system.owner) == (True, 0, 0, 7, None)


def test_an_event_that_is_older_than_a_checkpoint_is_sealed_once_it_is_committed(
    system: System,
) -> None:
    key, _ = system.issue()
    slow = system.session(autocommit=False)
    slow.execute(REVOKE, [key, False])
    system.issue()
    assert attempt(system.owner, SEAL).row == (1, 2, True)
    slow.commit()
    assert verified(system.owner) == (True, 1, 2, 1, None)
    assert attempt(system.owner, SEAL).row == (2, 1, True)
    assert verified(system.owner) == (True, 2, 3, 0, None)
    rows = system.owner.execute(
        "select event, checkpoint from keylatch.key_events order by occurred_at"
    )
    assert rows.fetchall() == [("issued", 1), ("revoked", 2), ("issued", 1)]


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_no_older_snapshot_seals(system: System, level: str) -> None:
    sealer = system.database.connect("service_role", autocommit=False)
    sealer.execute(f"set transaction isolation level {level}".encode())
    assert attempt(sealer, SEAL).word == "0A000"


def test_a_checkpoint_that_is_made_while_another_session_verifies_looks_like_no_gap(
    system: System,
) -> None:
    system.owner.execute(MANY, [system.workspace, 3000])
    system.owner.execute("select from keylatch.seal_events(2000)")

    def verify() -> Outcome:
        auditor = system.session()
        for _ in range(20):
            outcome = attempt(auditor, "select is_intact from keylatch.verify_events()")
            if outcome.row != (True,):
                break
        return outcome

    def seal() -> Outcome:
        for _ in range(20):
            outcome = attempt(system.owner, "select true from keylatch.seal_events(50)")
            if outcome.word != "done":
                break
        return outcome

    assert together([verify, seal]) == [Outcome("done", (True,))] * 2


@pytest.mark.usefixtures("local_server")
def test_a_sealer_that_is_killed_leaves_a_chain_that_goes_on(
    other_server: Cluster, people: People
) -> None:
    assert isinstance(other_server, Server)
    with Database(other_server, "killed", make_template(other_server)) as database:
        people.seed(database.url)
        with psycopg.connect(database.url, autocommit=True) as owner:
            owner.execute(MANY, [people.a, 2500])
            owner.execute("select from keylatch.seal_events(1000)")
        sealer = psycopg.connect(database.url)
        assert attempt(sealer, "select from keylatch.seal_events(1200)").word == "done"
        witness = psycopg.connect(database.url, autocommit=True)
        os.kill(sealer.info.backend_pid, signal.SIGKILL)
        until(lambda: not _answers(witness))  # the server ends every session and recovers
        owner = _again(database)
        assert verified(owner) == (True, 1, 1000, 1500, None)
        owner.execute(SEAL)
        assert verified(owner) == (True, 3, 2500, 0, None)
        owner.close()


def _answers(connection: Connection) -> bool:
    with contextlib.suppress(psycopg.OperationalError):
        connection.execute("select 1")
        return True
    return False


def _again(database: Database) -> Connection:
    """Wait until the server has recovered from the loss of a process, and connect."""
    found: list[Connection] = []

    def answers() -> bool:
        with contextlib.suppress(psycopg.OperationalError):
            found.append(psycopg.connect(database.url, autocommit=True))
        return bool(found)

    until(answers)
    return found[0]


def test_the_plans_of_a_small_log_are_also_fast_for_a_large_one(system: System) -> None:
    service = system.database.connect("service_role")
    verify = "select is_intact from keylatch.verify_events()"
    for _ in range(2):
        for _ in range(8):  # after five calls PostgreSQL may choose a generic plan
            system.issue()
            service.execute(SEAL)
            service.execute(verify)
        system.owner.execute("vacuum analyze keylatch_internal.key_events")
    for _ in range(8):
        system.issue()
        service.execute(SEAL)
        service.execute(verify)
    system.owner.execute(MANY, [system.workspace, 3000])
    read = (
        "select seq_tup_read from pg_stat_xact_user_tables"
        " where relid = 'keylatch_internal.key_events'::regclass"
    )
    for statement in (SEAL, verify):
        with service.transaction():
            service.execute(statement)
            assert service.execute(read).fetchone() == (0,), statement


def test_the_last_page_of_a_long_log_reads_no_other_rows(system: System) -> None:
    owner, read = system.owner, []
    owner.execute(MANY, [system.workspace, 10_000])
    oldest = "select id from keylatch_internal.key_events order by occurred_at, id limit 2"
    *_, (second,) = owner.execute(oldest).fetchall()
    page = "explain (analyze, buffers, format json) select from keylatch.list_events(%s, %s, 1)"
    for _ in range(2):  # the first call also reads the catalog
        row = owner.execute(page, [system.workspace, second]).fetchone()
        assert row is not None
        read.append(row[0][0]["Plan"]["Shared Hit Blocks"])
    # A page of the index has more than 100 entries. The table has over 200 pages of rows.
    assert read[1] < 110


# Reading.


def test_admins_and_services_read_seal_and_verify_over_http(
    database: Database, people: People, rest: Rest
) -> None:
    in_sql = Keylatch.from_psycopg(database.connect("authenticated", people.claims("alice")))
    with httpx.Client() as session:
        over_http, service = (
            Keylatch.from_postgrest(
                SyncPostgrestClient(
                    rest.rest_url,
                    headers={"Authorization": f"Bearer {token}"},
                    http_client=session,
                )
            )
            for token in (people.token("alice"), rest.service_key)
        )
        issued = over_http.issue(people.a, kind="secret", label="shop")
        over_http.revoke(issued.id, reason="leaked")
        assert service.seal_events().events == 2
        assert over_http.events(people.a) == in_sql.events(people.a)
        assert over_http.verify_events() == in_sql.verify_events()
        (second,) = over_http.events(people.a, after=over_http.events(people.a, limit=1)[0].id)
    newest, first = in_sql.events(people.a)
    assert (newest.event, newest.reason, newest.key_id) == ("revoked", "leaked", issued.id)
    assert (newest.user_id, newest.role, newest.login) == (
        people.alice,
        "authenticated",
        "authenticator",
    )
    assert newest.agent is not None
    assert "httpx" in newest.agent
    assert first == second
    assert first.changes["label"] == {"new": "shop"}
    assert first.checkpoint == 1


# Restoring and replicating.


@pytest.mark.one_server
def test_a_whole_dump_that_is_restored_keeps_events_seals_and_guards(
    system: System, server: Cluster, tmp_path: Path
) -> None:
    key, _ = system.issue()
    system.session().execute(REVOKE, [key, False])
    system.owner.execute(SEAL)
    system.issue()
    url = system.database.superuser_url
    run_program("pg_dump", "--format=custom", f"--file={tmp_path / 'dump'}", url)
    with Database(server, f"{system.database.name}_restored") as restored:
        run_program(
            "pg_restore", "--exit-on-error", f"--dbname={restored.superuser_url}", tmp_path / "dump"
        )
        owner = restored.connect()
        assert everything(owner) == everything(system.owner)
        assert verified(owner) == (True, 1, 2, 1, None)
        for statement in ("delete from keylatch_internal.key_events", FORGE):
            assert attempt(owner, statement).word == "events_are_kept"
        assert attempt(owner, ISSUE, [system.workspace]).word == "done"
        assert attempt(owner, SEAL).row == (2, 2, True)
        assert verified(owner) == (True, 2, 4, 0, None)


@pytest.mark.one_server
def test_data_that_are_restored_in_replication_mode_make_no_event_anew(
    system: System, server: Cluster, template: str, tmp_path: Path
) -> None:
    """Supabase restores a backup like this: the schema first, then the data in one transaction."""
    keys = [system.issue()[0] for _ in range(3)]
    system.session().execute(REVOKE, [keys[0], False])
    system.session().execute(ROTATE, [keys[1], "1 hour"])
    system.owner.execute(SEAL)
    system.issue()
    data = tmp_path / "data.sql"
    tables = ("keys", "key_events", "key_event_checkpoints", "workspace_latches")
    run_program(
        *("pg_dump", "--data-only", f"--file={data}", system.database.superuser_url),
        *(f"--table=keylatch_internal.{table}" for table in tables),
    )
    with Database(server, f"{system.database.name}_restored", template) as restored:
        psql = ("psql", "--no-psqlrc", "--quiet", "--single-transaction", "-vON_ERROR_STOP=1")
        mode = "--command=set session_replication_role = replica"
        run_program(*psql, mode, f"--file={data}", restored.superuser_url)
        owner = restored.connect()
        assert everything(owner) == everything(system.owner)
        assert verified(owner) == (True, 1, 6, 1, None)
        assert attempt(owner, REVOKE, [keys[2], False]).word == "done"
        assert attempt(owner, SEAL).row == (2, 2, True)
        assert verified(owner) == (True, 2, 8, 0, None)


def test_a_logical_replica_has_the_events_and_seals_of_its_publisher(
    server: Cluster, template: str, database: Database, people: People
) -> None:
    system = System(database, people)
    before, _ = system.issue()
    tables = ("keys", "key_events", "key_event_checkpoints")
    with subscribed(server, template, database, *tables) as replica:
        subscriber = replica.connect(superuser=True)
        system.session().execute(REVOKE, [before, False])
        system.issue()
        system.owner.execute(SEAL)
        system.issue()
        _wait_until_equal(subscriber, system.owner)
        assert verified(subscriber) == (True, 1, 3, 1, None)
        assert attempt(replica.connect(), SEAL).word == "sealed_at_publisher"
        _archive(system.owner)
        _wait_until_equal(subscriber, system.owner)
        assert verified(subscriber) == (True, 1, 0, 1, None)
        subscriber.execute("drop subscription keys")
        # After a cut-over the replica works alone: no sequence can be behind the copied rows.
        assert attempt(replica.connect(), ISSUE, [people.a]).word == "done"
        assert attempt(replica.connect(), SEAL).row == (2, 2, True)
        assert verified(subscriber) == (True, 2, 2, 0, None)


def test_a_replica_that_revokes_keys_by_itself_has_no_event_twice(
    server: Cluster, template: str, database: Database, people: People
) -> None:
    """An application may fire the trigger of its workspaces always, also at the replica."""
    system = System(database, people)
    for _ in range(2):
        system.issue()
    with subscribed(server, template, database, "keys", "key_events") as replica:
        subscriber = replica.connect(superuser=True)
        publication = "alter publication keys add table keylatch.workspaces"
        database.connect(superuser=True).execute(publication)
        subscriber.execute("alter subscription keys refresh publication")
        always = "enable always trigger workspaces_delete_revoke_keys"
        subscriber.execute(f"alter table keylatch.workspaces {always}")
        deletion = "delete from keylatch.workspaces where id = %s"
        copied = "select from keylatch.workspaces where id = %s"
        until(lambda: subscriber.execute(copied, [people.a]).rowcount == 1)
        system.owner.execute(deletion, [people.a])
        _wait_until_equal(subscriber, system.owner)
        revoked = "select key_id from keylatch.key_events where event = 'revoked'"
        assert subscriber.execute(revoked).rowcount == 2


def _wait_until_equal(subscriber: Connection, publisher: Connection) -> None:
    # At first each table has its own worker, so checkpoints may arrive after their events.
    until(
        lambda: (
            [everything(subscriber), _checkpoints(subscriber)]
            == [everything(publisher), _checkpoints(publisher)]
        )
    )


def _checkpoints(connection: Connection) -> list[tuple[Any, ...]]:
    return connection.execute(
        "select * from keylatch_internal.key_event_checkpoints order by number"
    ).fetchall()


def _archive(owner: Connection) -> None:
    owner.execute("update keylatch_internal.key_event_checkpoints set archived_at = now()")
    owner.execute("delete from keylatch_internal.key_events where checkpoint is not null")


def run_program(name: str, *arguments: object, text: str | None = None) -> str:
    """Run a program of PostgreSQL, and return its output."""
    program = shutil.which(name)
    if program is None:
        raise MissingTool(name)
    done = subprocess.run(
        [program, *map(str, arguments)], capture_output=True, text=True, check=False, input=text
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_no_seed_tells_a_user_when_changes_are_counted(system: System) -> None:
    system.owner.execute("update keylatch_internal.event_settings set changes_per_minute = 100")
    key_id, _ = system.issue()
    alice = system.session()
    for number in range(300):
        alice.execute("select setseed(-0.99)")
        change = "update keylatch.keys set label = %s where id = %s"
        if attempt(alice, change, [str(number), key_id]).word == "too_many_requests":
            return
    pytest.fail("300 changes in a minute, where 100 are allowed")
