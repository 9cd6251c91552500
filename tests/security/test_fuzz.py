"""Hundreds of odd requests, from fixed seeds, cause no server error, and show and revive no key."""

import json
import random
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from security.shared import NOWHERE, open_system
from security.system import System
from stack import Cluster, Janitor, Tokens

pytestmark = pytest.mark.one_server

REQUESTS = 160
CALLS = {
    "issue_key": ("workspace_id", "kind", "label", "allowed_origins", "scopes", "environment",
                  "expires_at", "metadata", "prefix"),
    "rotate_key": ("key_id", "grace", "expires_at"),
    "revoke_key": ("key_id", "reason", "cascade"),
    "suspend_key": ("key_id",),
    "unsuspend_key": ("key_id",),
    "retire_workspace": ("workspace_id", "limit"),
    "end_sessions": ("key_id", "reason"),
    "list_keys": ("workspace_id",),
    "explain_key": ("key", "origin"),
    "resolve_key": ("key", "origin"),
    "hash_key": ("key",),
    "open_session": ("key",),
    "resolve_session": ("token", "extend"),
    "close_session": ("token",),
    "attach_subject": ("token", "subject"),
    "prune_sessions": ("batch",),
    "upgrade_key": ("key", "workspace_id", "origin"),
    "import_keys": ("lines", "dry_run", "strict"),
    "revoke_legacy_key": ("id", "reason"),
    "list_events": ("workspace_id", "after", "limit"),
    "verify_events": ("from_checkpoint", "limit"),
    "seal_events": ("limit",),
    "current_workspace_id": (),
    "has_scope": ("scope",),
    "installation": (),
    "replay_position": (),
    "record_usage": ("batch",),
    "admin_workspace_ids": (),
    "no_such_call": ("key",),
}  # fmt: skip
COLUMNS = ("id", "workspace_id", "kind", "environment", "public_key", "masked_key", "fingerprint",
           "label", "metadata", "allowed_origins", "scopes", "expires_at", "suspended_at",
           "superseded_at", "revoked_at", "revoked_by", "revoke_reason", "rotated_from",
           "created_at", "created_by", "updated_at", "status", "key_hash",
           "no_such_column")  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1.5, 10**30, "", " ", "x", "null", "now", "infinity", "-infinity",
    "9999-12-31T23:59:60Z", "2090-01-01", "P1Y", "1 day ago", "-1 second", "00:00:00", NOWHERE,
    "{}", "{a,b}", "{{a},{b}}", "[1:1]={x}", "\\x00", "'; drop table keys; --", "%", "_", "*", "$1",
    "\u0000", "\u202e\u200f", "\ud800", "é" * 300, "x" * 20_000, "https://a.example", [],
    [[]], [1, "a", {}], ["a"] * 101, [["a"], ["b"]], {}, {"a": {"b": [1]}}, {"a": "x" * 9000},
    [{"a": 1}],
)  # fmt: skip
FILTERS = ("eq", "neq", "gt", "lte", "like", "ilike", "match", "in", "is", "fts", "cs", "cd", "ov",
           "sl", "adj", "not.eq", "any", "eq(any)", "isdistinct", "", "nonsense")  # fmt: skip
METHODS = (*["GET"] * 3, *["POST", "PATCH"] * 2, "HEAD", "PUT", "DELETE", "OPTIONS")
OPTIONS = ("select", "order", "limit", "offset", "on_conflict", "columns", "or", "and", "not.or")
OPTION_VALUES = (
    "*", "id,label", "status", "-1", "x", "()", "key_hash", "keys(*)", "a::int", "label::uuid", "0",
    "metadata->0->>a", "id.desc.nullsfirst", "count()", "...", "(id.eq.1,label.is.null)",
)  # fmt: skip
HEADERS: tuple[dict[str, str], ...] = (
    {}, {"Prefer": "count=exact"}, {"Prefer": "count=planned"}, {"Prefer": "tx=rollback"},
    {"Prefer": "resolution=merge-duplicates"}, {"Prefer": "resolution=ignore-duplicates"},
    {"Prefer": "params=single-object"}, {"Prefer": "params=multiple-objects"},
    {"Prefer": "missing=default"}, {"Prefer": "handling=strict, max-affected=0"},
    {"Prefer": "timezone=Nowhere/Else"}, {"Prefer": "timezone=Pacific/Kiritimati"},
    {"Prefer": "return=representation"}, {"Prefer": "return=headers-only"}, {"Prefer": "x" * 4000},
    {"Range": "0-0"}, {"Range": "9-0"}, {"Range": "-1-"}, {"Range-Unit": "bytes", "Range": "0-"},
    {"Accept": "text/csv"}, {"Accept": "application/vnd.pgrst.object+json"},
    {"Accept": "application/vnd.pgrst.plan+json; options=analyze"}, {"Accept": "*/*;q=2"},
    {"Accept": "application/geo+json"}, {"Accept": "application/octet-stream"},
    {"Accept-Profile": "keylatch_internal"}, {"Accept-Profile": "pg_catalog"},
    {"Accept-Profile": "public"}, {"Content-Profile": "auth"}, {"Content-Profile": "keylatch,auth"},
    {"Content-Type": "text/csv"}, {"Content-Type": "application/x-www-form-urlencoded"},
    {"Content-Type": "multipart/form-data"}, {"Content-Type": "application/json; charset=utf-16"},
    {"If-None-Match": "*"}, {"X-HTTP-Method-Override": "DELETE"},
)  # fmt: skip
BODIES: tuple[bytes, ...] = (
    b"", b"{", b"[]", b"null", b"0", b'"x"', b"{}", b"[{}]", b"[null]", b'{"key_id":}', b"\xff\xfe",
    b"\x00", b'{"key": "\\u0000"}', b'{"key": "\\ud800"}', b'{"key_id": 1, "key_id": 2}',
    b"key_id,workspace_id\n1,2", b"key_id=1&key_id=2", b"[" * 3000, b'{"a":' * 3000,
    b'{"metadata": 1e400}', b"x" * 200_000,
)  # fmt: skip


@pytest.fixture(scope="module")
def shared(server: Cluster, template: str, tokens: Tokens, janitor: Janitor) -> Iterator[System]:
    with open_system(server, template, tokens, janitor, "fuzz") as system:
        yield system


def in_url(value: Any) -> str:
    """Return the value as a query parameter, with lone surrogates replaced."""
    return str(value)[:500].encode(errors="replace").decode()


class Fuzz:
    """Draws requests from a seed. The ids for an admin name no key that an admin can change."""

    def __init__(self, system: System, seed: int, ids: list[str]) -> None:
        """Store the ids that arguments may name."""
        self._draw = random.Random(seed)  # noqa: S311
        self._system = system
        self._ids = ids

    def value(self) -> Any:
        """Draw an odd value or an id."""
        return self._draw.choice((*VALUES, *self._ids * 8))

    def call(self) -> tuple[str, str, dict[str, Any]]:
        """Draw a call with arguments of any type, some missing, some too many."""
        name = self._draw.choice(list(CALLS))
        names = [one for one in CALLS[name] if self._draw.random() < 0.8]
        if self._draw.random() < 0.15:
            names.append(self._draw.choice(COLUMNS))
        body: Any = {one: self.value() for one in names}
        for one in ("key_id", "workspace_id"):
            if one in body and self._draw.random() < 0.7:
                body[one] = self._draw.choice(self._ids)
        if self._draw.random() < 0.2:
            return "GET", f"rpc/{name}", {"params": {k: in_url(v) for k, v in body.items()}}
        if self._draw.random() < 0.1:
            return "POST", f"rpc/{name}", {"content": self._draw.choice(BODIES)}
        return "POST", f"rpc/{name}", {"content": json.dumps(body)}

    def row(self) -> tuple[str, str, dict[str, Any]]:
        """Draw a request to a table or view, with filters, perhaps options, and perhaps a body."""
        draw = self._draw
        table = draw.choice(
            ("keys", "keys", "keys", "workspaces", "workspace_membership", "nothing")
        )
        known = draw.choice(self._ids)
        params = {"id": f"eq.{known}"}
        for _ in range(draw.choice((0, 0, 1, 2))):
            params[draw.choice(COLUMNS)] = f"{draw.choice(FILTERS)}.{in_url(self.value())}"
        if draw.random() < 0.3:
            params[draw.choice(OPTIONS)] = draw.choice(OPTION_VALUES)
        method = draw.choice(METHODS)
        more: dict[str, Any] = {"params": params}
        if method in ("POST", "PATCH", "PUT"):
            names = draw.sample(COLUMNS, draw.choice((0, 1, 1, 1, 2, 4)))
            if draw.random() < 0.15:
                more["content"] = draw.choice(BODIES)
            else:
                body = {one: self.value() for one in names}
                more["content"] = json.dumps([body, body] if draw.random() < 0.1 else body)
        return method, table, more

    def send(self, who: str) -> tuple[str, httpx.Response]:
        """Send one request. Return its description and the answer."""
        method, path, more = self.call() if self._draw.random() < 0.55 else self.row()
        more["headers"] = self._draw.choice(HEADERS) if self._draw.random() < 0.5 else {}
        told = f"{who}: {method} {path} {str(more)[:600]}"
        return told, self._system.rest.request(method, path, token=self._system.token(who), **more)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("who", ["anon", "stranger", "mia", "bob", "keylatch_resolver"])
def test_no_odd_request_of_an_outsider_fails_the_server_or_shows_or_changes_a_key(
    shared: System, who: str, seed: int
) -> None:
    """Threat: malformed input is never a 500; anon, mia, bob read and write nothing of A."""
    ids = [str(made.id) for made in shared.keys.values()] + [str(shared.people.a), NOWHERE]
    fuzz = Fuzz(shared, seed, ids)
    statuses: dict[int, int] = {}
    with shared.nothing_changes():
        for _ in range(REQUESTS):
            told, response = fuzz.send(who)
            statuses[response.status_code] = statuses.get(response.status_code, 0) + 1
            assert response.status_code < 500, f"{told}\n{response.text}"
            for made in shared.keys.values():
                assert made.key not in response.text, told
                if response.is_success:
                    assert str(made.id) not in response.text, told
    assert len(statuses) > 3, f"the requests are too much alike: {statuses}"


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("who", ["alice", "service_role"])
def test_no_odd_request_of_an_admin_fails_the_server_or_turns_a_key_back(
    shared: System, who: str, seed: int
) -> None:
    """Threat: malformed input is never a 500, and a dead row is the same afterwards."""
    dead = [str(shared.keys[label].id) for label in ("revoked", "expired")]
    fuzz = Fuzz(shared, 100 + seed, [*dead, str(shared.people.a), NOWHERE])

    def rows() -> list[Any]:
        with shared.database.connect() as owner:
            return owner.execute(
                "select id, workspace_id, kind, key_hash, public_key, expires_at, suspended_at,"
                " superseded_at, revoked_at, revoked_by, revoke_reason, rotated_from, created_at,"
                " created_by, scopes from keylatch_internal.keys where id = any (%s) order by id",
                [dead],
            ).fetchall()

    before = rows()
    statuses: dict[int, int] = {}
    for _ in range(REQUESTS):
        told, response = fuzz.send(who)
        statuses[response.status_code] = statuses.get(response.status_code, 0) + 1
        assert response.status_code < 500, f"{told}\n{response.text}"
    assert len(statuses) > 3, f"the requests are too much alike: {statuses}"
    after = rows()
    for old, new in zip(before, after, strict=True):
        # An admin may revoke the expired key, so only its other columns must be unchanged.
        if old[8] is not None:
            assert new == old
        assert (*new[:8], *new[11:]) == (*old[:8], *old[11:])
    for label in ("revoked", "expired"):
        assert not shared.resolves(shared.keys[label].key)


@pytest.mark.parametrize(
    "headers",
    [
        [("Origin", "https://a.example"), ("Origin", "https://b.example")],
        [("Authorization", "Bearer x"), ("Authorization", "Bearer y")],
        [("Prefer", "count=exact"), ("Prefer", "count=planned"), ("Prefer", "return=minimal")],
        [("Accept-Profile", "keylatch"), ("Accept-Profile", "keylatch_internal")],
        [("Content-Type", "application/json"), ("Content-Type", "text/csv")],
        [("Range", "0-1"), ("Range", "5-1")],
        [("X-Forwarded-For", "' or 1=1 --"), ("X-Forwarded-For", "::1")],
        [("apikey", ""), ("apikey", "x"), ("Cookie", "a=b")],
    ],
)
def test_headers_that_come_twice_fail_no_server(
    shared: System, headers: list[tuple[str, str]]
) -> None:
    """Threat: two values of Origin, and of every header that PostgREST reads."""
    base = [("Authorization", f"Bearer {shared.token('bob')}"), ("Content-Profile", "keylatch")]
    with shared.nothing_changes():
        for method, path in (("GET", "keys"), ("POST", "rpc/explain_key"), ("POST", "keys")):
            response = httpx.request(
                method,
                f"{shared.rest.url}/rest/v1/{path}",
                headers=[*base, *headers],
                content=None if method == "GET" else b'{"a":1',
            )
            assert response.status_code < 500, response.text
            assert shared.keys["active"].key not in response.text
