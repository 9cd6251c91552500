"""What tests ask for by name: a server, a migrated database, its REST API, its people."""

import itertools
import os
from collections.abc import Iterator

import psycopg
import pytest

from stack import Database, Janitor, People, Rest, Server, Tokens
from stack.database import make_template

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def janitor() -> Iterator[Janitor]:
    """Who ends what this run starts, whatever happens to the run."""
    janitor = Janitor()
    yield janitor
    janitor.close()


@pytest.fixture(scope="session")
def server(janitor: Janitor) -> Iterator[Server]:
    """A PostgreSQL server with the platform's roles; `KEYLATCH_PG` chooses its version."""
    with Server(janitor=janitor) as server:
        yield server


@pytest.fixture(scope="session")
def template(server: Server) -> str:
    """The name of a database with the platform, all migrations and pgTAP; it must stay unused.

    tests/mutations.py lets it lack a guard.
    """
    name = make_template(server)
    if removal := os.environ.get("KEYLATCH_MUTATION"):
        with psycopg.connect(server.url(name)) as owner:
            owner.execute(removal.encode())
    return name


@pytest.fixture(scope="session")
def tokens() -> Tokens:
    """Who signs tokens."""
    return Tokens()


@pytest.fixture
def database(server: Server, template: str) -> Iterator[Database]:
    """A copy of the template for one test."""
    with Database(server, f"test_{next(_numbers)}", template) as database:
        yield database


@pytest.fixture
def empty(server: Server) -> Iterator[Database]:
    """A database with the platform and without keylatch."""
    with Database(server, f"install_{next(_numbers)}") as database:
        server.install_platform(database.name)
        yield database


@pytest.fixture
def other_server(janitor: Janitor) -> Iterator[Server]:
    """A cluster of the test's own, whose roles are nobody else's."""
    with Server(janitor=janitor) as server:
        yield server


@pytest.fixture
def rest(database: Database, tokens: Tokens, janitor: Janitor) -> Iterator[Rest]:
    """The REST API of the test's database."""
    with Rest(database, tokens, janitor=janitor) as rest:
        yield rest


@pytest.fixture
def people(database: Database, tokens: Tokens) -> People:
    """The people of `People`, in the test's database."""
    people = People(tokens)
    people.seed(database.url)
    return people


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """A skipped test is a failure: what a test needs is there, or `make setup` brings it."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
