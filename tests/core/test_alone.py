"""The core without modules: its objects, and that anon may call nothing.

`make test` also runs the client's tests of the core on such a database; see the Makefile.
"""

from collections.abc import Iterator
from typing import Any

import pytest

from keylatch import Keylatch
from keylatch.errors import PermissionDenied
from stack import Cluster, Database, Janitor, People, Rest, Tokens

FUNCTIONS = """
select p.oid::regprocedure::text, has_function_privilege('anon', p.oid, 'execute')
from pg_proc as p
where p.pronamespace::regnamespace::text in ('keylatch', 'keylatch_internal')
"""


@pytest.fixture(scope="module")
def database(server: Cluster, own_core_template: str) -> Iterator[Database]:
    """The core with an application's own workspaces."""
    with Database(server, "core_alone", own_core_template) as database:
        People.seed(database.url)
        yield database


def test_the_core_alone_has_no_modules_and_no_workspaces_of_keylatch(database: Database) -> None:
    with database.connect("service_role") as service:
        assert Keylatch.from_psycopg(service).installation().modules == ()
    with database.connect() as owner:
        assert owner.execute("select to_regclass('keylatch.workspaces')").fetchone() == (None,)


def test_anon_may_execute_nothing_and_look_into_neither_schema(database: Database) -> None:
    with database.connect() as owner:
        functions = owner.execute(FUNCTIONS).fetchall()
        assert len(functions) > 40
        assert [name for name, allowed in functions if allowed] == []
        for schema in ("keylatch", "keylatch_internal"):
            query = "select has_schema_privilege('anon', %s, 'usage')"
            assert owner.execute(query, [schema]).fetchone() == (False,)


CALLS: dict[str, Any] = {
    "issue": lambda kl: kl.issue(People.a),
    "issue_many": lambda kl: kl.issue_many(People.a, labels=["x"]),
    "rotate": lambda kl: kl.rotate(People.b),
    "revoke": lambda kl: kl.revoke(People.b),
    "suspend": lambda kl: kl.suspend(People.b),
    "unsuspend": lambda kl: kl.unsuspend(People.b),
    "list": lambda kl: kl.list(People.a),
    "show": lambda kl: kl.show(People.b),
    "retire_workspace": lambda kl: kl.retire_workspace(People.a),
    "resolve": lambda kl: kl.resolve("x"),
    "resolve_many": lambda kl: kl.resolve_many(["x"]),
    "explain": lambda kl: kl.explain("x"),
    "installation": lambda kl: kl.installation(),
}


@pytest.mark.parametrize("call", CALLS)
def test_anon_is_refused_every_call_in_sql(database: Database, call: str) -> None:
    anon = Keylatch.from_psycopg(database.connect("authenticator"), claims={"role": "anon"})
    with pytest.raises(PermissionDenied):
        CALLS[call](anon)


def test_anon_is_refused_over_http(database: Database, tokens: Tokens, janitor: Janitor) -> None:
    with Rest(database, tokens, janitor=janitor) as rest:
        for path, sent in (("/rpc/issue_key", {"workspace_id": str(People.a)}), ("/keys", None)):
            method = "GET" if sent is None else "POST"
            assert rest.request(method, path, json=sent).status_code == 401
        service = rest.request("POST", "/rpc/installation", token=rest.service_key, json={})
        assert service.status_code == 200
