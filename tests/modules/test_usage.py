"""Usage counts of keys: services report sums; the counts never decrease, and no report waits."""

import asyncio
import json
import logging
import threading
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from keylatch import AsyncKeylatch, Keylatch, Secret
from keylatch.errors import InvalidArgument
from keylatch.models import KeyUsage
from keylatch.usage import AsyncUsageRecorder, UsageRecorder
from stack import HANG_SECONDS, Database, People, until

RUNTIME = {"role": "keylatch_resolver"}


class System:
    """An admin, a service that resolves keys, and a key."""

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
def system(database: Database, people: People) -> System:
    return System(database, people)


def test_reports_add_up_and_no_time_moves_back(system: System) -> None:
    now = datetime.now(UTC)
    before = now - timedelta(days=2)
    assert system.admin.usage(system.key.id) is None
    assert system.report(3, now) == frozenset()
    system.report(4, before)
    system.report(5, now + timedelta(days=9))
    found = system.admin.usage(system.key.id)
    assert found is not None
    assert found.uses == 12
    assert now <= found.last_used_at <= datetime.now(UTC)
    assert system.days() == [(before.date(), 4), (now.date(), 8)]


def test_a_key_that_is_reported_twice_at_once_is_refused(system: System) -> None:
    one = KeyUsage(key_id=system.key.id, uses=2, last_used_at=datetime.now(UTC))
    with pytest.raises(InvalidArgument, match="twice"):
        system.runtime.record_usage([one, one])


@pytest.mark.parametrize("wrong", [None, "wk", str(People.a), Secret("wk")])
def test_what_is_no_key_is_refused_at_once_and_stops_no_report(system: System, wrong: Any) -> None:
    recorder = UsageRecorder(system.runtime)
    with pytest.raises(InvalidArgument, match="not a ResolvedKey or a UUID"):
        recorder.record(wrong)
    with pytest.raises(InvalidArgument, match="not an Explanation"):
        recorder.record_refusal(wrong)
    recorder.record(system.key.id)
    assert recorder.flush() == 0
    assert system.days()[0][1] == 1


def test_ids_that_name_no_key_are_left_out(system: System) -> None:
    assert system.report(1, datetime.now(UTC), uuid4()) == frozenset()
    assert system.runtime.record_usage([]) == frozenset()
    owner = system.database.connect()
    assert owner.execute("select count(*) from keylatch_internal.key_usage").fetchone() == (0,)


def test_refusals_are_counted_by_day_and_reason_and_are_no_use(system: System) -> None:
    now = datetime.now(UTC)
    other = system.admin.issue(People.a, kind="secret")
    one = KeyUsage(key_id=system.key.id, uses=1, last_used_at=now)
    system.runtime.record_usage(
        [one], refusals={system.key.id: {"revoked": 2}, other.id: {"origin_denied": 3}}
    )
    system.runtime.record_usage(refusals={system.key.id: {"revoked": 1}})
    assert system.refusals() == {(system.key.id, "revoked"): 3, (other.id, "origin_denied"): 3}
    assert system.admin.usage(other.id) is None
    with pytest.raises(InvalidArgument, match="batch"):
        system.runtime.record_usage(refusals={system.key.id: {"unknown": 1}})


def test_a_key_that_another_report_is_counting_is_named_and_no_report_waits(system: System) -> None:
    now = datetime.now(UTC)
    system.report(1, now)
    other = system.admin.issue(People.a, kind="secret")
    writer = system.database.connect("service_role", autocommit=False)
    batch = {str(system.key.id): {"uses": 10, "last_used_at": now.isoformat()}}
    writer.execute("select keylatch.record_usage(%s)", [json.dumps(batch)])
    again = system.runtime.record_usage(
        [KeyUsage(key_id=key_id, uses=1, last_used_at=now) for key_id in (system.key.id, other.id)]
    )
    assert again == {system.key.id}
    writer.commit()
    assert [system.admin.usage(one).uses for one in (system.key.id, other.id)] == [11, 1]  # type: ignore[union-attr]


def test_the_first_row_of_a_key_makes_no_other_report_wait(system: System) -> None:
    """The other report is not committed, so nobody sees its row, and nobody can insert another."""
    now = datetime.now(UTC)
    other = system.admin.issue(People.a, kind="secret")
    writer = system.database.connect("service_role", autocommit=False)
    batch = {str(system.key.id): {"uses": 10, "last_used_at": now.isoformat()}}
    writer.execute("select keylatch.record_usage(%s)", [json.dumps(batch)])
    system.report(1, now, other.id)
    system.session.execute("set statement_timeout = '60s'")
    again = system.runtime.record_usage(
        [KeyUsage(key_id=key_id, uses=1, last_used_at=now) for key_id in (system.key.id, other.id)]
    )
    assert again == {system.key.id}
    writer.commit()
    assert system.report(1, now) == frozenset()
    assert [system.admin.usage(one).uses for one in (system.key.id, other.id)] == [11, 2]  # type: ignore[union-attr]


def test_two_transactions_that_report_crosswise_do_not_deadlock(system: System) -> None:
    other = system.admin.issue(People.a, kind="secret")
    reports = [json.dumps({str(key_id): {"uses": 1}}) for key_id in (system.key.id, other.id)]
    one, two = (system.database.connect("service_role", autocommit=False) for _ in range(2))
    for session, report in ((one, reports[0]), (two, reports[1]), (one, reports[1])):
        session.execute("select keylatch.record_usage(%s)", [report])
    two.execute("select keylatch.record_usage(%s)", [reports[0]])
    one.commit()
    two.commit()
    assert [system.admin.usage(key).uses for key in (system.key.id, other.id)] == [1, 1]  # type: ignore[union-attr]


def test_a_report_takes_no_lock_on_a_key(system: System) -> None:
    writer = system.database.connect("service_role", autocommit=False)
    batch = {str(system.key.id): {"uses": 1, "last_used_at": "2999-01-01T00:00:00Z"}}
    writer.execute("select keylatch.record_usage(%s)", [json.dumps(batch)])
    alice = system.database.connect("authenticated", system.people.claims("alice"))
    alice.execute("set lock_timeout = '60s'")
    alice.execute("select keylatch.rotate_key(%s)", [system.key.id])
    alice.execute("select keylatch.revoke_key(%s, 'x', true)", [system.key.id])
    writer.commit()


def test_an_update_touches_no_index(system: System) -> None:
    for _ in range(20):
        system.report(1, datetime.now(UTC))
    # Other sessions see only flushed statistics. Without this call a flush may take ten seconds.
    system.session.execute("select pg_stat_force_next_flush()")
    row = (
        system.database.connect()
        .execute(
            "select n_tup_upd, n_tup_hot_upd from pg_stat_user_tables where relname = 'key_usage'"
        )
        .fetchone()
    )
    assert row is not None
    assert row[0] >= 19
    assert row[0] == row[1]


def test_only_the_admins_of_the_workspace_see_the_use(system: System) -> None:
    system.runtime.record_usage(
        [KeyUsage(key_id=system.key.id, uses=1, last_used_at=datetime.now(UTC))],
        refusals={system.key.id: {"suspended": 1}},
    )
    for who in ("mia", "bob", "stranger"):
        other = system.database.connect("authenticated", system.people.claims(who))
        for view in ("key_usage", "key_usage_days", "key_refusals"):
            assert other.execute(f"select * from keylatch.{view}".encode()).fetchall() == []
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                other.execute(f"update keylatch.{view} set workspace_id = null".encode())
    for role in ("anon", "keylatch_resolver"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            system.database.connect(role).execute("select * from keylatch.key_usage")


def test_a_recorder_reports_on_a_timer_on_size_and_at_its_end(system: System) -> None:
    found = system.runtime.resolve(system.key.key)
    assert found is not None
    others = [one.id for one in system.admin.issue_many(People.a, labels=["a", "b", "c"])]

    def uses() -> int:
        seen = system.admin.usage(system.key.id)
        return seen.uses if seen else 0

    with UsageRecorder(system.runtime, every=timedelta(milliseconds=50)) as recorder:
        for _ in range(5):
            recorder.record(found)
        until(lambda: uses() == 5)
    with UsageRecorder(system.runtime, every=timedelta(hours=1), size=4) as recorder:
        for key_id in (system.key.id, *others):
            recorder.record(key_id)
        until(lambda: uses() == 6)
        recorder.record(found)
        assert uses() == 6
    assert uses() == 7


def test_a_recorder_counts_refusals_of_known_keys(system: System) -> None:
    text = system.key.key
    with UsageRecorder(system.runtime, every=timedelta(hours=1)) as recorder:
        recorder.record_refusal(system.runtime.explain(text))  # valid: not counted
        recorder.record_refusal(system.runtime.explain("wk_sk_live_nobody"))
        for _ in range(2):
            recorder.record_refusal(system.runtime.explain(text, origin="https://page.example"))
        system.admin.revoke(system.key.id)
        recorder.record_refusal(system.runtime.explain(text))
        recorder.record(system.key.id)
    assert system.refusals() == {
        (system.key.id, "secret_in_browser"): 2,
        (system.key.id, "revoked"): 1,
    }
    found = system.admin.usage(system.key.id)
    assert found is not None
    assert found.uses == 1


def test_threads_lose_no_count(system: System) -> None:
    for round_ in range(1, 11):
        with UsageRecorder(system.runtime, every=timedelta(milliseconds=10)) as recorder:

            def count(recorder: UsageRecorder = recorder) -> None:
                for _ in range(500):
                    recorder.record(system.key.id)

            threads = [threading.Thread(target=count) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        found = system.admin.usage(system.key.id)
        assert found is not None
        assert found.uses == round_ * 2000


def test_counts_of_a_failed_report_are_kept(
    system: System, caplog: pytest.LogCaptureFixture
) -> None:
    url = system.database.authenticator_url
    broken = psycopg.connect(url, autocommit=True)
    recorder = UsageRecorder(Keylatch.from_psycopg(broken, claims=RUNTIME), every=timedelta(0.01))
    broken.close()
    recorder.record(system.key.id)
    with caplog.at_level(logging.WARNING), recorder:
        pass
    assert "kept for the next report" in caplog.text
    recorder.record(system.key.id)
    recorder.record_refusal(system.runtime.explain(system.key.key, origin="https://a.example"))
    recorder._keylatch = system.runtime
    assert recorder.flush() == 0
    assert system.refusals() == {(system.key.id, "secret_in_browser"): 1}
    found = system.admin.usage(system.key.id)
    assert found is not None
    assert found.uses == 2


@pytest.mark.parametrize(
    "given", [{"every": timedelta(0)}, {"size": 0}, {"size": 10_001}, {"size": True}]
)
def test_a_setting_out_of_its_rule_is_named(system: System, given: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument, match=next(iter(given))):
        UsageRecorder(system.runtime, **given)


async def test_the_async_recorder_does_the_same(system: System) -> None:
    async with await psycopg.AsyncConnection.connect(
        system.database.authenticator_url, autocommit=True
    ) as connection:
        runtime = AsyncKeylatch.from_psycopg(connection, claims=RUNTIME)
        async with AsyncUsageRecorder(runtime, every=timedelta(hours=1), size=1) as recorder:
            recorder.record(system.key.id)
            async with asyncio.timeout(HANG_SECONDS):
                while await asyncio.to_thread(system.admin.usage, system.key.id) is None:
                    await asyncio.sleep(0.01)
        async with AsyncUsageRecorder(runtime, every=timedelta(hours=1), size=10) as recorder:
            recorder.record(system.key.id)
            recorder.record_refusal(await runtime.explain(system.key.key, origin=""))
    found = system.admin.usage(system.key.id)
    assert found is not None
    assert found.uses == 2
    assert system.refusals() == {(system.key.id, "secret_in_browser"): 1}


async def test_counts_of_a_failed_report_of_the_async_recorder_are_kept(
    system: System, caplog: pytest.LogCaptureFixture
) -> None:
    url = system.database.authenticator_url
    broken = await psycopg.AsyncConnection.connect(url, autocommit=True)
    recorder = AsyncUsageRecorder(
        AsyncKeylatch.from_psycopg(broken, claims=RUNTIME), every=timedelta(hours=1)
    )
    await broken.close()
    recorder.record(system.key.id)
    with caplog.at_level(logging.WARNING):
        async with recorder:
            pass
    assert "kept for the next report" in caplog.text
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        recorder._keylatch = AsyncKeylatch.from_psycopg(connection, claims=RUNTIME)
        assert await recorder.flush() == 0
    found = system.admin.usage(system.key.id)
    assert found is not None
    assert found.uses == 1
