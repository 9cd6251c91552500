"""A real PostgreSQL server of one's own: made in a temporary directory, gone with the run."""

import getpass
import os
import pwd
import secrets
import shutil
import signal
import time
from collections.abc import Mapping
from typing import Self

import psycopg
from psycopg import sql

from stack.janitor import Janitor
from stack.ports import free_port
from stack.tools import ROOT, postgres_bin

SUPERUSER = "supabase_admin"  # as on hosted Supabase, where `postgres` is not one

_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "fsync": "off",  # the data does not outlive the run
    "full_page_writes": "off",
    "wal_level": "logical",
    "max_connections": "200",
    "max_wal_size": "128MB",  # it may lie in memory
    "max_locks_per_transaction": "256",  # a schema is dropped in one transaction
    "dynamic_shared_memory_type": "mmap",  # in the directory, and so gone with it
    "timezone": "UTC",
    "log_line_prefix": "%m [%p] %u@%d ",
}
_START_SECONDS = 60.0
_PORT_TRIES = 5


class Server:
    """One cluster with the platform's roles; a context manager that stops it and removes its files.

    Attributes:
        version: The major version of PostgreSQL.
        host: The address that it listens on.
        port: The port that it listens on.
        passwords: The password of each role that can log in, random for each run.
        user: Whom it runs as; `None` for the user of this program.
        group: The group to go with `user`.
        directory: Its temporary directory, with `data`, the Unix socket and `server.log`.
    """

    host = "127.0.0.1"

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
            settings: More lines for postgresql.conf, which win over ours.
            janitor: Who ends the server with the run; one of its own unless given.
        """
        self._janitor = Janitor() if janitor is None else janitor
        self._owns_janitor = janitor is None
        try:
            self._bin = postgres_bin(version)
            self.passwords = {
                role: secrets.token_hex(16) for role in (SUPERUSER, "postgres", "authenticator")
            }
            self.user, self.group = _server_user()
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

    def __enter__(self) -> Self:
        """Give the running server."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the server and remove its files."""
        self.close()

    def close(self) -> None:
        """Stop the server and remove its files."""
        if self._owns_janitor:
            self._janitor.close()
        else:
            self.stop()
            self._janitor.remove_directory(self.directory)

    def start(self) -> None:
        """Start the server and wait until it answers; it keeps its port where it can."""
        for _ in range(_PORT_TRIES):
            self._process = self._janitor.start(
                [self._bin / "postgres", "-D", self._data, "-p", str(self.port)],
                signals=[signal.SIGINT, signal.SIGQUIT],
                output=self._log,
                user=self.user,
                group=self.group,
            )
            if self._answers():
                return
            if "could not bind" not in self.log():
                break
            self.port = free_port()
        raise RuntimeError(f"PostgreSQL did not start:\n{self.log()}")

    @property
    def pid(self) -> int:
        """The process that the others of the server come from."""
        return int((self._data / "postmaster.pid").read_text().split()[0])

    def stop(self) -> None:
        """Stop the server, in order and without losing anything; `start` starts it again."""
        self._janitor.end(self._process)

    def restart(self) -> None:
        """Stop and start the server."""
        self.stop()
        self.start()

    def log(self) -> str:
        """All that the server wrote to its log."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def url(self, database: str, user: str = "postgres") -> str:
        """The URL of a database for one of the roles that can log in."""
        return (
            f"postgresql://{user}:{self.passwords[user]}@{self.host}:{self.port}/{database}"
            "?sslmode=disable"
        )

    def superuser_url(self, database: str) -> str:
        """The URL of a database for the superuser."""
        return self.url(database, SUPERUSER)

    def create_database(self, name: str, template: str | None = None) -> None:
        """Create a database that `postgres` owns, as a copy of `template` if that is given."""
        statement = sql.SQL("create database {} owner postgres").format(sql.Identifier(name))
        if template is not None:
            statement += sql.SQL(" template {}").format(sql.Identifier(template))
        self._run(statement)

    def drop_database(self, name: str) -> None:
        """Drop a database, whoever is still connected to it."""
        self._run(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))

    def install_platform(self, database: str) -> None:
        """Give a database what a Supabase project has before any migration: `sql/platform`."""
        self._run_platform_file("02_database.sql", database)

    def _initialise(self, settings: Mapping[str, str]) -> None:
        password_file = self.directory / "password"
        password_file.write_text(self.passwords[SUPERUSER])
        if self.user is not None:
            for path in (self.directory, password_file):
                shutil.chown(path, self.user, self.group)
        files = [f"--pgdata={self._data}", f"--pwfile={password_file}"]
        options = ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"]
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

    def _answers(self) -> bool:
        """Wait until the server takes connections (true) or has ended (false)."""
        deadline = time.monotonic() + _START_SECONDS
        while self._process.poll() is None and time.monotonic() < deadline:
            try:
                psycopg.connect(self.superuser_url("postgres"), connect_timeout=5).close()
            except psycopg.OperationalError:
                time.sleep(0.01)
            else:
                return True
        self._janitor.end(self._process)
        return False

    def _install_roles(self) -> None:
        with psycopg.connect(self.superuser_url("postgres"), autocommit=True) as connection:
            self.version = connection.info.server_version // 10000
        self._run_platform_file("01_roles.sql", "postgres")
        for role in ("postgres", "authenticator"):
            self._run(
                sql.SQL("alter role {} password {}").format(
                    sql.Identifier(role), sql.Literal(self.passwords[role])
                )
            )

    def _run(self, statement: sql.Composed) -> None:
        with psycopg.connect(self.superuser_url("postgres"), autocommit=True) as connection:
            connection.execute(statement)

    def _run_platform_file(self, name: str, database: str) -> None:
        text = (ROOT / "sql" / "platform" / name).read_bytes()
        with psycopg.connect(self.superuser_url(database), autocommit=True) as connection:
            connection.execute(text)


def _server_user() -> tuple[str | None, int | None]:
    """Whom the server runs as, and its group; PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return None, None
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return name, entry.pw_gid
    raise RuntimeError(f"{getpass.getuser()} needs a user postgres or nobody to run the server as")
