"""Fixtures of the doctor's tests: an empty database, and a check that the manifest is current."""

from collections.abc import Iterator
from uuid import uuid4

import pytest

from stack import Cluster, Database
from tools.manifest import FILE, manifest


@pytest.fixture
def bare(server: Cluster) -> Iterator[Database]:
    """A database with the platform and without keylatch."""
    with Database(server, f"bare_{uuid4().hex}") as database:
        server.install_platform(database.name)
        yield database


@pytest.fixture(scope="session", autouse=True)
def current_manifest(server: Cluster) -> None:
    """Fail once if the manifest is out of date, instead of finding damage in every test."""
    if manifest(server) != FILE.read_text():
        pytest.fail("manifest.json is not what the migrations install; run: make generate")
