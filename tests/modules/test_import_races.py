"""Imports at the same time do not deadlock, and each reports the keys of the other."""

import hashlib
import json
from functools import partial
from uuid import UUID

import pytest

from core.racing import System, attempt, together
from keylatch import hash_key
from modules.test_import import OLD, PBKDF2, import_, line, resolves
from modules.test_schemes import DECLARE, SLOW, SLOW_KEY, slow
from modules.test_upgrade import pbkdf2, sha256, upgrade
from stack import Database, People

IMPORT = "select keylatch.import_keys(%s)"


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


@pytest.mark.parametrize("is_there", [False, True], ids=["new keys", "keys that are there"])
def test_imports_of_the_same_keys_in_another_order_do_not_meet_head_on(
    system: System, *, is_there: bool
) -> None:
    # Without a key in the workspace, the second import would wait before its first line.
    system.issue()
    first, middle, last = sorted(
        (f"key number {number} of the old system" for number in range(3)), key=hash_key
    )

    def importing(*keys: str, **fields: str) -> str:
        return json.dumps([line(key=key, **fields) for key in keys])

    if is_there:
        service = system.database.connect("service_role")
        service.execute("select keylatch.import_keys(%s)", [importing(first, middle, last)])
    # A lock on the middle key lets both imports begin, wait and then continue at the same time.
    holder = system.database.connect("service_role", autocommit=False)
    holder.execute("select keylatch.import_keys(%s)", [importing(middle, label="held")])
    ways = [
        system.waiting(
            "select jsonb_path_query_array(to_jsonb(r), '$.lines[*].outcome')"
            " from keylatch.import_keys(%s) as r",
            [importing(*keys, suspended_at="2024-01-01")],
            session=system.database.connect("service_role"),
        )
        for keys in ((first, middle, last), (last, middle, first))
    ]
    holder.rollback()
    outcomes = [one.outcome() for one in ways]
    assert [one.word for one in outcomes] == ["done", "done"]
    assert sorted(one.row[0][0] for one in outcomes) == [
        "exists", "moved" if is_there else "imported"
    ]  # fmt: skip


def test_imports_of_one_source_note_what_they_saw_in_one_order(system: System) -> None:
    service = system.database.connect("service_role")
    keys = [line(key=f"key number {number} of the old system") for number in range(50)]
    statement = "select keylatch.import_keys(%s, source => 'old')"
    # Several batches, because the rows of one batch may be in the order of the ids.
    for batch in (keys[:20], keys[20:30], keys[30:]):
        service.execute(statement, [json.dumps(batch)])
    by_place = [
        row[0]
        for row in system.owner.execute(
            "select key_id from keylatch_internal.legacy_keys order by ctid"
        )
    ]
    by_id = sorted(by_place)

    def before(order: list[UUID], key_id: UUID) -> set[UUID]:
        return set(order[: order.index(key_id)])

    # At this row, a session in the order of places and a session in the order of ids have each
    # passed a row that the other session still needs.
    held = next(
        one
        for one in by_id
        if before(by_place, one) - before(by_id, one) and before(by_id, one) - before(by_place, one)
    )
    holder = system.database.connect(autocommit=False)
    holder.execute("select from keylatch_internal.legacy_keys where key_id = %s for update", [held])
    ways = []
    for other_plan in ("bitmapscan", "indexscan"):
        session = system.database.connect("service_role")
        session.execute(f"set enable_{other_plan} = off".encode())
        ways.append(system.waiting(statement, [json.dumps(keys)], session=session))
    holder.rollback()
    assert [one.outcome().word for one in ways] == ["done", "done"]


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


# The form of a revoked line, the form of an active line of the same key in another import, and
# whether the second import waits for the first. Two unsalted hashes are compared at a look-up,
# which takes the less active row.
OTHER_FORMS = [
    ("a fast scheme", "plaintext", True),
    ("a slow scheme", "plaintext", True),
    ("a slow scheme", "sha256", True),
    ("a slow scheme", "a fast scheme", True),
    ("a fast scheme", "sha256", False),
]


def other_forms(key: str) -> dict[str, dict[str, object]]:
    """The unsalted forms of a key. The scheme is called knox."""
    digest = hashlib.sha512(key.encode()).hexdigest()
    return {
        "plaintext": {"key": key},
        "sha256": sha256(key),
        "a fast scheme": {"scheme": "knox", "hash": digest, "hash_encoding": "hex"},
    }


@pytest.mark.parametrize(("revoked", "active", "waits"), OTHER_FORMS)
def test_a_key_that_another_import_brings_as_revoked_is_not_active(
    system: System, revoked: str, active: str, *, waits: bool
) -> None:
    """Threat: a dead imported key that lives again by a second import."""
    service = system.database.connect("service_role")
    service.execute(DECLARE, ["knox", json.dumps({"digest": "sha512"})])
    if "a slow scheme" in (revoked, active):
        service.execute(DECLARE, ["slow", json.dumps(SLOW)])
    forms = {**other_forms(SLOW_KEY), "a slow scheme": slow(SLOW_KEY)}
    # Without a key in the workspace, the second import would wait before its first line.
    system.issue()
    first = system.database.connect("service_role", autocommit=False)
    import_(first, line(**forms[revoked], revoked_at="2024-01-01"))
    second = [json.dumps([line(**forms[active])])]
    if waits:
        importing = system.waiting(IMPORT, second, waits_for=first, session=service)
        first.commit()
        assert importing.outcome().word == "done"
    else:
        assert attempt(service, IMPORT, second).word == "done"
        first.commit()
    assert resolves(system, SLOW_KEY) is None
    assert upgrade(service, SLOW_KEY) is None
    assert resolves(system, SLOW_KEY) is None


def test_an_import_during_which_a_revoked_key_is_used_does_not_revive_it(system: System) -> None:
    """Threat: the key no longer waits, and its text was looked up a moment too early."""
    service = system.database.connect("service_role")
    import_(service, line(**pbkdf2(OLD, "hex", "hex"), revoked_at="2024-01-01"))
    # The salted line, in a workspace where no key waits, stops the import after its start.
    other = line(**pbkdf2("another key of B", "hex", "hex"), workspace_id=str(People.b))
    holder = system.database.connect(superuser=True, autocommit=False)
    holder.execute("lock table keylatch_internal.keys in share mode")
    importing = system.waiting(
        IMPORT, [json.dumps([other, line(key=OLD)])], waits_for=holder, session=service
    )
    assert upgrade(system.database.connect("service_role"), OLD) is None
    holder.commit()
    assert importing.outcome().word == "done"
    assert resolves(system, OLD) is None


@pytest.mark.parametrize("form", ["plaintext", "sha256", "a fast scheme"])
@pytest.mark.parametrize("first", ["the import", "the first use"])
def test_a_revoked_line_counts_if_its_key_is_first_used_at_the_same_time(
    system: System, first: str, form: str
) -> None:
    service = system.database.connect("service_role")
    service.execute(DECLARE, ["knox", json.dumps({"digest": "sha512"})])
    import_(service, line(**pbkdf2(OLD, "hex", "hex")))
    sessions = [system.database.connect("service_role", autocommit=False) for _ in range(2)]
    importing, using = sessions
    revoked = line(**other_forms(OLD)[form], revoked_at="2024-01-01")
    if first == "the import":
        assert import_(importing, revoked)["waiting"] == 1
        assert upgrade(using, OLD) is not None
        using.commit()
        importing.commit()
    else:
        assert upgrade(using, OLD) is not None
        assert import_(importing, revoked)["waiting"] == 1
        importing.commit()
        using.commit()
    assert resolves(system, OLD) is None
    assert upgrade(service, OLD) is None


@pytest.mark.parametrize("known", ["a salted hash", "a fast scheme"])
def test_a_revoked_line_that_is_held_revokes_a_key_that_resolves(
    system: System, known: str
) -> None:
    """Threat: another key waits, and so a revoked line is never compared."""
    service = system.database.connect("service_role")
    for scheme, digest in (("knox", "sha512"), ("old", "md5")):
        service.execute(DECLARE, [scheme, json.dumps({"digest": digest})])
    form = pbkdf2(OLD, "hex", "hex") if known == "a salted hash" else other_forms(OLD)[known]
    import_(service, line(**form))
    active = upgrade(service, OLD)
    assert active is not None
    # Another key waits, so no unsalted line resolves before its first use.
    import_(service, line(**pbkdf2("another key of A", "hex", "hex")))
    md5 = hashlib.md5(OLD.encode(), usedforsecurity=False).hexdigest()
    dead = line(scheme="old", hash=md5, hash_encoding="hex", suspended_at="2024-01-01")
    (held,) = import_(service, dead)["lines"]
    assert held["outcome"] == "waiting"
    assert resolves(system, OLD) is None
    alice = system.session()
    alice.execute("update keylatch.keys set suspended_at = null where id = %s", [held["key_id"]])
    assert resolves(system, OLD) == active
    alice.execute("select keylatch.revoke_key(%s)", [held["key_id"]])
    assert resolves(system, OLD) is None
    # A waiting key resolves only after its own first use.
    assert resolves(system, "another key of A") is None


@pytest.mark.parametrize("column", ["revoked_at", "expires_at"])
def test_a_held_row_of_another_workspace_neither_revokes_a_key_nor_takes_it(
    system: System, column: str
) -> None:
    """Threat: a line for one tenant changes the key of another tenant."""
    service = system.database.connect("service_role")
    (ours,) = import_(service, line(**pbkdf2(OLD, "hex", "hex")))["lines"]
    there = {"workspace_id": str(People.b)}
    import_(service, line(**pbkdf2("another key of B", "hex", "hex"), **there))
    when = {"revoked_at": "2024-01-01", "expires_at": "2099-01-01"}[column]
    (held,) = import_(service, line(key=OLD, **there, **{column: when}))["lines"]
    assert held["outcome"] == "waiting"
    assert upgrade(service, OLD) == UUID(ours["key_id"])
    assert resolves(system, OLD) == UUID(ours["key_id"])


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
@pytest.mark.parametrize(
    "call",
    [
        f"select keylatch.import_keys(json_build_array(json_build_object('key', '{OLD}',"
        f" 'workspace_id', '{People.a}'))::jsonb)",
        f"select keylatch.upgrade_key('{OLD}', '{People.a}')",
        f"select keylatch.finish_import('table', '{People.b}')",
        "select keylatch.end_scheme('old', '2999-01-01')",
        "select keylatch.declare_scheme('new', '{\"digest\": \"md5\"}')",
    ],
    ids=["import", "upgrade", "finish", "end", "declare"],
)
def test_an_old_snapshot_revives_no_imported_key(system: System, call: str, level: str) -> None:
    """Threat: an import in REPEATABLE READ does not see that the same key was revoked meanwhile."""
    late = system.database.connect("service_role", autocommit=False)
    late.execute(f"set transaction isolation level {level}".encode())
    late.execute("select count(*) from keylatch.keys")
    service = system.database.connect("service_role")
    service.execute(DECLARE, ["old", '{"digest": "sha512"}'])
    text = hashlib.sha512(OLD.encode()).hexdigest()
    import_(service, line(scheme="old", hash=text, hash_encoding="hex", revoked_at="2024-01-01"))
    assert attempt(late, call).word == "0A000"
    late.rollback()
    assert resolves(system, OLD) is None


def test_a_scheme_is_not_deleted_on_a_snapshot_that_lacks_its_keys(system: System) -> None:
    """Threat: the owner's old snapshot shows no key of a scheme, and the scheme is deleted."""
    service = system.database.connect("service_role")
    service.execute(DECLARE, ["old", '{"digest": "sha512"}'])
    owner = system.database.connect(autocommit=False)
    owner.execute("set transaction isolation level repeatable read")
    owner.execute("select count(*) from keylatch.keys")
    text = hashlib.sha512(OLD.encode()).hexdigest()
    import_(service, line(scheme="old", hash=text, hash_encoding="hex", revoked_at="2024-01-01"))
    assert attempt(owner, "delete from keylatch_internal.legacy_schemes").word == "0A000"


def test_a_scheme_is_not_deleted_beside_a_running_import_of_its_keys(system: System) -> None:
    """Threat: without its scheme, a revoked imported key is not recognized in a later import."""
    service = system.database.connect("service_role", autocommit=False)
    service.execute(DECLARE, ["old", '{"digest": "sha512"}'])
    service.commit()
    text = hashlib.sha512(OLD.encode()).hexdigest()
    import_(service, line(scheme="old", hash=text, hash_encoding="hex", revoked_at="2024-01-01"))
    deletion = system.waiting(
        "delete from keylatch_internal.legacy_schemes where name = 'old'",
        [],
        waits_for=service,
        session=system.database.connect(),
    )
    service.commit()
    assert deletion.outcome().word == "keys_are_kept"
    assert [one["outcome"] for one in import_(service, line(key=OLD))["lines"]] == ["exists"]
    service.commit()
    assert resolves(system, OLD) is None


def test_a_scheme_is_not_declared_beside_a_running_import(system: System) -> None:
    """Threat: the import has not compared its plaintext key with revoked keys of the scheme."""
    service = system.database.connect("service_role", autocommit=False)
    import_(service, line(key=OLD))
    declaration = system.waiting(
        DECLARE,
        ["old", '{"digest": "sha512"}'],
        waits_for=service,
        session=system.database.connect("service_role"),
    )
    service.commit()
    assert declaration.outcome().word == "done"
