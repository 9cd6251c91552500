"""A workspace is deleted while keys are made in it: no key stays active, no call deadlocks."""

from collections import Counter
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import pytest

from core.racing import (
    ISSUE,
    REVOKE,
    ROTATE,
    Connection,
    Outcome,
    System,
    attempt,
    together,
)
from stack import Database, People

INSERT = "insert into keylatch.keys (workspace_id) values (%s)"
INSERT_BELOW = "insert into keylatch_internal.keys (workspace_id) values (%s)"
DELETE = "delete from keylatch.workspaces where id = %s"
MAKING = pytest.mark.parametrize(
    "make", [ISSUE, INSERT, INSERT_BELOW], ids=["call", "view", "table"]
)
ENDINGS = pytest.mark.parametrize("ending", ["commit", "rollback"])


@pytest.fixture
def system(database: Database, people: People) -> System:
    return System(database, people)


def unrevoked(system: System, workspace: UUID) -> list[tuple[Any, ...]]:
    """The keys of a workspace that are not revoked."""
    return system.owner.execute(
        "select id, status from keylatch.keys where workspace_id = %s and status <> 'revoked'",
        [workspace],
    ).fetchall()


def reasons(system: System) -> list[str]:
    """Why each key was revoked, the oldest key first."""
    rows = system.owner.execute("select revoke_reason from keylatch.keys order by created_at")
    return [row[0] for row in rows]


@MAKING
@ENDINGS
def test_making_a_key_in_a_workspace_that_is_being_deleted_waits_and_is_then_refused(
    system: System, make: str, ending: str
) -> None:
    deleter = system.database.connect("service_role", autocommit=False)
    assert attempt(deleter, DELETE, [system.workspace]).word == "done"
    maker = system.waiting(make, [system.workspace], waits_for=deleter)
    getattr(deleter, ending)()
    if ending == "commit":
        assert maker.outcome().word == "workspace_deleted"
        assert system.statuses() == []
    else:
        assert maker.outcome().word == "done"
        assert system.statuses() == ["active"]


@MAKING
def test_making_a_key_while_keys_are_being_deleted_is_refused_without_waiting(
    system: System, make: str
) -> None:
    """The deletion may itself wait for a key that the maker's transaction has locked."""
    old, _ = system.issue()
    maker = system.session(autocommit=False)
    maker.execute("select 1 from keylatch.keys where id = %s for update", [old])
    service = system.database.connect("service_role")
    deleter = system.waiting(DELETE, [system.workspace], waits_for=maker, session=service)
    assert attempt(maker, make, [system.workspace]).word == "workspace_deleted"
    maker.rollback()
    assert deleter.outcome().word == "done"
    assert reasons(system) == ["workspace deleted"]


def test_a_rotation_that_meets_a_deletion_waiting_for_its_key_is_refused(system: System) -> None:
    old, _ = system.issue()
    rotator = system.session(autocommit=False)
    rotator.execute("select 1 from keylatch.keys where id = %s for update", [old])
    service = system.database.connect("service_role")
    deleter = system.waiting(DELETE, [system.workspace], waits_for=rotator, session=service)
    assert attempt(rotator, ROTATE, [old, "1 hour"]).word == "workspace_deleted"
    rotator.rollback()
    assert deleter.outcome().word == "done"
    assert reasons(system) == ["workspace deleted"]


@MAKING
@ENDINGS
def test_deleting_a_workspace_waits_for_the_keys_that_are_being_made_and_revokes_them(
    system: System, make: str, ending: str
) -> None:
    maker = system.session(autocommit=False)
    assert attempt(maker, make, [system.workspace]).word == "done"
    deleter = system.waiting(
        DELETE, [system.workspace], waits_for=maker, session=system.database.connect("service_role")
    )
    getattr(maker, ending)()
    assert deleter.outcome().word == "done"
    assert reasons(system) == (["workspace deleted"] if ending == "commit" else [])
    assert unrevoked(system, system.workspace) == []


@ENDINGS
def test_a_rotation_that_waits_for_the_deletion_of_its_workspace_makes_nothing(
    system: System, ending: str
) -> None:
    old, _ = system.issue()
    deleter = system.database.connect("service_role", autocommit=False)
    assert attempt(deleter, DELETE, [system.workspace]).word == "done"
    rotator = system.waiting(ROTATE, [old, "1 hour"], waits_for=deleter)
    getattr(deleter, ending)()
    if ending == "commit":
        assert rotator.outcome().word == "key_not_found"
        assert reasons(system) == ["workspace deleted"]
    else:
        assert rotator.outcome().word == "done"
        assert system.statuses() == ["superseded", "active"]


@pytest.mark.parametrize("grace", ["0", "1 hour"])
def test_a_deletion_that_waits_for_a_rotation_takes_both_keys(system: System, grace: str) -> None:
    old, _ = system.issue()
    rotator = system.session(autocommit=False)
    assert attempt(rotator, ROTATE, [old, grace]).word == "done"
    deleter = system.waiting(
        DELETE,
        [system.workspace],
        waits_for=rotator,
        session=system.database.connect("service_role"),
    )
    rotator.commit()
    assert deleter.outcome().word == "done"
    first = "rotated" if grace == "0" else "workspace deleted"
    assert reasons(system) == [first, "workspace deleted"]
    assert unrevoked(system, system.workspace) == []


def test_a_workspace_whose_id_changes_excludes_making_keys_as_a_deletion_does(
    system: System,
) -> None:
    mover = system.database.connect("service_role", autocommit=False)
    mover.execute("delete from keylatch.workspace_membership")
    mover.execute(
        "update keylatch.workspaces set id = %s where id = %s", [uuid4(), system.workspace]
    )
    maker = system.waiting(ISSUE, [system.workspace], waits_for=mover)
    mover.commit()
    assert maker.outcome().word == "workspace_deleted"
    assert unrevoked(system, system.workspace) == []


@pytest.mark.parametrize("end", ["oldest", "youngest"])
def test_a_deletion_and_a_cascade_do_not_deadlock(system: System, end: str) -> None:
    oldest, _ = system.issue()
    (middle, _) = attempt(system.session(), ROTATE, [oldest, "1 hour"]).row
    (youngest, _) = attempt(system.session(), ROTATE, [middle, "1 hour"]).row
    # The deletion stops halfway, with locks on one end of the family. The parameter covers both
    # ends, so in one case the cascade begins at the other end.
    holder = system.session(autocommit=False)
    holder.execute("select 1 from keylatch.keys where id = %s for update", [middle])
    service = system.database.connect("service_role")
    deleter = system.waiting(DELETE, [system.workspace], waits_for=holder, session=service)
    revoker = system.waiting(REVOKE, [oldest if end == "oldest" else youngest, True])
    holder.rollback()
    # Either call may win. If the deletion wins, alice is no longer an admin.
    assert revoker.outcome().word in ("done", "key_not_found")
    assert deleter.outcome().word == "done"
    assert unrevoked(system, system.workspace) == []


def new_workspace(owner: Connection, admin: UUID) -> UUID:
    workspace = uuid4()
    owner.execute("insert into keylatch.workspaces (id, name) values (%s, 'W')", [workspace])
    owner.execute(
        "insert into keylatch.workspace_membership (workspace_id, user_id, role)"
        " values (%s, %s, 'admin')",
        [workspace, admin],
    )
    return workspace


def test_no_key_made_while_its_workspace_is_deleted_stays_active(
    system: System,
) -> None:
    deleter = system.database.connect("service_role")
    makers = [system.session() for _ in range(4)]
    met: Counter[str] = Counter()
    for _ in range(25):
        workspace = new_workspace(deleter, People.alice)
        (old, _) = attempt(makers[0], ISSUE, [workspace]).row

        def call(
            session: Connection, statement: str, parameters: list[Any]
        ) -> Callable[[], Outcome]:
            return lambda: attempt(session, statement, parameters)

        outcomes = together(
            [
                call(makers[0], ISSUE, [workspace]),
                call(makers[1], INSERT, [workspace]),
                call(makers[2], INSERT_BELOW, [workspace]),
                call(makers[3], ROTATE, [old, "1 hour"]),
                call(deleter, DELETE, [workspace]),
            ]
        )
        words = [outcome.word for outcome in outcomes]
        assert words[4] == "done", outcomes
        assert set(words[:3]) <= {"done", "42501", "workspace_deleted"}, outcomes
        assert words[3] in ("done", "key_not_found", "key_revoked", "workspace_deleted"), outcomes
        assert unrevoked(system, workspace) == [], outcomes
        met.update(words[:3])
    assert "done" in met and len(met) > 1, f"the order was always the same: {met}"


# A transaction in `repeatable read` keeps the snapshot from before its wait.


def test_no_key_is_made_in_a_deleted_workspace_on_an_old_snapshot(system: System) -> None:
    maker = system.session(autocommit=False)
    maker.execute("set transaction isolation level repeatable read")
    maker.execute("select 1 from keylatch.keys")
    assert (
        attempt(system.database.connect("service_role"), DELETE, [system.workspace]).word == "done"
    )
    # PostgreSQL itself refuses to lock a row that changed after the snapshot.
    assert attempt(maker, ISSUE, [system.workspace]).word == "40001"
    assert unrevoked(system, system.workspace) == []


def test_a_workspace_is_not_deleted_on_an_old_snapshot(system: System) -> None:
    deleter = system.database.connect("service_role", autocommit=False)
    deleter.execute("set transaction isolation level repeatable read")
    deleter.execute("select 1 from keylatch.keys")
    system.issue()
    # A deletion that does not see the newest keys is refused: read_committed_required.
    assert attempt(deleter, DELETE, [system.workspace]).word == "0A000"
    deleter.rollback()
    assert system.statuses() == ["active"]
