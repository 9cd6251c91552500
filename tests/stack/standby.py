"""A hot standby: a copy of a running server that follows the primary through a slot."""

import os
import re
import secrets
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any, Self

import psycopg

from stack.cluster import SUPERUSER
from stack.janitor import Janitor
from stack.ports import free_port
from stack.server import Server

_PATIENCE = 60.0
# Files that only the primary uses or that the server makes anew (PostgreSQL's manual, "Backing Up
# the Data Directory"). Of `_EMPTIED` the server needs the directories, but not their contents.
_LEFT_OUT = ("postmaster.pid", "postmaster.opts", "pg_internal.init")
_EMPTIED = (
    "pg_dynshmem",
    "pg_notify",
    "pg_replslot",
    "pg_serial",
    "pg_snapshots",
    "pg_stat_tmp",
    "pg_subtrans",
    "pg_wal",
)


class Standby:
    """One standby; a context manager that stops the standby and drops its slot.

    The result is that of `pg_basebackup -R -X stream -c fast -C -S slot`, made with SQL. The
    servers from npm have no client programs, and an old pg_basebackup rejects newer servers.

    Attributes:
        host: The address that the standby listens on.
        port: The port that the standby listens on.
    """

    host = Server.host

    def __init__(self, primary: "Server | Standby", *, janitor: Janitor) -> None:
        """Copy the primary and start the copy.

        Args:
            primary: The server to follow, or a standby that was promoted.
            janitor: The janitor that ends the standby with the run.
        """
        self._primary = primary
        self._janitor = janitor
        self._slot = f"standby_{secrets.token_hex(4)}"
        self._directory = janitor.make_directory()
        self._data = self._directory / "data"
        self._process: subprocess.Popen[bytes] | None = None
        self._log = self._directory / "server.log"
        with psycopg.connect(primary.superuser_url("postgres"), autocommit=True) as source:
            # The slot comes before the backup, so the primary keeps all WAL that the copy needs.
            source.execute("select pg_create_physical_replication_slot(%s, true)", [self._slot])
            try:
                (programs,) = _row(source, "select setting from pg_config where name = 'BINDIR'")
                self._program = Path(programs) / "postgres"
                self._copy(source)
                self._start()
            except BaseException:
                self._close()
                raise

    def __enter__(self) -> Self:
        """Returns the running standby."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the standby, drop its slot and remove its files."""
        self._close()

    def url(self, database: str, user: str = "postgres") -> str:
        """The URL of a database for one of the roles that can log in."""
        return self._primary.url(database, user).replace(
            f":{self._primary.port}/", f":{self.port}/"
        )

    def superuser_url(self, database: str) -> str:
        """The URL of a database for the superuser."""
        return self.url(database, SUPERUSER)

    def log(self) -> str:
        """The whole log of the standby."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def disconnect(self) -> None:
        """Stop receiving WAL; the standby still replays the WAL that it has."""
        with psycopg.connect(self.url("postgres", SUPERUSER), autocommit=True) as copy:
            copy.execute("alter system set primary_conninfo = ''")
            copy.execute("select pg_reload_conf()")
            deadline = time.monotonic() + _PATIENCE
            while _row(copy, "select count(*) from pg_stat_wal_receiver") != (0,):
                if time.monotonic() > deadline:
                    raise RuntimeError(f"the standby still follows:\n{self.log()}")
                time.sleep(0.01)

    def catch_up(self) -> None:
        """Wait until the standby has replayed everything that the primary has written so far."""
        with psycopg.connect(self._primary.superuser_url("postgres")) as source:
            (position,) = _row(source, "select pg_current_wal_insert_lsn()::text")
            # The standby receives only flushed WAL. This statement flushes the WAL written so far.
            source.execute("select pg_logical_emit_message(true, 'keylatch', '')")
        deadline = time.monotonic() + _PATIENCE
        with psycopg.connect(self.url("postgres", SUPERUSER), autocommit=True) as copy:
            while _row(copy, "select pg_last_wal_replay_lsn() >= %s::pg_lsn", position) != (True,):
                if time.monotonic() > deadline:
                    raise RuntimeError(f"the standby does not follow:\n{self.log()}")
                time.sleep(0.01)

    def _copy(self, source: "psycopg.Connection[tuple[Any, ...]]") -> None:
        (directory,) = _row(source, "select current_setting('data_directory')")
        original = Path(directory)
        source.execute("select pg_backup_start(%s, true)", [self._slot])
        shutil.copytree(
            original,
            self._data,
            symlinks=True,
            ignore=_ignore(original),
            copy_function=_copy_if_there,
        )
        (label,) = _row(source, "select labelfile from pg_backup_stop(false)")
        (self._data / "backup_label").write_text(label)
        (self._data / "standby.signal").touch()
        lines = {
            "unix_socket_directories": str(self._directory),
            "primary_conninfo": self._primary.superuser_url("postgres"),
            "primary_slot_name": self._slot,
            "hot_standby": "on",
            "wal_retrieve_retry_interval": "100ms",
        }
        with (self._data / "postgresql.auto.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in lines.items())
        owner = original.stat()
        for path in [self._directory, self._data, *self._data.rglob("*")]:
            os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)

    def _start(self) -> None:
        owner = self._data.stat()
        as_other = os.geteuid() != owner.st_uid
        self.port = free_port()
        self._process = self._janitor.start(
            [self._program, "-D", self._data, "-p", str(self.port)],
            signals=[signal.SIGINT, signal.SIGQUIT],
            output=self._log,
            user=owner.st_uid if as_other else None,
            group=owner.st_gid if as_other else None,
        )
        deadline = time.monotonic() + _PATIENCE
        while self._process.poll() is None and time.monotonic() < deadline:
            try:
                psycopg.connect(self.url("postgres", SUPERUSER), connect_timeout=5).close()
            except psycopg.OperationalError:
                time.sleep(0.02)
            else:
                return
        raise RuntimeError(f"the standby did not start:\n{self.log()}")

    def _close(self) -> None:
        if self._process is not None:
            self._janitor.end(self._process)
        self._janitor.remove_directory(self._directory)
        deadline = time.monotonic() + _PATIENCE
        try:
            source = psycopg.connect(self._primary.superuser_url("postgres"), autocommit=True)
        except psycopg.OperationalError:
            return  # The primary has ended, so the slot needs no cleanup.
        with source:
            while True:  # the primary needs a moment to notice that the standby has ended
                try:
                    source.execute("select pg_drop_replication_slot(%s)", [self._slot])
                except psycopg.errors.ObjectInUse:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.02)
                else:
                    return


def _row(
    connection: "psycopg.Connection[tuple[Any, ...]]", query: str, *parameters: object
) -> tuple[Any, ...]:
    row = connection.execute(query.encode(), parameters or None).fetchone()
    assert row is not None
    return row


def _ignore(original: Path) -> Any:
    def ignored(directory: str, names: list[str]) -> set[str]:
        here = Path(directory)
        if here.parent == original and here.name in _EMPTIED:
            # The server needs these directories in pg_wal.
            return {name for name in names if name not in ("archive_status", "summaries")}
        return {
            name for name in names if name in _LEFT_OUT or re.match(r"pgsql_tmp|t\d+_\d+", name)
        }

    return ignored


def _copy_if_there(source: str, target: str) -> None:
    """Copy a file unless the running server has removed it meanwhile."""
    try:
        shutil.copy2(source, target)
    except FileNotFoundError:
        Path(target).unlink(missing_ok=True)
