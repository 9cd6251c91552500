"""Installing the one file gives the same result for every user, and for many at once."""

import re
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from core.fingerprint import SCHEMAS, access, fingerprint
from keylatch_cli.install import project as install
from keylatch_cli.install.migrations import Choice, shipped
from stack import (
    HANG_SECONDS,
    Cluster,
    CommandFailed,
    Database,
    push_migrations,
    run_supabase,
    until,
)

# At least two pushes wait for an uncommitted transaction. More than five pushes test nothing new.
AT_ONCE = 5
(FILE,) = shipped().plan(None, Choice(all=True), "keylatch")


@pytest.fixture(scope="module")
def installed(initialised: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with keylatch and nothing else."""
    path = shutil.copytree(initialised, tmp_path_factory.mktemp("installed") / "shop")
    install.write(path, install.prepare(path, Choice(all=True), "keylatch"))
    return path


def execute(url: str, statement: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement.encode())


def apply_file(url: str, said: Callable[[str], None] = lambda _: None) -> None:
    """Apply the file in one transaction, and pass each notice to `said`."""
    with psycopg.connect(url) as owner:
        owner.add_notice_handler(
            lambda notice: said(f"{notice.severity}: {notice.message_primary}")
        )
        owner.execute(FILE.text.encode())


def rows(url: str) -> list[tuple[Any, ...]]:
    """The installation's row and its history, with the transactions that wrote them."""
    with psycopg.connect(url) as owner:
        return [
            *owner.execute("select xmin::text, i::text from keylatch_internal.installation i"),
            *owner.execute(
                "select xmin::text, version from supabase_migrations.schema_migrations order by 2"
            ),
        ]


@pytest.mark.one_server
def test_the_fingerprint_sees_every_kind_of_change(database: Database) -> None:
    before = fingerprint(database.url)
    owner = database.connect(autocommit=False)
    for change in (
        "alter table keylatch_internal.keys alter label set default 'x'",
        "alter table keylatch_internal.keys drop constraint keys_kind_check",
        "drop index keylatch_internal.keys_workspace_id_created_at_idx",
        "alter function keylatch.resolve_key(text, text) volatile",
        "alter function keylatch.resolve_key(text, text) security invoker",
        "alter function keylatch.resolve_key(text, text) reset all",
        "create or replace function keylatch_internal.key_characters(p_bytes bytea) returns text"
        " language plpgsql immutable parallel safe security invoker"
        " set search_path = pg_catalog, pg_temp as $$ begin return 'abc'; end $$",
        "alter table keylatch_internal.keys enable trigger keys_update_immutable",
        "drop trigger keys_delete_keep on keylatch_internal.keys",
        "alter policy keys_update_admin on keylatch_internal.keys with check (true)",
        "alter table keylatch_internal.keys disable row level security",
        "grant select (key_hash) on keylatch_internal.keys to service_role",
        "grant select on keylatch.workspaces to anon",
        "grant execute on function keylatch.issue_key to public",
        "grant create on schema keylatch_internal to anon",
        "grant usage on type keylatch.revocation to anon",
        "comment on function keylatch.hash_key(text) is 'x'",
        "comment on policy keys_update_admin on keylatch_internal.keys is 'x'",
        "alter view keylatch.keys reset (security_invoker)",
    ):
        owner.execute(change.encode())
        owner.commit()
        after = fingerprint(database.url)
        assert after != before, change
        before = after


def wait_until_some_wait(database: Database) -> None:
    """Wait until two installations wait for a transaction that is not committed."""
    with psycopg.connect(database.superuser_url, autocommit=True) as watch:
        waiting = (
            "select count(*) >= 2 from pg_stat_activity"
            " where wait_event_type = 'Lock' and datname = current_database()"
        )
        until(lambda: watch.execute(waiting).fetchone() == (True,), "they ran one after the other")


@pytest.mark.one_server
def test_pushes_to_one_database_at_once_end_as_one(
    empty: Database, database: Database, installed: Path
) -> None:
    def push(_: int) -> str | None:
        try:
            return push_migrations(empty.url, installed)
        except CommandFailed:
            return None

    with ThreadPoolExecutor(AT_ONCE) as pool, psycopg.connect(empty.url) as gate:
        # Every push stops at this schema until the gate rolls back.
        gate.execute("create schema keylatch")
        running = [pool.submit(push, number) for number in range(AT_ONCE)]
        wait_until_some_wait(empty)
        gate.rollback()
        said = [one.result(timeout=2 * HANG_SECONDS) for one in running]
        assert any(said), "nobody got through"
        again = push(AT_ONCE)
        assert again is not None and "up to date" in again
    assert fingerprint(empty.url) == fingerprint(database.url)
    assert len(rows(empty.url)) == 2


@pytest.mark.one_server
def test_pushing_again_changes_nothing(empty: Database, installed: Path) -> None:
    push_migrations(empty.url, installed)
    before = fingerprint(empty.url), rows(empty.url)
    assert "up to date" in push_migrations(empty.url, installed)
    assert (fingerprint(empty.url), rows(empty.url)) == before


@pytest.mark.one_server
def test_migration_up_installs_what_the_files_of_the_repository_install(
    empty: Database, database: Database, installed: Path
) -> None:
    run_supabase(["migration", "up", "--yes"], empty.url, installed)
    assert fingerprint(empty.url) == fingerprint(database.url)
    ids = [installation(url) for url in (empty.url, database.url)]
    assert ids[0] != ids[1], "another database is another installation"


def installation(url: str) -> tuple[Any, ...] | None:
    with psycopg.connect(url) as owner:
        return owner.execute("select id from keylatch_internal.installation").fetchone()


@pytest.mark.parametrize("role", ["unknown", "not granted"])
def test_ten_databases_of_a_new_server_are_installed_at_the_same_time(
    other_server: Cluster, database: Database, role: str
) -> None:
    if role == "not granted":
        execute(other_server.url("postgres"), "create role keylatch_resolver nologin noinherit")
    databases = [Database(other_server, f"tenth_{number}") for number in range(10)]
    for one in databases:
        other_server.install_platform(one.name)
    start = threading.Barrier(len(databases), timeout=HANG_SECONDS)

    def apply(one: Database) -> list[str]:
        said: list[str] = []
        start.wait()
        apply_file(one.url, said.append)
        return [line for line in said if line.startswith("WARNING")]

    with ThreadPoolExecutor(len(databases)) as pool:
        assert list(pool.map(apply, databases, timeout=2 * HANG_SECONDS)) == [[]] * len(databases)
    expected = fingerprint(database.url)
    for one in databases:
        assert fingerprint(one.url) == expected
    assert is_granted(other_server)


def is_granted(server: Cluster) -> bool:
    with psycopg.connect(server.superuser_url("postgres")) as superuser:
        row = superuser.execute(
            "select pg_has_role('authenticator', 'keylatch_resolver', 'member')"
        ).fetchone()
    return row == (True,)


def effective(url: str) -> set[str]:
    """Return the lines of `access` without those that repeat a grant to public."""
    lines = set(access(url))
    everybody = {line for line in lines if " public " in line}
    return everybody | {
        line
        for line in lines
        if " owner " in line or re.sub(r" \w+ (\w+) by ", r" public \1 by ", line) not in everybody
    }


def test_the_users_default_privileges_open_nothing(
    empty: Database, database: Database, installed: Path
) -> None:
    for privilege in (
        "all on tables",
        "all on sequences",
        "execute on functions",
        "all on schemas",
        "usage on types",
    ):
        execute(
            empty.url,
            f"alter default privileges for role postgres grant {privilege}"
            " to public, anon, authenticated, service_role",
        )
    push_migrations(empty.url, installed)
    assert effective(empty.url) == effective(database.url)
    # Without these default privileges, only types keep PostgreSQL's own grants to public.
    for role, kinds in (("public", {"type"}), ("anon", {"function", "schema"})):
        opened = [line for line in access(database.url) if f" {role} " in line]
        # grants.test.sql says which functions anon may call.
        assert {line.partition(" ")[0] for line in opened} == kinds, role


@pytest.mark.parametrize("installer", ["postgres", "plain_owner"])
def test_an_installer_who_may_not_grant_the_role_goes_on_and_hears_who_should(
    other_server: Cluster, database: Database, installer: str
) -> None:
    if installer == "postgres" and other_server.version < 16:
        installer = "plain_owner"  # before 16 createrole may grant any role
    with Database(other_server, "installed") as installed:
        other_server.install_platform(installed.name)
        execute(
            installed.superuser_url,
            "create role keylatch_resolver nologin noinherit;"
            " create role plain_owner login nocreaterole bypassrls;"
            " grant references on auth.users to plain_owner;"
            " grant usage on schema auth, extensions to plain_owner",
        )
        if installer == "plain_owner":
            execute(
                installed.superuser_url,
                f"alter role plain_owner password '{other_server.passwords['postgres']}';"
                " alter database installed owner to plain_owner",
            )
        said: list[str] = []
        url = installed.url.replace("//postgres:", f"//{installer}:")
        apply_file(url, said.append)
        warning = f"keylatch_resolver could not be granted to authenticator and {installer}"
        assert f"WARNING: {warning}" in said
        assert fingerprint(url) == fingerprint(database.url)
        assert not is_granted(other_server)
        execute(installed.superuser_url, "grant keylatch_resolver to authenticator")
        runtime = installed.connect("keylatch_resolver")
        assert runtime.execute("select keylatch.resolve_key('wk')").fetchall() == []


def test_the_owner_may_act_as_the_resolver(database: Database) -> None:
    owner = database.connect()
    owner.execute("set role keylatch_resolver")
    assert owner.execute("select keylatch.resolve_key('wk')").fetchall() == []


def test_pgcrypto_in_another_schema_is_named_as_the_reason_and_moving_it_is_enough(
    empty: Database, database: Database, installed: Path
) -> None:
    execute(empty.superuser_url, "alter extension pgcrypto set schema public")
    with pytest.raises(CommandFailed, match='keylatch needs pgcrypto in the schema "extensions"'):
        push_migrations(empty.url, installed)
    with pytest.raises(psycopg.Error) as refused:
        apply_file(empty.url)
    hint = refused.value.diag.message_hint or ""
    command = hint.removeprefix("Run: ")
    assert command == "alter extension pgcrypto set schema extensions;"
    with psycopg.connect(empty.url) as owner:
        left = owner.execute(
            "select nspname from pg_namespace where nspname = any (%s)", [list(SCHEMAS)]
        )
        assert left.fetchall() == []
    execute(empty.superuser_url, command)
    push_migrations(empty.url, installed)
    assert fingerprint(empty.url) == fingerprint(database.url)


@pytest.mark.one_server
def test_a_database_of_another_encoding_is_refused_with_the_reason(server: Cluster) -> None:
    name = f"latin_{uuid4().hex}"
    create = f"create database {name} owner postgres encoding 'LATIN1' locale 'C'"
    execute(server.superuser_url("postgres"), f"{create} template template0")
    try:
        with pytest.raises(psycopg.Error, match="encoding UTF8"):
            apply_file(server.url(name))
    finally:
        server.drop_database(name)


@pytest.mark.one_server
def test_the_generated_types_have_the_calls_and_their_arguments(database: Database) -> None:
    arguments = ["gen", "types", "--lang", "typescript", "--schema", "keylatch"]
    types = " ".join(run_supabase(arguments, database.url).split())
    keys = types.partition('"keys": { Row: {')[2].partition("}")[0]
    assert '"status": string' in keys
    assert '"id": string,' in keys
    assert "key_hash" not in types
    assert '"status"?: never' in types, "it is derived, and not for a client to write"
    for call, given in {
        "issue_key": [
            '"workspace_id": string',
            '"kind"?: string',
            '"label"?: string',
            '"allowed_origins"?: (string)[]',
            '"scopes"?: (string)[]',
            '"environment"?: string',
            '"expires_at"?: string',
            '"metadata"?: Json',
            '"prefix"?: string',
        ],
        "rotate_key": ['"key_id": string', '"grace"?: string', '"expires_at"?: string'],
        "revoke_key": ['"key_id": string', '"reason"?: string', '"cascade"?: boolean'],
        "suspend_key": ['"key_id": string'],
        "unsuspend_key": ['"key_id": string'],
        "list_keys": ['"workspace_id": string'],
        "resolve_key": ['"key": string', '"origin"?: string'],
        "explain_key": ['"key": string', '"origin"?: string'],
        "hash_key": ['"key": string'],
    }.items():
        found = types.partition(f'"{call}": {{ Args: {{')[2].partition("}")[0]
        assert sorted(part.strip() for part in found.split(",")) == sorted(given), call
    resolved = types.partition('"resolve_key": {')[2].partition("SetofOptions")[0]
    assert 'Returns: Database["keylatch"][\'CompositeTypes\']["resolved_key"][]' in resolved
    row = types.partition('"resolved_key": {')[2].partition("}")[0]
    assert '"key_id": string' in row and '"scopes": (string)[]' in row
