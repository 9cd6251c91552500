"""Input: every bad value gets a documented error, and every row stays unchanged."""

from typing import Any

import pytest

from security.system import System, slug

pytestmark = pytest.mark.one_server

NOWHERE = "00000000-0000-4000-8000-000000000000"
DEEP: Any = "x"
for _ in range(400):
    DEEP = [DEEP]
KEY = "wk_sk_live_VeaRKoEn9T7U9x9LEzWQwNBejcL6L4cp7s3V"
# The arguments of `issue_key`, besides a good workspace.
BAD_VALUES: dict[str, dict[str, Any]] = {
    "an infinite expiry": {"expires_at": "infinity"},
    "an expiry before all time": {"expires_at": "-infinity"},
    "an expiry in the past": {"expires_at": "2001-01-01T00:00:00Z"},
    "an expiry after the year 9999": {"expires_at": "12000-01-01T00:00:00Z"},
    "metadata that is no object": {"metadata": [1]},
    "deep metadata": {"metadata": DEEP},
    "huge metadata": {"metadata": {"a": "x" * 100_000}},
    "metadata with a number that no float holds": {"metadata": {"n": 10**400}},
    "metadata with a key": {"metadata": {"deep": [KEY]}},
    "a label with a key": {"label": f"prod {KEY}"},
    "an expiry in another year by its zone": {"expires_at": "9999-12-31T23:59:59-15:59"},
    "a thousand origins": {"allowed_origins": [f"https://a{n}.example" for n in range(1000)]},
    "duplicate origins": {"allowed_origins": ["https://a.example"] * 2},
    "scope words with spaces": {"scopes": ["orders read"]},
    "65 scopes": {"scopes": [f"s{n}" for n in range(65)]},
    "a label of control characters": {"label": "a\x07b"},
    "a label of line ends": {"label": "a\nb"},
    "a label that turns its direction": {"label": "live \u202eyek tset"},
    "a label that isolates a part": {"label": "a\u2067b"},
    "a label of 201 characters": {"label": "x" * 201},
    "a huge label": {"label": "x" * 1_000_000},
    "an unknown kind": {"kind": "admin"},
    "an unknown environment": {"environment": "prod"},
    "a prefix with a quote": {"prefix": "a'b"},
    "origins on a secret key": {"kind": "secret", "allowed_origins": ["https://a.example"]},
}
GRACES = (
    "-1 second",
    "-1 year",
    "1 year",
    "31 days",
    "infinity",
    "30 days 1 second",
    "1000000 years",
)


@pytest.fixture
def system(kept_system: System) -> System:
    return kept_system


@pytest.mark.parametrize("what", BAD_VALUES)
def test_a_value_out_of_its_rule_is_refused_by_the_call_and_by_patch(
    system: System, what: str
) -> None:
    """Threat: infinity times, deep or huge JSON, a thousand origins, control characters."""
    values = BAD_VALUES[what]
    with system.nothing_changes():
        refused = system.call("alice", "issue_key", workspace_id=str(system.people.a), **values)
        assert refused.status_code in (400, 413), refused.text
        if refused.status_code == 400:
            assert slug(refused) == "invalid_argument", refused.text
            assert any(name in refused.json()["details"] for name in values)
            assert refused.json()["hint"]
        values = {name: value for name, value in values.items() if name != "prefix"}
        if not values:
            return
        label = "active" if "kind" in values and len(values) > 1 else "widget"
        path = f"keys?id=eq.{system.keys[label].id}"
        refused = system.request("alice", "PATCH", path, json=values)
        assert refused.status_code in (400, 409, 413)
        assert slug(refused) in ("invalid_argument", "column_is_immutable")


@pytest.mark.parametrize("grace", GRACES)
def test_a_grace_out_of_its_rule_is_refused(system: System, grace: str) -> None:
    """Threat: negative or year-long grace."""
    with system.nothing_changes():
        refused = system.call(
            "alice", "rotate_key", key_id=str(system.keys["active"].id), grace=grace
        )
        assert refused.status_code == 400
        # PostgreSQL 15 and 16 have no infinite intervals and raise their own error.
        assert slug(refused) == "invalid_argument" or refused.json()["code"] == "22007"


@pytest.mark.parametrize(
    "malformed", ["x", "", "1", "wk_sk_live_x", "'", "0" * 500, "\u202e", None]
)
def test_a_malformed_uuid_is_an_error_of_the_caller(system: System, malformed: str | None) -> None:
    """Threat: malformed uuid: 400 or 404, never 500."""
    with system.nothing_changes():
        for function in ("rotate_key", "revoke_key", "suspend_key", "unsuspend_key"):
            refused = system.call("alice", function, key_id=malformed)
            assert refused.status_code in (400, 404)
        assert system.call("alice", "issue_key", workspace_id=malformed).status_code == 400
        refused = system.request("alice", "GET", f"keys?id=eq.{malformed}")
        assert refused.status_code == 400
        refused = system.request("alice", "PATCH", f"keys?id=eq.{malformed}", json={"label": "x"})
        assert refused.status_code == 400


def test_names_with_quotes_are_kept_as_they_are(system: System) -> None:
    """Threat: names with quotes."""
    label = 'Robert\'); drop table "keys";-- \\ $$ %s {} <b>'
    issued = system.call("alice", "issue_key", workspace_id=str(system.people.a), label=label)
    assert issued.json()["label"] == label
    path = f"keys?id=eq.{issued.json()['id']}"
    assert system.request("alice", "PATCH", path, json={"label": label * 2}).status_code == 204
    assert system.request("alice", "GET", path).json()[0]["label"] == label * 2
    assert (
        system.call("alice", "revoke_key", key_id=issued.json()["id"], reason=label).status_code
        == 200
    )


@pytest.mark.parametrize(
    "function", ["issue_key", "rotate_key", "revoke_key", "suspend_key", "list_keys", "explain_key"]
)
def test_no_body_makes_a_call_fail_as_a_server(system: System, function: str) -> None:
    """Threat: 4xx for whatever is sent, never a 500."""
    odd: tuple[Any, ...] = (None, True, 0, -1.5, 1e400, "", "x", [], [[]], {}, {"a": {}}, [None])
    names = (
        "workspace_id",
        "key_id",
        "key",
        "kind",
        "grace",
        "label",
        "allowed_origins",
        "scopes",
        "metadata",
        "expires_at",
        "cascade",
        "reason",
        "prefix",
        "origin",
        "nobody",
    )
    living = str(system.keys["active"].id)
    with system.nothing_changes():
        for value in odd:
            for name in names:
                body = {"workspace_id": NOWHERE, "key_id": NOWHERE, "key": "x", name: value}
                known = {
                    "issue_key": set(names)
                    - {"key_id", "key", "grace", "cascade", "reason", "origin"},
                    "rotate_key": {"key_id", "grace", "expires_at"},
                    "revoke_key": {"key_id", "reason", "cascade"},
                    "explain_key": {"key", "origin"},
                    "list_keys": {"workspace_id"},
                }.get(function, {"key_id"}) | {"nobody"} & {name}
                try:
                    sent = {one: body[one] for one in body if one in known}
                    response = system.call("alice", function, **sent)
                except ValueError:
                    continue  # JSON has no infinity, so httpx cannot send it.
                assert response.status_code < 500
        for headers in (
            {"Prefer": "count=exact, tx=rollback, params=single-object"},
            {"Range": "5-1"},
            {"Range": "x"},
            {"Accept": "text/csv"},
            {"Accept": "image/png"},
            {"Content-Type": "text/plain"},
            {"Content-Type": "application/octet-stream"},
            {"Accept-Profile": "nobody"},
            {"Content-Profile": "keylatch_internal"},
            {"Prefer": "handling=strict, nonsense=1"},
        ):
            path = f"rpc/{function}"
            system.request("alice", "POST", path, json={"key_id": NOWHERE}, headers=headers)
            system.request("alice", "POST", path, content=b"\xff" * 1000, headers=headers)
        for method in ("PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"):
            system.request("alice", method, f"rpc/{function}?key_id={living}")
