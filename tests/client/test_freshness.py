"""Whether a replica may answer, with a clock that the test moves."""

from collections.abc import Mapping
from datetime import timedelta

import pytest

from keylatch.transports import Rows, replica
from keylatch.transports.replica import ReplicaTransport

pytestmark = pytest.mark.one_server

LAG = timedelta(seconds=1)


class Clock:
    """A clock in seconds that the test sets."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


class Server:
    """Answers with its position, or with whether it is a replica."""

    def __init__(self, clock: Clock, *, is_replica: bool) -> None:
        self.clock = clock
        self.is_replica = is_replica
        self.timeline: int | None = 1
        self.position = 10
        self.takes = 0.0
        self.asked = 0

    def call(self, function: str, _: Mapping[str, object]) -> Rows:
        if function != "replay_position":
            return [{"is_replica": self.is_replica}]
        self.clock.now += self.takes
        self.asked += 1
        row = {"is_replica": self.is_replica, "timeline": self.timeline, "position": self.position}
        return [row | {"system_identifier": "7"}]


class Pair:
    """A primary, a replica, and calls to them."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.primary = Server(clock, is_replica=False)
        self.replica = Server(clock, is_replica=True)
        self._transport = ReplicaTransport(self.primary, self.replica, LAG)

    def replica_answers(self) -> bool:
        """Whether the replica answers a read now."""
        (row,) = self._transport.call("list_keys", {})
        return bool(row["is_replica"])

    def replica_answers_unasked(self) -> bool:
        """Whether the replica answers a read now, without a new comparison of positions."""
        self.replica.position = 0
        self._transport._compare_at = self.clock.now + 1
        return self.replica_answers()


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> Pair:
    clock = Clock()
    monkeypatch.setattr(replica, "steady_clock", clock)
    return Pair(clock)


def test_a_replica_that_has_what_the_primary_had_is_fresh_for_the_lag_and_no_longer(
    pair: Pair,
) -> None:
    assert pair.replica_answers()
    pair.clock.now += 0.999
    assert pair.replica_answers_unasked()
    pair.clock.now += 0.001
    assert not pair.replica_answers_unasked()


def test_the_lag_counts_from_when_the_primary_was_asked_not_from_its_answer(pair: Pair) -> None:
    pair.primary.takes = 0.9
    assert pair.replica_answers()
    pair.clock.now += 0.1
    assert not pair.replica_answers_unasked()


def test_a_replica_that_stands_still_is_as_old_as_the_newest_position_that_it_has(
    pair: Pair,
) -> None:
    for position in (10, 20, 30, 40):
        pair.primary.position = position
        pair.replica_answers()
        pair.clock.now += 0.3
    assert not pair.replica_answers_unasked()
    # The replica reaches the position that the primary had 0.3 seconds ago.
    pair.primary.position, pair.replica.position = 50, 40
    pair._transport._compare_at = 0.0
    assert pair.replica_answers()
    pair.clock.now += 0.7
    assert not pair.replica_answers_unasked()


@pytest.mark.parametrize("timeline", [None, 2])
def test_a_replica_of_no_stream_or_another_timeline_is_not_fresh(
    pair: Pair, timeline: int | None
) -> None:
    assert pair.replica_answers()
    pair.clock.now += 0.2
    pair.replica.timeline, pair.replica.position = timeline, 99
    assert not pair.replica_answers()


def test_the_positions_are_compared_eight_times_per_lag(pair: Pair) -> None:
    for _ in range(16):
        pair.replica_answers()
        pair.clock.now += 0.0625
    assert (pair.primary.asked, pair.replica.asked) == (8, 8)


def test_a_primary_that_follows_another_server_says_nothing_of_the_replica(pair: Pair) -> None:
    pair.primary.is_replica = True
    pair.replica_answers()
    assert pair.primary.asked == 1
    assert pair._transport._fresh_until == 0.0
