"""Writing: only an admin of the workspace makes or changes keys, and no admin forges a row."""

import pytest

from security.system import OUTSIDERS, REFUSALS, System, slug, sqlstate

STAMPED = {
    "created_by": "b0b00000-0000-4000-8000-000000000002",
    "created_at": "2001-01-01T00:00:00Z",
    "revoked_by": "b0b00000-0000-4000-8000-000000000002",
    "id": "12345678-1234-4234-8234-123456789012",
    "masked_key": "wk_sk_live_...fake",
    "revoked_at": "2001-01-01T00:00:00Z",
    "superseded_at": "2099-01-01T00:00:00Z",
    "suspended_at": "2001-01-01T00:00:00Z",
    "public_key": "wk_pk_live_chosen",
}


@pytest.fixture
def system(kept_system: System) -> System:
    return kept_system


@pytest.mark.parametrize("who", OUTSIDERS)
def test_outsiders_write_nothing_in_another_workspace(system: System, who: str) -> None:
    """Threat: mia or bob issues, rotates, revokes, suspends, re-labels in A."""
    living = system.keys["active"].id
    calls = [
        f"select keylatch.issue_key('{system.people.a}')",
        f"select keylatch.rotate_key('{living}')",
        f"select keylatch.rotate_key('{living}', '1 hour')",
        f"select keylatch.revoke_key('{living}', 'x', true)",
        f"select keylatch.suspend_key('{living}')",
        f"select keylatch.unsuspend_key('{system.keys['suspended'].id}')",
        f"insert into keylatch.keys (workspace_id) values ('{system.people.a}')",
        f"insert into keylatch_internal.keys (workspace_id) values ('{system.people.a}')",
        "delete from keylatch.keys",
        "truncate keylatch_internal.keys",
        f"delete from keylatch.workspaces where id = '{system.people.a}'",
        "insert into keylatch.workspaces (name) values ('mine')",
        "update keylatch.workspace_membership set role = 'admin'",
        "insert into keylatch.workspace_membership"
        f" values ('{system.people.a}', auth.uid(), 'admin')",
        "alter table keylatch_internal.keys disable trigger all",
        "drop trigger keys_update_revoked_is_final on keylatch_internal.keys",
        "create policy mine on keylatch_internal.keys using (true)",
        "create or replace function keylatch.admin_workspace_ids() returns setof uuid"
        " language sql as 'select id from keylatch.workspaces'",
    ]
    with system.nothing_changes():
        with system.connect(who) as outsider:
            for statement in calls:
                assert sqlstate(outsider, statement) in REFUSALS, statement
            # No caller may set rotated_from, so this is refused before the key is looked up.
            successor = (
                f"insert into keylatch.keys (workspace_id, rotated_from)"
                f" values ('{system.people.b}', '{living}')"
            )
            assert sqlstate(outsider, successor) in REFUSALS | {"PT400"}
            for relation in ("keylatch.keys", "keylatch_internal.keys"):
                update = f"update {relation} set label = 'mine' where id = '{living}'"
                assert sqlstate(outsider, update) in (None, "42501")
        for function, arguments in (
            ("issue_key", {"workspace_id": str(system.people.a)}),
            ("rotate_key", {"key_id": str(living)}),
            ("revoke_key", {"key_id": str(living)}),
            ("suspend_key", {"key_id": str(living)}),
        ):
            assert system.call(who, function, **arguments).status_code in (401, 403, 404)
        system.request(who, "PATCH", f"keys?id=eq.{living}", json={"label": "mine"})
        everything = f"keys?workspace_id=eq.{system.people.a}"
        system.request(who, "PATCH", everything, json={"revoked_at": "now"})
        made = system.request(who, "POST", "keys", json={"workspace_id": str(system.people.a)})
        assert made.status_code in (401, 403)


def test_an_admin_moves_no_key_and_makes_none_elsewhere(system: System) -> None:
    """Threat: alice moves a key to B, or makes one "in" B."""
    living, b = system.keys["active"].id, str(system.people.b)
    with system.nothing_changes():
        moved = system.request("alice", "PATCH", f"keys?id=eq.{living}", json={"workspace_id": b})
        assert (moved.status_code, slug(moved)) == (409, "column_is_immutable")
        made = system.request("alice", "POST", "keys", json={"workspace_id": b})
        assert made.status_code == 403
        both = [{"workspace_id": str(system.people.a)}, {"workspace_id": b}]
        assert system.request("alice", "POST", "keys", json=both).status_code == 403
        assert system.call("alice", "issue_key", workspace_id=b).status_code == 403
        with system.connect("alice") as alice:
            # Without RETURNING, which would also need the policy for select.
            insert = f"insert into keylatch.keys (workspace_id) values ('{b}')"
            assert sqlstate(alice, insert) == "42501"
            move = f"update keylatch_internal.keys set workspace_id = '{b}'"
            assert sqlstate(alice, move) == "PT409"


@pytest.mark.parametrize("who", ["alice", "service_role"])
@pytest.mark.parametrize("column", STAMPED)
def test_no_caller_chooses_what_the_database_stamps(system: System, who: str, column: str) -> None:
    """Threat: a caller sets created_by, revoked_by, id, masked_key, or plants revoked_at."""
    planted = {"workspace_id": str(system.people.a), column: STAMPED[column]}
    with system.nothing_changes():
        refused = system.request(who, "POST", "keys", json=planted)
        assert (refused.status_code, slug(refused)) == (400, "invalid_argument")
        assert column in refused.json()["details"]
        upsert = {"Prefer": "resolution=merge-duplicates"}
        refused = system.request(who, "POST", "keys", json=planted, headers=upsert)
        assert refused.status_code == 400
        with system.connect(who) as client:
            insert = f"insert into keylatch.keys (workspace_id, {column}) values (%s, %s)"
            assert sqlstate(client, insert, system.people.a, STAMPED[column]) == "PT400"
            direct = insert.replace("keylatch.keys", "keylatch_internal.keys")
            assert sqlstate(client, direct, system.people.a, STAMPED[column]) == "PT400"


@pytest.mark.parametrize("column", ["created_by", "created_at", "id", "masked_key", "public_key"])
def test_no_caller_changes_what_the_database_stamped(system: System, column: str) -> None:
    """Threat: a caller sets created_by, created_at, id, masked_key, rotated_from afterwards."""
    path = f"keys?id=eq.{system.keys['active'].id}"
    for who in ("alice", "service_role"):
        with system.nothing_changes():
            refused = system.request(who, "PATCH", path, json={column: STAMPED[column]})
            assert (refused.status_code, slug(refused)) == (409, "column_is_immutable")


def test_a_planted_time_of_revocation_is_replaced_by_the_clock(fresh_system: System) -> None:
    """Threat: a caller plants revoked_at in the past or future, or names another as revoked_by."""
    for label, when in (("active", "2001-01-01T00:00:00Z"), ("successor", "2099-01-01T00:00:00Z")):
        path = f"keys?id=eq.{fresh_system.keys[label].id}"
        body = {
            "revoked_at": when,
            "revoked_by": str(fresh_system.people.bob),
            "revoke_reason": "mine",
        }
        changed = fresh_system.request(
            "alice", "PATCH", path, json=body, headers={"Prefer": "return=representation"}
        ).json()[0]
        with fresh_system.connect("service_role") as service:
            now = service.execute("select now()").fetchone()[0]  # type: ignore[index]
            row = service.execute("select * from keylatch.keys where id = %s", [changed["id"]])
            key = row.fetchone()
        assert abs((key.revoked_at - now).total_seconds()) < 60  # type: ignore[union-attr]
        assert key.revoked_by == fresh_system.people.alice  # type: ignore[union-attr]


def test_no_client_brings_a_hash(system: System) -> None:
    """Threat: insert of a key with a hash of one's own choosing through REST."""
    digest = "\\x" + "ab" * 32
    for who in ("alice", "service_role"):
        with system.nothing_changes():
            body = {"workspace_id": str(system.people.a), "key_hash": digest}
            assert system.request(who, "POST", "keys", json=body).status_code == 400
            with system.connect(who) as client:
                insert = (
                    "insert into keylatch_internal.keys (workspace_id, key_hash) values (%s, %s)"
                )
                assert sqlstate(client, insert, system.people.a, digest) == "42501"


def test_a_hand_off_setting_that_a_caller_plants_gives_them_only_their_own_key(
    system: System,
) -> None:
    """Threat: a definer function, or a trigger, reachable with arguments nobody expected."""
    with system.connect("alice") as alice, alice.transaction():
        alice.execute("select set_config('keylatch.handoff', 'key:wk_sk_live_planted', true)")
        alice.execute(
            "insert into keylatch.keys (workspace_id, label) values (%s, 'a')", [system.people.a]
        )
        left = alice.execute("select current_setting('keylatch.handoff')").fetchone()
        assert left == ("key:wk_sk_live_planted",)
        alice.execute("select set_config('keylatch.handoff', 'prefix:X Y', true)")
        with alice.transaction(force_rollback=True):
            insert = "insert into keylatch.keys (workspace_id) values (%s)"
            assert sqlstate_inside(alice, insert, system.people.a) == "PT400"
        issued = alice.execute(
            "select key, masked_key from keylatch.issue_key(%s)", [system.people.a]
        )
        row = issued.fetchone()
        assert row is not None and row.key.startswith("wk_pk_live_")
        left = alice.execute("select current_setting('keylatch.handoff')").fetchone()
        assert left == ("prefix:X Y",)


def sqlstate_inside(connection: object, statement: str, *values: object) -> str | None:
    """Like `sqlstate`, but inside a transaction that stays usable."""
    import psycopg

    assert isinstance(connection, psycopg.Connection)
    try:
        with connection.transaction():
            connection.execute(statement, values)
    except psycopg.Error as error:
        return error.sqlstate
    return None
