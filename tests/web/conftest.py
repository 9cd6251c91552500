"""Fixtures of the tests of the routes: a site with a database of its own."""

from collections.abc import Iterator

import pytest

from stack import Cluster, Database, Janitor, People, Rest, Tokens
from web.site import Site


@pytest.fixture(scope="session")
def home(server: Cluster, template: str) -> Iterator[Database]:
    """One migrated and seeded database, for all tests here that need no other."""
    with Database(server, "web", template) as database:
        People.seed(database.url)
        yield database


@pytest.fixture(scope="session")
def upstream(home: Database, tokens: Tokens, janitor: Janitor) -> Iterator[Rest]:
    """The API of `home`."""
    with Rest(home, tokens, janitor=janitor) as rest:
        yield rest


@pytest.fixture(scope="session")
def site(upstream: Rest, tokens: Tokens) -> Iterator[Site]:
    """The application on the API of `home`."""
    with Site(f"{upstream.url}/rest/v1", tokens) as site:
        yield site
