"""The owner undoes a wrong import with sql/ops/take_back_import.sql before its keys are used."""

import hashlib
import json
from typing import Any
from uuid import UUID, uuid4

import pytest

from core.racing import REVOKE, Connection, System, attempt
from modules.test_events import run_program
from modules.test_import import OLD, import_, line, resolves
from modules.test_upgrade import blowfish, pbkdf2, sha256, upgrade
from stack import Database, People, notifications
from stack.tools import ROOT

pytestmark = pytest.mark.one_server

SALTED, OTHER = "a salted old key", "a key of another import"
IMPORT = "select keylatch.import_keys(%s, source => 'shop', import_id => %s)"
TRIGGERS = "select tgenabled::text from pg_trigger where tgname like '%keys_delete_keep'"


@pytest.fixture
def system(database: Database, people: People) -> System:
    return System(database, people)


@pytest.fixture
def service(system: System) -> Connection:
    service = system.database.connect("service_role")
    for name, recipe in (("old", {"digest": "md5"}), ("wrong", {"digest": "md5", "append": "x"})):
        service.execute("select keylatch.declare_scheme(%s, %s)", [name, json.dumps(recipe)])
    return service


def bring(service: Connection, *lines: object) -> UUID:
    """Import lines that each add a key, and return the id of the import."""
    report = import_(service, *lines)
    assert report["imported"] + report["waiting"] == len(lines), report
    return UUID(report["import_id"])


def take_back(system: System, import_id: UUID, *before: str) -> tuple[int, int]:
    """Run the script, and return how many keys the script deleted and kept.

    Raises:
        AssertionError: The script failed; the message is psql's.
    """
    script = f"--file={ROOT}/sql/ops/take_back_import.sql"
    psql = ("psql", "--no-psqlrc", "-qtA", *before, f"--set=import_id={import_id}", script)
    try:
        deleted, kept = run_program(*psql, system.database.url).strip().split("|")
    finally:
        assert system.owner.execute(TRIGGERS).fetchall() == [("A",), ("A",)]
    return int(deleted), int(kept)


def scheme(key: str, name: str = "old") -> dict[str, object]:
    digest = hashlib.md5(key.encode()).hexdigest()  # noqa: S324  old systems used MD5
    return {"scheme": name, "hash": digest, "hash_encoding": "hex"}


Fields = dict[str, dict[str, Any]]
FORMS: Fields = {"plaintext": {"key": OLD}, "sha256": sha256(OLD), "scheme": scheme(OLD)}
SALTS: Fields = {"pbkdf2": pbkdf2(OLD, "hex", "hex"), "bcrypt": blowfish(OLD)}
WRONG: Fields = {
    "workspace": {"workspace_id": str(People.b)},
    "expired": {"expires_at": "2024-01-01"},
    "expires": {"expires_at": "2999-01-01"},
    "scheme": scheme(OLD, "wrong"),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("wrong", WRONG)
def test_after_a_wrong_import_the_correct_one_resolves(
    system: System, service: Connection, form: str, wrong: str
) -> None:
    given = WRONG[wrong] if wrong == "scheme" else {**FORMS[form], **WRONG[wrong]}
    assert take_back(system, bring(service, line(**given))) == (1, 0)
    bring(service, line(**FORMS[form]))
    found = system.owner.execute(
        "select e.verdict, k.workspace_id, k.expires_at from keylatch.explain_key(%s) as e"
        " inner join keylatch.keys as k on e.key_id = k.id",
        [OLD],
    )
    assert found.fetchall() == [("valid", People.a, None)]
    assert resolves(system, OLD) is not None
    revoked = "select reason from keylatch.key_events where event = 'revoked'"
    assert system.owner.execute(revoked).fetchall() == [("the import was undone",)]


@pytest.mark.parametrize("salt", SALTS)
def test_a_waiting_key_comes_again(system: System, service: Connection, salt: str) -> None:
    wrong = {"workspace_id": str(People.b)}
    # The plaintext key waits as well, because it may be the same key as the salted one.
    import_id = bring(service, line(**SALTS[salt], **wrong), line(key=OTHER, **wrong))
    assert take_back(system, import_id) == (2, 0)
    assert upgrade(service, OLD, People.b) is None
    bring(service, line(**SALTS[salt]))
    found = upgrade(service, OLD, People.a)
    assert found is not None
    assert resolves(system, OLD) == found


USES = {
    f"select keylatch.upgrade_key('{SALTED}', '{People.a}') where %s is not null": "first use",
    # An import that ran at the same time keeps a first use from writing upgraded_at.
    "insert into keylatch_internal.legacy_texts select sha256('x'), key_hash"
    " from keylatch_internal.keys where id = %s": "first use",
    "select keylatch.rotate_key(%s)": "rotated",
    "update keylatch.keys set superseded_at = now(), expires_at = now() + interval '1 hour'"
    " where id = %s": "rotated",
    'select keylatch.record_usage(format(\'{"%%s": {"uses": 1}}\', %s)::jsonb)': "use reported",
    "insert into keylatch_internal.sessions (token_hash, workspace_id, key_id, origin, created_at,"
    " expires_at) select sha256('x'), workspace_id, id, 'https://a.example', now(),"
    " now() + interval '1 hour' from keylatch.keys where id = %s": "session opened",
}


@pytest.mark.parametrize("use", USES)
def test_after_a_use_it_is_refused(system: System, service: Connection, use: str) -> None:
    import_id = uuid4()
    for one in (line(key=OLD), line(**pbkdf2(SALTED, "hex", "hex"))):
        service.execute(IMPORT, [json.dumps([one]), import_id])
    system.owner.execute(use.encode(), [resolves(system, OLD)])
    with pytest.raises(AssertionError, match=rf"1 of its 2 keys were used \({USES[use]}: 1\)"):
        take_back(system, import_id)
    assert system.owner.execute("select from keylatch.imported_keys").rowcount == 2


ENDS = {
    "revoked": "revoked_at = now()",
    "suspended": "suspended_at = now()",
    "expired": "expires_at = now()",
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("first", FORMS | SALTS)
@pytest.mark.parametrize("second", FORMS)
def test_a_key_that_was_inactive_stays_so_in_a_later_import(
    system: System, service: Connection, first: str, second: str, end: str
) -> None:
    import_id = bring(service, line(**(FORMS | SALTS)[first]))
    with system.database.connect(superuser=True) as owner:
        if end == "expired":  # replication mode allows an expiry that is not in the future
            owner.execute("set session_replication_role = replica")
        owner.execute(f"update keylatch_internal.keys set {ENDS[end]}".encode())
    assert take_back(system, import_id) == (0, 1)
    import_(service, line(**FORMS[second]))
    for _ in range(2):
        assert resolves(system, OLD) is None
        assert upgrade(service, OLD, People.a) is None


def test_of_an_import_the_active_keys_go_and_of_another_import_none(
    system: System, service: Connection
) -> None:
    other = bring(service, line(key=OTHER))
    import_id = bring(service, *(line(key=f"an old key of number {n}") for n in range(3)))
    service.execute(IMPORT, [json.dumps([line(key=OTHER)]), import_id])
    system.session().execute(REVOKE, [resolves(system, "an old key of number 0"), False])
    # A reported refusal does not count as a use.
    batch = {str(resolves(system, "an old key of number 1")): {"refusals": {"suspended": 1}}}
    service.execute("select keylatch.record_usage(%s)", [json.dumps(batch)])
    system.owner.execute("listen keylatch")
    assert take_back(system, import_id) == (2, 1)
    with pytest.raises(AssertionError, match="No key came with this import_id"):
        take_back(system, uuid4())
    left = system.owner.execute("select import_id, status from keylatch.imported_keys order by 2")
    assert left.fetchall() == [(other, "active"), (import_id, "revoked")]
    # Caches are told to drop everything: they may know the keys by the ids of other rows.
    assert notifications(system.owner, system.database.connect()) == ["*"]


HINDERS = {
    "create table public.mine (id uuid references keylatch_internal.keys);"
    "insert into public.mine select id from keylatch.keys; commit": "violates foreign key",
    "select from keylatch_internal.keys for update": "Another session changes keys",
    f"select keylatch.upgrade_key('{SALTED}', '{People.a}')": "Another session changes keys",
}


@pytest.mark.parametrize("hinder", HINDERS)
def test_a_failure_changes_nothing(system: System, service: Connection, hinder: str) -> None:
    import_id = bring(service, line(**pbkdf2(SALTED, "hex", "hex")))
    other = system.database.connect(autocommit=False)
    other.execute(hinder.encode())
    with pytest.raises(AssertionError, match=HINDERS[hinder]):
        take_back(system, import_id)
    other.rollback()
    assert system.statuses() == ["active"]
    assert attempt(system.owner, "delete from keylatch_internal.keys").word == "keys_are_kept"


@pytest.mark.parametrize("role", ["anon", "authenticated", "service_role", "keylatch_resolver"])
def test_who_is_not_the_owner_is_refused(system: System, service: Connection, role: str) -> None:
    import_id = bring(service, line(key=OLD))
    with pytest.raises(AssertionError, match="permission denied"):
        take_back(system, import_id, f"--command=set role {role}")
    assert resolves(system, OLD) is not None
