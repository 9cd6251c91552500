"""Two imports at once: none waits for the other for good, and each says what the other took."""

import json
from functools import partial

import pytest

from database.racing import World, attempt, together
from database.test_import import OLD, PBKDF2, import_, line
from stack import Database, People


@pytest.fixture
def world(database: Database, people: People) -> World:
    return World(database, people)


def test_two_imports_of_the_same_keys_at_once_leave_one_and_say_which(world: World) -> None:
    first = world.database.connect("service_role", autocommit=False)
    taken = import_(first, line(key=OLD), line(**PBKDF2))["lines"]
    others = [
        world.waiting(
            "select to_jsonb(r) from keylatch.import_keys(%s) as r",
            [json.dumps(lines)],
            waits_for=first,
            session=world.database.connect("service_role"),
        )
        for lines in (
            [line(key=OLD), line(**PBKDF2)],
            [line(key=OLD, workspace_id=str(People.b))],
        )
    ]
    first.commit()
    same, elsewhere = (other.outcome().row[0] for other in others)
    assert [one["outcome"] for one in same["lines"]] == ["exists", "exists"]
    assert [one["key_id"] for one in same["lines"]] == [one["key_id"] for one in taken]
    assert [one["outcome"] for one in elsewhere["lines"]] == ["refused"]
    assert "another workspace" in elsewhere["lines"][0]["detail"]


def test_imports_of_the_same_keys_in_another_order_do_not_meet_head_on(world: World) -> None:
    lines = [line(key=f"key number {number} of the old system") for number in range(1000)]
    ways = [json.dumps(lines), json.dumps(lines[::-1])]
    sessions = [world.database.connect("service_role") for _ in ways]
    outcomes = together(
        [
            partial(attempt, session, "select (keylatch.import_keys(%s)).imported", [way])
            for session, way in zip(sessions, ways, strict=True)
        ]
    )
    assert [one.word for one in outcomes] == ["done", "done"]
    assert sum(one.row[0] for one in outcomes) == len(lines)
    # Who came first took them all, in the one order in which both ask for them.
    taken = world.owner.execute(
        "select k.key_hash from keylatch_internal.key_events as e"
        " join keylatch_internal.keys as k on e.key_id = k.id where e.event = 'imported'"
        " order by e.id"
    ).fetchall()
    assert taken == sorted(taken)


def test_two_imports_at_once_leave_no_more_unclaimed_keys_than_a_claim_tries(world: World) -> None:
    def salted(numbers: range) -> str:
        return json.dumps([line(**{**PBKDF2, "hash": f"{number:064x}"}) for number in numbers])

    first = world.database.connect("service_role", autocommit=False)
    first.execute("select keylatch.import_keys(%s)", [salted(range(6))])
    second = world.waiting(
        "select to_jsonb(r) from keylatch.import_keys(%s) as r",
        [salted(range(6, 12))],
        waits_for=first,
        session=world.database.connect("service_role"),
    )
    first.commit()
    report = second.outcome().row[0]
    assert (report["imported"], report["refused"]) == (4, 2)
