"""A PATCH locks several keys in the order of its plan, so it may deadlock with another call.

PostgreSQL resolves a deadlock by failing the session that checks for deadlocks first. Here
`deadlock_timeout` decides which session checks first. A call that revokes several keys succeeds in
both cases.
"""

import pytest

from core.racing import ROTATE, Connection, System, Waiting, attempt
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
# A session checks once for each wait. At that time the other session must wait, too.
FIRST, LAST = "1500ms", "1min"


def session(system: System, people: People, role: str, looks: str) -> Connection:
    """A session of alice or of a service that checks for deadlocks after the time `looks`."""
    claims = people.claims("alice") if role == "authenticated" else None
    opened = system.database.connect(role, claims, superuser=True)
    opened.execute("reset role")
    opened.execute("select set_config('deadlock_timeout', %s, false)", [looks])
    opened.execute(f"set role {role}".encode())
    return opened


def meet(
    system: System, people: People, first: tuple[str, str, str], patch_looks: str
) -> list[str]:
    """Run a call that locks the older key first beside a PATCH that locks its successor first.

    Args:
        system: The database.
        people: The users, with the claims of alice.
        first: The call's role and statement, and the time until it checks for a deadlock.
        patch_looks: The time until the PATCH checks for a deadlock.

    Returns:
        The outcomes of the call and of the PATCH.
    """
    role, statement, looks = first
    old, _ = system.issue()
    attempt(system.session(), ROTATE, [old, "1 day"])
    # The old key's row moves behind its successor's, so a table scan reads the successor first.
    system.owner.execute("update keylatch_internal.keys set label = 'moved' where id = %s", [old])
    holder = system.session(autocommit=False)
    holder.execute("select from keylatch.keys where id = %s for update", [old])
    caller = session(system, people, role, looks)
    patcher = session(system, people, "authenticated", patch_looks)
    # Both wait for the older key, first the call, then the PATCH, which has locked the successor.
    calling = Waiting(system.database, caller, statement, [system.workspace], waits_for=holder)
    patching = Waiting(system.database, patcher, PATCH, [system.workspace], waits_for=caller)
    holder.rollback()
    return [calling.outcome().word, patching.outcome().word]


@pytest.fixture
def system(database: Database, people: People) -> System:
    return System(database, people)


@pytest.mark.parametrize("name", REVOCATIONS)
def test_a_revocation_that_is_chosen_to_fail_goes_on_behind_the_patch(
    system: System, people: People, name: str
) -> None:
    met = meet(system, people, (*REVOCATIONS[name], FIRST), LAST)
    assert met == ["done", "done"]
    assert system.statuses() == ["revoked", "revoked"]
    rows = system.owner.execute("select distinct label from keylatch.keys").fetchall()
    assert rows == [("patched",)]


@pytest.mark.parametrize("name", REVOCATIONS)
def test_a_patch_that_is_chosen_to_fail_leaves_nothing_and_the_revocation_stands(
    system: System, people: People, name: str
) -> None:
    assert meet(system, people, (*REVOCATIONS[name], LAST), FIRST) == ["done", "40P01"]
    assert system.statuses() == ["revoked", "revoked"]
    rows = system.owner.execute("select label from keylatch.keys where label = 'patched'")
    assert rows.fetchall() == []
