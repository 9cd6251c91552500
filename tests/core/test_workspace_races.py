"""A workspace that is deleted while keys are made in it: none stays active, nobody deadlocks."""

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
    World,
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
def world(database: Database, people: People) -> World:
    return World(database, people)


def unrevoked(world: World, workspace: UUID) -> list[tuple[Any, ...]]:
    """The keys of a workspace that are not revoked."""
    return world.owner.execute(
        "select id, status from keylatch.keys where workspace_id = %s and status <> 'revoked'",
        [workspace],
    ).fetchall()


def reasons(world: World) -> list[str]:
    """Why each key was revoked, the oldest key first."""
    rows = world.owner.execute("select revoke_reason from keylatch.keys order by created_at")
    return [row[0] for row in rows]


@MAKING
@ENDINGS
def test_who_makes_a_key_in_a_workspace_that_is_being_deleted_waits_and_is_then_refused(
    world: World, make: str, ending: str
) -> None:
    deleter = world.database.connect("service_role", autocommit=False)
    assert attempt(deleter, DELETE, [world.workspace]).word == "done"
    maker = world.waiting(make, [world.workspace], waits_for=deleter)
    getattr(deleter, ending)()
    if ending == "commit":
        assert maker.outcome().word == "workspace_deleted"
        assert world.statuses() == []
    else:
        assert maker.outcome().word == "done"
        assert world.statuses() == ["active"]


@MAKING
def test_who_makes_a_key_where_keys_are_being_deleted_is_refused_and_waits_for_nobody(
    world: World, make: str
) -> None:
    """The deletion may itself wait for a key that the maker's transaction holds."""
    old, _ = world.issue()
    maker = world.session(autocommit=False)
    maker.execute("select 1 from keylatch.keys where id = %s for update", [old])
    service = world.database.connect("service_role")
    deleter = world.waiting(DELETE, [world.workspace], waits_for=maker, session=service)
    assert attempt(maker, make, [world.workspace]).word == "workspace_deleted"
    maker.rollback()
    assert deleter.outcome().word == "done"
    assert reasons(world) == ["workspace deleted"]


def test_a_rotation_that_meets_a_deletion_waiting_for_its_key_is_refused(world: World) -> None:
    old, _ = world.issue()
    rotator = world.session(autocommit=False)
    rotator.execute("select 1 from keylatch.keys where id = %s for update", [old])
    service = world.database.connect("service_role")
    deleter = world.waiting(DELETE, [world.workspace], waits_for=rotator, session=service)
    assert attempt(rotator, ROTATE, [old, "1 hour"]).word == "workspace_deleted"
    rotator.rollback()
    assert deleter.outcome().word == "done"
    assert reasons(world) == ["workspace deleted"]


@MAKING
@ENDINGS
def test_who_deletes_a_workspace_waits_for_the_keys_that_are_being_made_and_revokes_them(
    world: World, make: str, ending: str
) -> None:
    maker = world.session(autocommit=False)
    assert attempt(maker, make, [world.workspace]).word == "done"
    deleter = world.waiting(
        DELETE, [world.workspace], waits_for=maker, session=world.database.connect("service_role")
    )
    getattr(maker, ending)()
    assert deleter.outcome().word == "done"
    assert reasons(world) == (["workspace deleted"] if ending == "commit" else [])
    assert unrevoked(world, world.workspace) == []


@ENDINGS
def test_a_rotation_that_waits_for_the_deletion_of_its_workspace_makes_nothing(
    world: World, ending: str
) -> None:
    old, _ = world.issue()
    deleter = world.database.connect("service_role", autocommit=False)
    assert attempt(deleter, DELETE, [world.workspace]).word == "done"
    rotator = world.waiting(ROTATE, [old, "1 hour"], waits_for=deleter)
    getattr(deleter, ending)()
    if ending == "commit":
        assert rotator.outcome().word == "key_not_found"
        assert reasons(world) == ["workspace deleted"]
    else:
        assert rotator.outcome().word == "done"
        assert world.statuses() == ["superseded", "active"]


@pytest.mark.parametrize("grace", ["0", "1 hour"])
def test_a_deletion_that_waits_for_a_rotation_takes_both_keys(world: World, grace: str) -> None:
    old, _ = world.issue()
    rotator = world.session(autocommit=False)
    assert attempt(rotator, ROTATE, [old, grace]).word == "done"
    deleter = world.waiting(
        DELETE, [world.workspace], waits_for=rotator, session=world.database.connect("service_role")
    )
    rotator.commit()
    assert deleter.outcome().word == "done"
    first = "rotated" if grace == "0" else "workspace deleted"
    assert reasons(world) == [first, "workspace deleted"]
    assert unrevoked(world, world.workspace) == []


def test_a_workspace_whose_id_changes_excludes_making_keys_as_a_deletion_does(world: World) -> None:
    mover = world.database.connect("service_role", autocommit=False)
    mover.execute("delete from keylatch.workspace_membership")
    mover.execute(
        "update keylatch.workspaces set id = %s where id = %s", [uuid4(), world.workspace]
    )
    maker = world.waiting(ISSUE, [world.workspace], waits_for=mover)
    mover.commit()
    assert maker.outcome().word == "workspace_deleted"
    assert unrevoked(world, world.workspace) == []


@pytest.mark.parametrize("end", ["oldest", "youngest"])
def test_a_deletion_and_a_cascade_do_not_block_each_other_for_good(world: World, end: str) -> None:
    oldest, _ = world.issue()
    (middle, _) = attempt(world.session(), ROTATE, [oldest, "1 hour"]).row
    (youngest, _) = attempt(world.session(), ROTATE, [middle, "1 hour"]).row
    # The deletion is stopped halfway: it has one end of the family, whichever it began at, and the
    # cascade begins at the other.
    holder = world.session(autocommit=False)
    holder.execute("select 1 from keylatch.keys where id = %s for update", [middle])
    service = world.database.connect("service_role")
    deleter = world.waiting(DELETE, [world.workspace], waits_for=holder, session=service)
    revoker = world.waiting(REVOKE, [oldest if end == "oldest" else youngest, True])
    holder.rollback()
    # Either may come first; who comes second finds the keys revoked, or is no admin any more.
    assert revoker.outcome().word in ("done", "key_not_found")
    assert deleter.outcome().word == "done"
    assert unrevoked(world, world.workspace) == []


def new_workspace(owner: Connection, admin: UUID) -> UUID:
    workspace = uuid4()
    owner.execute("insert into keylatch.workspaces (id, name) values (%s, 'W')", [workspace])
    owner.execute(
        "insert into keylatch.workspace_membership (workspace_id, user_id, role)"
        " values (%s, %s, 'admin')",
        [workspace, admin],
    )
    return workspace


def test_whatever_is_made_while_a_workspace_is_deleted_no_key_of_it_stays_active(
    world: World,
) -> None:
    deleter = world.database.connect("service_role")
    makers = [world.session() for _ in range(4)]
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
        assert unrevoked(world, workspace) == [], outcomes
        met.update(words[:3])
    assert "done" in met and len(met) > 1, f"the order was always the same: {met}"


# What a transaction in `repeatable read` sees was settled before it waited.


def test_a_key_made_on_an_old_snapshot_is_not_active_in_a_deleted_workspace(
    world: World,
) -> None:
    maker = world.session(autocommit=False)
    maker.execute("set transaction isolation level repeatable read")
    maker.execute("select 1 from keylatch.keys")
    assert attempt(world.database.connect("service_role"), DELETE, [world.workspace]).word == "done"
    if attempt(maker, ISSUE, [world.workspace]).word == "done":
        maker.commit()
    assert unrevoked(world, world.workspace) == []


def test_a_workspace_deleted_on_an_old_snapshot_takes_the_keys_made_since(world: World) -> None:
    deleter = world.database.connect("service_role", autocommit=False)
    deleter.execute("set transaction isolation level repeatable read")
    deleter.execute("select 1 from keylatch.keys")
    world.issue()
    if attempt(deleter, DELETE, [world.workspace]).word == "done":
        deleter.commit()
        assert unrevoked(world, world.workspace) == []
    else:
        deleter.rollback()
        assert world.statuses() == ["active"]
