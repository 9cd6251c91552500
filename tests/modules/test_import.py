"""Imports of keys of other systems: each line succeeds or fails alone, with its fields."""

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

from core.racing import Connection, System, attempt
from keylatch import Keylatch
from keylatch.errors import InvalidArgument, PermissionDenied
from stack import Database, People, Rest, Tokens

pytestmark = pytest.mark.one_server

OLD = "wid_lOLMLeoo9rUrySS4AD2hp7qIOGjuVO90"
SHA = hashlib.sha256(OLD.encode()).digest()
HEX, BASE64 = SHA.hex(), base64.b64encode(SHA).decode()
PBKDF2: dict[str, object] = {
    "alg": "pbkdf2_sha256",
    "hash": "ab" * 32,
    "hash_encoding": "hex",
    "salt": "salt",
    "salt_encoding": "text",
    "iter": 20_000,
    "starts_with": "salted",
}
NATIVE: dict[str, object] = {"alg": "sha256", "hash": HEX, "hash_encoding": "hex"}
RFC_3_ROUNDS = hashlib.pbkdf2_hmac("sha256", b"an old key with a salt", b"salt", 3)
BCRYPT = "$2b$12$" + "a" * 53
DJANGO = "pbkdf2_sha256$9$salt$" + "A" * 43 + "="
# A refused line, and words of the refusal that name the problem.
REFUSED: list[tuple[object, str]] = [
    ("a text", "not a JSON object"),
    ({"key": OLD, "colour": "red"}, "unknown field"),
    # No line may set a field that the database makes.
    ({"key": OLD, "id": str(uuid4())}, "unknown field"),
    ({"key": OLD, "verifier": "x"}, "unknown field"),
    ({"key": OLD, "workspace_id": "7"}, "workspace_id"),
    ({"key": OLD, "workspace_id": None}, "workspace_id"),
    ({}, "neither key nor hash"),
    ({"key": ""}, "key must be"),
    ({"key": f" {OLD}"}, "key must be"),
    ({"key": f"{OLD}\n"}, "key must be"),
    ({"key": "x" * 1001}, "key must be"),
    ({"key": 7}, "key must be"),
    ({"key": True}, "key must be"),
    ({"key": "wk_sk_live_" + "a" * 36}, "check characters"),
    ({"hash": HEX}, "alg must be"),
    ({**NATIVE, "alg": "md5"}, "alg must be"),
    ({"hash": "$argon2id$v=19$m=65536,t=3,p=4$c2FsdA$aGFzaA", "alg": "argon2"}, "alg must be"),
    ({"hash": "scrypt$16384$salt$8$1$aGFzaA==", "alg": "django"}, "Django"),
    ({**NATIVE, "masked_key": OLD}, "masked_key is the whole key"),
    ({**PBKDF2, "masked_key": OLD}, "masked_key shows more than 8 letters and digits"),
    ({**NATIVE, "masked_key": "shop_sk_live_12345-...-6789"}, "masked_key shows more than 8"),
    ({**NATIVE, "masked_key": "sk_live_sk_live_abc"}, "masked_key shows more than 8"),
    ({**NATIVE, "masked_key": "abcdefghijk1_live_Zx9QmR7tK2pL"}, "masked_key shows more than 8"),
    ({**NATIVE, "masked_key": "one two three"}, "masked_key shows more than 8"),
    ({"key": OLD, "scopes": [[[[[[["a"]]]]]]]}, "list in a list"),
    ({**NATIVE, "allowed_origins": [[[[[[["a"]]]]]]]}, "list in a list"),
    ({**NATIVE, "hash_encoding": None}, "hash_encoding"),
    ({**NATIVE, "hash_encoding": "base64url"}, "hash_encoding must be"),
    ({**NATIVE, "hash": 7}, "hash must be a text"),
    ({**NATIVE, "hash": HEX[:-2]}, "32 bytes"),
    ({**NATIVE, "hash": HEX[:-1] + "g"}, "32 bytes"),
    ({**NATIVE, "hash": BASE64}, "32 bytes"),
    ({**NATIVE, "hash_encoding": "base64"}, "32 bytes"),
    ({**NATIVE, "salt": "x"}, "salt"),
    ({**PBKDF2, "iter": 0}, "iter must be"),
    ({**PBKDF2, "iter": -1}, "iter must be"),
    ({**PBKDF2, "iter": 1.5}, "iter must be"),
    ({**PBKDF2, "iter": 1_200_001}, "1200000 rounds"),
    ({**PBKDF2, "iter": 10_000_000}, "iter must be"),
    ({**PBKDF2, "iter": "many"}, "iter must be"),
    ({**PBKDF2, "salt": ""}, "salt must be"),
    ({**PBKDF2, "salt": "s" * 1001}, "salt must be"),
    ({**PBKDF2, "salt_encoding": "hex"}, "salt must be"),
    ({**PBKDF2, "salt_encoding": "utf8"}, "salt_encoding must be"),
    ({**PBKDF2, "iter": None}, "iter must be"),
    ({**PBKDF2, "salt_encoding": None}, "salt_encoding"),
    ({"alg": "django", "hash": DJANGO.replace("$9$", "$0$")}, "Django"),
    ({"alg": "django", "hash": DJANGO.replace("$9$", "$1500000$")}, "1200000 rounds"),
    ({"alg": "django", "hash": "argon2$x"}, "Django"),
    ({"alg": "django", "hash": DJANGO, "iter": 9}, "do not go"),
    ({"alg": "bcrypt", "hash": "$2b$12$short"}, "bcrypt"),
    ({"alg": "bcrypt", "hash": BCRYPT.replace("12", "16")}, "bcrypt"),
    ({"alg": "bcrypt", "hash": BCRYPT, "salt": "x"}, "do not go"),
    ({"key": OLD, "kind": "public"}, "kind"),
    ({"key": OLD, "environment": "staging"}, "environment"),
    ({"key": OLD, "scopes": ["two words"]}, "scopes"),
    ({"key": OLD, "scopes": [None]}, "scopes"),
    ({"key": OLD, "scopes": "{read}"}, "scopes must be a list"),
    ({"key": OLD, "label": "x" * 201}, "label"),
    ({"key": OLD, "label": "wk_sk_live_" + "a" * 36}, "contains a key"),
    ({"key": OLD, "metadata": []}, "metadata"),
    ({"key": OLD, "metadata": {"n": [[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]}}, "levels"),
    ({"key": OLD, "metadata": {"n": int("9" * 500)}}, "number"),
    ({"key": OLD, "kind": "publishable", "allowed_origins": ["https://a.example/"]}, "origin"),
    ({"key": OLD, "allowed_origins": ["https://a.example"]}, "origin"),
    ({"key": OLD, "expires_at": "tomorrow"}, "expires_at"),
    ({"key": OLD, "expires_at": "infinity"}, "expires_at"),
    ({"key": OLD, "expires_at": "2027-01-31T09:30:00"}, "expires_at"),
    ({"key": OLD, "expires_at": "2027-02-30"}, "impossible time"),
    ({"key": OLD, "expires_at": "9999-12-31T23:59:59-15:59"}, "expires_at"),
    ({"key": OLD, "expires_at": "0001-01-01T00:00:00+15:59"}, "year 1900"),
    ({"key": OLD, "revoked_at": "2999-01-01"}, "future"),
    ({"key": OLD, "suspended_at": "2999-01-01"}, "future"),
    ({"key": OLD, "created_at": "2999-01-01"}, "future"),
    ({"key": OLD, "created_at": "0001-01-01"}, "year 1900"),
    ({"key": OLD, "revoke_reason": "leaked"}, "revoke_reason"),
    ({"key": OLD, "revoked_at": "2024-01-01", "revoke_reason": "x" * 501}, "revoke_reason"),
    ({"key": OLD, "created_by": "alice"}, "created_by"),
    ({"key": OLD, "masked_key": "x" * 41}, "masked_key"),
    ({**PBKDF2, "starts_with": "x" * 33}, "starts_with"),
    ({"key": OLD, "force": ""}, "force"),
]
# Fields of a line with a SHA-256, and words of the refusal; an accepted line has no words.
UNUSUAL: list[tuple[dict[str, object], str]] = [
    ({}, ""),
    ({"workspace_id": str(People.a).upper()}, ""),
    ({"workspace_id": "{" + str(People.a) + "}"}, "workspace_id must be"),
    ({"workspace_id": People.a.hex}, "workspace_id must be"),
    ({"workspace_id": "-".join(People.a.hex[at : at + 8] for at in range(0, 32, 8))}, "a UUID"),
    ({"workspace_id": "0000000-00000-4000-8000-00000000000a"}, "workspace_id must be"),
    ({"workspace_id": "0000000g-0000-4000-8000-00000000000a"}, "workspace_id must be"),
    ({"workspace_id": f"{People.a}\n"}, "workspace_id must be"),
    ({"workspace_id": [str(People.a)]}, "workspace_id must be"),
    ({"hash": int("1" * 64)}, "hash must be a text"),
    ({"hash": HEX.upper()}, ""),
    ({"hash": f"{HEX[:-1]}\n"}, "32 bytes"),
    ({"hash": None}, "neither key nor hash"),
    ({"alg": "SHA256"}, "alg must be"),
    ({"hash_encoding": "HEX"}, "hash_encoding must be"),
    ({"scheme": "sanctum"}, "both alg and scheme"),
    ({"salt": "x"}, "do not go with sha256"),
    ({"salt": None, "scheme": None, "metadata": None}, ""),
    ({"starts_with": "wid_"}, ""),
    # A line that differs from the line before only in a plain label skips check_key.
    ({"label": "".join(map(chr, range(0x20, 0x7F))).replace("_", "") * 2}, ""),
    ({"label": "ü" * 200}, ""),
    ({"label": None}, ""),
    ({"label": 7}, "label must be a text"),
    ({"label": "x" * 201}, "label must be"),
    ({"label": "a\tb"}, "label must be"),
    ({"label": "a\u202eb"}, "label must be"),
    ({"label": f"of wk_sk_live_{'a' * 36}"}, "contains a key"),
    ({"scopes": "read"}, "scopes must be a list"),
    ({"scopes": ["x" * 64]}, ""),
    ({"scopes": ["x" * 65]}, "scopes must be"),
    ({"scopes": ["read\n"]}, "scopes must be"),
    ({"scopes": [["a"], ["b", "c"]]}, "a list in a list"),
    ({"created_at": None}, ""),
    ({"created_at": 20240203}, "created_at must be"),
    ({"created_at": "2024-02-30"}, "impossible time"),
    ({"created_at": "2999-01-01"}, "future"),
    ({"last_used_at": "2999-01-01"}, "future"),
    ({"expires_at": "2024-01-01"}, ""),
    ({"revoke_reason": "leaked"}, "revoke_reason"),
    ({"colour": "red"}, "unknown field"),
]
# Texts that stand in a column of keys but are not keys, and one word of the refusal.
WEAK: list[tuple[str, str]] = [
    *((text, "placeholder") for text in ("undefined", "NULL", "None", "[REDACTED]", "changeme")),
    *((text, "placeholder") for text in ("your-api-key-goes-here", "my_api_key", "<insert key>")),
    *((text, "placeholder") for text in ("true", "false", "placeholder-for-the-key")),
    *((text, "spreadsheet") for text in ("1.23E+19", "1,23457E+19", "1.2345678901234e19")),
    *((text, "hash") for text in (BCRYPT, DJANGO, "{SSHA}Zm9vYmFyZm9vYmFyZm9v")),
    *((text, "hash") for text in ("$argon2id$v=19$m=65536,t=3", "sha256:0123456789abcdef")),
    *((text, "16 characters") for text in ("x", "a-key-of-15-let", "0123456789abcde")),
    *((text, "6 different") for text in ("x" * 40, "ababababababababab", "0" * 16)),
    *((text, "ASCII") for text in ("a key with \u200b in the middle", "schlüssel-des-kunden")),
]
# Keys of other systems that only resemble placeholders.
STRONG = [
    OLD,
    "acme-prod-widget-2024",
    "my_keystone_7f3a9c21",
    "sk-proj-AbCdEf0123456789",
    "true-north-7f3a9c2",
]


@pytest.fixture
def system(database: Database, people: People) -> System:
    return System(database, people)


@pytest.fixture
def service(system: System) -> Connection:
    return system.database.connect("service_role")


def import_(connection: Connection, *lines: object, dry_run: bool = False) -> Any:
    """Import a batch; return its counts and the outcome of each line."""
    row = connection.execute(
        "select to_jsonb(r) from keylatch.import_keys(%s, %s) as r", [json.dumps(lines), dry_run]
    ).fetchone()
    assert row is not None
    return row[0]


def line(**fields: object) -> dict[str, object]:
    return {"workspace_id": str(People.a), **fields}


def resolves(system: System, key: str, origin: str | None = None) -> UUID | None:
    row = system.owner.execute(
        "select key_id from keylatch.resolve_key(%s, %s)", [key, origin]
    ).fetchone()
    return row[0] if row else None


def test_a_bad_line_is_refused_with_its_reason_and_costs_no_other(
    system: System, service: Connection
) -> None:
    lines: list[object] = []
    for n, (given, _) in enumerate(REFUSED):
        lines.append({**line(), **given} if isinstance(given, dict) else given)
        lines.append(line(key=f"an old key of number {n}", label=f"line {n}"))
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
        assert resolves(system, f"an old key of number {n}") == UUID(good["key_id"])
    assert OLD not in json.dumps(report)
    assert HEX not in json.dumps(report)


@pytest.mark.parametrize("before", [0, 1, 2])
def test_a_sha256_is_judged_alike_whatever_lines_come_before_it(
    service: Connection, before: int
) -> None:
    for unusual, words in UNUSUAL:
        usual = line(alg="sha256", hash_encoding="hex", label="x", scopes=["a"])
        given = {**usual, "hash": HEX, **unusual}
        # An equal line, or an equal line and then one that is refused.
        others = [{**given, "hash": "ab" * 32, "label": "y"}, {**usual, "label": "\n"}][:before]
        (*_, came) = import_(service, *others, given, dry_run=True)["lines"]
        assert (came["outcome"] == "imported", words in (came["detail"] or "")) == (
            not words,
            True,
        ), (unusual, came)


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ("scopes", "[1]", f"[1.{'0' * 100}]"),
        ("scopes", "[1, 1.0]", "[1.0, 1.0]"),
        ("metadata", '{"a": 0}', '{"a": 0e-16383}'),
    ],
)
def test_numbers_that_jsonb_takes_for_equal_are_judged_by_themselves(
    service: Connection, field: str, good: str, bad: str
) -> None:
    lines = [
        json.dumps(line(alg="sha256", hash_encoding="hex", hash=digit * 64))[:-1]
        + f', "{field}": {value}}}'
        for digit, value in (("a", good), ("b", bad))
    ]
    row = service.execute(
        "select to_jsonb(r) from keylatch.import_keys(%s, true) as r", [f"[{','.join(lines)}]"]
    ).fetchone()
    assert row is not None
    first, second = row[0]["lines"]
    assert first["outcome"] == "imported", first
    assert second["outcome"] == "refused", second
    assert field in second["detail"]


@pytest.mark.parametrize(
    "form",
    [
        {"key": OLD},
        NATIVE,
        {**NATIVE, "hash": HEX.upper()},
        {**NATIVE, "hash": BASE64, "hash_encoding": "base64"},
        # With both, the plaintext key counts, and a wrong hash (report 000) does not matter.
        {**PBKDF2, "key": OLD},
    ],
    ids=["plaintext", "hex", "HEX", "base64", "both"],
)
def test_a_key_in_plaintext_or_under_sha256_resolves_at_once(
    system: System, service: Connection, form: dict[str, object]
) -> None:
    (came,) = import_(service, line(**form))["lines"]
    assert came["outcome"] == "imported"
    assert resolves(system, OLD) == UUID(came["key_id"])
    (again,) = import_(service, line(**form))["lines"]
    assert (again["outcome"], again["key_id"]) == ("exists", came["key_id"])
    assert system.owner.execute("select count(*) from keylatch.keys").fetchone() == (1,)
    # The stored hash is not a key: neither its hex nor its base64 text resolves.
    assert resolves(system, HEX) is None
    assert resolves(system, BASE64) is None


def test_owner_label_scopes_origins_and_dates_come_along(
    system: System, service: Connection
) -> None:
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
    (key,) = Keylatch.from_psycopg(system.session()).list(People.a)
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
    assert key.masked_key == "...VO90"
    assert key.imported_at is not None
    # The event names who imported the key: a service, not a user.
    events = system.owner.execute("select event, user_id, role from keylatch.key_events").fetchall()
    assert events == [("imported", None, "service_role")]
    assert resolves(system, OLD, "https://client.example") == key.id
    assert resolves(system, OLD) is None


def test_a_text_that_is_hardly_a_key_is_refused_unless_it_is_forced(
    system: System, service: Connection
) -> None:
    """Threat: placeholders, nulls, hash texts, invisible characters imported as keys."""
    for key, words in WEAK:
        (refused,) = import_(service, line(key=key))["lines"]
        assert (refused["outcome"], refused["slug"]) == ("refused", "invalid_argument"), key
        assert words in refused["detail"], key
        assert key not in refused["detail"].split()
        assert resolves(system, key) is None
        (forced,) = import_(service, line(key=key, force="one device in the field"))["lines"]
        assert forced["outcome"] == "imported", key
        assert "one device in the field" in forced["detail"]
        assert resolves(system, key) == UUID(forced["key_id"])


@pytest.mark.parametrize("text", ["", "undefined", "null", "NULL", "[REDACTED]", "changeme"])
def test_the_hash_of_a_placeholder_is_no_key(
    system: System, service: Connection, text: str
) -> None:
    """Threat: what filled a column in place of a key was hashed there like a key."""
    for name in ("md5", "sha512"):
        recipe = json.dumps({"digest": name})
        service.execute("select keylatch.declare_scheme(%s, %s)", [f"old-{name}", recipe])
    hashes: list[dict[str, object]] = [
        {"alg": "sha256", "hash": hashlib.sha256(text.encode()).hexdigest()},
        {"scheme": "old-md5", "hash": hashlib.md5(text.encode()).hexdigest()},  # noqa: S324
        {"scheme": "old-sha512", "hash": hashlib.sha512(text.encode()).hexdigest()},
        {"alg": "sha256_salted", "salt": "salt", "salt_encoding": "text", "salt_place": "before",
         "hash": hashlib.sha256(b"salt" + text.encode()).hexdigest()},
    ]  # fmt: skip
    lines = import_(service, *(line(**one, hash_encoding="hex") for one in hashes))["lines"]
    assert lines[0]["outcome"] == "refused"
    assert "placeholder" in lines[0]["detail"]
    # A scheme or a salt hides the placeholder until its text is presented.
    upgraded = "select key_id from keylatch.upgrade_key(%s, %s)"
    assert service.execute(upgraded, [text, People.a]).fetchone() is None
    assert resolves(system, text) is None


def test_a_key_that_only_resembles_a_placeholder_is_imported(service: Connection) -> None:
    report = import_(service, *(line(key=key) for key in STRONG))
    assert {(one["outcome"], one["detail"]) for one in report["lines"]} == {("imported", None)}


def test_the_masked_key_hides_two_thirds_of_an_imported_key(
    system: System, service: Connection
) -> None:
    """Threat: a masked key that shows the key."""
    for key in (
        "abcdefgh-ijklmnop-qrstuvwx-1234",
        "alpha-bravo-charlie-delta",
        "acme-prod-widget-2024",
        "a-key-of-16-char",
        OLD,
        "k" + "0123456789abcdef" * 8,
    ):
        (came,) = import_(service, line(key=key))["lines"]
        row = system.owner.execute(
            "select masked_key from keylatch.keys where id = %s", [came["key_id"]]
        ).fetchone()
        assert row is not None
        begins, dots, ends = row[0].partition("...")
        assert dots
        assert key.startswith(begins)
        assert key.endswith(ends)
        hidden = len(key) - len(begins) - len(ends)
        assert hidden >= 16
        assert hidden * 3 >= len(key) * 2


def test_the_masked_key_of_a_text_that_is_seen_is_made_here(
    system: System, service: Connection
) -> None:
    whole = "abcdefgh-ijklmnop-qrstuvwx-1234"
    import_(service, line(key=whole, masked_key=whole), line(key="a-key-of-16-char"))
    import_(service, line(**NATIVE, masked_key="the shop"))
    others = {"wk_sk_live_...x7Qe", "myproduct_pk_test_abcd...wxyz", "phx_...wxyz"}
    for number, other in enumerate(others):
        digest = hashlib.sha256(str(number).encode()).hexdigest()
        import_(service, line(**{**NATIVE, "hash": digest}, masked_key=other))
    rows = system.owner.execute("select masked_key from keylatch.keys order by masked_key")
    assert {row[0] for row in rows} == {"...", "...1234", "the shop"} | others


def test_inactive_keys_are_recognised_and_stay_inactive(
    system: System, service: Connection
) -> None:
    import_(
        service,
        line(key="revoked long ago, key 1", revoked_at="2024-01-01", revoke_reason="leaked"),
        line(key="expired long ago, key 2", expires_at="2024-01-01"),
        line(key="suspended a while, key 3", suspended_at="2024-01-01"),
    )
    alice = system.session()
    for key, verdict in (
        ("revoked long ago, key 1", "revoked"),
        ("expired long ago, key 2", "expired"),
        ("suspended a while, key 3", "suspended"),
    ):
        assert resolves(system, key) is None
        explained = alice.execute(
            "select verdict, key_id from keylatch.explain_key(%s)", [key]
        ).fetchone()
        assert explained is not None
        assert explained[0] == verdict
        if verdict != "suspended":
            update = "update keylatch.keys set revoked_at = null, expires_at = null where id = %s"
            assert attempt(alice, update, [explained[1]]).word == f"{verdict}_is_final"
        # A second import of the same text must not reactivate the key.
        (again,) = import_(service, line(key=key))["lines"]
        assert again["outcome"] == "exists"
        assert resolves(system, key) is None


PAST, SOON, LATER = "2024-01-01", "2098-01-01", "2099-01-01"
REVOKED = {"revoked_at": PAST, "revoke_reason": "leaked"}
# The fields of the key, the fields of the next line, the line's outcome, and the key's new state.
MOVES: list[tuple[dict[str, str], dict[str, str], str, str]] = [
    ({}, {}, "exists", "active"),
    ({}, REVOKED, "moved", "revoked leaked"),
    ({}, {"suspended_at": PAST}, "moved", "suspended"),
    ({}, {"expires_at": SOON}, "moved", "active 2098-01-01"),
    ({}, {"expires_at": PAST}, "moved", "revoked expired in the imported system"),
    ({"expires_at": SOON}, {}, "exists", "active 2098-01-01"),
    ({"expires_at": SOON}, {"expires_at": LATER}, "exists", "active 2098-01-01"),
    ({"expires_at": LATER}, {"expires_at": SOON}, "moved", "active 2098-01-01"),
    ({"expires_at": SOON}, {"suspended_at": PAST}, "moved", "suspended 2098-01-01"),
    ({"expires_at": PAST}, {"expires_at": LATER}, "exists", "expired 2024-01-01"),
    ({"expires_at": PAST}, {"suspended_at": PAST}, "exists", "expired 2024-01-01"),
    ({"expires_at": PAST}, REVOKED, "moved", "revoked leaked 2024-01-01"),
    ({"suspended_at": PAST}, {}, "exists", "suspended"),
    ({"suspended_at": PAST}, {"expires_at": SOON}, "moved", "suspended 2098-01-01"),
    ({"suspended_at": PAST}, REVOKED, "moved", "revoked leaked"),
    (REVOKED, {}, "exists", "revoked leaked"),
    (REVOKED, {"expires_at": SOON, "suspended_at": PAST}, "exists", "revoked leaked"),
    (REVOKED, {**REVOKED, "revoke_reason": "another"}, "exists", "revoked leaked"),
]


@pytest.mark.parametrize("waits", [False, True], ids=["a key", "a waiting key"])
def test_an_import_moves_a_key_towards_its_end_and_never_away_from_it(
    system: System, service: Connection, waits: bool
) -> None:
    """Threat: an inactive imported key is active again by a second import."""
    table = "legacy_keys" if waits else "keys"
    for number, (before, given, outcome, after) in enumerate(MOVES):
        form: dict[str, object] = (
            {**PBKDF2, "hash": f"{number:064x}"} if waits else {"key": f"{OLD}{number}"}
        )
        (first,) = import_(service, line(**form, **before))["lines"]
        assert first["outcome"] == ("waiting" if waits else "imported")
        report = import_(service, line(**form, **given))
        (second,) = report["lines"]
        assert (second["outcome"], second["key_id"]) == (outcome, first["key_id"]), (before, given)
        assert report[{"exists": "existing"}.get(outcome, outcome)] == 1
        assert (second["detail"] is None) == (outcome == "exists")
        row = system.owner.execute(
            "select concat_ws(' ', status, revoke_reason, expires_at at time zone 'UTC')"
            f" from keylatch.{table} where id = %s",
            [first["key_id"]],
        ).fetchone()
        assert row is not None
        assert row[0].replace("waiting", "active").replace(" 00:00:00", "") == after


def test_a_key_of_another_workspace_is_refused_and_a_double_line_is_known(
    system: System, service: Connection
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
    assert words[0] == ("refused", "The key already exists in another workspace.")
    assert words[1] == ("imported", None)
    assert words[2] == ("exists", None)
    assert words[3] == ("exists", None)


def test_a_dry_run_says_the_same_and_leaves_nothing(system: System, service: Connection) -> None:
    known = "an old key that is there"
    import_(service, line(key=known))
    lines = [
        line(key=OLD),
        line(key=""),
        line(**PBKDF2),
        line(key=known, **REVOKED),
        line(key=known),
    ]
    would = import_(service, *lines, dry_run=True)
    assert system.owner.execute(
        "select (select count(*) from keylatch_internal.keys),"
        " (select count(*) from keylatch_internal.legacy_keys)"
    ).fetchone() == (1, 1)
    assert resolves(system, known)
    did = import_(service, *lines)
    assert [one["outcome"] for one in did["lines"]] == [
        "imported",
        "refused",
        "waiting",
        "moved",
        "exists",
    ]
    for one, other in zip(would["lines"], did["lines"], strict=True):
        assert one == {**other, "key_id": one["key_id"]}
        assert (one["key_id"] is None) == (one["outcome"] not in ("moved", "exists"))


def test_a_strict_import_writes_all_lines_or_none(system: System, service: Connection) -> None:
    keylatch = Keylatch.from_psycopg(service)
    lines = [line(key=OLD), line(key="")]
    with pytest.raises(InvalidArgument, match="Line 2") as caught:
        keylatch.import_keys(lines, strict=True)
    assert caught.value.slug == "invalid_argument"
    assert resolves(system, OLD) is None
    assert keylatch.import_keys(lines[:1], strict=True).imported == 1
    assert resolves(system, OLD)


def test_no_setting_of_the_caller_changes_what_a_line_means(
    system: System, service: Connection
) -> None:
    for setting in (
        "timezone = 'Asia/Kathmandu'",
        "datestyle = 'SQL, DMY'",
        "standard_conforming_strings = off",
        "bytea_output = 'escape'",
        "transform_null_equals = on",
        "array_nulls = off",
    ):
        service.execute(f"set {setting}")
    import_(
        service,
        line(key=OLD, expires_at="2099-03-04", created_at="2024-03-04T05:06:07Z"),
        line(**{**PBKDF2, "iter": 3, "hash": RFC_3_ROUNDS.hex(), "starts_with": "an old key"}),
    )
    asked = "select expires_at, created_at from keylatch.keys where expires_at is not null"
    row = system.owner.execute(asked).fetchone()
    assert row == (
        datetime(2099, 3, 4, tzinfo=UTC),
        datetime(2024, 3, 4, 5, 6, 7, tzinfo=UTC),
    )
    asked = "select key_id from keylatch.upgrade_key('an old key with a salt', %s)"
    assert service.execute(asked, [People.a]).fetchone()


def test_the_batch_as_a_whole_is_checked_before_its_lines(service: Connection) -> None:
    for batch, words in (("{}", "list"), ("null", "list"), ("[" + "1," * 10_000 + "1]", "10000")):
        with pytest.raises(psycopg.errors.DatabaseError, match=r"invalid_argument") as caught:
            service.execute("select keylatch.import_keys(%s)", [batch])
        assert caught.value.sqlstate == "PT400"
        assert words in str(caught.value.diag.message_detail)


@pytest.mark.parametrize("who", ["anon", "stranger", "mia", "bob", "alice"])
def test_nobody_but_a_service_imports_or_upgrades(
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
                keylatch.upgrade_key(OLD, workspace_id=People.a)
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


def test_an_import_and_the_deletion_of_its_workspace_leave_no_active_key(system: System) -> None:
    service = system.database.connect("service_role", autocommit=False)
    import_(service, line(key=OLD), line(**PBKDF2))
    deletion = system.waiting(
        "delete from keylatch.workspaces where id = %s returning id",
        [People.a],
        waits_for=service,
        session=system.database.connect("service_role"),
    )
    service.commit()
    assert deletion.outcome().word == "done"
    assert resolves(system, OLD) is None
    rows = system.owner.execute("select status, revoke_reason from keylatch.legacy_keys").fetchall()
    assert rows == [("revoked", "workspace deleted")]
    (late,) = import_(system.database.connect("service_role"), line(key=f"{OLD}, late"))["lines"]
    assert (late["outcome"], late["slug"]) == ("refused", "invalid_argument")
    assert "workspace was deleted" in late["detail"]


def test_the_events_of_an_import_name_each_key_and_no_hash(
    system: System, service: Connection
) -> None:
    """Threat: a key or secret shows up in an event row."""
    import_(service, line(key=OLD, revoked_at="2024-01-01", revoke_reason="old"), line(**PBKDF2))
    rows = system.owner.execute(
        "select event, to_jsonb(e)::text from keylatch.key_events as e order by occurred_at"
    ).fetchall()
    assert [row[0] for row in rows] == ["imported", "imported"]
    said = " ".join(row[1] for row in rows)
    assert "revoked_at" in said
    assert not any(secret in said for secret in (OLD, HEX, "ab" * 32))


def test_no_error_of_an_import_shows_a_key_or_a_hash(service: Connection) -> None:
    """Threat: the raw text of a constraint leaves a call with the owner's rights."""
    for given, _ in REFUSED:
        fields = {**NATIVE, **given} if isinstance(given, dict) and "key" not in given else given
        lines = [{**line(), **fields} if isinstance(fields, dict) else fields]
        said = json.dumps(import_(service, *lines))
        assert HEX[:32] not in said
        assert OLD not in said
        assert "Failing row" not in said


def test_a_key_with_quotes_and_braces_is_sent_as_it_is(system: System) -> None:
    keylatch = Keylatch.from_psycopg(system.database.connect("service_role"))
    report = keylatch.import_keys([{"workspace_id": People.a, "key": 'a "quoted", {old} key'}])
    assert resolves(system, 'a "quoted", {old} key') == report.lines[0].key_id


def test_a_reason_that_quotes_a_key_is_masked(system: System, service: Connection) -> None:
    _, leaked = system.issue()
    (came,) = import_(
        service,
        line(key=OLD, revoked_at="2024-01-01", revoke_reason=f"replaced by {leaked}, see there"),
    )["lines"]
    told = system.owner.execute(
        "select revoke_reason, (keylatch.explain_key(%s)).detail from keylatch.keys where id = %s",
        [OLD, came["key_id"]],
    ).fetchone()
    assert told is not None
    assert told[0] == f"replaced by {leaked[:-36]}..., see there"
    assert leaked not in told[1]


@pytest.mark.parametrize("beside", [False, True])
def test_a_workspace_id_counts_whatever_the_other_lines_name(
    system: System, service: Connection, beside: bool
) -> None:
    system.owner.execute(
        "update keylatch.workspaces set external_id = 'b' where id = %s", [People.b]
    )
    others = [{"workspace": "b", "key": "another key of the old table"}] if beside else []
    report = import_(service, line(workspace="b", key=OLD), *others)
    key_id = report["lines"][0]["key_id"]
    kept = system.owner.execute("select workspace_id from keylatch.keys where id = %s", [key_id])
    assert kept.fetchone() == (People.a,)


@pytest.mark.parametrize("source", ["x" * 201, "a\x01b", "a\nb"])
def test_a_source_that_no_reason_could_hold_is_refused(service: Connection, source: str) -> None:
    outcome = attempt(service, "select keylatch.import_keys('[]', source => %s)", [source])
    assert outcome.word == "invalid_argument"
