"""Whether a replica may answer, by a clock that the test moves."""

from datetime import timedelta

import pytest

from keylatch.transports import replica
from keylatch.transports.replica import _Freshness

pytestmark = pytest.mark.one_server

LAG = timedelta(seconds=1)


class Clock:
    """Seconds, as the test sets them."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(replica, "steady_clock", clock)
    return clock


def at(position: int, *, is_replica: bool = False, timeline: int | None = 1) -> list[object]:
    row = {"is_replica": is_replica, "timeline": timeline, "position": position}
    return [row | {"system_identifier": "7"}]


def look(freshness: _Freshness, primary: int, behind: int, timeline: int | None = 1) -> None:
    """Ask both for their positions, as a question does."""
    asked = freshness.look()
    there = at(behind, is_replica=True, timeline=timeline)
    freshness.seen(asked, at(primary), there)  # type: ignore[arg-type]


def test_a_replica_that_has_what_the_primary_had_is_fresh_for_the_lag_and_no_longer(
    clock: Clock,
) -> None:
    freshness = _Freshness(LAG)
    assert not freshness.is_fresh()
    look(freshness, primary=10, behind=10)
    clock.now += 0.999
    assert freshness.is_fresh()
    clock.now += 0.001
    assert not freshness.is_fresh()


def test_the_lag_counts_from_when_the_primary_was_asked_not_from_its_answer(clock: Clock) -> None:
    freshness = _Freshness(LAG)
    asked = freshness.look()
    clock.now += 0.9
    freshness.seen(asked, at(10), at(10, is_replica=True))  # type: ignore[arg-type]
    assert freshness.is_fresh()
    clock.now += 0.1
    assert not freshness.is_fresh()


def test_a_replica_that_stands_still_is_as_old_as_the_newest_position_that_it_has(
    clock: Clock,
) -> None:
    freshness = _Freshness(LAG)
    for primary in (10, 20, 30, 40):
        look(freshness, primary, behind=10)
        clock.now += 0.3
    assert not freshness.is_fresh()
    look(freshness, primary=50, behind=40)  # which the primary had 0.3 seconds ago
    assert freshness.is_fresh()
    clock.now += 0.7
    assert not freshness.is_fresh()


@pytest.mark.parametrize("timeline", [None, 2])
def test_a_replica_of_no_stream_or_another_timeline_is_not_fresh(
    clock: Clock, timeline: int | None
) -> None:
    freshness = _Freshness(LAG)
    look(freshness, primary=10, behind=10)
    assert freshness.is_fresh()
    look(freshness, primary=10, behind=99, timeline=timeline)
    assert not freshness.is_fresh()


def test_the_client_looks_at_the_replica_eight_times_per_lag(clock: Clock) -> None:
    freshness = _Freshness(LAG)
    assert freshness.is_due()
    freshness.look()
    assert not freshness.is_due()
    clock.now += 0.125
    assert freshness.is_due()


def test_a_primary_that_follows_another_server_says_nothing_of_the_replica(clock: Clock) -> None:
    freshness = _Freshness(LAG)
    both = at(10, is_replica=True)
    freshness.seen(freshness.look(), both, both)  # type: ignore[arg-type]
    assert not freshness.is_fresh()
