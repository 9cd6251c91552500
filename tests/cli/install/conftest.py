"""Fixtures for the tests of installing: a project, an empty database, the program."""

import shutil
from pathlib import Path

import pytest

from cli.install.project import Project, init
from cli.program import Program
from stack import Database


@pytest.fixture(scope="session")
def initialised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a project that `supabase init` made."""
    return init(tmp_path_factory.mktemp("project"))


@pytest.fixture
def project(initialised: Path, tmp_path: Path) -> Project:
    """A separate copy of the project for each test, without keylatch."""
    return Project(shutil.copytree(initialised, tmp_path / "shop"))


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """The program in an empty directory, without settings."""
    return Program(tmp_path, is_preloaded=True)


@pytest.fixture
def applying(program: Program, empty: Database) -> Program:
    """The program with the empty database's URL, as the owner."""
    return program.having(DATABASE_URL=empty.url)
