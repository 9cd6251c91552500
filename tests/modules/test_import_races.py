"""Imports at once: they do not deadlock, and each reports what the other imported."""

import json
from functools import partial
from uuid import UUID

import pytest

from core.racing import System, attempt, together
from modules.test_import import OLD, PBKDF2, import_, line, resolves
from modules.test_upgrade import pbkdf2
from stack import Database, People


@pytest.fixture
def system(database: Database, people: People) -> System:
    return System(database, people)


def test_two_imports_of_the_same_keys_at_once_leave_one_and_say_which(system: System) -> None:
    first = system.database.connect("service_role", autocommit=False)
    taken = import_(first, line(key=OLD), line(**PBKDF2))["lines"]
    others = [
        system.waiting(
            "select to_jsonb(r) from keylatch.import_keys(%s) as r",
            [json.dumps(lines)],
            waits_for=first,
            session=system.database.connect("service_role"),
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


def test_imports_of_the_same_keys_in_another_order_do_not_meet_head_on(system: System) -> None:
    lines = [line(key=f"key number {number} of the old system") for number in range(1000)]
    ways = [json.dumps(lines), json.dumps(lines[::-1])]
    sessions = [system.database.connect("service_role") for _ in ways]
    outcomes = together(
        [
            partial(attempt, session, "select (keylatch.import_keys(%s)).imported", [way])
            for session, way in zip(sessions, ways, strict=True)
        ]
    )
    assert [one.word for one in outcomes] == ["done", "done"]
    assert sum(one.row[0] for one in outcomes) == len(lines)


def test_an_import_and_revocations_of_the_same_keys_do_not_deadlock(system: System) -> None:
    service = system.database.connect("service_role")
    keys = [line(key=f"key number {number} of the old system") for number in range(300)]
    ids = [one["key_id"] for one in import_(service, *keys)["lines"]]
    gone = [{**one, "suspended_at": "2024-01-01"} for one in keys]
    ways = [json.dumps(gone), json.dumps(gone[::-1])]
    sessions = [system.database.connect("service_role") for _ in ways]
    update = (
        "with locked as (select id from keylatch.keys where id = any(%s) order by id for update)"
        " update keylatch.keys as k set revoked_at = now() from locked as l where k.id = l.id"
    )
    outcomes = together(
        [
            *(
                partial(attempt, session, "select (keylatch.import_keys(%s)).refused", [way])
                for session, way in zip(sessions, ways, strict=True)
            ),
            partial(attempt, system.session(), update, [ids]),
        ]
    )
    assert [one.word for one in outcomes] == ["done", "done", "done"]
    assert [one.row for one in outcomes[:2]] == [(0,), (0,)]
    assert set(system.statuses()) == {"revoked"}


def test_two_imports_at_once_leave_no_more_waiting_keys_than_one_call_tries(system: System) -> None:
    def salted(numbers: range) -> str:
        return json.dumps(
            [line(**{**PBKDF2, "iter": 120_000, "hash": f"{number:064x}"}) for number in numbers]
        )

    first = system.database.connect("service_role", autocommit=False)
    first.execute("select keylatch.import_keys(%s)", [salted(range(6))])
    second = system.waiting(
        "select to_jsonb(r) from keylatch.import_keys(%s) as r",
        [salted(range(6, 12))],
        waits_for=first,
        session=system.database.connect("service_role"),
    )
    first.commit()
    report = second.outcome().row[0]
    assert (report["waiting"], report["refused"]) == (4, 2)


def test_the_first_use_of_a_key_and_an_import_of_its_text_do_not_wait(system: System) -> None:
    service = system.database.connect("service_role")
    (waiting,) = import_(service, line(**pbkdf2(OLD, "hex", "text")))["lines"]
    importing = system.database.connect("service_role", autocommit=False)
    (held,) = import_(importing, line(key=OLD))["lines"]
    assert held["outcome"] == "waiting", "the text may be the waiting key"
    service.execute("set lock_timeout = '10ms'")
    using = attempt(service, "select key_id from keylatch.upgrade_key(%s, %s)", [OLD, People.a])
    assert using == ("done", (UUID(waiting["key_id"]),))
    importing.commit()
    (again,) = import_(service, line(key=OLD, revoked_at="2024-01-01"))["lines"]
    assert again["outcome"] == "moved"
    assert resolves(system, OLD) is None
