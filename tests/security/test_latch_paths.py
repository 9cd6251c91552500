"""The latch on unusual paths. Each path can change an active key, but no revoked or expired key."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import psycopg
import pytest

from security.shared import open_system
from security.system import System, issue_briefly, slug, sqlstate
from stack import Cluster, Janitor, Tokens, until

# All columns except the fingerprint, which is generated.
ALL = (
    "id, workspace_id, kind, environment, key_hash, public_key, masked_key, label, metadata,"
    " allowed_origins, scopes, expires_at, suspended_at, superseded_at, revoked_at, revoked_by,"
    " revoke_reason, rotated_from, created_at, created_by, updated_at, imported_at"
)
# Each path writes {change} to the row of one key. A client may use only what its grants allow.
PATHS = {
    "on conflict do update, with the whole row": (
        f"insert into keylatch_internal.keys ({ALL}) select {ALL} from keylatch_internal.keys"
        " where id = '{id}' on conflict (id) do update set {change}"
    ),
    "on conflict of the hash": (
        "insert into keylatch_internal.keys"
        " (id, workspace_id, kind, key_hash, masked_key, created_at, updated_at)"
        " select gen_random_uuid(), workspace_id, kind, key_hash, masked_key, now(), now()"
        " from keylatch_internal.keys"
        " where id = '{id}' on conflict (key_hash) do update set {change}"
    ),
    "merge": (
        "merge into keylatch_internal.keys as k using (select '{id}'::uuid as id) as v"
        " on k.id = v.id when matched then update set {change}"
    ),
    "a writable common table expression": (
        "with w as (update keylatch.keys set {change} where id = '{id}' returning id)"
        " select * from w"
    ),
    "a join": (
        "update keylatch_internal.keys as k set {change}"
        " from keylatch_internal.keys as o where o.id = k.id and o.id = '{id}'"
    ),
    "a statement on many rows": (
        "update keylatch.keys set {change} where id = '{id}' or label = 'no such label'"
    ),
    "a view of one's own": (
        "create temporary view mine as select * from keylatch.keys;"
        " update mine set {change} where id = '{id}'; drop view mine"
    ),
    "a cursor": (
        "do $$ declare c cursor for select * from keylatch_internal.keys where id = '{id}' for"
        " update; begin for r in c loop update keylatch_internal.keys set {change}"
        " where current of c; end loop; end $$"
    ),
    "a function of one's own": (
        "create function pg_temp.f() returns void language sql as"
        " $$ update keylatch.keys set {change} where id = '{id}' $$;"
        " select pg_temp.f(); drop function pg_temp.f()"
    ),
    "dynamic SQL": (
        "do $$ begin execute $q$ update keylatch.keys set {change} where id = $1 $q$"
        " using '{id}'::uuid; end $$"
    ),
}
CHANGES = ("revoked_at = null", "revoked_at = now()", "revoke_reason = null", "expires_at = null",
           "scopes = array[]::text[]")  # fmt: skip
WRITERS = ("owner", "superuser", "replica", "service_role", "alice")


@pytest.fixture(scope="module")
def shared(server: Cluster, template: str, tokens: Tokens, janitor: Janitor) -> Iterator[System]:
    with open_system(server, template, tokens, janitor, "latch_paths") as system:
        yield system


def writer(system: System, who: str) -> psycopg.Connection[Any]:
    """Return a connection of a role that can write rows."""
    if who == "owner":
        return system.database.connect()
    if who in ("superuser", "replica"):
        connection = system.database.connect(superuser=True)
        if who == "replica":
            connection.execute("set session_replication_role = replica")
        return connection
    return system.connect(who)


@pytest.mark.parametrize("path", PATHS)
def test_every_path_can_change_an_active_key_and_none_reactivates_a_revoked_key(
    shared: System, path: str
) -> None:
    """Threat: by service_role, by the owner, in replication mode, by on conflict, by merge."""
    reached = 0
    with shared.nothing_changes():
        for who in WRITERS:
            with writer(shared, who) as connection:
                active = PATHS[path].format(id=shared.keys["active"].id, change="label = 'reached'")
                with connection.transaction(force_rollback=True):
                    try:
                        connection.execute(active.encode())
                    except psycopg.errors.InsufficientPrivilege:
                        continue  # this role lacks a privilege that the path needs
                    after = connection.execute(
                        "select label from keylatch.keys where id = %s", [shared.keys["active"].id]
                    )
                    assert after.fetchone()[0] == "reached"  # type: ignore[index]
                reached += 1
                for label in ("revoked", "expired"):
                    for change in CHANGES:
                        if label == "expired" and change.startswith("revoke"):
                            continue
                        change = "scopes = '{{x}}'" if "scopes" in change else change
                        dead = PATHS[path].format(id=shared.keys[label].id, change=change)
                        assert sqlstate(connection, dead.replace("{{x}}", "{x}")) == "PT409", dead
    assert reached >= 3


def test_a_row_that_was_revoked_cannot_be_brought_again_under_another_name(shared: System) -> None:
    """Threat: by delete and insert: the hash of a dead key is taken for good."""
    revoked = shared.keys["revoked"]
    columns = "workspace_id, kind, environment, key_hash, masked_key, label, created_at, updated_at"
    with shared.nothing_changes():
        for who in ("owner", "superuser"):
            with writer(shared, who) as connection:
                again = (
                    f"insert into keylatch_internal.keys (id, {columns})"
                    f" select gen_random_uuid(), {columns}"
                    f" from keylatch_internal.keys where id = '{revoked.id}'"
                )
                assert sqlstate(connection, again) == "23505"
                assert sqlstate(connection, f"{again} on conflict do nothing") is None
                for gone in (
                    "delete from keylatch_internal.keys where id = %s",
                    "merge into keylatch_internal.keys as k using (select 1) as v on k.id = %s"
                    " when matched then delete",
                    "with gone as (delete from keylatch.keys where id = %s returning *)"
                    " select count(*) from gone",
                ):
                    state = sqlstate(connection, gone, revoked.id)
                    assert state in ("PT409", "42P01"), (gone, state)
    assert not shared.resolves(revoked.key)


def test_a_copy_of_the_table_reactivates_no_revoked_key(shared: System) -> None:
    """Threat: by a restore: rows that are copied in are new ones or none."""
    with shared.nothing_changes(), shared.database.connect() as owner, owner.cursor() as cursor:
        with cursor.copy(f"copy keylatch_internal.keys ({ALL}) to stdout") as out:
            rows = b"".join(bytes(block) for block in out)
        assert len(rows.splitlines()) == len(shared.keys) + 1
        with (
            pytest.raises(psycopg.errors.UniqueViolation),
            cursor.copy(f"copy keylatch_internal.keys ({ALL}) from stdin") as back,
        ):
            back.write(rows)


def test_blocks_that_go_on_after_a_refusal_commit_nothing_of_it(shared: System) -> None:
    """Threat: savepoints and exception blocks around a latch that held."""
    with shared.nothing_changes(), shared.connect("alice") as alice:
        alice.execute(
            """
            do $$
            declare v_key record; v_refused integer := 0;
            begin
              for v_key in select id from keylatch.keys where revoked_at is not null
                or expires_at <= clock_timestamp() loop
                for v_try in 1 .. 20 loop
                  begin
                    update keylatch.keys
                    set expires_at = null, revoked_at = null, suspended_at = null
                    where id = v_key.id;
                  exception when others then v_refused := v_refused + 1;
                  end;
                end loop;
              end loop;
              if v_refused < 40 then raise exception 'only % refused', v_refused; end if;
            end $$
            """
        )


@pytest.mark.parametrize("label", ["revoked", "expired", "superseded"])
def test_no_upsert_over_http_reaches_a_row(shared: System, label: str) -> None:
    """Threat: by `on conflict do update` through PostgREST, on every unique column of the view."""
    made = shared.keys[label]
    merge = {"Prefer": "resolution=merge-duplicates,return=representation"}
    body = {"workspace_id": str(shared.people.a), "kind": "secret", "revoked_at": None}
    with shared.nothing_changes():
        for who in ("alice", "service_role"):
            whole = shared.request(who, "GET", f"keys?id=eq.{made.id}").json()[0]
            del whole["status"], whole["fingerprint"]
            for method, path, sent in (
                ("POST", "keys", whole),
                ("POST", "keys", [whole, whole]),
                ("POST", "keys?on_conflict=id", body | {"id": str(made.id)}),
                ("POST", "keys?on_conflict=rotated_from", body | {"rotated_from": str(made.id)}),
                ("POST", "keys?on_conflict=public_key", body),
                ("POST", "keys?on_conflict=key_hash", body),
                ("POST", "keys?columns=id,workspace_id,kind,label", whole),
                ("PUT", f"keys?id=eq.{made.id}", whole),
            ):
                refused = shared.request(who, method, path, json=sent, headers=merge)
                if label == "superseded" and "rotated_from=" in path:
                    assert slug(refused) == "key_already_rotated"
                assert 400 <= refused.status_code < 500, (who, path, refused.text)


@pytest.mark.parametrize(
    "ending",
    [
        {"revoked_at": "now", "revoke_reason": "rotated"},
        {"superseded_at": "now", "expires_at": "2090-01-01T00:00:00Z"},
    ],
)
def test_no_caller_names_the_key_that_a_new_one_was_rotated_from(
    system: System, ending: dict[str, Any]
) -> None:
    """Threat: a caller sets rotated_from; a key that is revoked mints nothing."""
    key_id = str(system.keys["active"].id)
    assert system.request("alice", "PATCH", f"keys?id=eq.{key_id}", json=ending).status_code == 204
    body = {"workspace_id": str(system.people.a), "kind": "secret", "rotated_from": key_id}
    with system.nothing_changes():
        refused = system.request("alice", "POST", "keys", json=body)
        assert refused.status_code in (400, 409)


def is_past(connection: psycopg.Connection[Any], time: datetime) -> bool:
    """Whether a time has passed by the server's clock."""
    row = connection.execute("select clock_timestamp() > %s as over", [time]).fetchone()
    return bool(row and row.over)


def extended_while_it_lives(
    system: System,
    alice: psycopg.Connection[Any],
    other_session: psycopg.Connection[Any],
    *then: str,
) -> Any:
    """Return a key that `other_session` extended before its expiry, in an open transaction."""

    def extend(row: Any) -> bool:
        other_session.execute("begin")
        try:
            other_session.execute(
                "update keylatch.keys set expires_at = null where id = %s", [row.id]
            )
            for statement in then:
                other_session.execute(statement.encode())
        except psycopg.Error as refused:
            assert refused.diag.message_primary == "expired_is_final"
            other_session.execute("rollback")
            return False
        return True

    return issue_briefly(alice, system.people.a, extend)


def test_an_extension_that_is_committed_after_the_expiry_revives_nothing(system: System) -> None:
    """Threat: extending an expired key, by a transaction that was opened while it lived."""
    with system.connect("alice") as alice, system.connect("alice") as other_session:
        row = extended_while_it_lives(system, alice, other_session)
        until(lambda: is_past(alice, row.expires_at))
        assert not system.resolves(row.key)
        explained = alice.execute("select verdict from keylatch.explain_key(%s)", [row.key])
        assert explained.fetchone() == ("expired",)
        sqlstate(other_session, "commit")
        assert not system.resolves(row.key)


def test_an_extension_of_many_keys_is_checked_for_all_of_them_until_the_last(
    system: System,
) -> None:
    """Threat: one PATCH of thousands of keys is checked key by key, long before its commit ends."""
    owner = system.database.connect()
    # It stands for the checks of thousands of other rows.
    owner.execute(
        "create function public.take_long() returns trigger language plpgsql as"
        " $$ begin perform pg_sleep(1.5) where new.label = 'first'; return null; end $$"
    )
    owner.execute(
        "create constraint trigger keys_update_zz_long after update on keylatch_internal.keys"
        " deferrable initially deferred for each row execute function public.take_long()"
    )
    with system.connect("alice") as alice:
        issue = (
            "select id, key, expires_at from keylatch.issue_key(%s, 'secret', label => %s,"
            " expires_at => clock_timestamp() + %s)"
        )
        first = alice.execute(issue, [system.people.a, "first", "1 second"]).fetchall()[0]
        second = alice.execute(issue, [system.people.a, "second", "1 hour"]).fetchall()[0]
        alice.execute("begin")
        for row in (first, second):
            extend = "update keylatch.keys set expires_at = now() + '2 hours' where id = %s"
            alice.execute(extend, [row.id])
        state = sqlstate(alice, "commit")
        assert state == "PT409"
        until(lambda: is_past(alice, first.expires_at))
        assert not system.resolves(first.key)


def test_an_extension_that_was_checked_early_is_not_checked_again(system: System) -> None:
    """The limit: `set constraints` in SQL runs the deferred check before the expiry, not after.

    At that moment the session could extend the key anyway. Over HTTP this is not possible.
    """
    with system.connect("alice") as alice, system.connect("alice") as other_session:
        row = extended_while_it_lives(system, alice, other_session, "set constraints all immediate")
        until(lambda: is_past(alice, row.expires_at))
        assert not system.resolves(row.key)
        other_session.execute("commit")
        assert system.resolves(row.key)


@pytest.mark.parametrize(
    "mint",
    [
        "select (keylatch_internal.insert_key('{a}', 'secret', '', '{{}}', '{{}}', 'live', null,"
        " '{{}}', 'wk', '{id}')).key",
        "with s as materialized (select set_config('keylatch.handoff', 'prefix:wk', true) as s)"
        " insert into keylatch.keys (workspace_id, kind, rotated_from)"
        " select '{a}', 'secret', '{id}' from s where s.s <> ''",
    ],
)
def test_a_revoked_key_mints_nothing_in_sql_whatever_its_reason_says(
    system: System, mint: str
) -> None:
    """Threat: no second secret appears; a caller sets rotated_from, in SQL."""
    key_id = system.keys["active"].id
    with system.connect("alice") as alice:
        alice.execute("select keylatch.revoke_key(%s, 'rotated')", [key_id])
        with system.nothing_changes():
            statement = mint.format(a=system.people.a, id=key_id)
            assert sqlstate(alice, statement) in ("PT400", "PT409", "42501")
