"""Reading: nobody sees another workspace's keys, and only the owner sees a hash."""

import hashlib

import psycopg
import pytest

from security.system import ORIGIN, OUTSIDERS, System, slug, sqlstate

HASH_READS = (
    "select key_hash from keylatch_internal.keys",
    "select k from keylatch_internal.keys as k",
    "select * from keylatch_internal.keys",
    "select to_jsonb(k) from keylatch_internal.keys as k",
    "select id from keylatch_internal.keys where key_hash is not null",
    "select id from keylatch_internal.keys order by key_hash",
    "update keylatch_internal.keys set label = 'x' returning key_hash",
    "update keylatch_internal.keys set label = encode(key_hash, 'hex')",
    "insert into keylatch_internal.keys (workspace_id) values (gen_random_uuid())"
    " returning key_hash",
    "copy keylatch_internal.keys to stdout",
    "create index on keylatch_internal.keys (key_hash)",
)


@pytest.fixture
def system(kept_system: System) -> System:
    return kept_system


@pytest.mark.parametrize("who", OUTSIDERS)
def test_outsiders_read_no_key_of_another_workspace(system: System, who: str) -> None:
    """Threat: anon, mia, bob read A's keys, memberships."""
    with system.nothing_changes(), system.connect(who) as outsider:
        for made in system.keys.values():
            for relation in ("keylatch.keys", "keylatch_internal.keys"):
                try:
                    found = outsider.execute(f"select id from {relation} where id = %s", [made.id])
                except psycopg.errors.InsufficientPrivilege:
                    outsider.rollback()
                else:
                    assert found.fetchall() == []
        for path in (
            "keys",
            "keys?select=id,public_key",
            f"keys?workspace_id=eq.{system.people.a}",
        ):
            response = system.request(who, "GET", path, headers={"Prefer": "count=exact"})
            shown = response.text
            for made in system.keys.values():
                assert str(made.id) not in shown
                assert made.key not in shown
        listed = system.call(who, "list_keys", workspace_id=str(system.people.a))
        assert listed.text == "[]" or listed.status_code in (401, 403)


@pytest.mark.parametrize("who", OUTSIDERS)
def test_outsiders_read_no_event_of_another_workspace(system: System, who: str) -> None:
    """Threat: anon, mia, bob read A's events."""
    with system.nothing_changes(), system.connect(who) as outsider:
        for relation in ("keylatch.key_events", "keylatch_internal.key_events"):
            try:
                found = outsider.execute(
                    f"select * from {relation} where workspace_id = %s", [system.people.a]
                )
            except psycopg.errors.InsufficientPrivilege:
                outsider.rollback()
            else:
                assert found.fetchall() == []
    listed = system.call(who, "list_events", workspace_id=str(system.people.a))
    if listed.status_code == 200:
        assert listed.json() == []
    else:
        assert listed.status_code in (401, 403)
    shown = system.request(who, "GET", "key_events").text
    assert not any(str(made.id) in shown for made in system.keys.values())


@pytest.mark.parametrize("who", [*OUTSIDERS, "alice"])
def test_a_user_sees_their_own_memberships_alone(system: System, who: str) -> None:
    """Threat: anon, mia, bob read A's memberships."""
    response = system.request(who, "GET", "workspace_membership")
    if response.status_code == 200:
        mine = {str(getattr(system.people, who))}
        assert {row["user_id"] for row in response.json()} <= mine
    else:
        assert response.status_code in (401, 403)


@pytest.mark.parametrize("who", [*OUTSIDERS, "alice", "service_role"])
def test_nobody_but_the_owner_reads_a_hash(system: System, who: str) -> None:
    """Threat: anyone but the owner reads `key_hash`."""
    with system.nothing_changes(), system.connect(who) as reader:
        for statement in HASH_READS:
            assert sqlstate(reader, statement) in ("42501", "42P01"), statement
        found = reader.execute(
            "select * from pg_stats where tablename = 'keys' and attname = 'key_hash'"
        )
        assert found.fetchall() == []
    for path in ("keys?select=key_hash", "keys?order=key_hash", "keys?key_hash=not.is.null"):
        assert system.request(who, "GET", path).status_code in (400, 401, 403)
    for profile in ("keylatch_internal",):
        response = system.request(who, "GET", "keys", headers={"Accept-Profile": profile})
        assert response.status_code == 406


def test_an_error_of_a_client_quotes_no_hash_and_no_row(system: System) -> None:
    """Threat: a key or hash shows up in an exception."""
    with system.connect("service_role") as service:
        for statement in (
            "update keylatch.keys set label = repeat('x', 300)",
            "update keylatch.keys set public_key = 'x' where kind = 'publishable'",
            "insert into keylatch.keys (workspace_id, kind, allowed_origins)"
            " values (gen_random_uuid(), 'secret', '{https://a.example}')",
        ):
            with pytest.raises(psycopg.Error) as refused:
                service.execute(statement)
            service.rollback()
            text = f"{refused.value} {refused.value.diag.message_detail}"
            assert "\\x" not in text
            assert "Failing row" not in text


@pytest.mark.parametrize("label", ["active", "widget"])
def test_a_stored_hash_presented_as_a_key_resolves_to_nothing(system: System, label: str) -> None:
    """Threat: a stored hash, or its hex, presented as a key authenticates."""
    key = system.keys[label].key
    origin = ORIGIN if label == "widget" else None
    assert system.resolves(key, origin)
    digest = hashlib.sha256(key.encode()).digest()
    for presented in (
        digest.hex(),
        "\\x" + digest.hex(),
        digest.decode("latin-1").replace("\0", ""),
    ):
        assert not system.resolves(presented, origin)
        with system.connect("alice") as alice:
            found = alice.execute("select keylatch_internal.find_key(%s)", [presented]).fetchone()
            assert found == (None,)


@pytest.mark.parametrize("who", ["bob", "mia", "stranger"])
def test_a_foreign_key_and_an_unknown_one_get_the_same_answers(system: System, who: str) -> None:
    """Threat: error texts, masked_key, explain_key or list_keys tell bob that A's key exists."""
    with system.connect("service_role") as service:
        row = service.execute("select keylatch_internal.complete_key('wk_sk_live_')")
        unknown_key = row.fetchone()[0]  # type: ignore[index]
    unknown_id = "00000000-0000-4000-8000-000000000000"
    own = system.people.b if who == "bob" else system.people.a

    def answers(key_id: object, key: str) -> list[tuple[int, str]]:
        target = str(key_id)
        tries = [
            system.call(who, "explain_key", key=key),
            system.call(who, "explain_key", key=key, origin=ORIGIN),
            system.call(who, "rotate_key", key_id=target),
            system.call(who, "rotate_key", key_id=target, grace="1 hour"),
            system.call(who, "rotate_key", key_id=target, grace="-1 hour"),
            system.call(who, "revoke_key", key_id=target),
            system.call(who, "revoke_key", key_id=target, cascade=True),
            system.call(who, "suspend_key", key_id=target),
            system.call(who, "unsuspend_key", key_id=target),
            system.request(who, "GET", f"keys?id=eq.{target}", headers={"Prefer": "count=exact"}),
            system.request(
                who,
                "PATCH",
                f"keys?id=eq.{target}",
                json={"label": "x"},
                headers={"Prefer": "return=representation,count=exact"},
            ),
            system.request(who, "PATCH", f"keys?id=eq.{target}", json={"label": "x" * 300}),
            system.request(who, "DELETE", f"keys?id=eq.{target}"),
            system.request(
                who, "POST", "keys", json={"workspace_id": str(own), "rotated_from": target}
            ),
            system.request(
                who,
                "POST",
                "keys",
                json={"workspace_id": str(own), "id": target},
                headers={"Prefer": "resolution=merge-duplicates"},
            ),
        ]
        # The answer shows the fingerprint of the text that the caller sent. It is no secret.
        mine = hashlib.sha256(key.encode()).hexdigest()[:8]
        return [
            (one.status_code, one.text.replace(target, "ID").replace(mine, "FINGERPRINT"))
            for one in tries
        ]

    with system.nothing_changes():
        for label, made in system.keys.items():
            assert answers(made.id, made.key) == answers(unknown_id, unknown_key), label


def test_a_filter_of_the_caller_runs_after_the_row_policies(system: System) -> None:
    """Threat: a cheap, leaky function in a filter reports rows before the policy hides them."""
    with system.connect("bob") as bob:
        bob.execute(
            "create function pg_temp.leak(text) returns boolean language plpgsql cost 0.0001"
            " as $$ begin raise notice 'leaked %', $1; return true; end $$"
        )
        heard: list[str] = []
        bob.add_notice_handler(lambda said: heard.append(str(said.message_primary)))
        for relation in ("keylatch.keys", "keylatch_internal.keys"):
            bob.execute(f"select id from {relation} where pg_temp.leak(label)")
        assert heard == ["leaked of bob"] * 2
        assert sqlstate(bob, "select 1 / (length(label) - 6) from keylatch.keys") == "22012"
        assert sqlstate(bob, "select 1 / (length(label) - 7) from keylatch.keys") is None


def test_the_openapi_page_of_anon_names_no_call(system: System) -> None:
    """Threat: what anon may not use is not even described to it."""
    response = system.request("anon", "GET", "")
    assert response.status_code in (200, 401, 403)
    assert "rotate_key" not in response.text
    assert "/rpc/resolve_key" not in system.request("alice", "GET", "").text
    assert slug(system.call("anon", "resolve_key", key="x")) is not None
