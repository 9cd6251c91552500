"""Keys with an unsalted old hash: each call finds them by their scheme, without an upgrade."""

import base64
import hashlib
import hmac
import itertools
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from core.racing import Connection, System, attempt
from modules.test_import import import_, line, resolves
from modules.test_upgrade import REVOKE, UPGRADE, pbkdf2, salted, upgrade
from stack import Database, People

pytestmark = pytest.mark.one_server

SECRET = "a pepper of the old application"
Hash = Callable[[str], bytes]


def digest(name: str) -> Hash:
    return lambda text: hashlib.new(name, text.encode()).digest()


def keyed(name: str) -> Hash:
    return lambda text: hmac.new(SECRET.encode(), text.encode(), name).digest()


def presented(body: bytes) -> str:
    return base64.urlsafe_b64encode(body).decode().rstrip("=")


TEXT = "12|lOMLLeoo9rUrySS4AD2hp7qIOGjuVO90"
PART = TEXT.split("|")[1]
BODY = hashlib.sha256(TEXT.encode()).digest()
SLOW = {
    "strip": "glsa_",
    "take": 32,
    "digest": "pbkdf2-sha256",
    "salt_take": -8,
    "iter": 1000,
    "length": 50,
}
SECRETIVE = {"digest": "hmac-sha256", "secret": "pepper"}
# The old system's scheme, the key as its holder has it, and the hash in the old table.
SCHEMES: Mapping[str, tuple[dict[str, object], str, bytes]] = {
    "sanctum": ({"after": "|", "digest": "sha256"}, TEXT, digest("sha256")(PART)),
    "calcom": ({"strip": "cal_", "digest": "sha256"}, f"cal_{PART}", digest("sha256")(PART)),
    "knox": ({"digest": "sha512"}, PART, digest("sha512")(PART)),
    "phoenix": (
        {"decode": "base64", "digest": "sha256"},
        presented(BODY),
        hashlib.sha256(BODY).digest(),
    ),
    "hex": (
        {"decode": "hex", "digest": "md5"},
        BODY.hex(),
        hashlib.md5(BODY, usedforsecurity=False).digest(),
    ),
    "langfuse": (
        {"append": "{secret}", "secret": "pepper", "digest": "sha256"},
        PART,
        digest("sha256")(PART + SECRET),
    ),
    "plausible": (
        {"prepend": "{secret}", "secret": "pepper", "digest": "sha1"},
        PART,
        digest("sha1")(SECRET + PART),
    ),
    "rails": (dict(SECRETIVE), PART, keyed("sha256")(PART)),
    "strapi": ({**SECRETIVE, "digest": "hmac-sha512"}, PART, keyed("sha512")(PART)),
    "first": ({"take": 8, "digest": "sha256"}, PART, digest("sha256")(PART[:8])),
    "last": ({"take": -8, "digest": "sha256"}, PART, digest("sha256")(PART[-8:])),
}
DECLARE = "select keylatch.declare_scheme(%s, %s)"


@pytest.fixture
def system(database: Database, people: People) -> System:
    system = System(database, people)
    system.owner.execute(
        "insert into keylatch_internal.legacy_secrets (name, secret) values ('pepper', %s)",
        [SECRET],
    )
    return system


@pytest.fixture
def service(system: System) -> Connection:
    return system.database.connect("service_role")


def declare(connection: Connection, name: str, **recipe: object) -> None:
    connection.execute(DECLARE, [name, json.dumps(recipe)])


def under(scheme: str, kept: bytes, **fields: object) -> dict[str, object]:
    return line(scheme=scheme, hash=kept.hex(), hash_encoding="hex", **fields)


def sanctum(service: Connection, text: str = TEXT, **fields: object) -> UUID:
    """Import a key of Laravel Sanctum."""
    declare(service, "sanctum", after="|", digest="sha256")
    kept = hashlib.sha256(text.partition("|")[2].encode()).digest()
    (came,) = import_(service, under("sanctum", kept, **fields))["lines"]
    assert came["outcome"] == "imported", came
    return UUID(came["key_id"])


@pytest.mark.parametrize("name", SCHEMES)
def test_a_key_under_a_scheme_resolves_at_once_and_its_near_misses_do_not(
    system: System, service: Connection, name: str
) -> None:
    recipe, text, kept = SCHEMES[name]
    declare(service, name, **recipe)
    declare(service, name, **recipe)  # again is no error
    (came,) = import_(service, under(name, kept))["lines"]
    assert came["outcome"] == "imported"
    assert resolves(system, text) == UUID(came["key_id"])
    (again,) = import_(service, under(name, kept))["lines"]
    assert (again["outcome"], again["key_id"]) == ("exists", came["key_id"])
    wrong = [text[1:-1], text.swapcase(), kept.hex(), presented(kept), "|", "", "|" * 5000]
    if name != "hex":  # upper and lower case are equal in hex
        assert [resolves(system, one) for one in wrong] == [None] * len(wrong)
    assert resolves(system, text, "https://a.example") is None


def test_a_key_under_a_scheme_resolves_on_every_path(system: System, service: Connection) -> None:
    key_id = sanctum(service, scopes=["orders:read"])
    resolver = system.database.connect("keylatch_resolver")
    rows = resolver.execute(
        'select "position", key_id from keylatch.resolve_keys(%s) order by 1',
        [["a wrong one", TEXT, "another"]],
    ).fetchall()
    assert rows == [(1, None), (2, key_id), (3, None)]
    for session in (resolver, system.session()):
        asked = "select verdict, key_id from keylatch.explain_key(%s)"
        assert session.execute(asked, [TEXT]).fetchone() == ("valid", key_id)
    page = system.database.connect("anon", autocommit=False)
    headers = json.dumps({"x-api-key": TEXT})
    page.execute("select set_config('request.headers', %s, true)", [headers])
    identity = "select keylatch.current_workspace_id(), keylatch.has_scope('orders:read')"
    assert page.execute(identity).fetchone() == (People.a, True)
    reading = system.database.connect("keylatch_resolver")
    reading.execute("set default_transaction_read_only = on")
    assert reading.execute("select key_id from keylatch.resolve_key(%s)", [TEXT]).fetchone()


def test_a_key_under_a_scheme_is_managed_as_any_other(system: System, service: Connection) -> None:
    key_id = sanctum(service, label="shop")
    alice = system.session()
    alice.execute("select keylatch.suspend_key(%s)", [key_id])
    assert resolves(system, TEXT) is None
    alice.execute("select keylatch.unsuspend_key(%s)", [key_id])
    assert resolves(system, TEXT) == key_id
    row = alice.execute("select key from keylatch.rotate_key(%s)", [key_id]).fetchone()
    assert row is not None
    assert resolves(system, row[0])
    assert resolves(system, TEXT) is None
    explained = alice.execute("select verdict from keylatch.explain_key(%s)", [TEXT]).fetchone()
    assert explained == ("revoked",)
    (again,) = import_(service, under("sanctum", digest("sha256")(PART)))["lines"]
    assert again["outcome"] == "exists"
    assert resolves(system, TEXT) is None


def test_a_hash_of_the_old_table_never_resolves(system: System, service: Connection) -> None:
    """Threat: a stored hash, or its hex, presented as a key authenticates."""
    # The stored MD5 consists of letters, so a text can have the same bytes as the stored hash.
    declare(service, "old", digest="md5")
    stored = b"sixteen letters!"
    import_(service, under("old", stored))
    for text in (stored.decode(), stored.hex(), f"old{stored.decode()}"):
        assert resolves(system, text) is None
    rows = system.owner.execute("select key_hash from keylatch_internal.keys").fetchall()
    assert rows == [(hashlib.sha256(b"\xffold\xff" + stored).digest(),)]


INACTIVE: list[tuple[str, dict[str, object]]] = [
    ("revoked", {"revoked_at": "2024-01-01"}),
    ("expired", {"expires_at": "2024-01-01"}),
    ("suspended", {"suspended_at": "2024-01-01"}),
]


@pytest.mark.parametrize(("verdict", "fields"), INACTIVE)
def test_a_text_that_is_inactive_under_one_hash_is_inactive(
    system: System, service: Connection, verdict: str, fields: dict[str, object]
) -> None:
    """Threat: a dead imported key that lives again by a second import."""
    declare(service, "one", digest="sha512")
    declare(service, "two", after="|", digest="sha256")
    asked = "select verdict from keylatch.explain_key(%s)"
    # The first key comes under SHA-256 and a scheme, the second under two schemes and in plaintext.
    native = {"alg": "sha256", "hash": digest("sha256")(TEXT).hex(), "hash_encoding": "hex"}
    import_(service, line(**native, **fields), under("one", digest("sha512")(TEXT)))
    other = "7|another key of the old system, 1"
    kept = digest("sha256")(other.partition("|")[2])
    import_(
        service,
        under("two", kept, **fields),
        under("one", digest("sha512")(other)),
    )
    (plain,) = import_(service, line(key=other))["lines"]
    assert plain["outcome"] == "exists"
    for text in (TEXT, other):
        assert resolves(system, text) is None
        assert upgrade(service, text) is None
        assert system.session().execute(asked, [text]).fetchone() == (verdict,)


PLAIN = {"alg": "sha256", "hash": digest("sha256")(TEXT).hex(), "hash_encoding": "hex"}


@pytest.mark.parametrize(("verdict", "fields"), INACTIVE)
def test_a_key_that_is_inactive_under_a_scheme_is_not_active_under_its_sha256(
    system: System, service: Connection, verdict: str, fields: dict[str, object]
) -> None:
    """Threat: a dead imported key that lives again by a second import."""
    dead = sanctum(service, TEXT, **fields)
    report = import_(service, line(**PLAIN), line(**PLAIN))
    assert [one["outcome"] for one in report["lines"]] == ["imported", "exists"]
    assert report["lines"][0]["key_id"] == report["lines"][1]["key_id"]
    assert resolves(system, TEXT) is None
    asked = "select verdict, key_id from keylatch.explain_key(%s)"
    assert system.session().execute(asked, [TEXT]).fetchone() == (verdict, dead)
    # An active key under its SHA-256 resolves at once, and a later line finds its row.
    other = {**PLAIN, "hash": digest("sha256")("another key of that system").hex()}
    (came,) = import_(service, line(**other))["lines"]
    assert resolves(system, "another key of that system") == UUID(came["key_id"])
    for again in (other, {"key": "another key of that system"}):
        (said,) = import_(service, line(**again))["lines"]
        assert (said["outcome"], said["key_id"]) == ("exists", came["key_id"])


def test_a_sha256_that_came_before_the_first_scheme_is_found_again(
    system: System, service: Connection
) -> None:
    (came,) = import_(service, line(**PLAIN))["lines"]
    declare(service, "knox", digest="sha512")
    (again,) = import_(service, line(**PLAIN))["lines"]
    assert (again["outcome"], again["key_id"]) == ("exists", came["key_id"])
    assert resolves(system, TEXT) == UUID(came["key_id"])


def test_a_sha256_resolves_after_its_schemes_are_deleted(
    system: System, service: Connection
) -> None:
    declare(service, "knox", digest="sha512")
    (came,) = import_(service, line(**PLAIN))["lines"]
    system.owner.execute("delete from keylatch_internal.legacy_schemes")
    assert resolves(system, TEXT) == UUID(came["key_id"])


def test_a_scheme_stays_for_its_keys_and_a_scheme_without_keys_may_go(
    system: System, service: Connection
) -> None:
    """Threat: a revoked key of a scheme that is gone would come in again, in plaintext."""
    for name, length in (("knox", "sha512"), ("unused", "sha1")):
        declare(service, name, digest=length)
    (came,) = import_(service, under("knox", digest("sha512")(TEXT)))["lines"]
    system.session().execute("select keylatch.revoke_key(%s)", [came["key_id"]])
    delete = "delete from keylatch_internal.legacy_schemes where name = %s"
    change = "update keylatch_internal.legacy_schemes set append = 'x' where name = %s"
    for mode in ("origin", "replica"):
        superuser = system.database.connect(superuser=True)
        superuser.execute(f"set session_replication_role = {mode}".encode())
        for statement in (delete, change):
            assert attempt(superuser, statement, ["knox"]).word == "keys_are_kept"
    truncation = "truncate keylatch_internal.legacy_schemes"
    assert attempt(system.owner, truncation).word == "keys_are_kept"
    system.owner.execute(change, ["unused"])
    system.owner.execute(delete, ["unused"])
    assert import_(service, line(key=TEXT))["lines"][0]["outcome"] == "exists"
    assert resolves(system, TEXT) is None


def test_the_owner_does_not_hide_a_revoked_key_from_later_imports(
    system: System, service: Connection
) -> None:
    """Threat: a revoked old key that counts as upgraded would come in again, in plaintext."""
    key_id = salted(service, TEXT)
    system.session().execute("select keylatch.revoke_key(%s)", [key_id])
    hide = "update keylatch_internal.legacy_keys set upgraded_at = now() where key_id = %s"
    assert attempt(system.owner, hide, [key_id]).word == "column_is_immutable"
    import_(service, line(key=TEXT))
    assert upgrade(service, TEXT) is resolves(system, TEXT) is None


@pytest.mark.parametrize("again", ["plaintext", "sha256", "a fast scheme"])
def test_a_revoked_key_that_waits_is_inactive_under_every_hash(
    system: System, service: Connection, again: str
) -> None:
    """Threat: a dead imported key that lives again by a second import."""
    service.execute(DECLARE, ["slow", json.dumps(SLOW)])
    declare(service, "knox", digest="sha512")
    import_(service, line(**slow(SLOW_KEY), revoked_at="2024-01-01"))
    forms: Mapping[str, dict[str, object]] = {
        "plaintext": line(key=SLOW_KEY),
        "sha256": line(**{**PLAIN, "hash": digest("sha256")(SLOW_KEY).hex()}),
        "a fast scheme": under("knox", digest("sha512")(SLOW_KEY)),
    }
    import_(service, forms[again])
    assert resolves(system, SLOW_KEY) is None
    assert upgrade(service, SLOW_KEY) is None
    assert resolves(system, SLOW_KEY) is None


def test_a_hash_that_may_be_a_salted_key_waits_for_its_text(
    system: System, service: Connection
) -> None:
    declare(service, "sanctum", after="|", digest="sha256")
    dead = salted(service, TEXT, revoked_at="2024-01-01")
    report = import_(
        service,
        under("sanctum", digest("sha256")(PART)),
        under("sanctum", digest("sha256")("of another key")),
    )
    assert [one["outcome"] for one in report["lines"]] == ["waiting", "waiting"]
    assert resolves(system, TEXT) is None
    assert upgrade(service, TEXT) is None
    row = system.owner.execute("select keylatch_internal.find_key(%s)", [TEXT]).fetchone()
    assert row == (dead,)
    assert upgrade(service, "8|of another key") == UUID(report["lines"][1]["key_id"])
    assert resolves(system, "8|of another key")


def test_the_keys_of_a_scheme_end_with_it_and_are_listed_before(
    system: System, service: Connection
) -> None:
    first = sanctum(service, label="shop", last_used_at="2024-05-01T00:00:00Z")
    second = sanctum(service, "13|another key", expires_at="2098-01-01")
    nearer = sanctum(service, "14|a key that ends first", expires_at="2026-12-31T00:00:00Z")
    listed = system.session().execute(
        "select key_id, scheme, last_used_at from keylatch.imported_keys"
        " where last_used_at is not null"
    )
    assert listed.fetchall() == [(first, "sanctum", datetime(2024, 5, 1, tzinfo=UTC))]
    end = datetime(2090, 1, 1, tzinfo=UTC)
    ending = "select revoked, is_done from keylatch.end_scheme(%s, %s, %s)"
    assert service.execute(ending, ["sanctum", end, 1]).fetchone() == (1, False)
    assert service.execute(ending, ["sanctum", end, 1]).fetchone() == (1, True)
    third = sanctum(service, "15|a key that comes late")
    ends = dict(system.owner.execute("select id, expires_at from keylatch.keys").fetchall())
    assert {ends[first], ends[second], ends[third]} == {end}
    assert ends[nearer] < end
    # The end of a scheme cannot move to later or into the past, and an unknown scheme has no end.
    for name, when in (
        ("sanctum", end + timedelta(days=1)),
        ("sanctum", datetime(2024, 1, 1, tzinfo=UTC)),
        ("other", end),
        ("sanctum", None),
    ):
        assert attempt(service, ending, [name, when, 1]).word == "invalid_argument"
    soon = "select keylatch.end_scheme('sanctum', clock_timestamp() + interval '1 s')"
    service.execute(soon)
    service.execute("select pg_sleep(1.01)")
    assert resolves(system, TEXT) is None
    asked = "select verdict from keylatch.explain_key(%s)"
    assert system.session().execute(asked, [TEXT]).fetchone() == ("expired",)


def test_the_end_of_a_scheme_reaches_keys_whose_import_has_not_committed(
    system: System, service: Connection
) -> None:
    declare(service, "sanctum", after="|", digest="sha256")
    importing = system.database.connect("service_role", autocommit=False)
    (slow,) = import_(importing, under("sanctum", digest("sha256")(PART)))["lines"]
    ending = system.waiting(
        "select revoked, is_done from keylatch.end_scheme('sanctum', '2090-01-01 00:00Z')",
        [],
        waits_for=importing,
        session=system.database.connect("service_role"),
    )
    # Resolving a key does not wait.
    assert resolves(system, "17|an unknown key") is None
    importing.commit()
    assert ending.outcome().row == (1, True)
    found = system.owner.execute(
        "select expires_at from keylatch.keys where id = %s", [slow["key_id"]]
    )
    assert found.fetchone() == (datetime(2090, 1, 1, tzinfo=UTC),)


REFUSED: list[tuple[str | None, object, str]] = [
    ("Old", {"digest": "md5"}, "name must be"),
    (None, {"digest": "md5"}, "name must be"),
    ("bcrypt", {"digest": "md5"}, "name must be"),
    ("pbkdf2_sha256", {"digest": "md5"}, "name must be"),
    # keylatch marks hashes of its own rows with these names.
    ("held", {"digest": "md5"}, "name must be"),
    ("salted", {"digest": "md5"}, "name must be"),
    ("old", [], "unknown member"),
    ("old", None, "unknown member"),
    ("old", {"digest": "md5", "reverse": "yes"}, "unknown member"),
    ("old", {"digest": "md5", "name": "new"}, "unknown member"),
    ("old", {}, "digest must be"),
    ("old", {"digest": "argon2"}, "digest must be"),
    ("old", {"digest": 7}, "1 to 200 characters"),
    ("old", {"digest": "md5", "after": ""}, "1 to 200 characters"),
    ("old", {"digest": "md5", "strip": "x" * 201}, "1 to 200 characters"),
    ("old", {"digest": "md5", "take": 0}, "1 to 200 characters"),
    ("old", {"digest": "md5", "take": 1.5}, "1 to 200 characters"),
    ("old", {"digest": "md5", "take": "8"}, "1 to 200 characters"),
    ("old", {"digest": "md5", "take": 1000}, "1 to 200 characters"),
    ("old", {"digest": "md5", "decode": "rot13"}, "decode must be"),
    ("old", {**SECRETIVE, "secret_encoding": "rot13"}, "decode must be"),
    ("old", {"digest": "md5", "secret": "pepper"}, "secret is needed"),
    ("old", {"digest": "md5", "prepend": "{secret}"}, "secret is needed"),
    ("old", {"digest": "hmac-sha256"}, "secret is needed"),
    ("old", {**SECRETIVE, "secret": "salt"}, "No secret has the name"),
    ("old", {**SECRETIVE, "secret_encoding": "hex"}, "No secret has the name"),
    ("old", {"digest": "sha256"}, "needs no scheme"),
    ("old", {"digest": "md5", "iter": 1}, "PBKDF2 in a scheme"),
    ("old", {"digest": "pbkdf2-sha256"}, "PBKDF2 in a scheme"),
    ("old", {**SLOW, "strip": "g_"}, "PBKDF2 in a scheme"),
    ("old", {**SLOW, "decode": "hex"}, "PBKDF2 in a scheme"),
    ("old", {**SLOW, "prepend": "x"}, "PBKDF2 in a scheme"),
    ("old", {**SLOW, "length": 15}, "PBKDF2 in a scheme"),
    # No call could compute this many rounds.
    ("old", {**SLOW, "iter": 171_429}, "PBKDF2 in a scheme"),
    ("old", {**SLOW, "iter": "10000"}, "iter and length a number"),
    ("old", {**SLOW, "salt_take": 0}, "take and salt_take"),
]


@pytest.mark.parametrize(("name", "recipe", "words"), REFUSED)
def test_a_scheme_that_cannot_work_is_refused(
    service: Connection, name: str | None, recipe: object, words: str
) -> None:
    outcome = attempt(service, DECLARE, [name, json.dumps(recipe)])
    assert outcome.word == "invalid_argument"
    with pytest.raises(Exception, match=words):
        service.execute(DECLARE, [name, json.dumps(recipe)])


def test_a_ninth_scheme_and_another_recipe_are_refused(system: System, service: Connection) -> None:
    for number in range(8):
        declare(service, f"scheme{number}", digest="md5", prepend=str(number))
    for name, recipe in (("ninth", {"digest": "md5"}), ("scheme7", {"digest": "sha1"})):
        assert attempt(service, DECLARE, [name, json.dumps(recipe)]).word == "invalid_argument"
    declare(service, "scheme7", digest="md5", prepend="7")
    kept = digest("md5")(f"7{TEXT}")
    assert import_(service, under("scheme7", kept))["imported"] == 1
    assert resolves(system, TEXT)


def test_a_line_of_a_scheme_is_judged_as_any_other(service: Connection) -> None:
    declare(service, "old", digest="md5")
    for fields, words in (
        ({"scheme": "new"}, "not the name of a scheme"),
        ({"scheme": "old", "alg": "sha256"}, "both alg and scheme"),
        ({"scheme": "old", "hash": "ab" * 32}, "16 bytes"),
        ({"scheme": "old", "hash": "z" * 32}, "16 bytes"),
        ({"scheme": "old", "salt": "x"}, "do not go with"),
        ({"scheme": "old", "salt_place": "before"}, "do not go with"),
        ({"scheme": 7}, "scheme must be"),
    ):
        given = line(**{"hash": "ab" * 16, "hash_encoding": "hex", **fields})
        (refused,) = import_(service, given)["lines"]
        assert (refused["outcome"], refused["slug"]) == ("refused", "invalid_argument"), fields
        assert words in refused["detail"], fields


def test_a_secret_that_is_gone_ends_its_keys_and_no_other(
    system: System, service: Connection
) -> None:
    for name in ("langfuse", "rails"):
        recipe, _, kept = SCHEMES[name]
        declare(service, name, **recipe)
        import_(service, under(name, kept))
    other = sanctum(service)
    system.owner.execute("delete from keylatch_internal.legacy_secrets")
    assert resolves(system, PART) is None
    assert resolves(system, TEXT) == other


def test_a_secret_comes_from_the_vault_of_a_superuser_alone(
    system: System, service: Connection
) -> None:
    """Threat: a schema named vault whose view runs with the rights of keylatch's owner."""
    superuser = system.database.connect(superuser=True)
    superuser.execute("create schema vault; grant usage on schema vault to public")
    superuser.execute(
        "create view vault.decrypted_secrets as"
        " select 'vaulted' as name, 'a secret of the vault' as decrypted_secret"
    )
    superuser.execute("grant select on vault.decrypted_secrets to public")
    declare(service, "old", digest="hmac-sha256", secret="vaulted")
    kept = hmac.new(b"a secret of the vault", TEXT.encode(), "sha256").digest()
    import_(service, under("old", kept))
    assert resolves(system, TEXT)
    superuser.execute("alter view vault.decrypted_secrets owner to authenticated")
    assert resolves(system, TEXT) is None


@pytest.mark.parametrize("who", ["anon", "alice", "keylatch_resolver"])
def test_nobody_but_a_service_declares_or_ends_a_scheme(system: System, who: str) -> None:
    session = system.session() if who == "alice" else system.database.connect(who)
    for statement in (
        "select keylatch.declare_scheme('old', '{\"digest\": \"md5\"}')",
        "select keylatch.end_scheme('old', now() + interval '1 day')",
        "select keylatch.finish_import('old', gen_random_uuid())",
        "select * from keylatch_internal.legacy_secrets",
        "select * from keylatch_internal.legacy_schemes",
        "select * from keylatch_internal.legacy_texts",
    ):
        assert attempt(session, statement).word == "42501", statement


def test_a_salted_key_is_found_by_what_it_ends_with(system: System, service: Connection) -> None:
    """Gitea stores the last eight characters of a key and 50 bytes of PBKDF2."""
    keys = [digest("sha1")(str(number)).hex() for number in range(20)]
    lines = [
        line(
            alg="pbkdf2_sha256",
            hash=hashlib.pbkdf2_hmac("sha256", key.encode(), b"salt", 10_000, 50).hex(),
            hash_encoding="hex",
            salt="salt",
            salt_encoding="text",
            iter=10_000,
            ends_with=key[-8:],
        )
        for key in keys
    ]
    report = import_(service, *lines)
    assert report["waiting"] == 20
    found = [upgrade(service, key, None) for key in keys[:3]]
    assert found == [UUID(one["key_id"]) for one in report["lines"][:3]]
    assert upgrade(service, f"x{keys[3]}", None) is None
    assert resolves(system, keys[0]) == found[0]


SALTED: Mapping[str, dict[str, object]] = {
    **{
        f"pbkdf2_{name}, {length} bytes": {
            "alg": f"pbkdf2_{name}",
            "hash": hashlib.pbkdf2_hmac(name, TEXT.encode() * 5, b"salt", 3, length).hex(),
            "iter": 3,
        }
        for name, length in (("sha1", 20), ("sha1", 50), ("sha256", 16), ("sha512", 64))
    },
    "sha256 before": {
        "alg": "sha256_salted",
        "salt_place": "before",
        "hash": hashlib.sha256(b"salt" + TEXT.encode() * 5).hexdigest(),
    },
    "sha256 after": {
        "alg": "sha256_salted",
        "salt_place": "after",
        "hash": hashlib.sha256(TEXT.encode() * 5 + b"salt").hexdigest(),
    },
}


@pytest.mark.parametrize("form", SALTED)
def test_other_salted_hashes_are_found_at_the_first_use(
    system: System, service: Connection, form: str
) -> None:
    salt = {"hash_encoding": "hex", "salt": "salt", "salt_encoding": "text"}
    (came,) = import_(service, line(**SALTED[form], **salt))["lines"]
    assert came["outcome"] == "waiting"
    assert upgrade(service, TEXT * 4) is None
    assert upgrade(service, TEXT * 5) == UUID(came["key_id"])
    assert resolves(system, TEXT * 5) == UUID(came["key_id"])


def test_label_and_scopes_follow_the_old_system(system: System, service: Connection) -> None:
    (came,) = import_(service, line(key=TEXT, label="shop", scopes=["a"]))["lines"]
    for fields, outcome, detail, kept in (
        ({}, "exists", None, ("shop", ["a"])),
        ({"label": "shop", "scopes": ["a"]}, "exists", None, ("shop", ["a"])),
        ({"label": "store"}, "changed", "The label changed.", ("store", ["a"])),
        ({"scopes": ["b"]}, "changed", "The scopes changed.", ("store", ["b"])),
        (
            {"label": "end", "expires_at": "2098-01-01"},
            "moved",
            "The key expires earlier now. The label changed.",
            ("end", ["b"]),
        ),
        ({"revoked_at": "2024-01-01"}, "moved", "The key is revoked now.", ("end", ["b"])),
        ({"label": "dead", "scopes": []}, "exists", None, ("end", ["b"])),
    ):
        report = import_(service, line(key=TEXT, **fields))
        (one,) = report["lines"]
        assert (one["outcome"], one["detail"], one["key_id"]) == (outcome, detail, came["key_id"])
        assert report["changed"] == (outcome == "changed")
        row = system.owner.execute("select label, scopes from keylatch.keys").fetchone()
        assert row == kept


def run(service: Connection, source: str, *lines: object, import_id: UUID) -> Any:
    row = service.execute(
        "select to_jsonb(r) from keylatch.import_keys(%s, source => %s, import_id => %s) as r",
        [json.dumps(lines), source, import_id],
    ).fetchone()
    assert row is not None
    return row[0]


def test_keys_that_are_missing_in_the_whole_table_are_revoked(
    system: System, service: Connection
) -> None:
    night, next_night = uuid4(), uuid4()
    keys = [f"key number {number} of the old system" for number in range(5)]
    waiting = line(**pbkdf2("a salted key of it", "hex", "hex"), workspace_id=str(People.b))
    report = run(service, "old", *(line(key=key) for key in keys), waiting, import_id=night)
    assert (report["imported"], report["waiting"], report["import_id"]) == (5, 1, str(night))
    unnamed = import_(service, line(key="a key of another source"))["import_id"]
    finish = "select revoked, is_done from keylatch.finish_import(%s, %s, %s)"
    # An empty file, the file of another source, or no source must not revoke all keys.
    for source, import_id in (("old", next_night), ("other", night), ("", unnamed)):
        assert attempt(service, finish, [source, import_id, 1]).word == "invalid_argument"
    assert service.execute(finish, ["old", night, 10]).fetchone() == (0, True)
    run(service, "old", *(line(key=key) for key in keys[:3]), import_id=next_night)
    assert service.execute(finish, ["old", next_night, 2]).fetchone() == (2, False)
    assert service.execute(finish, ["old", next_night, 2]).fetchone() == (1, True)
    assert [resolves(system, key) is None for key in keys] == [False] * 3 + [True] * 2
    assert upgrade(service, "a salted key of it", People.b) is None
    assert resolves(system, "a key of another source")
    reason = system.owner.execute("select distinct revoke_reason from keylatch.keys").fetchall()
    assert set(reason) == {(None,), ("deleted in old",)}


def test_lines_name_workspaces_as_the_old_system_does(system: System, service: Connection) -> None:
    service.execute(
        "update keylatch.workspaces set external_id = 'tenant-7' where id = %s", [People.a]
    )
    report = import_(
        service,
        {"workspace": "tenant-7", "key": TEXT},
        {"workspace": "tenant-8", "key": f"{TEXT}8"},
        {"workspace": 7, "key": f"{TEXT}7"},
    )
    assert [one["outcome"] for one in report["lines"]] == ["imported", "refused", "refused"]
    assert "workspace_id" in report["lines"][1]["detail"]
    assert "workspace must be" in report["lines"][2]["detail"]
    assert system.owner.execute("select workspace_id from keylatch.keys").fetchone() == (People.a,)


def test_a_probe_tells_before_a_line_is_written_whether_keys_work(
    system: System, service: Connection
) -> None:
    declare(service, "sanctum", after="|", digest="sha256")
    lines = [
        under("sanctum", digest("sha256")(PART)),
        line(**pbkdf2("a salted key of it", "hex", "hex"), workspace_id=str(People.b)),
    ]
    probes = [
        {"key": TEXT},
        {"key": "a salted key of it", "workspace_id": str(People.b)},
        {"key": "9|not of this file"},
        {"key": TEXT, "origin": "https://a.example"},
    ]
    row = service.execute(
        "select to_jsonb(r) -> 'probes'"
        " from keylatch.import_keys(%s, dry_run => true, probes => %s) as r",
        [json.dumps(lines), json.dumps(probes)],
    ).fetchone()
    assert row is not None
    verdicts = [one["verdict"] for one in row[0]]
    assert verdicts == ["valid", "valid", "malformed", "secret_in_browser"]
    assert system.owner.execute("select count(*) from keylatch.keys").fetchone() == (0,)
    for wrong in (
        *('{"key": "x"}', "[7]", '[{"key": 7}]'),
        *('[{"key": "x", "workspace_id": "7"}]', '[{"key": "x", "workspace_id": 7}]'),
    ):
        statement = "select keylatch.import_keys('[]', probes => %s)"
        assert attempt(service, statement, [wrong]).word == "invalid_argument", wrong


def test_a_revoked_waiting_key_is_revoked_without_a_wait_for_an_import(
    system: System, service: Connection
) -> None:
    """Threat: an import that names a key holds up its revocation."""
    key_id = salted(service, TEXT)
    importing = system.database.connect("service_role", autocommit=False)
    import_(importing, line(key="a key beside it"))
    alice = system.session()
    alice.execute("set lock_timeout = '10ms'")
    assert attempt(alice, REVOKE, [key_id]).word == "done"
    importing.commit()
    assert service.execute(UPGRADE, [TEXT, People.a]).fetchone() is None


def slow(key: str) -> dict[str, object]:
    """The hash of a key that contains its own salt, as in Grafana."""
    made = hashlib.pbkdf2_hmac("sha256", key[5:37].encode(), key[-8:].encode(), 1000, 50)
    return {"scheme": "slow", "hash": made.hex(), "hash_encoding": "hex"}


SLOW_KEY = f"glsa_{'Ab1' * 10}xy_0badcafe"


def test_a_key_that_holds_its_own_salt_is_found_at_its_first_use(
    system: System, service: Connection
) -> None:
    service.execute(DECLARE, ["slow", json.dumps(SLOW)])
    (came,) = import_(service, line(**slow(SLOW_KEY)))["lines"]
    assert came["outcome"] == "waiting"
    assert resolves(system, SLOW_KEY) is None
    assert upgrade(service, f"{SLOW_KEY[:-1]}f", None) is None
    assert upgrade(service, SLOW_KEY, None) == UUID(came["key_id"])
    assert resolves(system, SLOW_KEY) == UUID(came["key_id"])
    # Later lines with the same key, in both forms, find the same row.
    for again in (slow(SLOW_KEY), {"key": SLOW_KEY}):
        (said,) = import_(service, line(**again))["lines"]
        assert (said["outcome"], said["key_id"]) == ("exists", came["key_id"])


def test_a_revoked_key_that_holds_its_own_salt_stays_revoked(
    system: System, service: Connection
) -> None:
    service.execute(DECLARE, ["slow", json.dumps(SLOW)])
    (came,) = import_(service, line(**slow(SLOW_KEY)))["lines"]
    service.execute("select keylatch.revoke_key(%s)", [came["key_id"]])
    assert upgrade(service, SLOW_KEY, None) is None
    # An import of the plaintext key does not reactivate the key either.
    (again,) = import_(service, line(key=SLOW_KEY))["lines"]
    assert (again["outcome"], again["key_id"]) == ("exists", came["key_id"])
    assert resolves(system, SLOW_KEY) is None


def test_only_a_text_that_begins_so_costs_a_slow_hash(system: System, service: Connection) -> None:
    service.execute(DECLARE, ["slow", json.dumps(SLOW)])
    system.owner.execute("update keylatch_internal.legacy_settings set upgrades_per_minute = 1")
    for _ in range(3):
        assert upgrade(service, "another text of this length", None) is None
    assert upgrade(service, SLOW_KEY, None) is None
    assert attempt(service, UPGRADE, [SLOW_KEY, None]).word == "too_many_requests"


@pytest.mark.parametrize("dead_first", [True, False])
@pytest.mark.parametrize(
    ("dead", "alive"),
    list(itertools.product(("sha256", "fast", "slow", "plaintext"), repeat=2)),
)
def test_a_revoked_line_counts_in_its_own_batch(
    system: System, service: Connection, dead: str, alive: str, dead_first: bool
) -> None:
    """Threat: a line is compared before the other line of the same key is inserted."""
    service.execute(DECLARE, ["fast", '{"digest": "sha512"}'])
    service.execute(DECLARE, ["slow", json.dumps(SLOW)])
    forms: dict[str, dict[str, object]] = {
        "sha256": {"alg": "sha256", "hash": digest("sha256")(SLOW_KEY).hex()},
        "fast": {"scheme": "fast", "hash": digest("sha512")(SLOW_KEY).hex()},
        "slow": slow(SLOW_KEY),
    }
    fields = {name: {**form, "hash_encoding": "hex"} for name, form in forms.items()}
    fields["plaintext"] = {"key": SLOW_KEY}
    lines = [line(**fields[dead], revoked_at="2024-01-01"), line(**fields[alive])]
    import_(service, *(lines if dead_first else reversed(lines)))
    assert resolves(system, SLOW_KEY) is None
    assert upgrade(service, SLOW_KEY, People.a) is None
    assert resolves(system, SLOW_KEY) is None
