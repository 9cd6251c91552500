"""The admin's routes: who may do what by the row policies, and what each answer contains."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from keylatch import Secret, parse_key
from keylatch.fastapi import as_caller
from stack import People, Tokens
from web.site import Site, problem

pytestmark = pytest.mark.one_server

WORKSPACE = {"workspace_id": str(People.a)}
# What each caller gets for issuing, listing, rotating and revoking: the status, and the slug of a
# refusal.
ANSWERS: dict[str | None, tuple[tuple[int, str], ...]] = {
    None: ((401, "token_missing"),) * 4,
    "anon": ((401, "token_missing"),) * 4,
    "stranger": ((403, "permission_denied"), (200, ""), *((404, "key_not_found"),) * 2),
    "mia": ((403, "permission_denied"), (200, ""), *((404, "key_not_found"),) * 2),
    "bob": ((403, "permission_denied"), (200, ""), *((404, "key_not_found"),) * 2),
    "keylatch_resolver": ((403, "permission_denied"),) * 4,
    "alice": ((201, ""), (200, ""), (201, ""), (200, "")),
    "service_role": ((201, ""), (200, ""), (201, ""), (200, "")),
}


@pytest.mark.parametrize("who", ANSWERS)
def test_the_row_policies_decide_for_each_caller(site: Site, who: str | None) -> None:
    key = site.issue()
    answers = [
        site.act(who, "POST", "/widget-keys", json=WORKSPACE),
        site.act(who, "GET", "/widget-keys", params=WORKSPACE),
        site.act(who, "POST", f"/widget-keys/{key['id']}/rotate"),
        site.act(who, "POST", f"/widget-keys/{key['id']}/revoke"),
    ]
    for answer, (status, slug) in zip(answers, ANSWERS[who], strict=True):
        assert answer.status_code == status, answer.text
        assert answer.headers["cache-control"] == "no-store"
        assert ("www-authenticate" in answer.headers) is (status == 401)
        if slug:
            assert problem(answer) == (status, slug)
    admins = who in ("alice", "service_role")
    if answers[1].is_success:
        assert (key["id"] in answers[1].text) is admins
    status = {row["id"]: row["status"] for row in listed(site)}[key["id"]]
    assert status == ("revoked" if admins else "active")


def listed(site: Site) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = site.act("alice", "GET", "/widget-keys", params=WORKSPACE).json()
    return rows


def test_an_issued_key_is_shown_once_with_all_its_fields(site: Site) -> None:
    ends = datetime.now(UTC) + timedelta(days=30)
    asked = {
        "kind": "secret",
        "label": "Büro ☂",
        "scopes": ["orders:read", "orders:*"],
        "environment": "test",
        "expires_at": ends.isoformat(),
        "metadata": {"plan": {"seats": 3, "rate": 0.5, "trial": None}},
        "prefix": "acme",
    }
    issued = site.issue(**asked)
    assert parse_key(issued["key"]).prefix == "acme"
    assert issued["masked_key"].startswith("acme_sk_test_")
    assert datetime.fromisoformat(issued.pop("expires_at")) == ends
    assert {name: issued[name] for name in asked if name in issued} == {
        name: value for name, value in asked.items() if name not in ("expires_at", "prefix")
    }
    (row,) = (row for row in listed(site) if row["id"] == issued["id"])
    assert (row["status"], row["public_key"], row["masked_key"]) == (
        "active",
        None,
        issued["masked_key"],
    )
    assert row["created_by"] == str(People.alice)
    assert issued["key"] not in str(listed(site)), "a secret key is never shown again"
    assert "key_hash" not in row


def test_a_rotation_gives_the_successor_and_the_grace_keeps_the_old_one(site: Site) -> None:
    old = site.issue(label="Shop", allowed_origins=["https://shop.example"])
    path = f"/widget-keys/{old['id']}/rotate"
    rotated = site.act("alice", "POST", path, json={"grace_seconds": 3600})
    assert rotated.status_code == 201
    new = rotated.json()
    assert (new["rotated_from"], new["label"]) == (old["id"], "Shop")
    for key in (old, new):
        assert site.resolve(key["key"], "https://shop.example").status_code == 200
    assert problem(site.act("alice", "POST", path)) == (409, "key_already_rotated")

    at_once = site.act("alice", "POST", f"/widget-keys/{new['id']}/rotate").json()
    assert site.resolve(new["key"], "https://shop.example").status_code == 404
    assert site.resolve(at_once["key"], "https://shop.example").status_code == 200


def test_a_revocation_says_since_when_and_again_is_no_error(site: Site) -> None:
    key = site.issue()
    path = f"/widget-keys/{key['id']}/revoke"
    first = site.act("alice", "POST", path, json={"reason": "leaked"}).json()
    assert (first["id"], first["already_revoked"], first["also_revoked"]) == (key["id"], False, [])
    again = site.act("alice", "POST", path, json={"reason": "other"}).json()
    assert (again["revoked_at"], again["already_revoked"]) == (first["revoked_at"], True)
    (row,) = (row for row in listed(site) if row["id"] == key["id"])
    assert (row["status"], row["revoke_reason"]) == ("revoked", "leaked")
    rotated = site.act("alice", "POST", f"/widget-keys/{key['id']}/rotate")
    assert problem(rotated) == (409, "key_revoked")


def test_a_cascade_ends_the_whole_family(site: Site) -> None:
    old = site.issue()
    new = site.act(
        "alice", "POST", f"/widget-keys/{old['id']}/rotate", json={"grace_seconds": 60}
    ).json()
    path = f"/widget-keys/{old['id']}/revoke"
    revoked = site.act("alice", "POST", path, json={"cascade": True}).json()
    assert revoked["also_revoked"] == [new["id"]]


BAD_VALUES: dict[str, dict[str, Any]] = {
    "label": {"label": "x" * 201},
    "allowed_origins[1]": {"allowed_origins": ["https://shop.example/"]},
    "scopes": {"scopes": ["Not A Scope"]},
    "prefix": {"prefix": "W"},
    "expires_at": {"expires_at": "2001-01-01T00:00:00Z"},
    "metadata": {"metadata": {"x": "y" * 9000}},
}


@pytest.mark.parametrize("field", BAD_VALUES)
def test_a_value_out_of_its_rule_is_a_400_that_names_the_field(site: Site, field: str) -> None:
    before = len(listed(site))
    response = site.act("alice", "POST", "/widget-keys", json={**WORKSPACE, **BAD_VALUES[field]})
    assert problem(response) == (400, "invalid_argument")
    assert field in response.json()["detail"]
    assert response.json()["hint"]
    assert len(listed(site)) == before


MALFORMED = [
    "1",
    "null",
    "%00",
    "..%2f..",
    "a" * 36,
    "x" * 5000,
    "%F0%9F%94%91",
    f"{UUID(int=1)}"[1:],
]


@pytest.mark.parametrize("text", MALFORMED)
def test_a_malformed_id_is_the_callers_mistake_on_every_route(site: Site, text: str) -> None:
    """Report 002: a malformed id became a 500."""
    for answer in (
        site.act("alice", "POST", f"/widget-keys/{text}/rotate"),
        site.act("alice", "POST", f"/widget-keys/{text}/revoke"),
        site.act("alice", "GET", f"/widget-keys?workspace_id={text}"),
        site.act("alice", "POST", "/widget-keys", json={"workspace_id": text}),
    ):
        if "%2f" in text and answer.status_code == 404:
            continue  # the decoded path is the path of another route
        assert problem(answer) == (400, "invalid_argument")
        assert re.search(r"(key|workspace)_id: Input should be a valid UUID", answer.text)


def test_an_id_that_names_nothing_is_not_found(site: Site) -> None:
    for call in ("rotate", "revoke"):
        answer = site.act("alice", "POST", f"/widget-keys/{uuid4()}/{call}")
        assert problem(answer) == (404, "key_not_found")
    assert site.act("alice", "GET", f"/widget-keys?workspace_id={uuid4()}").json() == []
    answer = site.act("alice", "POST", "/widget-keys", json={"workspace_id": str(uuid4())})
    assert problem(answer) == (403, "permission_denied")


def test_a_token_that_is_not_good_is_a_401(site: Site, tokens: Tokens) -> None:
    expired = tokens.token(People.alice, seconds=-60)
    forged = Tokens().token(People.alice)
    for token in (expired, forged, expired[:-1], "x", "a.b.c"):
        answer = site.get(
            "/widget-keys", params=WORKSPACE, headers={"Authorization": f"Bearer {token}"}
        )
        assert problem(answer) == (401, "permission_denied")
        assert answer.headers["www-authenticate"] == 'Bearer error="invalid_token"'
        assert token not in answer.text or len(token) < 6


@pytest.mark.parametrize(
    "values",
    [
        [b"Bearer \xc3\xa9\xff"],
        [b"Bearer a b"],
        [b'Bearer "quoted"'],
        [b"Bearer one", b"Bearer two"],
        [b"Bearer one, Bearer two"],
    ],
)
def test_a_text_that_is_not_a_token_is_not_sent_on(site: Site, values: list[bytes]) -> None:
    headers = httpx.Headers([(b"Authorization", value) for value in values])
    answer = site.get("/widget-keys", params=WORKSPACE, headers=headers)
    assert problem(answer) == (401, "token_malformed")


@pytest.mark.parametrize("value", ["", "Bearer", "Basic YTpi", "bearer"])
def test_a_request_without_a_token_is_not_signed_in(site: Site, value: str) -> None:
    answer = site.get("/widget-keys", params=WORKSPACE, headers={"Authorization": value})
    assert problem(answer) == (401, "token_missing")


def test_the_rights_of_one_caller_do_not_stay_for_the_next(site: Site) -> None:
    key = site.issue()
    for who, sees in (("alice", True), ("bob", False), ("alice", True), ("stranger", False)):
        answer = site.act(who, "GET", "/widget-keys", params=WORKSPACE)
        assert (key["id"] in answer.text) is sees
    assert problem(site.act(None, "GET", "/widget-keys", params=WORKSPACE))[0] == 401


def test_a_client_that_nobody_signed_in_is_refused_at_once() -> None:
    with pytest.raises(TypeError, match=r"expected postgrest\.AsyncPostgrestClient"):
        as_caller(Secret("x"))  # type: ignore[arg-type]
