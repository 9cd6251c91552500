"""SQL: a call's transaction and claims do not change the caller's transaction and claims."""

import asyncio
import json
import threading
import uuid
from typing import Any

import psycopg
import psycopg_pool
import pytest
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row

from client.connections import CallerConnection, Open
from client.system import System
from keylatch import AsyncKeylatch, Keylatch
from keylatch.errors import (
    InvalidArgument,
    KeylatchError,
    KeyNotFound,
    PermissionDenied,
)
from keylatch.transports.sql import BECOME

STATE = """
select current_user::text, current_setting('role'),
  coalesce(current_setting('request.jwt.claims', true), '')
"""


def test_on_an_autocommit_connection_a_call_commits_by_itself(line: Open, system: System) -> None:
    one = line(autocommit=True, row_factory=dict_row)
    before = one.ask(STATE)
    issued = one.client(system.claims("alice")).issue(system.people.a)
    assert issued.created_by == system.people.alice
    assert system.rows(issued.id), "another connection sees it"
    assert one.status is TransactionStatus.IDLE
    assert one.ask(STATE) == before
    assert one.connection.row_factory is dict_row
    assert one.connection.autocommit is True


@pytest.mark.parametrize("autocommit", [True, False])
def test_without_claims_the_user_of_the_connection_calls(
    line: Open, system: System, autocommit: bool
) -> None:
    one = line(autocommit=autocommit)
    with pytest.raises(PermissionDenied):
        one.client().list(system.people.a)
    one.ask("set role service_role")
    issued = one.client().issue(system.people.b)
    assert issued.created_by is None
    assert bool(system.rows(issued.id)) is autocommit
    one.wait(one.connection.commit())
    assert system.rows(issued.id)
    assert one.ask(STATE)[0] == "service_role"


@pytest.mark.parametrize("commits", [True, False])
@pytest.mark.parametrize("is_first", [True, False], ids=["first", "later"])
@pytest.mark.parametrize("who", ["alice", None])
def test_on_a_connection_that_opens_transactions_the_caller_commits(
    line: Open, system: System, commits: bool, is_first: bool, who: str | None
) -> None:
    one = line(row_factory=dict_row)
    if who is None:
        one.ask("set role service_role")
    one.wait(one.connection.commit())
    if not is_first:
        one.ask("select 1")
    kl = one.client(None if who is None else system.claims(who))
    issued = kl.issue(system.people.a)
    assert one.status is TransactionStatus.INTRANS
    assert one.connection.autocommit is False
    assert kl.show(issued.id).status == "active", "the next call is in the same transaction"
    assert not system.rows(issued.id), "nobody else sees it before the caller commits"
    one.wait(one.connection.commit() if commits else one.connection.rollback())
    assert bool(system.rows(issued.id)) is commits
    assert one.connection.row_factory is dict_row


def test_the_block_of_a_connection_that_fails_leaves_no_key(system: System) -> None:
    with (
        pytest.raises(ZeroDivisionError),
        psycopg.connect(system.database.authenticator_url) as one,
    ):
        issued = Keylatch.from_psycopg(one, claims=system.claims("alice")).issue(system.people.a)
        raise ZeroDivisionError
    assert not system.rows(issued.id)


@pytest.mark.parametrize("autocommit", [True, False])
@pytest.mark.parametrize("who", ["alice", None])
def test_a_call_through_a_pool_commits_by_itself(
    system: System, autocommit: bool, who: str | None
) -> None:
    options: dict[str, Any] = {"autocommit": autocommit}
    if who is None:
        options["options"] = "-c role=service_role"
    url = system.database.authenticator_url
    with psycopg_pool.ConnectionPool(url, min_size=1, max_size=1, kwargs=options) as pool:
        kl = Keylatch.from_psycopg(pool, claims=None if who is None else system.claims(who))
        with pool.connection() as one:
            before = one.execute(STATE).fetchone()
        issued = kl.issue(system.people.a)
        assert system.rows(issued.id), "another connection sees it"
        with pytest.raises(KeyNotFound):
            kl.revoke(uuid.uuid4())
        assert issued.id in {key.id for key in kl.list(system.people.a)}
        with pool.connection() as one:
            assert one.info.transaction_status == TransactionStatus.IDLE
            assert one.autocommit is autocommit
            assert one.execute(STATE).fetchone() == before


@pytest.mark.parametrize("autocommit", [True, False])
@pytest.mark.parametrize("who", ["alice", None])
async def test_an_awaited_call_through_a_pool_commits_by_itself(
    system: System, autocommit: bool, who: str | None
) -> None:
    options: dict[str, Any] = {"autocommit": autocommit}
    if who is None:
        options["options"] = "-c role=service_role"
    url = system.database.authenticator_url
    async with psycopg_pool.AsyncConnectionPool(
        url, min_size=1, max_size=1, kwargs=options, open=False
    ) as pool:
        claims = None if who is None else system.claims(who)
        kl = AsyncKeylatch.from_psycopg(pool, claims=claims)
        async with pool.connection() as one:
            before = await (await one.execute(STATE)).fetchone()
        issued = await kl.issue(system.people.a)
        assert system.rows(issued.id), "another connection sees it"
        with pytest.raises(KeyNotFound):
            await kl.revoke(uuid.uuid4())
        assert issued.id in {key.id for key in await kl.list(system.people.a)}
        async with pool.connection() as one:
            assert one.info.transaction_status == TransactionStatus.IDLE
            assert one.autocommit is autocommit
            assert await (await one.execute(STATE)).fetchone() == before


@pytest.mark.parametrize("autocommit", [True, False])
def test_claims_that_are_refused_are_said_by_every_kind_of_call(
    line: Open, system: System, autocommit: bool, caplog: pytest.LogCaptureFixture
) -> None:
    one = line(autocommit=autocommit)
    nobody = one.client({"role": "nobody_of_that_name"})
    alice = one.client(system.claims("alice"))
    for _ in range(7):  # psycopg prepares a statement after it has seen it five times
        for call in (lambda: nobody.list(system.people.a), lambda: nobody.issue(system.people.a)):
            with pytest.raises(InvalidArgument, match=r"role"):
                call()
        with pytest.raises(PermissionDenied):
            alice.resolve("x")
        assert isinstance(alice.list(system.people.a), tuple)
    assert one.ask(STATE) == ("authenticator", "none", "")
    assert not caplog.records, "psycopg has nothing to warn of"


class _Prompt(psycopg.RawCursor[Any]):
    """A cursor that reads the answer to the claims before the call is sent, like a slow client."""

    def execute(self, query: Any, *args: Any, **options: Any) -> Any:
        super().execute(query, *args, **options)
        if query == BECOME and self._conn._pipeline:
            with self._conn.lock:
                self._conn.wait(self._conn._pipeline._fetch_gen(flush=True))
        return self


class _AsyncPrompt(psycopg.AsyncRawCursor[Any]):
    async def execute(self, query: Any, *args: Any, **options: Any) -> Any:
        await super().execute(query, *args, **options)
        if query == BECOME and self._conn._pipeline:
            async with self._conn.lock:
                await self._conn.wait(self._conn._pipeline._fetch_gen(flush=True))
        return self


def test_claims_that_are_refused_before_the_call_is_sent_are_said(
    line: Open, system: System, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psycopg, "RawCursor", _Prompt)
    monkeypatch.setattr(psycopg, "AsyncRawCursor", _AsyncPrompt)
    one = line(autocommit=True)
    nobody = one.client({"role": "nobody_of_that_name"})
    for _ in range(7):
        with pytest.raises(InvalidArgument, match=r"role"):
            nobody.list(system.people.a)
    assert isinstance(one.client(system.claims("alice")).list(system.people.a), tuple)
    assert not caplog.records, "psycopg has nothing to warn of"


@pytest.mark.parametrize("is_first", [True, False], ids=["first", "later"])
def test_a_refused_call_leaves_the_transaction_of_the_caller_usable(
    line: Open, system: System, is_first: bool
) -> None:
    one = line()
    kl = one.client(system.claims("alice"))
    first = None if is_first else kl_in_transaction(one, kl, system)
    for call in (
        lambda: kl.revoke(uuid.uuid4()),
        lambda: kl.issue(system.people.b),
        lambda: kl.issue(system.people.a, label="x" * 201),
    ):
        with pytest.raises(KeylatchError):
            call()
        assert one.status is TransactionStatus.INTRANS
        assert one.ask(STATE) == ("authenticator", "none", "")
    second = kl.issue(system.people.a)
    one.wait(one.connection.commit())
    assert set(system.rows(second.id, first or second.id)) == {second.id, first or second.id}


def kl_in_transaction(one: CallerConnection, kl: Keylatch, system: System) -> uuid.UUID:
    """Begin a transaction, issue a key in it, and return the key's id."""
    one.ask("select 1")
    return kl.issue(system.people.a).id


@pytest.mark.parametrize("is_refused", [False, True])
@pytest.mark.parametrize("is_local", [False, True])
def test_role_and_claims_of_the_caller_come_back_within_and_after_the_transaction(
    line: Open, system: System, is_local: bool, is_refused: bool
) -> None:
    one = line()
    # Set the session's state. Then, in a transaction, set a local state or a session's state.
    one.ask("select set_config('role', 'anon', false)")
    one.ask("select set_config('request.jwt.claims', '{\"a\": 1}', false)")
    one.wait(one.connection.commit())
    one.ask("select set_config('role', 'service_role', %s)", is_local)
    one.ask("select set_config('request.jwt.claims', '{\"a\": 2}', %s)", is_local)
    within = ("service_role", "service_role", '{"a": 2}')
    assert one.ask(STATE) == within
    kl = one.client(system.claims("alice"))
    if is_refused:
        with pytest.raises(KeyNotFound):
            kl.revoke(uuid.uuid4())
    else:
        assert kl.issue(system.people.a).created_by == system.people.alice
    assert one.ask(STATE) == within
    one.wait(one.connection.commit())
    assert one.ask(STATE) == (("anon", "anon", '{"a": 1}') if is_local else within)


def test_a_transaction_block_of_psycopg_and_its_savepoints_hold_calls(
    line: Open, system: System
) -> None:
    one = line(autocommit=True)
    kl, bob = one.client(system.claims("alice")), one.client(system.claims("bob"))
    block = one.connection.transaction()
    one.wait(block.__aenter__() if hasattr(block, "__aenter__") else block.__enter__())
    first = kl.issue(system.people.a)
    with pytest.raises(PermissionDenied):
        bob.issue(system.people.a)
    second = bob.issue(system.people.b)
    one.ask("select 1")
    assert one.ask(STATE)[0] == "authenticator"
    leave = block.__aexit__ if hasattr(block, "__aexit__") else block.__exit__
    one.wait(leave(None, None, None))
    assert len(system.rows(first.id, second.id)) == 2


def test_claims_are_exactly_what_postgrest_would_set(line: Open, system: System) -> None:
    one = line()
    claims: Any = {**system.claims("alice"), "app_metadata": {"tier": "ü"}, "exp": 1}
    system.owner.execute(
        """
        create or replace function keylatch.who_am_i() returns setof keylatch.resolved_key
        language plpgsql as $$
        begin
          raise sqlstate 'PT418' using message = current_user::text,
            detail = current_setting('request.jwt.claims', true);
        end; $$;
        grant execute on function keylatch.who_am_i() to authenticated, service_role
        """
    )
    with pytest.raises(KeylatchError) as caught:
        one.client(claims)._transport.call("who_am_i", {})
    assert caught.value.slug == "authenticated"
    assert json.loads(str(caught.value.detail)) == claims


def test_claims_without_a_role_are_anonymous(line: Open, system: System) -> None:
    for claims in ({}, {"sub": str(system.people.alice)}):
        with pytest.raises(PermissionDenied):
            line().client(claims).list(system.people.a)


def test_a_role_that_is_not_there_or_may_not_be_taken_is_said(line: Open, system: System) -> None:
    with pytest.raises(InvalidArgument, match=r"role"):
        line().client({"role": "nobody_of_that_name"}).list(system.people.a)
    with pytest.raises(PermissionDenied):
        line().client({"role": "postgres"}).list(system.people.a)


@pytest.mark.parametrize(
    "claims", [{"role": 5}, {"role": None}, {"a": object()}, {"a": float("nan")}]
)
def test_claims_that_are_no_json_are_refused_when_the_client_is_made(
    line: Open, claims: dict[str, Any]
) -> None:
    with pytest.raises(InvalidArgument, match=r"^invalid_argument: claims ") as caught:
        line().client(claims)
    assert caught.value.__context__ is None


def test_claims_are_taken_when_the_client_is_made(line: Open, system: System) -> None:
    claims = system.claims("alice")
    kl = line().client(claims)
    claims["sub"] = str(system.people.bob)
    assert kl.issue(system.people.a).created_by == system.people.alice


def test_a_transaction_that_has_failed_is_said_to_have(line: Open, system: System) -> None:
    one = line()
    with pytest.raises(psycopg.Error):
        one.ask("select nonsense")
    with pytest.raises(KeylatchError, match="aborted") as caught:
        one.client(system.claims("alice")).list(system.people.a)
    assert caught.value.sqlstate == "25P02"
    assert one.status is TransactionStatus.INERROR


def test_threads_on_one_connection_take_turns_and_keep_their_own_claims(system: System) -> None:
    problems: list[BaseException] = []

    def work(who: str, workspace: uuid.UUID, other: uuid.UUID, kl: Keylatch) -> None:
        try:
            for _ in range(20):
                assert kl.issue(workspace).created_by == getattr(system.people, who)
                with pytest.raises(PermissionDenied):
                    kl.issue(other)
        except BaseException as problem:
            problems.append(problem)

    with psycopg.connect(system.database.authenticator_url) as connection:
        a, b = system.people.a, system.people.b
        threads = [
            threading.Thread(
                target=work,
                args=(who, *places, Keylatch.from_psycopg(connection, claims=system.claims(who))),
            )
            for who, places in [("alice", (a, b)), ("bob", (b, a))] * 3
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not problems


async def test_tasks_on_one_connection_take_turns_and_keep_their_own_claims(system: System) -> None:
    connection = await psycopg.AsyncConnection.connect(system.database.authenticator_url)
    alice, bob = (
        AsyncKeylatch.from_psycopg(connection, claims=system.claims(who))
        for who in ("alice", "bob")
    )
    made = await asyncio.gather(
        *(
            one.issue(place)
            for one, place in [(alice, system.people.a), (bob, system.people.b)] * 20
        ),
        *(
            one.issue(place)
            for one, place in [(bob, system.people.a), (alice, system.people.b)] * 5
        ),
        return_exceptions=True,
    )
    await connection.close()
    assert [type(one).__name__ for one in made] == ["IssuedKey"] * 40 + ["PermissionDenied"] * 10
