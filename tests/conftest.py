"""Fixtures for all tests: a server, a migrated database, its REST API and its users."""

import gc
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

# No deadline: on a busy machine an example takes long.
hypothesis.settings.register_profile(
    "tests", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("tests")

# All HTTP servers are on this machine, without TLS. Each httpx client reads all certificates that
# it trusts, which takes 50 ms. One certificate is enough; nobody has its private key.
os.environ["SSL_CERT_FILE"] = str(Path(__file__).with_name("stack") / "certificate.pem")
# The Supabase CLI is a Bun program that runs for a second. Optimizing its code takes longer than
# running it unoptimized (a push takes 0.8 s of a core instead of 1.2 s).
os.environ["BUN_JSC_useDFGJIT"] = "0"  # noqa: SIM112

# What the databases of a server share, and a test could change for all tests after it.
_SHARED = """
select 'role ' || r.rolname, to_jsonb(r) - 'oid' || jsonb_build_object(
  'comment', shobj_description(r.oid, 'pg_authid'))
from pg_roles as r
union
select m.member::regrole || ' in ' || m.roleid::regrole, to_jsonb(m.admin_option)
from pg_auth_members as m
union
select 'rights on parameter ' || p.parname, to_jsonb(p.paracl::text) from pg_parameter_acl as p
"""

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def janitor() -> Iterator[Janitor]:
    """The janitor that ends everything that this run starts, even if the run is killed."""
    janitor = Janitor()
    yield janitor
    janitor.close()


@pytest.fixture(scope="session")
def server(janitor: Janitor) -> Iterator[Cluster]:
    """A PostgreSQL with the platform's roles; `KEYLATCH_PG` or `KEYLATCH_IMAGE` chooses it."""
    with chosen_cluster(janitor=janitor) as server:
        yield server


@pytest.fixture(scope="module", autouse=True)
def same_roles(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a module that leaves the server's roles changed, so that no later test fails for it."""
    tests = [item for item in request.session.items if item.path == request.path]
    if not any("server" in getattr(item, "fixturenames", ()) for item in tests):
        yield
        return
    server: Cluster = request.getfixturevalue("server")
    request.getfixturevalue("template")  # the first installation creates the role keylatch_resolver
    before = _shared(server)
    yield
    after = _shared(server)
    changed = {name for name in before | after if before.get(name) != after.get(name)}
    assert not changed, f"{request.path.name} leaves changed: {', '.join(sorted(changed))}"


def _shared(server: Cluster) -> dict[str, object]:
    with psycopg.connect(server.superuser_url("postgres")) as superuser:
        return dict(superuser.execute(_SHARED).fetchall())


@pytest.fixture(scope="session")
def local_server(server: Cluster) -> Server:
    """`server`, for tests of its processes and files; they do not run if it is a container."""
    assert isinstance(server, Server)
    return server


@pytest.fixture(scope="session")
def container(server: Cluster) -> "Container":
    """`server`, for tests of containers; they do not run if it is a local server."""
    from stack.container import Container

    assert isinstance(server, Container)
    return server


@pytest.fixture(scope="session")
def template(server: Cluster) -> str:
    """The name of a template database with the platform, all migrations and pgTAP.

    No test may connect to the template. With `KEYLATCH_ONLY=core` it has the core alone and an
    application's own workspaces. For tools/mutations.py, `KEYLATCH_MUTATION` removes one guard.
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
    """The name of a template database with only the platform, the core and pgTAP."""
    return make_template(server, "core_template", migrations())


@pytest.fixture(scope="session")
def own_core_template(server: Cluster) -> str:
    """The name of a template database with the core and an application's own workspaces."""
    return _make_own_core(server)


def _make_own_core(server: Cluster) -> str:
    return make_template(server, "own_core_template", [*migrations(), OWN_TENANCY])


@pytest.fixture(scope="session")
def tokens() -> Tokens:
    """The signer of the tokens."""
    return Tokens()


@pytest.fixture
def database(server: Cluster, template: str) -> Iterator[Database]:
    """A clone of the template for one test."""
    with Database(server, f"test_{next(_numbers)}", template) as database:
        yield database


@pytest.fixture
def core(server: Cluster, core_template: str) -> Iterator[Database]:
    """A database with the core, without tenancy and modules, for one test."""
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
    """A second cluster for one test, with roles that no other test uses."""
    with chosen_cluster(janitor=janitor) as server:
        yield server


@pytest.fixture
def rest(database: Database, tokens: Tokens, janitor: Janitor) -> Iterator[Rest]:
    """The REST API of the test's database."""
    with Rest(database, tokens, janitor=janitor) as rest:
        yield rest


@pytest.fixture
def people(database: Database, tokens: Tokens) -> People:
    """The users of `People`, in the test's database."""
    people = People(tokens)
    people.seed(database.url)
    return people


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests that need the other kind of server, and put the longest files first."""
    other = "container" if chosen_image() is None else "local_server"
    left_out = [item for item in items if other in getattr(item, "fixturenames", ())]
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=left_out)
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


def pytest_collection_finish() -> None:
    """Let the garbage collector skip the thousands of collected tests, which stay to the end."""
    gc.freeze()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the run if a test was skipped: `make setup` installs everything that a test needs."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
