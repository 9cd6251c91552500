"""The core alone, and each module with its needs: which names they use, and what they open."""

import re
import tomllib
from collections.abc import Iterator

import psycopg
import pytest

from cli.install.project import REPOSITORY
from core.fingerprint import access
from keylatch_cli.install.apply import apply
from keylatch_cli.install.migrations import Choice, shipped
from stack import Cluster, Database
from stack.modules import module_names
from stack.tools import ROOT

RELEASE = shipped()
SCHEMAS = ("keylatch", "keylatch_internal")
# Words that a core file uses in another meaning: a request over HTTP, usage of a schema, sessions
# of PostgreSQL.
COMMON = {"usage", "request", "sessions"}
CALLED = """
select p.oid::regprocedure::text
from pg_proc as p
where p.pronamespace::regnamespace::text = any (%s)
  and has_function_privilege(%s, p.oid, 'execute')
"""
READABLE = """
select c.oid::regclass::text
from pg_class as c
where c.relnamespace::regnamespace::text = any (%s) and c.relkind in ('r', 'v', 'm', 'S')
  and (
    has_table_privilege(%s, c.oid, 'select, insert, update, delete, truncate, references, trigger')
    or has_any_column_privilege(%s, c.oid, 'select, insert, update, references')
  )
"""
DEFINERS = """
select p.oid::regprocedure::text, p.proconfig
from pg_proc as p
where p.pronamespace::regnamespace::text = any (%s) and p.prosecdef
"""


@pytest.fixture(params=module_names())
def module(request: pytest.FixtureRequest) -> str:
    """Each module in turn."""
    return str(request.param)


@pytest.fixture
def alone(server: Cluster, core_template: str, module: str) -> Iterator[Database]:
    """A database with the core, this module and its needs."""
    with Database(server, f"alone_{module}", core_template) as database:
        apply(database.connect(), Choice(added=(module,)))
        yield database


def own_names(part: str) -> set[str]:
    """Return the names of a part's objects in keylatch's schemas, without the schema."""
    text = RELEASE.parts[part].text
    pattern = (
        r"^create (?:or replace )?(?:unlogged )?(?:table|view|type|function|sequence) (\S+?)[ (\n]"
    )
    return {name.partition(".")[2] for name in re.findall(pattern, text, re.MULTILINE)}


def named(part: str) -> set[str]:
    """Return the names in keylatch's schemas that a part uses, without the schema."""
    text = RELEASE.parts[part].text
    return set(re.findall(r"\bkeylatch(?:_internal)?\.([a-z_]+)", text))


def made(part: str) -> set[str]:
    """Return the names of a part's objects that the core does not create."""
    names = own_names(part) - own_names("core")
    assert names or part == "core", f"{part} makes nothing: the pattern cannot be right"
    return names


@pytest.mark.one_server
def test_no_core_file_names_a_module_or_what_a_module_makes() -> None:
    for part in (*RELEASE.modules, "tenancy"):
        assert made(part) & named("core") == set(), part
    words = set(re.findall(r"[a-z]+", RELEASE.parts["core"].text.lower()))
    assert {"events", "notify", "legacy"} == set(RELEASE.modules) - COMMON
    assert (set(RELEASE.modules) - COMMON) & words == set()


@pytest.mark.one_server
def test_a_module_names_no_other_unless_it_needs_it() -> None:
    for part in RELEASE.modules:
        for other in set(RELEASE.modules) - set(RELEASE.with_needs([part])):
            assert (made(other) - made(part)) & named(part) == set(), f"{part} names {other}"
        # An application may have its own tenancy, so a module names no tenancy table. Only an
        # import reads keylatch's workspaces, if they exist.
        may = {"workspaces"} if part == "legacy" else set()
        assert made("tenancy") & named(part) == may, part


@pytest.mark.one_server
def test_every_file_is_one_of_the_list() -> None:
    listed = tomllib.loads((ROOT / "sql" / "modules.toml").read_text("utf-8"))
    parts = [listed["core"], listed["tenancy"], *listed["modules"].values()]
    assert len(list(REPOSITORY.glob("*.sql"))) == sum(len(part["files"]) for part in parts)


def test_on_the_core_alone_anon_may_do_nothing(core: Database) -> None:
    owner = core.connect()
    assert owner.execute(CALLED, [list(SCHEMAS), "anon"]).fetchall() == []
    assert owner.execute(READABLE, [list(SCHEMAS), "anon", "anon"]).fetchall() == []
    for schema in SCHEMAS:
        usage = "select has_schema_privilege('anon', %s, 'usage, create')"
        assert owner.execute(usage, [schema]).fetchone() == (False,)
    assert not [
        line
        for line in access(core.url)
        if re.search(r" (anon|public) ", line) and not line.startswith("type ")
    ]
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        core.connect("anon").execute("select keylatch.installation()")


def test_a_module_installs_on_the_core_alone_and_says_so(alone: Database, module: str) -> None:
    owner = alone.connect()
    row = owner.execute("select modules from keylatch.installation()").fetchone()
    assert row == (list(RELEASE.with_needs([module])),)
    # The core works as before, and no trigger of the module fails.
    workspace = "00000000-0000-4000-8000-000000000001"
    with alone.connect("service_role") as service:
        issued = service.execute(
            "select id, key from keylatch.issue_key(%s, 'secret')", [workspace]
        ).fetchone()
        assert issued is not None
        found = service.execute("select key_id from keylatch.resolve_key(%s)", [issued[1]])
        assert found.fetchone() == (issued[0],)
        rotated = service.execute("select id from keylatch.rotate_key(%s)", [issued[0]]).fetchone()
        assert rotated is not None
        revoke = "select already_revoked from keylatch.revoke_key(%s, cascade => true)"
        assert service.execute(revoke, rotated).fetchone() == (False,)
    with psycopg.connect(alone.url) as deleting:
        deleting.execute("select keylatch_internal.revoke_workspace(%s)", [workspace])


def test_a_definer_function_is_internal_and_pinned_and_no_table_is_open(
    alone: Database, module: str
) -> None:
    owner = alone.connect()
    definers = owner.execute(DEFINERS, [list(SCHEMAS)]).fetchall()
    assert len(definers) > 5
    for name, config in definers:
        assert "search_path=pg_catalog, pg_temp" in (config or []), name
    exposed = [name for name, _ in definers if name.startswith("keylatch.")]
    # The only exception is measured: a wrapper would make each resolve slower.
    assert set(exposed) == {
        "keylatch.resolve_key(text,text)",
        "keylatch.resolve_keys(text[],text[])",
    }
    assert owner.execute(READABLE, [list(SCHEMAS), "anon", "anon"]).fetchall() == []
    assert owner.execute(READABLE, [list(SCHEMAS), *["keylatch_resolver"] * 2]).fetchall() == []


def test_without_an_own_grant_anon_executes_what_the_module_is_for(
    alone: Database, module: str
) -> None:
    request = {"current_workspace_id", "current_key_id", "has_scope", "key_metadata"}
    request |= {"check_request"}
    open_to_anon = {
        "request": request,
        "sessions": request | {"open_session", "current_session_id"},
    }
    found = alone.connect().execute(CALLED, [["keylatch"], "anon"]).fetchall()
    names = {name.partition(".")[2].partition("(")[0] for (name,) in found}
    assert names == open_to_anon.get(module, set())
