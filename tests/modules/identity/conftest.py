"""The shop that is shared by the tests which leave it as it was, and a world with a page."""

from collections.abc import Iterator

import pytest

from keylatch import Keylatch
from modules.identity.shop import Shop, open_shop
from security.world import World, make_world
from stack import Cluster, Database, Janitor, People, Rest, Tokens


@pytest.fixture(scope="module")
def shop(
    request: pytest.FixtureRequest,
    server: Cluster,
    template: str,
    tokens: Tokens,
    janitor: Janitor,
) -> Iterator[Shop]:
    """The shop of a file."""
    name = request.module.__name__.replace(".", "_")
    with open_shop(server, template, tokens, janitor, name) as shop:
        yield shop


@pytest.fixture
def world(database: Database, people: People, rest: Rest) -> World:
    """A database with keys in every state, and its API."""
    return make_world(database, rest, people)


@pytest.fixture
def page(world: World) -> str:
    """The key of the page."""
    return world.keys["widget"].key


@pytest.fixture
def service(world: World) -> Keylatch:
    """The client of a service that resolves."""
    return Keylatch.from_psycopg(world.database.connect("keylatch_resolver"))
