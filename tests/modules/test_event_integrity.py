"""sql/audit/event_integrity.sql names each key that differs from its events, and no other key."""

import json
from typing import Any
from uuid import UUID

import pytest

from core.racing import System
from core.test_audit import ask, damage
from modules.test_events import run_program
from modules.test_import import OLD, import_, line
from stack import Cluster, Database, People, until
from stack.subscriber import subscribed
from stack.tools import ROOT

KEYS = "update keylatch_internal.keys set"
ISSUE = (
    "select id from keylatch.issue_key(%s, label => %s, allowed_origins => %s, scopes => %s,"
    " expires_at => now() + '1 day', metadata => %s)"
)


@pytest.fixture
def system(database: Database, people: People) -> System:
    return System(database, people)


def issue(system: System, label: str = "shop") -> UUID:
    """Issue a key with a value for each field that a caller can choose."""
    values = [system.workspace, label, ["https://shop.example"], ["a", "b"], '{"a": [1.50, null]}']
    ((key_id,),) = system.session().execute(ISSUE, values).fetchall()
    return UUID(str(key_id))


def problems(system: System) -> list[str]:
    return [row["problem"] for row in ask(system, "event_integrity")]


def run_script(system: System, name: str, *options: str, text: str | None = None) -> str:
    file = f"--file={ROOT}/sql/ops/{name}.sql"
    return run_program("psql", "--no-psqlrc", "-q", *options, file, system.database.url, text=text)


def live(system: System) -> dict[str, UUID]:
    """Make keys with all kinds of events; the names describe the last state of each key."""
    alice = system.session()
    labels = ("edited", "suspended", "again", "graced", "rotated", "masked_sk_live_abc", "revoked")
    keys = {label: issue(system, label) for label in labels}
    edit = (
        "update keylatch.keys set label = 'new', metadata = '{\"b\": 2}', scopes = '{}',"
        " allowed_origins = '{}', expires_at = null where id = %s"
    )
    alice.execute(edit, [keys["edited"]])
    for name in ("suspended", "again"):
        alice.execute("select keylatch.suspend_key(%s)", [keys[name]])
    alice.execute("select keylatch.unsuspend_key(%s)", [keys["again"]])
    alice.execute("select keylatch.rotate_key(%s, '1 hour')", [keys["graced"]])
    alice.execute("update keylatch.keys set label = 'x' where id = %s", [keys["graced"]])
    alice.execute("select keylatch.rotate_key(%s)", [keys["rotated"]])
    reason = f"in a log:\nwk_sk_live_{'a' * 30}, {'x_' * 200}"
    alice.execute("select keylatch.revoke_key(%s, %s)", [keys["revoked"], reason])
    alice.execute("update keylatch.keys set label = 'y' where id = %s", [keys["revoked"]])
    return keys


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kathmandu"])
def test_the_events_explain_each_key_in_each_time_zone(system: System, zone: str) -> None:
    live(system)
    system.owner.execute("delete from keylatch.workspaces where id = %s", [People.b])
    database = system.owner.execute("select current_database()").fetchall()[0][0]
    system.owner.execute(f"alter database {database} set timezone = '{zone}'".encode())
    assert problems(system) == []


@pytest.mark.parametrize(
    ("name", "change", "problem"),
    [
        ("edited", "label = 'old'", 'label is "old", but the last event says "new"'),
        ("edited", "scopes = '{admin}'", 'scopes is "["admin"]", but the last event says "[]"'),
        ("edited", "allowed_origins = '{https://evil.example}'", "allowed_origins is "),
        ("again", "allowed_origins = '{}'", 'allowed_origins is "[]", but the last event says '),
        ("edited", "metadata = '{}'", "metadata is not what the last event says"),
        ("again", "metadata = '{\"a\": [1.5, null]}'", "metadata is not what the last event says"),
        ("edited", "expires_at = '2999-01-01'", 'expires_at is "2999-01-01T'),
        ("graced", "expires_at = '2999-01-01'", 'expires_at is "2999-01-01T'),
        ("again", "expires_at = null", "expires_at is null, but the last event says "),
        ("suspended", "suspended_at = null", "suspended_at is null, but the last event says "),
        ("again", "suspended_at = now()", "suspended_at is "),
        ("graced", "superseded_at = null", "superseded_at is null, but the last event says "),
        ("again", "superseded_at = now()", "superseded_at is "),
        ("revoked", "revoked_at = now()", "revoked_at is "),
        ("revoked", f"revoked_by = '{People.mia}'", f'revoked_by is "{People.mia}", but the last'),
        ("revoked", "revoked_by = null", "revoked_by is null, but the last event says "),
        ("revoked", "revoke_reason = null", "revoke_reason is null, but the last event says "),
        ("revoked", "expires_at = '2999-01-01'", 'expires_at is "2999-01-01T'),
        ("again", "environment = 'test'", 'environment is "test", but the last event says "live"'),
        ("again", "masked_key = 'x'", 'masked_key is "x", but the last event says '),
        ("again", "workspace_id = gen_random_uuid()", "the key is in another workspace than its"),
    ],
)
def test_a_field_that_the_owner_changed_is_named(
    system: System, name: str, change: str, problem: str
) -> None:
    key = live(system)[name]
    damage(system, f"{KEYS} {change} where id = '{key}'")
    (row,) = ask(system, "event_integrity")
    assert row["problem"].startswith(problem)
    assert row["key_id"] == key


def test_an_event_of_a_key_that_is_not_in_the_table_is_named(system: System) -> None:
    key = issue(system)
    system.session().execute("select keylatch.revoke_key(%s, 'the import was undone')", [key])
    damage(system, f"delete from keylatch_internal.keys where id = '{key}'")
    (row,) = ask(system, "event_integrity")
    assert row == {
        "problem": "the log has events of a key that is not in the table",
        "workspace_id": system.workspace,
        "key_id": key,
    }


def test_of_two_events_at_the_same_time_either_may_be_the_last(system: System) -> None:
    key = issue(system)
    for label in ("first", "second"):
        system.session().execute("update keylatch.keys set label = %s where id = %s", [label, key])
    damage(system, "update keylatch_internal.key_events set occurred_at = now()")
    assert problems(system) == []
    damage(system, f"{KEYS} label = 'first' where id = '{key}'")
    assert problems(system) == []
    damage(system, f"{KEYS} label = 'third' where id = '{key}'")
    assert len(problems(system)) == 1


@pytest.mark.one_server
def test_archived_events_may_have_said_anything(system: System) -> None:
    keys = live(system)
    old = issue(system, "old")
    system.owner.execute("select keylatch.seal_events()")
    archive = run_script(system, "archive_events", "--set=before=2999-01-01")
    run_script(system, "compare_archive", "--set=remove=yes", text=archive)
    assert system.owner.execute("select from keylatch.key_events").fetchall() == []
    assert problems(system) == []
    # Events after the archiving explain later changes, and all fields of a new key.
    alice = system.session()
    alice.execute("update keylatch.keys set label = 'later' where id = %s", [keys["edited"]])
    alice.execute("select keylatch.revoke_key(%s, 'later')", [keys["again"]])
    new = issue(system, "new")
    assert problems(system) == []
    damage(
        system,
        f"{KEYS} label = 'x', scopes = '{{x}}' where id in ('{keys['edited']}', '{new}', '{old}')",
        f"{KEYS} revoked_at = null, revoked_by = null, revoke_reason = null"
        f" where id = '{keys['again']}'",
        f"{KEYS} revoked_at = now() where id = '{old}'",
    )
    found = {(row["key_id"], row["problem"][:22]) for row in ask(system, "event_integrity")}
    assert found == {
        (keys["edited"], 'label is "x", but the '),
        (new, 'label is "x", but the '),
        (new, 'scopes is "["x"]", but'),
        (keys["again"], "the key was revoked, b"),
        (old, "the key is revoked, bu"),
    }
    # Marking a checkpoint as archived hides nothing while its events still exist.
    system.owner.execute("select keylatch.seal_events()")
    mark = "update keylatch_internal.key_event_checkpoints set archived_at = now()"
    system.owner.execute(f"{mark} where archived_at is null".encode())
    assert len(problems(system)) == 5


@pytest.mark.one_server
def test_erased_events_may_have_said_anything(system: System) -> None:
    keys = live(system)
    run_script(system, "erase_person", f"--set=user_id={People.alice}")
    assert problems(system) == []
    service = system.database.connect("service_role")
    service.execute("update keylatch.keys set label = 'later' where id = %s", [keys["edited"]])
    assert problems(system) == []
    damage(
        system,
        f"{KEYS} label = 'x', scopes = '{{x}}' where id = '{keys['edited']}'",
        f"{KEYS} revoked_at = null, revoked_by = null, revoke_reason = null"
        f" where id = '{keys['revoked']}'",
    )
    assert problems(system) == [
        'label is "x", but the last event says "later"',
        "the key was revoked, but is not revoked any more",
    ]


@pytest.mark.one_server
def test_imported_keys_are_explained_and_those_of_an_undone_import_are_none(
    system: System,
) -> None:
    service = system.database.connect("service_role")
    gone = {"revoked_at": "2024-02-29T12:00:00+02:00", "revoke_reason": "in a_chat\there"}
    given = {"expires_at": "2998-01-01", "scopes": ["a"], "suspended_at": "2024-01-01T00:00:00Z"}
    lines = [line(key=f"{OLD}{number}") for number in range(4)]
    report = import_(service, lines[0] | gone, lines[1] | given, lines[2] | {"label": "x"})
    assert report["imported"] == 3, json.dumps(report)
    assert problems(system) == []
    # A later import revokes a key, suspends a key and sets an earlier expiry.
    again = import_(service, lines[1] | gone, lines[2] | given)
    assert [one["outcome"] for one in again["lines"]] == ["moved", "moved"]
    wrong = import_(service, lines[3])
    run_script(system, "take_back_import", f"--set=import_id={wrong['import_id']}")
    assert problems(system) == []
    damage(system, f"{KEYS} revoke_reason = 'x' where revoke_reason like 'in a%'")
    assert len(problems(system)) == 2
    damage(
        system, f"{KEYS} revoked_at = null, revoke_reason = null where revoked_at < '2025-01-01'"
    )
    assert "the key was revoked, but is not revoked any more" in problems(system)


def states(system: System) -> list[Any]:
    return system.owner.execute(
        "select k.id, k.label, e.n from keylatch.keys as k"
        " left join (select key_id, max(occurred_at) as n from keylatch.key_events group by 1) as e"
        " on k.id = e.key_id order by k.id"
    ).fetchall()


def test_a_logical_replica_explains_its_keys_even_those_that_it_revoked_itself(
    server: Cluster, template: str, database: Database, people: People
) -> None:
    system = System(database, people)
    tables = ("keys", "key_events", "key_event_checkpoints")
    with subscribed(server, template, database, *tables) as replica:
        other = System(replica, people)
        keys = live(system)
        both, graced = issue(system, "both"), issue(system, "superseded at both")
        until(lambda: states(system) == states(other))
        assert problems(other) == []
        for key in (both, keys["again"]):
            other.owner.execute("select keylatch.revoke_key(%s, 'here')", [key])
        other.owner.execute(
            "update keylatch.keys set superseded_at = now(), expires_at = now() + '1 hour'"
            " where id = %s",
            [graced],
        )
        alice = system.session()
        edit = "update keylatch.keys set scopes = '{z}', expires_at = null where id = %s"
        for key in (both, keys["again"], keys["suspended"]):
            alice.execute(edit, [key])
        alice.execute("select keylatch.rotate_key(%s, '10 hours')", [graced])
        alice.execute("select keylatch.revoke_key(%s, 'there')", [both])
        last = issue(system, "last")
        until(lambda: last in [row[0] for row in states(other)])
        assert problems(system) == []
        assert problems(other) == []
