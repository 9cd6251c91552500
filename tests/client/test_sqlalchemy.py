"""SQLAlchemy: the transaction of a call, and that no key reaches a log."""

import asyncio
import logging
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import event
from sqlalchemy.ext.asyncio import (
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from client.alchemy import DRIVERS, Alchemy, url_for
from client.system import System
from client.vectors import SECRET
from client.watched import Watched, watched_database
from keylatch import AsyncKeylatch, Keylatch
from keylatch.errors import (
    InvalidArgument,
    KeylatchError,
    KeyNotFound,
    PermissionDenied,
    Unavailable,
)
from stack import Janitor, Tokens

pytestmark = pytest.mark.one_server

STATE = """
select current_user::text, current_setting('role'),
  coalesce(current_setting('request.jwt.claims', true), ''),
  current_setting('transaction_isolation')
"""
UNTOUCHED = ("authenticator", "none", "", "read committed")
RESOLVER = {"role": "keylatch_resolver"}

Make = Callable[..., Alchemy]


@pytest.fixture(params=DRIVERS)
def alchemy(request: pytest.FixtureRequest, system: System) -> Iterator[Make]:
    """Return a function that makes engines, from a URL and the options of `create_engine`."""
    with ExitStack() as opened:
        runner = opened.enter_context(asyncio.Runner())

        def make(url: str = system.database.authenticator_url, **options: Any) -> Alchemy:
            one = Alchemy(url, request.param, runner, **options)
            opened.callback(lambda: one.wait(one.engine.dispose()))
            return one

        yield make


@pytest.fixture(scope="module")
def watched(tokens: Tokens, janitor: Janitor) -> Iterator[Watched]:
    """A server that logs every statement."""
    with watched_database(tokens, janitor) as watched:
        yield watched


def test_over_an_engine_each_call_is_a_transaction_of_its_own(
    alchemy: Make, system: System
) -> None:
    one = alchemy(pool_size=1, max_overflow=0)
    admin = one.client(one.engine, system.claims("alice"))
    for _ in range(2):
        issued = admin.issue(system.people.a, kind="secret")
        assert system.rows(issued.id), "another connection sees it"
        with pytest.raises(KeyNotFound) as caught:
            admin.revoke(uuid.uuid4())
        assert (caught.value.slug, caught.value.sqlstate) == ("key_not_found", "PT404")
        assert (caught.value.__cause__, caught.value.__context__) == (None, None)
    found = one.client(one.engine, RESOLVER).resolve(issued.key)
    assert found is not None
    assert found.key_id == issued.id
    assert admin.explain(issued.key).verdict == "valid"
    with pytest.raises(PermissionDenied):
        one.client(one.engine).resolve(issued.key)
    connection = one.open("connection")
    assert one.ask(connection, STATE) == UNTOUCHED, "the pool's only connection is as it was"
    one.wait(connection.rollback())
    one.ask(connection, "select 1")
    assert one.wait(connection.get_isolation_level())
    one.wait(connection.close())


@pytest.mark.parametrize("kind", ["connection", "session"])
@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("commits", [True, False])
def test_a_call_commits_and_rolls_back_with_the_transaction_of_the_caller(
    alchemy: Make, system: System, kind: str, is_first: bool, commits: bool
) -> None:
    one = alchemy()
    source = one.open(kind)
    if not is_first:
        one.ask(source, "select 1")
    kl = one.client(source, system.claims("alice"))
    issued = [kl.issue(system.people.a), kl.issue(system.people.a)]
    assert one.ask(source, STATE) == UNTOUCHED
    ids = [key.id for key in issued]
    assert not system.rows(*ids), "nobody else sees it before the caller commits"
    one.wait(source.commit() if commits else source.rollback())
    assert len(system.rows(*ids)) == (2 if commits else 0)
    one.wait(source.close())


@pytest.mark.parametrize("kind", ["connection", "session"])
def test_a_connection_closed_without_a_commit_leaves_no_key(
    alchemy: Make, system: System, kind: str
) -> None:
    one = alchemy()
    source = one.open(kind)
    issued = one.client(source, system.claims("alice")).issue(system.people.a)
    one.wait(source.close())
    assert not system.rows(issued.id)


@pytest.mark.parametrize("kind", ["connection", "session"])
def test_a_refused_call_leaves_the_transaction_of_the_caller_usable(
    alchemy: Make, system: System, kind: str
) -> None:
    one = alchemy()
    source = one.open(kind)
    kl = one.client(source, system.claims("alice"))
    first = kl.issue(system.people.a)
    for call in (lambda: kl.revoke(uuid.uuid4()), lambda: kl.issue(system.people.b)):
        with pytest.raises(KeylatchError):
            call()
        assert one.ask(source, STATE) == UNTOUCHED
    second = kl.issue(system.people.a)
    one.wait(source.commit())
    assert len(system.rows(first.id, second.id)) == 2
    one.wait(source.close())


def test_a_savepoint_of_the_caller_takes_its_calls_back(alchemy: Make, system: System) -> None:
    one = alchemy()
    session = one.open("session")
    kl = one.client(session, system.claims("alice"))
    kept = kl.issue(system.people.a)
    nested = session.begin_nested()
    one.wait(nested.start() if one.is_async else None)
    undone = kl.issue(system.people.a)
    one.wait(nested.rollback())
    one.wait(session.commit())
    assert set(system.rows(kept.id, undone.id)) == {kept.id}
    one.wait(session.close())


def test_a_connection_that_autocommits_commits_each_call(alchemy: Make, system: System) -> None:
    one = alchemy(isolation_level="AUTOCOMMIT")
    connection = one.open("connection")
    issued = one.client(connection, system.claims("alice")).issue(system.people.a)
    assert system.rows(issued.id)
    one.wait(connection.rollback())
    assert system.rows(issued.id)
    one.wait(connection.close())


def test_a_scoped_session_is_the_one_of_the_thread(system: System) -> None:
    engine = sqlalchemy.create_engine(url_for(system.database.authenticator_url, "psycopg"))
    scoped = scoped_session(sessionmaker(engine))
    kl = Keylatch.from_sqlalchemy(scoped, claims=system.claims("alice"))
    undone = kl.issue(system.people.a)
    scoped.rollback()
    kept = kl.issue(system.people.a)
    scoped.commit()
    scoped.remove()
    assert set(system.rows(undone.id, kept.id)) == {kept.id}
    engine.dispose()


async def test_an_async_scoped_session_is_the_one_of_the_task(system: System) -> None:
    url = url_for(system.database.authenticator_url, "asyncpg-async")
    engine = create_async_engine(url)
    scoped = async_scoped_session(async_sessionmaker(engine), asyncio.current_task)
    kl = AsyncKeylatch.from_sqlalchemy(scoped, claims=system.claims("alice"))
    undone = await kl.issue(system.people.a)
    await scoped.rollback()
    kept = await kl.issue(system.people.a)
    await scoped.commit()
    await scoped.remove()
    assert set(system.rows(undone.id, kept.id)) == {kept.id}
    await engine.dispose()


def test_an_engine_lends_no_connection_that_the_server_has_ended(
    alchemy: Make, system: System
) -> None:
    one = alchemy(pool_size=1, max_overflow=0)
    kl = one.client(one.engine, system.claims("alice"))
    kl.issue(system.people.a)
    connection = one.open("connection")
    (pid,) = one.ask(connection, "select pg_backend_pid()")
    one.wait(connection.close())
    with system.database.connect(superuser=True) as killer:
        killer.execute("select pg_terminate_backend(%s)", [pid])
    with pytest.raises(Unavailable) as caught:
        kl.issue(system.people.a)
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)
    assert kl.issue(system.people.a), "the next call gets another connection"


@pytest.mark.parametrize("kind", ["connection", "session"])
def test_a_transaction_whose_connection_is_lost_is_over(
    alchemy: Make, system: System, kind: str
) -> None:
    one = alchemy()
    source = one.open(kind)
    kl = one.client(source, system.claims("alice"))
    lost = kl.issue(system.people.a)
    (pid,) = one.ask(source, "select pg_backend_pid()")
    with system.database.connect(superuser=True) as killer:
        killer.execute("select pg_terminate_backend(%s)", [pid])
    with pytest.raises(Unavailable):
        kl.issue(system.people.a)
    with pytest.raises(KeylatchError):
        kl.issue(system.people.a)
    one.wait(source.rollback())
    kept = kl.issue(system.people.a)
    one.wait(source.commit())
    assert set(system.rows(lost.id, kept.id)) == {kept.id}
    one.wait(source.close())


@pytest.mark.parametrize("kind", ["connection", "session"])
def test_a_connection_that_was_lost_before_the_first_statement_is_unavailable(
    alchemy: Make, system: System, kind: str
) -> None:
    one = alchemy()
    source = one.open(kind)
    (pid,) = one.ask(source, "select pg_backend_pid()")
    one.wait(source.rollback())
    with system.database.connect(superuser=True) as killer:
        killer.execute("select pg_terminate_backend(%s)", [pid])
    with pytest.raises(Unavailable) as caught:
        one.client(source).resolve(SECRET)
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)
    one.wait(source.close())


def test_a_login_that_the_server_refuses_is_no_error_of_a_library(
    alchemy: Make, system: System
) -> None:
    password = system.database.server.passwords["authenticator"]
    one = alchemy(system.database.authenticator_url.replace(password, "wrong"))
    with pytest.raises(KeylatchError, match="password authentication failed") as caught:
        one.client(one.engine).installation()
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)


def test_no_connection_to_be_had_is_unavailable(alchemy: Make, system: System) -> None:
    one = alchemy(pool_size=1, max_overflow=0, pool_timeout=0.1)
    held = one.open("connection")
    with pytest.raises(Unavailable, match="QueuePool limit"):
        one.client(one.engine).installation()
    closed = one.client(held)
    one.wait(held.close())
    with pytest.raises(Unavailable, match="closed"):
        closed.installation()
    nowhere = alchemy("postgresql://nobody@127.0.0.1:1/x")
    with pytest.raises(Unavailable) as caught:
        nowhere.client(nowhere.engine).installation()
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)


def test_reads_go_to_the_engine_of_the_replica(alchemy: Make, system: System) -> None:
    one, nowhere = alchemy(), alchemy("postgresql://nobody@127.0.0.1:1/x")
    key = one.client(one.engine, system.claims("alice")).issue(system.people.a, kind="secret").key
    kl = one.client(nowhere.engine, RESOLVER, reads=one.engine)
    assert kl.resolve(key) is not None
    with pytest.raises(Unavailable):
        kl.installation()


def test_no_log_event_or_statement_has_a_key(
    alchemy: Make, watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    one = alchemy(watched.database.authenticator_url, echo="debug")
    seen: list[str] = []
    engine = one.engine.sync_engine if one.is_async else one.engine
    for name in ("before_cursor_execute", "after_cursor_execute", "handle_error"):
        event.listen(engine, name, lambda *said: seen.append(repr(said)))
    people, keys = watched.people, []
    with caplog.at_level(logging.DEBUG):
        for kind in ("engine", "connection", "session"):
            source = one.engine if kind == "engine" else one.open(kind)
            admin = one.client(source, people.claims("alice"))
            key = admin.issue(people.a, kind="secret").key
            keys.append(key.reveal())
            assert one.client(source, RESOLVER).resolve(key) is not None
            assert admin.explain(key).verdict == "valid"
            with pytest.raises(PermissionDenied):
                one.client(source).resolve(key)
            if kind != "engine":
                one.wait(source.close())
    shown = watched.shown() + caplog.text + "".join(seen)
    assert watched.shown().count("resolve_key") > 6, "the server shows the statements"
    assert "select 1" in caplog.text, "SQLAlchemy shows those that it knows of"
    assert [key for key in keys if key in shown or key[11:-6] in shown] == []


def test_another_driver_is_refused_with_the_url_to_use(system: System) -> None:
    engine = sqlalchemy.create_engine(url_for(system.database.authenticator_url, "psycopg2"))
    with pytest.raises(InvalidArgument, match=r"postgresql\+psycopg://") as caught:
        Keylatch.from_sqlalchemy(engine)
    assert "does not work with postgresql+psycopg2" in str(caught.value)
    with engine.connect() as connection, pytest.raises(InvalidArgument):
        Keylatch.from_sqlalchemy(connection)
    with Session(engine) as session:
        kl = Keylatch.from_sqlalchemy(session)
        with pytest.raises(InvalidArgument, match=r"postgresql\+psycopg://"):
            kl.resolve(SECRET)
    engine.dispose()
    with pytest.raises(InvalidArgument, match="sqlite"):
        Keylatch.from_sqlalchemy(sqlalchemy.create_engine("sqlite://"))


def test_a_client_of_the_other_kind_is_refused_with_the_constructor_to_use(system: System) -> None:
    engine = sqlalchemy.create_engine(url_for(system.database.authenticator_url, "psycopg"))
    url = url_for(system.database.authenticator_url, "asyncpg-async")
    async_engine: Any = create_async_engine(url)
    attempts: list[tuple[Callable[[Any], object], object, str]] = [
        (Keylatch.from_sqlalchemy, async_engine, r"use AsyncKeylatch\.from_sqlalchemy"),
        (Keylatch.from_sqlalchemy, AsyncSession(async_engine), r"use AsyncKeylatch\.from_sql"),
        (Keylatch.from_sqlalchemy, system.owner, r"use Keylatch\.from_psycopg"),
        (Keylatch.from_sqlalchemy, Session, "expected sqlalchemy.Engine or .*, not builtins.type"),
        (AsyncKeylatch.from_sqlalchemy, Session(engine), r"use Keylatch\.from_sqlalchemy"),
        (Keylatch.from_psycopg, engine, r"use Keylatch\.from_sqlalchemy"),
        (AsyncKeylatch.from_asyncpg, async_engine, r"use AsyncKeylatch\.from_sqlalchemy"),
    ]
    for make, given, words in attempts:
        with pytest.raises(TypeError, match=words):
            make(given)
    for claims in ({"role": 5}, {"x": object()}):
        with pytest.raises(InvalidArgument):
            Keylatch.from_sqlalchemy(engine, claims=claims)
