"""The shop, shared by tests that do not change it, and a system with a page."""

from collections.abc import Iterator

import pytest

from keylatch import Keylatch
from modules.identity.shop import Shop, open_shop
from security.system import System, make_system
from stack import Cluster, Database, Janitor, People, Rest, Tokens


@pytest.fixture(scope="module")
def shop(
    request: pytest.FixtureRequest,
    server: Cluster,
    template: str,
    tokens: Tokens,
    janitor: Janitor,
) -> Iterator[Shop]:
    """The shop that the tests of one file share."""
    name = request.module.__name__.replace(".", "_")
    with open_shop(server, template, tokens, janitor, name) as shop:
        yield shop


@pytest.fixture
def system(database: Database, people: People, rest: Rest) -> System:
    """A database with keys in every state, and its API."""
    return make_system(database, rest, people)


@pytest.fixture
def page(system: System) -> str:
    """The publishable key of the page."""
    return system.keys["widget"].key


@pytest.fixture
def service(system: System) -> Keylatch:
    """The client of a service that resolves sessions."""
    return Keylatch.from_psycopg(system.database.connect("keylatch_resolver"))
