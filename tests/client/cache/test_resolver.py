"""The cached resolver on a real server: what it hears, and what it does when it hears nothing."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from urllib.parse import urlsplit
from uuid import UUID

import httpx
import psycopg
import psycopg_pool
import pytest
from fastapi import Depends, FastAPI
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from client.cache.hearing import is_listening, until_heard, until_remembered
from client.cache.stalling import StallingProxy
from client.vectors import mistyped
from keylatch import AsyncKeylatch, Keylatch, Secret
from keylatch.cached import AsyncCachedResolver, CachedResolver
from keylatch.errors import InvalidArgument, Unavailable
from keylatch.fastapi import require_key
from keylatch.models import IssuedKey, ResolvedKey
from stack import HANG_SECONDS, Cluster, Database, Janitor, People, Server, notifications, until

pytestmark = pytest.mark.one_server

SITE = "https://client.example"
BOUND = timedelta(milliseconds=500)
# For tests that need answers from memory even if a busy machine delays heartbeats.
LONG_BOUND = timedelta(seconds=50)
RUNTIME = {"role": "keylatch_resolver"}


class Fleet:
    """An admin and a runtime with a cached resolver, on one database."""

    def __init__(self, database: Database, people: People) -> None:
        self.database, self.people = database, people
        self.admin = Keylatch.from_psycopg(
            database.connect("authenticated", people.claims("alice"))
        )
        self.pool = psycopg_pool.ConnectionPool(
            database.authenticator_url, min_size=1, max_size=8, open=True
        )
        self.runtime = Keylatch.from_psycopg(self.pool, claims=RUNTIME)
        self._clock = database.connect()

    def close(self) -> None:
        self.pool.close()

    def soon_expired(self) -> Iterator[IssuedKey]:
        """Yield keys that expire soon, each later than the key before."""
        for seconds in (1, 4, 16, 64):
            ends = datetime.now(UTC) + timedelta(seconds=seconds)
            yield self.admin.issue(People.a, kind="secret", expires_at=ends)

    def is_past(self, issued: IssuedKey) -> bool:
        """Whether the key's first expiry has passed by the server's clock."""
        query = "select clock_timestamp() > %s"
        return self._clock.execute(query, [issued.expires_at]).fetchone() == (True,)

    def open(self, listen: str | None = None, bound: timedelta = LONG_BOUND) -> CachedResolver:
        return CachedResolver(
            self.runtime, listen=listen or self.database.authenticator_url, bound=bound
        )


@pytest.fixture
def fleet(database: Database, people: People) -> Iterator[Fleet]:
    with closing(Fleet(database, people)) as fleet:
        yield fleet


def test_the_second_answer_comes_from_memory_and_equals_the_first(fleet: Fleet) -> None:
    issued = fleet.admin.issue(People.a, allowed_origins=[SITE], metadata={"plan": "pro"})
    with fleet.open() as resolver:
        until(is_listening(resolver))
        first = resolver.resolve(issued.key, origin=SITE)
        again = resolver.resolve(issued.key.reveal(), origin=SITE)
        assert first is not None
        assert first == again == fleet.runtime.resolve(issued.key, origin=SITE)
        assert resolver.resolve(issued.key, origin="https://evil.example") is None
        assert resolver.resolve(issued.key, origin="https://evil.example") is None
        assert resolver.resolve(issued.key) is None
        stats = resolver.stats()
        assert (stats.hits, stats.negative_hits, stats.misses) == (1, 1, 3)
        assert issued.key.reveal() not in str(vars(resolver)) + str(resolver._cache._entries)


CHANGES: dict[str, Callable[[Fleet, Any], object]] = {
    "a revocation": lambda fleet, key: fleet.admin.revoke(key),
    "a rotation": lambda fleet, key: fleet.admin.rotate(key),
    "a suspension": lambda fleet, key: fleet.admin.suspend(key),
    "other origins": lambda fleet, key: fleet.database.connect(
        "authenticated", fleet.people.claims("alice")
    ).execute("update keylatch.keys set allowed_origins = '{}' where id = %s", [key]),
    "a deleted workspace": lambda fleet, _: fleet.database.connect("service_role").execute(
        "delete from keylatch.workspaces where id = %s", [People.a]
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_that_ends_a_key_is_heard(fleet: Fleet, change: str) -> None:
    issued = fleet.admin.issue(People.a, allowed_origins=[SITE])
    with fleet.open() as resolver:
        until(is_listening(resolver))
        assert resolver.resolve(issued.key, origin=SITE) is not None
        CHANGES[change](fleet, issued.id)
        until(lambda: resolver.resolve(issued.key, origin=SITE) is None)
        assert resolver.stats().reconnects == 0


def test_every_change_of_a_key_that_stays_active_is_heard(fleet: Fleet) -> None:
    issued = fleet.admin.issue(People.a, kind="secret", scopes=["a"])
    alice = fleet.database.connect("authenticated", fleet.people.claims("alice"))
    with fleet.open() as resolver:
        until(is_listening(resolver))

        def shown() -> tuple[object, ...]:
            found = resolver.resolve(issued.key)
            assert found is not None
            return found.scopes, found.metadata.get("n"), found.expires_at is not None

        assert shown() == (("a",), None, False)
        for change, expected in (
            ("scopes = '{b}'", (("b",), None, False)),
            ("""metadata = '{"n": 1}'""", (("b",), 1, False)),
            ("expires_at = now() + interval '1 hour'", (("b",), 1, True)),
        ):
            alice.execute(f"update keylatch.keys set {change} where id = %s".encode(), [issued.id])
            until(lambda expected=expected: shown() == expected)  # type: ignore[misc]
        fleet.admin.suspend(issued.id)
        until(lambda: resolver.resolve(issued.key) is None)
        fleet.admin.unsuspend(issued.id)
        until(lambda: resolver.resolve(issued.key) is not None)


def test_a_later_expiry_is_seen_at_the_old_one(fleet: Fleet) -> None:
    """An extension sends no notification, so that its commit does not wait."""
    alice = fleet.database.connect("authenticated", fleet.people.claims("alice"))
    extend = "update keylatch.keys set expires_at = now() + interval '1 hour' where id = %s"
    with fleet.open() as resolver:
        until(is_listening(resolver))
        for issued in fleet.soon_expired():
            with suppress(psycopg.Error):  # On a busy machine, the key may have expired.
                if resolver.resolve(issued.key) is not None:
                    alice.execute(extend, [issued.id])
                    break
        while not fleet.is_past(issued):
            assert resolver.resolve(issued.key) is not None
        found = resolver.resolve(issued.key)
        assert found is not None
        assert found.expires_at is not None
        assert issued.expires_at is not None
        assert found.expires_at > issued.expires_at + timedelta(minutes=30)


def test_a_cached_key_expires_by_itself(fleet: Fleet) -> None:
    with fleet.open() as resolver:
        until(is_listening(resolver))
        for issued in fleet.soon_expired():
            for _ in range(2):
                resolver.resolve(issued.key)
            if resolver.stats().hits > 0:
                break
        until(lambda: fleet.is_past(issued))
        assert resolver.resolve(issued.key) is None
        assert resolver.stats().hits > 0


def test_a_change_acknowledged_before_a_heartbeat_is_in_every_answer_after_it(fleet: Fleet) -> None:
    """The bound promises this. test_cache.py measures the bound with a clock that it moves."""
    with fleet.open(bound=BOUND) as resolver:
        until(is_listening(resolver))
        for _ in range(30):
            issued = fleet.admin.issue(People.a, kind="secret")
            until_remembered(resolver, issued.key)
            fleet.admin.revoke(issued.id)
            until_heard(resolver)
            assert resolver.resolve(issued.key) is None


def test_a_listener_that_is_killed_forgets_everything_and_comes_back(fleet: Fleet) -> None:
    issued = fleet.admin.issue(People.a, kind="secret")
    owner = psycopg.connect(fleet.database.superuser_url, autocommit=True)
    with fleet.open() as resolver, owner:
        for count in (1, 2):
            until(is_listening(resolver))
            assert resolver.resolve(issued.key) is not None
            assert resolver.stats().entries == 1
            owner.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where query like '%read_heartbeat%' and pid <> pg_backend_pid()"
            )
            until(lambda count=count: resolver.stats().reconnects == count)  # type: ignore[misc]
            assert resolver.stats().entries == 0
        fleet.admin.revoke(issued.id)
        until(lambda: resolver.resolve(issued.key) is None)


def test_a_network_that_only_stops_forwarding_closes_memory(fleet: Fleet, server: Cluster) -> None:
    """TCP does not report the stall. A revocation during the stall is not missed."""
    issued = fleet.admin.issue(People.a, kind="secret")
    with StallingProxy(server.port) as proxy:
        through = fleet.database.authenticator_url.replace(f":{server.port}/", f":{proxy.port}/")
        with fleet.open(through, BOUND) as resolver:
            until_remembered(resolver, issued.key)
            proxy.stall()
            fleet.admin.revoke(issued.id)
            until(lambda: resolver.resolve(issued.key) is None)
            until(lambda: not resolver.stats().is_listening)
            active = fleet.admin.issue(People.a, kind="secret")
            hits = resolver.stats().hits
            for _ in range(3):
                assert resolver.resolve(active.key) is not None
            assert resolver.stats().hits == hits
            proxy.flow()
            until(is_listening(resolver))
            assert resolver.resolve(issued.key) is None


@pytest.mark.usefixtures("local_server")
def test_a_restart_of_the_server_is_survived(people: People, janitor: Janitor) -> None:
    with Server(janitor=janitor) as server, Database(server, "cached") as database:
        database.migrate()
        people.seed(database.url)
        admin = psycopg.connect(database.url, autocommit=True)
        issue = "select id, key from keylatch.issue_key(%s, 'secret')"
        row = admin.execute(issue, [People.a]).fetchone()
        assert row is not None
        with psycopg_pool.ConnectionPool(
            database.authenticator_url,
            min_size=1,
            check=psycopg_pool.ConnectionPool.check_connection,
        ) as pool:
            runtime = Keylatch.from_psycopg(pool, claims=RUNTIME)
            with CachedResolver(
                runtime, listen=database.authenticator_url, bound=BOUND
            ) as resolver:
                until(is_listening(resolver))
                assert resolver.resolve(row[1]) is not None
                server.restart()
                with psycopg.connect(database.url, autocommit=True) as again:
                    again.execute("select keylatch.revoke_key(%s)", [row[0]])
                assert resolver.resolve(row[1]) is None
                until(is_listening(resolver))
                assert resolver.resolve(row[1]) is None


def test_many_equal_questions_at_once_ask_the_database_once(fleet: Fleet) -> None:
    issued = fleet.admin.issue(People.a, kind="secret")
    asked: list[str] = []
    may_answer = threading.Event()

    class Slow(Keylatch):
        def resolve(self, key: str | Secret, **more: Any) -> Any:
            asked.append("")
            may_answer.wait(HANG_SECONDS)
            return super().resolve(key, **more)

    runtime = Slow.from_psycopg(fleet.pool, claims=RUNTIME)
    resolver = CachedResolver(
        runtime, listen=fleet.database.authenticator_url, bound=timedelta(seconds=20)
    )
    with resolver, ThreadPoolExecutor(8) as threads:
        until(is_listening(resolver))
        found = [threads.submit(resolver.resolve, issued.key) for _ in range(8)]
        until(lambda: resolver.stats().misses == 8)
        may_answer.set()
        assert {one.result().key_id for one in found if one.result()} == {issued.id}  # type: ignore[union-attr]
    assert len(asked) == 1


def test_closing_at_any_moment_ends_the_listening(fleet: Fleet) -> None:
    for moment in range(60):
        with fleet.open():
            time.sleep(moment / 2000)
    assert [one for one in threading.enumerate() if one.name == "keylatch"] == []


def test_without_a_listener_the_database_answers(fleet: Fleet) -> None:
    issued = fleet.admin.issue(People.a, kind="secret")
    with fleet.open("postgresql://nobody:wrong@127.0.0.1:1/none") as resolver:
        assert resolver.resolve(issued.key) is not None
        assert resolver.resolve(issued.key) is not None
        stats = resolver.stats()
        assert (stats.is_listening, stats.hits, stats.entries) == (False, 0, 0)
    # A closed resolver still answers.
    assert resolver.resolve(issued.key) is not None


def test_an_error_of_the_database_is_the_callers_and_is_not_remembered(fleet: Fleet) -> None:
    issued = fleet.admin.issue(People.a, kind="secret")
    broken = psycopg.connect(fleet.database.authenticator_url, autocommit=True)
    broken.close()
    runtime = Keylatch.from_psycopg(broken, claims=RUNTIME)
    with CachedResolver(runtime, listen=fleet.database.authenticator_url) as resolver:
        until(is_listening(resolver))
        for _ in range(2):
            with pytest.raises(Unavailable):
                resolver.resolve(issued.key)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("bound", timedelta(0)),
        ("bound", timedelta(hours=1)),
        ("ttl", timedelta(0)),
        ("size", 0),
        ("size", True),
        ("listen", None),
    ],
)
def test_a_setting_out_of_its_rule_is_named(fleet: Fleet, field: str, value: Any) -> None:
    given = {"listen": "dbname=x"} | {field: value}
    with pytest.raises(InvalidArgument, match=field):
        CachedResolver(fleet.runtime, **given)


@pytest.mark.parametrize("odd", ["", "\x00", "\ud800", "x" * 1_000_000, "\u202ewk_sk_live"])
def test_the_cached_resolver_accepts_any_text(fleet: Fleet, odd: str) -> None:
    with fleet.open() as resolver:
        assert resolver.resolve(odd) is None
        assert resolver.resolve("wk_sk_live_x", origin=odd) is None


def test_origins_that_no_key_can_list_take_no_memory(fleet: Fleet) -> None:
    issued = fleet.admin.issue(People.a, allowed_origins=[SITE])
    with fleet.open() as resolver:
        until(is_listening(resolver))
        for n in range(3):
            assert resolver.resolve(issued.key, origin=f"https://{'a' * 300}{n}") is None
        assert len(resolver._cache._negative) == 0
        assert resolver.resolve(issued.key, origin=f"https://{'a' * 250}") is None
        assert len(resolver._cache._negative) == 1


@pytest.mark.parametrize("given", [None, 1, b"wk_sk_live_x", ["wk"]])
def test_a_value_that_is_not_a_string_is_refused(fleet: Fleet, given: Any) -> None:
    with fleet.open() as resolver:
        with pytest.raises(InvalidArgument, match="key"):
            resolver.resolve(given)
        if given is not None:
            with pytest.raises(InvalidArgument, match="origin"):
                resolver.resolve("wk", origin=given)


async def test_the_async_resolver_hears_changes_shares_questions_and_ends(fleet: Fleet) -> None:
    issued = fleet.admin.issue(People.a, kind="secret")
    url = fleet.database.authenticator_url
    async with psycopg_pool.AsyncConnectionPool(url, open=False) as pool:
        runtime = AsyncKeylatch.from_psycopg(pool, claims=RUNTIME)
        async with AsyncCachedResolver(runtime, listen=url, bound=LONG_BOUND) as resolver:
            reader = InMemoryMetricReader()
            resolver.instrument(MeterProvider([reader]).get_meter("test"))
            async with asyncio.timeout(HANG_SECONDS):
                while not resolver.stats().is_listening:
                    await asyncio.sleep(0.01)
                found = await asyncio.gather(*(resolver.resolve(issued.key) for _ in range(9)))
                assert {one.key_id for one in found if one} == {issued.id}
                assert await resolver.resolve(issued.key) is not None
                stats = resolver.stats()
                assert (stats.hits, stats.misses, stats.entries) == (1, 9, 1)
                assert measured(reader)["keylatch.cache.misses"] == [9]
                await asyncio.to_thread(fleet.admin.revoke, issued.id)
                while await resolver.resolve(issued.key) is not None:
                    await asyncio.sleep(0.001)
                # A caller that gives up does not cancel the question of the other callers.
                active = await asyncio.to_thread(fleet.admin.issue, People.a, kind="secret")
                cancelled = asyncio.create_task(resolver.resolve(active.key))
                other = asyncio.create_task(resolver.resolve(active.key))
                await asyncio.sleep(0)
                cancelled.cancel()
                assert await other is not None
        assert not resolver.stats().is_listening
        assert await resolver.resolve(issued.key) is None


async def test_a_guard_of_fastapi_resolves_from_memory_and_logs_why(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "keylatch")
    key = fleet.admin.issue(People.a, kind="secret").key.reveal()
    url = fleet.database.authenticator_url
    async with psycopg_pool.AsyncConnectionPool(url, open=False) as pool:
        runtime = AsyncKeylatch.from_psycopg(pool, claims=RUNTIME)
        async with AsyncCachedResolver(runtime, listen=url, bound=LONG_BOUND) as resolver:
            async with asyncio.timeout(HANG_SECONDS):
                while not resolver.stats().is_listening:
                    await asyncio.sleep(0.01)
            guard = require_key(resolver)
            app = FastAPI()

            @app.get("/")
            async def root(found: Annotated[ResolvedKey, Depends(guard)]) -> UUID:
                return found.workspace_id

            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
                for _ in range(2):
                    answer = await client.get("/", headers={"x-api-key": key})
                    assert (answer.status_code, answer.json()) == (200, str(People.a))
                assert (resolver.stats().misses, resolver.stats().hits) == (1, 1)
                answer = await client.get("/", headers={"x-api-key": mistyped(key)})
                assert answer.status_code == 401
    assert "request refused: checksum_failed" in caplog.text


async def test_a_caller_that_gives_up_does_not_cancel_the_proof_of_the_server(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the proof, the cache would stay closed for all callers."""
    url = fleet.database.authenticator_url
    async with psycopg_pool.AsyncConnectionPool(url, open=False) as pool:
        runtime = AsyncKeylatch.from_psycopg(pool, claims=RUNTIME)
        async with AsyncCachedResolver(runtime, listen=url, bound=LONG_BOUND) as resolver:
            proofs: list[float] = []
            due = iter([1.0])
            monkeypatch.setattr(resolver._cache, "begin_proof", lambda: next(due, None))
            monkeypatch.setattr(resolver._cache, "proven", lambda sent, *_: proofs.append(sent))
            caller = asyncio.create_task(resolver.resolve("wk"))
            await asyncio.sleep(0)
            caller.cancel()
            with pytest.raises(asyncio.CancelledError):
                await caller
            assert resolver._proof is not None
            await asyncio.wait_for(resolver._proof, HANG_SECONDS)
            assert proofs == [1.0]


async def test_the_async_resolver_caches_no_error_and_no_impossible_origin(
    fleet: Fleet,
) -> None:
    issued = fleet.admin.issue(People.a, kind="secret")
    url = fleet.database.authenticator_url
    connection = await psycopg.AsyncConnection.connect(url, autocommit=True)
    runtime = AsyncKeylatch.from_psycopg(connection, claims=RUNTIME)
    async with AsyncCachedResolver(runtime, listen=url, bound=LONG_BOUND) as resolver:
        async with asyncio.timeout(HANG_SECONDS):
            while not resolver.stats().is_listening:
                await asyncio.sleep(0.01)
        assert await resolver.resolve(issued.key, origin=f"https://{'a' * 300}") is None
        assert len(resolver._cache._negative) == 0
        await connection.close()
        for _ in range(2):
            with pytest.raises(Unavailable):
                await resolver.resolve(issued.key)
        assert resolver._flying == {}
        assert resolver._cache._flights == set()


def measured(reader: InMemoryMetricReader) -> dict[str, list[float]]:
    """Return the values that OpenTelemetry reads now, by the name of the metric."""
    data = reader.get_metrics_data()
    assert data is not None
    return {
        metric.name: [point.value for point in metric.data.data_points]  # type: ignore[union-attr]
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }


def test_opentelemetry_sees_the_counts(fleet: Fleet) -> None:
    reader = InMemoryMetricReader()
    issued = fleet.admin.issue(People.a, kind="secret")
    with fleet.open() as resolver:
        resolver.instrument(MeterProvider([reader]).get_meter("test"))
        until(is_listening(resolver))
        for _ in range(3):
            resolver.resolve(issued.key)
        seen = measured(reader)
    assert seen["keylatch.cache.hits"] == [2]
    assert seen["keylatch.cache.misses"] == [1]
    assert seen["keylatch.cache.entries"] == [1]
    assert seen["keylatch.cache.is_listening"] == [1]


def test_a_listener_learns_no_id_and_no_key(fleet: Fleet) -> None:
    issued = fleet.admin.issue(People.a, kind="secret")
    with psycopg.connect(fleet.database.authenticator_url, autocommit=True) as stranger:
        stranger.execute("set role anon")
        stranger.execute("listen keylatch")
        fleet.admin.revoke(issued.id, reason="leaked")
        (said,) = stranger.notifies(timeout=HANG_SECONDS, stop_after=1)
    assert len(said.payload) == 16
    assert str(issued.id)[:8] not in said.payload
    assert str(urlsplit(fleet.database.url).password) not in said.payload


def test_a_label_a_new_key_and_an_empty_change_send_no_notification(fleet: Fleet) -> None:
    alice = fleet.database.connect("authenticated", fleet.people.claims("alice"))
    with psycopg.connect(fleet.database.authenticator_url, autocommit=True) as listener:
        listener.execute("listen keylatch")
        issued = fleet.admin.issue(People.a, kind="secret")
        alice.execute("update keylatch.keys set label = 'x', scopes = scopes")
        assert notifications(listener, alice) == []
        fleet.admin.suspend(issued.id)
        assert len(notifications(listener, alice)) == 1
