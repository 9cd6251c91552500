"""A container of the tests listens only on loopback and is removed when its run ends or is killed.

These tests run only if the server is a container.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from stack import until
from stack.engine import client
from stack.tools import TESTS

if TYPE_CHECKING:
    from stack.container import Container

_RUN = """
import os, time
from stack.container import Container
container = Container(os.environ["KEYLATCH_IMAGE"])
print(container.id, flush=True)
time.sleep(600)
"""


def ids(found: Iterable[Any]) -> set[str]:
    return {one.id for one in found}


def test_ports_are_published_only_on_loopback(container: "Container") -> None:
    ports = client().containers.get(container.id).attrs["NetworkSettings"]["Ports"]
    published = [address for addresses in ports.values() for address in addresses or ()]
    assert published == [{"HostIp": "127.0.0.1", "HostPort": str(container.port)}]


def test_a_server_in_a_container_is_as_our_own_are(container: "Container") -> None:
    with psycopg.connect(container.superuser_url("postgres"), autocommit=True) as connection:
        for name, value in (("wal_level", "logical"), ("max_connections", "200"), ("fsync", "off")):
            assert connection.execute(f"show {name}".encode()).fetchone() == (value,)
        with pytest.raises(psycopg.errors.UndefinedTable):
            connection.execute("table of_nobody")
    assert 'relation "of_nobody" does not exist' in container.log()


@pytest.mark.usefixtures("container")
@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_a_container_and_its_network_do_not_outlive_their_run(end: signal.Signals) -> None:
    engine = client()
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    run = subprocess.Popen(
        [sys.executable, "-c", _RUN], env=environment, stdout=subprocess.PIPE, text=True
    )
    with run:
        assert run.stdout is not None
        started = run.stdout.readline().strip()
        settings = engine.containers.get(started).attrs["NetworkSettings"]
        networks = {network["NetworkID"] for network in settings["Networks"].values()}
        assert networks and networks <= ids(engine.networks.list())
        run.send_signal(end)

    def is_gone() -> bool:
        left = ids(engine.containers.list(all=True, ignore_removed=True))
        return not {started, *networks} & (left | ids(engine.networks.list()))

    until(is_gone, "it is still there")
