"""The servers that dumps are made from and restored to."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from core.fingerprint import access, fingerprint
from security.restoring.ground import Ground
from security.restoring.story import Model, Story, guards, tell
from stack import Database, Janitor, Server
from stack.modules import migrations, module_names

# The client tools are from PostgreSQL 15, and cannot dump a newer server.
OLD = 15
TARGETS = (15, 17)


@pytest.fixture(scope="module")
def source(janitor: Janitor) -> Iterator[Database]:
    """A database on PostgreSQL 15, whose owner is `postgres`."""
    with Server(OLD, janitor=janitor) as server:
        database = Database(server, "source")
        server.install_platform(database.name)
        database.apply(migrations(*module_names(), tenancy=True))
        yield database


@pytest.fixture(scope="module")
def story(source: Database) -> Story:
    """The contents of the source."""
    return tell(source)


@pytest.fixture(scope="module", params=TARGETS)
def target(request: pytest.FixtureRequest, janitor: Janitor) -> Iterator[Server]:
    """A cluster with the platform's roles and without keylatch_resolver."""
    with Server(request.param, janitor=janitor) as server:
        yield server


@pytest.fixture(scope="module")
def model(target: Server, janitor: Janitor) -> Model:
    """A fresh install on a server of the same version."""
    with Server(target.version, janitor=janitor) as server, Database(server, "model") as database:
        server.install_platform(database.name)
        database.apply(migrations(*module_names(), tenancy=True))
        return Model(
            guards(database), access(database.superuser_url), fingerprint(database.superuser_url)
        )


@pytest.fixture
def ground(source: Database, target: Server, story: Story, tmp_path: Path) -> Ground:
    """The source and the target."""
    return Ground(source, target, story, tmp_path)
