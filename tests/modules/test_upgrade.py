"""Salted hashes of other systems: the first use upgrades a key, and inactive keys stay inactive."""

import base64
import hashlib
import itertools
import json
import secrets
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any
from uuid import UUID

import bcrypt
import httpx
import pytest
from django.conf import settings
from django.contrib.auth.hashers import PBKDF2PasswordHasher

from core.racing import Connection, System, attempt, together
from keylatch import Keylatch
from modules.test_import import import_, line, resolves
from stack import HANG_SECONDS, Database, People, Rest, Tokens

pytestmark = [pytest.mark.one_server, pytest.mark.long]

if not settings.configured:
    settings.configure()

UPGRADE = "select key_id from keylatch.upgrade_key(%s, %s)"
REVOKE = "select revoked_at from keylatch.revoke_legacy_key(%s, 'leaked')"
VECTORS = 200


@pytest.fixture
def system(database: Database, people: People) -> System:
    system = System(database, people)
    # The tests make many calls in a minute. Other tests check the rate limit.
    limit(system, 100_000)
    return system


@pytest.fixture
def service(system: System) -> Connection:
    service = system.database.connect("service_role")
    # On a busy machine, slow hashes may take longer than the role's statement_timeout.
    service.execute(f"set statement_timeout = '{HANG_SECONDS}s'")
    return service


def limit(system: System, upgrades: int) -> None:
    system.owner.execute(
        "update keylatch_internal.legacy_settings set upgrades_per_minute = %s", [upgrades]
    )


def pbkdf2(key: str, encoding: str, salt_encoding: str, rounds: int = 3) -> dict[str, object]:
    """A hash made by Python's hashlib, in the form of report 000."""
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


def sha256(key: str) -> dict[str, object]:
    digest = hashlib.sha256(key.encode()).hexdigest()
    return {"alg": "sha256", "hash": digest, "hash_encoding": "hex"}


def django(key: str, rounds: int = 3) -> dict[str, object]:
    hasher = PBKDF2PasswordHasher()
    return {"alg": "django", "hash": hasher.encode(key, hasher.salt(), iterations=rounds)}


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


def upgrade(connection: Connection, key: str, workspace: UUID | None = People.a) -> UUID | None:
    row = connection.execute(UPGRADE, [key, workspace]).fetchone()
    return row[0] if row else None


def salted(service: Connection, key: str, **fields: object) -> UUID:
    """Import a key under a salted hash, by default into workspace A."""
    (came,) = import_(service, line(**{**pbkdf2(key, "hex", "hex"), **fields}))["lines"]
    assert came["outcome"] == "waiting", came
    return UUID(came["key_id"])


def state(system: System, key: str) -> tuple[Any, ...] | None:
    """The id, the status and the reason of the row that `find_key` finds for a text."""
    return system.owner.execute(
        "select v.id, v.status, v.revoke_reason from keylatch_internal.keys as k"
        " join keylatch.keys as v on v.id = k.id where k.id = keylatch_internal.find_key(%s)",
        [key],
    ).fetchone()


@pytest.mark.parametrize("form", FORMS)
def test_vectors_of_the_libraries_are_upgraded_and_near_misses_are_not(
    system: System, service: Connection, form: str
) -> None:
    # Each library gets the same number of keys. A library with three forms splits its keys.
    count = VECTORS // {"django": 1}.get(form, 3) + 1
    keys = [f"old_{secrets.token_urlsafe(18)}é" for _ in range(count)]
    lines = [line(**FORMS[form](key), starts_with=key[:12]) for key in keys]
    report = import_(service, *lines)
    assert report["waiting"] == count, report
    for key, came in zip(keys, report["lines"], strict=True):
        assert resolves(system, key) is None
        for miss in (key[:-1], key + "x", key.swapcase(), key[:20] + " " + key[20:]):
            assert upgrade(service, miss) is None
        assert upgrade(service, key, People.b) is None
        assert upgrade(service, key) == UUID(came["key_id"])
        assert resolves(system, key) == UUID(came["key_id"])
    left = system.owner.execute("select distinct status from keylatch.legacy_keys").fetchall()
    assert left == [("upgraded",)]


def test_an_upgraded_key_is_as_any_other_and_a_second_import_finds_it(
    system: System, service: Connection
) -> None:
    key = "old_key_that_is_upgraded"
    form = pbkdf2(key, "hex", "hex")
    given = {"label": "shop", "scopes": ["a:b"], "metadata": {"n": 1}, "expires_at": "2999-01-31"}
    (came,) = import_(service, line(**form, **given))["lines"]
    assert upgrade(service, key) == UUID(came["key_id"])
    (row,) = Keylatch.from_psycopg(system.session()).list(People.a)
    assert (row.label, row.scopes, row.metadata) == ("shop", ("a:b",), {"n": 1})
    assert row.expires_at is not None
    assert row.expires_at.year == 2999
    assert row.imported_at is not None
    (again,) = import_(service, line(**form))["lines"]
    assert (again["outcome"], again["key_id"]) == ("exists", came["key_id"])
    (again,) = import_(service, line(**form, revoked_at="2024-01-01"))["lines"]
    assert (again["outcome"], again["key_id"]) == ("moved", came["key_id"])
    assert resolves(system, key) is None
    assert upgrade(service, key) is None
    (again,) = import_(service, line(**form))["lines"]
    assert again["outcome"] == "exists"
    assert upgrade(service, key) is None


def test_bcrypt_ignores_what_follows_72_bytes_so_a_longer_key_never_matches(
    system: System, service: Connection
) -> None:
    cut = "x" * 72
    import_(service, line(**blowfish(cut)))
    assert upgrade(service, cut + "and more") is None
    assert upgrade(service, cut) is not None


@pytest.mark.parametrize("dead", ["revoked", "expired", "revoked since", "suspended"])
def test_an_inactive_key_is_upgraded_to_an_inactive_one(
    system: System, service: Connection, dead: str
) -> None:
    key = "old_key_that_is_dead"
    column = {"revoked": "revoked_at", "expired": "expires_at", "suspended": "suspended_at"}
    fields = {column[dead]: "2024-01-01"} if dead in column else {}
    key_id = salted(service, key, **fields)
    if dead == "revoked since":
        system.session().execute(REVOKE, [key_id])
    assert upgrade(service, key) is None
    assert resolves(system, key) is None
    row = state(system, key)
    assert row is not None
    assert row[:2] == (key_id, dead.split()[0])
    if dead == "suspended":
        system.session().execute("select keylatch.unsuspend_key(%s)", [key_id])
        assert upgrade(service, key) == key_id


SALTS: Mapping[str, Callable[[str], dict[str, object]]] = {
    "another salt": lambda key: pbkdf2(key, "hex", "hex"),
    "another scheme": blowfish,
    "sha256": sha256,
    "plaintext": lambda key: {"key": key},
}


@pytest.mark.parametrize("again", SALTS)
@pytest.mark.parametrize("dead", ["revoked", "revoked since", "used", "expired", "suspended"])
def test_a_key_that_is_inactive_is_inactive_under_every_salt(
    system: System, service: Connection, dead: str, again: str
) -> None:
    """Threat: a dead imported key that lives again by a second import."""
    key = "the-legacy-secret-of-a-customer"
    column = {"revoked": "revoked_at", "expired": "expires_at", "suspended": "suspended_at"}
    key_id = salted(service, key, **({column[dead]: "2024-01-01"} if dead in column else {}))
    if dead in ("revoked since", "used"):
        system.session().execute(REVOKE, [key_id])
    if dead == "used":
        assert upgrade(service, key) is None
    import_(service, line(**SALTS[again](key)))
    assert resolves(system, key) is None
    assert upgrade(service, key) is None
    assert resolves(system, key) is None
    row = state(system, key)
    assert row is not None
    assert row[:2] == (key_id, "revoked" if dead == "used" else dead.split()[0])


CLUES: Mapping[str, Callable[[str], dict[str, object]]] = {
    "nothing": lambda _: {},
    "its beginning": lambda key: {"starts_with": key[:9]},
    "its end": lambda key: {"ends_with": key[-6:]},
}


@pytest.mark.parametrize("workspace", [People.a, None], ids=["its workspace", "no workspace"])
@pytest.mark.parametrize("again", SALTS)
@pytest.mark.parametrize("known", CLUES)
def test_a_revoked_key_stays_so_whatever_is_known_of_it(
    system: System, service: Connection, known: str, again: str, workspace: UUID | None
) -> None:
    """Threat: one line knows the beginning of a key, another its end or nothing."""
    for number, clue in enumerate(CLUES):
        key = f"{number}-the-legacy-secret-of-customer-{number}"
        key_id = salted(service, key, **CLUES[known](key))
        system.session().execute(REVOKE, [key_id])
        given = CLUES[clue](key) if again != "plaintext" else {}
        import_(service, line(**SALTS[again](key), **given))
        assert resolves(system, key) is None, clue
        assert upgrade(service, key, workspace) is None, clue
        assert resolves(system, key) is None, clue
        # With the workspace, the call finds the revoked row. After this call, no row waits.
        assert upgrade(service, key) is None
        row = state(system, key)
        assert row is not None
        assert row[:2] == (key_id, "revoked"), clue
        waiting = (
            "select from keylatch_internal.legacy_keys where upgraded_at is null and rounds >= 0"
        )
        assert not system.owner.execute(waiting).fetchall(), clue


@pytest.mark.parametrize("again", SALTS)
def test_a_revoked_line_counts_in_its_own_batch_whatever_is_known_of_it(
    system: System, service: Connection, again: str
) -> None:
    for number, (known, clue) in enumerate(itertools.product(CLUES, CLUES)):
        key = f"{number}-the-legacy-secret-of-customer-{number}"
        given = CLUES[clue](key) if again != "plaintext" else {}
        revoked = {**pbkdf2(key, "hex", "hex"), **CLUES[known](key), "revoked_at": "2024-01-01"}
        import_(service, line(**revoked), line(**SALTS[again](key), **given))
        for workspace in (None, People.a):
            assert upgrade(service, key, workspace) is None, (known, clue)
            assert resolves(system, key) is None, (known, clue)


@pytest.mark.parametrize("at_once", [False, True])
def test_what_is_known_of_both_ends_needs_no_more_rounds_than_a_call_has(
    system: System, service: Connection, at_once: bool
) -> None:
    """Otherwise each line would wait, and no call could compute the rounds of all lines."""
    lines = [
        line(**{**pbkdf2("old_key_1", "hex", "hex"), "iter": 700_000, **CLUES[clue]("old_key_1")})
        for clue in ("its beginning", "its end")
    ]
    batches = [lines] if at_once else [[one] for one in lines]
    outcomes = [one["outcome"] for batch in batches for one in import_(service, *batch)["lines"]]
    assert outcomes == ["waiting", "refused"]


def test_the_other_keys_of_a_workspace_that_was_found_count_in_the_rounds_of_the_call(
    system: System, service: Connection
) -> None:
    key = "old_key_with_a_beginning"
    known = salted(service, key, starts_with="old_key_")
    slow = {"workspace_id": str(People.b), "starts_with": "old_key_", "iter": 600_000}
    salted(service, "old_key_of_another_workspace", **slow)
    salted(service, "a key of which nothing is known", iter=650_000)
    outcome = attempt(service, UPGRADE, [key, None])
    assert outcome.word == "invalid_argument"
    assert resolves(system, key) is None
    assert upgrade(service, key) == known


def test_revoking_one_of_two_rows_of_a_text_revokes_the_text(
    system: System, service: Connection
) -> None:
    key = "old_key_under_two_salts"
    first, second = salted(service, key), salted(service, key)
    key_id = upgrade(service, key)
    assert key_id in (first, second)
    alice = system.session()
    (other,) = {first, second} - {key_id}
    revoked = alice.execute(
        "select id, already_revoked from keylatch.revoke_legacy_key(%s, 'leaked')", [other]
    ).fetchone()
    assert revoked == (other, False)
    assert state(system, key) == (other, "revoked", "leaked")
    assert resolves(system, key) is None


def test_one_call_computes_no_more_rounds_than_it_says_and_reaches_each_key(
    system: System, service: Connection
) -> None:
    budget = 1_200_000
    # Three keys of 400,000 rounds fit into the 1,200,000 rounds of one call.
    keys = [f"old_key_{n}" for n in range(10)]
    lines = [line(**django(key, rounds=400_000)) for key in keys]
    report = import_(service, *lines)
    assert (report["waiting"], report["refused"]) == (3, 7)
    refused = report["lines"][3]
    assert refused["slug"] == "invalid_argument"
    assert "upgrade_key" in refused["detail"]
    (came,) = import_(service, line(**django("old_key", 2), starts_with="old_"))["lines"]
    assert came["outcome"] == "refused"
    with system.database.connect(superuser=True) as counted:
        counted.execute("set track_functions = 'all'")
        counted.execute("select pg_stat_reset()")
        assert upgrade(counted, "a wrong key") is None
        counted.execute("select pg_stat_force_next_flush()")
    calls = "select calls from pg_stat_user_functions where funcname = 'derive_pbkdf2'"
    assert system.database.connect().execute(calls).fetchone() == (3,)
    total = system.owner.execute("select sum(rounds) from keylatch_internal.legacy_keys").fetchone()
    assert total == (budget,)
    for key in keys[:3]:
        assert upgrade(service, key) is not None
    assert import_(service, *lines)["waiting"] == 3


def test_without_a_workspace_only_keys_with_a_known_beginning_are_tried(
    system: System, service: Connection
) -> None:
    salted(service, "old_key_without_a_beginning")
    known = salted(service, "old_key_with_a_beginning", starts_with="old_key_with_")
    assert upgrade(service, "old_key_without_a_beginning", None) is None
    assert upgrade(service, "old_key_with_a_beginning", None) == known
    # If keys of many workspaces have the same beginning, a call needs the workspace.
    for workspace in (People.a, People.b):
        fields = {"workspace_id": str(workspace), "starts_with": "sk_prod_", "iter": 700_000}
        salted(service, f"sk_prod_{workspace}", **fields)
    outcome = attempt(service, "select keylatch.upgrade_key('sk_prod_of_somebody')")
    assert outcome.word == "invalid_argument"
    assert upgrade(service, "sk_prod_of_somebody") is None


@pytest.mark.parametrize("given", ["plaintext", "sha256"])
def test_a_key_that_may_be_a_waiting_one_waits_until_its_text_is_seen(
    system: System, service: Connection, given: str
) -> None:
    salted(service, "old_key_of_somebody", starts_with="old_key_")
    keys = ["old_key_of_another", "new_key_of_another"]
    report = import_(service, *(line(**SALTS[given](key)) for key in keys))
    # A hash alone does not show how the key begins, unless the line names the beginning.
    outcomes = ["waiting", "imported" if given == "plaintext" else "waiting"]
    assert [one["outcome"] for one in report["lines"]] == outcomes
    (told,) = import_(service, line(**sha256("a key of one more"), starts_with="a key"))["lines"]
    assert told["outcome"] == "imported"
    assert resolves(system, keys[0]) is None
    assert upgrade(service, keys[0]) == UUID(report["lines"][0]["key_id"])
    assert resolves(system, keys[0]) == UUID(report["lines"][0]["key_id"])
    # The other key of the workspace still waits for its first use.
    assert upgrade(service, "old_key_of_somebody")


def test_an_upgrade_says_nothing_of_other_workspaces_and_heeds_origins(
    system: System, service: Connection
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
    assert upgrade(service, key, People.b) is None
    asked = "select key_id from keylatch.upgrade_key(%s, %s, %s)"
    assert service.execute(asked, [key, People.a, "https://evil.example"]).fetchone() is None
    assert service.execute(asked, [key, People.a, "https://client.example"]).fetchone()
    assert service.execute(asked, [key, People.b, "https://client.example"]).fetchone() is None
    # The row was made before the text was known, and public_key never changes.
    row = system.owner.execute("select public_key from keylatch.keys").fetchone()
    assert row == (None,)


@pytest.mark.parametrize("key", ["", "x" * 2000, "wk_sk_live_nothing", "\u202eold", None])
def test_nothing_that_is_no_key_is_upgraded(service: Connection, key: str | None) -> None:
    salted(service, "old_key_of_somebody")
    assert service.execute(UPGRADE, [key, People.a]).fetchone() is None
    assert service.execute(UPGRADE, ["old_key_of_somebody", None]).fetchone() is None


def test_two_upgrades_at_once_make_one_key(system: System, service: Connection) -> None:
    keys = [f"old_key_used_twice_{n:03d}" for n in range(100)]
    lines = [line(**pbkdf2(key, "hex", "hex"), starts_with=key) for key in keys]
    assert import_(service, *lines)["waiting"] == 100
    sessions = [system.database.connect("keylatch_resolver") for _ in range(2)]
    for key in keys:
        came = together([partial(attempt, one, UPGRADE, [key, People.a]) for one in sessions])
        assert {one.word for one in came} == {"done"}
        assert len({one.row for one in came}) == 1
        assert came[0].row
    count = system.owner.execute("select count(*) from keylatch_internal.keys").fetchone()
    assert count == (100,)


def test_a_revocation_at_the_same_moment_wins_over_an_upgrade(
    system: System, service: Connection
) -> None:
    """Threat: upgrade racing revoke."""
    keys = [f"old_key_revoked_meanwhile_{n:03d}" for n in range(100)]
    lines = [line(**pbkdf2(key, "hex", "hex"), starts_with=key) for key in keys]
    ids = [UUID(one["key_id"]) for one in import_(service, *lines)["lines"]]
    resolver, alice = system.database.connect("keylatch_resolver"), system.session()
    for key, key_id in zip(keys, ids, strict=True):
        came = together(
            [
                partial(attempt, resolver, UPGRADE, [key, People.a]),
                partial(attempt, alice, REVOKE, [key_id]),
            ]
        )
        assert [one.word for one in came] == ["done", "done"]
        # The upgrade came before the revocation or found no key. In both cases the key is revoked.
        assert resolves(system, key) is None
        assert upgrade(resolver, key) is None


@pytest.mark.parametrize("first", ["upgrade", "revocation"])
def test_neither_a_first_use_nor_a_revocation_waits_for_the_other(
    system: System, first: str
) -> None:
    """Threat: a resolver that is slow keeps an admin from revoking."""
    key = "old_key_in_a_race"
    resolver = system.database.connect("keylatch_resolver", autocommit=False)
    alice = system.session(autocommit=False)
    key_id = salted(system.database.connect("service_role"), key)
    ways: list[tuple[Connection, str, list[object]]] = [
        (resolver, UPGRADE, [key, People.a]),
        (alice, REVOKE, [key_id]),
    ]
    for session, statement, arguments in ways if first == "upgrade" else ways[::-1]:
        session.execute("set local lock_timeout = '10ms'")
        assert attempt(session, statement, arguments).word == "done"
    # The session that began first commits last.
    (resolver if first == "revocation" else alice).commit()
    (alice if first == "revocation" else resolver).commit()
    assert state(system, key) == (key_id, "revoked", "leaked")
    assert resolves(system, key) is None


def test_a_revoked_key_stays_so_if_it_is_used_and_imported_at_once(
    system: System, service: Connection
) -> None:
    keys = [f"old_key_imported_meanwhile_{n:03d}" for n in range(50)]
    lines = [line(**pbkdf2(key, "hex", "hex"), revoked_at="2024-01-01") for key in keys]
    assert import_(service, *lines)["waiting"] == 50
    resolver = system.database.connect("keylatch_resolver")
    imports = "select (keylatch.import_keys(%s)).imported"
    for key in keys:
        came = together(
            [
                partial(attempt, resolver, UPGRADE, [key, People.a]),
                partial(attempt, service, imports, [json.dumps([line(key=key)])]),
            ]
        )
        assert [one.word for one in came] == ["done", "done"]
        row = state(system, key)
        assert row is not None
        assert row[1] == "revoked"


def test_the_same_key_under_two_salts_has_one_answer(system: System, service: Connection) -> None:
    key = "old_key_kept_twice"
    lines = [line(**pbkdf2(key, "hex", "hex")) for _ in range(2)]
    assert import_(service, *lines)["waiting"] == 2
    sessions = [system.database.connect("keylatch_resolver") for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(lambda session: upgrade(session, key), sessions))
    assert len(found) == 1
    assert found != {None}
    rows = system.owner.execute("select key_id, status from keylatch.legacy_keys").fetchall()
    assert {status for _, status in rows} == {"upgraded"}
    assert found < {key_id for key_id, _ in rows}


def test_a_limit_counts_calls_that_are_rolled_back_or_cancelled(
    system: System, service: Connection
) -> None:
    """Threat: a counter that is undone with the work it counts."""
    # Six calls may succeed, because the calls may fall into two minutes.
    limit(system, 3)
    salted(service, "old_key", iter=1_200_000, hash="ab" * 32)
    hasty = system.database.connect("service_role")
    hasty.execute("set statement_timeout = '20ms'")
    words = [attempt(hasty, UPGRADE, [f"wrong {n}", People.a]).word for n in range(7)]
    assert set(words) == {"57014", "too_many_requests"}
    assert words[0] == "57014"


def test_nobody_waits_for_the_counter_and_a_key_with_a_row_is_not_counted(
    system: System, service: Connection
) -> None:
    # Six calls may succeed, because the calls may fall into two minutes.
    limit(system, 3)
    salted(service, "old_key_of_somebody")
    held = system.database.connect("service_role", autocommit=False)
    assert upgrade(held, "wrong 0") is None
    # The first call is still open. Other calls do not wait, and the first call counts.
    words = [attempt(service, UPGRADE, [f"wrong {n}", People.a]).word for n in range(6)]
    assert words[0] == "done"
    assert words[-1] == "too_many_requests"
    held.commit()
    # No slow hash is needed for a key with its own row, or if no key waits in the workspace.
    import_(service, {"workspace_id": str(People.b), "key": "a key in plaintext of B"})
    for _ in range(7):
        assert upgrade(service, "a key in plaintext of B", People.b) is not None
        assert upgrade(service, "wrong", People.b) is None


def test_many_cheap_hashes_are_counted_like_a_slow_one(system: System, service: Connection) -> None:
    """Threat: a stranger's text makes a service compute a second of cheap hashes, without end."""
    limit(system, 3)
    cheap = {
        "alg": "sha256_salted",
        "salt": "salt",
        "salt_encoding": "text",
        "salt_place": "before",
        "hash_encoding": "hex",
    }
    import_(service, *(line(**cheap, hash=f"{number:064x}") for number in range(500)))
    words = [attempt(service, UPGRADE, [f"wrong {n}", People.a]).word for n in range(7)]
    assert words[0] == "done"
    assert words[-1] == "too_many_requests"
    # A single cheap hash costs less than counting the call.
    import_(service, line(**cheap, hash="ab" * 32, workspace_id=str(People.b)))
    for number in range(7):
        assert upgrade(service, f"wrong {number}", People.b) is None


def test_a_window_that_a_wrong_clock_opened_closes_by_itself(
    system: System, service: Connection
) -> None:
    """Threat: a clock that was a year ahead refuses everybody for a year."""
    limit(system, 3)
    salted(service, "old_key_of_somebody")
    for years in (1, -1):
        moment = f"extract(epoch from now() + interval '{years} year')::bigint"
        system.owner.execute(
            "select setval('keylatch_internal.legacy_attempts_seq',"
            f" {moment} / 60 * 1000000 + 999999)"
        )
        assert attempt(service, UPGRADE, ["wrong", People.a]).word == "done"


def test_over_http_a_refused_call_says_when_to_come_back(
    system: System, service: Connection, rest: Rest, tokens: Tokens
) -> None:
    limit(system, 1)
    salted(service, "old_key_of_somebody")
    headers = {"Authorization": f"Bearer {tokens.service_key}", "Content-Profile": "keylatch"}
    # The third call is refused in any case: the first may be the last of its minute.
    answers = [
        httpx.post(
            f"{rest.rest_url}/rpc/upgrade_key",
            headers=headers,
            json={"key": "wrong", "workspace_id": str(People.a)},
        )
        for _ in range(3)
    ]
    assert [one.status_code for one in answers][::2] == [200, 429]
    assert answers[2].json()["message"] == "too_many_requests"
    assert 1 <= int(answers[2].headers["Retry-After"]) <= 60


def test_an_admin_sees_what_waits_and_nobody_reads_a_salted_hash(
    system: System, service: Connection, people: People
) -> None:
    key_id = salted(service, "old_key_that_waits")
    asked = "select id, scheme, status from keylatch.legacy_keys"
    waiting = (key_id, "pbkdf2_sha256", "waiting")
    assert system.session().execute(asked).fetchall() == [waiting]
    for who in ("bob", "mia", "stranger"):
        other = system.database.connect("authenticated", people.claims(who))
        assert other.execute(asked).fetchall() == []
    for role in ("anon", "authenticated", "service_role", "keylatch_resolver"):
        session = system.database.connect(role)
        for column in ("verifier", "clear_part", "*"):
            read = f"select {column} from keylatch_internal.legacy_keys"
            assert attempt(session, read).word == "42501"
    system.session().execute(REVOKE, [key_id])
    revoked = (key_id, "pbkdf2_sha256", "revoked")
    assert system.session().execute(asked).fetchall() == [revoked]


def test_pbkdf2_is_what_the_library_computes(system: System) -> None:
    for rounds, salt, key in ((1, b"\x00", "k"), (2, b"s" * 100, "x" * 65), (1000, b"salt", "é")):
        row = system.owner.execute(
            "select keylatch_internal.derive_pbkdf2(%s, %s, %s)", [key, salt, rounds]
        ).fetchone()
        assert row == (hashlib.pbkdf2_hmac("sha256", key.encode(), salt, rounds),)
