"""Salted hashes of older systems: a key becomes native at its first use, and never a dead one."""

import base64
import hashlib
import secrets
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any
from uuid import UUID

import bcrypt
import pytest
from django.conf import settings
from django.contrib.auth.hashers import PBKDF2PasswordHasher

from database.racing import REVOKE, Connection, World, attempt, together
from database.test_import import import_, line, resolves
from keylatch import Keylatch
from stack import Database, People

if not settings.configured:
    settings.configure()

CLAIM = "select key_id from keylatch.claim_key(%s, %s)"
VECTORS = 200


@pytest.fixture
def world(database: Database, people: People) -> World:
    world = World(database, people)
    # The limit of claims has its test in tests/identity; here many more are made in a minute.
    world.owner.execute("update keylatch_internal.installation set claims_per_minute = 100000")
    return world


@pytest.fixture
def service(world: World) -> Connection:
    return world.database.connect("service_role")


def pbkdf2(key: str, encoding: str, salt_encoding: str, rounds: int = 3) -> dict[str, object]:
    """A hash as Python's own library makes it, in the form of report 000."""
    salt = secrets.token_bytes(16) if salt_encoding != "text" else secrets.token_hex(8).encode()
    encode: Any = {"hex": bytes.hex, "base64": lambda b: base64.b64encode(b).decode()}
    return {
        "alg": "pbkdf2_sha256",
        "hash": encode[encoding](hashlib.pbkdf2_hmac("sha256", key.encode(), salt, rounds)),
        "hash_encoding": encoding,
        "salt": salt.decode() if salt_encoding == "text" else encode[salt_encoding](salt),
        "salt_encoding": salt_encoding,
        "iter": rounds,
    }


def django(key: str) -> dict[str, object]:
    hasher = PBKDF2PasswordHasher()
    return {"alg": "django", "hash": hasher.encode(key, hasher.salt(), iterations=3)}


def blowfish(key: str, prefix: str = "2b") -> dict[str, object]:
    made = bcrypt.hashpw(key.encode(), bcrypt.gensalt(4)).decode()
    return {"alg": "bcrypt", "hash": f"${prefix}{made[3:]}"}


FORMS: Mapping[str, Callable[[str], dict[str, object]]] = {
    "hex": lambda key: pbkdf2(key, "hex", "hex"),
    "base64": lambda key: pbkdf2(key, "base64", "base64"),
    "text": lambda key: pbkdf2(key, "base64", "text"),
    "django": django,
    "2a": lambda key: blowfish(key, "2a"),
    "2b": blowfish,
    "2y": lambda key: blowfish(key, "2y"),
}


def claim(connection: Connection, key: str, workspace: UUID = People.a) -> UUID | None:
    row = connection.execute(CLAIM, [key, workspace]).fetchone()
    return row[0] if row else None


def salted(service: Connection, key: str, **fields: object) -> UUID:
    """Import a key under a salted hash, in workspace A unless told otherwise."""
    (came,) = import_(service, line(**{**pbkdf2(key, "hex", "hex"), **fields}))["lines"]
    assert came["outcome"] == "imported", came
    return UUID(came["key_id"])


@pytest.mark.parametrize("form", FORMS)
def test_vectors_of_the_libraries_are_claimed_and_near_misses_are_not(
    world: World, service: Connection, form: str
) -> None:
    # The same count for each library: those of one are spread over its forms.
    count = VECTORS // {"hex": 3, "base64": 3, "text": 3, "django": 1}.get(form, 3) + 1
    keys = [f"old_{secrets.token_urlsafe(18)}é" for _ in range(count)]
    lines = [line(**FORMS[form](key), starts_with=key[:12]) for key in keys]
    report = import_(service, *lines)
    assert report["imported"] == count, report
    for key, came in zip(keys, report["lines"], strict=True):
        assert resolves(world, key) is None
        for miss in (key[:-1], key + "x", key.swapcase(), key[:20] + " " + key[20:]):
            assert claim(service, miss) is None
        assert claim(service, key, People.b) is None
        assert claim(service, key) == UUID(came["key_id"])
        assert resolves(world, key) == UUID(came["key_id"])
    left = world.owner.execute("select count(*) from keylatch_internal.foreign_hashes").fetchone()
    assert left == (0,)


def test_a_claimed_key_is_as_any_other_and_a_second_import_finds_it(
    world: World, service: Connection
) -> None:
    key = "old_key_that_is_claimed"
    form = pbkdf2(key, "hex", "hex")
    (came,) = import_(service, line(**form))["lines"]
    assert claim(service, key) == UUID(came["key_id"])
    (again,) = import_(service, line(**form))["lines"]
    assert (again["outcome"], again["key_id"]) == ("exists", came["key_id"])
    world.session().execute(REVOKE, [came["key_id"], False])
    assert resolves(world, key) is None
    assert claim(service, key) is None
    (again,) = import_(service, line(**form))["lines"]
    assert again["outcome"] == "exists"
    assert claim(service, key) is None
    said = [
        row[0]
        for row in world.owner.execute("select event from keylatch.list_events(%s)", [People.a])
    ]
    assert said == ["revoked", "claimed", "imported", "first_key"]


def test_bcrypt_cuts_a_key_at_72_bytes_so_a_longer_one_is_never_claimed(
    world: World, service: Connection
) -> None:
    cut = "x" * 72
    import_(service, line(**blowfish(cut)))
    assert claim(service, cut + "and more") is None
    assert claim(service, cut) is not None


@pytest.mark.parametrize("dead", ["revoked", "expired", "revoked since", "suspended"])
def test_a_dead_or_suspended_key_is_not_claimed(
    world: World, service: Connection, dead: str
) -> None:
    key = "old_key_that_is_dead"
    column = {"revoked": "revoked_at", "expired": "expires_at", "suspended": "suspended_at"}
    fields = {column[dead]: "2024-01-01"} if dead in column else {}
    key_id = salted(service, key, **fields)
    if dead == "revoked since":
        world.session().execute(REVOKE, [key_id, False])
    assert claim(service, key) is None
    assert resolves(world, key) is None
    if dead == "suspended":
        world.session().execute("select keylatch.resume_key(%s)", [key_id])
        assert claim(service, key) == key_id


def test_a_wrong_key_costs_no_more_slow_hashes_than_the_limit(
    world: World, service: Connection
) -> None:
    world.owner.execute("update keylatch_internal.installation set claim_limit = 3")
    for n in range(3):
        salted(service, f"old_key_{n}")
    # One more could never be found: it is refused, unless what it begins with tells it apart.
    (came,) = import_(service, line(**pbkdf2("another", "hex", "hex")))["lines"]
    assert (came["outcome"], came["slug"]) == ("refused", "invalid_argument")
    assert "claim" in came["detail"]
    (came,) = import_(service, line(**pbkdf2("another", "hex", "hex"), starts_with="anot"))["lines"]
    assert came["outcome"] == "refused"
    with world.database.connect(superuser=True) as counted:
        counted.execute("set track_functions = 'all'")
        counted.execute("select pg_stat_reset()")
        assert claim(counted, "a wrong key") is None
        counted.execute("select pg_stat_force_next_flush()")
    calls = "select calls from pg_stat_user_functions where funcname = 'derive_pbkdf2'"
    assert world.database.connect().execute(calls).fetchone() == (3,)


def test_a_claim_says_nothing_of_other_workspaces_and_heeds_origins(
    world: World, service: Connection
) -> None:
    key = "old_publishable_key_in_a_page"
    import_(
        service,
        line(
            **pbkdf2(key, "hex", "hex"),
            kind="publishable",
            allowed_origins=["https://client.example"],
        ),
    )
    assert claim(service, key, People.b) is None
    asked = "select key_id from keylatch.claim_key(%s, %s, %s)"
    assert service.execute(asked, [key, People.a, "https://evil.example"]).fetchone() is None
    assert service.execute(asked, [key, People.a, "https://client.example"]).fetchone()
    row = world.owner.execute("select public_key from keylatch.keys").fetchone()
    assert row == (key,)


@pytest.mark.parametrize("key", ["", "x" * 2000, "wk_sk_live_nothing", "\u202eold", None])
def test_nothing_that_is_no_key_is_claimed(service: Connection, key: str | None) -> None:
    salted(service, "old_key_of_somebody")
    assert service.execute(CLAIM, [key, People.a]).fetchone() is None
    assert service.execute(CLAIM, ["old_key_of_somebody", None]).fetchone() is None


def test_resolve_falls_through_to_a_claim_when_it_is_told_the_workspace(
    world: World, service: Connection
) -> None:
    key = "old_key_of_a_service"
    key_id = salted(service, key)
    runtime = Keylatch.from_psycopg(world.database.connect("keylatch_resolver"))
    assert runtime.resolve(key) is None
    assert runtime.resolve(key, workspace_id=People.b) is None
    found = runtime.resolve(key, workspace_id=People.a)
    assert found is not None
    assert found.key_id == key_id
    again = runtime.resolve(key)
    assert again is not None
    assert again.key_id == key_id


def test_two_claims_at_once_make_one_native_hash(world: World, service: Connection) -> None:
    keys = [f"old_key_claimed_twice_{n}" for n in range(100)]
    lines = [line(**pbkdf2(key, "hex", "hex"), starts_with=key) for key in keys]
    assert import_(service, *lines)["imported"] == 100
    sessions = [world.database.connect("keylatch_resolver") for _ in range(2)]
    for key in keys:
        came = together([partial(attempt, one, CLAIM, [key, People.a]) for one in sessions])
        assert {one.word for one in came} == {"done"}
        assert len({one.row for one in came}) == 1
        assert came[0].row
    counts = world.owner.execute(
        "select count(*), count(distinct key_hash) from keylatch_internal.keys"
    ).fetchone()
    assert counts == (100, 100)


def test_a_revocation_at_the_same_moment_wins_over_a_claim(
    world: World, service: Connection
) -> None:
    """Threat: upgrade racing revoke."""
    keys = [f"old_key_revoked_meanwhile_{n}" for n in range(100)]
    lines = [line(**pbkdf2(key, "hex", "hex"), starts_with=key) for key in keys]
    ids = [UUID(one["key_id"]) for one in import_(service, *lines)["lines"]]
    claimer, alice = world.database.connect("keylatch_resolver"), world.session()
    for key, key_id in zip(keys, ids, strict=True):
        came = together(
            [
                partial(attempt, claimer, CLAIM, [key, People.a]),
                partial(attempt, alice, REVOKE, [key_id, False]),
            ]
        )
        assert [one.word for one in came] == ["done", "done"]
        # Whatever the claim answered: it was before the revocation, or it was nothing.
        assert resolves(world, key) is None
        assert claim(claimer, key) is None


def test_a_claim_waits_for_a_revocation_that_came_first_and_gives_way(world: World) -> None:
    service = world.database.connect("service_role")
    key = "old_key_in_a_race"
    key_id = salted(service, key)
    alice = world.session(autocommit=False)
    alice.execute(REVOKE, [key_id, False])
    claiming = world.waiting(CLAIM, [key, People.a], waits_for=alice, session=service)
    alice.commit()
    assert claiming.outcome() == ("done", ())
    row = world.owner.execute("select key_hash from keylatch_internal.keys").fetchone()
    assert row == (None,)


def test_the_same_key_under_two_salts_becomes_one_native_key(
    world: World, service: Connection
) -> None:
    key = "old_key_kept_twice"
    lines = [line(**pbkdf2(key, "hex", "hex")) for _ in range(2)]
    assert import_(service, *lines)["imported"] == 2
    sessions = [world.database.connect("keylatch_resolver") for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(lambda session: claim(session, key), sessions))
    assert len(found - {None}) == 1
    count = world.owner.execute(
        "select count(*) from keylatch_internal.keys where key_hash is not null"
    ).fetchone()
    assert count == (1,)


def test_an_admin_sees_what_is_unclaimed_and_nobody_reads_a_salted_hash(
    world: World, service: Connection, people: People
) -> None:
    key_id = salted(service, "old_key_that_waits")
    asked = "select key_id, algorithm from keylatch.unclaimed_keys"
    assert world.session().execute(asked).fetchall() == [(key_id, "pbkdf2_sha256")]
    for who in ("bob", "mia", "stranger"):
        other = world.database.connect("authenticated", people.claims(who))
        assert other.execute(asked).fetchall() == []
    for role in ("anon", "authenticated", "service_role", "keylatch_resolver"):
        session = world.database.connect(role)
        for column in ("verifier", "starts_with", "*"):
            read = f"select {column} from keylatch_internal.foreign_hashes"
            assert attempt(session, read).word == "42501"
    # Revoked is out of the list, and its hash is of no use to anybody.
    world.session().execute(REVOKE, [key_id, False])
    assert world.session().execute(asked).fetchall() == []


def test_the_verifier_of_a_claim_is_what_the_library_computes(world: World) -> None:
    for rounds, salt, key in ((1, b"\x00", "k"), (2, b"s" * 100, "x" * 65), (1000, b"salt", "é")):
        row = world.owner.execute(
            "select keylatch_internal.derive_pbkdf2(%s, %s, %s)", [key, salt, rounds]
        ).fetchone()
        assert row == (hashlib.pbkdf2_hmac("sha256", key.encode(), salt, rounds),)
