"""The shop that is shared by the tests which leave it as it was."""

from collections.abc import Iterator

import pytest

from identity.shop import Shop, open_shop
from stack import Cluster, Janitor, Tokens


@pytest.fixture(scope="module")
def shop(
    request: pytest.FixtureRequest,
    server: Cluster,
    template: str,
    tokens: Tokens,
    janitor: Janitor,
) -> Iterator[Shop]:
    """The shop of a file."""
    name = request.module.__name__.replace(".", "_")
    with open_shop(server, template, tokens, janitor, name) as shop:
        yield shop
