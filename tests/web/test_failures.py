"""Failures of the database give 502, and bad requests 4xx. No answer is 500 or contains a key."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import httpx
import pytest

from client.answers import FixedServer
from keylatch import errors
from keylatch.fastapi.problems import problem_of
from stack import Database, Janitor, People, Rest, Tokens
from web.site import Site, problem

pytestmark = pytest.mark.one_server

SHOP = "https://shop.example"
WORKSPACE = {"workspace_id": str(People.a)}
KEY = "wk_sk_live_" + "7" * 36
ID = UUID(int=1)
# Every route that asks the database, each as a caller who may use the route.
CALLS: dict[str, Callable[[Site], httpx.Response]] = {
    "issue": lambda site: site.act("alice", "POST", "/widget-keys", json=WORKSPACE),
    "list": lambda site: site.act("alice", "GET", "/widget-keys", params=WORKSPACE),
    "rotate": lambda site: site.act("alice", "POST", f"/widget-keys/{ID}/rotate"),
    "revoke": lambda site: site.act("alice", "POST", f"/widget-keys/{ID}/revoke"),
    "resolve": lambda site: site.resolve(KEY, SHOP),
    "require_key": lambda site: site.get("/own/whoami", headers={"x-api-key": KEY}),
    "fallback": lambda site: site.get("/orders", headers={"x-api-key": "legacy-7f3a"}),
}
ADMIN = ("issue", "list", "rotate", "revoke")
HOUSE = "db.house.internal"
FAILURES: dict[str, tuple[int, bytes, str]] = {
    "a gateway's page": (502, f"<h1>{HOUSE} is down</h1>".encode(), "text/html"),
    "an overload": (503, b'{"message": "%s"}' % HOUSE.encode(), "application/json"),
    "a failure": (500, b'{"code": "XX000", "message": "%s"}' % HOUSE.encode(), "application/json"),
    "a limit": (429, b"{}", "application/json"),
    "a wrong address": (404, b'{"message": "no Route %s"}' % HOUSE.encode(), "application/json"),
    "a page": (200, b"<h1>Welcome</h1>", "text/html"),
    "another API": (200, b'[{"ok": true}]', "application/json"),
    "nothing": (204, b"", "application/json"),
    "no schema": (406, b'{"code": "PGRST106", "message": "%s"}' % HOUSE.encode(), "text/json"),
    "no function": (404, b'{"code": "PGRST202", "message": "%s"}' % HOUSE.encode(), "text/json"),
    "a deadlock": (500, b'{"code": "40P01", "message": "%s"}' % HOUSE.encode(), "text/json"),
}


def assert_unavailable(answer: httpx.Response) -> None:
    """Check for a 502 without internal names. In an application's route, `detail` has the slug."""
    body = answer.json()
    assert (answer.status_code, body.get("slug") or body["detail"]["slug"]) == (502, "unavailable")
    assert HOUSE not in answer.text
    assert "127.0.0.1" not in answer.text


@pytest.mark.parametrize("name", FAILURES)
def test_every_upstream_failure_is_a_502(name: str, tokens: Tokens) -> None:
    """Report 002: three of four routes answered with 500."""
    status, body, content_type = FAILURES[name]
    with FixedServer(status, body, content_type) as server, Site(server.url, tokens) as site:
        for call in CALLS.values():
            assert_unavailable(call(site))
        assert site.legacy.asked == [], "no answer is not a no"
        if HOUSE.encode() in body and content_type != "text/html":
            assert HOUSE in site.log.text(), "whoever runs the application reads the reason"


def test_no_answer_in_time_is_a_502(tokens: Tokens) -> None:
    with (
        FixedServer(200, b"", silent=True) as server,
        Site(server.url, tokens, seconds=1) as site,
    ):
        for call in CALLS.values():
            assert_unavailable(call(site))


def test_a_postgrest_that_is_gone_is_a_502_and_its_return_a_200(
    database: Database, tokens: Tokens, people: People, janitor: Janitor
) -> None:
    with (
        Rest(database, tokens, janitor=janitor) as rest,
        Site(f"{rest.url}/rest/v1", tokens) as through_gateway,
        Site(rest.rest_url, tokens) as direct,
    ):
        issued = direct.issue(allowed_origins=[SHOP])
        # `rest` closes PostgREST later and may close it only once, so kill the process.
        rest.postgrest._process.kill()
        rest.postgrest._process.wait()
        for site in (through_gateway, direct):
            for call in CALLS.values():
                assert_unavailable(call(site))
    with Rest(database, tokens, janitor=janitor) as rest, Site(rest.rest_url, tokens) as site:
        assert site.resolve(issued["key"], SHOP).status_code == 200


def test_a_refused_token_is_the_admins_and_never_the_visitors(tokens: Tokens) -> None:
    body = b'{"message": "Invalid API key"}'
    with FixedServer(401, body) as server, Site(server.url, tokens) as site:
        for name, call in CALLS.items():
            if name in ADMIN:
                assert problem(call(site)) == (401, "permission_denied")
            else:
                assert_unavailable(call(site))


def test_every_error_has_a_status() -> None:
    kinds = {
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.KeylatchError)
    }
    status = {kind.__name__: problem_of(kind()).status_code for kind in kinds}
    assert status == {
        "InvalidArgument": 400,
        "PermissionDenied": 401,
        "KeyNotFound": 404,
        "KeyNotUsable": 409,
        "LatchViolation": 409,
        "SessionNotFound": 404,
        "TooManyRequests": 429,
        **dict.fromkeys(
            (
                "AdoptionNotReady",
                "KeylatchError",
                "NotInstalled",
                "SchemaNotExposed",
                "Unavailable",
                "UnexpectedAnswer",
                "UnreadableRow",
            ),
            502,
        ),
    }
    denied = {
        state: problem_of(errors.PermissionDenied(sqlstate=state)).status_code
        for state in ("42501", "28P01", "28000", None)
    }
    assert denied == {"42501": 403, "28P01": 502, "28000": 502, None: 401}


PLANTED: dict[str, dict[str, Any]] = {
    "workspace_id": {"workspace_id": KEY},
    "a list": {"workspace_id": [KEY]},
    "kind": {"kind": KEY},
    "kind as an object": {"kind": {KEY: KEY}},
    "label": {"label": [KEY]},
    "label too long": {"label": KEY * 9},
    "allowed_origins": {"allowed_origins": KEY},
    "an origin": {"allowed_origins": [KEY]},
    "an origin as an object": {"allowed_origins": ["https://a.example", {KEY: KEY}]},
    "scopes": {"scopes": {KEY: KEY}},
    "a scope": {"scopes": [KEY.upper()]},
    "environment": {"environment": KEY},
    "expires_at": {"expires_at": KEY},
    "metadata": {"metadata": KEY},
    "metadata too long": {"metadata": {KEY: KEY * 300}},
    "prefix": {"prefix": KEY},
    "an unknown field": {KEY: KEY},
}


@pytest.mark.parametrize("name", PLANTED)
def test_no_refusal_and_no_log_repeats_what_was_sent(site: Site, name: str) -> None:
    """FastAPI's own 422 would repeat the input."""
    answer = site.act("alice", "POST", "/widget-keys", json={**WORKSPACE, **PLANTED[name]})
    assert problem(answer) == (400, "invalid_argument")
    assert_not_shown(site, answer)


def assert_not_shown(site: Site, answer: httpx.Response) -> None:
    shown = answer.text + str(answer.headers) + site.log.text()
    assert KEY.lower() not in shown.lower()
    assert "7777777" not in shown


def test_a_key_in_every_other_place_is_not_repeated_either(site: Site) -> None:
    headers = {"Authorization": f"Bearer {KEY}"}
    path = f"/widget-keys/{ID}"
    for answer in (
        site.get("/widget-keys", params=WORKSPACE, headers=headers),
        site.act("alice", "POST", f"{path}/rotate", json={"grace_seconds": KEY}),
        site.act("alice", "POST", f"{path}/rotate", json={"expires_at": {KEY: KEY}}),
        site.act("alice", "POST", f"{path}/rotate", json=KEY),
        site.act("alice", "POST", f"{path}/rotate", json=[KEY]),
        site.act("alice", "POST", f"{path}/revoke", json={"cascade": KEY}),
        site.act("alice", "POST", f"{path}/revoke", json={"reason": [KEY]}),
        site.act("alice", "POST", f"{path}/revoke", content=KEY),
        site.act("alice", "POST", f"{path}/revoke", data={"reason": KEY}),
        site.resolve(KEY, SHOP),
        site.resolve(KEY, KEY),
        site.get("/whoami", headers={"x-api-key": KEY}),
        site.get("/whoami", headers={"x-api-key": KEY, "Authorization": f"Bearer {KEY[:-1]}"}),
    ):
        assert 400 <= answer.status_code < 500
        assert_not_shown(site, answer)


ODD_BODIES: dict[str, bytes] = {
    "nothing": b"",
    "half an object": b'{"workspace_id": ',
    "a list": b"[]",
    "null": b"null",
    "a text": b'"x"',
    "invalid UTF-8": b'{"label": "\xff\xfe"}',
    "many digits": b'{"metadata": {"n": ' + b"9" * 5000 + b"}}",
    "an endless list": b"[" * 100_000,
}
ODD_VALUES: dict[str, str] = {
    "a NUL in a label": '{"label": "a\\u0000b"}',
    "half a pair in a label": '{"label": "\\ud800"}',
    "a NUL in an origin": '{"allowed_origins": ["https://a\\u0000.example"]}',
    "a NUL in metadata": '{"metadata": {"a": ["\\u0000"]}}',
    "half a pair as a name": '{"metadata": {"\\ud800": 1}}',
    "no number": '{"metadata": {"n": NaN}}',
    "infinity": '{"metadata": {"n": -Infinity}}',
    "a large number": '{"metadata": {"n": 1e999}}',
    "a time without a zone": '{"expires_at": "2099-01-01T00:00:00"}',
    "the end of time": '{"expires_at": "9999-12-31T23:59:59-23:59"}',
    "no time": '{"expires_at": "infinity"}',
    "a thousand origins": json.dumps(
        {"allowed_origins": [f"https://{n}.a.example" for n in range(1000)]}
    ),
    "the same name twice": '{"label": 5, "label": {}}',
}


@pytest.mark.parametrize("name", ODD_BODIES)
def test_a_body_that_is_not_json_is_a_400(site: Site, name: str) -> None:
    headers = {"Content-Type": "application/json"}
    answer = site.act("alice", "POST", "/widget-keys", content=ODD_BODIES[name], headers=headers)
    assert problem(answer) == (400, "invalid_argument")


@pytest.mark.parametrize("name", ODD_VALUES)
def test_an_impossible_value_is_a_400(site: Site, name: str) -> None:
    body = json.dumps(WORKSPACE)[:-1] + ", " + ODD_VALUES[name][1:]
    headers = {"Content-Type": "application/json"}
    answer = site.act("alice", "POST", "/widget-keys", content=body, headers=headers)
    assert problem(answer) == (400, "invalid_argument")


@pytest.mark.parametrize("seconds", [-1, 30 * 24 * 3600 + 1, 10**30, 0.5, "P1D", None])
def test_a_grace_out_of_its_rule_is_a_400(site: Site, seconds: object) -> None:
    key = site.issue()
    path = f"/widget-keys/{key['id']}/rotate"
    answer = site.act("alice", "POST", path, json={"grace_seconds": seconds})
    assert problem(answer) == (400, "invalid_argument")
    assert "grace_seconds" in answer.json()["detail"]
    assert site.act("alice", "POST", path, json={"grace_seconds": 30 * 24 * 3600}).is_success


def deep(depth: int) -> str:
    """Return a body with this many nested lists, which can be too many for `json.dumps`."""
    start = json.dumps({**WORKSPACE, "kind": "secret"})[:-1]
    return start + ', "metadata": {"a": ' + "[" * depth + "]" * depth + "}}"


def test_a_key_of_deep_metadata_is_not_made(
    database: Database, tokens: Tokens, people: People, rest: Rest
) -> None:
    headers = {"Content-Type": "application/json"}
    with Site(rest.rest_url, tokens) as site:
        for depth, status in ((14, 201), (20, 400), (99, 400), (950, 400), (50_000, 400)):
            body = deep(depth)
            answer = site.act("alice", "POST", "/widget-keys", content=body, headers=headers)
            assert answer.status_code == status, answer.text


# Python cannot read these values. The database accepts them only from its owner.
UNREADABLE = ["[" * 11_000 + "]" * 11_000, "9" * 5000]


@pytest.mark.parametrize("value", UNREADABLE, ids=["nested", "digits"])
def test_metadata_that_python_cannot_read_costs_no_other_key(
    database: Database, tokens: Tokens, people: People, rest: Rest, value: str
) -> None:
    row = (
        database.connect()
        .execute(
            """
        with made as (select keylatch_internal.complete_key('wk_sk_live_') as key),
        kept as (
          insert into keylatch_internal.keys
            (id, workspace_id, kind, key_hash, masked_key, metadata, created_at, updated_at)
          select gen_random_uuid(), %s, 'secret', keylatch.hash_key(key), '...', %s, now(), now()
          from made
          returning id
        )
        select made.key, kept.id::text from made, kept
        """,
            [People.a, f'{{"n": {value}}}'],
        )
        .fetchone()
    )
    assert row is not None
    key, id_ = row
    with Site(rest.rest_url, tokens) as site:
        good = site.issue(kind="secret", metadata={"a": 1})
        listed = site.act("alice", "GET", "/widget-keys", params=WORKSPACE)
        assert listed.status_code == 200
        assert {one["id"]: one["metadata"] for one in listed.json()} == {
            good["id"]: {"a": 1},
            id_: None,
        }
        assert f"metadata of the Key {id_} cannot be read" in site.log.text()
        assert_unavailable(site.get("/whoami", headers={"x-api-key": key}))
        assert site.get("/whoami", headers={"x-api-key": good["key"]}).status_code == 200


@contextmanager
def a_large_body(site: Site, kind: str, path: str) -> Iterator[httpx.Response]:
    def pieces() -> Iterator[bytes]:
        for _ in range(300):
            yield b"x" * 1000

    content: Any = b"x" * 300_000 if kind == "whole" else pieces()
    headers = {
        "Authorization": f"Bearer {site.token('alice')}",
        "Content-Type": "application/json",
    }
    with site.stream("POST", path, content=content, headers=headers) as response:
        response.read()
        yield response


@pytest.mark.parametrize("kind", ["whole", "in pieces"])
@pytest.mark.parametrize(
    "path",
    [
        "/widget-keys",
        f"/widget-keys/{ID}/rotate",
        f"/widget-keys/{ID}/revoke",
        "/widget/keys/resolve",
    ],
)
def test_a_body_that_does_not_end_is_not_read_to_its_end(site: Site, kind: str, path: str) -> None:
    with a_large_body(site, kind, path) as response:
        assert problem(response) == (413, "body_too_large")


def test_the_largest_key_there_can_be_is_not_too_large(site: Site) -> None:
    origins = [f"https://{'a' * 60}.{'b' * 60}.{'c' * 60}.{n}.example" for n in range(100)]
    site.issue(
        label="ü" * 200,
        allowed_origins=origins,
        scopes=[f"{n:064}" for n in range(64)],
        metadata={"text": "ü" * 4000},
    )
