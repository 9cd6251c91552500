"""A real pgbouncer before a server, in transaction mode: many clients share few sessions."""

import shutil
import signal
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from stack.cluster import Cluster
from stack.janitor import Janitor
from stack.ports import free_port
from stack.server import server_user
from stack.tools import pgbouncer

_START_SECONDS = 30.0


class Pooler:
    """One pgbouncer process; a context manager that ends the process.

    Attributes:
        port: The port that pgbouncer listens on, on loopback.
    """

    def __init__(
        self,
        server: Cluster,
        *,
        janitor: Janitor,
        size: int = 1,
        certificate: Mapping[str, bytes] | None = None,
    ) -> None:
        """Start pgbouncer and wait until it listens.

        Args:
            server: The server behind pgbouncer.
            janitor: The janitor that ends pgbouncer with the run.
            size: The number of connections to the server, for each user and database.
            certificate: A `key` and `cert` in PEM. With a certificate, clients must use SSL.
        """
        self._server = server
        self._janitor = janitor
        self._directory = janitor.make_directory()
        self._user, self._group = server_user()  # pgbouncer refuses to run as root, too
        self._log = self._directory / "pgbouncer.log"
        self.port = free_port()
        self._process = janitor.start(
            [pgbouncer(), self._configure(size, certificate or {})],
            signals=[signal.SIGTERM],
            output=self._log,
            user=self._user,
            group=self._group,
        )
        self._wait()

    def __enter__(self) -> Self:
        """Returns the running pooler."""
        return self

    def __exit__(self, *_: object) -> None:
        """End pgbouncer and remove its files."""
        self._janitor.end(self._process)
        self._janitor.remove_directory(self._directory)

    def url(self, url: str) -> str:
        """The same URL of the server, through the pooler."""
        return url.replace(f":{self._server.port}/", f":{self.port}/")

    def _configure(self, size: int, certificate: Mapping[str, bytes]) -> Path:
        users = self._directory / "users"
        users.write_text("".join(f'"{u}" "{p}"\n' for u, p in self._server.passwords.items()))
        lines: dict[str, object] = {
            "listen_addr": "127.0.0.1",
            "listen_port": self.port,
            "unix_socket_dir": "",
            "auth_type": "scram-sha-256",
            "auth_file": users,
            "pool_mode": "transaction",
            "default_pool_size": size,
            # The default is 100. A test with 100 clients would fail while an old client still ends.
            "max_client_conn": 200,
        }
        tls = {name: self._directory / f"pgbouncer.{name}" for name in certificate}
        for name, path in tls.items():
            path.write_bytes(certificate[name])
        if tls:
            lines |= {f"client_tls_{name}_file": path for name, path in tls.items()}
            lines["client_tls_sslmode"] = "require"
        file = self._directory / "pgbouncer.ini"
        text = "".join(f"{name} = {value}\n" for name, value in lines.items())
        target = f"host={self._server.host} port={self._server.port}"
        file.write_text(f"[databases]\n* = {target}\n[pgbouncer]\n{text}")
        for path in (self._directory, users, file, *tls.values()):
            if self._user is not None:
                shutil.chown(path, self._user, self._group)
        return file

    def _wait(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while self._process.poll() is None and time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=5).close()
            except OSError:
                time.sleep(0.01)
            else:
                return
        raise RuntimeError(f"pgbouncer did not start:\n{self._log.read_text(errors='replace')}")
