"""What the owner does with the log by the scripts of sql/ops: anchor, archive, erase a person."""

import pytest

from core.racing import REVOKE, World, attempt
from modules.test_events import LABEL, MANY, SEAL, events, run_program, verified
from stack import Database, People
from stack.tools import ROOT

pytestmark = pytest.mark.one_server


@pytest.fixture
def world(database: Database, people: People) -> World:
    return World(database, people)


PERSONAL = "user_id, address, agent, reason, changes"


def test_a_person_is_erased_and_the_seals_still_find_a_falsification(world: World) -> None:
    key, _ = world.issue()
    alice = world.session()
    attempt(alice, "select from keylatch.revoke_key(%s, 'Ada Lovelace left')", [key])
    world.owner.execute(MANY, [world.workspace, 3])
    attempt(world.owner, SEAL)
    world.issue()  # not sealed yet
    user = str(People.alice)
    said = f"select {PERSONAL} from keylatch_internal.key_events where erased is not null"

    assert _psql(world, "erase_person", f"--set=user_id={user}", tuples=True) == "0|2\n"
    number = len(world.owner.execute(said).fetchall())
    erased: list[tuple[object, ...]] = [(None, None, None, None, {})] * number
    assert erased
    assert world.owner.execute(said).fetchall() == erased
    assert verified(world.owner) == (True, 1, 5, 1, None)
    attempt(world.owner, SEAL)
    assert verified(world.owner) == (True, 2, 6, 0, None)

    # What was erased cannot be written anew, and what stayed cannot be changed.
    world.owner.execute("alter table keylatch_internal.key_events disable trigger user")
    for change in ("reason = 'moved'", "event = 'issued'", "erased = sha256('x')", "erased = null"):
        with world.owner.transaction(force_rollback=True):
            world.owner.execute(
                f"update keylatch_internal.key_events set {change} where event = 'revoked'".encode()
            )
            assert not verified(world.owner)[0], change


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
    world: World, change: str
) -> None:
    key, _ = world.issue()
    world.session().execute(REVOKE, [key, False])
    update = f"update keylatch_internal.key_events as e set {change} where event = 'revoked'"
    assert attempt(world.owner, update).word == "events_are_kept"


def test_an_anchor_shows_a_chain_that_its_owner_sealed_anew(world: World) -> None:
    world.issue()
    key, _ = world.issue()
    anchors = _psql(world, "anchor_events")
    world.session().execute(REVOKE, [key, False])
    anchors += _psql(world, "anchor_events")
    assert len(anchors.splitlines()) == 2
    assert _psql(world, "compare_anchors", text=anchors, tuples=True) == ""
    for table in ("key_events", "key_event_checkpoints"):
        world.owner.execute(f"alter table keylatch_internal.{table} disable trigger user".encode())
    world.owner.execute("update keylatch_internal.key_events set user_id = null")
    world.owner.execute("update keylatch_internal.key_events set checkpoint = null")
    world.owner.execute("delete from keylatch_internal.key_event_checkpoints")
    for _ in range(2):
        world.owner.execute("select from keylatch.seal_events(2)")
    assert verified(world.owner)[0]
    found = _psql(world, "compare_anchors", text=anchors, tuples=True)
    assert found.count("was made anew") == 2


def test_archived_events_leave_checkpoints_that_verify_the_archive(world: World) -> None:
    world.owner.execute(MANY, [world.workspace, 2100])
    world.owner.execute(LABEL, ['a "b", \\c', [world.issue()[0]]])
    world.owner.execute(SEAL)
    world.issue()
    archive = _psql(world, "archive_events", "--set=before=2999-01-01")
    assert len(archive.splitlines()) == 2102
    assert _psql(world, "archive_events", "--set=before=2000-01-01") == ""
    remove = "--set=remove=yes"
    # What is not whole, or not what was sealed, removes nothing.
    short, forged = archive.split("\n", 1)[1], archive.replace(",issued,", ",revoked,", 1)
    assert "has not all of its events" in _psql(world, "compare_archive", remove, text=short)
    assert "not what was sealed" in _psql(world, "compare_archive", remove, text=forged)
    assert verified(world.owner) == (True, 3, 2102, 1, None)
    assert _psql(world, "compare_archive", text=archive, tuples=True) == ""
    assert verified(world.owner) == (True, 3, 2102, 1, None)
    assert _psql(world, "compare_archive", remove, text=archive, tuples=True) == ""
    assert verified(world.owner) == (True, 3, 0, 1, None)
    assert events(world.owner) == ["issued"]
    # The archive is verified by what stayed, for ever.
    assert _psql(world, "compare_archive", text=archive, tuples=True) == ""
    assert "not what was sealed" in _psql(world, "compare_archive", text=forged)
    assert attempt(world.owner, SEAL).row == (4, 1, True)
    assert verified(world.owner) == (True, 4, 1, 0, None)


def _psql(
    world: World, script: str, *options: str, text: str | None = None, tuples: bool = False
) -> str:
    form = ["-qtA"] if tuples else ["-q"]
    file = f"--file={ROOT}/sql/ops/{script}.sql"
    return run_program("psql", "--no-psqlrc", *form, *options, file, world.database.url, text=text)
