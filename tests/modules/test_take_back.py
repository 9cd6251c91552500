"""Taking back a wrong import: only before its keys are used, and nothing becomes active again."""

import hashlib
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest
from postgrest import SyncPostgrestClient
from psycopg import sql

from core.racing import Connection, System, attempt
from keylatch import Keylatch
from keylatch.errors import InvalidArgument, LatchViolation, PermissionDenied
from modules.test_import import OLD, line, resolves
from modules.test_upgrade import blowfish, pbkdf2, upgrade
from stack import Cluster, Database, People, Rest, Tokens, until

TAKE_BACK = "select revoked, is_done from keylatch.take_back_import(%s, %s)"


@pytest.fixture
def system(database: Database, people: People) -> System:
    return System(database, people)


@pytest.fixture
def service(system: System) -> Connection:
    return system.database.connect("service_role")


def bring(service: Connection, *lines: object, outcome: str = "imported") -> UUID:
    """Import lines, see them all become this, and give the id of the import."""
    row = service.execute(
        "select to_jsonb(r) from keylatch.import_keys(%s) as r", [json.dumps(lines)]
    ).fetchone()
    assert row is not None
    assert [one["outcome"] for one in row[0]["lines"]] == [outcome] * len(lines), row[0]
    return UUID(row[0]["import_id"])


def take_back(connection: Connection, import_id: UUID, limit: int = 10_000) -> tuple[Any, ...]:
    row = connection.execute(TAKE_BACK, [import_id, limit]).fetchone()
    assert row is not None
    return row


def sha256(key: str) -> dict[str, object]:
    digest = hashlib.sha256(key.encode()).hexdigest()
    return {"alg": "sha256", "hash": digest, "hash_encoding": "hex"}


def scheme(key: str) -> dict[str, object]:
    digest = hashlib.md5(key.encode()).hexdigest()  # noqa: S324  as old systems did
    return {"scheme": "old", "hash": digest, "hash_encoding": "hex"}


def of_key(system: System, key: str) -> tuple[Any, ...] | None:
    """What an admin is told of a text: its id, verdict and workspace."""
    return system.owner.execute(
        "select e.key_id, e.verdict, k.workspace_id from keylatch.explain_key(%s) as e"
        " left join keylatch.keys as k on k.id = e.key_id",
        [key],
    ).fetchone()


FORMS: dict[str, Callable[[str], dict[str, object]]] = {
    "plaintext": lambda key: {"key": key},
    "sha256": sha256,
    "scheme": scheme,
    "pbkdf2": lambda key: pbkdf2(key, "hex", "hex"),
    "bcrypt": blowfish,
}


@pytest.mark.parametrize("form", FORMS)
def test_the_same_lines_come_over_again_to_another_workspace_and_resolve(
    system: System, service: Connection, form: str
) -> None:
    service.execute("select keylatch.declare_scheme('old', '{\"digest\": \"md5\"}')")
    fields = FORMS[form](OLD)
    is_salted = form in ("pbkdf2", "bcrypt")
    word = "waiting" if is_salted else "imported"
    for wrong, right in ((People.a, People.b), (People.b, People.a), (People.a, People.b)):
        import_id = bring(service, line(**fields, workspace_id=str(wrong)), outcome=word)
        assert take_back(service, import_id) == (1, True)
        assert resolves(system, OLD) is None
        assert upgrade(service, OLD, None if not is_salted else wrong) is None
        correct = bring(service, line(**fields, workspace_id=str(right)), outcome=word)
        found = upgrade(service, OLD, right) if is_salted else resolves(system, OLD)
        assert found is not None
        assert resolves(system, OLD) == found
        assert of_key(system, OLD) == (found, "valid", right)
        if is_salted:
            break  # it was used
        take_back(service, correct)
    # Again is safe, and finds the one that resolves.
    if is_salted:
        bring(service, line(**fields, workspace_id=str(People.b)), outcome="exists")
    assert of_key(system, OLD) is not None


def test_a_batch_and_the_identity_of_a_request_find_the_later_row(
    system: System, service: Connection
) -> None:
    take_back(service, bring(service, line(key=OLD, workspace_id=str(People.b))))
    bring(service, line(key=OLD, label="right"))
    rows = system.owner.execute(
        "select r.workspace_id from keylatch.resolve_keys(array[%s]) as r", [OLD]
    ).fetchall()
    assert rows == [(People.a,)]
    session = system.database.connect("service_role", autocommit=False)
    headers = json.dumps({"x-api-key": OLD})
    session.execute("select set_config('request.headers', %s, true)", [headers])
    assert session.execute("select keylatch.current_workspace_id()").fetchone() == (People.a,)


def test_each_key_that_is_taken_back_has_an_event_and_its_row_stays(
    system: System, service: Connection
) -> None:
    import_id = bring(service, line(key=OLD), line(key="another old key of 2024"))
    assert take_back(service, import_id) == (2, True)
    events = system.owner.execute(
        "select event, role, reason from keylatch.key_events where event = 'revoked'"
    ).fetchall()
    assert events == [("revoked", "service_role", "the import was taken back")] * 2
    kept = "select status, taken_back from keylatch.imported_keys where import_id = %s"
    assert system.owner.execute(kept, [import_id]).fetchall() == [("revoked", "active")] * 2
    assert of_key(system, OLD) is not None
    assert of_key(system, OLD)[1] == "revoked"  # type: ignore[index]
    # Again takes nothing back, and is no error.
    assert take_back(service, import_id) == (0, True)


def test_keys_that_came_expired_by_mistake_come_over_again(
    system: System, service: Connection
) -> None:
    import_id = bring(service, line(**sha256(OLD), expires_at="2024-01-01"))
    assert resolves(system, OLD) is None
    take_back(service, import_id)
    bring(service, line(**sha256(OLD), expires_at="2999-01-01"))
    assert resolves(system, OLD) is not None


@pytest.mark.parametrize("before", ["imported", "here", "by an expiry that was set here"])
def test_a_key_that_was_revoked_stays_revoked_in_a_later_import(
    system: System, service: Connection, before: str
) -> None:
    came = {"revoked_at": "2024-01-01"} if before == "imported" else {}
    import_id = bring(service, line(**sha256(OLD), **came))
    if before == "here":
        system.owner.execute("update keylatch.keys set revoked_at = now()")
    elif before != "imported":
        soon = "update keylatch.keys set expires_at = clock_timestamp() + interval '50 ms'"
        system.owner.execute(soon)
        system.owner.execute("select pg_sleep(0.06)")
    take_back(service, import_id)
    (again,) = _lines(service, line(**sha256(OLD), workspace_id=str(People.b)))
    assert "stays revoked" in again["detail"]
    assert resolves(system, OLD) is None
    # Through a second one, too.
    taken = system.owner.execute(
        "select import_id from keylatch.imported_keys where key_id = %s", [again["key_id"]]
    ).fetchone()
    take_back(service, taken[0])  # type: ignore[index]
    bring(service, line(**sha256(OLD)))
    assert resolves(system, OLD) is None


def test_a_key_that_was_suspended_stays_suspended_in_a_later_import(
    system: System, service: Connection
) -> None:
    import_id = bring(service, line(key=OLD, workspace_id=str(People.b)))
    system.owner.execute("update keylatch.keys set suspended_at = now()")
    take_back(service, import_id)
    (again,) = _lines(service, line(key=OLD))
    assert "stays suspended" in again["detail"]
    assert resolves(system, OLD) is None
    system.owner.execute("select keylatch.unsuspend_key(%s)", [again["key_id"]])
    assert resolves(system, OLD) == UUID(again["key_id"])


def _lines(service: Connection, *lines: object) -> list[Any]:
    row = service.execute(
        "select to_jsonb(r) -> 'lines' from keylatch.import_keys(%s) as r", [json.dumps(lines)]
    ).fetchone()
    assert row is not None
    return list(row[0])


@pytest.mark.parametrize("end", ["revoked_at", "suspended_at"])
@pytest.mark.parametrize("first", FORMS)
@pytest.mark.parametrize("second", FORMS)
def test_a_text_whose_key_was_inactive_does_not_resolve_by_a_line_of_another_form(
    system: System, service: Connection, first: str, second: str, end: str
) -> None:
    if (first, second) == ("scheme", "sha256"):
        return  # the SHA-256 of the whole key decides alone, as import_keys says
    service.execute("select keylatch.declare_scheme('old', '{\"digest\": \"md5\"}')")
    word = "waiting" if first in ("pbkdf2", "bcrypt") else "imported"
    import_id = bring(service, line(**FORMS[first](OLD)), outcome=word)
    system.owner.execute(f"update keylatch.keys set {end} = now()".encode())
    take_back(service, import_id)
    # The hash of a salted line has another salt than the one before.
    _lines(service, line(**FORMS[second](OLD)))
    assert resolves(system, OLD) is None
    assert upgrade(service, OLD, People.a) is None
    assert resolves(system, OLD) is None


def _ran_out(system: System) -> None:
    system.owner.execute("select pg_sleep(1.1)")


def _superseded(system: System) -> None:
    system.owner.execute(
        "update keylatch.keys set superseded_at = now(), expires_at = now() + interval '1 hour'"
    )


def _revoked_in_the_same_words(system: System) -> None:
    system.owner.execute(
        "select keylatch.revoke_key(id, 'the import was taken back') from keylatch.keys"
    )


@pytest.mark.parametrize("end", [_ran_out, _superseded, _revoked_in_the_same_words])
def test_a_key_that_ended_here_stays_revoked_in_a_later_import(
    system: System, service: Connection, end: Callable[[System], None]
) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=1)
    ends = {"expires_at": soon.isoformat()} if end is _ran_out else {}
    import_id = bring(service, line(**sha256(OLD), **ends))
    assert resolves(system, OLD) is not None
    end(system)
    take_back(service, import_id)
    (again,) = _lines(service, line(**sha256(OLD), workspace_id=str(People.b)))
    assert "stays revoked" in again["detail"]
    assert resolves(system, OLD) is None


@pytest.mark.parametrize("mode", ["origin", "replica"])
def test_nobody_marks_a_revoked_key_as_taken_back(
    system: System, service: Connection, mode: str
) -> None:
    """The mark would let a later import bring the key again, active."""
    bring(service, line(key=OLD))
    _, issued = system.issue()
    superuser = psycopg.connect(system.database.superuser_url, autocommit=True)
    superuser.execute(f"set session_replication_role = {mode}".encode())
    mark = "update keylatch_internal.legacy_keys set taken_back = %s"
    plant = (
        "insert into keylatch_internal.legacy_keys (key_id, workspace_id, scheme, import_id,"
        " seen_by, taken_back) select id, workspace_id, 'sha256', id, id, %s from keylatch.keys"
        " where imported_at is null"
    )
    for state in ("active", "suspended", "revoked"):
        assert attempt(superuser, mark, [state]).word == "column_is_immutable"
    system.owner.execute("select keylatch.revoke_key(id, 'leaked') from keylatch.keys")
    for state in ("active", "suspended"):
        assert attempt(superuser, mark, [state]).word == "column_is_immutable"
        assert attempt(superuser, plant, [state]).word == "column_is_immutable"
    superuser.close()
    for key in (OLD, issued):
        _lines(service, line(key=key))
        assert resolves(system, key) is None


def test_a_first_use_that_is_not_over_is_spared_and_delays_no_revocation(
    system: System, service: Connection
) -> None:
    salted = pbkdf2("a salted old key", "hex", "hex")
    import_id = bring(service, line(**salted), outcome="waiting")
    using = system.database.connect("keylatch_resolver", autocommit=False)
    using.execute("select keylatch.upgrade_key(%s, %s)", ["a salted old key", People.a])
    taking = system.database.connect("service_role", autocommit=False)
    assert take_back(taking, import_id) == (0, False)
    using.commit()
    (key_id,) = system.owner.execute("select id from keylatch.keys").fetchone() or (None,)
    revoking = system.session()
    revoking.execute("set lock_timeout = '10ms'")
    assert attempt(revoking, "select keylatch.revoke_key(%s)", [key_id]).word == "done"
    taking.commit()
    assert attempt(service, TAKE_BACK, [import_id, 10]).word == "import_was_used"


def _upgraded(system: System, service: Connection) -> None:
    assert upgrade(service, "a salted old key") is not None


def _rotated(system: System, service: Connection) -> None:
    service.execute("select keylatch.rotate_key(%s)", [resolves(system, OLD)])


def _reported(system: System, service: Connection) -> None:
    batch = json.dumps({str(resolves(system, OLD)): {"uses": 1}})
    service.execute("select keylatch.record_usage(%s)", [batch])


def _opened(system: System, service: Connection) -> None:
    system.owner.execute(
        "insert into keylatch_internal.sessions (token_hash, workspace_id, key_id, origin,"
        " created_at, expires_at) select sha256('x'), workspace_id, id, 'https://a.example',"
        " now(), now() + interval '1 hour' from keylatch.keys limit 1"
    )


USES = {
    "first use": (_upgraded, "A waiting key of the import had its first use."),
    "rotated": (_rotated, "A key of the import was rotated."),
    "reported": (_reported, "A key of the import was used, as a service reported."),
    "session": (_opened, "A key of the import opened a session."),
}


@pytest.mark.parametrize("use", USES)
def test_an_import_of_which_a_key_was_used_is_not_taken_back(
    system: System, service: Connection, use: str
) -> None:
    import_id = uuid4()
    lines = (line(key=OLD), line(**pbkdf2("a salted old key", "hex", "hex")))
    service.execute(
        "select keylatch.import_keys(%s, import_id => %s)", [json.dumps(lines[:1]), import_id]
    )
    service.execute(
        "select keylatch.import_keys(%s, import_id => %s)", [json.dumps(lines[1:]), import_id]
    )
    happen, detail = USES[use]
    happen(system, service)
    refused = attempt(service, TAKE_BACK, [import_id, 10_000])
    assert refused.word == "import_was_used"
    with pytest.raises(LatchViolation) as caught:
        Keylatch.from_psycopg(service).take_back_import(import_id)
    assert (caught.value.sqlstate, caught.value.detail) == ("PT409", detail)
    assert caught.value.hint
    kept = "select count(*) from keylatch.imported_keys where taken_back is null"
    assert system.owner.execute(kept).fetchone() == (2,)


def test_a_refusal_that_was_reported_is_no_use(system: System, service: Connection) -> None:
    import_id = bring(service, line(key=OLD))
    batch = {str(resolves(system, OLD)): {"refusals": {"secret_in_browser": 1}}}
    service.execute("select keylatch.record_usage(%s)", [json.dumps(batch)])
    assert take_back(service, import_id) == (1, True)


def test_it_goes_on_until_nothing_is_left_and_spares_other_imports(
    system: System, service: Connection
) -> None:
    bring(service, line(key="an older old key"))
    lines = [line(key=f"an old key of number {n}") for n in range(5)]
    import_id = bring(service, *lines)
    # The older key is named by this import and is not of this import.
    service.execute(
        "select keylatch.import_keys(%s, import_id => %s)",
        [json.dumps([line(key="an older old key")]), import_id],
    )
    assert [take_back(service, import_id, 2) for _ in range(3)] == [
        (2, False),
        (2, False),
        (1, True),
    ]
    assert resolves(system, "an older old key") is not None
    bring(service, *lines)
    assert all(resolves(system, f"an old key of number {n}") for n in range(5))


def test_an_unknown_import_and_a_limit_out_of_its_rule_are_refused(service: Connection) -> None:
    keylatch = Keylatch.from_psycopg(service)
    for import_id, limit, word in ((uuid4(), 10, "import_id"), (uuid4(), 0, "limit")):
        with pytest.raises(InvalidArgument, match=word):
            keylatch.take_back_import(import_id, limit=limit)


def test_what_was_taken_back_stays_so_for_the_owner_too(
    system: System, service: Connection
) -> None:
    import_id = bring(service, line(key=OLD))
    take_back(service, import_id)
    for change in (
        "taken_back = null",
        "taken_back = 'suspended'",
        "import_id = gen_random_uuid()",
    ):
        done = attempt(system.owner, f"update keylatch_internal.legacy_keys set {change}", [])
        assert done.word == "column_is_immutable", change


def test_a_publishable_key_that_comes_again_resolves_from_its_origin(
    system: System, service: Connection
) -> None:
    fields = {"key": OLD, "kind": "publishable", "allowed_origins": ["https://a.example"]}
    take_back(service, bring(service, line(**fields, workspace_id=str(People.b))))
    bring(service, line(**fields))
    assert resolves(system, OLD, "https://a.example") is not None
    assert resolves(system, OLD) is None


@pytest.mark.parametrize(
    "who", ["anon", "stranger", "mia", "bob", "alice", "keylatch_resolver", "service_role"]
)
def test_those_who_import_take_back_and_nobody_else(
    system: System, service: Connection, rest: Rest, tokens: Tokens, people: People, who: str
) -> None:
    import_id = bring(service, line(key=OLD))
    role = who if who in ("anon", "keylatch_resolver", "service_role") else "authenticated"
    claims = people.claims(who) if role == "authenticated" else None
    token = people.token(who) if claims else tokens.token(role=role)
    headers = {"Authorization": f"Bearer {token}"} if who != "anon" else {}
    with httpx.Client() as session:
        ways = (
            Keylatch.from_postgrest(
                SyncPostgrestClient(rest.rest_url, headers=headers, http_client=session)
            ),
            Keylatch.from_psycopg(system.database.connect(role, claims)),
        )
        for keylatch in ways:
            if who == "service_role":
                assert keylatch.take_back_import(import_id).is_done
            else:
                with pytest.raises(PermissionDenied):
                    keylatch.take_back_import(import_id)
    assert (resolves(system, OLD) is None) == (who == "service_role")


def test_a_failed_look_up_reads_no_table_of_imports_whole(
    system: System, service: Connection
) -> None:
    for n in range(2):
        bring(service, *[line(key=f"an old key of number {n} {m}") for m in range(200)])
        session = system.database.connect(autocommit=False)
        session.execute("select from keylatch.resolve_key('no key at all of that system')")
        read = "select seq_tup_read from pg_stat_xact_user_tables where relname = 'legacy_keys'"
        assert session.execute(read).fetchone() == (0,)
        session.rollback()
        take_back(service, bring(service, line(key=OLD, label=str(n))))


def test_a_take_back_waits_for_an_import_and_sees_what_it_brought(
    system: System, service: Connection
) -> None:
    import_id = uuid4()
    first = system.database.connect("service_role", autocommit=False)
    first.execute(
        "select keylatch.import_keys(%s, import_id => %s)",
        [json.dumps([line(key=OLD)]), import_id],
    )
    second = system.waiting(TAKE_BACK, [import_id, 10], waits_for=first, session=service)
    first.commit()
    assert second.outcome().row == (1, True)
    assert resolves(system, OLD) is None


def test_a_key_that_a_replica_revoked_or_took_back_stays_so_there_and_the_replica_goes_on(
    server: Cluster, template: str, system: System, service: Connection
) -> None:
    here, there, later = (f"an old key of number {n}" for n in range(3))
    publisher = psycopg.connect(system.database.superuser_url, autocommit=True)
    publisher.execute(
        "create publication legacy for table keylatch_internal.keys, keylatch_internal.legacy_keys"
    )
    with Database(server, f"{system.database.name}_replica", template) as replica:
        slot = "select pg_create_logical_replication_slot(%s, 'pgoutput')"
        publisher.execute(slot, [replica.name])
        subscriber: Connection = psycopg.connect(replica.superuser_url, autocommit=True)
        subscriber.execute(
            sql.SQL(
                "create subscription legacy connection {} publication legacy"
                " with (create_slot = false, slot_name = {})"
            ).format(sql.Literal(system.database.inner_url), sql.Identifier(replica.name))
        )

        def has(key: str) -> bool:
            row = subscriber.execute("select keylatch_internal.find_key(%s)", [key]).fetchone()
            return row is not None and row[0] is not None

        try:
            first = bring(service, line(key=here))
            second = bring(service, line(key=there))
            until(lambda: has(here) and has(there))
            revoke = "select keylatch.revoke_key(keylatch_internal.find_key(%s), 'only here')"
            subscriber.execute(revoke, [here])
            take_back(service, first)
            bring(service, line(key=here))
            assert take_back(subscriber, second) == (1, True)
            # The publisher writes to the same row.
            again = "select keylatch.import_keys(%s, source => 'another')"
            service.execute(again, [json.dumps([line(key=there)])])
            bring(service, line(key=later))
            until(lambda: has(later))
            for key in (here, there):
                assert resolves(system, key) is not None
                found = subscriber.execute("select from keylatch.resolve_key(%s)", [key])
                assert found.fetchone() is None
        finally:
            subscriber.execute("drop subscription legacy")
            subscriber.close()
            publisher.close()
