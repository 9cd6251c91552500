"""The checker finds violations and nothing else. Times are in seconds; the bound is 1."""

import math
from uuid import UUID, uuid4

import pytest

from security.failovers.history import Change, Found, History

KEY = UUID("00000000-0000-4000-8000-000000000001")
REVOKED = Change("revoke", KEY, 10.0, 10.5)


def history(*changes: Change, asked: float, bound: float = 1.0, key: UUID = KEY) -> History:
    """Return a history in which a question at this time found the key 0.1 s later."""
    made = History()
    for change in changes:
        made.note(change)
    made.asked("reader", Found("reader", key, asked, asked + 0.1, bound))
    return made


def test_a_key_that_is_found_later_than_the_bound_after_its_revocation_is_a_violation() -> None:
    (violation,) = history(REVOKED, asked=11.6).violations()
    assert violation.change is REVOKED
    assert violation.seconds == pytest.approx(1.1)


def test_without_a_bound_every_old_answer_is_late() -> None:
    assert len(history(REVOKED, asked=10.51, bound=0).violations()) == 1


@pytest.mark.parametrize("asked", [9.0, 10.2, 10.5, 11.4])
def test_a_resolve_before_the_answer_or_within_the_bound_may_find_the_key(asked: float) -> None:
    assert history(REVOKED, asked=asked).violations() == []


def test_a_late_answer_without_a_promised_bound_is_no_violation() -> None:
    made = history(REVOKED, asked=60.0, bound=math.inf)
    assert [one.seconds for one in made.stale()] == [49.5]
    assert made.violations() == []


def test_the_revocation_of_another_key_and_one_without_an_answer_prove_nothing() -> None:
    assert history(REVOKED, asked=60.0, key=uuid4()).violations() == []
    assert history(Change("revoke", KEY, 10.0), asked=60.0).violations() == []


def test_a_suspended_key_may_be_found_from_the_beginning_of_its_unsuspension() -> None:
    suspended = Change("suspend", KEY, 10.0, 10.5)
    again = Change("unsuspend", KEY, 20.0, 20.5)
    assert len(history(suspended, again, asked=19.0).violations()) == 1
    assert history(suspended, again, asked=19.95).violations() == []
    assert history(suspended, again, asked=30.0).violations() == []
    unanswered = Change("unsuspend", KEY, 20.0)
    assert history(suspended, unanswered, asked=30.0).violations() == []


def test_an_unsuspension_helps_no_later_suspension_and_no_revocation() -> None:
    before = Change("unsuspend", KEY, 8.0, 8.5)
    assert len(history(before, Change("suspend", KEY, 10.0, 10.5), asked=12).violations()) == 1
    after = Change("unsuspend", KEY, 11.0, 11.5)
    assert len(history(REVOKED, after, asked=30.0).violations()) == 1


def test_a_lost_revocation_is_told_apart_from_the_failover_on_and_not_before() -> None:
    lost = Change("revoke", KEY, 10.0, 10.5, lost_at=20.0)
    (told,) = history(lost, asked=25.0).stale()
    assert told.is_lost
    assert not told.is_violation
    assert len(history(lost, asked=15.0).violations()) == 1


def test_a_second_revocation_of_a_key_whose_first_was_lost_counts() -> None:
    lost = Change("revoke", KEY, 10.0, 10.5, lost_at=20.0)
    again = Change("revoke", KEY, 30.0, 30.5)
    (violation,) = history(lost, again, asked=40.0).violations()
    assert violation.change is again


def test_a_key_must_be_inactive_exactly_if_its_revocation_was_acknowledged_and_not_undone() -> None:
    made = History()
    one, two, three = uuid4(), uuid4(), uuid4()
    for change in (
        Change("revoke", one, 1, 2),
        Change("suspend", two, 1, 2),
        Change("unsuspend", two, 3, 4),
        Change("suspend", three, 5, 6),
        Change("revoke", two, 5),
    ):
        made.note(change)
    assert set(made.inactive()) == {one, three}
