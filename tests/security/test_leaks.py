"""Where keys could leave traces: logs, statistics and process lists, as the README says."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import psycopg
import pytest

from keylatch import Keylatch
from keylatch.errors import KeylatchError
from security.system import ORIGIN
from stack import Database, Janitor, People, Rest, Server, Tokens

# Not in containers: an image may preload its own libraries, which the settings below would replace.
pytestmark = pytest.mark.usefixtures("local_server")

# The server logs everything except the values of parameters. auto_explain is left out, because its
# plans always show values.
LOUD = {
    "log_statement": "all",
    "log_min_duration_statement": "0",
    "log_min_messages": "debug1",
    "log_min_error_statement": "debug1",
    "log_error_verbosity": "verbose",
    "log_parameter_max_length": "0",
    "shared_preload_libraries": "pg_stat_statements",
    "pg_stat_statements.track": "all",
}


@pytest.fixture(scope="module")
def loud(janitor: Janitor) -> Iterator[Database]:
    """A database on a server that logs as much as possible."""
    with Server(settings=LOUD, janitor=janitor) as server, Database(server, "loud") as database:
        database.migrate()
        People.seed(database.url)
        database.create_extension("pg_stat_statements")
        yield database


def use_keys(database: Database, rest: Rest, people: People) -> list[str]:
    """Issue, rotate, resolve and explain keys, with and without errors. Return all keys."""
    keys: list[str] = []
    with (
        database.connect("authenticated", people.claims("alice")) as as_alice,
        database.connect("service_role") as as_service,
    ):
        admin, service = Keylatch.from_psycopg(as_alice), Keylatch.from_psycopg(as_service)
        for kind, origins in (("secret", []), ("publishable", [ORIGIN])):
            issued = admin.issue(people.a, kind=kind, allowed_origins=origins)
            successor = admin.rotate(issued.id)
            keys += [issued.key.reveal(), successor.key.reveal()]
        as_alice.execute("insert into keylatch.keys (workspace_id) values (%s)", [people.a])
        for key in keys:
            service.resolve(key)
            service.resolve(key, origin=ORIGIN)
            admin.explain(key, origin=ORIGIN)
            for refused in (lambda key=key: admin.revoke(key), lambda key=key: admin.resolve(key)):
                with pytest.raises(KeylatchError) as error:
                    refused()
                assert key not in f"{error.value!r} {error.value} {error.value.__context__!r}"
    alice, runtime = people.token("alice"), rest.service_key
    body = {"workspace_id": str(people.a), "kind": "secret"}
    issued_json = rest.request("POST", "rpc/issue_key", token=alice, json=body).json()
    keys.append(issued_json["key"])
    rest.request("POST", "rpc/resolve_key", token=runtime, json={"key": keys[-1]})
    rest.request("POST", "rpc/explain_key", token=alice, json={"key": keys[-1]})
    rest.request("POST", "rpc/resolve_key", token=alice, json={"key": keys[-1]})
    return keys


def test_no_key_is_in_a_log_a_statistic_or_a_process_list(
    loud: Database, tokens: Tokens, janitor: Janitor
) -> None:
    """Threat: a key or secret shows up in pg_stat_activity, server logs, pg_stat_statements."""
    people = People(tokens)
    with (
        Rest(loud, tokens, janitor=janitor) as rest,
        psycopg.connect(loud.superuser_url, autocommit=True) as watcher,
    ):
        keys = use_keys(loud, rest, people)
        statements = watcher.execute("select query from pg_stat_activity").fetchall()
        statements += watcher.execute("select query from extensions.pg_stat_statements").fetchall()
        digests = [
            row[0]
            for row in watcher.execute("select encode(key_hash, 'hex') from keylatch_internal.keys")
        ]
        written = f"{statements} {loud.server.log()} {rest.postgrest.log()}"
    # The calls themselves are logged, so a key could be found.
    assert written.count("issue_key") > 5
    assert written.count("resolve_key") > 5
    assert len(keys) == 5
    for trace in (*keys, *digests):
        assert trace not in written
    # The body of a key would be enough for an attacker.
    assert [key[11:-6] for key in keys if key[11:-6] in written] == []


def test_a_server_that_logs_parameters_logs_the_key_as_the_readme_says(loud: Database) -> None:
    """The limit: keylatch cannot hide parameters that `log_parameter_max_length` lets into logs."""
    with psycopg.connect(loud.superuser_url, autocommit=True) as superuser:
        superuser.execute("set log_parameter_max_length = -1")
        superuser.execute("select * from keylatch.resolve_key(%s)", ["wk_sk_live_logged"])
    assert "wk_sk_live_logged" in loud.server.log()
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    assert "log_parameter_max_length = 0" in readme


def test_a_key_in_a_url_is_in_the_access_log_so_the_comment_says_post(
    loud: Database, tokens: Tokens, janitor: Janitor
) -> None:
    """The limit: GET works on a replica, but puts the key into a URL, which proxies log."""
    with Rest(loud, tokens, janitor=janitor) as rest:
        found = rest.request("GET", "rpc/resolve_key?key=wk_sk_live_x", token=rest.service_key)
        assert found.json() == []
        page = httpx.get(
            f"{rest.rest_url}/",
            headers={"Accept-Profile": "keylatch", "Authorization": f"Bearer {rest.service_key}"},
        ).json()
    assert "Over REST, use POST" in page["paths"]["/rpc/resolve_key"]["post"]["description"]
