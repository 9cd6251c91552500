"""The hook on a workspace's first key: it runs once, and its failure never blocks the key."""

import threading

import psycopg

from stack import Database, People

RECORDING = """
create table public.provisioned (workspace_id uuid, by_role text);
create or replace function keylatch_hooks.first_key_issued(workspace_id uuid)
returns void language sql security invoker set search_path = ''
as $$ insert into public.provisioned values (first_key_issued.workspace_id, current_user); $$
"""
FAILING = """
create or replace function keylatch_hooks.first_key_issued(workspace_id uuid)
returns void language plpgsql security invoker set search_path = ''
as $$ begin
  insert into public.provisioned values (first_key_issued.workspace_id, 'half done');
  raise exception 'the mail server is away';
end $$
"""


def provisioned(database: Database) -> list[tuple[object, ...]]:
    """What the hook has written."""
    with psycopg.connect(database.url) as owner:
        return owner.execute("select * from public.provisioned").fetchall()


def test_the_hook_runs_once_a_workspace_with_the_rights_of_the_owner(
    database: Database, people: People
) -> None:
    with psycopg.connect(database.url) as owner:
        owner.execute(RECORDING)
    with database.connect("authenticated", people.claims("alice")) as alice:
        for _ in range(3):
            alice.execute("select keylatch.issue_key(%s)", [people.a])
    assert provisioned(database) == [(people.a, "postgres")]
    with database.connect("authenticated", people.claims("bob")) as bob:
        bob.execute("insert into keylatch.keys (workspace_id) values (%s)", [people.b])
    assert len(provisioned(database)) == 2


def test_the_hook_runs_for_each_workspace_whose_first_keys_come_in_one_statement(
    database: Database, people: People
) -> None:
    with psycopg.connect(database.url) as owner:
        owner.execute(RECORDING)
    with database.connect("service_role") as service:
        service.execute(
            "insert into keylatch.keys (workspace_id)"
            " select unnest(%(two)s::uuid[]) union all select unnest(%(two)s::uuid[])",
            {"two": [people.a, people.b]},
        )
        service.execute("insert into keylatch.keys (workspace_id) values (%s)", [people.a])
        service.execute("insert into keylatch.keys (workspace_id) select null where false")
    assert sorted(provisioned(database)) == sorted(
        (workspace, "postgres") for workspace in (people.a, people.b)
    )


def test_first_keys_of_one_workspace_at_the_same_moment_run_the_hook_once(
    database: Database, people: People
) -> None:
    with psycopg.connect(database.url) as owner:
        owner.execute(RECORDING)
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
    assert provisioned(database) == [(people.a, "postgres")]
    with psycopg.connect(database.url) as owner:
        assert owner.execute("select count(*) from keylatch.keys").fetchone() == (8,)


def test_a_first_key_that_is_rolled_back_leaves_the_hook_to_the_next(
    database: Database, people: People
) -> None:
    with psycopg.connect(database.url) as owner:
        owner.execute(RECORDING)
    with database.connect("authenticated", people.claims("alice"), autocommit=False) as alice:
        alice.execute("select keylatch.issue_key(%s)", [people.a])
        alice.rollback()
        assert provisioned(database) == []
    with database.connect("authenticated", people.claims("alice")) as alice:
        alice.execute("select keylatch.issue_key(%s)", [people.a])
    assert provisioned(database) == [(people.a, "postgres")]


def test_a_hook_that_fails_warns_is_undone_and_does_not_block_the_key(
    database: Database, people: People
) -> None:
    with psycopg.connect(database.url) as owner:
        owner.execute(RECORDING)
        owner.execute(FAILING)
    heard: list[str] = []
    with database.connect("authenticated", people.claims("alice")) as alice:
        alice.add_notice_handler(
            lambda said: heard.append(f"{said.severity}: {said.message_primary}")
        )
        issued = alice.execute("select id from keylatch.issue_key(%s)", [people.a]).fetchone()
        assert issued is not None
        assert alice.execute("select count(*) from keylatch.keys").fetchone() == (1,)
    assert heard == [f"WARNING: keylatch_hooks.first_key_issued failed for workspace {people.a}"]
    assert provisioned(database) == []


def test_no_client_calls_or_replaces_the_hook(database: Database, people: People) -> None:
    for role in ("anon", "authenticated", "service_role", "keylatch_resolver"):
        with database.connect(role, people.claims("alice")) as client:
            for statement in ("select keylatch_hooks.first_key_issued(null)", RECORDING):
                try:
                    client.execute(statement)
                except psycopg.errors.InsufficientPrivilege:
                    continue
                raise AssertionError(f"{role} could run: {statement}")
