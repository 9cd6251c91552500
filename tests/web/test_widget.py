"""The widget's route: what it tells a page, and that all refusals have the same bytes."""

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from client.vectors import mistyped
from keylatch.fastapi import resolve_router
from stack import Database, People, Rest
from web.site import LEGACY_KEY, Site, problem

pytestmark = pytest.mark.one_server

SHOP = "https://shop.example"
Seen = tuple[int, bytes, list[tuple[str, str]]]
# Inserts a key that has already expired, which only the owner can do.
EXPIRED = """
with made as (select keylatch_internal.complete_key('wk_pk_live_') as key)
insert into keylatch_internal.keys
  (id, workspace_id, kind, key_hash, public_key, masked_key, allowed_origins, created_at,
   updated_at, expires_at)
select gen_random_uuid(), %s, 'publishable', keylatch.hash_key(key), key,
  left(key, -36) || '...' || right(key, 4), array[%s], now() - interval '2 days', now(),
  now() - interval '1 day'
from made
returning public_key
"""


def seen(response: httpx.Response) -> Seen:
    """Return all that a visitor can see of an answer, except the time and one CORS header.

    The application's own CORS middleware sets that header only if the request has an Origin.
    """
    told = {"date", "access-control-allow-origin"}
    headers = [(name, value) for name, value in response.headers.multi_items() if name not in told]
    return response.status_code, response.content, headers


def test_an_active_key_on_its_page_is_good_and_shows_nothing_of_its_owner(site: Site) -> None:
    for environment in ("live", "test"):
        key = site.issue(allowed_origins=[SHOP], environment=environment, scopes=["chat"])
        answer = site.resolve(key["key"], SHOP)
        assert (answer.status_code, answer.json()) == (200, {"environment": environment})
        assert answer.headers["cache-control"] == "no-store"


REFUSED: dict[str, Callable[[Site], tuple[object, str | None]]] = {
    "unknown": lambda site: (mistyped(site.issue(allowed_origins=[SHOP])["key"]), SHOP),
    "revoked": lambda site: (ended(site, "revoke"), SHOP),
    "rotated": lambda site: (ended(site, "rotate"), SHOP),
    "suspended": lambda site: (suspended(site), SHOP),
    "a foreign page": lambda site: (key(site), "https://evil.example"),
    "a page below": lambda site: (key(site), "https://evil.shop.example"),
    "no page": lambda site: (key(site), None),
    "an empty origin": lambda site: (key(site), ""),
    "the origin null": lambda site: (key(site), "null"),
    "a star": lambda site: (key(site), "*"),
    "two origins": lambda site: (key(site), f"{SHOP}, {SHOP}"),
    "no origin allowed": lambda site: (site.issue()["key"], SHOP),
    "a secret key in a page": lambda site: (site.issue(kind="secret")["key"], SHOP),
    "a secret key without a page": lambda site: (site.issue(kind="secret")["key"], None),
    "a key of another system": lambda site: (LEGACY_KEY, SHOP),
    "an empty text": lambda site: ("", SHOP),
    "spaces around": lambda site: (f" {key(site)} ", SHOP),
    "a NUL": lambda site: (f"{key(site)}\x00", SHOP),
    "half a pair": lambda site: ("\ud800", SHOP),
    "a long text": lambda site: ("x" * 100_000, SHOP),
    "a number": lambda site: (5, SHOP),
    "nothing": lambda site: (None, SHOP),
    "a list": lambda site: ([key(site)], SHOP),
}


def key(site: Site) -> str:
    return str(site.issue(allowed_origins=[SHOP])["key"])


def ended(site: Site, call: str) -> str:
    issued = site.issue(allowed_origins=[SHOP])
    assert site.act("alice", "POST", f"/widget-keys/{issued['id']}/{call}").is_success
    return str(issued["key"])


def suspended(site: Site) -> str:
    issued = site.issue(allowed_origins=[SHOP])
    assert site.act("alice", "POST", f"/own/suspend/{issued['id']}").json() == "suspended"
    return str(issued["key"])


@pytest.fixture(scope="module")
def refusal(site: Site) -> Seen:
    """The answer to a text that is not a key."""
    answer = site.resolve("no key", SHOP)
    assert problem(answer) == (404, "key_not_found")
    return seen(answer)


@pytest.mark.parametrize("name", REFUSED)
def test_every_refusal_is_the_same_404(site: Site, refusal: Seen, name: str) -> None:
    presented, origin = REFUSED[name](site)
    # `json.dumps` escapes a lone surrogate. With `json=`, httpx could not send it.
    headers = {"Content-Type": "application/json", **({} if origin is None else {"Origin": origin})}
    body = json.dumps({"key": presented})
    answer = site.act(None, "POST", "/widget/keys/resolve", content=body, headers=headers)
    assert seen(answer) == refusal


def test_an_expired_key_gets_the_same_refusal(site: Site, home: Database, refusal: Seen) -> None:
    row = home.connect().execute(EXPIRED, [People.a, SHOP]).fetchone()
    assert row is not None
    assert seen(site.resolve(row[0], SHOP)) == refusal


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"", "application/json"),
        (b"{", "application/json"),
        (b'{"key": "\xff\xfe"}', "application/json"),
        (b"[" * 100_000, "application/json"),
        (b'{"kee": "x"}', "application/json"),
        (b"9" * 5000, "application/json"),
        (b"key=x", "application/x-www-form-urlencoded"),
        (b'{"key": "x"}', "text/plain"),
        (b'{"key": "x"}', "application/json; charset=utf-16"),
    ],
)
def test_a_body_without_a_key_gets_the_same_refusal(
    site: Site, refusal: Seen, body: bytes, content_type: str
) -> None:
    headers = {"Content-Type": content_type, "Origin": SHOP}
    answer = site.act(None, "POST", "/widget/keys/resolve", content=body, headers=headers)
    assert seen(answer) == refusal


def test_the_origin_of_the_body_does_not_count(site: Site) -> None:
    good = key(site)
    for header, body, status in (
        ("https://evil.example", SHOP, 404),
        (None, SHOP, 404),
        (SHOP, "https://evil.example", 200),
    ):
        answer = site.post(
            "/widget/keys/resolve",
            json={"key": good, "origin": body, "Origin": body},
            headers={} if header is None else {"Origin": header},
        )
        assert answer.status_code == status
    twice = httpx.Headers([("Origin", SHOP), ("Origin", SHOP)])
    assert site.post("/widget/keys/resolve", json={"key": good}, headers=twice).status_code == 404


def test_the_log_of_the_service_says_why_a_page_was_refused(site: Site) -> None:
    page, server = site.issue(allowed_origins=[SHOP]), site.issue(kind="secret")
    cases: list[tuple[dict[str, Any], str | None, str]] = [
        (page, "https://evil.example", "origin_denied"),
        (page, None, "origin_required"),
        (server, SHOP, "secret_in_browser"),
        (server, None, "kind_not_accepted"),
    ]
    for issued, origin, verdict in cases:
        site.log.lines.clear()
        assert site.resolve(issued["key"], origin).status_code == 404
        line = f"request refused: {verdict}, key_id {issued['id']}, {issued['masked_key']}, "
        assert [text for text in site.log.lines if text.startswith(line)], site.log.text()
        assert issued["key"] not in site.log.text()


def test_the_caller_makes_no_difference(site: Site) -> None:
    good, secret = key(site), site.issue(kind="secret")["key"]
    for who in (None, "anon", "stranger", "mia", "alice", "service_role"):
        for presented, status in ((good, 200), (secret, 404)):
            body = {"key": presented}
            answer = site.act(
                who, "POST", "/widget/keys/resolve", json=body, headers={"Origin": SHOP}
            )
            assert answer.status_code == status


def test_a_page_of_another_site_may_read_the_answer(site: Site) -> None:
    asked = {
        "Origin": SHOP,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type",
    }
    assert site.options("/widget/keys/resolve", headers=asked).is_success
    assert site.resolve(key(site), SHOP).headers["access-control-allow-origin"] == "*"


def test_report_002_a_revoked_key_opens_no_session_and_open_sessions_go_on(
    site: Site, upstream: Rest
) -> None:
    issued = site.issue(allowed_origins=[SHOP])
    page = {"x-api-key": issued["key"], "Origin": SHOP}
    conversation = site.post("/widget/conversations", headers=page).json()

    assert site.act("alice", "POST", f"/widget-keys/{issued['id']}/revoke").status_code == 200
    assert site.resolve(issued["key"], SHOP).status_code == 404
    assert problem_within(site.post("/widget/conversations", headers=page)) == (401, "key_invalid")
    assert site.get(f"/widget/conversations/{conversation}").json() is True

    # The admin bypasses the routes and patches the table.
    patched = upstream.request(
        "PATCH",
        f"/keys?id=eq.{issued['id']}",
        token=site.token("alice"),
        json={"revoked_at": None},
    )
    assert (patched.status_code, patched.json()["message"]) == (409, "revoked_is_final")
    assert site.resolve(issued["key"], SHOP).status_code == 404
    assert problem_within(site.post("/widget/conversations", headers=page)) == (401, "key_invalid")


def problem_within(response: httpx.Response) -> tuple[int, Any]:
    """Return the status and the slug of a refusal in FastAPI's own form."""
    return response.status_code, response.json()["detail"]["slug"]


def test_neither_a_blocking_client_nor_anything_else_is_taken_for_a_resolver() -> None:
    with pytest.raises(TypeError, match="expected an AsyncKeylatch or a dependency, not UUID"):
        resolve_router(People.a)  # type: ignore[arg-type]
