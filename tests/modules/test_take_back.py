"""The owner undoes a wrong import by sql/ops/take_back_import.sql, before its keys are used."""

import hashlib
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from core.racing import REVOKE, Connection, System, attempt
from modules.test_events import run_program
from modules.test_import import OLD, import_, line, resolves
from modules.test_upgrade import blowfish, pbkdf2, sha256, upgrade
from stack import Database, People
from stack.tools import ROOT

pytestmark = pytest.mark.one_server

SALTED = "a salted old key"
TRIGGERS = (
    "select tgrelid::regclass, tgname, tgenabled from pg_trigger"
    " where not tgisinternal and tgrelid::regclass::text like 'keylatch_internal.%' order by 1, 2"
)


@pytest.fixture
def system(database: Database, people: People) -> System:
    return System(database, people)


@pytest.fixture
def service(system: System) -> Connection:
    service = system.database.connect("service_role")
    service.execute("select keylatch.declare_scheme('old', '{\"digest\": \"md5\"}')")
    service.execute(
        "select keylatch.declare_scheme('wrong', '{\"digest\": \"md5\", \"append\": \"x\"}')"
    )
    return service


def bring(service: Connection, *lines: object) -> UUID:
    """Import lines that all bring a key, and give the id of the import."""
    report = import_(service, *lines)
    assert report["imported"] + report["waiting"] == len(lines), report
    return UUID(report["import_id"])


def take_back(system: System, import_id: UUID, *before: str) -> tuple[int, int]:
    """Run the script: how many keys it deleted and kept. The message is that of psql."""
    triggers = system.owner.execute(TRIGGERS).fetchall()
    script = f"--file={ROOT}/sql/ops/take_back_import.sql"
    psql = ("psql", "--no-psqlrc", "-qtA", *before, f"--set=import_id={import_id}")
    try:
        deleted, kept = run_program(*psql, script, system.database.url).strip().split("|")
    finally:
        assert system.owner.execute(TRIGGERS).fetchall() == triggers
    return int(deleted), int(kept)


def scheme(key: str, name: str = "old") -> dict[str, object]:
    digest = hashlib.md5(key.encode()).hexdigest()  # noqa: S324  as old systems did
    return {"scheme": name, "hash": digest, "hash_encoding": "hex"}


FORMS: dict[str, Callable[[str], dict[str, object]]] = {
    "plaintext": lambda key: {"key": key},
    "sha256": sha256,
    "scheme": scheme,
}
SALTS: dict[str, Callable[[str], dict[str, object]]] = {
    "pbkdf2": lambda key: pbkdf2(key, "hex", "hex"),
    "bcrypt": blowfish,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "wrong",
    [
        {"workspace_id": str(People.b)},
        {"expires_at": "2024-01-01"},
        {"expires_at": "2999-01-01"},
        {**scheme(OLD, "wrong"), "key": None},
    ],
    ids=["workspace", "expired", "expiry", "scheme"],
)
def test_after_a_wrong_import_the_correct_one_resolves(
    system: System, service: Connection, form: str, wrong: dict[str, Any]
) -> None:
    given = {**({} if "scheme" in wrong else FORMS[form](OLD)), **wrong}
    given = {name: value for name, value in given.items() if value is not None}
    import_id = bring(service, line(**given))
    assert take_back(system, import_id) == (1, 0)
    assert resolves(system, OLD) is None
    bring(service, line(**FORMS[form](OLD)))
    found = system.owner.execute(
        "select e.verdict, k.workspace_id, k.expires_at from keylatch.explain_key(%s) as e"
        " inner join keylatch.keys as k on e.key_id = k.id",
        [OLD],
    ).fetchall()
    assert found == [("valid", People.a, None)]
    assert resolves(system, OLD) is not None
    # What was deleted is still in the log.
    told = "select event, reason from keylatch.key_events where workspace_id = %s order by id"
    workspace = wrong.get("workspace_id", People.a)
    events = system.owner.execute(told.encode(), [workspace]).fetchall()
    assert ("revoked", "the import was undone") in events


@pytest.mark.parametrize("form", SALTS)
def test_a_salted_key_that_waits_comes_again_and_has_its_first_use(
    system: System, service: Connection, form: str
) -> None:
    given = SALTS[form](SALTED)
    # A key in plaintext waits as well, because it may be the same key.
    lines = (line(**given, workspace_id=str(People.b)), line(key=OLD, workspace_id=str(People.b)))
    assert take_back(system, bring(service, *lines)) == (2, 0)
    assert upgrade(service, SALTED, People.b) is None
    bring(service, line(**given))
    found = upgrade(service, SALTED, People.a)
    assert found is not None
    assert resolves(system, SALTED) == found


def _upgraded(system: System, service: Connection) -> None:
    assert upgrade(service, SALTED) is not None


def _rotated(system: System, service: Connection) -> None:
    service.execute("select keylatch.rotate_key(%s)", [resolves(system, OLD)])


def _superseded(system: System, service: Connection) -> None:
    service.execute("select keylatch.rotate_key(%s, '1 hour')", [resolves(system, OLD)])


def _reported(system: System, service: Connection) -> None:
    batch = json.dumps({str(resolves(system, OLD)): {"uses": 1}})
    service.execute("select keylatch.record_usage(%s)", [batch])


def _opened(system: System, _: Connection) -> None:
    system.owner.execute(
        "insert into keylatch_internal.sessions (token_hash, workspace_id, key_id, origin,"
        " created_at, expires_at) select sha256('x'), workspace_id, id, 'https://a.example',"
        " now(), now() + interval '1 hour' from keylatch.keys limit 1"
    )


USES = {
    "first use": _upgraded,
    "rotated": _rotated,
    "rotated with a grace": _superseded,
    "use reported": _reported,
    "session opened": _opened,
}


@pytest.mark.parametrize("use", USES)
def test_an_import_of_which_a_key_was_used_is_refused(
    system: System, service: Connection, use: str
) -> None:
    import_id = uuid4()
    for one in (line(key=OLD), line(**pbkdf2(SALTED, "hex", "hex"))):
        call = "select keylatch.import_keys(%s, import_id => %s)"
        service.execute(call, [json.dumps([one]), import_id])
    USES[use](system, service)
    reason = use.removesuffix(" with a grace")
    with pytest.raises(AssertionError, match=rf"1 of its 2 keys were used \({reason}: 1\)"):
        take_back(system, import_id)
    kept = "select count(*) from keylatch.imported_keys where import_id = %s"
    assert system.owner.execute(kept, [import_id]).fetchone() == (2,)


def _expired(system: System) -> None:
    soon = "update keylatch.keys set expires_at = clock_timestamp() + interval '50 ms'"
    system.owner.execute(soon)
    system.owner.execute("select pg_sleep(0.06)")


ENDS: dict[str, Callable[[System], object]] = {
    "revoked": lambda system: system.owner.execute("update keylatch.keys set revoked_at = now()"),
    "suspended": lambda system: system.owner.execute(
        "update keylatch.keys set suspended_at = now()"
    ),
    "expired": _expired,
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("first", FORMS | SALTS)
@pytest.mark.parametrize("second", FORMS)
def test_a_key_that_was_inactive_stays_so_in_a_later_import(
    system: System, service: Connection, first: str, second: str, end: str
) -> None:
    import_id = bring(service, line(**(FORMS | SALTS)[first](OLD)))
    ENDS[end](system)
    assert take_back(system, import_id) == (0, 1)
    import_(service, line(**FORMS[second](OLD)))
    # The SHA-256 of the whole key decides alone, as import_keys says.
    if (first, second) != ("scheme", "sha256"):
        assert resolves(system, OLD) is None
        assert upgrade(service, OLD, People.a) is None
        assert resolves(system, OLD) is None
