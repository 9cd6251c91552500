"""Less common traces: plans of nested statements, refused calls, and calls that wait."""

from collections.abc import Iterator

import psycopg
import pytest

from security.shared import open_system
from security.system import System, sqlstate
from stack import Cluster, Database, Janitor, People, Rest, Tokens, chosen_cluster

# auto_explain logs the plan and the parameters of each statement, also of nested statements.
PLANS = {
    "session_preload_libraries": "auto_explain",
    "auto_explain.log_min_duration": "0",
    "auto_explain.log_nested_statements": "on",
    "auto_explain.log_verbose": "on",
    "auto_explain.log_triggers": "on",
    "track_activities": "on",
}


@pytest.fixture(scope="module")
def planned(janitor: Janitor) -> Iterator[Database]:
    """A database on a server that logs the plan of every statement in every function."""
    with (
        chosen_cluster(settings=PLANS, janitor=janitor) as server,
        Database(server, "planned") as database,
    ):
        database.migrate()
        People.seed(database.url)
        yield database


@pytest.fixture(scope="module")
def shared(server: Cluster, template: str, tokens: Tokens, janitor: Janitor) -> Iterator[System]:
    with open_system(server, template, tokens, janitor, "traces") as system:
        yield system


def test_a_new_secret_is_in_no_plan_and_no_parameter_of_a_nested_statement(
    planned: Database, tokens: Tokens, janitor: Janitor
) -> None:
    """Threat: a key or secret shows up in server logs: the one that nobody has seen yet."""
    people = People(tokens)
    keys: list[str] = []
    with planned.connect("authenticated", people.claims("alice")) as alice:
        row = alice.execute("select id, key from keylatch.issue_key(%s, 'secret')", [people.a])
        key_id, key = row.fetchone() or (None, "")
        keys.append(key)
        row = alice.execute("select key from keylatch.rotate_key(%s, '1 hour')", [key_id])
        keys.append(row.fetchone()[0])  # type: ignore[index]
    with Rest(planned, tokens, janitor=janitor) as rest:
        body = {"workspace_id": str(people.a), "kind": "secret"}
        answer = rest.request("POST", "rpc/issue_key", token=people.token("alice"), json=body)
        keys.append(answer.json()["key"])
    written = planned.server.log()
    # The log shows the insert inside the functions, so a key could be found.
    assert written.count("insert into keylatch.keys as k") >= 3
    assert all(key.startswith("wk_sk_live_") for key in keys)
    assert [key[:15] for key in keys if key in written or key[11:-6] in written] == []


REFUSED = (
    "select keylatch.issue_key('{a}', 'secret', '{key}' || repeat('x', 300))",
    "select keylatch.issue_key('{a}', '{key}')",
    "select keylatch.issue_key('{a}', environment => '{key}')",
    "select keylatch.issue_key('{a}', prefix => '{key}')",
    "select keylatch.issue_key('{a}', scopes => array['{key}!'])",
    "select keylatch.issue_key('{a}', allowed_origins => array['{key}'])",
    "select keylatch.issue_key('{a}', allowed_origins => array['https://a.example/?k={key}'])",
    "select keylatch.issue_key('{a}', metadata => to_jsonb('{key}'::text))",
    "select keylatch.revoke_key('{id}', '{key}' || repeat('x', 600))",
    "select * from keylatch.resolve_key('{key}')",
    "select keylatch.rotate_key('00000000-0000-4000-8000-000000000000') where '{key}' <> ''",
    "update keylatch.keys set public_key = '{key}'",
    "update keylatch.keys set masked_key = '{key}' where id = '{id}'",
    "update keylatch.keys set revoke_reason = '{key}' where id = '{id}'",
    "insert into keylatch.keys (workspace_id, public_key) values ('{a}', '{key}')",
)


@pytest.mark.parametrize("statement", REFUSED)
def test_a_refusal_does_not_quote_a_key_that_was_given_by_mistake(
    shared: System, statement: str
) -> None:
    """Threat: a key or secret shows up in an exception: pasted into the wrong argument."""
    made = shared.keys["active"]
    text = statement.format(a=shared.people.a, id=made.id, key=made.key)
    with shared.nothing_changes(), shared.connect("alice") as alice:
        try:
            with alice.transaction(force_rollback=True):
                alice.execute(text.encode())
                raise AssertionError("it was not refused")
        except psycopg.Error as error:
            said = error.diag
            # psycopg also adds the line of the statement, which is the caller's own text.
            told = (said.message_primary, said.message_detail, said.message_hint, said.context)
            assert made.key not in str(told)
            assert made.key[11:-6] not in str(told)


def test_a_key_where_an_id_belongs_is_quoted_by_the_type_itself(shared: System) -> None:
    """The limit: PostgreSQL's own error about a uuid repeats the text, and is logged."""
    key = "wk_sk_live_pasted"
    with shared.nothing_changes():
        refused = shared.call("alice", "revoke_key", key_id=key)
        assert refused.status_code == 400
        assert refused.json()["code"] == "22P02"
        assert key in refused.json()["message"]
        assert key in shared.database.server.log()


def test_the_log_of_an_ordinary_server_has_no_key_after_refused_calls(shared: System) -> None:
    """Threat: server logs: errors are logged by default, with the statement that failed."""
    key = shared.keys["successor"].key  # no other test writes this key into a statement
    with shared.nothing_changes():
        for who in ("anon", "bob", "alice"):
            shared.call(who, "resolve_key", key=key)
            shared.call(who, "explain_key", key=key, origin=["x"])
            shared.call(who, "hash_key", key=key)
            with shared.connect(who) as caller:
                caller.prepare_threshold = 0
                for statement in (
                    "select * from keylatch.resolve_key(%s)",
                    "select keylatch.issue_key(gen_random_uuid(), label => %s)",
                    "select 1 / 0, keylatch.explain_key(%s)",
                ):
                    assert sqlstate(caller, statement, key) in ("42501", "22012", "PT400")
        written = shared.database.server.log() + shared.rest.postgrest.log()
    assert "resolve_key" in written
    assert key not in written
    assert key[11:-6] not in written


def test_a_second_session_sees_no_key_of_a_call_that_is_under_way(shared: System) -> None:
    """Threat: `pg_stat_activity` and locks, while a call waits."""
    key, key_id = shared.keys["active"].key, shared.keys["superseded"].id
    with (
        shared.nothing_changes(),
        psycopg.connect(shared.database.superuser_url, autocommit=True) as watcher,
        shared.connect("alice") as holder,
        shared.connect("service_role") as busy,
    ):
        holder.execute("begin")
        holder.execute("update keylatch.keys set label = 'held' where id = %s", [key_id])
        busy.execute("set statement_timeout = '300ms'")
        wait = "select * from keylatch.explain_key(%s) as e, keylatch.suspend_key(%s) as s"
        with pytest.raises(psycopg.errors.QueryCanceled):
            busy.execute(wait, [key, key_id])
        shown = watcher.execute(
            "select pid, query from pg_stat_activity where datname = current_database()"
        ).fetchall()
        assert any("explain_key" in str(row) for row in shown)
        assert key not in str(shown)
        holder.execute("rollback")
