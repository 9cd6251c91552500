"""Resolving: only the runtime may resolve, the origin must match, and no other text is a key."""

from typing import Any

import pytest

from security.system import ORIGIN, System, issue_briefly, sqlstate
from stack import until

FOREIGN_ORIGINS = (
    "https://evil-shop.example",
    "https://shop.example.evil.com",
    "https://SHOP.example",
    "https://shop.example/",
    "https://shop.example:443",
    "https://me@shop.example",
    "https://shop.example@evil.com",
    "https://xn--shp-1la.example",
    "https://shоp.example",
    "null",
    "",
    "https://shop.example, https://evil.com",
    "https://shop.example https://evil.com",
    "file://",
    "http://shop.example",
    "https://shop.example.",
    "https://shop.example%00",
    "*",
    "https://*",
    " https://shop.example",
    "https://shop.example\n",
    "a" * 100_000,
)
WRONG_ENTRIES = (
    "https://shop.example/path",
    "https://shop%.example",
    "https://shop_.example",
    "https://shop.*",
    "https://(shop|evil).example",
    "https://[a-z].example",
    "https://.*",
    "^https://a",
    "https://shop.example$",
    "https://*.com",
    "HTTPS://shop.example",
    "shop.example",
    "null",
    "",
    "javascript://shop.example",
    "https://shop.example\x01",
)


@pytest.fixture
def system(kept_system: System) -> System:
    return kept_system


@pytest.mark.parametrize("who", ["anon", "stranger", "mia", "bob", "alice"])
def test_only_the_runtime_resolves(system: System, who: str) -> None:
    """Threat: anon or authenticated call resolve_key."""
    key = system.keys["active"].key
    refused = system.call(who, "resolve_key", key=key)
    assert refused.status_code in (401, 403)
    refused = system.request(who, "GET", f"rpc/resolve_key?key={key}")
    assert refused.status_code in (401, 403)
    with system.connect(who) as client:
        assert sqlstate(client, "select * from keylatch.resolve_key(%s)", key) == "42501"


def test_every_refusal_looks_alike(system: System) -> None:
    """Threat: an answer tells an unknown key from a dead or a foreign one."""
    answers = {
        system.call("keylatch_resolver", "resolve_key", key=key, origin=origin).text
        for key, origin in [
            *(
                (system.keys[name].key, None)
                for name in ("revoked", "expired", "suspended", "widget")
            ),
            (system.keys["widget"].key, "https://evil.example"),
            (system.keys["active"].key, ORIGIN),
            ("wk_sk_live_" + "1" * 36, None),
            ("no key", None),
        ]
    }
    assert answers == {"[]"}


def test_no_foreign_origin_is_taken_for_the_permitted_origin(system: System) -> None:
    """Threat: origins: look-alikes, case, slash, port, userinfo, null, two values, 100 kB."""
    key = system.keys["widget"].key
    assert system.resolves(key, ORIGIN)
    assert not system.resolves(key, None)
    for origin in FOREIGN_ORIGINS:
        assert not system.resolves(key, origin), origin[:60]


def test_a_star_never_matches_the_apex_nor_beyond(system: System) -> None:
    """Threat: a star that matches the apex."""
    issued = system.call(
        "alice",
        "issue_key",
        workspace_id=str(system.people.a),
        allowed_origins=["https://*.shop.example"],
    ).json()
    assert system.resolves(issued["key"], "https://a.shop.example")
    assert system.resolves(issued["key"], "https://a.b.shop.example")
    for origin in (
        "https://shop.example",
        "https://.shop.example",
        "https://evilshop.example",
        "https://evil.com/.shop.example",
        "https://evil.com#.shop.example",
        "https://a.shop.example.evil.com",
        "http://a.shop.example",
        "https://*.shop.example",
        "https://a.shop.example:8443",
        "https://a@b.shop.example",
        "https://A.shop.example",
    ):
        assert not system.resolves(issued["key"], origin), origin


@pytest.mark.parametrize("entry", WRONG_ENTRIES)
def test_a_wrong_entry_is_refused_when_it_is_saved(system: System, entry: str) -> None:
    """Threat: an origin list entry with a path, %, _, regex characters."""
    with system.nothing_changes():
        refused = system.call(
            "alice", "issue_key", workspace_id=str(system.people.a), allowed_origins=[entry]
        )
        assert (refused.status_code, refused.json()["message"]) == (400, "invalid_argument")
        path = f"keys?id=eq.{system.keys['widget'].id}"
        refused = system.request("alice", "PATCH", path, json={"allowed_origins": [ORIGIN, entry]})
        assert (refused.status_code, refused.json()["message"]) == (400, "invalid_argument")


def test_no_text_is_taken_for_a_key(system: System) -> None:
    """Threat: keys: empty, 1 MB, right-to-left marks, spaces, a prefix that is another key."""
    key = system.keys["active"].key
    for text in (
        "",
        " ",
        key[:-1],
        key + "a",
        f" {key}",
        f"{key} ",
        f"{key}\n",
        f"\u202e{key}",
        f"{key}\u200f",
        key.upper(),
        f"{key}_sk_live_{key}",
        key * 2,
        "%",
        "_" * 47,
        "a" * 1_048_576,
        f"'{key}'",
        key.replace("wk", "wk\u0301"),
        "' or true --",
    ):
        assert not system.resolves(text), text[:60]
    assert system.resolves(key)


def test_a_text_that_postgresql_cannot_store_is_an_error_of_the_caller_and_never_of_the_server(
    system: System,
) -> None:
    """Threat: keys: NUL, invalid UTF-8, a lone surrogate."""
    for content in (
        b'{"key": "wk\\u0000"}',
        b'{"key": "wk\xff\xfe"}',
        b'{"key": "wk\\ud800"}',
        b'{"key": ',
        b"",
        b"[]",
        b"null",
        b'"x"',
        b'{"key": {"a": 1}}',
        b'{"key": ["x"]}',
        b'{"key": 1}',
        b'{"key": null}',
        b'{"origin": "x"}',
        b'{"key": "a", "other": 1}',
    ):
        response = system.request(
            "service_role",
            "POST",
            "rpc/resolve_key",
            content=content,
            headers={"Content-Type": "application/json"},
        )
        assert response.status_code < 500
        assert response.status_code >= 400 or response.json() == []


def test_an_expiry_counts_inside_an_open_transaction(system: System) -> None:
    """Threat: a key accepted past its expiry because the transaction began before it."""
    with system.connect("alice") as alice, system.connect("service_role") as runtime:
        resolve = "select * from keylatch.resolve_key(%s)"

        def resolves(row: Any) -> bool:
            runtime.execute("begin isolation level read committed")
            if runtime.execute(resolve, [row.key]).fetchone() is not None:
                return True
            runtime.execute("rollback")
            return False

        row = [issue_briefly(alice, system.people.a, resolves).key]
        until(lambda: runtime.execute(resolve, row).fetchone() is None)
        runtime.execute("rollback")
        for isolation in ("repeatable read", "serializable"):
            runtime.execute(f"begin isolation level {isolation}")
            assert runtime.execute(resolve, row).fetchone() is None
            runtime.execute("rollback")
