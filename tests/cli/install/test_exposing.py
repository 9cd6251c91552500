"""Exposing the schema: the edit of config.toml, the question, and the SQL for a hosted project."""

import re
import tomllib

import pytest

from cli.install.project import Project
from cli.program import Program
from keylatch_cli.install import project as install
from keylatch_cli.install.migrations import shipped
from stack import Cluster, Database, Janitor, Rest, Tokens, until

pytestmark = pytest.mark.one_server


OWN = ("--tenancy", "own")


def schemas(project: Project) -> list[str]:
    found: list[str] = tomllib.loads(project.config.read_text())["api"]["schemas"]
    return found


def test_one_word_is_added_and_all_else_stays(program: Program, project: Project) -> None:
    before = project.config.read_text()
    project.config.chmod(0o640)
    shown = program("install", project.path, "--expose", *OWN)
    after = project.config.read_text()
    assert after == before.replace('"graphql_public"]', '"graphql_public", "keylatch"]')
    assert project.config.stat().st_mode & 0o777 == 0o640
    assert "Locally, supabase/config.toml exposes the schema keylatch." in shown.err
    program("install", project.path, "--expose")
    assert project.config.read_text() == after
    assert sorted(path.name for path in project.config.parent.iterdir()) == [
        ".temp",
        "config.toml",
        "migrations",
    ]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            '[api]\nschemas = [\n  "public",  # ours\n  "graphql_public",\n]\n',
            ["public", "graphql_public", "keylatch"],
        ),
        ("[api]\nschemas = []\n", ["keylatch"]),
        ("[api]\nport = 1 # one\n", ["public", "graphql_public", "keylatch"]),
        ("[db]\nport = 1\n", ["public", "graphql_public", "keylatch"]),
        ('api.schemas = ["public"]\n', ["public", "keylatch"]),
        ('[api]\r\nschemas = ["public"]\r\n', ["public", "keylatch"]),
        ('# Ü\n[api]\nschemas = ["keylatch", "public"]\n', ["keylatch", "public"]),
    ],
    ids=["lines", "empty", "no list", "no section", "dotted", "crlf", "there"],
)
def test_the_word_is_added_once_however_the_list_is_written(
    project: Project, before: str, after: list[str]
) -> None:
    project.config.write_bytes(before.encode())
    install.expose(project.path)
    install.expose(project.path)
    assert schemas(project) == after
    written = project.config.read_bytes().decode()
    comments = re.findall("#.*", before)
    assert re.findall("#.*", written) == comments
    assert ("\r\n" in before) is ("\r\n" in written)


@pytest.mark.parametrize("text", ["[api\n", "api = 1\n", "[api]\nschemas = 1\n", "\xff"])
def test_a_config_that_cannot_be_read_is_refused_before_anything_is_written(
    program: Program, project: Project, text: str
) -> None:
    project.config.write_bytes(text.encode("latin-1"))
    before = project.snapshot()
    shown = program("install", project.path, "--expose", *OWN, code=1)
    assert shown.err.startswith("config_unreadable: supabase/config.toml cannot be read: ")
    assert project.snapshot() == before


@pytest.mark.parametrize(("typed", "exposed"), [("y", True), ("n", False), ("", False)])
def test_a_terminal_is_asked(program: Program, project: Project, typed: str, exposed: bool) -> None:
    shown = program.at_a_terminal("install", project.path, *OWN, typed=typed)
    assert shown.code == 0
    assert "Expose the schema keylatch in supabase/config.toml? [y/N]: " in shown.err
    assert ("keylatch" in schemas(project)) is exposed
    assert f"keylatch_{shipped().version}" in project.names()
    again = program.at_a_terminal("install", project.path, "--no-expose", typed="y")
    assert "[y/N]" not in again.err


def test_nothing_is_asked_without_a_terminal(program: Program, project: Project) -> None:
    shown = program("install", project.path, *OWN, stdin="y\n")
    assert "[y/N]" not in shown.err
    assert "keylatch" not in schemas(project)
    assert f"keylatch install {project.path} --expose" in shown.err.replace("\n", "")


def test_a_link_inside_of_the_project_stays_a_link(project: Project) -> None:
    real = project.path / "config.toml"
    project.config.rename(real)
    project.config.symlink_to(real)
    install.expose(project.path)
    assert project.config.is_symlink()
    assert "keylatch" in schemas(project)


def test_the_sql_for_a_host_exposes_the_schema_at_once(
    program: Program, project: Project, other_server: Cluster, tokens: Tokens, janitor: Janitor
) -> None:
    project.config.write_text('[api]\nschemas = ["public"]\n')
    shown = program("install", project.path, *OWN, "--only", "core").err
    statements = shown[shown.index("  alter role authenticator") :]
    assert "'public, keylatch'" in statements
    # A separate server, because other tests on the same server share the role authenticator.
    with Database(other_server, "hosted") as database:
        database.migrate()
        with Rest(database, tokens, janitor=janitor, schemas="public") as rest:

            def answer() -> int:
                path, token = "/rpc/installation", rest.service_key
                return rest.request("POST", path, token=token, json={}).status_code

            assert answer() == 406
            # On a hosted project `postgres` may set this. On a plain server only a superuser may.
            database.connect(superuser=True).execute(statements.encode())
            until(lambda: answer() == 200)
