"""The interface of every PostgreSQL server of the stack, local or in a container."""

import abc
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import psycopg
from psycopg import sql

from stack.tools import ROOT
from stack.waiting import until

_PLATFORM = ROOT / "sql" / "platform"
SUPERUSER = "supabase_admin"  # as on hosted Supabase, where `postgres` is not one

SETTINGS = {
    "fsync": "off",  # the data does not outlive the run
    "full_page_writes": "off",
    "wal_level": "logical",
    "max_connections": "200",
    "max_wal_size": "128MB",  # the data may be in memory
    "max_locks_per_transaction": "256",  # dropping a schema locks every object in one transaction
    "dynamic_shared_memory_type": "mmap",  # files in the data directory, removed with it
    "timezone": "UTC",
    "log_line_prefix": "%m [%p] %u@%d ",
}


class Cluster(abc.ABC):
    """A PostgreSQL cluster with the platform's roles; a context manager that removes the cluster.

    Attributes:
        version: The major version of PostgreSQL.
        host: The address that the server listens on.
        port: The port that the server listens on.
        passwords: The password of each role that can log in, random for each run.
    """

    host = "127.0.0.1"
    port: int
    version: int

    def __init__(self) -> None:
        """Choose the passwords. A subclass starts the server, then calls `_install_roles`."""
        self.passwords = {
            role: secrets.token_hex(16) for role in (SUPERUSER, "postgres", "authenticator")
        }
        self._connection: psycopg.Connection | None = None

    def __enter__(self) -> Self:
        """Returns the running server."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the server and remove its files."""
        if self._connection is not None:
            self._connection.close()
        self.close()

    @abc.abstractmethod
    def close(self) -> None:
        """Stop the server and remove its files."""

    @abc.abstractmethod
    def log(self) -> str:
        """The whole log of the server."""

    @property
    def inner_port(self) -> int:
        """The port at which the server can connect to itself; the address is the same."""
        return self.port

    def url(self, database: str, user: str = "postgres") -> str:
        """The URL of a database for one of the roles that can log in."""
        return self._url(database, user, self.port)

    def superuser_url(self, database: str) -> str:
        """The URL of a database for the superuser."""
        return self.url(database, SUPERUSER)

    def inner_url(self, database: str) -> str:
        """The URL with which the server itself connects to a database, as the superuser."""
        return self._url(database, SUPERUSER, self.inner_port)

    def create_database(self, name: str, template: str | None = None) -> None:
        """Create a database that `postgres` owns, as a clone of `template` if given."""
        statement = sql.SQL("create database {} owner postgres").format(sql.Identifier(name))
        if template is not None:
            statement += sql.SQL(" template {} strategy file_copy").format(sql.Identifier(template))
        self._run(statement)

    def drop_database(self, name: str) -> None:
        """Drop a database, even if clients are still connected to it."""
        ending = sql.SQL(
            "select count(pg_terminate_backend(pid)) from pg_stat_activity where datname = {}"
        ).format(sql.Literal(name))
        # `with (force)` checks only every 100 ms whether the sessions have ended; this is faster.
        until(lambda: self._run(ending).fetchone() == (0,), f"sessions of {name} do not end")
        self._run(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))

    def install_platform(self, database: str) -> None:
        """Add the schemas, the owner and the open default privileges of a Supabase database."""
        self._run_file(_PLATFORM / "02_database.sql", database)
        self._run_file(Path(__file__).with_name("supabase_defaults.sql"), database)

    def _answers(self, lives: Callable[[], bool], *, seconds: float, pause: float) -> bool:
        """Wait until the server accepts connections (true), or has ended or is late (false)."""
        deadline = time.monotonic() + seconds
        while lives() and time.monotonic() < deadline:
            try:
                psycopg.connect(self.superuser_url("postgres"), connect_timeout=5).close()
            except psycopg.OperationalError:
                time.sleep(pause)
            else:
                return True
        return False

    def _url(self, database: str, user: str, port: int) -> str:
        password = self.passwords[user]
        return f"postgresql://{user}:{password}@{self.host}:{port}/{database}?sslmode=disable"

    def _install_roles(self) -> None:
        with psycopg.connect(self.superuser_url("postgres"), autocommit=True) as connection:
            self.version = connection.info.server_version // 10000
        self._run_file(_PLATFORM / "01_roles.sql", "postgres")
        self._run_file(Path(__file__).with_name("supabase_roles.sql"), "postgres")
        if self.version > 15:
            # The default of 4096 iterations costs 4 ms a login, and a run has thousands of logins.
            self._run(sql.SQL("set scram_iterations = 1").format())
        for role, password in self.passwords.items():
            self._run(
                sql.SQL("alter role {} password {}").format(
                    sql.Identifier(role), sql.Literal(password)
                )
            )

    def _run(self, statement: sql.Composed) -> psycopg.Cursor[Any]:
        for is_first in (True, False):
            if self._connection is None or self._connection.closed:
                url = self.superuser_url("postgres")
                self._connection = psycopg.connect(url, autocommit=True)
            try:
                return self._connection.execute(statement)
            except psycopg.OperationalError:
                # The server has restarted since the last statement.
                if not is_first or not self._connection.closed:
                    raise
        raise AssertionError

    def _run_file(self, path: Path, database: str) -> None:
        with psycopg.connect(self.superuser_url(database), autocommit=True) as connection:
            connection.execute(path.read_bytes())
