"""What the tests of the command line ask for by name: a world, and the program in it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.program import Program
from cli.world import World
from stack import Cluster, Database, Janitor, People, Rest, Tokens


@pytest.fixture(scope="session")
def world(server: Cluster, template: str, tokens: Tokens, janitor: Janitor) -> Iterator[World]:
    """One migrated and seeded database with its API, for all tests here that need no other."""
    people = People(tokens)
    with Database(server, "cli", template) as database:
        people.seed(database.url)
        with Rest(database, tokens, janitor=janitor) as rest:
            yield World(database, rest, people)


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """The program in an empty directory, with nothing set."""
    return Program(tmp_path, is_preloaded=True)


@pytest.fixture(params=["rest", "database"])
def connection(request: pytest.FixtureRequest) -> str:
    """Each of the two ways to connect; a test that asks for it, or for a user of it, runs twice."""
    return str(request.param)


@pytest.fixture
def sql_alice(program: Program, world: World) -> Program:
    """The program as alice over the faster connection, for what does not depend on it."""
    return world.acting_as(program, "database", "alice")


@pytest.fixture
def sql_owner(program: Program, world: World) -> Program:
    """The program as the owner of the database, over the faster connection."""
    return world.acting_as(program, "database", "service")


@pytest.fixture
def alice(program: Program, world: World, connection: str) -> Program:
    """The program as alice, who administers workspace A."""
    return world.acting_as(program, connection, "alice")


@pytest.fixture
def resolver(program: Program, world: World, connection: str) -> Program:
    """The program as a service that resolves."""
    return world.acting_as(program, connection, "resolver")
