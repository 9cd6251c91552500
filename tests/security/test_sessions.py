"""Identity of sessions: shared connections, forged and broken claims, and leftovers."""

import base64
import json
import time
from collections.abc import Iterator
from typing import Any

import jwt
import psycopg
import pytest

from security.shared import open_system
from security.system import System, sqlstate
from stack import Cluster, Janitor, Tokens

NOT_CLAIMS = ("{", "[]", "null", '"x"', "5", "{}", '{"sub": null}', '{"sub": ["a"]}', '{"sub": {}}',
              '{"sub": ""}', '{"sub": "x"}', '{"role": "service_role"}', "\u202e", "{" * 5000,
              '{"sub": "a11ce000-0000-4000-8000-000000000001 or true"}')  # fmt: skip
TABLES = ("keylatch_internal.keys", "keylatch.keys", "keylatch.workspaces",
          "keylatch.workspace_membership", "keylatch_internal.installation",
          "keylatch_internal.workspace_latches", "keylatch_internal.session_endings",
          "keylatch_internal.sessions", "keylatch_internal.session_limits",
          "keylatch.sessions", "keylatch.session_settings")  # fmt: skip


@pytest.fixture(scope="module")
def shared(server: Cluster, template: str, tokens: Tokens, janitor: Janitor) -> Iterator[System]:
    with open_system(server, template, tokens, janitor, "sessions") as system:
        yield system


def test_a_connection_that_goes_from_user_to_user_keeps_nothing_of_the_last(shared: System) -> None:
    """Threat: bob reads A's keys: through plans that a pooled session prepared for alice."""
    with psycopg.connect(shared.database.authenticator_url, autocommit=True) as pooled:
        pooled.prepare_threshold = 0

        def seen(who: str) -> list[tuple[Any, ...]]:
            with pooled.transaction():
                pooled.execute("set local role authenticated")
                claims = json.dumps(shared.people.claims(who))
                pooled.execute("select set_config('request.jwt.claims', %s, true)", [claims])
                found = pooled.execute("select label from keylatch.keys order by label").fetchall()
                for key in shared.keys.values():
                    explained = pooled.execute(
                        "select verdict from keylatch.explain_key(%s)", [key.key]
                    )
                    found += explained.fetchall()
                listed = "select label from keylatch.list_keys(%s)"
                return found + pooled.execute(listed, [shared.people.a]).fetchall()

        first = {who: seen(who) for who in ("alice", "bob", "mia")}
        assert len(first["alice"]) == 3 * len(shared.keys)
        assert set(first["bob"]) == {("of bob",), ("unknown",)}
        assert set(first["mia"]) == {("unknown",)}
        # Often enough for the server to change from custom to generic plans.
        for _ in range(8):
            for who, before in first.items():
                assert seen(who) == before
        with pooled.transaction(), pytest.raises(psycopg.errors.InsufficientPrivilege):
            pooled.execute("select label from keylatch.keys")


@pytest.mark.parametrize("claims", NOT_CLAIMS, ids=lambda claims: claims[:20])
def test_claims_that_name_nobody_open_nothing(shared: System, claims: str) -> None:
    """Threat: `request.jwt.claims` is malformed: an error of the caller or no rows."""
    living = shared.keys["active"].id
    with shared.nothing_changes(), shared.connect("bob") as caller:
        caller.execute("select set_config('request.jwt.claims', %s, false)", [claims])
        for statement in ("select id from keylatch.keys", "select keylatch.list_keys(%s)"):
            try:
                values = [shared.people.a] if "%s" in statement else None
                assert caller.execute(statement, values).fetchall() == []
            except psycopg.Error as error:
                assert error.sqlstate in ("22P02", "54001", "22023"), error
        for statement in (
            "select keylatch.revoke_key(%s)",
            "select keylatch.rotate_key(%s)",
            "select keylatch.suspend_key(%s)",
        ):
            assert sqlstate(caller, statement, living) in ("22P02", "PT404", "54001", "22023")
        issue = "select keylatch.issue_key(%s)"
        state = sqlstate(caller, issue, shared.people.a)
        assert state in ("22P02", "42501", "54001", "22023")
    with shared.connect("keylatch_resolver") as runtime:
        # Resolving a key does not depend on the user in the claims.
        runtime.execute("select set_config('request.jwt.claims', %s, false)", [claims])
        resolve = "select key_id from keylatch.resolve_key(%s)"
        assert runtime.execute(resolve, [shared.keys["active"].key]).fetchone() == (living,)


def tampered(shared: System) -> dict[str, str]:
    """Return forged, expired and otherwise invalid tokens, by name."""
    alice = {"sub": str(shared.people.alice), "role": "authenticated", "exp": int(time.time()) + 99}
    secret = shared.rest.tokens.secret
    good = jwt.encode(alice, secret, algorithm="HS256")
    head, body, signature = good.split(".")
    other = base64.urlsafe_b64encode(json.dumps(alice | {"role": "service_role"}).encode())
    return {
        "another secret": jwt.encode(alice, "x" * 64, algorithm="HS256"),
        "no algorithm": jwt.encode(alice, "", algorithm="none"),
        "no signature": f"{head}.{body}.",
        "another body": f"{head}.{other.decode().rstrip('=')}.{signature}",
        "over since long": shared.rest.token(sub=shared.people.alice, seconds=-3600),
        "not yet": shared.rest.token(sub=shared.people.alice, nbf=int(time.time()) + 3600),
        "no token": "x.y.z",
        "a key": shared.keys["active"].key,
        "the owner": shared.rest.token(role="postgres"),
        "a superuser": shared.rest.token(role="supabase_admin"),
        "the login": shared.rest.token(role="authenticator"),
        "an unknown role": shared.rest.token(role="nobody"),
        "a role with a quote": shared.rest.token(role='anon"; set role service_role; --'),
    }


FORGED = (
    "another secret", "no algorithm", "no signature", "another body", "over since long", "not yet",
    "no token", "a key", "the owner", "a superuser", "the login", "an unknown role",
    "a role with a quote",
)  # fmt: skip


@pytest.mark.parametrize("what", FORGED)
def test_a_token_that_nobody_issued_opens_nothing(shared: System, what: str) -> None:
    """Threat: anon reads or writes A's keys, with a token of its own making."""
    tokens = tampered(shared)
    assert set(tokens) == set(FORGED)
    token = tokens[what]
    living = shared.keys["active"]
    asked = (
        ("GET", "keys", None),
        ("PATCH", f"keys?id=eq.{living.id}", {"label": "mine"}),
        ("POST", "rpc/revoke_key", {"key_id": str(living.id)}),
        ("POST", "rpc/resolve_key", {"key": living.key}),
        ("POST", "rpc/issue_key", {"workspace_id": str(shared.people.a)}),
    )
    with shared.nothing_changes():
        for method, path, body in asked:
            refused = shared.rest.request(method, path, token=token, json=body)
            assert refused.status_code in (400, 401, 403), (path, refused.text)
            assert str(living.id) not in refused.text


def test_nothing_of_a_key_is_left_in_a_session_when_its_transaction_is_over(system: System) -> None:
    """Threat: a caller sets `keylatch.handoff`: for the session, before somebody else's insert."""
    with psycopg.connect(system.database.authenticator_url, autocommit=True) as pooled:
        pooled.execute("select set_config('keylatch.handoff', 'prefix:evil', false)")
        made = []
        for secret in (True, False):
            with pooled.transaction():
                pooled.execute("set local role authenticated")
                claims = json.dumps(system.people.claims("alice"))
                pooled.execute("select set_config('request.jwt.claims', %s, true)", [claims])
                insert = "insert into keylatch.keys (workspace_id, kind) values (%s, %s)"
                pooled.execute(insert, [system.people.a, "secret" if secret else "publishable"])
                issue = "select key from keylatch.issue_key(%s, 'secret')"
                row = pooled.execute(issue, [system.people.a]).fetchone()
                made.append(row[0])  # type: ignore[index]
                left = pooled.execute("select current_setting('keylatch.handoff')").fetchone()
                assert row[0] not in str(left), "it is read once"  # type: ignore[index]
        settings = str(pooled.execute("select name, setting from pg_settings").fetchall())
        left = pooled.execute("select current_setting('keylatch.handoff')").fetchone()
    assert left == ("prefix:evil",)
    for key in made:
        assert key.startswith("wk_sk_live_")
        assert key not in settings
        assert system.resolves(key)


def test_a_refused_issue_leaves_no_key_in_the_transaction(shared: System) -> None:
    """Threat: the same, when the insert fails and the caller goes on in an exception block."""
    with shared.nothing_changes(), shared.connect("bob") as bob, bob.transaction():
        for _ in range(3):
            with pytest.raises(psycopg.Error), bob.transaction():
                bob.execute("select keylatch.issue_key(%s)", [shared.people.a])
        left = bob.execute("select coalesce(current_setting('keylatch.handoff', true), '')")
        assert left.fetchone() == ("",)


def test_a_user_who_was_deleted_or_demoted_administers_nothing_with_an_old_token(
    system: System,
) -> None:
    """Threat: mia writes in A: an admin until a moment ago, whose token is still good."""
    with system.database.connect() as owner:
        owner.execute(
            "update keylatch.workspace_membership set role = 'member' where user_id = %s",
            [system.people.alice],
        )
        owner.execute("delete from auth.users where id = %s", [system.people.bob])
    with system.nothing_changes():
        for who, workspace in (("alice", system.people.a), ("bob", system.people.b)):
            assert system.request(who, "GET", "keys").json() == []
            issued = system.call(who, "issue_key", workspace_id=str(workspace))
            assert issued.status_code == 403
            body = {"workspace_id": str(workspace)}
            minimal = {"Prefer": "return=minimal"}
            assert (
                system.request(who, "POST", "keys", json=body, headers=minimal).status_code == 403
            )
            # Without RETURNING, which would also need the policy for select.
            with system.connect(who) as caller:
                insert = "insert into keylatch.keys (workspace_id) values (%s)"
                assert sqlstate(caller, insert, workspace) == "42501"
            revoked = system.call(who, "revoke_key", key_id=str(system.keys["active"].id))
            assert revoked.status_code == 404


@pytest.mark.parametrize("who", ["anon", "stranger", "mia", "bob", "alice", "keylatch_resolver"])
def test_no_signed_in_session_holds_up_others_with_a_lock_on_the_tables(
    shared: System, who: str
) -> None:
    """Threat: mia or bob suspends A's keys, by a lock that nobody gets past."""
    with shared.nothing_changes(), shared.connect(who) as outsider:
        for table in TABLES:
            for mode in ("row exclusive", "share", "exclusive", "access exclusive"):
                with pytest.raises(psycopg.errors.InsufficientPrivilege), outsider.transaction():
                    outsider.execute(f"lock table {table} in {mode} mode".encode())
        if who != "alice":
            with outsider.transaction():
                try:
                    rows = outsider.execute(
                        "select id from keylatch.keys where workspace_id = %s for update",
                        [shared.people.a],
                    ).fetchall()
                except psycopg.errors.InsufficientPrivilege:
                    rows = []
                assert rows == []


def test_a_session_can_use_nothing_else_in_the_schemas(shared: System) -> None:
    """Threat: sequences, rules, SQL that is put together, and ways out of the database."""
    ours = "nspname in ('keylatch', 'keylatch_internal')"
    roles = "rolname in ('anon', 'authenticated', 'service_role', 'keylatch_resolver')"
    with shared.database.connect() as owner:

        def found(query: str) -> list[tuple[Any, ...]]:
            return owner.execute(query.encode()).fetchall()

        functions = (
            f"select proname from pg_proc as p join pg_namespace as n on n.oid = pronamespace"
            f" where {ours}"
        )
        assert (
            found(
                "select relname, rolname from pg_class as c join pg_namespace as n on n.oid ="
                f" relnamespace cross join pg_roles as r where {ours} and {roles} and relkind = 'S'"
                " and has_sequence_privilege(r.oid, c.oid, 'usage, select, update')"
            )
            == []
        )
        assert (
            found(
                "select relname from pg_class as c join pg_namespace as n on n.oid = relnamespace"
                f" where {ours} and relkind not in ('S', 'c', 'i', 'r', 'v')"
            )
            == []
        )
        assert found(f"select rulename from pg_rules where {ours.replace('nsp', 'schema')}") == []
        # Only a function that no session may call runs dynamic SQL, and the search finds it.
        put_together = found(f"{functions} and prosrc ~* '\\mexecute\\s+(format|''|v_|p_)'")
        assert ("revoke_workspace_keys",) in put_together
        assert (
            found(
                "select proname, rolname from pg_proc as p join pg_namespace as n on n.oid ="
                f" pronamespace cross join pg_roles as r where {ours} and {roles}"
                " and prosrc ~* '\\mexecute\\s+(format|''|v_|p_)'"
                " and has_function_privilege(r.oid, p.oid, 'execute')"
            )
            == []
        )
        assert found(f"{functions} and prosrc ~* '\\mnotify\\M|pg_notify'") == [("notify_caches",)]
        assert found(f"{functions} and prosrc ~* '\\mlo_|dblink|\\mset role|reset role'") == []
