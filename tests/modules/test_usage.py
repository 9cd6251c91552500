"""Use of keys: sums that services report, which never move back and make nobody wait."""

import asyncio
import json
import logging
import threading
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from keylatch import AsyncKeylatch, Keylatch
from keylatch.errors import InvalidArgument
from keylatch.models import KeyUsage
from keylatch.usage import AsyncUsageRecorder, UsageRecorder
from stack import HANG_SECONDS, Database, People, until

RUNTIME = {"role": "keylatch_resolver"}


class World:
    """An admin, a runtime and a key."""

    def __init__(self, database: Database, people: People) -> None:
        self.database, self.people = database, people
        self.admin = Keylatch.from_psycopg(
            database.connect("authenticated", people.claims("alice"))
        )
        self.session = database.connect("keylatch_resolver")
        self.runtime = Keylatch.from_psycopg(self.session)
        self.key = self.admin.issue(People.a, kind="secret")

    def report(self, uses: int, at: datetime, key_id: UUID | None = None) -> frozenset[UUID]:
        return self.runtime.record_usage(
            [KeyUsage(key_id=key_id or self.key.id, uses=uses, last_used_at=at)]
        )

    def days(self) -> list[tuple[Any, ...]]:
        return (
            self.database.connect("authenticated", self.people.claims("alice"))
            .execute("select used_on, uses from keylatch.key_usage_days order by 1")
            .fetchall()
        )

    def refusals(self) -> dict[tuple[UUID, str], int]:
        rows = self.database.connect("authenticated", self.people.claims("alice")).execute(
            "select key_id, verdict, sum(refusals)::int from keylatch.key_refusals group by 1, 2"
        )
        return {(key_id, verdict): number for key_id, verdict, number in rows}


@pytest.fixture
def world(database: Database, people: People) -> World:
    return World(database, people)


def test_reports_add_up_and_no_time_moves_back(world: World) -> None:
    now = datetime.now(UTC)
    before = now - timedelta(days=2)
    assert world.admin.usage(world.key.id) is None
    assert world.report(3, now) == frozenset()
    world.report(4, before)
    world.report(5, now + timedelta(days=9))
    found = world.admin.usage(world.key.id)
    assert found is not None
    assert found.uses == 12
    assert now <= found.last_used_at <= datetime.now(UTC)
    assert world.days() == [(before.date(), 4), (now.date(), 8)]


def test_a_key_that_is_reported_twice_at_once_is_refused(world: World) -> None:
    one = KeyUsage(key_id=world.key.id, uses=2, last_used_at=datetime.now(UTC))
    with pytest.raises(InvalidArgument, match="twice"):
        world.runtime.record_usage([one, one])


def test_ids_that_name_no_key_are_left_out(world: World) -> None:
    assert world.report(1, datetime.now(UTC), uuid4()) == frozenset()
    assert world.runtime.record_usage([]) == frozenset()
    owner = world.database.connect()
    assert owner.execute("select count(*) from keylatch_internal.key_usage").fetchone() == (0,)


def test_refusals_are_counted_by_day_and_reason_and_are_no_use(world: World) -> None:
    now = datetime.now(UTC)
    other = world.admin.issue(People.a, kind="secret")
    one = KeyUsage(key_id=world.key.id, uses=1, last_used_at=now)
    world.runtime.record_usage(
        [one], refusals={world.key.id: {"revoked": 2}, other.id: {"origin_denied": 3}}
    )
    world.runtime.record_usage(refusals={world.key.id: {"revoked": 1}})
    assert world.refusals() == {(world.key.id, "revoked"): 3, (other.id, "origin_denied"): 3}
    assert world.admin.usage(other.id) is None
    with pytest.raises(InvalidArgument, match="batch"):
        world.runtime.record_usage(refusals={world.key.id: {"unknown": 1}})


def test_what_another_report_is_counting_is_named_and_nobody_waits(world: World) -> None:
    now = datetime.now(UTC)
    world.report(1, now)
    other = world.admin.issue(People.a, kind="secret")
    writer = world.database.connect("service_role", autocommit=False)
    batch = {str(world.key.id): {"uses": 10, "last_used_at": now.isoformat()}}
    writer.execute("select keylatch.record_usage(%s)", [json.dumps(batch)])
    again = world.runtime.record_usage(
        [KeyUsage(key_id=key_id, uses=1, last_used_at=now) for key_id in (world.key.id, other.id)]
    )
    assert again == {world.key.id}
    writer.commit()
    assert [world.admin.usage(one).uses for one in (world.key.id, other.id)] == [11, 1]  # type: ignore[union-attr]


def test_who_makes_the_first_row_of_a_key_makes_nobody_wait(world: World) -> None:
    """The other report is not committed, so that nobody else sees its row or can make one."""
    now = datetime.now(UTC)
    other = world.admin.issue(People.a, kind="secret")
    writer = world.database.connect("service_role", autocommit=False)
    batch = {str(world.key.id): {"uses": 10, "last_used_at": now.isoformat()}}
    writer.execute("select keylatch.record_usage(%s)", [json.dumps(batch)])
    world.report(1, now, other.id)
    world.session.execute("set statement_timeout = '60s'")
    again = world.runtime.record_usage(
        [KeyUsage(key_id=key_id, uses=1, last_used_at=now) for key_id in (world.key.id, other.id)]
    )
    assert again == {world.key.id}
    writer.commit()
    assert world.report(1, now) == frozenset()
    assert [world.admin.usage(one).uses for one in (world.key.id, other.id)] == [11, 2]  # type: ignore[union-attr]


def test_two_transactions_that_report_crosswise_do_not_deadlock(world: World) -> None:
    other = world.admin.issue(People.a, kind="secret")
    reports = [json.dumps({str(key_id): {"uses": 1}}) for key_id in (world.key.id, other.id)]
    one, two = (world.database.connect("service_role", autocommit=False) for _ in range(2))
    for session, report in ((one, reports[0]), (two, reports[1]), (one, reports[1])):
        session.execute("select keylatch.record_usage(%s)", [report])
    two.execute("select keylatch.record_usage(%s)", [reports[0]])
    one.commit()
    two.commit()
    assert [world.admin.usage(key).uses for key in (world.key.id, other.id)] == [1, 1]  # type: ignore[union-attr]


def test_a_report_takes_no_lock_on_a_key(world: World) -> None:
    writer = world.database.connect("service_role", autocommit=False)
    batch = {str(world.key.id): {"uses": 1, "last_used_at": "2999-01-01T00:00:00Z"}}
    writer.execute("select keylatch.record_usage(%s)", [json.dumps(batch)])
    alice = world.database.connect("authenticated", world.people.claims("alice"))
    alice.execute("set lock_timeout = '60s'")
    alice.execute("select keylatch.rotate_key(%s)", [world.key.id])
    alice.execute("select keylatch.revoke_key(%s, 'x', true)", [world.key.id])
    writer.commit()


def test_an_update_touches_no_index(world: World) -> None:
    for _ in range(20):
        world.report(1, datetime.now(UTC))
    # Only what is flushed is seen by others, and else that takes ten seconds.
    world.session.execute("select pg_stat_force_next_flush()")
    row = (
        world.database.connect()
        .execute(
            "select n_tup_upd, n_tup_hot_upd from pg_stat_user_tables where relname = 'key_usage'"
        )
        .fetchone()
    )
    assert row is not None
    assert row[0] >= 19
    assert row[0] == row[1]


def test_only_the_admins_of_the_workspace_see_the_use(world: World) -> None:
    world.runtime.record_usage(
        [KeyUsage(key_id=world.key.id, uses=1, last_used_at=datetime.now(UTC))],
        refusals={world.key.id: {"suspended": 1}},
    )
    for who in ("mia", "bob", "stranger"):
        other = world.database.connect("authenticated", world.people.claims(who))
        for view in ("key_usage", "key_usage_days", "key_refusals"):
            assert other.execute(f"select * from keylatch.{view}".encode()).fetchall() == []
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                other.execute(f"update keylatch.{view} set workspace_id = null".encode())
    for role in ("anon", "keylatch_resolver"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            world.database.connect(role).execute("select * from keylatch.key_usage")


def test_a_recorder_reports_on_a_timer_on_size_and_at_its_end(world: World) -> None:
    found = world.runtime.resolve(world.key.key)
    assert found is not None
    others = [one.id for one in world.admin.issue_many(People.a, labels=["a", "b", "c"])]

    def uses() -> int:
        seen = world.admin.usage(world.key.id)
        return seen.uses if seen else 0

    with UsageRecorder(world.runtime, every=timedelta(milliseconds=50)) as recorder:
        for _ in range(5):
            recorder.record(found)
        until(lambda: uses() == 5)
    with UsageRecorder(world.runtime, every=timedelta(hours=1), size=4) as recorder:
        for key_id in (world.key.id, *others):
            recorder.record(key_id)
        until(lambda: uses() == 6)
        recorder.record(found)
        assert uses() == 6
    assert uses() == 7


def test_a_recorder_counts_refusals_of_known_keys(world: World) -> None:
    text = world.key.key
    with UsageRecorder(world.runtime, every=timedelta(hours=1)) as recorder:
        recorder.record_refusal(world.runtime.explain(text))  # It is valid.
        recorder.record_refusal(world.runtime.explain("wk_sk_live_nobody"))
        for _ in range(2):
            recorder.record_refusal(world.runtime.explain(text, origin="https://page.example"))
        world.admin.revoke(world.key.id)
        recorder.record_refusal(world.runtime.explain(text))
        recorder.record(world.key.id)
    assert world.refusals() == {
        (world.key.id, "secret_in_browser"): 2,
        (world.key.id, "revoked"): 1,
    }
    found = world.admin.usage(world.key.id)
    assert found is not None
    assert found.uses == 1


def test_threads_lose_no_count(world: World) -> None:
    for round_ in range(1, 11):
        with UsageRecorder(world.runtime, every=timedelta(milliseconds=10)) as recorder:

            def count(recorder: UsageRecorder = recorder) -> None:
                for _ in range(500):
                    recorder.record(world.key.id)

            threads = [threading.Thread(target=count) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        found = world.admin.usage(world.key.id)
        assert found is not None
        assert found.uses == round_ * 2000


def test_what_could_not_be_reported_is_kept(world: World, caplog: pytest.LogCaptureFixture) -> None:
    url = world.database.authenticator_url
    broken = psycopg.connect(url, autocommit=True)
    recorder = UsageRecorder(Keylatch.from_psycopg(broken, claims=RUNTIME), every=timedelta(0.01))
    broken.close()
    recorder.record(world.key.id)
    with caplog.at_level(logging.WARNING), recorder:
        pass
    assert "kept for the next report" in caplog.text
    recorder.record(world.key.id)
    recorder.record_refusal(world.runtime.explain(world.key.key, origin="https://a.example"))
    recorder._keylatch = world.runtime
    assert recorder.flush() == 0
    assert world.refusals() == {(world.key.id, "secret_in_browser"): 1}
    found = world.admin.usage(world.key.id)
    assert found is not None
    assert found.uses == 2


@pytest.mark.parametrize(
    "given", [{"every": timedelta(0)}, {"size": 0}, {"size": 10_001}, {"size": True}]
)
def test_a_setting_out_of_its_rule_is_named(world: World, given: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument, match=next(iter(given))):
        UsageRecorder(world.runtime, **given)


async def test_the_async_recorder_does_the_same(world: World) -> None:
    async with await psycopg.AsyncConnection.connect(
        world.database.authenticator_url, autocommit=True
    ) as connection:
        runtime = AsyncKeylatch.from_psycopg(connection, claims=RUNTIME)
        async with AsyncUsageRecorder(runtime, every=timedelta(hours=1), size=1) as recorder:
            recorder.record(world.key.id)
            async with asyncio.timeout(HANG_SECONDS):
                while await asyncio.to_thread(world.admin.usage, world.key.id) is None:
                    await asyncio.sleep(0.01)
        async with AsyncUsageRecorder(runtime, every=timedelta(hours=1), size=10) as recorder:
            recorder.record(world.key.id)
            recorder.record_refusal(await runtime.explain(world.key.key, origin=""))
    found = world.admin.usage(world.key.id)
    assert found is not None
    assert found.uses == 2
    assert world.refusals() == {(world.key.id, "secret_in_browser"): 1}


async def test_what_the_async_recorder_could_not_report_is_kept(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    url = world.database.authenticator_url
    broken = await psycopg.AsyncConnection.connect(url, autocommit=True)
    recorder = AsyncUsageRecorder(
        AsyncKeylatch.from_psycopg(broken, claims=RUNTIME), every=timedelta(hours=1)
    )
    await broken.close()
    recorder.record(world.key.id)
    with caplog.at_level(logging.WARNING):
        async with recorder:
            pass
    assert "kept for the next report" in caplog.text
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        recorder._keylatch = AsyncKeylatch.from_psycopg(connection, claims=RUNTIME)
        assert await recorder.flush() == 0
    found = world.admin.usage(world.key.id)
    assert found is not None
    assert found.uses == 1
