"""A PATCH of several keys locks them in the order of its plan, and may meet another call head-on.

PostgreSQL ends such a deadlock by failing whichever session looks for one first: here that is said
by `deadlock_timeout`. A call that revokes several keys goes on all the same.
"""

import pytest

from core.racing import ROTATE, Connection, Waiting, World, attempt
from stack import Database, People

PATCH = "update keylatch.keys set label = 'patched' where workspace_id = %s"
REVOCATIONS = {
    "cascade": (
        "authenticated",
        "select id from keylatch.revoke_key("
        "(select id from keylatch.keys where workspace_id = %s limit 1), 'leaked', true)",
    ),
    "deletion": ("service_role", "delete from keylatch.workspaces where id = %s"),
}
# A session looks once for each wait: by then the other one must wait, too.
FIRST, LAST = "1500ms", "1min"


def session(world: World, people: People, role: str, looks: str) -> Connection:
    """A session of alice, or of a service, that looks for deadlocks after so long."""
    claims = people.claims("alice") if role == "authenticated" else None
    opened = world.database.connect(role, claims, superuser=True)
    opened.execute("reset role")
    opened.execute("select set_config('deadlock_timeout', %s, false)", [looks])
    opened.execute(f"set role {role}".encode())
    return opened


def meet(world: World, people: People, first: tuple[str, str, str], patch_looks: str) -> list[str]:
    """Let a call that begins with the older key meet a PATCH that begins with its successor.

    Args:
        world: The database.
        people: Who alice is.
        first: The role of the call, its statement, and after how long it looks for a deadlock.
        patch_looks: After how long the PATCH does.

    Returns:
        What came of the call and of the PATCH.
    """
    role, statement, looks = first
    old, _ = world.issue()
    attempt(world.session(), ROTATE, [old, "1 day"])
    # Its row moves behind its successor's: a plan that reads the table meets the successor first.
    world.owner.execute("update keylatch_internal.keys set label = 'moved' where id = %s", [old])
    holder = world.session(autocommit=False)
    holder.execute("select from keylatch.keys where id = %s for update", [old])
    caller = session(world, people, role, looks)
    patcher = session(world, people, "authenticated", patch_looks)
    # Both wait for the older key, the call before the PATCH, which has the successor.
    calling = Waiting(world.database, caller, statement, [world.workspace], waits_for=holder)
    patching = Waiting(world.database, patcher, PATCH, [world.workspace], waits_for=caller)
    holder.rollback()
    return [calling.outcome().word, patching.outcome().word]


@pytest.fixture
def world(database: Database, people: People) -> World:
    return World(database, people)


@pytest.mark.parametrize("name", REVOCATIONS)
def test_a_revocation_that_is_chosen_to_fail_goes_on_behind_the_patch(
    world: World, people: People, name: str
) -> None:
    met = meet(world, people, (*REVOCATIONS[name], FIRST), LAST)
    assert met == ["done", "done"]
    assert world.statuses() == ["revoked", "revoked"]
    rows = world.owner.execute("select distinct label from keylatch.keys").fetchall()
    assert rows == [("patched",)]


@pytest.mark.parametrize("name", REVOCATIONS)
def test_a_patch_that_is_chosen_to_fail_leaves_nothing_and_the_revocation_stands(
    world: World, people: People, name: str
) -> None:
    assert meet(world, people, (*REVOCATIONS[name], LAST), FIRST) == ["done", "40P01"]
    assert world.statuses() == ["revoked", "revoked"]
    rows = world.owner.execute("select label from keylatch.keys where label = 'patched'")
    assert rows.fetchall() == []
