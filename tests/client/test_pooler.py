"""Behind a pooler in transaction mode: every call works and leaves no state on the session."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import bcrypt
import psycopg
import pytest

from client.connections import CallerConnection, Open
from client.system import System
from keylatch.errors import KeyNotFound, PermissionDenied
from keylatch.models import KeyUsage
from stack import Cluster, Janitor
from stack.pooler import Pooler

ORIGIN = "https://client.example"
# The state of a session: role, claims, prepared statements, advisory locks, channels, and its pid.
LEFT = """
select current_user::text, current_setting('role'),
  coalesce(current_setting('request.jwt.claims', true), ''),
  (select count(*) from pg_prepared_statements),
  (select count(*) from pg_locks where pid = pg_backend_pid() and locktype = 'advisory'),
  (select count(*) from pg_listening_channels()), pg_backend_pid()
"""


@pytest.fixture(scope="session")
def pooler(server: Cluster, janitor: Janitor) -> Iterator[Pooler]:
    """A PgBouncer with one server session for all clients."""
    with Pooler(server, janitor=janitor) as pooler:
        yield pooler


def pooled(line: Open, system: System, pooler: Pooler, **options: Any) -> CallerConnection:
    """Connect through the pooler, without prepared statements."""
    url = pooler.url(system.database.authenticator_url)
    return line(url, prepare_threshold=None, **options)


@pytest.mark.parametrize("autocommit", [True, False])
def test_every_call_works_and_leaves_no_state_on_the_session(
    line: Open, system: System, pooler: Pooler, autocommit: bool
) -> None:
    one = pooled(line, system, pooler, autocommit=autocommit)
    admin = one.client(system.claims("alice"))
    runtime = one.client({"role": "keylatch_resolver"})
    watcher = pooled(line, system, pooler, autocommit=True)
    clean = watcher.ask(LEFT)

    def left() -> object:
        """Commit, so that the session is free, and return the state that the next client finds."""
        one.wait(one.connection.commit())
        return watcher.ask(LEFT)

    assert clean[:6] == ("authenticator", "none", "", 0, 0, 0)

    issued = admin.issue(system.people.a, allowed_origins=[ORIGIN])
    assert left() == clean
    assert runtime.resolve(issued.key, origin=ORIGIN) is not None
    assert left() == clean
    assert admin.explain(issued.key, origin=ORIGIN).verdict == "valid"
    assert admin.suspend(issued.id).status == "suspended"
    assert runtime.resolve(issued.key, origin=ORIGIN) is None
    assert admin.unsuspend(issued.id).status == "active"
    successor = admin.rotate(issued.id, grace=timedelta(hours=1))
    assert admin.show(successor.id).rotated_from == issued.id
    assert successor.id in {key.id for key in admin.list(system.people.a)}
    assert admin.revoke(successor.id, cascade=True).also_revoked == (issued.id,)
    assert runtime.resolve(successor.key, origin=ORIGIN) is None
    assert admin.installation().is_replica is False
    # A refused call leaves no state either.
    with pytest.raises(PermissionDenied):
        admin.resolve(issued.key)
    assert left() == clean


def test_a_refused_call_leaves_the_session_to_the_next_caller(
    line: Open, system: System, pooler: Pooler
) -> None:
    """PgBouncer 1.18 kept the session after about one in fifty errors inside a pipeline."""
    admin = pooled(line, system, pooler, autocommit=True).client(system.claims("alice"))
    watcher = pooled(line, system, pooler, autocommit=True)
    for _ in range(200):
        with pytest.raises(PermissionDenied):
            admin.resolve("not a key")
        assert watcher.ask("select 1") == (1,)


def test_batches_sessions_and_old_keys_leave_no_state_either(
    line: Open, system: System, pooler: Pooler
) -> None:
    one = pooled(line, system, pooler, autocommit=True)
    admin = one.client(system.claims("alice"))
    service = one.client({"role": "service_role"})
    runtime = one.client({"role": "keylatch_resolver"})
    watcher = pooled(line, system, pooler, autocommit=True)
    clean = watcher.ask(LEFT)

    keys = [one.key for one in admin.issue_many(system.people.a, labels=["one", "two"])]
    found = runtime.resolve_many([*keys, "none"])
    assert [one is not None for one in found] == [True, True, False]
    first = found[0]
    assert first is not None
    use = KeyUsage(key_id=first.key_id, uses=3, last_used_at=datetime.now(UTC))
    assert runtime.record_usage([use]) == frozenset()
    assert admin.usage(first.key_id) is not None
    salted = bcrypt.hashpw(b"an old key", bcrypt.gensalt(4)).decode()
    old = {"workspace_id": str(system.people.a), "alg": "bcrypt", "hash": salted}
    assert service.import_keys([old]).waiting == 1
    assert "waiting" in {key.status for key in admin.legacy_keys(system.people.a)}
    upgraded = runtime.upgrade_key("an old key", workspace_id=system.people.a)
    assert upgraded == runtime.resolve("an old key")
    assert upgraded is not None
    assert runtime.resolve_session("no token") is None
    assert service.prune_sessions().pruned == 0
    assert {"issued", "imported"} <= {one.event for one in admin.events(system.people.a)}
    assert watcher.ask(LEFT) == clean


def test_the_next_caller_on_a_session_is_not_the_caller_before(
    line: Open, system: System, pooler: Pooler
) -> None:
    alice = pooled(line, system, pooler, autocommit=True).client(system.claims("alice"))
    bob = pooled(line, system, pooler, autocommit=True).client(system.claims("bob"))
    mia = pooled(line, system, pooler, autocommit=True).client(system.claims("mia"))
    plain = pooled(line, system, pooler, autocommit=True).client()
    for _ in range(3):
        issued = alice.issue(system.people.a)
        for other in (bob, mia):
            with pytest.raises(KeyNotFound):
                other.revoke(issued.id)
        with pytest.raises(PermissionDenied):
            plain.list(system.people.a)
        assert alice.show(issued.id).status == "active"


async def test_a_hundred_at_once_share_one_session_and_none_acts_as_another(
    system: System, pooler: Pooler
) -> None:
    from keylatch import AsyncKeylatch

    url = pooler.url(system.database.authenticator_url)

    async def one(who: str, own: Any, other: Any) -> None:
        async with await psycopg.AsyncConnection.connect(url, prepare_threshold=None) as line:
            kl = AsyncKeylatch.from_psycopg(line, claims=system.claims(who))
            issued = await kl.issue(own)
            assert issued.workspace_id == own
            with pytest.raises(PermissionDenied):
                await kl.issue(other)
            assert await kl.list(other) == ()

    people = system.people
    await asyncio.gather(
        *(one("alice", people.a, people.b) for _ in range(50)),
        *(one("bob", people.b, people.a) for _ in range(50)),
    )
