"""Two sessions on one key: only one rotation wins, and no key resolves after its revocation."""

import random
import secrets
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from core.racing import (
    REVOKE,
    ROTATE,
    Connection,
    Outcome,
    System,
    attempt,
    together,
)
from stack import Database, People

SUSPEND = "select id from keylatch.suspend_key(%s)"
UNSUSPEND = "select id from keylatch.unsuspend_key(%s)"
GRACES = pytest.mark.parametrize("grace", ["0", "1 hour"])
CASCADES = pytest.mark.parametrize("cascade", [False, True], ids=["alone", "cascade"])
ENDINGS = pytest.mark.parametrize("ending", ["commit", "rollback"])


@pytest.fixture
def system(database: Database, people: People) -> System:
    return System(database, people)


@GRACES
def test_exactly_one_of_fifty_simultaneous_rotations_of_a_key_wins(
    system: System, grace: str
) -> None:
    """Threat: rotate racing rotate; no second secret appears."""
    old, _ = system.issue()

    def rotate(alice: Connection) -> Callable[[], Outcome]:
        return lambda: attempt(alice, ROTATE, [old, grace])

    outcomes = together([rotate(system.session()) for _ in range(50)])
    words = Counter(outcome.word for outcome in outcomes)
    assert words == {"done": 1, "key_already_rotated": 49}
    (successor,) = (outcome.row for outcome in outcomes if outcome.word == "done")
    with psycopg.connect(system.database.url) as owner:
        made = owner.execute("select id from keylatch.keys where rotated_from = %s", [old])
        assert made.fetchall() == [(successor[0],)]
    assert system.statuses() == ["revoked" if grace == "0" else "superseded", "active"]
    assert system.resolves(successor[1])


def test_the_loser_of_two_rotations_gets_a_conflict(system: System) -> None:
    old, _ = system.issue()
    first = system.session(autocommit=False)
    assert attempt(first, ROTATE, [old, "0"]).word == "done"
    second = system.waiting(ROTATE, [old, "0"], waits_for=first)
    first.commit()
    assert second.outcome().word == "key_already_rotated"
    with pytest.raises(psycopg.Error) as refused:
        system.session().execute(ROTATE, [old, "0"])
    assert refused.value.sqlstate == "PT409"


def test_a_rotation_that_rolls_back_leaves_the_old_key_active_and_free_to_rotate(
    system: System,
) -> None:
    old, key = system.issue()
    first = system.session(autocommit=False)
    made = attempt(first, ROTATE, [old, "0"])
    second = system.waiting(ROTATE, [old, "1 hour"], waits_for=first)
    first.rollback()
    assert second.outcome().word == "done"
    assert system.resolves(key) and not system.resolves(made.row[1])
    assert system.statuses() == ["superseded", "active"]


@GRACES
@CASCADES
@ENDINGS
def test_a_revocation_that_waits_for_a_rotation_leaves_nothing_active_that_it_reported_revoked(
    system: System, grace: str, cascade: bool, ending: str
) -> None:
    old, key = system.issue()
    rotator = system.session(autocommit=False)
    made = attempt(rotator, ROTATE, [old, grace])
    assert made.word == "done"
    revoker = system.waiting(REVOKE, [old, cascade], waits_for=rotator)
    getattr(rotator, ending)()
    rotated = ending == "commit"
    assert revoker.outcome() == Outcome("done", (old, rotated and grace == "0"))
    assert not system.resolves(key)
    assert system.resolves(made.row[1]) == (rotated and not cascade)
    successors = ["revoked" if cascade else "active"] if rotated else []
    assert system.statuses() == ["revoked", *successors]


@GRACES
@CASCADES
@ENDINGS
def test_a_rotation_that_waits_for_a_revocation_makes_no_successor_of_a_revoked_key(
    system: System, grace: str, cascade: bool, ending: str
) -> None:
    old, key = system.issue()
    revoker = system.session(autocommit=False)
    assert attempt(revoker, REVOKE, [old, cascade]).word == "done"
    rotator = system.waiting(ROTATE, [old, grace], waits_for=revoker)
    getattr(revoker, ending)()
    if ending == "commit":
        assert rotator.outcome().word == "key_revoked"
        assert system.statuses() == ["revoked"]
        assert not system.resolves(key)
    else:
        assert rotator.outcome().word == "done"
        assert system.statuses() == ["revoked" if grace == "0" else "superseded", "active"]
        assert system.resolves(key) == (grace != "0")


def test_a_cascade_that_waits_for_the_rotation_of_a_successor_takes_what_that_made(
    system: System,
) -> None:
    oldest, _ = system.issue()
    (middle, _) = attempt(system.session(), ROTATE, [oldest, "1 hour"]).row
    rotator = system.session(autocommit=False)
    made = attempt(rotator, ROTATE, [middle, "1 hour"])
    revoker = system.waiting(REVOKE, [oldest, True], waits_for=rotator)
    rotator.commit()
    assert revoker.outcome().word == "done"
    assert not system.resolves(made.row[1])
    assert system.statuses() == ["revoked"] * 3


def test_rotations_and_revocations_at_random_leave_no_key_active_that_was_reported_revoked(
    system: System,
) -> None:
    """Threat: revoke racing rotate: what was once reported revoked never resolves again."""
    seed = secrets.randbits(32)
    chance = random.Random(seed)  # noqa: S311 - it only shuffles
    sessions = [system.session() for _ in range(3)]
    met: Counter[str] = Counter()
    for number in range(50):
        old, old_key = system.issue()
        young, young_key = attempt(sessions[0], ROTATE, [old, "1 hour"]).row
        grace, cascade = chance.choice(["0", "1 hour"]), chance.choice([False, True])
        target, target_key = chance.choice([(old, old_key), (young, young_key)])
        delays = [chance.choice([0, 0, 0.001, 0.003]) for _ in range(2)]

        def later(
            delay: float, session: Connection, statement: str, parameters: list[Any]
        ) -> Callable[[], Outcome]:
            def call() -> Outcome:
                time.sleep(delay)
                return attempt(session, statement, parameters)

            return call

        rotated, revoked = together(
            [
                later(delays[0], sessions[1], ROTATE, [young, grace]),
                later(delays[1], sessions[2], REVOKE, [target, cascade]),
            ]
        )
        told = f"seed {seed}, round {number}: {grace=} {cascade=} {rotated=} {revoked=}"
        assert revoked.word == "done", told
        assert rotated.word in ("done", "key_revoked"), told
        assert not system.resolves(target_key), told
        if rotated.word == "done" and grace == "0":
            assert not system.resolves(young_key), told
        if cascade:
            assert set(system.statuses()) == {"revoked"}, told
        elif rotated.word == "done":
            assert system.resolves(rotated.row[1]), told
        met[rotated.word] += 1
        attempt(sessions[0], REVOKE, [old, True])
    assert set(met) == {"done", "key_revoked"}, f"seed {seed}: the order was always the same: {met}"


def test_cascades_that_start_at_different_keys_of_a_family_do_not_deadlock(
    system: System,
) -> None:
    oldest, _ = system.issue()
    (middle, _) = attempt(system.session(), ROTATE, [oldest, "1 hour"]).row
    (youngest, _) = attempt(system.session(), ROTATE, [middle, "1 hour"]).row
    holder = system.session(autocommit=False)
    holder.execute("select 1 from keylatch.keys where id = %s for update", [oldest])
    one = system.waiting(REVOKE, [youngest, True], waits_for=holder)
    other = system.waiting(REVOKE, [middle, True])
    holder.rollback()
    assert [one.outcome().word, other.outcome().word] == ["done", "done"]
    assert system.statuses() == ["revoked"] * 3


@ENDINGS
def test_a_revocation_that_waits_for_a_suspension_revokes(system: System, ending: str) -> None:
    key_id, key = system.issue()
    suspender = system.session(autocommit=False)
    assert attempt(suspender, SUSPEND, [key_id]).word == "done"
    revoker = system.waiting(REVOKE, [key_id, False], waits_for=suspender)
    getattr(suspender, ending)()
    assert revoker.outcome() == Outcome("done", (key_id, False))
    assert system.statuses() == ["revoked"]
    assert not system.resolves(key)


@ENDINGS
@pytest.mark.parametrize("statement", [SUSPEND, UNSUSPEND], ids=["suspend", "unsuspend"])
def test_a_suspension_that_waits_for_a_revocation_hears_of_it(
    system: System, statement: str, ending: str
) -> None:
    key_id, key = system.issue()
    revoker = system.session(autocommit=False)
    assert attempt(revoker, REVOKE, [key_id, False]).word == "done"
    other = system.waiting(statement, [key_id], waits_for=revoker)
    getattr(revoker, ending)()
    if ending == "commit":
        assert other.outcome().word == "key_revoked"
        assert system.statuses() == ["revoked"]
    else:
        assert other.outcome().word == "done"
        assert system.statuses() == ["suspended" if statement == SUSPEND else "active"]
    assert system.resolves(key) == (system.statuses() == ["active"])


def test_a_rotation_with_a_grace_that_waits_for_a_suspension_is_refused(system: System) -> None:
    key_id, key = system.issue()
    suspender = system.session(autocommit=False)
    assert attempt(suspender, SUSPEND, [key_id]).word == "done"
    rotator = system.waiting(ROTATE, [key_id, "1 hour"], waits_for=suspender)
    suspender.commit()
    assert rotator.outcome().word == "key_suspended"
    assert system.statuses() == ["suspended"]
    assert not system.resolves(key)


def test_two_unsuspensions_of_a_key_at_once_both_succeed(system: System) -> None:
    key_id, key = system.issue()
    assert attempt(system.session(), SUSPEND, [key_id]).word == "done"
    first = system.session(autocommit=False)
    assert attempt(first, UNSUSPEND, [key_id]).word == "done"
    second = system.waiting(UNSUSPEND, [key_id], waits_for=first)
    assert not system.resolves(key)
    first.commit()
    assert second.outcome() == Outcome("done", (key_id,))
    assert system.resolves(key)
