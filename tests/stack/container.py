"""A PostgreSQL server in a container, from Supabase's image, ours (`stack.engine`) or another.

Another image must have pgTAP, must make a superuser from `POSTGRES_USER` and `POSTGRES_PASSWORD`,
and its command must accept settings as `-c name=value`.
"""

import secrets
import time
from collections.abc import Mapping
from typing import Any

import docker
import psycopg
from testcontainers.core.config import ConnectionMode, testcontainers_config
from testcontainers.core.container import DockerContainer
from testcontainers.core.network import Network

from stack.cluster import SETTINGS, SUPERUSER, Cluster
from stack.engine import LOCAL, client, local_image, start_remover
from stack.janitor import Janitor

_SETTINGS = {
    **SETTINGS,
    "listen_addresses": "*",  # inside the container; its published port is on loopback
    "log_destination": "stderr",
    "logging_collector": "off",
}
_PORT = 5432
_DATA = "/var/lib/postgresql/data"  # in every image based on PostgreSQL's official image
_START_SECONDS = 120.0
_LOG_SECONDS = 60.0


class Container(Cluster):
    """A cluster in a container, started with testcontainers; see `Cluster` for its methods."""

    def __init__(
        self,
        image: str,
        *,
        settings: Mapping[str, str] | None = None,
        janitor: Janitor | None = None,
    ) -> None:
        """Start the container and wait until the server answers.

        Args:
            image: The image's name. `local` is our own image, built if the engine lacks it.
            settings: Settings of PostgreSQL that override or extend ours.
            janitor: The janitor that ends the container with the run; by default a new one.
        """
        super().__init__()
        # The janitor removes containers instead of Ryuk. The port is always on loopback.
        testcontainers_config.ryuk_disabled = True
        testcontainers_config.connection_mode_override = ConnectionMode.docker_host
        testcontainers_config.tc_host_override = self.host
        self._janitor = Janitor() if janitor is None else janitor
        self._owns_janitor = janitor is None
        try:
            self._start(image, {**_SETTINGS, **(settings or {})})
            self.port = int(self._container.get_exposed_port(_PORT))
            if not self._answers(self._runs, seconds=_START_SECONDS, pause=0.05):
                raise RuntimeError(f"{image} did not start:\n{self._written()}")
            self._install_roles()
        except BaseException:
            if self._owns_janitor:
                self._janitor.close()
            raise

    @property
    def id(self) -> str:
        """The container's id in the engine."""
        return self._container.get_container_id()

    @property
    def inner_port(self) -> int:
        """The server's port inside the container."""
        return _PORT

    def close(self) -> None:
        """Remove the container, with its data and its network."""
        if self._owns_janitor:
            self._janitor.close()
        else:
            self._janitor.end(self._remover)
        self._container.get_docker_client().client.close()

    def log(self) -> str:
        """The whole log of the server; waits until the engine has received all of it."""
        mark = f"log read {secrets.token_hex(8)}"
        with psycopg.connect(self.superuser_url("postgres"), autocommit=True) as connection:
            connection.execute(f"do $$ begin raise log '{mark}'; end $$".encode())
        deadline = time.monotonic() + _LOG_SECONDS
        while mark not in (written := self._written()):
            if time.monotonic() > deadline:
                raise RuntimeError(f"the container's log did not come:\n{written}")
            time.sleep(0.02)
        return written

    def _start(self, image: str, settings: Mapping[str, str]) -> None:
        engine = client()
        name = local_image(engine) if image == LOCAL else image
        try:
            found = engine.images.get(name)
        except docker.errors.ImageNotFound:
            found = engine.images.pull(name)
        # Each container has its own network. All engines of a machine share the default network
        # and would assign the same address twice.
        network = Network().create()
        self._container = DockerContainer(name).with_network(network).with_envs(**self._variables())
        # The data is in memory, like that of a local server if the machine has enough memory.
        self._container.with_tmpfs_mount(_DATA)
        self._container.with_command([*_command(found), *_options(settings)])
        ports: dict[str, Any] = self._container.ports  # takes an address; its type does not say so
        ports[f"{_PORT}/tcp"] = (self.host, None)
        try:
            self._container.start()
        except BaseException:
            self._container.stop()
            network.remove()
            raise
        self._remover = start_remover(self._janitor, self.id, str(network.id))

    def _variables(self) -> dict[str, str]:
        return {
            "POSTGRES_USER": SUPERUSER,
            "POSTGRES_PASSWORD": self.passwords[SUPERUSER],
            "POSTGRES_DB": "postgres",
        }

    def _runs(self) -> bool:
        container = self._container.get_wrapped_container()
        container.reload()
        return container.status in ("created", "running")

    def _written(self) -> str:
        return b"".join(self._container.get_logs()).decode(errors="replace")


def _command(image: Any) -> list[str]:
    """The image's default command, which may contain the path of its settings."""
    command: list[str] = image.attrs["Config"]["Cmd"] or ["postgres"]
    return command


def _options(settings: Mapping[str, str]) -> list[str]:
    return [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
