"""A real PostgREST process on one database."""

import http.client
import os
import signal
import time
from collections.abc import Mapping
from typing import Self

from stack.janitor import Janitor
from stack.ports import free_port
from stack.tools import postgrest

_START_SECONDS = 30.0
_PORT_TRIES = 5


class PostgREST:
    """One PostgREST process; a context manager that ends the process.

    Attributes:
        url: The URL of PostgREST, without a slash at the end.
    """

    host = "127.0.0.1"

    def __init__(
        self,
        database_url: str,
        jwt_secret: str,
        *,
        janitor: Janitor,
        schemas: str = "public,keylatch",
        settings: Mapping[str, str] | None = None,
    ) -> None:
        """Start PostgREST and wait until it has read the database's schema.

        Args:
            database_url: The URL of the database for `authenticator`.
            jwt_secret: The secret that tokens are signed with.
            janitor: The janitor that ends PostgREST with the run.
            schemas: The exposed schemas; the first is the default.
            settings: More configuration, by environment name without `PGRST_`.
        """
        self._janitor = janitor
        self._directory = janitor.make_directory()
        self._log = self._directory / "postgrest.log"
        configuration = {
            "DB_URI": database_url,
            "DB_SCHEMAS": schemas,
            "DB_ANON_ROLE": "anon",
            "DB_EXTRA_SEARCH_PATH": "public,extensions",
            "DB_MAX_ROWS": "1000",
            "JWT_SECRET": jwt_secret,
            "SERVER_HOST": self.host,
            **(settings or {}),
        }
        self._start(configuration)

    def __enter__(self) -> Self:
        """Returns the running PostgREST."""
        return self

    def __exit__(self, *_: object) -> None:
        """End PostgREST and remove its files."""
        self.close()

    def close(self) -> None:
        """End PostgREST and remove its files."""
        self._janitor.end(self._process)
        self._janitor.remove_directory(self._directory)

    def log(self) -> str:
        """The whole output of PostgREST."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def _start(self, configuration: Mapping[str, str]) -> None:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("PGRST_", "PG"))}
        for _ in range(_PORT_TRIES):
            self.port, admin_port = free_port(), free_port()
            ports = {"SERVER_PORT": str(self.port), "ADMIN_SERVER_PORT": str(admin_port)}
            settings = {f"PGRST_{k}": v for k, v in {**configuration, **ports}.items()}
            self._process = self._janitor.start(
                [postgrest()],
                signals=[signal.SIGTERM],
                output=self._log,
                environment=inherited | settings,
            )
            self.url = f"http://{self.host}:{self.port}"
            if self._is_ready(admin_port):
                return
            if "in use" not in self.log():
                break
        raise RuntimeError(f"PostgREST did not start:\n{self.log()}")

    def _is_ready(self, admin_port: int) -> bool:
        """Wait until PostgREST is ready (true), or has ended or is late (false)."""
        deadline = time.monotonic() + _START_SECONDS
        while self._process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
            # PostgREST logs this when it has its ports. Before, another process may answer there.
            if "Starting PostgREST" not in self.log():
                continue
            connection = http.client.HTTPConnection(self.host, admin_port, timeout=5)
            try:
                connection.request("GET", "/ready")
                if connection.getresponse().status == http.HTTPStatus.OK:
                    return True
            except OSError:
                pass
            finally:
                connection.close()
        self._janitor.end(self._process)
        return False
