"""Fixtures for the tests of the command line: a system, and the program in it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.program import Program
from cli.system import System
from stack import Cluster, Database, Janitor, People, Rest, Tokens


@pytest.fixture(scope="session")
def system(server: Cluster, template: str, tokens: Tokens, janitor: Janitor) -> Iterator[System]:
    """One migrated and seeded database with its API, for all tests that need no other database."""
    people = People(tokens)
    with Database(server, "cli", template) as database:
        people.seed(database.url)
        with Rest(database, tokens, janitor=janitor) as rest:
            yield System(database, rest, people)


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """The program in an empty directory, without settings."""
    return Program(tmp_path, is_preloaded=True)


@pytest.fixture(params=["rest", "database"])
def connection(request: pytest.FixtureRequest) -> str:
    """One of two ways to connect. A test runs twice if it uses this fixture, also indirectly."""
    return str(request.param)


@pytest.fixture
def sql_alice(program: Program, system: System) -> Program:
    """The program as alice over the faster connection, for tests that do not need both."""
    return system.acting_as(program, "database", "alice")


@pytest.fixture
def sql_owner(program: Program, system: System) -> Program:
    """The program as the owner of the database, over the faster connection."""
    return system.acting_as(program, "database", "service")


@pytest.fixture
def alice(program: Program, system: System, connection: str) -> Program:
    """The program as alice, who administers workspace A."""
    return system.acting_as(program, connection, "alice")


@pytest.fixture
def resolver(program: Program, system: System, connection: str) -> Program:
    """The program as a service that resolves."""
    return system.acting_as(program, connection, "resolver")
