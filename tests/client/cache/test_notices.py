"""Notifications on a real server: what is sent, what is only counted, and that no commit waits."""

import hashlib
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg
import psycopg_pool
import pytest

from client.cache.hearing import until_heard, until_remembered
from keylatch import Keylatch, Secret
from keylatch.cached import CachedResolver
from keylatch.cached.memory import Heartbeat, mark_of
from stack import HANG_SECONDS, Cluster, Database, Janitor, People, Server, notifications, until
from stack.subscriber import subscribed

BOUND = timedelta(milliseconds=500)
RUNTIME = {"role": "keylatch_resolver"}
SERVICE = {"role": "service_role"}


class Fleet:
    """An admin, and a cached resolver that listens."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.session = database.connect("service_role")
        self.admin = Keylatch.from_psycopg(self.session)
        self.pool = psycopg_pool.ConnectionPool(
            database.authenticator_url, min_size=1, max_size=4, open=True
        )
        self.runtime = Keylatch.from_psycopg(self.pool, claims=RUNTIME)
        self.resolver = CachedResolver(self.runtime, listen=database.authenticator_url, bound=BOUND)

    @contextmanager
    def listening(self) -> Iterator[CachedResolver]:
        with self.resolver:
            until(lambda: self.resolver.stats().is_listening)
            yield self.resolver

    def close(self) -> None:
        self.pool.close()

    def signs(self) -> int:
        """Return the number of changes that sent no notification."""
        row = (
            self.database.connect()
            .execute("select left_out from keylatch_internal.read_heartbeat(false)")
            .fetchone()
        )
        assert row is not None
        return int(row[0])


@pytest.fixture
def fleet(database: Database, people: People) -> Iterator[Fleet]:
    with closing(Fleet(database)) as fleet:
        yield fleet


def fill_queue(database: Database, limit: str) -> None:
    """Leave out notices above this usage of the queue, instead of above half of its 8 GB."""
    with database.connect() as owner:
        (text,) = owner.execute(
            "select pg_get_functiondef('keylatch_internal.notify_caches'::regproc)"
        ).fetchone() or ("",)
        assert text.count("> 0.5") == 1
        owner.execute(text.replace("> 0.5", f"> {limit}").encode())


def test_a_change_of_very_many_keys_ends_with_one_notification_for_all(fleet: Fleet) -> None:
    one = fleet.admin.issue(People.a, kind="secret")
    fleet.admin.issue_many(People.a, labels=["fleet"] * 1500)
    with fleet.listening() as resolver, psycopg.connect(fleet.database.url) as listener:
        listener.autocommit = True
        listener.execute("listen keylatch")
        assert resolver.resolve(one.key) is not None
        fleet.session.execute("update keylatch.keys set suspended_at = now() where label = 'fleet'")
        heard = notifications(listener, fleet.session)
        assert len(heard) == 1001
        assert heard[-1] == "*"
        until(lambda: resolver.stats().entries == 0)
        assert resolver.resolve(one.key) is not None
        # The resolver hears of this revocation even if the key's mark is not among the first 1,000.
        fleet.session.execute("update keylatch.keys set revoked_at = now()")
        until(lambda: resolver.resolve(one.key) is None)


def test_a_change_together_with_an_extension_is_heard_and_clears_that_key_alone(
    fleet: Fleet,
) -> None:
    issued, other = (fleet.admin.issue(People.a, kind="secret", scopes=["a"]) for _ in range(2))
    extended = (
        "update keylatch.keys set expires_at = now() + %s::interval, scopes = %s where id = %s"
    )
    fleet.session.execute(extended.encode(), ["1 hour", ["a"], issued.id])
    with fleet.listening() as resolver, psycopg.connect(fleet.database.url) as listener:
        listener.autocommit = True
        listener.execute("listen keylatch")
        for one in (issued, other):
            until_remembered(resolver, one.key)
        signs = fleet.signs()
        fleet.session.execute(extended.encode(), ["2 hours", ["b"], issued.id])
        until_heard(resolver)
        assert resolver.stats().entries == 1
        assert resolver.stats().is_listening
        found = resolver.resolve(issued.key)
        assert found is not None
        assert found.scopes == ("b",)
        assert notifications(listener, fleet.session) == [mark_of(issued.id)]
        assert fleet.signs() == signs


def test_a_change_without_a_notification_is_not_cached_until_its_commit(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The count of left-out notices rises at once. The change is visible only after the commit."""
    issued = fleet.admin.issue(People.a, kind="secret", scopes=["a"])
    fill_queue(fleet.database, "-1")
    with fleet.listening() as resolver, fleet.database.connect("service_role") as slow:
        assert resolver.resolve(issued.key) is not None
        slow.autocommit = False
        slow.execute("update keylatch.keys set scopes = '{b}'")
        until(lambda: not resolver.stats().is_listening)
        # Heartbeats are still answered, but memory stays closed.
        beat, answered = resolver._cache.beat, list[Heartbeat]()

        def kept(sent: float, heartbeat: Heartbeat) -> None:
            beat(sent, heartbeat)
            answered.append(heartbeat)

        monkeypatch.setattr(resolver._cache, "beat", kept)
        until(lambda: len(answered) > 3)
        hits = resolver.stats().hits
        for _ in range(2):
            found = resolver.resolve(issued.key)
            assert found is not None
            assert found.scopes == ("a",)
        assert resolver.stats().hits == hits
        slow.commit()
        until(lambda: resolver.stats().is_listening)
        for _ in range(2):
            found = resolver.resolve(issued.key)
            assert found is not None
            assert found.scopes == ("b",)


def test_a_queue_that_is_nearly_full_fails_no_revocation_and_caches_see_it(
    fleet: Fleet, server: Cluster
) -> None:
    """Here eleven pages make the queue nearly full, not half of its 8 GB."""
    issued = fleet.admin.issue(People.a, kind="secret")
    fill_queue(fleet.database, "0.00001")
    with (
        # The server lets a listener in another database lag by up to four pages.
        psycopg.connect(server.url("postgres"), autocommit=True) as elsewhere,
        fleet.listening() as resolver,
        fleet.database.connect() as listener,
        fleet.database.connect() as idle,
        fleet.database.connect() as busy,
    ):
        elsewhere.execute("listen pgrst")
        listener.execute("listen keylatch")
        assert resolver.resolve(issued.key) is not None
        idle.execute("listen elsewhere")
        idle.autocommit = False
        idle.execute("select 1")
        for _ in range(40):
            busy.execute("select pg_notify('elsewhere', repeat('x', 7000) || random())")
        signs = fleet.signs()
        fleet.admin.revoke(issued.id)
        until_heard(resolver)
        assert resolver.resolve(issued.key) is None
        assert notifications(listener, fleet.session) == []
        assert fleet.signs() == signs + 1
        idle.rollback()
        idle.execute("unlisten *")
        idle.commit()
        other = fleet.admin.issue(People.a, kind="secret")

        def sends() -> bool:
            # Notices are left out until the server has emptied its queue, so each try sends again.
            return bool(fleet.admin.suspend(other.id) and fleet.admin.unsuspend(other.id))

        until(lambda: sends() and notifications(listener, fleet.session))


def test_a_listener_at_another_database_than_the_one_that_is_asked_is_given_up(
    fleet: Fleet, server: Cluster
) -> None:
    """The pool connects to the database's new address. The listener stays at the old address."""
    issued = fleet.admin.issue(People.a, kind="secret")
    transport: Any = fleet.runtime._transport
    copy = f"{fleet.database.name}_copy"
    fleet.pool.close()
    fleet.session.close()
    with (
        Database(server, copy, fleet.database.name) as moved,
        psycopg_pool.ConnectionPool(fleet.database.authenticator_url) as before,
        psycopg_pool.ConnectionPool(moved.authenticator_url) as after,
    ):
        transport._source = before
        with fleet.listening() as resolver:
            until_remembered(resolver, issued.key)
            transport._source = after
            moved.connect("service_role").execute("select keylatch.revoke_key(%s)", [issued.id])
            until(lambda: resolver.resolve(issued.key) is None)
            until(lambda: resolver.stats().reconnects > 0)
            assert resolver.resolve(issued.key) is None


def import_under(fleet: Fleet, text: str, digest: str, **fields: str) -> UUID | None:
    """Import a key of an old system by a scheme with this digest. Return its id if it is new."""
    fleet.admin.declare_scheme(digest, recipe={"digest": digest})
    hashed = hashlib.new(digest, text.encode()).hexdigest()
    line = {"workspace_id": str(People.a), "scheme": digest, "hash": hashed, "hash_encoding": "hex"}
    (outcome,) = fleet.admin.import_keys([line | fields]).lines
    return outcome.key_id


@pytest.mark.parametrize(
    ("fields", "is_told"),
    [({"revoked_at": "2026-01-31"}, True), ({"suspended_at": "2026-01-31"}, True), ({}, False)],
)
def test_an_imported_key_that_is_inactive_under_another_scheme_is_heard(
    fleet: Fleet, fields: dict[str, str], is_told: bool
) -> None:
    """Until its next use, nobody knows that both rows belong to the same plaintext key."""
    text = "a key of an old system"
    with fleet.listening() as resolver, psycopg.connect(fleet.database.url) as listener:
        listener.autocommit = True
        listener.execute("listen keylatch")
        import_under(fleet, text, "md5")
        until_remembered(resolver, Secret(text))
        import_under(fleet, text, "sha1", **fields)
        until_heard(resolver)
        assert (resolver.resolve(Secret(text)) is None) is is_told
        assert notifications(listener, fleet.session) == ["*"] * is_told


def test_a_revocation_of_any_row_of_an_imported_key_is_heard(fleet: Fleet) -> None:
    """The cache knows the key by the id of the row that is not revoked."""
    text = "a key of an old system"
    with fleet.listening() as resolver:
        rows = [import_under(fleet, text, digest) for digest in ("md5", "sha1")]
        until_remembered(resolver, Secret(text))
        known = resolver.resolve(Secret(text))
        (other,) = {row for row in rows if row is not None} - {known and known.key_id}
        fleet.admin.revoke(other)
        until(lambda: resolver.resolve(Secret(text)) is None)


@pytest.fixture
def stuck(janitor: Janitor) -> Iterator[Database]:
    """A database where a commit that notifies waits for a standby that does not exist."""
    settings = {"synchronous_commit": "local"}
    with (
        Server(janitor=janitor, settings=settings) as server,
        Database(server, "stuck") as database,
    ):
        database.migrate()
        People.seed(database.url)
        with psycopg.connect(server.superuser_url("postgres"), autocommit=True) as owner:
            owner.execute("alter system set synchronous_standby_names = 'nobody'")
            owner.execute("select pg_reload_conf()")
            ended = threading.Event()
            with psycopg.connect(database.superuser_url) as stranger:

                def commit_until_one_waits() -> None:
                    while not ended.is_set():  # the server reloads its settings after a delay
                        stranger.execute("set synchronous_commit = on")
                        stranger.execute("notify something_else")
                        stranger.execute("select pg_logical_emit_message(true, '', '')")
                        stranger.commit()

                thread = threading.Thread(target=commit_until_one_waits)
                thread.start()
                waiting = "select count(*) from pg_stat_activity where wait_event = 'SyncRep'"
                try:
                    until(lambda: owner.execute(waiting).fetchone() == (1,))
                    yield database
                finally:
                    ended.set()
                    owner.execute("alter system reset synchronous_standby_names")
                    owner.execute("select pg_reload_conf()")
                    thread.join()


@pytest.mark.usefixtures("local_server")
@pytest.mark.parametrize(
    "changes",
    [
        "expires_at = now() + interval '1 hour'",
        "expires_at = null, scopes = '{b}'",
        "expires_at = case when label = 'near' then now() + interval '1 day' end",
    ],
)
def test_an_extension_waits_for_nobody_at_its_commit(stuck: Database, changes: str) -> None:
    """Otherwise a key that expired during the wait would become active again."""
    service = stuck.connect("service_role")
    for label, lifetime in (("far", "30 s"), ("near", "30 days")):
        service.execute(
            "select keylatch.issue_key(%s, 'secret', %s, expires_at => now() + %s::interval)",
            [People.a, label, lifetime],
        )
    service.execute("set lock_timeout = '1s'")
    with pytest.raises(psycopg.errors.LockNotAvailable):
        service.execute("notify keylatch")
    # The extension waits neither for the lock of NOTIFY nor for the standby.
    service.execute("set synchronous_commit = remote_apply")
    with ThreadPoolExecutor() as other:
        extended = other.submit(service.execute, f"update keylatch.keys set {changes}".encode())
        try:
            extended.result(HANG_SECONDS)
        finally:
            service.cancel()


@pytest.mark.usefixtures("local_server")
def test_an_extension_fails_if_its_notice_would_wait_for_long(stuck: Database) -> None:
    """`keylatch.notices` stands for a notice that was sent before the other commit had to wait."""
    service = stuck.connect("service_role", autocommit=False)
    service.execute(
        "select keylatch.issue_key(%s, 'secret', expires_at => now() + interval '1 day')",
        [People.a],
    )
    service.commit()
    service.execute("set local keylatch.notices = '1'")
    service.execute("update keylatch.keys set expires_at = null, scopes = '{b}'")
    with ThreadPoolExecutor() as other:
        committed = other.submit(service.commit)
        try:
            with pytest.raises(psycopg.errors.LockNotAvailable):
                committed.result(HANG_SECONDS)
        finally:
            service.cancel()
    assert service.execute("select scopes from keylatch.keys").fetchone() == ([],)


@pytest.mark.usefixtures("local_server")
def test_many_changes_of_a_transaction_ask_once_whether_another_commit_waits(
    stuck: Database,
) -> None:
    service = stuck.connect("service_role")
    service.execute(
        "select keylatch.issue_keys(%s, array_fill(''::text, '{100}'), 'secret')", [People.a]
    )
    service.execute("set statement_timeout = '5s'")
    assert service.execute("update keylatch.keys set revoked_at = now()").rowcount == 100


@pytest.mark.usefixtures("local_server")
def test_a_revocation_does_not_wait_for_a_commit_that_waits_for_a_standby(stuck: Database) -> None:
    with closing(Fleet(stuck)) as fleet:
        issued = fleet.admin.issue(People.a, kind="secret")
        fleet.session.execute("set lock_timeout = '2s'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            fleet.session.execute("notify keylatch")
        signs = fleet.signs()
        fleet.admin.revoke(issued.id)
        assert fleet.signs() == signs + 1
        assert fleet.runtime.resolve(issued.key) is None


@pytest.fixture
def replica(server: Cluster, template: str, database: Database) -> Iterator[Database]:
    """A second database that subscribes to the keys of the test's database."""
    with subscribed(server, template, database, "keys") as replica:
        yield replica


def test_a_cache_at_a_logical_replica_hears_of_a_revocation_at_the_publisher(
    database: Database, replica: Database, people: People
) -> None:
    admin = Keylatch.from_psycopg(database.connect("service_role"))
    issued = admin.issue(People.a, kind="secret")
    with closing(Fleet(replica)) as there, there.listening() as resolver:
        until(lambda: resolver.resolve(issued.key) is not None)
        with psycopg.connect(replica.url, autocommit=True) as listener:
            listener.execute("listen keylatch")
            admin.revoke(issued.id)
            assert len(list(listener.notifies(timeout=HANG_SECONDS, stop_after=1))) == 1
            until(lambda: resolver.resolve(issued.key) is None)
        # An extension that arrives at the replica sends no notification and stops nothing.
        other = admin.issue(People.a, kind="secret")
        alice = database.connect("authenticated", people.claims("alice"))
        for expiry in ("now() + interval '1 hour'", "now() + interval '2 hours'", "null"):
            alice.execute(
                f"update keylatch.keys set expires_at = {expiry} where id = %s".encode(), [other.id]
            )

        def is_there() -> bool:
            found = there.runtime.resolve(other.key)
            return found is not None and found.expires_at is None

        until(is_there)


def test_the_mark_of_a_notification_does_not_reveal_the_id(fleet: Fleet) -> None:
    issued = fleet.admin.issue(People.a, kind="secret")
    with psycopg.connect(fleet.database.url, autocommit=True) as listener:
        listener.execute("listen keylatch")
        fleet.admin.suspend(issued.id)
        (mark,) = notifications(listener, fleet.session)
    assert re.fullmatch("[0-9a-f]{16}", mark)
    assert mark[:8] not in str(issued.id)
