"""The revocation list deactivates the keys again that a restored backup has reactivated."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest

from cli.program import Program
from stack import Database, Janitor, People, Server, until
from stack.standby import Standby

pytestmark = pytest.mark.one_server

OLD_ID = "select id from keylatch.installation()"


class Owner:
    """The owner of a database, who issues and changes keys, and checks whether they resolve."""

    def __init__(self, connection: psycopg.Connection[Any], workspace: UUID) -> None:
        self.connection, self.workspace = connection, workspace

    def issue(self, label: str) -> tuple[UUID, str]:
        key_id, key = self.row(
            "select id, key from keylatch.issue_key(%s, 'secret', %s)", self.workspace, label
        )
        return key_id, key

    def row(self, query: str, *parameters: object) -> Any:
        return self.connection.execute(query.encode(), parameters or None).fetchone()

    def resolves(self, key: str) -> bool:
        (count,) = self.row("select count(*) from keylatch.resolve_key(%s)", key)
        return bool(count)

    def state(self, key_id: UUID) -> Any:
        return self.row(
            "select status, revoke_reason, expires_at from keylatch.keys where id = %s", key_id
        )


class Story:
    """One key for each way to revoke or limit a key after a backup, and one unchanged key.

    Attributes:
        keys: Id and key, by what happens to the key.
        soon: When the key `nearer` expires.
    """

    def __init__(self, owner: Owner) -> None:
        names = ("revoked", "cascade", "suspended", "nearer", "passed", "rotated", "kept")
        self.keys = {name: owner.issue(name) for name in names}
        self.soon = datetime.now(UTC) + timedelta(days=2)

    def end(self, owner: Owner) -> None:
        ids = {name: key_id for name, (key_id, _) in self.keys.items()}
        owner.row("select keylatch.revoke_key(%s, 'leaked in a log')", ids["revoked"])
        owner.row("select keylatch.revoke_key(%s, null, true)", ids["cascade"])
        owner.row("select keylatch.suspend_key(%s)", ids["suspended"])
        move = "update keylatch.keys set expires_at = %s where id = %s returning id"
        owner.row(move, self.soon, ids["nearer"])
        # An expiry in the past is refused. So set an expiry 3 seconds ahead, and wait for it below.
        owner.row(move, datetime.now(UTC) + timedelta(seconds=3), ids["passed"])
        owner.row("select keylatch.rotate_key(%s, '1 hour')", ids["rotated"])
        until(lambda: owner.state(ids["passed"])[0] == "expired")

    def is_ended(self, owner: Owner) -> None:
        """Assert that each key but `kept` is inactive again, or expires as early as before."""
        states = {name: owner.state(key_id) for name, (key_id, _) in self.keys.items()}
        assert {name: state[0] for name, state in states.items()} == {
            "revoked": "revoked",
            "cascade": "revoked",
            "suspended": "suspended",
            "nearer": "active",
            "passed": "revoked",
            "rotated": "active",
            "kept": "active",
        }
        assert states["revoked"][1].startswith("leaked in a log (revoked at 20")
        assert states["revoked"][1].endswith("; revoked again after a restore)")
        assert states["passed"][1].startswith("expired at 20")
        assert states["nearer"][2] == self.soon
        assert states["rotated"][2] < datetime.now(UTC) + timedelta(hours=1)
        assert states["kept"][2] is None
        alive = {name for name, (_, key) in self.keys.items() if owner.resolves(key)}
        assert alive == {"nearer", "rotated", "kept"}


@pytest.fixture
def owner(database: Database, people: People) -> Owner:
    return Owner(database.connect(), people.a)


@pytest.fixture
def story(owner: Owner) -> Story:
    return Story(owner)


@pytest.fixture
def copy(database: Database, owner: Owner, story: Story) -> Iterator[Database]:
    """A restored backup from before `Story.end` changed the keys."""
    assert story
    owner.connection.close()
    with Database(database.server, f"{database.name}_copy", database.name, is_copy=True) as copy:
        owner.connection = database.connect()
        yield copy


def exported(program: Program, database: Database, tmp_path: Path, *options: object) -> Path:
    file = tmp_path / "revocations.jsonl"
    at = program.having(DATABASE_URL=database.url)
    at("revocations", "export", "--output", file, *options)
    return file


def test_keys_that_a_restored_backup_reactivated_are_ended_again(
    program: Program, database: Database, copy: Database, owner: Owner, story: Story, tmp_path: Path
) -> None:
    story.end(owner)
    owner.row("select keylatch.revoke_key(%s)", later := owner.issue("later")[0])
    file = exported(program, database, tmp_path)
    restored = Owner(copy.connect(), owner.workspace)
    assert all(restored.resolves(key) for _, key in story.keys.values())

    there = program.having(DATABASE_URL=copy.url)
    planned = there.ok("revocations", "apply", file, "--dry-run")
    assert all(restored.resolves(key) for _, key in story.keys.values())
    done = there.ok("revocations", "apply", file)
    assert {**planned, "dry_run": False} == done
    counts = {name: done[name] for name in ("revoked", "limited", "already", "changed", "unknown")}
    assert counts == {"revoked": 3, "limited": 3, "already": 0, "changed": 0, "unknown": 1}
    assert done["keys"]["unknown"] == [str(later)]
    story.is_ended(restored)

    again = there("revocations", "apply", file)
    assert again.out == (
        "      6 unchanged: already so\n"
        f"      1 not in this database: issued after the backup\n        {later}\n"
    )
    assert "The list was written at 20" in again.err


def test_a_recovery_of_the_server_to_before_a_revocation_is_made_good(
    program: Program,
    database: Database,
    local_server: Server,
    owner: Owner,
    story: Story,
    tmp_path: Path,
    janitor: Janitor,
) -> None:
    with Standby(local_server, janitor=janitor) as copy:
        copy.catch_up()
        copy.disconnect()
        story.end(owner)
        owner.row("select keylatch.seal_events(1000)")
        file = exported(program, database, tmp_path)
        there = program.having(DATABASE_URL=copy.url(database.name))
        shown = there("revocations", "apply", file, code=1)
        assert shown.err.startswith("replica: ")
        with psycopg.connect(copy.superuser_url("postgres"), autocommit=True) as recovered:
            recovered.execute("select pg_promote()")
        with psycopg.connect(copy.url(database.name), autocommit=True) as connection:
            restored = Owner(connection, owner.workspace)
            assert restored.resolves(story.keys["revoked"][1])
            shown = there("revocations", "apply", file)
            assert "before checkpoint 1 of the list" in shown.err
            story.is_ended(restored)
            # The recovered server is another installation from now on.
            old = restored.row(OLD_ID)
            (new,) = there("installation", "renew").out.split()
            assert restored.row(OLD_ID) == (UUID(new),) != old
            assert owner.row(OLD_ID) == old
            assert there("revocations", "apply", file, code=1).err.startswith("other_installation")
            assert there.ok("revocations", "apply", file, "--force")["already"] == 6


def test_a_key_that_waits_for_its_first_use_ends_again(
    program: Program, database: Database, owner: Owner, tmp_path: Path
) -> None:
    line = {
        "workspace_id": str(owner.workspace),
        "alg": "django",
        "hash": "pbkdf2_sha256$1000$salt$" + "A" * 43 + "=",
    }
    there = program.having(DATABASE_URL=database.url)
    there("import", "-", "--format", "jsonl", stdin=json.dumps(line))
    owner.connection.close()
    with Database(database.server, f"{database.name}_copy", database.name, is_copy=True) as copy:
        owner.connection = database.connect()
        (waiting,) = owner.row("select id from keylatch.legacy_keys where status = 'waiting'")
        owner.row("select keylatch.revoke_legacy_key(%s, 'left')", waiting)
        file = exported(program, database, tmp_path)
        done = program.having(DATABASE_URL=copy.url).ok("revocations", "apply", file)
        assert (done["revoked"], done["keys"]) == (1, {"revoked": [str(waiting)]})
        with copy.connect() as connection:
            restored = Owner(connection, owner.workspace)
            assert restored.row("select status from keylatch.legacy_keys") == ("revoked",)
            assert restored.state(waiting)[1].startswith("left (revoked at ")


def test_a_key_that_changed_after_the_list_was_written_is_left_and_named(
    program: Program, database: Database, owner: Owner, story: Story, tmp_path: Path
) -> None:
    suspended, _ = story.keys["suspended"]
    nearer, _ = story.keys["nearer"]
    owner.row("select keylatch.suspend_key(%s)", suspended)
    owner.row(
        "update keylatch.keys set expires_at = %s where id = %s returning id", story.soon, nearer
    )
    file = exported(program, database, tmp_path)
    owner.row("select keylatch.unsuspend_key(%s)", suspended)
    owner.row("update keylatch.keys set expires_at = null where id = %s returning id", nearer)
    shown = program.having(DATABASE_URL=database.url)("revocations", "apply", file, code=1)
    assert shown.out.startswith(
        "      2 not touched: changed after the list was written, check each key\n"
    )
    assert {str(suspended), str(nearer)} == set(shown.out.split()[-2:])
    assert owner.state(suspended)[0] == owner.state(nearer)[0] == "active"


def test_since_leaves_out_what_is_older(
    program: Program, database: Database, owner: Owner, story: Story, tmp_path: Path
) -> None:
    owner.row("select keylatch.revoke_key(%s)", story.keys["revoked"][0])
    (now,) = owner.row("select clock_timestamp()")
    owner.row("select keylatch.revoke_key(%s)", story.keys["cascade"][0])
    file = exported(program, database, tmp_path, "--since", now.isoformat())
    head, *keys, end = map(json.loads, file.read_text().splitlines())
    assert [key["id"] for key in keys] == [str(story.keys["cascade"][0])]
    assert (end["keys"], datetime.fromisoformat(head["since"])) == (1, now)


def test_the_list_has_no_secret_and_only_its_owner_reads_it(
    program: Program, database: Database, owner: Owner, story: Story, tmp_path: Path
) -> None:
    id_, key = story.keys["revoked"]
    owner.row("select keylatch.revoke_key(%s, %s)", id_, f"found {key} in a log")
    file = exported(program, database, tmp_path)
    assert file.stat().st_mode & 0o777 == 0o600
    text = file.read_text()
    assert str(id_) in text
    assert key not in text
    assert key[-12:] not in text
    shown = program.having(DATABASE_URL=database.url)("revocations", "export")
    assert shown.out.splitlines()[1:-1] == text.splitlines()[1:-1]
    assert shown.err == "1 keys: 1 revoked, 0 suspended, 0 with an expiry.\n"


@pytest.mark.parametrize(
    ("damage", "slug"),
    [
        (lambda lines: [], "list_unreadable"),
        (lambda lines: [b"key,revoked_at\n"], "list_unreadable"),
        (lambda lines: [b'{"keylatch": "revocations"}\n'], "client_older"),
        (lambda lines: lines[:-1], "list_incomplete"),
        (lambda lines: [*lines[:-1], lines[-1][:40]], "list_incomplete"),
        (lambda lines: [lines[0], *lines[2:]], "list_changed"),
        (
            lambda lines: [lines[0], lines[1].replace(b"leaked", b"leaker"), *lines[2:]],
            "list_changed",
        ),
        (lambda lines: [*lines[:-1], lines[-1].replace(b": 1", b": 2")], "list_changed"),
        (lambda lines: [*lines, lines[-1]], "list_changed"),
    ],
    ids=["empty", "csv", "format", "no end", "cut", "less", "other", "count", "more"],
)
def test_a_damaged_list_is_refused_before_anything_is_done(
    program: Program,
    database: Database,
    owner: Owner,
    story: Story,
    tmp_path: Path,
    damage: Any,
    slug: str,
) -> None:
    owner.row("select keylatch.revoke_key(%s, 'leaked')", story.keys["revoked"][0])
    file = exported(program, database, tmp_path)
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(damage(lines)))
    shown = program.having(DATABASE_URL=database.url)("revocations", "apply", file, code=1)
    assert shown.err.startswith(f"{slug}: {file} "), shown.err
    assert "hint: " in shown.err


def test_settings_of_the_database_change_no_list(
    program: Program, database: Database, owner: Owner, story: Story, tmp_path: Path
) -> None:
    story.end(owner)
    before = exported(program, database, tmp_path).read_text()
    for setting in ("datestyle = 'German'", "client_encoding = 'latin1'"):
        with database.connect() as connection:
            connection.execute(f"alter database {database.name} set {setting}")
        after = exported(program, database, tmp_path).read_text()
        assert after.splitlines()[1:-1] == before.splitlines()[1:-1]


def test_a_user_who_cannot_see_every_key_gets_no_list(
    program: Program, database: Database, owner: Owner, tmp_path: Path
) -> None:
    at = program.having(DATABASE_URL=database.authenticator_url)
    before = owner.row(OLD_ID)
    for words in (("export",), ("apply", exported(program, database, tmp_path))):
        shown = at("revocations", *words, code=3)
        assert "this command needs the owner's login" in shown.err
        assert shown.out == ""
    assert at("installation", "renew", code=3).err
    assert owner.row(OLD_ID) == before


def test_a_database_without_keylatch_is_named(
    program: Program, empty: Database, tmp_path: Path
) -> None:
    at = program.having(DATABASE_URL=empty.url)
    for words in (("revocations", "export"), ("installation", "renew")):
        assert at(*words, code=5).err.startswith("not_installed: The database has no keylatch.")


def test_the_installation_is_shown(program: Program, database: Database, owner: Owner) -> None:
    at = program.having(DATABASE_URL=database.url)
    (found,) = owner.row(OLD_ID)
    assert at.ok("installation")["id"] == str(found)
    shown = at.having(COLUMNS="80")("installation").out
    assert str(found) in shown
    assert max(map(len, shown.splitlines())) <= 80
    renewed = at.ok("installation", "renew", "--yes")
    assert renewed["old"] == str(found)
    assert owner.row(OLD_ID) == (UUID(renewed["id"]),)
