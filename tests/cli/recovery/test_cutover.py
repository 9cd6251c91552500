"""A move by logical replication from a real publisher: doctor's findings at each step."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql

from cli.program import Program
from security.restoring.ways import EMPTY
from stack import Cluster, Database, People, until

pytestmark = pytest.mark.one_server

ELSEWHERE = ("warning", "installed_elsewhere")
STATES = "select count(*) from pg_subscription_rel where srsubstate <> 'r'"


@pytest.fixture
def target(other_server: Cluster) -> Iterator[Database]:
    """A migrated database on another server, without the rows that the publisher sends."""
    with Database(other_server, "moved") as target:
        target.migrate()
        run(target, EMPTY)
        yield target


def run(database: Database, *statements: str) -> None:
    """Run each statement as the superuser, in a transaction of its own."""
    with psycopg.connect(database.superuser_url, autocommit=True) as superuser:
        for statement in statements:
            superuser.execute(statement.encode())


def one(database: Database, query: str, *values: object) -> Any:
    """Return the first row of a query that the superuser runs."""
    with psycopg.connect(database.superuser_url, autocommit=True) as superuser:
        return superuser.execute(query.encode(), values or None).fetchone()


def follow(target: Database, publisher: Database) -> None:
    """Make a database a logical replica of another database."""
    run(publisher, "create publication moving for tables in schema keylatch, keylatch_internal")
    with psycopg.connect(target.superuser_url, autocommit=True) as subscriber:
        subscriber.execute(
            sql.SQL("create subscription moving connection {} publication moving").format(
                sql.Literal(publisher.inner_url)
            )
        )


def test_doctor_names_each_step_of_a_cut_over_and_then_nothing(
    program: Program, database: Database, people: People, target: Database
) -> None:
    there = program.having(DATABASE_URL=target.superuser_url)

    def found() -> list[dict[str, str]]:
        return list(there.ok("doctor")["findings"])

    def levels_and_slugs() -> list[tuple[str, str]]:
        return [(one["level"], one["slug"]) for one in found()]

    issue = "select id, key from keylatch.issue_key(%s, 'secret')"
    revoked, active = (one(database, issue, people.a) for _ in range(2))
    with psycopg.connect(target.superuser_url) as busy:
        # This lock blocks the copy of the table, but no reader.
        busy.execute("lock table keylatch_internal.key_usage in share mode")
        follow(target, database)
        until(lambda: one(target, STATES) == (1,))
        copying = found()
        assert [(one["level"], one["slug"]) for one in copying] == [
            ELSEWHERE,
            ("warning", "subscription_copying"),
        ]
        assert "keylatch_internal.key_usage" in copying[1]["what"]
    until(lambda: one(target, STATES) == (0,))
    assert levels_and_slugs() == [ELSEWHERE]

    one(database, "select keylatch.revoke_key(%s)", revoked[0])
    resolves = "select count(*) from keylatch.resolve_key(%s)"
    until(lambda: one(target, resolves, revoked[1]) == (0,))
    run(target, "alter subscription moving disable")
    stopped = found()
    assert [(one["level"], one["slug"]) for one in stopped] == [
        ELSEWHERE,
        ("warning", "subscription_stopped"),
    ]
    # Run what the finding says for a database that becomes the primary.
    run(target, *stopped[1]["fix"].splitlines()[-3:])
    assert levels_and_slugs() == [ELSEWHERE]

    # After the cut-over, the target resolves keys, and a revocation holds.
    assert one(target, resolves, active[1]) == (1,)
    assert one(target, "select already_revoked from keylatch.revoke_key(%s)", active[0]) == (False,)
    assert one(target, resolves, active[1]) == (0,)
    assert there("installation", "renew", "--keep-id").out
    assert there("doctor").out.startswith("Nothing to fix in the parts that were checked.\n")
    program.having(DATABASE_URL=database.url)("doctor")


def test_a_publisher_that_is_gone_is_named(
    program: Program, database: Database, people: People, target: Database
) -> None:
    follow(target, database)
    until(lambda: one(target, STATES) == (0,))
    # PostgreSQL restarts a refused worker only after this time.
    run(target, "alter system set wal_retrieve_retry_interval = '1h'", "select pg_reload_conf()")
    run(
        target,
        "alter subscription moving connection 'host=127.0.0.1 port=1 dbname=gone user=nobody'",
    )
    running = "select count(*) from pg_stat_subscription where subname = 'moving' and pid > 0"
    until(lambda: one(target, running) == (0,))
    there = program.having(DATABASE_URL=target.superuser_url)
    findings = there.ok("doctor")["findings"]
    assert [(one["level"], one["slug"]) for one in findings] == [
        ELSEWHERE,
        ("warning", "subscription_stopped"),
    ]
    assert "no worker applies changes" in findings[1]["what"]
    run(
        target,
        "alter subscription moving disable",
        "alter subscription moving set (slot_name = none)",
        "drop subscription moving",
    )
    run(database, "select pg_drop_replication_slot('moving')")
