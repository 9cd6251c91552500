"""The world that each attack is tried in."""

import pytest

from security.world import World, make_world
from stack import Database, People, Rest


@pytest.fixture
def world(database: Database, rest: Rest, people: People) -> World:
    """A fresh database with keys in every state, and its API."""
    return make_world(database, rest, people)
