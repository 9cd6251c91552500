"""Fixtures for all tests: a server, a migrated database, its REST API, its people."""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import psycopg
import pytest

from stack import Cluster, Database, Janitor, People, Rest, Server, Tokens, chosen_cluster
from stack.chosen import chosen_image
from stack.database import make_template
from stack.modules import OWN_TENANCY, migrations

if TYPE_CHECKING:
    from stack.container import Container

# An example takes as long as the machine is busy.
hypothesis.settings.register_profile(
    "tests", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("tests")

# All that is asked over HTTP is on this machine, without TLS. For each client, httpx reads all
# certificates that it would trust, which takes 50 ms: one is enough, and nobody has its key.
os.environ["SSL_CERT_FILE"] = str(Path(__file__).with_name("stack") / "certificate.pem")
# The Supabase CLI is a Bun program that runs for a second: to optimize its code takes longer than
# to run it without (0.8 s of a core for a push, not 1.2 s).
os.environ["BUN_JSC_useDFGJIT"] = "0"  # noqa: SIM112

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def janitor() -> Iterator[Janitor]:
    """Ends everything that this run starts, whatever happens to the run."""
    janitor = Janitor()
    yield janitor
    janitor.close()


@pytest.fixture(scope="session")
def server(janitor: Janitor) -> Iterator[Cluster]:
    """A PostgreSQL with the platform's roles; `KEYLATCH_PG` or `KEYLATCH_IMAGE` chooses it."""
    with chosen_cluster(janitor=janitor) as server:
        yield server


@pytest.fixture(scope="session")
def local_server(server: Cluster) -> Server:
    """`server`, for tests of its processes and files; where it is a container they do not run."""
    assert isinstance(server, Server)
    return server


@pytest.fixture(scope="session")
def container(server: Cluster) -> "Container":
    """`server`, for tests of containers; where it is one of our own they do not run."""
    from stack.container import Container

    assert isinstance(server, Container)
    return server


@pytest.fixture(scope="session")
def template(server: Cluster) -> str:
    """The name of a database with the platform, all migrations and pgTAP; it must stay unused.

    With `KEYLATCH_ONLY=core` it has the core alone, and an application's own workspaces.
    tools/mutations.py lets it lack a guard.
    """
    if os.environ.get("KEYLATCH_ONLY") == "core":
        return _make_own_core(server)
    name = make_template(server)
    if removal := os.environ.get("KEYLATCH_MUTATION"):
        with psycopg.connect(server.url(name)) as owner:
            owner.execute(removal.encode())
    return name


@pytest.fixture(scope="session")
def core_template(server: Cluster) -> str:
    """The name of a database with the platform, the core and pgTAP alone; it must stay unused."""
    return make_template(server, "core_template", migrations())


@pytest.fixture(scope="session")
def own_core_template(server: Cluster) -> str:
    """The same with an application's own workspaces."""
    return _make_own_core(server)


def _make_own_core(server: Cluster) -> str:
    return make_template(server, "own_core_template", [*migrations(), OWN_TENANCY])


@pytest.fixture(scope="session")
def tokens() -> Tokens:
    """Who signs tokens."""
    return Tokens()


@pytest.fixture
def database(server: Cluster, template: str) -> Iterator[Database]:
    """A copy of the template for one test."""
    with Database(server, f"test_{next(_numbers)}", template) as database:
        yield database


@pytest.fixture
def core(server: Cluster, core_template: str) -> Iterator[Database]:
    """A database with the core alone, without tenancy and modules, for one test."""
    with Database(server, f"core_{next(_numbers)}", core_template) as database:
        yield database


@pytest.fixture
def empty(server: Cluster) -> Iterator[Database]:
    """A database with the platform and without keylatch."""
    with Database(server, f"install_{next(_numbers)}") as database:
        server.install_platform(database.name)
        yield database


@pytest.fixture
def other_server(janitor: Janitor) -> Iterator[Cluster]:
    """A cluster of the test's own, whose roles are nobody else's."""
    with chosen_cluster(janitor=janitor) as server:
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


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out tests that need the other kind of server."""
    other = "container" if chosen_image() is None else "local_server"
    left_out = [item for item in items if other in getattr(item, "fixturenames", ())]
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=left_out)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """A skipped test is a failure: `make setup` installs everything that a test needs."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
