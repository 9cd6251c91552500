"""The owner's scripts of sql/ops for the log: anchor and archive events, erase a person."""

import csv
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

from core.racing import REVOKE, System, attempt
from modules.test_events import LABEL, MANY, SEAL, events, run_program, verified
from stack import Database, People, until
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

    # Neither new values for erased fields nor changes of the remaining fields pass verification.
    system.owner.execute("alter table keylatch_internal.key_events disable trigger user")
    for change in ("reason = 'moved'", "event = 'issued'", "erased = sha256('x')", "erased = null"):
        with system.owner.transaction(force_rollback=True):
            system.owner.execute(
                f"update keylatch_internal.key_events set {change} where event = 'revoked'".encode()
            )
            assert not verified(system.owner)[0], change


def test_events_that_are_erased_while_they_are_sealed_are_sealed_all_the_same(
    system: System,
) -> None:
    system.session().execute(MANY, [system.workspace, 1500])
    system.owner.execute(MANY, [system.workspace, 1200])
    eraser = system.database.connect(autocommit=False)
    eraser.execute(
        "update keylatch_internal.key_events as e set user_id = null, address = null,"
        " agent = null, reason = null, changes = '{}',"
        " erased = keylatch_internal.personal_digest(e) where e.user_id is not null"
    )
    sealer = system.waiting(SEAL, [], waits_for=eraser, session=system.database.connect())
    eraser.commit()
    assert sealer.outcome().row == (3, 2700, True)
    assert verified(system.owner) == (True, 3, 2700, 0, None)


def test_an_erasure_waits_for_a_running_seal(system: System) -> None:
    system.issue()
    sealer = system.database.connect("service_role", autocommit=False)
    sealer.execute(SEAL)
    with ThreadPoolExecutor(1) as pool:
        script = pool.submit(_psql, system, "erase_person", f"--set=user_id={People.alice}")
        waits = "select from pg_locks where not granted and mode = 'ShareRowExclusiveLock'"
        until(lambda: system.owner.execute(waits).rowcount == 1 or script.done())
        assert not script.done()
        sealer.commit()
        script.result()
    assert verified(system.owner)[0]


def test_an_archive_does_not_depend_on_the_encoding_of_psql(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, _ = system.issue()
    system.owner.execute(LABEL, ["Grüße", [key]])
    attempt(system.owner, SEAL)
    archives = []
    for encoding in ("UTF8", "LATIN1"):
        monkeypatch.setenv("PGCLIENTENCODING", encoding)
        archives.append(_psql(system, "archive_events", "--set=before=2999-01-01"))
        assert _psql(system, "compare_archive", text=archives[0], tuples=True) == "1|2|1|1|0|0\n"
    assert archives[0] == archives[1]


def test_the_reason_of_a_revocation_stays_in_the_key_as_script_and_guide_say(
    system: System,
) -> None:
    key, _ = system.issue()
    attempt(system.session(), "select from keylatch.revoke_key(%s, 'Ada Lovelace left')", [key])
    _psql(system, "erase_person", f"--set=user_id={People.alice}")
    kept = system.owner.execute("select revoke_reason from keylatch.keys").fetchall()
    assert kept == [("Ada Lovelace left",)]
    erased = system.owner.execute("select reason from keylatch.key_events where reason is not null")
    assert erased.fetchall() == []
    for file in ("ops/erase_person.sql", "docs/operate.md"):
        assert "revoke_reason" in (ROOT / "sql" / file).read_text(), file


def test_an_archive_has_one_column_more_than_the_view_as_the_script_says(system: System) -> None:
    system.issue()
    attempt(system.owner, SEAL)
    [line] = csv.reader([_psql(system, "archive_events", "--set=before=2999-01-01").strip()])
    view = system.owner.execute("select * from keylatch.key_events").description or []
    assert len(line) == len(view) + 1
    names = [column.name for column in view]
    names.insert(-1, "erased")
    script = (ROOT / "sql" / "ops" / "archive_events.sql").read_text()
    printed = script[script.index("\nselect\n  e.") :].partition("from")[0]
    assert re.findall(r"e\.(\w+)", printed) == names
    assert "before the last column, erased" in " ".join(script.replace("\n--", "").split())


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
    assert _psql(system, "compare_anchors", text=anchors, tuples=True) == "2|1|2|2|0\n"
    for table in ("key_events", "key_event_checkpoints"):
        system.owner.execute(f"alter table keylatch_internal.{table} disable trigger user".encode())
    system.owner.execute("update keylatch_internal.key_events set user_id = null")
    system.owner.execute("update keylatch_internal.key_events set checkpoint = null")
    system.owner.execute("delete from keylatch_internal.key_event_checkpoints")
    for _ in range(2):
        system.owner.execute("select from keylatch.seal_events(2)")
    assert verified(system.owner)[0]
    found, said = _failure(system, "compare_anchors", text=anchors)
    assert found.count("was sealed again") == 2
    assert found.endswith("2|1|2|2|2\n")
    assert "a checkpoint differs from its anchor.\nHINT:  Save a dump" in said


def test_anchors_say_how_far_they_reach_and_what_a_restore_has_lost(system: System) -> None:
    system.issue()
    first = _psql(system, "anchor_events")
    system.issue()
    attempt(system.owner, SEAL)
    # An old anchor still matches, but does not cover newer checkpoints.
    assert _psql(system, "compare_anchors", text=first, tuples=True) == "1|1|1|2|0\n"
    later = first.replace("1,", "3,", 1)
    found, said = _failure(system, "compare_anchors", text=first + later)
    assert found.count("the checkpoint is missing") == 1
    assert found.endswith("2|1|3|2|1\n")
    assert "is older than its last anchor" in said
    assert "keylatch revocations apply FILE" in said


@pytest.mark.parametrize("script", ["compare_anchors", "compare_archive"])
def test_an_empty_file_is_an_error(system: System, script: str) -> None:
    system.issue()
    attempt(system.owner, SEAL)
    assert "so nothing was compared.\nHINT:  Give the file of" in _failure(system, script)[1]


def test_archived_events_leave_checkpoints_that_verify_the_archive(system: System) -> None:
    system.owner.execute(MANY, [system.workspace, 2100])
    system.owner.execute(LABEL, ['a "b", \\c', [system.issue()[0]]])
    system.owner.execute(SEAL)
    system.issue()
    archive = _psql(system, "archive_events", "--set=before=2999-01-01")
    assert len(archive.splitlines()) == 2102
    assert _psql(system, "archive_events", "--set=before=2000-01-01") == ""
    remove = "--set=remove=yes"
    # An archive that is incomplete or differs from the sealed events removes nothing.
    short, forged = archive.split("\n", 1)[1], archive.replace(",issued,", ",revoked,", 1)
    for text, problem in (
        (short, "has too few or too many"),
        (forged, "differs from the sealed event"),
        (_without(archive, 1), "1|0|the archive lacks this checkpoint of the database"),
    ):
        found, said = _failure(system, "compare_archive", remove, text=text)
        assert problem in found
        assert found.splitlines()[-1].endswith("|1|0")
        assert "Nothing was removed.\nHINT:  The database still has these events: run" in said
    assert verified(system.owner) == (True, 3, 2102, 1, None)
    whole = "3|2102|1|3|0|"
    assert _psql(system, "compare_archive", text=archive, tuples=True) == f"{whole}0\n"
    assert verified(system.owner) == (True, 3, 2102, 1, None)
    assert _psql(system, "compare_archive", remove, text=archive, tuples=True) == f"{whole}2102\n"
    assert verified(system.owner) == (True, 3, 0, 1, None)
    assert events(system.owner) == ["issued"]
    # The checkpoints stay in the database and still verify the archive.
    assert _psql(system, "compare_archive", text=archive, tuples=True) == f"{whole}0\n"
    assert "differs from the sealed event" in _failure(system, "compare_archive", text=forged)[0]
    for number in (1, 2, 3):
        found, said = _failure(system, "compare_archive", text=_without(archive, number))
        assert f"{number}|0|the archive lacks this checkpoint, and its events were removed" in found
        assert "HINT:  Compare all archive files of this database together" in said
    assert attempt(system.owner, SEAL).row == (4, 1, True)
    assert verified(system.owner) == (True, 4, 1, 0, None)


def test_each_file_removes_its_events_and_all_files_are_compared_together(system: System) -> None:
    remove, every = "--set=remove=yes", "--set=before=2999-01-01"
    files = []
    for number in (1, 2):
        system.issue()
        attempt(system.owner, SEAL)
        files.append(_psql(system, "archive_events", every))
        removed = _psql(system, "compare_archive", remove, text=files[-1], tuples=True)
        assert removed == f"1|1|{number}|{number}|0|1\n"
    assert _psql(system, "compare_archive", text="".join(files), tuples=True) == "2|2|1|2|0|0\n"
    for lost, kept in ((1, files[1]), (2, files[0])):
        assert f"{lost}|0|the archive lacks" in _failure(system, "compare_archive", text=kept)[0]
    # A file of another database has a checkpoint that this database lacks.
    other = files[0].replace(",1\n", ",9\n") + files[1]
    assert "does not have the checkpoint" in _failure(system, "compare_archive", text=other)[0]


@pytest.mark.parametrize("word", ["true", "YES", ""])
def test_a_word_for_remove_that_the_script_does_not_know_is_an_error(
    system: System, word: str
) -> None:
    system.issue()
    attempt(system.owner, SEAL)
    archive = _psql(system, "archive_events", "--set=before=2999-01-01")
    _, said = _failure(system, "compare_archive", f"--set=remove={word}", text=archive)
    assert 'The variable "remove" must be yes or no.\nHINT:  Use --set remove=yes' in said
    assert verified(system.owner) == (True, 1, 1, 0, None)


def _without(archive: str, checkpoint: int) -> str:
    """The archive without the lines of one checkpoint; the checkpoint is the last column."""
    lines = archive.splitlines(keepends=True)
    return "".join(line for line in lines if not line.endswith(f",{checkpoint}\n"))


def _psql(
    system: System, script: str, *options: str, text: str | None = None, tuples: bool = False
) -> str:
    form = ["-qtA"] if tuples else ["-q"]
    file = f"--file={ROOT}/sql/ops/{script}.sql"
    return run_program("psql", "--no-psqlrc", *form, *options, file, system.database.url, text=text)


def _failure(system: System, script: str, *options: str, text: str = "") -> tuple[str, str]:
    """Run a script that must fail with psql's exit code 3; return its stdout and stderr."""
    file = f"--file={ROOT}/sql/ops/{script}.sql"
    psql = ["psql", "--no-psqlrc", "-qtA", *options, file, system.database.url]
    done = subprocess.run(psql, input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 3, (done.stdout, done.stderr)
    return done.stdout, done.stderr
