"""A local PostgreSQL server in a temporary directory, removed when the run ends."""

import getpass
import os
import pwd
import shutil
import signal
from collections.abc import Mapping

from stack.cluster import SETTINGS, SUPERUSER, Cluster
from stack.janitor import Janitor
from stack.ports import free_port
from stack.tools import major_version, postgres_bin

_SETTINGS = {
    **SETTINGS,
    "listen_addresses": "127.0.0.1",
    # Else each of a run's 30,000 sessions loads them: a sixth of a short session's time.
    "shared_preload_libraries": "plpgsql,pgcrypto",
}
_START_SECONDS = 60.0
_PORT_TRIES = 5


class Server(Cluster):
    """A cluster of initdb with processes and files on this machine; see `Cluster` for its methods.

    Attributes:
        user: The user that runs the server; `None` for the user of this program.
        group: The group that belongs to `user`.
        directory: The temporary directory with `data`, the Unix socket and `server.log`.
    """

    def __init__(
        self,
        version: int | None = None,
        *,
        settings: Mapping[str, str] | None = None,
        janitor: Janitor | None = None,
    ) -> None:
        """Make and start the cluster.

        Args:
            version: The major version; see `tools.postgres_bin` for the default.
            settings: Settings of PostgreSQL that override or extend ours.
            janitor: The janitor that ends the server with the run; by default a new one.
        """
        super().__init__()
        self._janitor = Janitor() if janitor is None else janitor
        self._owns_janitor = janitor is None
        try:
            self._bin = postgres_bin(version)
            self.user, self.group = server_user()
            self.port = free_port()
            self.directory = self._janitor.make_directory()
            self._data = self.directory / "data"
            self._log = self.directory / "server.log"
            self._initialise(settings or {})
            self.start()
            self._install_roles()
        except BaseException:
            if self._owns_janitor:
                self._janitor.close()
            raise

    def close(self) -> None:
        """Stop the server and remove its files."""
        if self._owns_janitor:
            self._janitor.close()
        else:
            self.stop()
            self._janitor.remove_directory(self.directory)

    def start(self) -> None:
        """Start the server and wait until it answers. It gets a new port if its port is taken."""
        for _ in range(_PORT_TRIES):
            self._process = self._janitor.start(
                [self._bin / "postgres", "-D", self._data, "-p", str(self.port)],
                signals=[signal.SIGINT, signal.SIGQUIT],
                output=self._log,
                user=self.user,
                group=self.group,
            )
            if self._answers(self._runs, seconds=_START_SECONDS, pause=0.01):
                return
            self._janitor.end(self._process)
            if "could not bind" not in self.log():
                break
            self.port = free_port()
        raise RuntimeError(f"PostgreSQL did not start:\n{self.log()}")

    @property
    def pid(self) -> int:
        """The pid of the postmaster, the parent of the server's other processes."""
        return int((self._data / "postmaster.pid").read_text().split()[0])

    def stop(self) -> None:
        """Stop the server with a fast shutdown, which loses no data; `start` starts it again."""
        self._janitor.end(self._process)

    def restart(self) -> None:
        """Stop and start the server."""
        self.stop()
        self.start()

    def log(self) -> str:
        """The whole log of the server."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def _runs(self) -> bool:
        return self._process.poll() is None

    def _initialise(self, settings: Mapping[str, str]) -> None:
        password_file = self.directory / "password"
        password_file.write_text(self.passwords[SUPERUSER])
        if self.user is not None:
            for path in (self.directory, password_file):
                shutil.chown(path, self.user, self.group)
        files = [f"--pgdata={self._data}", f"--pwfile={password_file}"]
        # SCRAM costs 3 ms a login, and a run has 30,000 logins. From 16 on see `_install_roles`.
        auth = "md5" if major_version(self._bin / "postgres") < 16 else "scram-sha-256"
        options = [f"--auth={auth}", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"]
        initdb = self._janitor.start(
            [self._bin / "initdb", f"--username={SUPERUSER}", *files, *options],
            signals=[signal.SIGTERM],
            output=self._log,
            user=self.user,
            group=self.group,
        )
        if initdb.wait() != 0:
            raise RuntimeError(f"initdb failed:\n{self.log()}")
        password_file.unlink()
        lines = {**_SETTINGS, "unix_socket_directories": str(self.directory), **settings}
        with (self._data / "postgresql.conf").open("a") as file:
            for name, value in lines.items():
                quoted = value.replace("'", "''")
                file.write(f"{name} = '{quoted}'\n")


def server_user() -> tuple[str | None, int | None]:
    """The user and group that run the server; PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return None, None
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return name, entry.pw_gid
    raise RuntimeError(f"{getpass.getuser()} needs a user postgres or nobody to run the server as")
