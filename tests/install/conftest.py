"""What the tests of installing ask for by name: a project, an empty database, the program."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from cli.program import Program
from install.project import Project, init
from stack import Database, Janitor, Server


@pytest.fixture(scope="session")
def initialised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `supabase init` makes."""
    return init(tmp_path_factory.mktemp("project"))


@pytest.fixture
def project(initialised: Path, tmp_path: Path) -> Project:
    """A project of the test's own, without keylatch."""
    return Project(shutil.copytree(initialised, tmp_path / "shop"))


@pytest.fixture
def empty(server: Server) -> Iterator[Database]:
    """A database with the platform and without keylatch."""
    with Database(server, f"install_{uuid4().hex}") as database:
        server.install_platform(database.name)
        yield database


@pytest.fixture
def other_server(janitor: Janitor) -> Iterator[Server]:
    """A cluster of the test's own, whose roles are nobody else's."""
    with Server(janitor=janitor) as server:
        yield server


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """The program in an empty directory, with nothing set."""
    return Program(tmp_path)


@pytest.fixture
def migrating(program: Program, empty: Database) -> Program:
    """The program with the empty database, as its owner."""
    return program.having(DATABASE_URL=empty.url)
