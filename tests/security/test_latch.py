"""The latch: a key that was once reported revoked or expired never resolves again."""

import json
from typing import Any

import psycopg
import pytest

from security.system import System, slug, sqlstate

FINAL = {"revoked": "revoked_is_final", "expired": "expired_is_final"}


def as_writer(system: System, who: str) -> psycopg.Connection[Any]:
    """Return a connection of a role that can write rows, also of the owner and the superuser."""
    if who == "owner":
        return system.database.connect()
    if who in ("superuser", "replica"):
        connection = system.database.connect(superuser=True)
        if who == "replica":
            connection.execute("set session_replication_role = replica")
        return connection
    return system.connect(who)


WRITERS = ("alice", "service_role", "owner", "superuser", "replica")


@pytest.mark.parametrize("who", WRITERS)
def test_no_writer_reactivates_a_revoked_key(system: System, who: str) -> None:
    """Threat: clearing or moving revoked_at, extending an expired key, by whatever statement."""
    with system.nothing_changes(), as_writer(system, who) as writer:
        for label in ("revoked", "expired"):
            key_id = system.keys[label].id
            for change in (
                "revoked_at = null",
                "revoked_at = null, revoked_by = null, revoke_reason = null",
                "revoked_at = 'infinity'",
                "revoked_at = '2099-01-01'",
                "expires_at = null",
                "expires_at = now() + interval '1 year'",
                "suspended_at = now()",
                "superseded_at = now()",
            ):
                if label == "expired" and change.startswith("revoked_at"):
                    continue
                for relation in ("keylatch.keys", "keylatch_internal.keys"):
                    update = f"update {relation} set {change} where id = '{key_id}'"
                    assert sqlstate(writer, update) == "PT409", update
            insert = (
                "insert into keylatch_internal.keys (id, workspace_id) values (%s, %s)"
                " on conflict (id) do update set revoked_at = null, expires_at = null"
            )
            assert sqlstate(writer, insert, key_id, system.people.a) in ("PT400", "23502", "PT409")
            merge = (
                "merge into keylatch.keys as k using (select %s::uuid as id) as v on k.id = v.id"
                " when matched then update set revoked_at = null, expires_at = null"
            )
            # A view does not support MERGE before PostgreSQL 17.
            assert sqlstate(writer, merge, key_id) in ("PT409", "42809", "0A000")
            table_merge = merge.replace("keylatch.keys", "keylatch_internal.keys")
            assert sqlstate(writer, table_merge, key_id) == "PT409"
            again = (
                "with gone as (delete from keylatch_internal.keys where id = %s returning *)"
                " insert into keylatch_internal.keys (id, workspace_id, kind, environment,"
                " key_hash,"
                " masked_key, created_at, updated_at) select id, workspace_id, kind, environment,"
                " key_hash, masked_key, created_at, updated_at from gone"
            )
            assert sqlstate(writer, again, key_id) in ("PT409", "42501")
        for truncate in (
            "truncate keylatch_internal.keys",
            "truncate keylatch_internal.keys cascade",
            "truncate keylatch.workspaces cascade",
        ):
            assert sqlstate(writer, truncate) in ("PT409", "42501")
    assert not system.resolves(system.keys["revoked"].key)
    assert not system.resolves(system.keys["expired"].key)


@pytest.mark.parametrize("who", ["alice", "service_role"])
@pytest.mark.parametrize("label", FINAL)
def test_no_patch_reactivates_a_revoked_key(system: System, who: str, label: str) -> None:
    """Threat: clearing or moving revoked_at by PATCH; extending an expired key."""
    path = f"keys?id=eq.{system.keys[label].id}"
    bodies: list[dict[str, Any]] = [{"expires_at": None}, {"expires_at": "2099-01-01T00:00:00Z"}]
    if label == "revoked":
        bodies += [{"revoked_at": None}, {"revoked_at": "2001-01-01T00:00:00Z"}]
        bodies += [{"revoke_reason": "nothing"}, {"revoked_by": None}]
    with system.nothing_changes():
        for body in bodies:
            refused = system.request(who, "PATCH", path, json=body)
            assert (refused.status_code, slug(refused)) == (409, FINAL[label])
        assert system.request(who, "DELETE", path).status_code == 403


@pytest.mark.parametrize("who", ["alice", "service_role"])
def test_a_stale_object_that_writes_back_every_column_revives_nothing(
    system: System, who: str
) -> None:
    """Threat: a stale ORM object that writes back every column."""
    path = f"keys?id=eq.{system.keys['active'].id}"
    stale = system.request(who, "GET", path).json()[0]
    del stale["status"], stale["fingerprint"]
    system.call("alice", "revoke_key", key_id=stale["id"], reason="leaked")
    with system.nothing_changes():
        refused = system.request(who, "PATCH", path, json=stale)
        assert (refused.status_code, slug(refused)) == (409, "revoked_is_final")
        with system.connect(who) as client:
            settings = ", ".join(f"{name} = r.{name}" for name in stale)
            update = (
                f"update keylatch.keys as k set {settings}"
                " from json_populate_record(null::keylatch.keys, %s) as r where k.id = r.id"
            )
            assert sqlstate(client, update, json.dumps(stale)) == "PT409"
    assert not system.resolves(system.keys["active"].key)


def test_a_failed_attempt_in_a_savepoint_or_an_exception_block_leaves_no_trace(
    system: System,
) -> None:
    """Threat: the latch is turned back inside a block that catches its refusal."""
    key_id = system.keys["revoked"].id
    with system.nothing_changes(), system.database.connect() as owner:
        owner.execute(
            f"""
            do $$ begin
              update keylatch_internal.keys set revoked_at = null where id = '{key_id}';
            exception when others then null; end $$
            """
        )
        with owner.transaction():
            owner.execute("savepoint s")
            with pytest.raises(psycopg.Error):
                owner.execute("update keylatch_internal.keys set revoked_at = null")
            owner.execute("rollback to savepoint s")
            owner.execute("set constraints all deferred")


def test_deferring_or_switching_off_row_security_helps_nobody(system: System) -> None:
    """Threat: settings of a session that loosen what guards a row."""
    key_id = system.keys["revoked"].id
    update = f"update keylatch.keys set revoked_at = null where id = '{key_id}'"
    with system.nothing_changes():
        for who in ("alice", "service_role"):
            with system.connect(who) as client:
                for setting in (
                    "set session_replication_role = replica",
                    f"alter role {who if who != 'alice' else 'authenticated'}"
                    " set session_replication_role = replica",
                ):
                    assert sqlstate(client, setting) == "42501"
                client.execute("set row_security = off")
                assert sqlstate(client, update) in ("PT409", "42501")


@pytest.mark.parametrize("who", WRITERS)
def test_a_grace_only_gets_shorter(system: System, who: str) -> None:
    """Threat: extending a superseded key's grace."""
    key_id = system.keys["superseded"].id
    with system.nothing_changes(), as_writer(system, who) as writer:
        for change in (
            "expires_at = null",
            "expires_at = expires_at + interval '1 second'",
            "superseded_at = null",
            "superseded_at = null, expires_at = null",
            "superseded_at = superseded_at + interval '1 second'",
        ):
            update = f"update keylatch.keys set {change} where id = '{key_id}'"
            assert sqlstate(writer, update) == "PT409", change
    with system.nothing_changes():
        again = system.call("alice", "rotate_key", key_id=str(key_id), grace="30 days")
        assert (again.status_code, slug(again)) == (409, "key_already_rotated")


def test_a_restored_workspace_reactivates_no_key(system: System) -> None:
    """Threat: by restoring a deleted workspace."""
    with system.connect("service_role") as service:
        service.execute("delete from keylatch.workspaces where id = %s", [system.people.a])
        service.execute("insert into keylatch.workspaces values (%s, 'A')", [system.people.a])
        service.execute(
            "insert into keylatch.workspace_membership values (%s, %s, 'admin')",
            [system.people.a, system.people.alice],
        )
    with system.nothing_changes():
        for made in system.keys.values():
            assert not system.resolves(made.key, None)
            path = f"keys?id=eq.{made.id}"
            refused = system.request("alice", "PATCH", path, json={"revoked_at": None})
            assert slug(refused) == "revoked_is_final"


def test_a_rotation_neither_lengthens_a_life_nor_drops_an_expiry(system: System) -> None:
    """Threat: rotation that lengthens a life or drops an expiry."""
    issued = system.call(
        "alice",
        "issue_key",
        workspace_id=str(system.people.a),
        kind="secret",
        expires_at="2030-01-01T00:00:00+00:00",
    ).json()
    successor = system.call("alice", "rotate_key", key_id=issued["id"], grace="30 days").json()
    assert successor["expires_at"] == issued["expires_at"]
    old = system.request("alice", "GET", f"keys?id=eq.{issued['id']}").json()[0]
    assert old["expires_at"] < issued["expires_at"]
    short = system.call(
        "alice",
        "issue_key",
        workspace_id=str(system.people.a),
        kind="secret",
        expires_at=old["expires_at"],
    ).json()
    system.call("alice", "rotate_key", key_id=short["id"], grace="30 days")
    kept = system.request("alice", "GET", f"keys?id=eq.{short['id']}").json()[0]
    assert kept["expires_at"] <= short["expires_at"]


def test_a_key_that_is_revoked_expired_or_rotated_gets_no_successor(system: System) -> None:
    """Threat: no second secret appears."""
    for label, reason in (
        ("revoked", "key_revoked"),
        ("expired", "key_expired"),
        ("superseded", "key_already_rotated"),
    ):
        target = str(system.keys[label].id)
        with system.nothing_changes():
            for grace in ("0", "1 hour"):
                refused = system.call("alice", "rotate_key", key_id=target, grace=grace)
                assert (refused.status_code, slug(refused)) == (409, reason)
            for who in ("alice", "service_role"):
                body = {
                    "workspace_id": str(system.people.a),
                    "kind": "secret",
                    "rotated_from": target,
                }
                assert system.request(who, "POST", "keys", json=body).status_code in (400, 409)
