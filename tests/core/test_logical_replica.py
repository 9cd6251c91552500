"""A logical replica has the publisher's rows with their times, and keeps the latch."""

import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from stack import Cluster, Database, People, until
from stack.subscriber import subscribed


def rows(database: Database) -> list[tuple[Any, ...]]:
    """All columns of all keys, as the owner sees them."""
    with psycopg.connect(database.url) as connection:
        return connection.execute("select * from keylatch_internal.keys order by id").fetchall()


def wait_until_equal(one: Database, other: Database) -> None:
    """Wait until both databases have the same keys."""
    until(lambda: rows(one) == rows(other))


@pytest.fixture
def replica(server: Cluster, template: str, database: Database) -> Iterator[Database]:
    """A second database that subscribes to the keys of the test's database."""
    with subscribed(server, template, database, "keys") as replica:
        yield replica


def test_a_replica_holds_the_same_rows_times_included(
    database: Database, replica: Database, people: People
) -> None:
    with database.connect("authenticated", people.claims("alice")) as alice:
        issue = "select id from keylatch.issue_key(%s, 'secret', expires_at => now() + '1 hour')"
        ids = [alice.execute(issue, [people.a]).fetchone() for _ in range(4)]
        alice.execute("select keylatch.rotate_key(%s, '10 minutes')", ids[0])
        alice.execute("select keylatch.rotate_key(%s)", ids[1])
        alice.execute("select keylatch.suspend_key(%s)", ids[2])
        alice.execute("select keylatch.revoke_key(%s, 'leaked')", ids[3])
    assert len(rows(database)) == 6
    wait_until_equal(database, replica)


def test_an_extension_that_arrives_after_the_old_expiry_does_not_stop_the_replica(
    database: Database, replica: Database, people: People
) -> None:
    with database.connect("authenticated", people.claims("alice")) as alice:
        issue = "select id from keylatch.issue_key(%s, 'secret', expires_at => now() + %s)"
        alice.execute(issue, [people.a, "1 hour"])
        # The first copy of the table takes longer than the second key is valid.
        wait_until_equal(database, replica)
        key = alice.execute(issue, [people.a, "8 seconds"]).fetchone()
        wait_until_equal(database, replica)
        with psycopg.connect(replica.superuser_url, autocommit=True) as subscriber:
            subscriber.execute("alter subscription keys disable")
            alice.execute(
                "update keylatch.keys set expires_at = now() + '1 hour' where id = %s", key
            )
            time.sleep(8.1)
            # Only the worker may extend the key: for another session in replication mode the key
            # stays expired.
            subscriber.execute("set session_replication_role = replica")
            with pytest.raises(psycopg.Error) as refused:
                subscriber.execute(
                    "update keylatch_internal.keys set expires_at = now() + '2 hours'"
                    " where id = %s",
                    key,
                )
            assert refused.value.diag.message_primary == "expired_is_final"
            subscriber.execute("alter subscription keys enable")
        wait_until_equal(database, replica)


def test_a_key_revoked_at_the_replica_stays_revoked_and_the_replica_goes_on(
    database: Database, replica: Database, people: People
) -> None:
    """Of two states of a key, the state closer to revocation wins, and the worker goes on."""
    issue = "select id from keylatch.issue_key(%s, 'secret', scopes => '{a}')"
    rotate = "select id from keylatch.rotate_key(%s, %s)"
    with database.connect("authenticated", people.claims("alice")) as alice:
        ids = [alice.execute(issue, [people.a]).fetchone() for _ in range(5)]
        here, there, both, graced, marker = [row[0] for row in ids if row]
        wait_until_equal(database, replica)
        with psycopg.connect(replica.url, autocommit=True) as subscriber:
            subscriber.execute("select keylatch.revoke_key(%s, 'only here')", [here])
            subscriber.execute("select keylatch.revoke_key(%s, 'here first')", [both])
            subscriber.execute(
                "update keylatch.keys set superseded_at = now(), expires_at = now() + '1 hour'"
                " where id = %s",
                [graced],
            )
            before = states(replica)
            alice.execute(
                "update keylatch.keys set label = 'renamed', scopes = '{b}',"
                " expires_at = now() + '1 year' where id = %s",
                [here],
            )
            alice.execute("select keylatch.revoke_key(%s, 'there, too')", [both])
            alice.execute("select keylatch.revoke_key(%s, 'only there')", [there])
            alice.execute("update keylatch.keys set label = 'kept' where id = %s", [graced])
            alice.execute(rotate, [marker, "1 day"])
            # The last change has arrived, so each one before it has.
            until(lambda: states(replica)[marker][1] is not None, "the worker stopped")
            after = states(replica)
    assert after[here] == before[here]
    assert after[both] == before[both]
    assert after[there] == states(database)[there]
    assert after[there][4] == "only there"
    assert after[graced] == before[graced]
    assert [row["label"] for row in named(replica) if row["id"] in (here, graced)] == [
        "renamed",
        "kept",
    ]


def states(database: Database) -> dict[Any, tuple[Any, ...]]:
    """The columns of each key that the latch guards, by the key's id."""
    return {
        row["id"]: tuple(
            row[name]
            for name in (
                *("revoked_at", "superseded_at", "expires_at", "revoked_by", "revoke_reason"),
                "scopes",
            )
        )
        for row in named(database)
    }


def named(database: Database) -> list[dict[str, Any]]:
    """Every key, the oldest first."""
    with psycopg.connect(database.url, row_factory=dict_row) as connection:
        return connection.execute("select * from keylatch.keys order by created_at").fetchall()
