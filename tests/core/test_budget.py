"""Limits for the core: its lines, and the functions that one call runs."""

import json
import re
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql

from stack import Cluster, Database, People, Tokens
from stack.modules import MIGRATIONS, migrations

RAN = """
select s.funcname from pg_stat_xact_user_functions as s
where s.calls > 0 and s.schemaname in ('keylatch', 'keylatch_internal')
"""
ISSUE = """
select id from keylatch.issue_key(
  %(workspace_id)s, label => 'orders', allowed_origins => '{https://shop.example}',
  scopes => '{orders:read}'
)
"""


def test_a_newcomer_reads_the_core_in_an_afternoon() -> None:
    assert sum(len(file.read_text().splitlines()) for file in migrations()) <= 1900


def test_all_migrations_together_grow_no_further() -> None:
    assert sum(len(file.read_text().splitlines()) for file in MIGRATIONS.glob("*.sql")) <= 6310


def test_no_function_is_longer_than_sixty_lines() -> None:
    longest = {
        f"{file.name}: {match[1]}": len(match[0].splitlines())
        for file in MIGRATIONS.glob("*.sql")
        for match in re.finditer(
            r"^create (?:or replace )?function (\S+?)\(.*?^end \$\$;", file.read_text(), re.S | re.M
        )
    }
    assert len(longest) > 60
    assert {name: lines for name, lines in longest.items() if lines > 60} == {}


@pytest.fixture
def small(server: Cluster) -> Iterator[Database]:
    """A database with the core, keylatch's own workspaces and the test users."""
    with Database(server, "small") as database:
        database.migrate(migrations(tenancy=True))
        People.seed(database.url)
        yield database


@pytest.fixture
def session(small: Database, people_claims: str) -> psycopg.Connection[tuple[Any, ...]]:
    # Only a superuser may switch the counters on. They stay on when the role changes.
    session = small.connect(superuser=True)
    session.execute("set track_functions = 'all'")
    session.execute("select set_config('request.jwt.claims', %s, false)", [people_claims])
    return session


@pytest.fixture
def people_claims(tokens: Tokens) -> str:
    return json.dumps(People(tokens).claims("alice"))


def functions(
    session: psycopg.Connection[tuple[Any, ...]], role: str, statement: str, **arguments: object
) -> tuple[set[str], Any]:
    """The functions of keylatch that a statement runs as this role, and its first value."""
    session.execute("select pg_stat_force_next_flush()")  # otherwise earlier calls count, too
    with session.transaction():
        session.execute(sql.SQL("set local role {}").format(sql.Identifier(role)))
        row = session.execute(statement.encode(), arguments).fetchone()
        session.execute("reset role")
        ran = {name for (name,) in session.execute(RAN)}
    return ran, row and row[0]


def test_a_call_runs_few_functions(session: psycopg.Connection[tuple[Any, ...]]) -> None:
    issuing, key_id = functions(session, "authenticated", ISSUE, workspace_id=People.a)
    rotating, key = functions(
        session, "authenticated", "select key from keylatch.rotate_key(%(id)s, '1 day')", id=key_id
    )
    revoking, _ = functions(
        session, "authenticated", "select keylatch.revoke_key(%(id)s)", id=key_id
    )
    resolving, found = functions(
        session,
        "keylatch_resolver",
        "select key_id from keylatch.resolve_key(%(key)s, 'https://shop.example')",
        key=key,
    )
    assert found is not None
    assert len(issuing) <= 12, " ".join(sorted(issuing))
    assert len(rotating) <= 16, " ".join(sorted(rotating))
    assert len(revoking) <= 6, " ".join(sorted(revoking))
    assert resolving == {"resolve_key"}
