"""Fixtures for the client's tests: the shared system, and clients over every transport."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, cast

import httpx
import postgrest
import pytest

from client.connections import CallerConnection, Open
from client.system import VARIANTS, Blocking, Clients, System
from keylatch import AsyncKeylatch, Keylatch
from stack import Cluster, Database, Janitor, People, Rest, Tokens


@pytest.fixture(scope="session")
def system(server: Cluster, template: str, tokens: Tokens, janitor: Janitor) -> Iterator[System]:
    """One database and API for all tests that need no other; see `System`."""
    with Database(server, "client", template) as database:
        system = System(database, lambda: Rest(database, tokens, janitor=janitor), People(tokens))
        with system.rest:
            yield system


# These two run on every server: one over HTTP, one over SQL. The others send the same requests.
_ON_EVERY_SERVER = ("postgrest-sync", "connection-async")


@pytest.fixture(
    scope="session",
    params=[
        pytest.param(variant, marks=[] if variant in _ON_EVERY_SERVER else [pytest.mark.one_server])
        for variant in VARIANTS
    ],
)
def clients(system: System, request: pytest.FixtureRequest) -> Iterator[Clients]:
    """The clients of one transport, sync or async; a test with this fixture runs over each."""
    with Clients(system, request.param) as clients:
        yield clients


@pytest.fixture
def act_as(clients: Clients) -> Callable[[str], Keylatch]:
    """Return a function that gives a client for one of `People` or for a role."""
    return clients.act_as


@pytest.fixture
def kl(clients: Clients) -> Keylatch:
    """A client of alice, who administers workspace A."""
    return clients.act_as("alice")


@pytest.fixture(params=["sync", "async"])
def line(request: pytest.FixtureRequest, system: System) -> Iterator[Open]:
    """Return a function that connects as `authenticator`, which can switch to every API role."""
    with ExitStack() as opened:
        runner = opened.enter_context(asyncio.Runner())

        def make(url: str = system.database.authenticator_url, **options: Any) -> CallerConnection:
            one = CallerConnection(url, is_async=request.param == "async", runner=runner, **options)
            opened.callback(lambda: one.wait(one.connection.close()))
            return one

        yield make


@pytest.fixture(params=["sync", "async"])
def connect(request: pytest.FixtureRequest) -> Iterator[Callable[..., Keylatch]]:
    """Return a function that makes a client over postgrest-py; options go to the HTTP session."""
    with ExitStack() as opened:
        runner = opened.enter_context(asyncio.Runner())

        def make(url: str, token: str | None = None, **options: Any) -> Keylatch:
            client: Any
            if request.param == "sync":
                client = postgrest.SyncPostgrestClient(url, http_client=httpx.Client(**options))
                opened.callback(client.aclose)
            else:
                session = httpx.AsyncClient(**options)
                client = postgrest.AsyncPostgrestClient(url, http_client=session)
                opened.callback(lambda: runner.run(client.aclose()))
            if token is not None:
                client.auth(token)
            if request.param == "sync":
                return Keylatch.from_postgrest(client)
            return cast(Keylatch, Blocking(AsyncKeylatch.from_postgrest(client), runner))

        yield make


def pytest_configure(config: pytest.Config) -> None:
    """Silence a warning about supabase-py's own call of postgrest-py."""
    config.addinivalue_line(
        "filterwarnings", "ignore:The '(timeout|verify)' parameter is deprecated:DeprecationWarning"
    )
