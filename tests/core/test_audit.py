"""The queries of sql/audit run on every installation and show damage."""

import json
import re
import shutil
import subprocess
from typing import Any

import psycopg
import pytest

from core.racing import ISSUE, REVOKE, System
from stack import Cluster, Database, People, run_supabase
from stack.tools import ROOT, MissingTool
from tools import audit

GUIDE = (ROOT / "sql" / "docs" / "auditor.md").read_text()
QUESTIONS = {question.path.stem: question for question in audit.questions()}


@pytest.fixture
def system(database: Database, people: People) -> System:
    return System(database, people)


def ask(system: System, name: str) -> list[dict[str, Any]]:
    """The answer to one question, in a transaction that cannot write."""
    with psycopg.connect(system.database.url, row_factory=psycopg.rows.dict_row) as owner:
        owner.read_only = True
        return owner.execute(QUESTIONS[name].statement.encode()).fetchall()


def damage(system: System, *statements: str) -> None:
    """Change rows with the triggers disabled; only the owner of the tables can do this."""
    with psycopg.connect(system.database.url, autocommit=True) as owner:
        for table in ("keys", "key_events"):
            owner.execute(f"alter table keylatch_internal.{table} disable trigger user".encode())
        for statement in statements:
            owner.execute(statement.encode())
        for table in ("keys", "key_events"):
            owner.execute(f"alter table keylatch_internal.{table} enable trigger user".encode())


CATALOG = ("definer_functions", "executables", "grants", "members", "policies", "triggers")


def asked(database: Database, name: str) -> list[dict[str, Any]]:
    """The answer to one question, asked by the owner of a database."""
    with psycopg.connect(database.url, row_factory=psycopg.rows.dict_row) as owner:
        owner.read_only = True
        return owner.execute(QUESTIONS[name].statement.encode()).fetchall()


def needs(name: str) -> str | None:
    """The module or tenancy that a question's file names after `Needs:`, or None."""
    found = re.search(r"^-- Needs: (\w+)$", QUESTIONS[name].statement, re.MULTILINE)
    return found and found[1]


@pytest.mark.parametrize("name", sorted(QUESTIONS))
def test_on_the_core_alone_a_question_answers_or_says_what_it_needs(
    core: Database, name: str
) -> None:
    if needs(name) is None:
        asked(core, name)
        return
    with pytest.raises((psycopg.errors.UndefinedTable, psycopg.errors.UndefinedFunction)):
        asked(core, name)


def test_in_an_own_tenancy_the_trigger_that_revokes_is_listed_or_missing(
    core: Database, server: Cluster, own_core_template: str
) -> None:
    (row,) = (row for row in asked(core, "triggers") if row["state"] == "MISSING")
    assert row["table_name"] == "your table of workspaces"
    with Database(server, "own_questions", own_core_template) as own:
        rows = asked(own, "triggers")
        assert {row["state"] for row in rows} == {"always", "origin", "replication mode"}
        assert "workspaces" in {row["table_name"].rpartition(".")[2] for row in rows}
        own.connect().execute("drop trigger workspaces_delete_revoke_keys on public.workspaces")
        states = {row["table_name"]: row["state"] for row in asked(own, "triggers")}
        assert states["your table of workspaces"] == "MISSING"


SHIPPED = {"always", "origin", "replication mode"}
REVOKES = "execute function keylatch_internal.revoke_workspace_keys()"
DELETES = f"create trigger d after delete on public.workspaces for each row {REVOKES}"


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        (
            "drop trigger workspaces_truncate_keep on public.workspaces",
            {("workspaces", "workspaces_truncate_keep", "MISSING")},
        ),
        (
            "alter table public.workspaces enable trigger workspaces_truncate_keep",
            {("workspaces", "workspaces_truncate_keep", "origin, should be ALWAYS")},
        ),
        (
            "drop trigger workspaces_truncate_keep on public.workspaces;"
            " create trigger t before truncate on public.workspaces"
            f" for each statement when (current_user = 'x') {REVOKES}",
            {
                ("workspaces", "t", "NOT SHIPPED"),
                ("workspaces", "workspaces_truncate_keep", "MISSING"),
            },
        ),
        *(
            (
                "drop trigger workspaces_delete_revoke_keys on public.workspaces;" + instead,
                {
                    ("workspaces", "d", "NOT SHIPPED"),
                    ("your table of workspaces", "workspaces_delete_revoke_keys", "MISSING"),
                },
            )
            for instead in (
                DELETES.replace("execute", "when (old.name = 'x') execute"),
                DELETES.replace("after", "before"),
                DELETES.replace("row", "statement"),
            )
        ),
        (
            "drop trigger workspaces_delete_revoke_keys on public.workspaces;" + DELETES,
            set(),
        ),
    ],
)
def test_in_an_own_tenancy_a_trigger_counts_only_in_its_whole_form(
    server: Cluster, own_core_template: str, statement: str, found: set[tuple[str, str, str]]
) -> None:
    with Database(server, "own_forms", own_core_template) as own:
        own.connect().execute(statement.encode())
        rows = asked(own, "triggers")
        assert found == {
            (row["table_name"], row["trigger_name"], row["state"])
            for row in rows
            if row["state"] not in SHIPPED
        }


def test_a_table_that_inherits_from_the_table_of_keys_is_missing_its_triggers(
    system: System,
) -> None:
    system.owner.execute("create table public.more_keys () inherits (keylatch_internal.keys)")
    (row,) = (row for row in ask(system, "triggers") if row["state"] not in SHIPPED)
    assert row["what"] == (
        "The table inherits from keylatch_internal.keys, and its rows bypass the triggers."
    )
    del row["what"]
    assert list(row.values()) == [
        *("more_keys", "all of keylatch_internal.keys", "MISSING", "postgres")
    ]


@pytest.mark.one_server
def test_an_auditor_asks_the_catalog_and_with_the_grants_of_the_guide_everything(
    system: System,
) -> None:
    system.issue()
    system.owner.execute("select from keylatch.seal_events()")
    admin = system.database.connect(superuser=True)
    admin.execute("create role plain_auditor")
    create, grant = re.findall(r"`((?:create role|grant)[^`]* keylatch_auditor\b[^`]*)`", GUIDE)
    admin.execute(create.encode())
    system.owner.execute(grant.encode())
    try:
        for role, names in (("plain_auditor", CATALOG), ("keylatch_auditor", sorted(QUESTIONS))):
            auditor = system.database.connect(superuser=True)
            auditor.execute(f"set session authorization {role}".encode())
            for name in names:
                rows = auditor.execute(QUESTIONS[name].statement.encode()).fetchall()
                assert [list(row) for row in rows] == [
                    list(row.values()) for row in ask(system, name)
                ], name
            auditor.close()
    finally:
        admin.execute("drop owned by keylatch_auditor")
        admin.execute("drop role plain_auditor, keylatch_auditor")


def test_who_can_become_whom_is_named_with_the_way(system: System) -> None:
    admin = system.database.connect(superuser=True)
    before = ask(system, "members")
    roles = ("audited_group", "audited_login", "audited_reader", "audited_bypass", "audited_super")
    for statement in (
        "create role audited_group in role service_role",
        "create role audited_login login in role audited_group",
        "create role audited_reader login in role pg_read_all_data, pg_write_all_data",
        "create role audited_bypass bypassrls",
        "create role audited_super superuser",
        "grant set on parameter session_replication_role to audited_reader",
        "alter default privileges for role audited_super grant select on tables to public",
        "create view public.copied as select id from keylatch_internal.keys",
        "create view public.invoked with (security_invoker = on) as table keylatch.keys",
        "grant select on public.copied, public.invoked to audited_reader",
        "create function public.copied_too() returns bigint language sql security definer"
        " as 'select count(*) from keylatch_internal.keys'",
        "revoke all on function public.copied_too from public, anon, authenticated, service_role",
        "grant execute on function public.copied_too to audited_login",
    ):
        admin.execute(statement.encode())
    try:
        added = [row for row in ask(system, "members") if row not in before]
    finally:
        admin.execute("drop view public.copied, public.invoked")
        admin.execute("drop function public.copied_too")
        admin.execute("drop owned by audited_super, audited_reader, audited_login")
        admin.execute("revoke set on parameter session_replication_role from audited_reader")
        admin.execute(f"drop role {', '.join(roles)}".encode())
    assert all(row["why"].endswith(".") for row in added)
    found = {
        (row["role_name"], row["what"], row["through"])
        for row in added
        if row["role_name"] in (*roles, "public")
    }
    assert found == {
        ("audited_group", "can become service_role", "member of service_role"),
        (
            "audited_login",
            "can become service_role",
            "member of audited_group, member of service_role",
        ),
        ("audited_reader", "can become pg_read_all_data", "member of pg_read_all_data"),
        ("audited_reader", "can become pg_write_all_data", "member of pg_write_all_data"),
        ("audited_bypass", "has bypassrls", "its own attribute"),
        ("audited_super", "is a superuser", "its own attribute"),
        ("audited_reader", "can set session_replication_role", "grant on the parameter"),
        (
            "public",
            "gets select on new tables and views",
            "default privileges of audited_super",
        ),
        ("audited_reader", "reads with the rights of supabase_admin", "view copied"),
        ("audited_login", "reads with the rights of supabase_admin", "function copied_too()"),
    }


@pytest.mark.parametrize(
    ("statement", "name", "row"),
    [
        (
            "grant execute on function keylatch.list_keys to public",
            "executables",
            {"role_name": "public", "schema_name": "keylatch", "which": "list_keys"},
        ),
        (
            "grant select (label) on keylatch_internal.keys to pg_monitor with grant option",
            "grants",
            {"role_name": "pg_monitor", "column_names": "label", "passed_on": True},
        ),
        (
            "alter policy keys_update_admin on keylatch_internal.keys with check (true)",
            "policies",
            {"policy_name": "keys_update_admin", "new_rows": "true"},
        ),
        (
            "alter table keylatch_internal.errors disable row level security",
            "policies",
            {"table_name": "keylatch_internal.errors: row security is off"},
        ),
        (
            "create trigger spy after insert on keylatch_internal.keys"
            " for each row execute function keylatch_internal.stamp_update()",
            "triggers",
            {"trigger_name": "spy", "state": "NOT SHIPPED"},
        ),
        (
            "alter function keylatch.resolve_key reset search_path",
            "definer_functions",
            {"function_name": "keylatch.resolve_key", "with_settings": None},
        ),
    ],
    ids=["function", "column", "policy", "row security", "trigger", "search path"],
)
def test_an_opened_access_is_named_and_was_not_named_before(
    system: System, statement: str, name: str, row: dict[str, Any]
) -> None:
    def is_there() -> bool:
        return any(row.items() <= one.items() for one in ask(system, name))

    assert not is_there()
    system.owner.execute(statement.encode())
    assert is_there()


def test_each_first_line_asks_and_every_column_is_explained(system: System) -> None:
    for question in QUESTIONS.values():
        assert question.text.endswith("?")
        cursor = system.owner.execute(question.statement.encode())
        assert cursor.description is not None
        columns = sorted(column.name for column in cursor.description)
        assert columns == sorted(question.columns), question.path


# The two longest queries and one that calls a function: the CLI needs seconds for each query.
ASKED_THROUGH_THE_CLI = ("definer_functions", "triggers", "events")


@pytest.mark.one_server
def test_psql_and_the_supabase_cli_and_a_driver_answer_alike(system: System) -> None:
    key, _ = system.issue()
    system.issue()
    system.session().execute(REVOKE, [key, False])
    psql = shutil.which("psql")
    if psql is None:
        raise MissingTool("psql")
    for name, question in QUESTIONS.items():
        count = len(ask(system, name))
        form = ["--no-psqlrc", "-qtA", "--record-separator=\x1e", f"--file={question.path}"]
        done = subprocess.run(
            [psql, *form, system.database.url], capture_output=True, text=True, check=True
        )
        assert done.stderr == ""
        assert len([row for row in done.stdout.split("\x1e") if row.strip()]) == count, name
        if name not in ASKED_THROUGH_THE_CLI:
            continue
        arguments = ["db", "query", "--read-only", "--file", str(question.path)]
        said = run_supabase([*arguments, "--output-format", "json"], system.database.url)
        assert len(json.loads(said.split("\n", 1)[1])) == count, name


def test_a_sound_database_answers_that_it_is(system: System) -> None:
    key, _ = system.issue()
    system.session().execute(REVOKE, [key, False])
    for grace in ("0", "1 day"):
        system.session().execute("select keylatch.rotate_key(%s, %s)", [system.issue()[0], grace])
    for name in (
        "integrity",
        "event_integrity",
        "orphaned_keys",
        "workspaces_without_admin",
        "unused_secrets",
    ):
        assert ask(system, name) == []
    states = {row["state"] for row in ask(system, "triggers")}
    assert states == {"always", "origin", "replication mode"}
    assert {row["is_intact"] for row in ask(system, "events")} == {True}
    assert {row["role_name"] for row in ask(system, "executables")} == {
        "anon",
        "authenticated",
        "service_role",
        "keylatch_resolver",
    }
    assert not any(row["passed_on"] for row in ask(system, "grants"))
    assert not any("off" in row["table_name"] for row in ask(system, "policies"))


def test_each_definer_function_has_the_reason_of_its_migration(system: System) -> None:
    found = {row["function_name"]: row["because"] for row in ask(system, "definer_functions")}
    shipped = set()
    for path in sorted((ROOT / "supabase" / "migrations").glob("*.sql")):
        head = re.compile(r"create (?:or replace )?function ([\w.]+)|-- definer because")
        name = ""
        for match in head.finditer(path.read_text()):
            name = match[1] or name
            if not match[1]:
                shipped.add(name)
    assert set(found) == shipped
    assert "IT WAS NOT SHIPPED WITH KEYLATCH" not in found.values()


def test_a_definer_function_that_somebody_added_stands_out(system: System) -> None:
    system.owner.execute(
        "create function keylatch.door() returns int language sql security definer"
        " set search_path = '' return 1"
    )
    (door,) = (
        row for row in ask(system, "definer_functions") if row["function_name"][-4:] == "door"
    )
    assert (door["because"], door["executable"]) == ("IT WAS NOT SHIPPED WITH KEYLATCH", "public")


def test_an_added_overload_of_a_shipped_function_stands_out(system: System) -> None:
    shipped = ask(system, "definer_functions")
    system.owner.execute(
        "create function keylatch_internal.find_key(p_text varchar) returns uuid language sql"
        " security definer as 'select id from keylatch_internal.keys limit 1'"
    )
    (row,) = (row for row in ask(system, "definer_functions") if row not in shipped)
    assert row["because"] == "IT WAS NOT SHIPPED WITH KEYLATCH"
    assert row["function_name"] == "keylatch_internal.find_key"


@pytest.mark.parametrize(
    ("statement", "state"),
    [
        ("alter table {table} disable trigger {trigger}", "OFF"),
        ("alter table {table} enable trigger {trigger}", "origin, should be ALWAYS"),
        ("alter table {table} enable replica trigger {trigger}", "OFF but in replication mode"),
        ("drop trigger {trigger} on {table}", "MISSING"),
    ],
)
def test_every_guarding_trigger_that_does_not_fire_shows(
    system: System, statement: str, state: str
) -> None:
    guards = [row for row in ask(system, "triggers") if row["state"] == "always"]
    guards = [row for row in guards if row["table_name"].startswith("keylatch_internal.")]
    assert len(guards) == 22
    for row in guards:
        text = statement.format(table=row["table_name"], trigger=row["trigger_name"])
        system.owner.execute(text.encode())
    states = {row["trigger_name"]: row["state"] for row in ask(system, "triggers")}
    assert {states[row["trigger_name"]] for row in guards} == {state}


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        (
            "alter table keylatch_internal.keys drop constraint keys_public_key_check;"
            "update keylatch_internal.keys set key_hash = sha256('x') where kind = 'publishable'",
            "the hash is not the hash of the publishable key",
        ),
        (
            "alter table keylatch_internal.keys drop constraint keys_public_key_check;"
            "update keylatch_internal.keys set public_key = 'x' where kind = 'secret'",
            "a secret key is kept in plaintext",
        ),
        (
            "alter table keylatch_internal.keys drop constraint keys_rotated_from_key;"
            "update keylatch_internal.keys set rotated_from ="
            " (select id from keylatch_internal.keys where label = 'first') where label <> 'first'",
            "the key has two successors",
        ),
        (
            "update keylatch_internal.keys set rotated_from ="
            " (select id from keylatch_internal.keys where label = 'first')"
            " where kind = 'publishable'",
            "the key was rotated from a key of another workspace, kind or environment",
        ),
        (
            "update keylatch_internal.keys set rotated_from ="
            " (select id from keylatch_internal.keys where label = 'first')"
            " where label = 'second'",
            "the key has a successor, but is not superseded or revoked",
        ),
        (
            "insert into keylatch_internal.workspace_latches (workspace_id, deleted_at)"
            " select distinct workspace_id, now() from keylatch_internal.keys"
            " on conflict (workspace_id) do update set deleted_at = now()",
            "the key is active in a deleted workspace",
        ),
        (
            "delete from keylatch_internal.key_events where event = 'issued'",
            "no event says how the key was made",
        ),
        (
            "update keylatch_internal.keys set revoked_at = null, revoke_reason = null,"
            " revoked_by = null",
            "the key was revoked, but is not revoked any more",
        ),
        (
            "update keylatch_internal.keys set revoked_at = now()",
            "the key is revoked, but no event says so",
        ),
    ],
)
def test_damage_that_only_the_owner_can_do_is_named(
    system: System, statement: str, problem: str
) -> None:
    alice = system.session()
    issue = "select id from keylatch.issue_key(%s, %s, %s)"
    for kind, label in (("secret", "first"), ("secret", "second"), ("publishable", "third")):
        key = alice.execute(issue, [system.workspace, kind, label]).fetchone()
    assert key is not None
    alice.execute(REVOKE, [key[0], False])
    damage(system, *statement.split(";"))
    assert problem in {
        row["problem"] for name in ("integrity", "event_integrity") for row in ask(system, name)
    }


def test_events_that_were_changed_after_they_were_sealed_show(system: System) -> None:
    for size in (2, 1):
        for _ in range(size):
            system.issue()
        system.owner.execute("select from keylatch.seal_events()")
    system.issue()
    (row,) = ask(system, "events")
    assert (row["is_intact"], row["checkpoints"], row["events"], row["unsealed"]) == (True, 2, 3, 1)
    assert (row["archived"], row["events_removed"]) == (0, 0)
    damage(system, "update keylatch_internal.key_events set user_id = null where checkpoint = 1")
    broken, rest = ask(system, "events")
    assert (broken["broken_checkpoint"], broken["events"]) == (1, 0)
    assert broken["problem"] == "An event, or the checkpoint, was changed."
    assert (rest["from_checkpoint"], rest["is_intact"], rest["events"]) == (2, True, 1)


def test_events_that_were_deleted_by_marking_their_checkpoint_as_archived_show(
    system: System,
) -> None:
    for size in (2, 1):
        for _ in range(size):
            system.issue()
        system.owner.execute("select from keylatch.seal_events()")
    mark = "update keylatch_internal.key_event_checkpoints set archived_at = now()"
    system.owner.execute(f"{mark} where number = 1".encode())
    (row,) = ask(system, "events")
    assert (row["is_intact"], row["archived"], row["events_removed"]) == (True, 1, 0)
    system.owner.execute("delete from keylatch_internal.key_events where checkpoint = 1")
    (row,) = ask(system, "events")
    assert (row["is_intact"], row["archived"], row["events_removed"]) == (True, 1, 2)


def test_keys_that_need_attention_are_named(system: System) -> None:
    old, _ = system.issue()
    superseded, _ = system.issue()
    system.issue()
    system.session().execute("select keylatch.rotate_key(%s, '1 day')", [superseded])
    damage(
        system,
        f"update keylatch_internal.keys set created_at = now() - interval '2 years'"
        f" where id = '{old}'",
        f"update keylatch_internal.keys set superseded_at = now() - interval '5 hours'"
        f" where id = '{superseded}'",
        "insert into keylatch_internal.key_usage (key_id, workspace_id, last_used_at, uses)"
        f" values ('{superseded}', '{system.workspace}', now(), 1)",
    )
    assert [row["key_id"] for row in ask(system, "unused_secrets")] == [old]
    assert {row["key_id"] for row in ask(system, "overdue_rotations")} == {old, superseded}
    assert len(ask(system, "endless_keys")) == 3
    system.owner.execute("update keylatch.workspace_membership set role = 'member'")
    (row,) = ask(system, "workspaces_without_admin")
    assert (row["active_keys"], row["members"]) == (4, 2)
    system.owner.execute("alter table keylatch.workspaces disable trigger user")
    system.owner.execute("delete from keylatch.workspaces")
    assert len(ask(system, "orphaned_keys")) == 4


def test_a_revocation_shows_with_who_and_why(system: System) -> None:
    key, _ = system.issue()
    system.session().execute(REVOKE, [key, False])
    (row,) = ask(system, "revocations")
    assert (row["key_id"], row["revoked_by"], row["reason"]) == (key, People.alice, "leaked")


def test_keys_are_counted_by_status(system: System) -> None:
    for _ in range(3):
        system.owner.execute(ISSUE, [system.workspace])
    (row,) = ask(system, "keys_by_status")
    assert (row["status"], row["how_many"], row["workspaces"]) == ("active", 3, 1)
