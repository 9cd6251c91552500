"""`require_key`: which keys open an application's route, and how other requests are refused."""

import re
from typing import Any
from uuid import uuid4

import httpx
import pytest

from client.vectors import mistyped
from keylatch.fastapi import require_key
from stack import People
from web.site import LEGACY_KEY, LEGACY_WORKSPACE, Site, problem

pytestmark = pytest.mark.one_server

SHOP = "https://shop.example"


def secret(site: Site, *scopes: str, **fields: Any) -> str:
    return str(site.issue(kind="secret", scopes=scopes, **fields)["key"])


def refusal(response: httpx.Response) -> tuple[int, str]:
    """Return the status and the slug of a refusal in FastAPI's own form."""
    body = response.json()["detail"]
    assert set(body) == {"slug", "detail", "hint"}
    assert ("www-authenticate" in response.headers) is (
        response.status_code == 401 or body["slug"] == "scope_missing"
    )
    return response.status_code, body["slug"]


def test_a_key_opens_the_route_from_either_header(site: Site) -> None:
    key = secret(site)
    for headers in (
        {"x-api-key": key},
        {"X-API-Key": key},
        {"Authorization": f"Bearer {key}"},
        {"Authorization": f"bearer   {key}"},
        {"Authorization": f"Bearer {key}", "x-api-key": key},
        {"Authorization": "Basic YTpi", "x-api-key": key},
        {"Authorization": f"Bearer {key}", "x-api-key": ""},
    ):
        answer = site.get("/whoami", headers=headers)
        assert (answer.status_code, answer.json()) == (200, str(People.a))


@pytest.mark.parametrize(
    "headers",
    [{}, {"x-api-key": ""}, {"Authorization": "Bearer"}, {"Authorization": "Basic YTpi"}],
)
def test_without_a_key_the_route_says_how_to_send_one(site: Site, headers: dict[str, str]) -> None:
    answer = site.get("/whoami", headers=headers)
    assert refusal(answer) == (401, "key_missing")
    assert answer.headers["www-authenticate"] == "Bearer"


def test_two_different_keys_are_not_guessed_between(site: Site) -> None:
    one, other = secret(site), secret(site)
    for sent in (
        [("x-api-key", one), ("Authorization", f"Bearer {other}")],
        [("x-api-key", one), ("x-api-key", other)],
        [("Authorization", f"Bearer {one}"), ("Authorization", f"Bearer {other}")],
        [("x-api-key", "x"), ("Authorization", f"Bearer {one}")],
    ):
        answer = site.get("/whoami", headers=httpx.Headers(sent))
        assert refusal(answer) == (400, "keys_differ")


def test_every_text_that_is_not_an_active_key_gets_the_same_refusal(site: Site) -> None:
    revoked = site.issue(kind="secret")
    site.act("alice", "POST", f"/widget-keys/{revoked['id']}/revoke")
    key = secret(site)
    wrong: list[bytes] = [
        revoked["key"].encode(),
        key[:-1].encode(),
        key.encode() + b"x",
        key.swapcase().encode(),
        b"x",
        b"\xc3\xa9\xff",
        b"x" * 20_000,
        str(revoked["id"]).encode(),
        b"' or true --",
        revoked["masked_key"].encode(),
    ]
    answers = [site.get("/whoami", headers=[(b"x-api-key", text)]) for text in wrong]
    assert {refusal(answer) for answer in answers} == {(401, "key_invalid")}
    assert len({answer.content for answer in answers}) == 1
    assert answers[0].headers["www-authenticate"] == 'Bearer error="invalid_token"'


def test_a_secret_key_from_a_page_is_refused(site: Site) -> None:
    key = secret(site)
    for origin in (SHOP, "null", ""):
        answer = site.get("/whoami", headers={"x-api-key": key, "Origin": origin})
        assert refusal(answer) == (401, "key_invalid")


def test_a_publishable_key_proves_nothing_and_is_taken_only_where_it_is_asked_for(
    site: Site,
) -> None:
    key = site.issue(allowed_origins=[SHOP])["key"]
    page = {"x-api-key": key, "Origin": SHOP}
    assert site.post("/widget/conversations", headers=page).status_code == 200
    assert refusal(site.get("/whoami", headers=page)) == (403, "kind_not_accepted")
    for origin in ({}, {"Origin": "https://evil.example"}):
        answer = site.post("/widget/conversations", headers={"x-api-key": key, **origin})
        assert refusal(answer) == (401, "key_invalid")
    answer = site.post("/widget/conversations", headers={"x-api-key": secret(site)})
    assert refusal(answer) == (403, "kind_not_accepted")


def test_a_scope_is_a_word_and_all_words_count(site: Site) -> None:
    cases: list[tuple[tuple[str, ...], int, int]] = [
        ((), 403, 403),
        (("orders:write",), 403, 403),
        (("orders:*",), 403, 403),
        (("*",), 403, 403),
        (("orders:readx", "xorders:read"), 403, 403),
        (("orders:read",), 200, 403),
        (("orders:write", "orders:read"), 200, 200),
    ]
    for scopes, reads, writes in cases:
        headers = {"x-api-key": secret(site, *scopes)}
        answers = [site.get("/orders", headers=headers), site.post("/orders", headers=headers)]
        assert [answer.status_code for answer in answers] == [reads, writes]
        for answer in answers:
            if answer.status_code == 403:
                assert refusal(answer) == (403, "scope_missing")
    answer = site.post("/orders", headers={"x-api-key": secret(site, "orders:read")})
    assert "orders:write" in answer.json()["detail"]["detail"]
    assert answer.headers["www-authenticate"] == (
        'Bearer error="insufficient_scope", scope="orders:read orders:write"'
    )


def test_a_key_of_another_system_is_asked_for_there_and_must_have_the_scopes(site: Site) -> None:
    headers = {"x-api-key": LEGACY_KEY}
    assert site.get("/orders", headers=headers).json() == str(LEGACY_WORKSPACE)
    # This route asks the other system in the event loop.
    assert refusal(site.post("/orders", headers=headers)) == (403, "scope_missing")
    assert refusal(site.get("/whoami", headers=headers)) == (401, "key_invalid")
    assert refusal(site.get("/orders", headers={"x-api-key": "legacy-other"})) == (
        401,
        "key_invalid",
    )


def test_a_text_in_our_form_never_reaches_another_system(site: Site) -> None:
    """A revoked key must not become active again as a key of another system."""
    revoked = site.issue(kind="secret", scopes=["orders:read"])
    site.act("alice", "POST", f"/widget-keys/{revoked['id']}/revoke")
    active = secret(site, "orders:read")
    site.legacy.asked.clear()
    for text in (revoked["key"], mistyped(revoked["key"]), active.replace("wk_", "acme_")):
        for answer in (
            site.get("/orders", headers={"x-api-key": text}),
            site.post("/orders", headers={"x-api-key": text}),
        ):
            assert refusal(answer) == (401, "key_invalid")
    assert site.get("/orders", headers={"x-api-key": active}).status_code == 200
    assert site.legacy.asked == []


def test_an_application_with_our_handlers_answers_as_our_routers_do(site: Site) -> None:
    key = secret(site)
    assert site.get("/own/whoami", headers={"x-api-key": key}).json() == str(People.a)
    assert problem(site.get("/own/whoami")) == (401, "key_missing")
    assert problem(site.act("alice", "POST", "/own/suspend/x")) == (400, "invalid_argument")
    answer = site.act("alice", "POST", f"/own/suspend/{uuid4()}")
    assert problem(answer) == (404, "key_not_found")
    answer = site.act("alice", "GET", "/own/broken")
    assert problem(answer) == (502, "unavailable")
    assert "house" not in answer.text
    assert re.search("a call of keylatch failed: .*house", site.log.text())


def test_one_text_in_place_of_several_is_a_mistake_that_shows_at_once() -> None:
    def client() -> None:
        """A resolver that is never called."""

    with pytest.raises(TypeError, match="scopes is a string"):
        require_key(client, scopes="orders:read")
    with pytest.raises(TypeError, match="kinds is a string"):
        require_key(client, kinds="secret")
    with pytest.raises(TypeError, match="expected an AsyncKeylatch or a dependency, not int"):
        require_key(5)  # type: ignore[arg-type]
