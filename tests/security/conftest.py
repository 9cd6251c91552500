"""The systems that the attacks run against."""

from collections.abc import Iterator

import pytest

from security.shared import open_system
from security.system import System, make_system
from stack import Cluster, Database, Janitor, People, Rest, Tokens


@pytest.fixture
def fresh_system(database: Database, rest: Rest, people: People) -> System:
    """A database with keys in every state, and its API, for one test that changes it."""
    return make_system(database, rest, people)


@pytest.fixture(scope="session")
def kept_system(
    server: Cluster, template: str, tokens: Tokens, janitor: Janitor
) -> Iterator[System]:
    """One database with keys in every state, and its API, for all tests that do not change it."""
    with open_system(server, template, tokens, janitor, "kept_system") as system:
        yield system


@pytest.fixture
def system(fresh_system: System) -> System:
    """A fresh system. Files whose tests leave the system unchanged override this fixture."""
    return fresh_system
