"""What the owner does with the log by the scripts of sql/ops: anchor, archive, erase a person."""

import pytest

from core.racing import REVOKE, System, attempt
from modules.test_events import LABEL, MANY, SEAL, events, run_program, verified
from stack import Database, People
from stack.tools import ROOT

pytestmark = pytest.mark.one_server


@pytest.fixture
def system(database: Database, people: People) -> System:
    return System(database, people)


PERSONAL = "user_id, address, agent, reason, changes"


def test_a_person_is_erased_and_the_seals_still_find_a_falsification(system: System) -> None:
    key, _ = system.issue()
    alice = system.session()
    attempt(alice, "select from keylatch.revoke_key(%s, 'Ada Lovelace left')", [key])
    system.owner.execute(MANY, [system.workspace, 3])
    attempt(system.owner, SEAL)
    system.issue()  # not sealed yet
    user = str(People.alice)
    said = f"select {PERSONAL} from keylatch_internal.key_events where erased is not null"

    assert _psql(system, "erase_person", f"--set=user_id={user}", tuples=True) == "0|2\n"
    number = len(system.owner.execute(said).fetchall())
    erased: list[tuple[object, ...]] = [(None, None, None, None, {})] * number
    assert erased
    assert system.owner.execute(said).fetchall() == erased
    assert verified(system.owner) == (True, 1, 5, 1, None)
    attempt(system.owner, SEAL)
    assert verified(system.owner) == (True, 2, 6, 0, None)

    # What was erased cannot be written anew, and what stayed cannot be changed.
    system.owner.execute("alter table keylatch_internal.key_events disable trigger user")
    for change in ("reason = 'moved'", "event = 'issued'", "erased = sha256('x')", "erased = null"):
        with system.owner.transaction(force_rollback=True):
            system.owner.execute(
                f"update keylatch_internal.key_events set {change} where event = 'revoked'".encode()
            )
            assert not verified(system.owner)[0], change


@pytest.mark.parametrize(
    "change",
    [
        "user_id = null",
        "reason = null, user_id = null, address = null, agent = null, changes = '{}'",
        "erased = sha256('x'), reason = null, user_id = null, address = null, agent = null,"
        " changes = '{}'",
        "erased = keylatch_internal.personal_digest(e)",
        "erased = keylatch_internal.personal_digest(e), event = 'issued', reason = null,"
        " user_id = null, address = null, agent = null, changes = '{}'",
    ],
)
def test_an_event_is_erased_whole_and_with_its_digest_or_not_at_all(
    system: System, change: str
) -> None:
    key, _ = system.issue()
    system.session().execute(REVOKE, [key, False])
    update = f"update keylatch_internal.key_events as e set {change} where event = 'revoked'"
    assert attempt(system.owner, update).word == "events_are_kept"


def test_an_anchor_shows_a_chain_that_its_owner_sealed_anew(system: System) -> None:
    system.issue()
    key, _ = system.issue()
    anchors = _psql(system, "anchor_events")
    system.session().execute(REVOKE, [key, False])
    anchors += _psql(system, "anchor_events")
    assert len(anchors.splitlines()) == 2
    assert _psql(system, "compare_anchors", text=anchors, tuples=True) == ""
    for table in ("key_events", "key_event_checkpoints"):
        system.owner.execute(f"alter table keylatch_internal.{table} disable trigger user".encode())
    system.owner.execute("update keylatch_internal.key_events set user_id = null")
    system.owner.execute("update keylatch_internal.key_events set checkpoint = null")
    system.owner.execute("delete from keylatch_internal.key_event_checkpoints")
    for _ in range(2):
        system.owner.execute("select from keylatch.seal_events(2)")
    assert verified(system.owner)[0]
    found = _psql(system, "compare_anchors", text=anchors, tuples=True)
    assert found.count("was sealed again") == 2


def test_archived_events_leave_checkpoints_that_verify_the_archive(system: System) -> None:
    system.owner.execute(MANY, [system.workspace, 2100])
    system.owner.execute(LABEL, ['a "b", \\c', [system.issue()[0]]])
    system.owner.execute(SEAL)
    system.issue()
    archive = _psql(system, "archive_events", "--set=before=2999-01-01")
    assert len(archive.splitlines()) == 2102
    assert _psql(system, "archive_events", "--set=before=2000-01-01") == ""
    remove = "--set=remove=yes"
    # What is not whole, or not what was sealed, removes nothing.
    short, forged = archive.split("\n", 1)[1], archive.replace(",issued,", ",revoked,", 1)
    assert "has too few or too many" in _psql(system, "compare_archive", remove, text=short)
    assert "differs from the sealed event" in _psql(system, "compare_archive", remove, text=forged)
    assert verified(system.owner) == (True, 3, 2102, 1, None)
    assert _psql(system, "compare_archive", text=archive, tuples=True) == ""
    assert verified(system.owner) == (True, 3, 2102, 1, None)
    assert _psql(system, "compare_archive", remove, text=archive, tuples=True) == ""
    assert verified(system.owner) == (True, 3, 0, 1, None)
    assert events(system.owner) == ["issued"]
    # The archive is verified by what stayed, for ever.
    assert _psql(system, "compare_archive", text=archive, tuples=True) == ""
    assert "differs from the sealed event" in _psql(system, "compare_archive", text=forged)
    assert attempt(system.owner, SEAL).row == (4, 1, True)
    assert verified(system.owner) == (True, 4, 1, 0, None)


def _psql(
    system: System, script: str, *options: str, text: str | None = None, tuples: bool = False
) -> str:
    form = ["-qtA"] if tuples else ["-q"]
    file = f"--file={ROOT}/sql/ops/{script}.sql"
    return run_program("psql", "--no-psqlrc", *form, *options, file, system.database.url, text=text)
