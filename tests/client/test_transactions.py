"""SQL: transactions and claims of a call, which leave no trace in those of the caller."""

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

from client.lines import Line, Open
from client.world import World
from keylatch import AsyncKeylatch, Keylatch
from keylatch.errors import (
    InvalidArgument,
    KeylatchError,
    KeyNotFound,
    PermissionDenied,
)

STATE = """
select current_user::text, current_setting('role'),
  coalesce(current_setting('request.jwt.claims', true), '')
"""


def test_where_the_connection_autocommits_a_call_commits_by_itself(
    line: Open, world: World
) -> None:
    one = line(autocommit=True, row_factory=dict_row)
    before = one.ask(STATE)
    issued = one.client(world.claims("alice")).issue(world.people.a)
    assert issued.created_by == world.people.alice
    assert world.rows(issued.id), "another connection sees it"
    assert one.status is TransactionStatus.IDLE
    assert one.ask(STATE) == before
    assert one.connection.row_factory is dict_row
    assert one.connection.autocommit is True


@pytest.mark.parametrize("autocommit", [True, False])
def test_without_claims_the_user_of_the_connection_calls(
    line: Open, world: World, autocommit: bool
) -> None:
    one = line(autocommit=autocommit)
    with pytest.raises(PermissionDenied):
        one.client().list(world.people.a)
    one.ask("set role service_role")
    issued = one.client().issue(world.people.b)
    assert issued.created_by is None
    assert bool(world.rows(issued.id)) is autocommit
    one.wait(one.connection.commit())
    assert world.rows(issued.id)
    assert one.ask(STATE)[0] == "service_role"


@pytest.mark.parametrize("commits", [True, False])
@pytest.mark.parametrize("is_first", [True, False], ids=["first", "later"])
@pytest.mark.parametrize("who", ["alice", None])
def test_where_the_connection_opens_transactions_the_caller_commits(
    line: Open, world: World, commits: bool, is_first: bool, who: str | None
) -> None:
    one = line(row_factory=dict_row)
    if who is None:
        one.ask("set role service_role")
    one.wait(one.connection.commit())
    if not is_first:
        one.ask("select 1")
    kl = one.client(None if who is None else world.claims(who))
    issued = kl.issue(world.people.a)
    assert one.status is TransactionStatus.INTRANS
    assert one.connection.autocommit is False
    assert kl.show(issued.id).status == "active", "the next call is in the same transaction"
    assert not world.rows(issued.id), "nobody else sees it before the caller commits"
    one.wait(one.connection.commit() if commits else one.connection.rollback())
    assert bool(world.rows(issued.id)) is commits
    assert one.connection.row_factory is dict_row


def test_the_block_of_a_connection_that_fails_leaves_no_key(world: World) -> None:
    with pytest.raises(ZeroDivisionError), psycopg.connect(world.database.authenticator_url) as one:
        issued = Keylatch.from_psycopg(one, claims=world.claims("alice")).issue(world.people.a)
        raise ZeroDivisionError
    assert not world.rows(issued.id)


@pytest.mark.parametrize("autocommit", [True, False])
@pytest.mark.parametrize("who", ["alice", None])
def test_a_call_through_a_pool_commits_by_itself(
    world: World, autocommit: bool, who: str | None
) -> None:
    options: dict[str, Any] = {"autocommit": autocommit}
    if who is None:
        options["options"] = "-c role=service_role"
    url = world.database.authenticator_url
    with psycopg_pool.ConnectionPool(url, min_size=1, max_size=1, kwargs=options) as pool:
        kl = Keylatch.from_psycopg(pool, claims=None if who is None else world.claims(who))
        with pool.connection() as one:
            before = one.execute(STATE).fetchone()
        issued = kl.issue(world.people.a)
        assert world.rows(issued.id), "another connection sees it"
        with pytest.raises(KeyNotFound):
            kl.revoke(uuid.uuid4())
        assert issued.id in {key.id for key in kl.list(world.people.a)}
        with pool.connection() as one:
            assert one.info.transaction_status == TransactionStatus.IDLE
            assert one.autocommit is autocommit
            assert one.execute(STATE).fetchone() == before


@pytest.mark.parametrize("autocommit", [True, False])
@pytest.mark.parametrize("who", ["alice", None])
async def test_an_awaited_call_through_a_pool_commits_by_itself(
    world: World, autocommit: bool, who: str | None
) -> None:
    options: dict[str, Any] = {"autocommit": autocommit}
    if who is None:
        options["options"] = "-c role=service_role"
    url = world.database.authenticator_url
    async with psycopg_pool.AsyncConnectionPool(
        url, min_size=1, max_size=1, kwargs=options, open=False
    ) as pool:
        claims = None if who is None else world.claims(who)
        kl = AsyncKeylatch.from_psycopg(pool, claims=claims)
        async with pool.connection() as one:
            before = await (await one.execute(STATE)).fetchone()
        issued = await kl.issue(world.people.a)
        assert world.rows(issued.id), "another connection sees it"
        with pytest.raises(KeyNotFound):
            await kl.revoke(uuid.uuid4())
        assert issued.id in {key.id for key in await kl.list(world.people.a)}
        async with pool.connection() as one:
            assert one.info.transaction_status == TransactionStatus.IDLE
            assert one.autocommit is autocommit
            assert await (await one.execute(STATE)).fetchone() == before


@pytest.mark.parametrize("autocommit", [True, False])
def test_claims_that_are_refused_are_said_by_every_kind_of_call(
    line: Open, world: World, autocommit: bool, caplog: pytest.LogCaptureFixture
) -> None:
    one = line(autocommit=autocommit)
    nobody = one.client({"role": "nobody_of_that_name"})
    alice = one.client(world.claims("alice"))
    for _ in range(7):  # psycopg prepares what it has seen five times
        for call in (lambda: nobody.list(world.people.a), lambda: nobody.issue(world.people.a)):
            with pytest.raises(InvalidArgument, match=r"role"):
                call()
        with pytest.raises(PermissionDenied):
            alice.resolve("x")
        assert isinstance(alice.list(world.people.a), tuple)
    assert one.ask(STATE) == ("authenticator", "none", "")
    assert not caplog.records, "psycopg has nothing to warn of"


@pytest.mark.parametrize("is_first", [True, False], ids=["first", "later"])
def test_a_refused_call_leaves_the_transaction_of_the_caller_usable(
    line: Open, world: World, is_first: bool
) -> None:
    one = line()
    kl = one.client(world.claims("alice"))
    first = None if is_first else kl_in_transaction(one, kl, world)
    for call in (
        lambda: kl.revoke(uuid.uuid4()),
        lambda: kl.issue(world.people.b),
        lambda: kl.issue(world.people.a, label="x" * 201),
    ):
        with pytest.raises(KeylatchError):
            call()
        assert one.status is TransactionStatus.INTRANS
        assert one.ask(STATE) == ("authenticator", "none", "")
    second = kl.issue(world.people.a)
    one.wait(one.connection.commit())
    assert set(world.rows(second.id, first or second.id)) == {second.id, first or second.id}


def kl_in_transaction(one: Line, kl: Keylatch, world: World) -> uuid.UUID:
    """Begin a transaction of the caller's, and issue a key in it."""
    one.ask("select 1")
    return kl.issue(world.people.a).id


@pytest.mark.parametrize("is_refused", [False, True])
@pytest.mark.parametrize("is_local", [False, True])
def test_role_and_claims_of_the_caller_come_back_within_and_after_the_transaction(
    line: Open, world: World, is_local: bool, is_refused: bool
) -> None:
    one = line()
    # The session's own state; then, in a transaction, one set for it alone or for longer.
    one.ask("select set_config('role', 'anon', false)")
    one.ask("select set_config('request.jwt.claims', '{\"a\": 1}', false)")
    one.wait(one.connection.commit())
    one.ask("select set_config('role', 'service_role', %s)", is_local)
    one.ask("select set_config('request.jwt.claims', '{\"a\": 2}', %s)", is_local)
    within = ("service_role", "service_role", '{"a": 2}')
    assert one.ask(STATE) == within
    kl = one.client(world.claims("alice"))
    if is_refused:
        with pytest.raises(KeyNotFound):
            kl.revoke(uuid.uuid4())
    else:
        assert kl.issue(world.people.a).created_by == world.people.alice
    assert one.ask(STATE) == within
    one.wait(one.connection.commit())
    assert one.ask(STATE) == (("anon", "anon", '{"a": 1}') if is_local else within)


def test_a_transaction_block_of_psycopg_and_its_savepoints_hold_calls(
    line: Open, world: World
) -> None:
    one = line(autocommit=True)
    kl, bob = one.client(world.claims("alice")), one.client(world.claims("bob"))
    block = one.connection.transaction()
    one.wait(block.__aenter__() if hasattr(block, "__aenter__") else block.__enter__())
    first = kl.issue(world.people.a)
    with pytest.raises(PermissionDenied):
        bob.issue(world.people.a)
    second = bob.issue(world.people.b)
    one.ask("select 1")
    assert one.ask(STATE)[0] == "authenticator"
    leave = block.__aexit__ if hasattr(block, "__aexit__") else block.__exit__
    one.wait(leave(None, None, None))
    assert len(world.rows(first.id, second.id)) == 2


def test_claims_are_exactly_what_postgrest_would_set(line: Open, world: World) -> None:
    one = line()
    claims: Any = {**world.claims("alice"), "app_metadata": {"tier": "ü"}, "exp": 1}
    world.owner.execute(
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


def test_claims_without_a_role_are_anonymous(line: Open, world: World) -> None:
    for claims in ({}, {"sub": str(world.people.alice)}):
        with pytest.raises(PermissionDenied):
            line().client(claims).list(world.people.a)


def test_a_role_that_is_not_there_or_may_not_be_taken_is_said(line: Open, world: World) -> None:
    with pytest.raises(InvalidArgument, match=r"role"):
        line().client({"role": "nobody_of_that_name"}).list(world.people.a)
    with pytest.raises(PermissionDenied):
        line().client({"role": "postgres"}).list(world.people.a)


@pytest.mark.parametrize(
    "claims", [{"role": 5}, {"role": None}, {"a": object()}, {"a": float("nan")}]
)
def test_claims_that_are_no_json_are_refused_when_the_client_is_made(
    line: Open, claims: dict[str, Any]
) -> None:
    with pytest.raises(InvalidArgument, match=r"^invalid_argument: claims ") as caught:
        line().client(claims)
    assert caught.value.__context__ is None


def test_claims_are_taken_when_the_client_is_made(line: Open, world: World) -> None:
    claims = world.claims("alice")
    kl = line().client(claims)
    claims["sub"] = str(world.people.bob)
    assert kl.issue(world.people.a).created_by == world.people.alice


def test_a_transaction_that_has_failed_is_said_to_have(line: Open, world: World) -> None:
    one = line()
    with pytest.raises(psycopg.Error):
        one.ask("select nonsense")
    with pytest.raises(KeylatchError, match="aborted") as caught:
        one.client(world.claims("alice")).list(world.people.a)
    assert caught.value.sqlstate == "25P02"
    assert one.status is TransactionStatus.INERROR


def test_threads_on_one_connection_take_turns_and_keep_their_own_claims(world: World) -> None:
    problems: list[BaseException] = []

    def work(who: str, workspace: uuid.UUID, other: uuid.UUID, kl: Keylatch) -> None:
        try:
            for _ in range(20):
                assert kl.issue(workspace).created_by == getattr(world.people, who)
                with pytest.raises(PermissionDenied):
                    kl.issue(other)
        except BaseException as problem:
            problems.append(problem)

    with psycopg.connect(world.database.authenticator_url) as connection:
        a, b = world.people.a, world.people.b
        threads = [
            threading.Thread(
                target=work,
                args=(who, *places, Keylatch.from_psycopg(connection, claims=world.claims(who))),
            )
            for who, places in [("alice", (a, b)), ("bob", (b, a))] * 3
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not problems


async def test_tasks_on_one_connection_take_turns_and_keep_their_own_claims(world: World) -> None:
    connection = await psycopg.AsyncConnection.connect(world.database.authenticator_url)
    alice, bob = (
        AsyncKeylatch.from_psycopg(connection, claims=world.claims(who)) for who in ("alice", "bob")
    )
    made = await asyncio.gather(
        *(one.issue(place) for one, place in [(alice, world.people.a), (bob, world.people.b)] * 20),
        *(one.issue(place) for one, place in [(bob, world.people.a), (alice, world.people.b)] * 5),
        return_exceptions=True,
    )
    await connection.close()
    assert [type(one).__name__ for one in made] == ["IssuedKey"] * 40 + ["PermissionDenied"] * 10
