"""A cached resolver behind a pooler in transaction mode, which delivers no notifications."""

import logging
import re
from collections.abc import Iterator
from datetime import timedelta

import psycopg_pool
import pytest

from client.cache.hearing import until_heard, until_remembered
from keylatch import Keylatch
from keylatch.cached import CachedResolver
from stack import Cluster, Database, Janitor, People, until
from stack.pooler import Pooler

pytestmark = pytest.mark.one_server

BOUND = timedelta(milliseconds=500)


@pytest.fixture
def pooler(server: Cluster, janitor: Janitor) -> Iterator[Pooler]:
    with Pooler(server, janitor=janitor, size=2) as pooler:
        yield pooler


def test_the_resolver_asks_through_a_pooler_and_listens_on_a_direct_connection(
    database: Database, people: People, pooler: Pooler
) -> None:
    admin = Keylatch.from_psycopg(database.connect("authenticated", people.claims("alice")))
    url = pooler.url(database.authenticator_url)
    with psycopg_pool.ConnectionPool(url, kwargs={"prepare_threshold": None}) as pool:
        runtime = Keylatch.from_psycopg(pool, claims={"role": "keylatch_resolver"})
        with CachedResolver(runtime, listen=database.authenticator_url, bound=BOUND) as resolver:
            issued = admin.issue(People.a, kind="secret")
            until_remembered(resolver, issued.key)
            admin.revoke(issued.id)
            until_heard(resolver)
            assert resolver.resolve(issued.key) is None


def test_a_listener_in_another_database_is_not_believed(
    database: Database, people: People, caplog: pytest.LogCaptureFixture
) -> None:
    """The other database answers heartbeats, but sends no notifications about the keys."""
    admin = Keylatch.from_psycopg(database.connect("authenticated", people.claims("alice")))
    issued = admin.issue(People.a, kind="secret")
    runtime = Keylatch.from_psycopg(
        database.connect("authenticator"), claims={"role": "keylatch_resolver"}
    )
    listen = database.url.replace(f"/{database.name}", "/template1")
    assert listen != database.url
    with (
        caplog.at_level(logging.WARNING, "keylatch"),
        CachedResolver(runtime, listen=listen, bound=BOUND) as resolver,
    ):
        until(lambda: "cannot use keylatch" in caplog.text)
        for _ in range(2):
            assert resolver.resolve(issued.key) is not None
        assert resolver.stats().hits == 0


def test_a_listener_without_rights_is_not_believed(
    database: Database, people: People, caplog: pytest.LogCaptureFixture
) -> None:
    admin = Keylatch.from_psycopg(database.connect("authenticated", people.claims("alice")))
    issued = admin.issue(People.a, kind="secret")
    runtime = Keylatch.from_psycopg(
        database.connect("authenticator"), claims={"role": "keylatch_resolver"}
    )
    with database.connect(superuser=True) as owner:
        owner.execute("create role keylatch_deaf login password 'x'")
    listen = database.authenticator_url.replace("//authenticator:", "//keylatch_deaf:")
    listen = re.sub(":[^:@]+@", ":x@", listen)
    try:
        with (
            caplog.at_level(logging.WARNING, "keylatch"),
            CachedResolver(runtime, listen=listen, bound=BOUND) as resolver,
        ):
            until(lambda: "cannot use keylatch" in caplog.text)
            for _ in range(2):
                assert resolver.resolve(issued.key) is not None
            assert resolver.stats().hits == 0
    finally:
        with database.connect(superuser=True) as owner:
            owner.execute("drop role keylatch_deaf")


def test_a_listener_behind_a_pooler_hears_nothing_so_memory_never_answers(
    database: Database, people: People, pooler: Pooler, caplog: pytest.LogCaptureFixture
) -> None:
    """The pooler answers heartbeats, so only a test notification shows the fault."""
    admin = Keylatch.from_psycopg(database.connect("authenticated", people.claims("alice")))
    issued = admin.issue(People.a, kind="secret")
    runtime = Keylatch.from_psycopg(
        database.connect("authenticator"), claims={"role": "keylatch_resolver"}
    )
    listen = pooler.url(database.authenticator_url)
    with (
        caplog.at_level(logging.WARNING, "keylatch"),
        CachedResolver(runtime, listen=listen, bound=BOUND) as resolver,
    ):
        until(lambda: "pooler" in caplog.text)
        assert resolver.resolve(issued.key) is not None
        assert resolver.resolve(issued.key) is not None
        admin.revoke(issued.id)
        assert resolver.resolve(issued.key) is None
        assert resolver.stats().hits == 0
