"""asyncpg: the transaction of a call, codecs of the caller, and what the server's log shows."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import psycopg2
import psycopg2.pool
import pytest
import pytest_asyncio

from client.cache.stalling import StallingProxy
from client.system import System
from client.vectors import SECRET
from client.watched import Watched, watched_database
from keylatch import AsyncKeylatch, Keylatch
from keylatch.errors import (
    InvalidArgument,
    KeylatchError,
    KeyNotFound,
    NotInstalled,
    PermissionDenied,
    Unavailable,
)
from keylatch.transports import VIEWS, Rows
from keylatch.transports.sql import type_of
from stack import Cluster, Database, Janitor, Tokens
from stack.pooler import Pooler

pytestmark = pytest.mark.one_server

STATE = """
select current_user::text, current_setting('role'),
  coalesce(current_setting('request.jwt.claims', true), '')
"""
UNTOUCHED = ("authenticator", "none", "")
RESOLVER = {"role": "keylatch_resolver"}


@pytest.fixture(scope="module")
def watched(tokens: Tokens, janitor: Janitor) -> Iterator[Watched]:
    """A server that logs every statement."""
    with watched_database(tokens, janitor) as watched:
        yield watched


@pytest_asyncio.fixture
async def connection(system: System) -> AsyncIterator[asyncpg.Connection]:
    """A connection as `authenticator`, which can switch to every API role."""
    connection = await asyncpg.connect(system.database.authenticator_url)
    yield connection
    await connection.close()


async def state(connection: Any) -> tuple[Any, ...]:
    return tuple(await connection.fetchrow(STATE))


async def test_a_call_on_a_connection_commits_by_itself(
    connection: asyncpg.Connection, system: System
) -> None:
    issued = await AsyncKeylatch.from_asyncpg(connection, claims=system.claims("alice")).issue(
        system.people.a, kind="secret"
    )
    assert system.rows(issued.id)
    found = await AsyncKeylatch.from_asyncpg(connection, claims=RESOLVER).resolve(issued.key)
    assert found is not None
    assert found.key_id == issued.id
    with pytest.raises(PermissionDenied) as caught:
        await AsyncKeylatch.from_asyncpg(connection).resolve(issued.key)
    assert (caught.value.slug, caught.value.sqlstate) == ("permission_denied", "42501")
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)
    assert await state(connection) == UNTOUCHED
    assert not connection.is_in_transaction()


@pytest.mark.parametrize("begun_by", ["transaction", "statement"])
@pytest.mark.parametrize("commits", [True, False])
async def test_a_call_commits_and_rolls_back_with_the_transaction_of_the_caller(
    connection: asyncpg.Connection, system: System, begun_by: str, commits: bool
) -> None:
    block = connection.transaction()
    await (block.start() if begun_by == "transaction" else connection.execute("begin"))
    kl = AsyncKeylatch.from_asyncpg(connection, claims=system.claims("alice"))
    first = await kl.issue(system.people.a)
    for call in (kl.revoke(uuid.uuid4()), kl.issue(system.people.b)):
        with pytest.raises(KeylatchError):
            await call
        assert await state(connection) == UNTOUCHED
    second = await kl.issue(system.people.a)
    assert not system.rows(first.id, second.id), "nobody else sees it before the caller commits"
    if begun_by == "statement":
        await connection.execute("commit" if commits else "rollback")
    else:
        await (block.commit() if commits else block.rollback())
    assert len(system.rows(first.id, second.id)) == (2 if commits else 0)


@pytest.mark.parametrize("is_local", [True, False])
async def test_role_and_claims_of_the_caller_come_back_within_the_transaction(
    connection: asyncpg.Connection, system: System, is_local: bool
) -> None:
    async with connection.transaction():
        await connection.fetch("select set_config('role', 'service_role', $1)", is_local)
        await connection.fetch(
            "select set_config('request.jwt.claims', '{\"a\": 2}', $1)", is_local
        )
        kl = AsyncKeylatch.from_asyncpg(connection, claims=system.claims("alice"))
        assert (await kl.issue(system.people.a)).created_by == system.people.alice
        assert await state(connection) == ("service_role", "service_role", '{"a": 2}')


async def test_a_pool_lends_its_connections_and_gets_them_back(system: System) -> None:
    async with asyncpg.create_pool(
        system.database.authenticator_url, min_size=1, max_size=1
    ) as pool:
        kl = AsyncKeylatch.from_asyncpg(pool, claims=system.claims("alice"))
        keys = await asyncio.gather(*(kl.issue(system.people.a) for _ in range(4)))
        assert len(system.rows(*(key.id for key in keys))) == 4
        with pytest.raises(KeyNotFound):
            await kl.revoke(uuid.uuid4())
        async with pool.acquire() as lent:
            assert await state(lent) == UNTOUCHED
            block = lent.transaction()
            await block.start()
            inside = AsyncKeylatch.from_asyncpg(lent, claims=system.claims("alice"))
            undone = await inside.issue(system.people.a)
            await block.rollback()
            assert not system.rows(undone.id)
    with pytest.raises(Unavailable):
        await kl.installation()


async def test_calls_of_two_clients_on_one_connection_take_turns(
    connection: asyncpg.Connection, system: System
) -> None:
    alice = AsyncKeylatch.from_asyncpg(connection, claims=system.claims("alice"))
    bob = AsyncKeylatch.from_asyncpg(connection, claims=system.claims("bob"))
    issued = await asyncio.gather(
        *(kl.issue(place) for kl, place in ((alice, system.people.a), (bob, system.people.b)) * 4)
    )
    assert {key.created_by for key in issued[::2]} == {system.people.alice}
    assert {key.created_by for key in issued[1::2]} == {system.people.bob}


async def test_codecs_of_the_caller_change_nothing(
    connection: asyncpg.Connection, system: System
) -> None:
    for name in ("json", "jsonb"):
        await connection.set_type_codec(
            name, encoder=json.dumps, decoder=json.loads, schema="pg_catalog"
        )
    for name in ("uuid", "timestamptz", "interval"):
        await connection.set_type_codec(
            name, encoder=lambda _: 1 / 0, decoder=lambda _: 1 / 0, schema="pg_catalog"
        )
    await connection.execute("set datestyle = 'german'; set timezone = 'Asia/Kathmandu'")
    kl = AsyncKeylatch.from_asyncpg(connection, claims=system.claims("alice"))
    ends = datetime.now(UTC) + timedelta(days=9)
    issued = await kl.issue(
        system.people.a,
        metadata={"a": [1, {"ü": None}]},
        scopes=["x", 'y"z'.replace('"', ".")],
        expires_at=ends,
        label="100 % {} $1 'quoted'",
    )
    assert (issued.metadata, issued.expires_at) == ({"a": [1, {"ü": None}]}, ends)
    assert issued.scopes == ("x", "y.z")
    assert issued.label == "100 % {} $1 'quoted'"
    successor = await kl.rotate(issued.id, grace=timedelta(minutes=5))
    assert (await kl.list(system.people.a))[0].id == successor.id


async def test_a_cancelled_call_leaves_the_connection_usable(
    connection: asyncpg.Connection, system: System
) -> None:
    kl = AsyncKeylatch.from_asyncpg(connection, claims=system.claims("alice"))
    issued = await kl.issue(system.people.a)
    with system.database.connect() as holder, holder.transaction():
        holder.execute("select 1 from keylatch_internal.keys where id = %s for update", [issued.id])
        for begins in (False, True):
            if begins:
                await connection.execute("begin")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await kl.revoke(issued.id)
            assert await state(connection) == UNTOUCHED
            assert connection.is_in_transaction() is begins
        await connection.execute("rollback")
    assert (await kl.revoke(issued.id)).already_revoked is False


async def test_a_call_that_is_cancelled_at_its_begin_leaves_no_transaction(system: System) -> None:
    """In a transaction that stays open, the next revocation would never be committed."""
    with StallingProxy(system.database.server.port) as proxy:
        url = system.database.authenticator_url
        connection = await asyncpg.connect(
            url.replace(str(system.database.server.port), str(proxy.port))
        )
        kl = AsyncKeylatch.from_asyncpg(connection, claims=system.claims("alice"))
        issued = await kl.issue(system.people.a)
        proxy.stall()
        call = asyncio.create_task(kl.show(issued.id))
        await asyncio.sleep(0.1)
        call.cancel()
        proxy.flow()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert not connection.is_in_transaction()
        await kl.revoke(issued.id)
        assert system.rows(issued.id)[issued.id]["revoked_at"] is not None
        await connection.close()


async def test_what_does_not_answer_is_unavailable(system: System) -> None:
    url, claims = system.database.authenticator_url, system.claims("alice")
    ended = await asyncpg.connect(url)
    with system.database.connect(superuser=True) as killer:
        killer.execute("select pg_terminate_backend(%s)", [ended.get_server_pid()])
    closed = await asyncpg.connect(url)
    await closed.close()
    slow = await asyncpg.connect(url, command_timeout=0.2)
    nowhere = asyncpg.create_pool("postgresql://nobody@127.0.0.1:1/x", min_size=0)
    async with nowhere:
        for source in (ended, ended, closed, nowhere):
            for one in (claims, None):
                with pytest.raises(Unavailable) as caught:
                    await AsyncKeylatch.from_asyncpg(source, claims=one).resolve(SECRET)
                assert (caught.value.__cause__, caught.value.__context__) == (None, None)
                assert SECRET not in repr(caught.value)
    fine = await asyncpg.connect(url)
    key_id = (await AsyncKeylatch.from_asyncpg(fine, claims=claims).issue(system.people.a)).id
    await fine.close()
    with system.database.connect() as holder, holder.transaction():
        holder.execute("select 1 from keylatch_internal.keys where id = %s for update", [key_id])
        with pytest.raises(Unavailable, match="TimeoutError"):
            await AsyncKeylatch.from_asyncpg(slow, claims=claims).revoke(key_id)
    await slow.close()


async def test_a_database_without_the_schema_is_not_installed(server: Cluster) -> None:
    with Database(server, "bare_asyncpg") as database:
        server.install_platform(database.name)
        connection = await asyncpg.connect(database.url)
        with pytest.raises(NotInstalled, match="supabase db push"):
            await AsyncKeylatch.from_asyncpg(connection).resolve(SECRET)
        await connection.close()


async def test_behind_a_pooler_in_transaction_mode_every_call_works(
    system: System, server: Cluster, janitor: Janitor
) -> None:
    with Pooler(server, janitor=janitor) as pooler:
        url = pooler.url(system.database.authenticator_url)
        async with asyncpg.create_pool(url, min_size=2, max_size=2, statement_cache_size=0) as pool:
            kl = AsyncKeylatch.from_asyncpg(pool, claims=system.claims("alice"))
            runtime = AsyncKeylatch.from_asyncpg(pool, claims=RESOLVER)
            keys = await asyncio.gather(
                *(kl.issue(system.people.a, kind="secret") for _ in range(4))
            )
            found = await asyncio.gather(*(runtime.resolve(key.key) for key in keys))
            assert [one.key_id for one in found if one is not None] == [key.id for key in keys]
            assert await state(pool) == UNTOUCHED


async def test_no_key_is_in_the_log_or_the_activity_of_the_server(watched: Watched) -> None:
    url, people = watched.database.authenticator_url, watched.people
    keys: list[str] = []
    async with asyncpg.create_pool(url, min_size=1, max_size=1) as pool:
        async with pool.acquire() as lent, lent.transaction():
            admin = AsyncKeylatch.from_asyncpg(lent, claims=people.claims("alice"))
            keys.append((await admin.issue(people.a, kind="secret")).key.reveal())
        for client in (
            AsyncKeylatch.from_asyncpg(pool, claims=RESOLVER),
            AsyncKeylatch.from_asyncpg(pool, claims=people.claims("alice")),
        ):
            await client.explain(keys[0])
        with pytest.raises(PermissionDenied):
            await AsyncKeylatch.from_asyncpg(pool).resolve(keys[0])
        shown = watched.shown()
    assert shown.count("resolve_key") >= 2
    assert shown.count("explain_key") >= 2
    assert [key for key in keys if key in shown or key[11:-6] in shown] == []


class Recording:
    """A transport that keeps the calls and answers none."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Mapping[str, object]]] = []

    def call(self, function: str, arguments: Mapping[str, object]) -> Rows:
        self.calls.append((function, arguments))
        raise Unavailable


def _sent() -> list[tuple[str, Mapping[str, object]]]:
    """Return the function and the arguments of every call of the client."""
    some, now = uuid.uuid4(), datetime.now(UTC)
    transport = Recording()
    calls: list[Callable[[Keylatch], object]] = [
        lambda kl: kl.issue(some, expires_at=now),
        lambda kl: kl.issue_many(some, labels=["a"], expires_at=now),
        lambda kl: kl.rotate(some, expires_at=now),
        lambda kl: kl.revoke(some),
        lambda kl: kl.suspend(some),
        lambda kl: kl.unsuspend(some),
        lambda kl: kl.list(some),
        lambda kl: kl.show(some),
        lambda kl: kl.retire_workspace(some),
        lambda kl: kl.resolve(SECRET, origin="https://a.example"),
        lambda kl: kl.resolve_many([SECRET], origins=[None]),
        lambda kl: kl.explain(SECRET),
        lambda kl: kl.installation(),
        lambda kl: kl.events(some, after=some),
        lambda kl: kl.seal_events(),
        lambda kl: kl.verify_events(),
        lambda kl: kl.record_usage([]),
        lambda kl: kl.usage(some),
        lambda kl: kl.replay_position(),
        lambda kl: kl.wait_for_replicas(),
        lambda kl: kl.resolve_session("token"),
        lambda kl: kl.close_session("token"),
        lambda kl: kl.attach_subject("token", subject="x"),
        lambda kl: kl.prune_sessions(),
        lambda kl: kl.end_sessions(some),
        lambda kl: kl.import_keys([], import_id=some),
        lambda kl: kl.declare_scheme("old", recipe={"digest": "md5"}),
        lambda kl: kl.end_scheme("old", ends_at=now),
        lambda kl: kl.finish_import("old", import_id=some),
        lambda kl: kl.upgrade_key(SECRET, workspace_id=some),
        lambda kl: kl.legacy_keys(some),
        lambda kl: kl.revoke_legacy_key(some),
    ]
    for call in calls:
        with pytest.raises(Unavailable):
            call(Keylatch(transport))
    return transport.calls


def test_every_argument_is_cast_to_the_type_that_the_database_has(system: System) -> None:
    sent = _sent()
    methods = {name for name in vars(AsyncKeylatch) if not name.startswith(("_", "from_"))}
    assert len(sent) == len(methods)
    for function, arguments in sent:
        if function in VIEWS:
            rows = system.owner.execute(
                "select attname, format_type(atttypid, null) from pg_attribute"
                " where attrelid = ('keylatch.' || %s)::regclass",
                [function],
            )
        else:
            rows = system.owner.execute(
                "select name, format_type(type, null) from pg_proc,"
                " unnest(proargnames, proargtypes::oid[]) as a (name, type)"
                " where pronamespace = 'keylatch'::regnamespace and proname = %s",
                [function],
            )
        types: dict[str, str] = dict(rows.fetchall())
        for name, value in arguments.items():
            (cast,) = system.owner.execute(
                "select format_type(%s::regtype, null)", [f"pg_catalog.{type_of(name, value)}"]
            ).fetchone() or ("",)
            assert types[name] == cast, (function, name)


def test_a_connection_of_another_library_is_refused_with_the_way_to_use(system: System) -> None:
    old = psycopg2.connect(system.database.authenticator_url)
    pool = psycopg2.pool.SimpleConnectionPool(0, 1, system.database.authenticator_url)
    makers: list[Callable[[Any], object]] = [
        getattr(kind, name)
        for kind in (Keylatch, AsyncKeylatch)
        for name in dir(kind)
        if name.startswith("from_")
    ]
    assert len(makers) == 9
    for make in makers:
        for given in (old, pool):
            with pytest.raises(TypeError, match=r"from_psycopg with .* psycopg 3"):
                make(given)
    old.close()
    with pytest.raises(TypeError, match=r"use Keylatch\.from_psycopg"):
        AsyncKeylatch.from_asyncpg(system.owner)


async def test_an_object_that_is_no_pool_or_connection_of_asyncpg_is_refused(
    connection: asyncpg.Connection, system: System
) -> None:
    with pytest.raises(TypeError, match=r"use AsyncKeylatch\.from_asyncpg"):
        AsyncKeylatch.from_psycopg(connection)
    with pytest.raises(TypeError, match=r"expected asyncpg\.Pool or .*, not builtins\.str"):
        AsyncKeylatch.from_asyncpg(system.database.url)
    with pytest.raises(InvalidArgument):
        AsyncKeylatch.from_asyncpg(connection, claims={"role": 5})
