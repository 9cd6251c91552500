"""Reads on a real standby, writes on the primary, and revocations that wait for the standby.

To see which server answers, the tests revoke a key while the standby does not replay.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from postgrest import SyncPostgrestClient

from client.cache.hearing import until_remembered
from keylatch import AsyncKeylatch, Keylatch
from keylatch.cached import CachedResolver
from keylatch.clock import steady_clock
from keylatch.errors import InvalidArgument, Unavailable
from keylatch.models import IssuedKey
from stack import HANG_SECONDS, Database, Janitor, People, Server, Tokens, until
from stack.cluster import SUPERUSER
from stack.postgrest import PostgREST
from stack.standby import Standby

pytestmark = pytest.mark.usefixtures("local_server")

RUNTIME = {"role": "keylatch_resolver"}
SERVICE = {"role": "service_role"}
LAG = timedelta(milliseconds=400)


class Pair:
    """A primary and its standby."""

    def __init__(self, server: Server, database: Database, standby: Standby) -> None:
        self.server, self.database, self.standby = server, database, standby
        self.admin = Keylatch.from_psycopg(database.connect("authenticator"), claims=SERVICE)
        self.primary_url = database.authenticator_url
        self.replica_url = standby.url(database.name, "authenticator")

    def client(self, claims: dict[str, str] = RUNTIME, **options: Any) -> Keylatch:
        """Return a client that reads on the standby."""
        return Keylatch.from_psycopg(
            psycopg.connect(self.primary_url, autocommit=True),
            claims=claims,
            reads=psycopg.connect(self.replica_url, autocommit=True),
            **options,
        )

    def issue(self) -> IssuedKey:
        """Issue a key and wait until the standby has it."""
        issued = self.admin.issue(People.a, kind="secret")
        self.standby.catch_up()
        return issued

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Pause replay on the standby, which still receives."""
        url = self.standby.url("postgres", SUPERUSER)
        with psycopg.connect(url, autocommit=True) as control:
            control.execute("select pg_wal_replay_pause()")
            # The replay stops only when its process has seen the request.
            until(lambda: one(control, "select pg_get_wal_replay_pause_state()") == "paused")
            try:
                yield
            finally:
                control.execute("select pg_wal_replay_resume()")

    @contextmanager
    def synchronous(self) -> Iterator[None]:
        """Make the standby synchronous, so that a session can wait for it."""
        with psycopg.connect(self.server.superuser_url("postgres"), autocommit=True) as owner:

            def state(expected: str) -> bool:
                return bool(one(owner, "select sync_state from pg_stat_replication") == expected)

            # A commit waits only if its session asks for that. The other commits must not wait.
            owner.execute("alter system set synchronous_commit = local")
            owner.execute("alter system set synchronous_standby_names = '*'")
            owner.execute("select pg_reload_conf()")
            until(lambda: state("sync"))
            try:
                yield
            finally:
                owner.execute("alter system reset synchronous_standby_names")
                owner.execute("alter system reset synchronous_commit")
                owner.execute("select pg_reload_conf()")
                until(lambda: state("async"))


def one(connection: psycopg.Connection[Any], query: str) -> Any:
    row = connection.execute(query.encode()).fetchone()
    return row and row[0]


@pytest.fixture(scope="module")
def primary(janitor: Janitor) -> Iterator[tuple[Server, Database]]:
    with Server(janitor=janitor) as server, Database(server, "replicated") as database:
        database.migrate()
        People.seed(database.url)
        yield server, database


@pytest.fixture(scope="module")
def pair(primary: tuple[Server, Database], janitor: Janitor) -> Iterator[Pair]:
    with Standby(primary[0], janitor=janitor) as standby:
        yield Pair(*primary, standby)


def is_fresh(kl: Keylatch) -> Callable[[], bool]:
    """Return a condition for `until`: whether the standby may answer, after a read."""

    def look() -> bool:
        kl.resolve("x")
        transport: Any = kl._transport
        return bool(steady_clock() < transport._fresh_until)

    return look


def test_reads_go_to_the_replica_and_writes_to_the_primary(pair: Pair) -> None:
    issued, kl = pair.issue(), pair.client(SERVICE)
    with pair.paused():
        assert kl.revoke(issued.id).already_revoked is False
        assert kl.resolve(issued.key) is not None
        assert kl.explain(issued.key).verdict == "valid"
        assert kl.show(issued.id).status == "active"
        assert issued.id in {key.id for key in kl.list(People.a) if key.status == "active"}
        assert pair.admin.resolve(issued.key) is None
        assert kl.installation().is_replica is False
    pair.standby.catch_up()
    assert kl.resolve(issued.key) is None


def test_a_replica_that_is_too_far_behind_is_not_asked(pair: Pair) -> None:
    issued, kl = pair.issue(), pair.client(max_lag=LAG)
    until(is_fresh(kl))
    with pair.paused():
        pair.admin.revoke(issued.id)
        until(lambda: not is_fresh(kl)())
        assert kl.resolve(issued.key) is None
    until(is_fresh(kl))


@pytest.mark.one_server
def test_a_replica_of_something_else_and_no_replica_at_all_are_not_asked(
    pair: Pair, database: Database, people: People
) -> None:
    issued = pair.issue()
    for other in (database.authenticator_url, pair.primary_url):
        kl = Keylatch.from_psycopg(
            psycopg.connect(pair.primary_url),
            claims=RUNTIME,
            reads=psycopg.connect(other),
            max_lag=LAG,
        )
        for _ in range(3):
            assert kl.resolve(issued.key) is not None
            assert not is_fresh(kl)()
            time.sleep(LAG.total_seconds() / 8)


@pytest.mark.one_server
def test_when_the_replica_is_gone_the_primary_answers(pair: Pair) -> None:
    issued = pair.issue()
    for options in ({}, {"max_lag": LAG}):
        gone = psycopg.connect(pair.replica_url)
        kl = Keylatch.from_psycopg(
            psycopg.connect(pair.primary_url), claims=RUNTIME, reads=gone, **options
        )
        gone.close()
        assert kl.resolve(issued.key) is not None


@pytest.mark.one_server
def test_when_the_primary_is_gone_the_replica_answers_only_without_a_bound(pair: Pair) -> None:
    issued = pair.issue()
    gone, replica = psycopg.connect(pair.primary_url), psycopg.connect(pair.replica_url)
    gone.close()
    kl = Keylatch.from_psycopg(gone, claims=RUNTIME, reads=replica)
    assert kl.resolve(issued.key) is not None
    kl = Keylatch.from_psycopg(gone, claims=RUNTIME, reads=replica, max_lag=LAG)
    with pytest.raises(Unavailable):
        kl.resolve(issued.key)


@pytest.mark.one_server
async def test_the_async_client_returns_the_same_results(pair: Pair) -> None:
    issued = pair.issue()
    connect = psycopg.AsyncConnection.connect
    async with await connect(pair.primary_url) as first, await connect(pair.replica_url) as second:
        kl = AsyncKeylatch.from_psycopg(first, claims=RUNTIME, reads=second)
        bounded = AsyncKeylatch.from_psycopg(first, claims=RUNTIME, reads=second, max_lag=LAG)
        with pair.paused():
            pair.admin.revoke(issued.id)
            assert await kl.resolve(issued.key) is not None
            async with asyncio.timeout(HANG_SECONDS):
                while await bounded.resolve(issued.key) is not None:
                    await asyncio.sleep(0.01)
        pair.standby.catch_up()
        assert await kl.resolve(issued.key) is None
        async with asyncio.timeout(HANG_SECONDS):
            transport: Any = bounded._transport
            while steady_clock() >= transport._fresh_until:
                assert await bounded.resolve(issued.key) is None


@pytest.mark.one_server
def test_over_http_too(pair: Pair, tokens: Tokens, janitor: Janitor) -> None:
    headers = {"Authorization": f"Bearer {tokens.token(role='keylatch_resolver')}"}
    standby_settings = {"DB_CHANNEL_ENABLED": "false"}
    with (
        PostgREST(pair.primary_url, tokens.secret, janitor=janitor) as there,
        PostgREST(
            pair.replica_url, tokens.secret, janitor=janitor, settings=standby_settings
        ) as here,
        SyncPostgrestClient(there.url, headers=headers) as primary,
        SyncPostgrestClient(here.url, headers=headers) as replica,
    ):
        kl = Keylatch.from_postgrest(primary, reads=replica)
        bounded = Keylatch.from_postgrest(primary, reads=replica, max_lag=LAG)
        issued = pair.issue()
        until(is_fresh(bounded))
        with pair.paused():
            pair.admin.revoke(issued.id)
            assert kl.resolve(issued.key) is not None
            until(lambda: bounded.resolve(issued.key) is None)


@pytest.mark.one_server
def test_a_cache_asks_the_primary(pair: Pair) -> None:
    issued = pair.issue()
    with CachedResolver(pair.client(), listen=pair.primary_url) as resolver:
        until(lambda: resolver.stats().is_listening)
        with pair.paused():
            pair.admin.revoke(issued.id)
            assert resolver.resolve(issued.key) is None


def test_waiting_where_no_replica_is_synchronous_is_refused_and_the_key_is_revoked(
    pair: Pair,
) -> None:
    issued = pair.issue()
    with pytest.raises(InvalidArgument, match="synchronous standby") as caught:
        pair.admin.revoke(issued.id, wait_for_replicas=True)
    assert caught.value.sqlstate == "PT400"
    assert pair.admin.resolve(issued.key) is None


@pytest.mark.parametrize("claims", [SERVICE, RUNTIME])
def test_waiting_ends_when_the_replica_has_replayed(pair: Pair, claims: dict[str, str]) -> None:
    issued, kl = pair.issue(), pair.client()
    waiter = Keylatch.from_psycopg(psycopg.connect(pair.primary_url), claims=claims)
    with pair.synchronous(), ThreadPoolExecutor(1) as thread:
        with pair.paused():
            pair.admin.revoke(issued.id)
            waiting = thread.submit(waiter.wait_for_replicas, timeout=timedelta(seconds=60))
            time.sleep(0.5)
            assert not waiting.done()
            assert kl.resolve(issued.key) is not None
        assert waiting.result(HANG_SECONDS).waited_for == 1
        assert kl.resolve(issued.key) is None
        assert pair.admin.revoke(issued.id, wait_for_replicas=True).already_revoked


def test_waiting_for_replicas_makes_no_other_session_wait(pair: Pair) -> None:
    issued, other = pair.issue(), pair.issue()
    with pair.synchronous(), ThreadPoolExecutor(1) as thread, pair.paused():
        pair.admin.revoke(issued.id)
        waiting = thread.submit(pair.admin.wait_for_replicas, timeout=timedelta(seconds=60))
        time.sleep(0.2)
        with pair.database.connect("service_role") as bob:
            # Shorter than the timeout of the other call, and long enough for a busy machine.
            bob.execute("set statement_timeout = '30s'")
            bob.execute("notify something_else")
            bob.execute("select keylatch.revoke_key(%s)", [other.id])
        assert not waiting.done()


def test_a_replica_that_stays_behind_ends_the_waiting_with_an_error(pair: Pair) -> None:
    with pair.synchronous(), pair.paused():
        pair.admin.issue(People.a)
        with pytest.raises(Unavailable) as caught:
            pair.admin.wait_for_replicas(timeout=timedelta(milliseconds=100))
    assert (caught.value.slug, caught.value.sqlstate) == ("replicas_behind", "PT504")


def test_waiting_before_the_commit_is_refused(pair: Pair) -> None:
    issued = pair.issue()
    session = pair.database.connect("service_role", autocommit=False)
    kl = Keylatch.from_psycopg(session)
    with pair.synchronous():
        session.execute("select 1")
        kl.revoke(issued.id)
        with pytest.raises(InvalidArgument, match="Commit before"):
            kl.wait_for_replicas()
        session.commit()
    assert pair.admin.resolve(issued.key) is None


def test_waiting_at_a_replica_is_refused(pair: Pair) -> None:
    kl = Keylatch.from_psycopg(psycopg.connect(pair.replica_url), claims=SERVICE)
    with pytest.raises(InvalidArgument, match="replica"):
        kl.wait_for_replicas()


def test_a_replica_names_the_timeline_of_its_stream_to_a_role_without_rights(pair: Pair) -> None:
    there = Keylatch.from_psycopg(psycopg.connect(pair.replica_url), claims=RUNTIME)
    until(lambda: there.replay_position().timeline is not None)
    primary, replica = pair.admin.replay_position(), there.replay_position()
    assert (primary.is_replica, replica.is_replica) == (False, True)
    assert primary.timeline == replica.timeline == 1
    assert primary.system_identifier == replica.system_identifier


@pytest.mark.one_server
@pytest.mark.parametrize(
    ("options", "field"),
    [({"max_lag": timedelta(0)}, "max_lag"), ({"max_lag": timedelta(days=2)}, "max_lag")],
)
def test_a_bound_out_of_its_rule_is_named(pair: Pair, options: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgument, match=field):
        pair.client(**options)
    with pytest.raises(InvalidArgument, match="Give reads"):
        Keylatch.from_psycopg(psycopg.connect(pair.primary_url), max_lag=LAG)


@pytest.mark.one_server
def test_a_replica_of_the_wrong_kind_is_refused(pair: Pair) -> None:
    with pytest.raises(TypeError, match="psycopg"):
        Keylatch.from_psycopg(psycopg.connect(pair.primary_url), reads="dbname=x")  # type: ignore[arg-type]


def promote(standby: Standby) -> None:
    """Promote a standby to a primary with a timeline of its own."""
    with psycopg.connect(standby.url("postgres", SUPERUSER), autocommit=True) as control:
        assert one(control, "select pg_promote(true, 30)") is True
        control.execute("select pg_logical_emit_message(true, '', '')")


@pytest.mark.one_server
def test_a_standby_that_was_promoted_is_no_replica_any_more(
    primary: tuple[Server, Database], pair: Pair, janitor: Janitor
) -> None:
    """A promoted standby does not receive the changes of the old primary."""
    with Standby(primary[0], janitor=janitor) as standby:
        own = Pair(*primary, standby)
        issued, kl = own.issue(), own.client(max_lag=LAG)
        until(is_fresh(kl))
        promote(standby)
        with psycopg.connect(standby.url("postgres", SUPERUSER), autocommit=True) as control:
            # Now the log of the promoted standby is longer than the log of the primary.
            control.execute("select pg_logical_emit_message(true, '', repeat('x', 1000000))")
        own.admin.revoke(issued.id)
        until(lambda: not is_fresh(kl)())
        assert kl.resolve(issued.key) is None


@pytest.mark.parametrize("old_primary", ["is up", "is gone"])
def test_after_a_failover_a_standby_of_the_old_timeline_is_not_fresh(
    janitor: Janitor, old_primary: str
) -> None:
    """The standby's position is higher than the new primary's, but on another timeline."""
    with Server(janitor=janitor) as server, Database(server, "failover") as database:
        database.migrate()
        People.seed(database.url)
        with Standby(server, janitor=janitor) as first, Standby(server, janitor=janitor) as second:
            issued = Pair(server, database, second).issue()
            first.catch_up()
            first.disconnect()
            with psycopg.connect(database.superuser_url, autocommit=True) as owner:
                owner.execute("select pg_logical_emit_message(true, '', repeat('x', 1000000))")
            second.catch_up()
            if old_primary == "is gone":
                server.stop()
            promote(first)
            new = first.url(database.name, "authenticator")
            kl = Keylatch.from_psycopg(
                psycopg.connect(new, autocommit=True),
                claims=SERVICE,
                reads=psycopg.connect(second.url(database.name, "authenticator"), autocommit=True),
                max_lag=LAG,
            )
            kl.revoke(issued.id)
            for _ in range(40):
                assert kl.resolve(issued.key) is None
                assert not is_fresh(kl)()
                time.sleep(LAG.total_seconds() / 8)  # then the positions are compared again
            assert kl.replay_position().timeline == 2
            if old_primary == "is gone":
                server.start()


@pytest.mark.one_server
def test_a_cache_whose_address_moves_to_a_promoted_standby_misses_nothing(
    janitor: Janitor,
) -> None:
    """The old primary is still up, and the cache's listener is still connected to it."""
    bound = timedelta(milliseconds=500)
    with Server(janitor=janitor) as server, Database(server, "moved") as database:
        database.migrate()
        People.seed(database.url)
        with Standby(server, janitor=janitor) as standby:
            own = Pair(server, database, standby)
            issued = own.issue()
            runtime = Keylatch.from_psycopg(
                psycopg.connect(own.primary_url, autocommit=True), claims=RUNTIME
            )
            with CachedResolver(runtime, listen=own.primary_url, bound=bound) as resolver:
                until(lambda: resolver.stats().is_listening)
                until_remembered(resolver, issued.key)
                promote(standby)
                transport: Any = runtime._transport
                transport._source = psycopg.connect(own.replica_url, autocommit=True)
                with psycopg.connect(
                    standby.url(database.name, "postgres"), autocommit=True
                ) as admin:
                    admin.execute("select keylatch.revoke_key(%s)", [issued.id])
                until(lambda: resolver.resolve(issued.key) is None)
                until(lambda: resolver.stats().reconnects > 0)
                assert resolver.resolve(issued.key) is None
