"""Events among several sessions: written with the change, chained at the commit, and replicated."""

import shutil
import subprocess
import time
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import psycopg
import pytest
from postgrest import SyncPostgrestClient
from psycopg import sql

from database.racing import ISSUE, REVOKE, ROTATE, Connection, World, attempt, together
from database.test_import import OLD, PBKDF2, import_, line
from keylatch import AsyncKeylatch, Keylatch
from stack import Cluster, Database, People, Rest
from stack.tools import ROOT, MissingTool

SUSPEND = "select id from keylatch.suspend_key(%s)"
LABEL = "update keylatch.keys set label = %s where id = any (%s)"


@pytest.fixture
def world(database: Database, people: People) -> World:
    return World(database, people)


def verified(connection: Connection, workspace: UUID) -> tuple[Any, ...]:
    """Whether the chain is intact, and how many events it has."""
    row = connection.execute(
        "select is_intact, events, problem from keylatch.verify_events(%s)", [workspace]
    ).fetchone()
    assert row is not None
    return row


def events(connection: Connection, *columns: str) -> list[tuple[Any, ...]]:
    """These columns of all events, in the order of their chains."""
    names = sql.SQL(", ").join(map(sql.Identifier, columns))
    query = sql.SQL("select {} from keylatch.key_events order by workspace_id, number")
    return connection.execute(query.format(names)).fetchall()


def test_what_is_rolled_back_leaves_no_event_and_no_gap(world: World) -> None:
    key, _ = world.issue()
    with world.session(autocommit=False) as alice:
        alice.execute(REVOKE, [key, False])
        alice.rollback()
        alice.execute("savepoint before")
        alice.execute(SUSPEND, [key])
        alice.execute("rollback to savepoint before")
        alice.execute(LABEL, ["kept", [key]])
    assert events(world.owner, "number", "event") == [
        (1, "first_key"),
        (2, "issued"),
        (3, "changed"),
    ]
    assert verified(world.owner, People.a) == (True, 3, None)


def test_two_workspaces_do_not_wait_for_each_other(world: World, people: People) -> None:
    alice = world.session(autocommit=False)
    alice.execute(ISSUE, [people.a])
    alice.execute("set constraints all immediate")  # it holds the end of its chain from now on
    bob = world.database.connect("authenticated", people.claims("bob"))
    bob.execute("set lock_timeout = '5s'")
    assert attempt(bob, ISSUE, [people.b]).word == "done"
    alice.commit()
    assert verified(world.owner, people.a)[:2] == (True, 2)
    assert verified(world.owner, people.b)[:2] == (True, 2)


def test_in_one_workspace_a_commit_waits_for_the_one_before(world: World) -> None:
    world.issue()
    first = world.session(autocommit=False)
    first.execute(ISSUE, [world.workspace])
    first.execute("set constraints all immediate")
    second = world.waiting(ISSUE, [world.workspace], waits_for=first)
    first.commit()
    assert second.outcome().word == "done"
    assert verified(world.owner, world.workspace)[:2] == (True, 4)


def test_changes_of_the_same_keys_in_another_order_do_not_meet_head_on(world: World) -> None:
    one, other = world.issue()[0], world.issue()[0]
    first, second = world.session(autocommit=False), world.session(autocommit=False)
    first.execute(REVOKE, [one, False])
    second.execute(SUSPEND, [other])
    # The first now waits for the row that the second has; the second commits past the first.
    waiting = world.waiting(REVOKE, [other, False], waits_for=second, session=first)
    second.commit()
    assert waiting.outcome().word == "done"
    first.commit()
    assert [event for (event,) in events(world.owner, "event")][-3:] == [
        "suspended",
        "revoked",
        "revoked",
    ]
    assert verified(world.owner, world.workspace)[0]


def test_transactions_over_two_workspaces_in_any_order_take_turns(
    world: World, people: People
) -> None:
    owners = [world.database.connect(autocommit=False) for _ in range(4)]
    keys = []
    for owner in owners:
        for place in (people.a, people.b):
            row = owner.execute(ISSUE, [place]).fetchone()
            assert row is not None
            keys.append(row[0])
        owner.commit()
    for turn in range(15):
        for number, owner in enumerate(owners):
            mine = keys[2 * number : 2 * number + 2]
            for key in mine if number % 2 else reversed(mine):
                owner.execute(LABEL, [f"turn {turn}", [key]])

        def commit(owner: Connection) -> Any:
            return lambda: attempt(owner, "commit")

        assert {one.word for one in together([commit(owner) for owner in owners])} == {"done"}
    assert verified(world.owner, people.a)[:2] == (True, 1 + 4 + 15 * 4)
    assert verified(world.owner, people.b)[:2] == (True, 1 + 4 + 15 * 4)


def test_whoever_waits_for_the_first_chain_holds_no_later_one(world: World, people: People) -> None:
    assert people.a < people.b
    for place in (people.a, people.b):
        world.owner.execute(ISSUE, [place])
    head = "select from keylatch_internal.key_event_heads where workspace_id = %s for update nowait"
    holder = world.database.connect(autocommit=False)
    holder.execute(head, [people.a])
    writer = world.database.connect(autocommit=False)
    for place in (people.b, people.a):
        writer.execute(ISSUE, [place])
    commit = world.waiting("commit", [], waits_for=holder, session=writer)
    world.owner.execute(head, [people.b])
    holder.rollback()
    assert commit.outcome().word == "done"


def test_a_chain_that_many_write_at_once_is_whole(world: World) -> None:
    def work(number: int) -> Any:
        alice = world.session()

        def go() -> Any:
            for turn in range(12):
                key, _ = attempt(alice, ISSUE, [world.workspace]).row
                with alice.transaction() as change:
                    alice.execute(LABEL, ["x", [key]])
                    alice.execute(REVOKE, [key, False])
                    if (turn + number) % 3 == 0:
                        raise psycopg.Rollback(change)
            return attempt(alice, "select 1")

        return go

    assert {one.word for one in together([work(number) for number in range(6)])} == {"done"}
    assert verified(world.owner, world.workspace) == (True, 1 + 6 * (12 + 8 * 2), None)


def test_each_event_of_a_transaction_names_who_made_its_change(
    database: Database, people: People
) -> None:
    with database.connect("authenticator", autocommit=False) as connection:
        for name, workspace in (("alice", people.a), ("bob", people.b)):
            keylatch = Keylatch.from_psycopg(connection, claims=people.claims(name))
            keylatch.issue(workspace, kind="secret")
    assert {
        (row[0], row[1], row[2])
        for row in events(database.connect(), "workspace_id", "user_id", "role")
    } == {(people.a, people.alice, "authenticated"), (people.b, people.bob, "authenticated")}


async def test_both_clients_read_what_happened_over_http_and_in_sql(
    database: Database, people: People, rest: Rest
) -> None:
    in_sql = Keylatch.from_psycopg(database.connect("authenticated", people.claims("alice")))
    headers = {"Authorization": f"Bearer {people.token('alice')}"}
    with httpx.Client() as session:
        over_http = Keylatch.from_postgrest(
            SyncPostgrestClient(rest.rest_url, headers=headers, http_client=session)
        )
        issued = over_http.issue(people.a, kind="secret", label="shop")
        over_http.revoke(issued.id, reason="leaked")
        assert over_http.events(people.a) == in_sql.events(people.a)
        assert over_http.verify_events(people.a) == in_sql.verify_events(people.a)
    newest, first, _ = in_sql.events(people.a)
    assert (newest.event, newest.reason, newest.key_id) == ("revoked", "leaked", issued.id)
    assert (newest.user_id, newest.role, newest.login) == (
        people.alice,
        "authenticated",
        "authenticator",
    )
    assert newest.agent is not None and "httpx" in newest.agent
    assert first.number == 2
    assert first.changes["label"] == {"new": "shop"}
    assert in_sql.verify_events(people.a).head == newest.hash
    connection = await psycopg.AsyncConnection.connect(database.url, autocommit=True)
    async with connection:
        found = AsyncKeylatch.from_psycopg(connection, claims=people.claims("bob"))
        assert await found.events(people.a) == ()
        assert (await found.verify_events(people.a)).events == 0


def test_the_event_of_a_new_key_names_every_field_that_a_change_would(world: World) -> None:
    import_(
        world.database.connect("service_role"),
        line(key=OLD, suspended_at="2024-01-01", expires_at="2999-01-01", scopes=["a"]),
        line(**PBKDF2, revoked_at="2024-01-01"),
    )
    issued = world.owner.execute(ISSUE, [People.a]).fetchone()
    assert issued is not None
    world.owner.execute(ROTATE, [issued[0], "1 hour"])
    world.owner.execute(ISSUE, [People.a])
    rows = world.owner.execute(
        "select e.changes, keylatch_internal.event_fields(k) from keylatch.key_events as e"
        " join keylatch_internal.keys as k on e.key_id = k.id"
        " where e.event in ('imported', 'issued', 'rotated') and k.superseded_at is null"
    ).fetchall()
    assert len(rows) == 4
    for changes, fields in rows:
        assert changes == {name: {"new": new} for name, new in fields.items() if new is not None}
    # Only a new key was never superseded.
    assert {name for changes, _ in rows for name in changes} == set(rows[0][1]) - {"superseded_at"}


def test_a_logical_replica_keeps_the_events_of_its_publisher(
    server: Cluster, template: str, database: Database, people: People
) -> None:
    world = World(database, people)
    tables = "keys, keylatch_internal.key_events, keylatch_internal.key_event_links"
    with Database(server, f"{database.name}_replica", template) as replica:
        publisher = database.connect(superuser=True)
        publisher.execute(
            f"create publication events for table keylatch_internal.{tables},"
            " keylatch_internal.key_event_heads"
        )
        publisher.execute(
            "select pg_create_logical_replication_slot(%s, 'pgoutput')", [replica.name]
        )
        before, _ = world.issue()
        subscriber = replica.connect(superuser=True)
        subscriber.execute(
            sql.SQL(
                "create subscription events connection {} publication events"
                " with (create_slot = false, slot_name = {})"
            ).format(sql.Literal(database.inner_url), sql.Identifier(replica.name))
        )
        try:
            world.session().execute(REVOKE, [before, False])
            world.issue()
            wanted = events(world.owner, "number", "event", "occurred_at", "hash")
            ends = time.monotonic() + 20
            while verified(subscriber, people.a)[:2] != (True, 4):
                assert time.monotonic() < ends, verified(subscriber, people.a)
                time.sleep(0.05)
            assert events(subscriber, "number", "event", "occurred_at", "hash") == wanted
        finally:
            subscriber.execute("drop subscription events")


@pytest.mark.one_server
def test_a_dump_that_is_restored_elsewhere_keeps_latch_and_chain(
    world: World, server: Cluster, tmp_path: Path
) -> None:
    key, _ = world.issue()
    world.session().execute(REVOKE, [key, False])
    url = world.database.superuser_url
    _run("pg_dump", "--format=custom", f"--file={tmp_path / 'dump'}", url)
    with Database(server, f"{world.database.name}_restored") as restored:
        _run(
            "pg_restore", "--exit-on-error", f"--dbname={restored.superuser_url}", tmp_path / "dump"
        )
        owner = restored.connect()
        assert events(owner, "number", "event", "hash") == events(
            world.owner, "number", "event", "hash"
        )
        assert verified(owner, world.workspace) == (True, 3, None)
        for statement, slug in (
            ("update keylatch.keys set revoked_at = null", "revoked_is_final"),
            ("delete from keylatch_internal.key_events", "events_are_kept"),
        ):
            assert attempt(owner, statement).word == slug
        assert attempt(owner, ISSUE, [world.workspace]).word == "done"
        assert verified(owner, world.workspace) == (True, 4, None)


@pytest.mark.one_server
def test_an_anchor_shows_a_chain_that_its_owner_wrote_anew(world: World) -> None:
    world.issue()
    key, _ = world.issue()
    url = world.database.url
    file = str(ROOT / "sql" / "ops" / "anchor_events.sql")
    anchors = _run("psql", "--no-psqlrc", "--csv", "--file", file, url)
    world.session().execute(REVOKE, [key, False])
    compare = ["psql", "--no-psqlrc", "-qtA", f"--file={ROOT}/sql/ops/compare_anchors.sql", url]
    assert _run(*compare, text=anchors) == ""
    _rewrite(world.owner)
    assert verified(world.owner, world.workspace)[0]
    assert "was rewritten" in _run(*compare, text=anchors)


def _rewrite(owner: Connection) -> None:
    """Change the past and compute the chain anew, as an owner could who reads the migrations."""
    for table in ("key_events", "key_event_links", "key_event_heads"):
        owner.execute(f"alter table keylatch_internal.{table} disable trigger user".encode())
    owner.execute("update keylatch_internal.key_events set user_id = null")
    owner.execute(
        """
        do $$
        declare
          v_link record;
          v_hash bytea := '';
        begin
          for v_link in
            select l.number, e from keylatch_internal.key_event_links as l
            inner join keylatch_internal.key_events as e on l.event_id = e.id order by l.number
          loop
            v_hash := keylatch_internal.event_hash(v_link.e, v_link.number, v_hash);
            update keylatch_internal.key_event_links set hash = v_hash
            where number = v_link.number;
          end loop;
          update keylatch_internal.key_event_heads set hash = v_hash;
        end
        $$
        """
    )


def _run(name: str, *arguments: object, text: str | None = None) -> str:
    program = shutil.which(name)
    if program is None:
        raise MissingTool(name)
    done = subprocess.run(
        [program, *map(str, arguments)], capture_output=True, text=True, check=False, input=text
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
