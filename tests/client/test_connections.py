"""SQL: connections and pools that are unchanged, lost, or of the wrong kind."""

import asyncio
import uuid
from collections.abc import Callable
from contextlib import closing
from datetime import UTC
from typing import Any

import psycopg
import psycopg_pool
import pytest
from psycopg.pq import TransactionStatus

from client.connections import CallerConnection, Open
from client.system import System
from client.vectors import SECRET
from keylatch import AsyncKeylatch, Keylatch
from keylatch.errors import (
    InvalidArgument,
    KeyNotFound,
    NotInstalled,
    PermissionDenied,
    Unavailable,
)
from stack import Cluster, Database

pytestmark = pytest.mark.one_server

STATE = """
select current_user::text, current_setting('role'),
  coalesce(current_setting('request.jwt.claims', true), '')
"""


def test_a_key_never_stands_in_the_text_of_a_statement(line: Open, system: System) -> None:
    """A cursor that binds in the client would show the key in pg_stat_activity and logs."""
    one = line()
    is_sync = isinstance(one.connection, psycopg.Connection)
    one.connection.cursor_factory = psycopg.ClientCursor if is_sync else psycopg.AsyncClientCursor
    # With autocommit, the call is one statement and stays the last one in pg_stat_activity.
    one.wait(one.connection.set_autocommit(True))
    with pytest.raises(PermissionDenied):
        one.client().resolve(SECRET)
    assert "resolve_key" in last_statement(one, system)
    assert SECRET not in last_statement(one, system)


def last_statement(one: CallerConnection, system: System) -> str:
    """Return the last statement of a connection in pg_stat_activity."""
    with system.database.connect(superuser=True) as watcher:
        (text,) = watcher.execute(
            "select query from pg_stat_activity where pid = %s", [one.connection.info.backend_pid]
        ).fetchone() or ("",)
    return str(text)


@pytest.mark.parametrize("autocommit", [True, False])
def test_a_server_that_ends_the_connection_is_unavailable(
    line: Open, system: System, autocommit: bool
) -> None:
    one = line(autocommit=autocommit)
    kl = one.client(system.claims("alice"))
    kl.issue(system.people.a)
    with system.database.connect(superuser=True) as killer:
        killer.execute("select pg_terminate_backend(%s)", [one.connection.info.backend_pid])
    for _ in range(2):
        with pytest.raises(Unavailable) as caught:
            kl.resolve(SECRET)
        assert caught.value.__context__ is None
        assert SECRET not in str(caught.value)


def test_a_closed_connection_is_unavailable(line: Open, system: System) -> None:
    for options in ({}, {"autocommit": True}):
        one = line(**options)
        one.wait(one.connection.close())
        for claims in (None, system.claims("alice")):
            with pytest.raises(Unavailable, match="closed"):
                one.client(claims).list(system.people.a)


def test_a_statement_that_takes_too_long_is_unavailable(line: Open, system: System) -> None:
    one = line()
    with system.database.connect() as holder, holder.transaction():
        issued = one.client(system.claims("alice")).issue(system.people.a)
        one.wait(one.connection.commit())
        holder.execute("select 1 from keylatch_internal.keys where id = %s for update", [issued.id])
        one.ask("set statement_timeout = '100ms'")
        one.wait(one.connection.commit())
        with pytest.raises(Unavailable) as caught:
            one.client(system.claims("alice")).revoke(issued.id)
        assert caught.value.sqlstate == "57014"
        one.ask("set statement_timeout = 0")
        one.ask("set lock_timeout = '50ms'")
        one.wait(one.connection.commit())
        with pytest.raises(Unavailable) as caught:
            one.client(system.claims("alice")).revoke(issued.id)
        assert caught.value.sqlstate == "55P03"


def test_a_replica_reads_and_says_that_it_does_not_write(line: Open, system: System) -> None:
    issued = (
        line(autocommit=True).client(system.claims("alice")).issue(system.people.a, kind="secret")
    )
    one = line(options="-c default_transaction_read_only=on")
    assert one.client({"role": "keylatch_resolver"}).resolve(issued.key) is not None
    assert one.client(system.claims("alice")).explain(issued.key).verdict == "valid"
    with pytest.raises(Unavailable, match="primary") as caught:
        one.client(system.claims("alice")).revoke(issued.id)
    assert caught.value.sqlstate == "25006"


def test_a_database_without_the_schema_is_not_installed(line: Open, server: Cluster) -> None:
    with Database(server, "bare_sql") as database:
        server.install_platform(database.name)
        one = line(database.url)
        for claims in (None, {"role": "authenticated"}):
            kl = one.client(claims)
            for call in (kl.installation, lambda kl=kl: kl.resolve(SECRET)):
                with pytest.raises(NotInstalled, match="supabase db push"):
                    call()
        one.wait(one.connection.close())


def test_results_are_in_utc_whatever_the_zone_of_the_session(line: Open, system: System) -> None:
    one = line(options="-c timezone=Asia/Kathmandu -c datestyle=german,dmy")
    issued = one.client(system.claims("alice")).issue(system.people.a)
    assert issued.created_at.tzinfo is UTC
    (listed,) = [
        key
        for key in one.client(system.claims("alice")).list(system.people.a)
        if key.id == issued.id
    ]
    assert listed.created_at == issued.created_at


def test_a_text_that_the_encoding_of_the_connection_lacks_is_refused_without_it(
    line: Open, system: System
) -> None:
    one = line(client_encoding="latin1")
    kl = one.client(system.claims("alice"))
    count = system.count()
    for call in (
        lambda: kl.explain(SECRET + "🔑"),
        lambda: kl.issue(system.people.a, label="🔑"),
    ):
        with pytest.raises(InvalidArgument, match="client_encoding=utf8") as caught:
            call()
        assert (caught.value.__cause__, caught.value.__context__) == (None, None)
        assert one.status is TransactionStatus.INTRANS
    one.wait(one.connection.commit())
    assert system.count() == count, "what could not be told was not done"
    assert kl.issue(system.people.a).masked_key.isascii(), "what can be told in it is told"


@pytest.mark.parametrize("prepare_threshold", [None, 0])
def test_calls_are_made_prepared_or_not_as_the_caller_set(
    line: Open, system: System, prepare_threshold: int | None
) -> None:
    one = line(prepare_threshold=prepare_threshold)
    kl = one.client(system.claims("alice"))
    for _ in range(8):
        kl.issue(system.people.a)
    (count,) = one.ask("select count(*) from pg_prepared_statements")
    assert (count > 0) is (prepare_threshold == 0)


@pytest.mark.parametrize("autocommit", [True, False])
async def test_a_cancelled_call_leaves_the_connection_usable(
    system: System, autocommit: bool
) -> None:
    async with await psycopg.AsyncConnection.connect(
        system.database.authenticator_url, autocommit=autocommit
    ) as connection:
        kl = AsyncKeylatch.from_psycopg(connection, claims=system.claims("alice"))
        issued = await kl.issue(system.people.a)
        before = connection.info.transaction_status
        await connection.commit()
        with system.database.connect() as holder, holder.transaction():
            # This lock blocks reading and writing.
            holder.execute("lock table keylatch_internal.keys in access exclusive mode")
            for call in (kl.revoke(issued.id), kl.list(system.people.a)):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.2):
                        await call
                assert connection.info.transaction_status == before
                await connection.commit()
        assert (await kl.revoke(issued.id)).already_revoked is False


async def test_a_pool_without_a_connection_in_time_is_unavailable(system: System) -> None:
    nowhere = "postgresql://nobody@127.0.0.1:1/x"
    options: dict[str, Any] = {"min_size": 0, "max_size": 1, "open": False, "timeout": 0.2}
    with closing(psycopg_pool.ConnectionPool(nowhere, **options)) as pool:
        with pytest.raises(Unavailable, match="PoolClosed"):
            Keylatch.from_psycopg(pool).installation()
        pool.open()
        with pytest.raises(Unavailable, match="PoolTimeout"):
            Keylatch.from_psycopg(pool).installation()
    async with psycopg_pool.AsyncConnectionPool(nowhere, **options) as async_pool:
        with pytest.raises(Unavailable, match="PoolTimeout"):
            await AsyncKeylatch.from_psycopg(async_pool).installation()


def test_a_pool_gets_its_connections_back_whatever_becomes_of_a_call(system: System) -> None:
    url = system.database.authenticator_url
    with psycopg_pool.ConnectionPool(url, min_size=1, max_size=1, open=True) as pool:
        kl = Keylatch.from_psycopg(pool, claims=system.claims("alice"))
        for _ in range(3):
            kl.issue(system.people.a)
            with pytest.raises(KeyNotFound):
                kl.revoke(uuid.uuid4())
        with pool.connection() as connection:
            assert connection.execute(STATE).fetchone() == ("authenticator", "none", "")


async def test_the_connection_of_the_other_kind_is_refused_with_the_one_to_use(
    system: System,
) -> None:
    url = system.database.authenticator_url
    sync_pool = psycopg_pool.ConnectionPool(url, open=False)
    async_pool = psycopg_pool.AsyncConnectionPool(url, open=False)
    async_one = await psycopg.AsyncConnection.connect(url)
    attempts: list[tuple[Callable[[Any], object], object, str]] = [
        (Keylatch.from_psycopg, async_one, r"use AsyncKeylatch\.from_psycopg"),
        (Keylatch.from_psycopg, async_pool, r"use AsyncKeylatch\.from_psycopg"),
        (AsyncKeylatch.from_psycopg, system.owner, r"use Keylatch\.from_psycopg"),
        (AsyncKeylatch.from_psycopg, sync_pool, r"use Keylatch\.from_psycopg"),
        (
            Keylatch.from_psycopg,
            system.owner.cursor(),
            "expected psycopg.Connection or psycopg_pool",
        ),
        (Keylatch.from_psycopg, url, "not builtins.str"),
    ]
    for make, given_one, words in attempts:
        with pytest.raises(TypeError, match=words):
            make(given_one)
    await async_one.close()
    Keylatch.from_psycopg(psycopg_pool.NullConnectionPool(url, open=False))
