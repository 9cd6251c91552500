"""The recipe for a workspace's first key: it runs once, and its failure never blocks the key."""

import threading
from collections.abc import Callable

import psycopg
import pytest

from stack import Database, People
from stack.tools import ROOT

RECIPE = ROOT / "sql" / "recipes" / "first_key.sql"


@pytest.fixture
def provisioned(database: Database, people: People) -> Callable[[], list[tuple[object, ...]]]:
    """Attach the recipe, and return a function that reads the provisioned workspaces."""
    with psycopg.connect(database.url) as owner:
        owner.execute(RECIPE.read_bytes())
        owner.execute("alter table public.provisioned add column by_role text default current_user")

    def read() -> list[tuple[object, ...]]:
        query = "select workspace_id, by_role from public.provisioned order by 1"
        return database.connect().execute(query).fetchall()

    return read


Provisioned = Callable[[], list[tuple[object, ...]]]


def test_the_recipe_runs_once_per_workspace_with_the_rights_of_the_owner(
    database: Database, people: People, provisioned: Provisioned
) -> None:
    with database.connect("authenticated", people.claims("alice")) as alice:
        for _ in range(3):
            alice.execute("select keylatch.issue_key(%s)", [people.a])
    assert provisioned() == [(people.a, "postgres")]
    with database.connect("authenticated", people.claims("bob")) as bob:
        bob.execute("insert into keylatch.keys (workspace_id) values (%s)", [people.b])
    assert len(provisioned()) == 2


def test_the_recipe_runs_for_each_workspace_whose_first_keys_come_in_one_statement(
    database: Database, people: People, provisioned: Provisioned
) -> None:
    with database.connect("service_role") as service:
        service.execute(
            "insert into keylatch.keys (workspace_id)"
            " select unnest(%(two)s::uuid[]) union all select unnest(%(two)s::uuid[])",
            {"two": [people.a, people.b]},
        )
        service.execute("insert into keylatch.keys (workspace_id) values (%s)", [people.a])
        service.execute("insert into keylatch.keys (workspace_id) select null where false")
    assert provisioned() == sorted((workspace, "postgres") for workspace in (people.a, people.b))


def test_first_keys_of_one_workspace_at_the_same_moment_run_it_once(
    database: Database, people: People, provisioned: Provisioned
) -> None:
    start = threading.Barrier(8)

    def issue() -> None:
        with database.connect("authenticated", people.claims("alice"), autocommit=False) as alice:
            start.wait()
            alice.execute("select keylatch.issue_key(%s)", [people.a])
            alice.commit()

    threads = [threading.Thread(target=issue) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert provisioned() == [(people.a, "postgres")]
    count = "select count(*) from keylatch.keys"
    assert database.connect().execute(count).fetchone() == (8,)


def test_a_first_key_that_is_rolled_back_leaves_it_to_the_next(
    database: Database, people: People, provisioned: Provisioned
) -> None:
    with database.connect("authenticated", people.claims("alice"), autocommit=False) as alice:
        alice.execute("select keylatch.issue_key(%s)", [people.a])
        alice.rollback()
        assert provisioned() == []
    with database.connect("authenticated", people.claims("alice")) as alice:
        alice.execute("select keylatch.issue_key(%s)", [people.a])
    assert provisioned() == [(people.a, "postgres")]


def test_a_failure_is_a_warning_is_undone_and_does_not_block_the_key(
    database: Database, people: People, provisioned: Provisioned
) -> None:
    refuse = "alter table public.provisioned add constraint no check (false)"
    database.connect().execute(refuse)
    heard: list[str] = []
    with database.connect("authenticated", people.claims("alice")) as alice:
        alice.add_notice_handler(
            lambda said: heard.append(f"{said.severity}: {said.message_primary}")
        )
        issued = alice.execute("select id from keylatch.issue_key(%s)", [people.a]).fetchone()
        assert issued is not None
        assert alice.execute("select count(*) from keylatch.keys").fetchone() == (1,)
    assert heard == [f"WARNING: provisioning of workspace {people.a} failed"]
    assert provisioned() == []


def test_a_workspace_that_is_deleted_without_a_key_is_not_provisioned(
    database: Database, people: People, provisioned: Provisioned
) -> None:
    database.connect().execute("delete from keylatch.workspaces where id = %s", [people.a])
    latches = "select workspace_id from keylatch_internal.workspace_latches"
    assert database.connect().execute(latches).fetchall() == [(people.a,)]
    assert provisioned() == []


def test_no_client_calls_it(database: Database, people: People, provisioned: Provisioned) -> None:
    for role in ("anon", "authenticated", "service_role", "keylatch_resolver"):
        row = database.connect().execute(
            "select has_function_privilege(%s, 'public.provision_workspace()', 'execute')", [role]
        )
        assert row.fetchone() == (False,), role
