"""A user without rights in a workspace cannot delay its admin's revocations.

core/interleavings.json shows how two calls affect each other. The sessions here hold locks without
a call of keylatch. The last test checks the advisory locks of each call.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from core.interleavings import CALLS, CLAIMS, HEADERS, make_scene
from security.shared import open_system
from security.system import System
from stack import Cluster, Database, Janitor, People, Tokens

ADVISORY = """
select (l.classid::bigint::bit(32))::integer, (l.objid::bigint::bit(32))::integer
from pg_locks as l where l.locktype = 'advisory' and l.pid = pg_backend_pid()
"""
STRANGERS = ("anon", "stranger", "mia", "bob", "keylatch_resolver", "nobody")
READERS = ("stranger", "mia", "bob")
# What each stranger holds in an open transaction. Refused statements hold nothing.
HELD = {
    "a snapshot": ["select * from keylatch.keys", "select * from keylatch.key_events"],
    "rows": [
        "select * from keylatch.keys for update",
        "select * from keylatch.keys for key share",
        "select * from keylatch.workspaces for update",
        "select * from keylatch.workspace_membership for update",
    ],
    "numbers": [
        "select pg_advisory_lock(n) from ("
        " select hashtextextended(p || t, 0), hashtext(p || t) from unnest(array["
        "'', 'keylatch', 'keylatch:', 'keylatch_internal.keys:']) as p, unnest(array["
        "'', %(workspace)s, %(key)s]) as t) as h (a, b), unnest(array[a, b]) as n",
        "select pg_advisory_lock(hashtext('keylatch'), hashtext(%(workspace)s))",
    ],
    "the notification queue": ["listen keylatch"],
}


@pytest.fixture(scope="module")
def shared(server: Cluster, template: str, tokens: Tokens, janitor: Janitor) -> Iterator[System]:
    with open_system(server, template, tokens, janitor, "waiting") as system:
        with system.database.connect(superuser=True) as superuser:
            superuser.execute("create role nobody_waits nologin")
        yield system
        with system.database.connect(superuser=True) as superuser:
            superuser.execute("drop role nobody_waits")


def connect(system: System, who: str) -> psycopg.Connection[Any]:
    """Return a session of a user or a role; `nobody` is a role without any rights."""
    if who != "nobody":
        return system.connect(who)
    session = system.database.connect(superuser=True)
    session.execute("set session authorization nobody_waits")
    return session


@pytest.mark.parametrize("what", HELD)
@pytest.mark.parametrize("who", STRANGERS)
def test_locks_of_a_stranger_delay_no_revocation(shared: System, who: str, what: str) -> None:
    """Threat: a login without a right, a reader with a long query, advisory locks by number."""
    with connect(shared, who) as stranger, shared.connect("alice") as alice:
        (key_id,) = alice.execute(
            "select id from keylatch.issue_key(%s, 'secret')", [shared.people.a]
        ).fetchone() or (None,)
        stranger.autocommit = False
        held = []
        for statement in HELD[what]:
            values = {"workspace": str(shared.people.a), "key": str(key_id)}
            with contextlib.suppress(psycopg.errors.InsufficientPrivilege), stranger.transaction():
                stranger.execute(statement.encode(), values)
                held.append(statement)
        # A role that may not read the keys can still lock numbers and listen.
        assert bool(held) is (what in ("numbers", "the notification queue") or who in READERS)
        stranger.execute("select 1")
        # A call that waits fails.
        alice.execute("set lock_timeout = '100ms'")
        for call in (
            "select (keylatch.issue_key(%(workspace)s)).id",
            "select (keylatch.rotate_key(%(key)s, '1 hour')).id",
            "select (keylatch.suspend_key(%(key)s)).id",
            "select (keylatch.revoke_key(%(key)s, cascade => true)).id",
        ):
            values = {"workspace": str(shared.people.a), "key": str(key_id)}
            assert alice.execute(call.encode(), values).fetchone() is not None
        stranger.rollback()


@pytest.mark.parametrize("mode", ["row share", "share", "access exclusive"])
@pytest.mark.parametrize("view", ["keys", "active_keys", "key_events", "workspaces"])
@pytest.mark.parametrize("who", STRANGERS)
def test_nobody_queues_for_a_lock_on_all_keys(
    shared: System, who: str, view: str, mode: str
) -> None:
    """Threat: a lock that waits for a reader makes everybody behind it wait, too."""
    schema = "keylatch_internal" if view == "active_keys" else "keylatch"
    reading = connect(shared, "alice")
    reading.autocommit = False
    reading.execute("select from keylatch.keys")
    with connect(shared, who) as stranger:
        stranger.autocommit = False
        stranger.execute("set local lock_timeout = '1s'")
        # A session that waited for the lock would get LockNotAvailable.
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            stranger.execute(f"lock table {schema}.{view} in {mode} mode")
        stranger.rollback()
    reading.rollback()


@pytest.mark.parametrize("call", CALLS)
def test_no_call_waits_for_an_advisory_lock(database: Database, people: People, call: str) -> None:
    """Threat: advisory locks have no owner: anybody who computes the number could stop the call."""
    assert people
    scene = make_scene(database.connect())

    def make_call(session: psycopg.Connection) -> set[tuple[Any, ...]]:
        role = CALLS[call][0]
        session.execute("select set_config('request.headers', %s, true)", [HEADERS])
        session.execute("select set_config('request.jwt.claims', %s, true)", [CLAIMS[role]])
        session.execute(f"set local role {role}".encode())
        session.execute("set local lock_timeout = '5s'")
        session.execute(scene.statement(call).encode())
        session.execute("reset role")
        return set(session.execute(ADVISORY).fetchall())

    with (
        database.connect(superuser=True, autocommit=False) as session,
        database.connect(superuser=True) as stranger,
    ):
        numbers = make_call(session)
        session.rollback()
        # Only open_session takes a lock, to count requests in flight. It never waits for the lock.
        assert bool(numbers) == (call == "open a session")
        for first, second in numbers:
            stranger.execute("select pg_advisory_lock(%s, %s)", [first, second])
        assert make_call(session) == set()
