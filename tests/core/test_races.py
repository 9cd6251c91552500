"""Two sessions on one key: one rotation wins, and no key resolves that was reported revoked."""

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
    World,
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
def world(database: Database, people: People) -> World:
    return World(database, people)


@GRACES
def test_of_fifty_rotations_of_one_key_at_once_exactly_one_wins(world: World, grace: str) -> None:
    """Threat: rotate racing rotate; no second secret appears."""
    old, _ = world.issue()

    def rotate(alice: Connection) -> Callable[[], Outcome]:
        return lambda: attempt(alice, ROTATE, [old, grace])

    outcomes = together([rotate(world.session()) for _ in range(50)])
    words = Counter(outcome.word for outcome in outcomes)
    assert words == {"done": 1, "key_already_rotated": 49}
    (successor,) = (outcome.row for outcome in outcomes if outcome.word == "done")
    with psycopg.connect(world.database.url) as owner:
        made = owner.execute("select id from keylatch.keys where rotated_from = %s", [old])
        assert made.fetchall() == [(successor[0],)]
    assert world.statuses() == ["revoked" if grace == "0" else "superseded", "active"]
    assert world.resolves(successor[1])


def test_who_loses_a_rotation_is_told_so_as_a_conflict(world: World) -> None:
    old, _ = world.issue()
    first = world.session(autocommit=False)
    assert attempt(first, ROTATE, [old, "0"]).word == "done"
    second = world.waiting(ROTATE, [old, "0"], waits_for=first)
    first.commit()
    assert second.outcome().word == "key_already_rotated"
    with pytest.raises(psycopg.Error) as refused:
        world.session().execute(ROTATE, [old, "0"])
    assert refused.value.sqlstate == "PT409"


def test_a_rotation_that_rolls_back_leaves_the_old_key_active_and_free_to_rotate(
    world: World,
) -> None:
    old, key = world.issue()
    first = world.session(autocommit=False)
    made = attempt(first, ROTATE, [old, "0"])
    second = world.waiting(ROTATE, [old, "1 hour"], waits_for=first)
    first.rollback()
    assert second.outcome().word == "done"
    assert world.resolves(key) and not world.resolves(made.row[1])
    assert world.statuses() == ["superseded", "active"]


@GRACES
@CASCADES
@ENDINGS
def test_a_revocation_that_waits_for_a_rotation_leaves_nothing_active_that_it_reported_revoked(
    world: World, grace: str, cascade: bool, ending: str
) -> None:
    old, key = world.issue()
    rotator = world.session(autocommit=False)
    made = attempt(rotator, ROTATE, [old, grace])
    assert made.word == "done"
    revoker = world.waiting(REVOKE, [old, cascade], waits_for=rotator)
    getattr(rotator, ending)()
    rotated = ending == "commit"
    assert revoker.outcome() == Outcome("done", (old, rotated and grace == "0"))
    assert not world.resolves(key)
    assert world.resolves(made.row[1]) == (rotated and not cascade)
    successors = ["revoked" if cascade else "active"] if rotated else []
    assert world.statuses() == ["revoked", *successors]


@GRACES
@CASCADES
@ENDINGS
def test_a_rotation_that_waits_for_a_revocation_makes_no_successor_of_a_revoked_key(
    world: World, grace: str, cascade: bool, ending: str
) -> None:
    old, key = world.issue()
    revoker = world.session(autocommit=False)
    assert attempt(revoker, REVOKE, [old, cascade]).word == "done"
    rotator = world.waiting(ROTATE, [old, grace], waits_for=revoker)
    getattr(revoker, ending)()
    if ending == "commit":
        assert rotator.outcome().word == "key_revoked"
        assert world.statuses() == ["revoked"]
        assert not world.resolves(key)
    else:
        assert rotator.outcome().word == "done"
        assert world.statuses() == ["revoked" if grace == "0" else "superseded", "active"]
        assert world.resolves(key) == (grace != "0")


def test_a_cascade_that_waits_for_the_rotation_of_a_successor_takes_what_that_made(
    world: World,
) -> None:
    oldest, _ = world.issue()
    (middle, _) = attempt(world.session(), ROTATE, [oldest, "1 hour"]).row
    rotator = world.session(autocommit=False)
    made = attempt(rotator, ROTATE, [middle, "1 hour"])
    revoker = world.waiting(REVOKE, [oldest, True], waits_for=rotator)
    rotator.commit()
    assert revoker.outcome().word == "done"
    assert not world.resolves(made.row[1])
    assert world.statuses() == ["revoked"] * 3


def test_rotations_and_revocations_at_random_leave_no_key_active_that_was_reported_revoked(
    world: World,
) -> None:
    """Threat: revoke racing rotate: what was once reported revoked never resolves again."""
    seed = secrets.randbits(32)
    chance = random.Random(seed)  # noqa: S311 - it only shuffles
    sessions = [world.session() for _ in range(3)]
    met: Counter[str] = Counter()
    for number in range(50):
        old, old_key = world.issue()
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
        assert not world.resolves(target_key), told
        if rotated.word == "done" and grace == "0":
            assert not world.resolves(young_key), told
        if cascade:
            assert set(world.statuses()) == {"revoked"}, told
        elif rotated.word == "done":
            assert world.resolves(rotated.row[1]), told
        met[rotated.word] += 1
        attempt(sessions[0], REVOKE, [old, True])
    assert set(met) == {"done", "key_revoked"}, f"seed {seed}: the order was always the same: {met}"


def test_cascades_that_start_at_different_keys_of_a_family_do_not_block_each_other_for_good(
    world: World,
) -> None:
    oldest, _ = world.issue()
    (middle, _) = attempt(world.session(), ROTATE, [oldest, "1 hour"]).row
    (youngest, _) = attempt(world.session(), ROTATE, [middle, "1 hour"]).row
    holder = world.session(autocommit=False)
    holder.execute("select 1 from keylatch.keys where id = %s for update", [oldest])
    one = world.waiting(REVOKE, [youngest, True], waits_for=holder)
    other = world.waiting(REVOKE, [middle, True])
    holder.rollback()
    assert [one.outcome().word, other.outcome().word] == ["done", "done"]
    assert world.statuses() == ["revoked"] * 3


@ENDINGS
def test_a_revocation_that_waits_for_a_suspension_revokes(world: World, ending: str) -> None:
    key_id, key = world.issue()
    suspender = world.session(autocommit=False)
    assert attempt(suspender, SUSPEND, [key_id]).word == "done"
    revoker = world.waiting(REVOKE, [key_id, False], waits_for=suspender)
    getattr(suspender, ending)()
    assert revoker.outcome() == Outcome("done", (key_id, False))
    assert world.statuses() == ["revoked"]
    assert not world.resolves(key)


@ENDINGS
@pytest.mark.parametrize("statement", [SUSPEND, UNSUSPEND], ids=["suspend", "unsuspend"])
def test_a_suspension_that_waits_for_a_revocation_hears_of_it(
    world: World, statement: str, ending: str
) -> None:
    key_id, key = world.issue()
    revoker = world.session(autocommit=False)
    assert attempt(revoker, REVOKE, [key_id, False]).word == "done"
    other = world.waiting(statement, [key_id], waits_for=revoker)
    getattr(revoker, ending)()
    if ending == "commit":
        assert other.outcome().word == "key_revoked"
        assert world.statuses() == ["revoked"]
    else:
        assert other.outcome().word == "done"
        assert world.statuses() == ["suspended" if statement == SUSPEND else "active"]
    assert world.resolves(key) == (world.statuses() == ["active"])


def test_a_rotation_with_a_grace_that_waits_for_a_suspension_is_refused(world: World) -> None:
    key_id, key = world.issue()
    suspender = world.session(autocommit=False)
    assert attempt(suspender, SUSPEND, [key_id]).word == "done"
    rotator = world.waiting(ROTATE, [key_id, "1 hour"], waits_for=suspender)
    suspender.commit()
    assert rotator.outcome().word == "key_suspended"
    assert world.statuses() == ["suspended"]
    assert not world.resolves(key)


def test_two_who_unsuspend_a_key_both_succeed(world: World) -> None:
    key_id, key = world.issue()
    assert attempt(world.session(), SUSPEND, [key_id]).word == "done"
    first = world.session(autocommit=False)
    assert attempt(first, UNSUSPEND, [key_id]).word == "done"
    second = world.waiting(UNSUSPEND, [key_id], waits_for=first)
    assert not world.resolves(key)
    first.commit()
    assert second.outcome() == Outcome("done", (key_id,))
    assert world.resolves(key)
