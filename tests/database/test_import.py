"""Keys of older systems: each line of an import by itself, and what comes along with a key."""

import base64
import hashlib
import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest
from postgrest import SyncPostgrestClient

from database.racing import Connection, World, attempt
from keylatch import Keylatch
from keylatch.errors import InvalidArgument, PermissionDenied
from stack import Database, People, Rest, Tokens

OLD = "wid_lOLMLeoo9rUrySS4AD2hp7qIOGjuVO90"
SHA = hashlib.sha256(OLD.encode()).digest()
HEX, BASE64 = SHA.hex(), base64.b64encode(SHA).decode()
PBKDF2: dict[str, object] = {
    "alg": "pbkdf2_sha256",
    "hash": "ab" * 32,
    "hash_encoding": "hex",
    "salt": "salt",
    "salt_encoding": "text",
    "iter": 200_000,
}
NATIVE: dict[str, object] = {"alg": "sha256", "hash": HEX, "hash_encoding": "hex"}
# A line that is refused, and the words that name what is wrong with it.
REFUSED: list[tuple[object, str]] = [
    ("a text", "not a JSON object"),
    ({"key": OLD, "colour": "red"}, "does not know"),
    ({"key": OLD, "workspace_id": "7"}, "workspace_id"),
    ({"key": OLD, "workspace_id": None}, "workspace_id"),
    ({}, "neither key nor hash"),
    ({"key": ""}, "key must be"),
    ({"key": f" {OLD}"}, "key must be"),
    ({"key": "x" * 1001}, "key must be"),
    ({"key": "wk_sk_live_" + "a" * 36}, "check characters"),
    ({"hash": HEX}, "alg must be"),
    ({**NATIVE, "alg": "md5"}, "alg must be"),
    ({**NATIVE, "hash_encoding": None}, "hash_encoding"),
    ({**NATIVE, "hash": HEX[:-2]}, "32 bytes"),
    ({**NATIVE, "hash": HEX[:-1] + "g"}, "32 bytes"),
    ({**NATIVE, "hash": BASE64}, "32 bytes"),
    ({**NATIVE, "hash_encoding": "base64"}, "32 bytes"),
    ({**NATIVE, "salt": "x"}, "salt"),
    ({**PBKDF2, "iter": 0}, "iter must be"),
    ({**PBKDF2, "iter": 10_000_000}, "iter must be"),
    ({**PBKDF2, "iter": "many"}, "iter must be"),
    ({**PBKDF2, "salt": ""}, "salt is not"),
    ({**PBKDF2, "salt_encoding": "hex"}, "salt is not"),
    ({**PBKDF2, "salt_encoding": None}, "salt_encoding"),
    ({"alg": "django", "hash": "pbkdf2_sha256$0$salt$" + "A" * 43 + "="}, "iterations"),
    ({"alg": "django", "hash": "argon2$x"}, "Django"),
    ({"alg": "django", "hash": "pbkdf2_sha256$9$s$" + "A" * 43 + "=", "iter": 9}, "do not go"),
    ({"alg": "bcrypt", "hash": "$2b$12$short"}, "bcrypt"),
    ({"alg": "bcrypt", "hash": "$2b$31$" + "a" * 53}, "bcrypt"),
    ({"key": OLD, "kind": "public"}, "kind"),
    ({"key": OLD, "environment": "staging"}, "environment"),
    ({"key": OLD, "scopes": ["two words"]}, "scopes"),
    ({"key": OLD, "scopes": "read"}, "scopes"),
    ({"key": OLD, "label": "x" * 201}, "label"),
    ({"key": OLD, "metadata": []}, "metadata"),
    ({"key": OLD, "kind": "publishable", "allowed_origins": ["https://a.example/"]}, "origin"),
    ({"key": OLD, "allowed_origins": ["https://a.example"]}, "origin"),
    ({"key": OLD, "expires_at": "tomorrow"}, "expires_at"),
    ({"key": OLD, "expires_at": "infinity"}, "expires_at"),
    ({"key": OLD, "expires_at": "2027-01-31T09:30:00"}, "expires_at"),
    ({"key": OLD, "revoked_at": "2999-01-01"}, "future"),
    ({"key": OLD, "created_at": "2999-01-01"}, "future"),
    ({"key": OLD, "revoke_reason": "leaked"}, "revoke_reason"),
    ({"key": OLD, "created_by": "alice"}, "created_by"),
    ({"key": OLD, "hint": "x" * 41}, "hint"),
]


@pytest.fixture
def world(database: Database, people: People) -> World:
    return World(database, people)


@pytest.fixture
def service(world: World) -> Connection:
    return world.database.connect("service_role")


def import_(connection: Connection, *lines: object, dry_run: bool = False) -> Any:
    """What came of a batch: its counts, and of each line the outcome as a dict."""
    row = connection.execute(
        "select to_jsonb(r) from keylatch.import_keys(%s, %s) as r", [json.dumps(lines), dry_run]
    ).fetchone()
    assert row is not None
    return row[0]


def line(**fields: object) -> dict[str, object]:
    return {"workspace_id": str(People.a), **fields}


def resolves(world: World, key: str, origin: str | None = None) -> UUID | None:
    row = world.owner.execute(
        "select key_id from keylatch.resolve_key(%s, %s)", [key, origin]
    ).fetchone()
    return row[0] if row else None


def test_a_bad_line_is_refused_with_its_reason_and_costs_no_other(
    world: World, service: Connection
) -> None:
    lines: list[object] = []
    for n, (given, _) in enumerate(REFUSED):
        lines.append({**line(), **given} if isinstance(given, dict) else given)
        lines.append(line(key=f"an old key, number {n}", label=f"line {n}"))
    report = import_(service, *lines)
    assert (report["imported"], report["existing"], report["refused"]) == (
        len(REFUSED),
        0,
        len(REFUSED),
    )
    for n, (given, words) in enumerate(REFUSED):
        bad, good = report["lines"][2 * n : 2 * n + 2]
        assert (bad["outcome"], bad["slug"], bad["key_id"]) == (
            "refused",
            "invalid_argument",
            None,
        ), given
        assert words in bad["detail"], given
        assert bad["hint"]
        assert good["outcome"] == "imported"
        assert resolves(world, f"an old key, number {n}") == UUID(good["key_id"])
    assert OLD not in json.dumps(report)
    assert HEX not in json.dumps(report)


@pytest.mark.parametrize(
    "form",
    [
        {"key": OLD},
        NATIVE,
        {**NATIVE, "hash": HEX.upper()},
        {**NATIVE, "hash": BASE64, "hash_encoding": "base64"},
        {**NATIVE, "hash": BASE64.rstrip("="), "hash_encoding": "base64"},
        # Both: the key in clear counts, and what was wrong with the hash (report 000) does not.
        {**PBKDF2, "key": OLD},
    ],
    ids=["clear", "hex", "HEX", "base64", "base64 without =", "both"],
)
def test_a_key_in_clear_or_under_sha256_is_native_at_once(
    world: World, service: Connection, form: dict[str, object]
) -> None:
    (came,) = import_(service, line(**form))["lines"]
    assert came["outcome"] == "imported"
    assert resolves(world, OLD) == UUID(came["key_id"])
    (again,) = import_(service, line(**form))["lines"]
    assert (again["outcome"], again["key_id"]) == ("exists", came["key_id"])
    assert world.owner.execute("select count(*) from keylatch.keys").fetchone() == (1,)
    # What is stored is never a key: neither the hash nor its text resolves.
    assert resolves(world, HEX) is None
    assert resolves(world, BASE64) is None


def test_owner_label_scopes_origins_and_dates_come_along(world: World, service: Connection) -> None:
    user = uuid4()
    report = import_(
        service,
        line(
            key=OLD,
            kind="publishable",
            label="shop",
            allowed_origins=["https://client.example"],
            scopes=["chat"],
            metadata={"plan": "pro"},
            expires_at="2999-01-31",
            created_at="2024-02-03T04:05:06.789+02:00",
            created_by=str(user),
        ),
    )
    (key,) = Keylatch.from_psycopg(world.session()).list(People.a)
    assert str(key.id) == report["lines"][0]["key_id"]
    assert (key.public_key, key.label, key.scopes, key.metadata, key.created_by) == (
        OLD,
        "shop",
        ("chat",),
        {"plan": "pro"},
        user,
    )
    assert key.expires_at == datetime(2999, 1, 31, tzinfo=UTC)
    assert key.created_at == datetime(2024, 2, 3, 2, 5, 6, 789000, tzinfo=UTC)
    assert key.hint == "wid_…VO90"
    assert key.imported_at is not None
    assert resolves(world, OLD, "https://client.example") == key.id
    assert resolves(world, OLD) is None


def test_what_was_dead_is_recognised_and_stays_dead(world: World, service: Connection) -> None:
    import_(
        service,
        line(key="revoked long ago, key 1", revoked_at="2024-01-01", revoke_reason="leaked"),
        line(key="expired long ago, key 2", expires_at="2024-01-01"),
        line(key="suspended a while, key 3", suspended_at="2024-01-01"),
    )
    alice = world.session()
    for key, verdict in (
        ("revoked long ago, key 1", "revoked"),
        ("expired long ago, key 2", "expired"),
        ("suspended a while, key 3", "suspended"),
    ):
        assert resolves(world, key) is None
        explained = alice.execute(
            "select verdict, key_id from keylatch.explain_key(%s)", [key]
        ).fetchone()
        assert explained is not None
        assert explained[0] == verdict
        if verdict != "suspended":
            update = "update keylatch.keys set revoked_at = null, expires_at = null where id = %s"
            assert attempt(alice, update, [explained[1]]).word == f"{verdict}_is_final"
    # Alive again under the same text is what an importer may not do by mistake.
    (again,) = import_(service, line(key="revoked long ago, key 1"))["lines"]
    assert again["outcome"] == "exists"
    assert resolves(world, "revoked long ago, key 1") is None


def test_a_key_of_another_workspace_and_a_double_line_are_refused(
    world: World, service: Connection
) -> None:
    import_(service, line(key=OLD))
    report = import_(
        service,
        {"workspace_id": str(People.b), "key": OLD},
        line(key="twice in one batch, key"),
        line(key="twice in one batch, key"),
        line(alg="sha256", hash_encoding="hex", hash=HEX),
    )
    words = [(one["outcome"], one["detail"]) for one in report["lines"]]
    assert words[0] == ("refused", "The key is there, in another workspace.")
    assert words[1] == ("imported", None)
    assert words[2] == ("refused", "The key is the same as that of line 2 of this batch.")
    assert words[3] == ("exists", None)


def test_a_dry_run_says_the_same_and_leaves_nothing(world: World, service: Connection) -> None:
    lines = [line(key=OLD), line(key=""), line(**PBKDF2)]
    would = import_(service, *lines, dry_run=True)
    assert world.owner.execute(
        "select (select count(*) from keylatch_internal.keys),"
        " (select count(*) from keylatch_internal.foreign_hashes),"
        " (select count(*) from keylatch_internal.key_events)"
    ).fetchone() == (0, 0, 0)
    did = import_(service, *lines)
    assert [one["outcome"] for one in would["lines"]] == [one["outcome"] for one in did["lines"]]


def test_the_batch_as_a_whole_is_checked_before_its_lines(service: Connection) -> None:
    for batch, words in (("{}", "list"), ("null", "list"), ("[" + "1," * 10_000 + "1]", "10000")):
        with pytest.raises(psycopg.errors.DatabaseError, match=r"invalid_argument") as caught:
            service.execute("select keylatch.import_keys(%s)", [batch])
        assert caught.value.sqlstate == "PT400"
        assert words in str(caught.value.diag.message_detail)


@pytest.mark.parametrize("who", ["anon", "stranger", "mia", "bob", "alice"])
def test_nobody_but_a_service_imports_or_claims(
    database: Database, people: People, rest: Rest, who: str
) -> None:
    headers = {"Authorization": f"Bearer {people.token(who)}"} if who != "anon" else {}
    with httpx.Client() as session:
        over_http = Keylatch.from_postgrest(
            SyncPostgrestClient(rest.rest_url, headers=headers, http_client=session)
        )
        for keylatch in (over_http, Keylatch.from_psycopg(_session(database, people, who))):
            with pytest.raises(PermissionDenied):
                keylatch.import_keys([line(key=OLD)])
            with pytest.raises(PermissionDenied):
                keylatch.claim_key(OLD, workspace_id=People.a)
    with database.connect() as owner:
        assert owner.execute("select count(*) from keylatch.keys").fetchone() == (0,)


def _session(database: Database, people: People, who: str) -> Connection:
    if who == "anon":
        return database.connect("anon")
    return database.connect("authenticated", people.claims(who))


def test_both_ways_of_the_client_import(
    database: Database, people: People, rest: Rest, tokens: Tokens
) -> None:
    headers = {"Authorization": f"Bearer {tokens.service_key}"}
    with httpx.Client() as session:
        over_http = Keylatch.from_postgrest(
            SyncPostgrestClient(rest.rest_url, headers=headers, http_client=session)
        )
        in_sql = Keylatch.from_psycopg(database.connect("service_role"))
        for n, keylatch in enumerate((over_http, in_sql)):
            when = datetime(2024, 1, 1, tzinfo=UTC)
            report = keylatch.import_keys(
                [
                    {"workspace_id": people.a, "key": f"{OLD}{n}", "created_at": when},
                    {"workspace_id": people.a, "key": "", "scopes": ("read",)},
                ]
            )
            assert (report.imported, report.refused) == (1, 1)
            assert keylatch.show(str(report.lines[0].key_id)).created_at == when
            with pytest.raises(InvalidArgument, match=r"lines\[1\]"):
                keylatch.import_keys(["a text"])  # type: ignore[list-item]


def test_an_import_and_the_deletion_of_its_workspace_leave_no_living_key(world: World) -> None:
    service = world.database.connect("service_role", autocommit=False)
    import_(service, line(key=OLD))
    deletion = world.waiting(
        "delete from keylatch.workspaces where id = %s returning id",
        [People.a],
        waits_for=service,
        session=world.database.connect("service_role"),
    )
    service.commit()
    assert deletion.outcome().word == "done"
    assert resolves(world, OLD) is None


def test_the_events_of_an_import_name_each_key_and_no_hash(
    world: World, service: Connection
) -> None:
    """Threat: a key or secret shows up in an event row."""
    import_(service, line(key=OLD, revoked_at="2024-01-01", revoke_reason="old"), line(**PBKDF2))
    rows = world.owner.execute(
        "select event, reason, changes::text from keylatch.list_events(%s)", [People.a]
    ).fetchall()
    assert [row[0] for row in rows] == ["imported", "imported", "first_key"]
    assert {row[1] for row in rows} == {None, "old"}
    said = " ".join(row[2] for row in rows)
    assert "revoked_at" in said
    assert not any(secret in said for secret in (OLD, HEX, "ab" * 32))


def test_a_key_with_quotes_and_braces_is_sent_as_it_is(world: World) -> None:
    keylatch = Keylatch.from_psycopg(world.database.connect("service_role"))
    report = keylatch.import_keys([{"workspace_id": People.a, "key": 'a "quoted", {old} key'}])
    assert resolves(world, 'a "quoted", {old} key') == report.lines[0].key_id
