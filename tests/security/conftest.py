"""The world that each attack is tried in."""

from collections.abc import Iterator

import pytest

from security.shared import open_world
from security.world import World, make_world
from stack import Cluster, Database, Janitor, People, Rest, Tokens


@pytest.fixture
def fresh_world(database: Database, rest: Rest, people: People) -> World:
    """A database with keys in every state, and its API, for one test that changes it."""
    return make_world(database, rest, people)


@pytest.fixture(scope="session")
def kept_world(server: Cluster, template: str, tokens: Tokens, janitor: Janitor) -> Iterator[World]:
    """The same for all tests that leave it as it was."""
    with open_world(server, template, tokens, janitor, "kept_world") as world:
        yield world


@pytest.fixture
def world(fresh_world: World) -> World:
    """A fresh one, unless the file says that its tests leave the world as it was."""
    return fresh_world
