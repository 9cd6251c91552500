"""The examples of own tenancies: applications whose workspaces are not keylatch's own tables."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from keylatch_cli.install.apply import apply
from keylatch_cli.install.migrations import Choice, Tenancy
from stack import Cluster, Database, People

ROOT = Path(__file__).parents[3]
EXAMPLES = ROOT / "sql" / "tenancy"
GUIDE = ROOT / "sql" / "docs" / "own_tenancy.md"
ORGANIZATION = uuid4()


def install(server: Cluster, name: str, tenancy: Tenancy) -> Database:
    """Create a database with every module and this tenancy."""
    database = Database(server, name)
    server.install_platform(database.name)
    # The API's roles can read a new table on Supabase, but not on plain PostgreSQL.
    database.connect().execute(
        "alter default privileges in schema public"
        " revoke all on tables from anon, authenticated, service_role"
    )
    apply(database.connect(), Choice(all=True), tenancy)
    return database


@pytest.fixture(params=["left out", "replaced"])
def bare(request: pytest.FixtureRequest, server: Cluster) -> Iterator[Database]:
    """A database with keylatch: once without keylatch's workspace tables, once with them."""
    tenancy: Tenancy = "own" if request.param == "left out" else "keylatch"
    with install(server, f"own_{uuid4().hex}", tenancy) as database:
        yield database


def test_without_a_tenancy_nobody_administers_anything(server: Cluster) -> None:
    with install(server, f"none_{uuid4().hex}", "own") as database:
        claims = {"sub": str(uuid4()), "role": "authenticated"}
        with (
            database.connect("authenticated", claims) as user,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            user.execute("select keylatch.issue_key(%s)", [uuid4()])


def is_guarded(
    database: Database,
    admin: dict[str, str],
    others: list[dict[str, str]],
    workspace: Any,
    delete: str,
) -> None:
    """Assert that only the admin issues a key, and that deleting the workspace revokes the key."""
    with database.connect("authenticated", admin) as user:
        row = user.execute("select id, key from keylatch.issue_key(%s, 'secret')", [workspace])
        key_id, key = row.fetchone() or (None, None)
        for other in others:
            with database.connect("authenticated", other) as stranger:
                assert stranger.execute("select * from keylatch.keys").fetchall() == []
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    stranger.execute("select keylatch.issue_key(%s)", [workspace])
        with database.connect("keylatch_resolver") as runtime:
            resolve = "select key_id from keylatch.resolve_key(%s)"
            assert runtime.execute(resolve, [key]).fetchall() == [(key_id,)]
            with psycopg.connect(database.url, autocommit=True) as owner:
                table = delete.split()[2]
                for mode in ("origin", "replica"):
                    owner.execute(f"set session_replication_role = {mode}")
                    with pytest.raises(psycopg.Error, match="keys_are_kept"):
                        owner.execute(f"truncate {table} cascade".encode())
                owner.execute("reset session_replication_role")
                assert runtime.execute(resolve, [key]).fetchall() == [(key_id,)]
                owner.execute(delete, [workspace])
            assert runtime.execute(resolve, [key]).fetchall() == []
        if admin.get("org_id") is None:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                user.execute("select keylatch.issue_key(%s)", [workspace])
    with psycopg.connect(database.url) as owner:
        reason = owner.execute("select status, revoke_reason from keylatch.keys").fetchall()
        assert reason == [("revoked", "workspace deleted")]


def test_an_application_with_tables_of_its_own(bare: Database) -> None:
    with psycopg.connect(bare.url) as owner:
        owner.execute((EXAMPLES / "own_tables.sql").read_bytes())
        people = {name: getattr(People, name) for name in ("alice", "bob", "mia", "a", "b")}
        owner.execute(
            "insert into auth.users (id) values (%(alice)s), (%(bob)s), (%(mia)s)", people
        )
        owner.execute(
            "insert into public.workspaces (id, name) values (%(a)s, 'A'), (%(b)s, 'B')", people
        )
        owner.execute(
            "insert into public.workspace_membership values"
            " (%(a)s, %(alice)s, 'owner'), (%(a)s, %(mia)s, 'member'), (%(b)s, %(bob)s, 'admin')",
            people,
        )
    claims = [
        {"sub": str(getattr(People, name)), "role": "authenticated"}
        for name in ("alice", "bob", "mia")
    ]
    delete = "delete from public.workspaces where id = %s"
    is_guarded(bare, claims[0], claims[1:], People.a, delete)


def test_an_application_whose_tokens_name_the_organization(bare: Database) -> None:
    with psycopg.connect(bare.url) as owner:
        owner.execute((EXAMPLES / "organization_claim.sql").read_bytes())
        owner.execute("insert into public.tenants values (%s, 'A')", [ORGANIZATION])
    # The subjects of this provider are not uuids.
    admin = {
        "sub": "user_2f9",
        "role": "authenticated",
        "org_id": str(ORGANIZATION),
        "org_role": "admin",
    }
    others = [
        admin | {"org_role": "member"},
        admin | {"org_id": str(uuid4())},
        {"sub": "user_2f9", "role": "authenticated"},
    ]
    delete = "delete from public.tenants where tenant_id = %s"
    is_guarded(bare, admin, others, ORGANIZATION, delete)


@pytest.mark.parametrize(
    ("blocks", "rows", "delete"),
    [
        (
            slice(0, 2),
            "insert into public.teams values (%(a)s); insert into public.team_members"
            " values (%(a)s, %(alice)s, 'owner'), (%(a)s, %(mia)s, 'member')",
            "delete from public.teams where id = %s",
        ),
        (
            slice(2, 3),
            "insert into public.accounts values (1, %(a)s), (2, %(b)s);"
            " insert into public.account_members values (1, %(alice)s), (2, %(mia)s)",
            "delete from public.accounts where keylatch_id = %s",
        ),
    ],
    ids=["uuid", "bigint"],
)
def test_a_copied_example_of_the_guide(
    bare: Database, blocks: slice, rows: str, delete: str
) -> None:
    examples = re.findall(r"```sql\n(.*?)```", GUIDE.read_text("utf-8"), re.DOTALL)
    people = {name: getattr(People, name) for name in ("alice", "mia", "a", "b")}
    with psycopg.connect(bare.url, cursor_factory=psycopg.ClientCursor) as owner:
        owner.execute("".join(examples[blocks]).encode())
        owner.execute(rows.encode(), people)
    alice, mia = ({"sub": str(people[who]), "role": "authenticated"} for who in ("alice", "mia"))
    for table in re.findall(r"create table (public\.\w+)", "".join(examples[blocks])):
        with (
            bare.connect("authenticated", mia) as user,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            user.execute(f"insert into {table} default values".encode())
    is_guarded(bare, alice, [mia], People.a, delete)
