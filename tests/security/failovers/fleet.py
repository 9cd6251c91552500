"""A primary and two standbys, their addresses for clients, and their failovers.

A failover promotes the first standby. Then two new standbys replace the old servers. Until then,
the first standby's address leads to the new primary, and the second standby's address leads to the
second standby, which is on the old timeline.
"""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from enum import Enum
from typing import Self
from uuid import UUID

import psycopg

from client.cache.stalling import StallingProxy
from security.failovers.history import Change, History
from stack import Database, Janitor, People, Server
from stack.standby import Standby

_NOWHERE = 1  # A port where nothing listens.
_PATIENCE = 60.0
_STATES = "select id, revoked_at is null, suspended_at is null from keylatch.keys"
_STREAMS = "select count(*) from pg_stat_replication where sync_state in ('sync', 'quorum')"


class Failover(Enum):
    """The ways in which the primary fails."""

    synchronous = "killed; both standbys had replayed each commit"
    asynchronous = "killed; the promoted standby lacked commits, the other one had them"
    switched = "left running, with the listener still there; new connections go to the standby"


class Fleet:
    """The servers and their addresses; a context manager.

    Attributes:
        history: The changes and answers of all clients; a failover marks the lost changes.
        addresses: The URLs of the `primary`, of the two standbys (`first`, `second`), and of the
            server where caches listen (`listen`), each for PostgREST's login.
        replica_bound: How late an answer of a standby may be now: 0 while commits wait for both.
    """

    def __init__(self, janitor: Janitor, history: History) -> None:
        self.history = history
        self.replica_bound = math.inf
        self._janitor = janitor
        self._opened = ExitStack()
        self._primary: Server | Standby = Server(
            janitor=janitor, settings={"synchronous_commit": "remote_apply"}
        )
        self._servers: list[Server | Standby] = [self._primary]
        # The database is not closed at the end, because its server is gone by then.
        self._database = Database(self._primary, "failovers")
        self._database.migrate()
        People.seed(self._database.url)
        self._proxies = {
            name: self._opened.enter_context(StallingProxy(_NOWHERE))
            for name in ("primary", "first", "second", "listen")
        }
        self._standbys = self._make_standbys()
        for name in ("primary", "listen"):
            self._proxies[name].move(self._primary.port)
        url, port = self._database.authenticator_url, self._primary.port
        self.addresses = {
            name: url.replace(f":{port}/", f":{proxy.port}/")
            for name, proxy in self._proxies.items()
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()
        for server in reversed(self._servers):
            server.__exit__(None, None, None)

    def synchronize(self) -> None:
        """Make each commit wait until both standbys have replayed it, up to the next failover."""
        with psycopg.connect(self._primary.superuser_url("postgres"), autocommit=True) as owner:
            owner.execute("alter system set synchronous_standby_names = 'ANY 2 (*)'")
            owner.execute("select pg_reload_conf()")
        self._wait_for(lambda: self._ask(self._primary, _STREAMS) == [(2,)])
        for standby in self._standbys:
            standby.catch_up()
        self.replica_bound = 0.0

    def lag(self) -> None:
        """Disconnect the first standby, so that it lacks later commits.

        The second standby gets so far ahead that its position stays higher than the position of the
        first standby after the promotion.
        """
        self._standbys[0].disconnect()
        self._ask(self._primary, "select pg_logical_emit_message(true, '', repeat('x', 20000000))")
        self._standbys[1].catch_up()

    def fail_over(
        self, kind: Failover, paused: Callable[[], AbstractContextManager[object]]
    ) -> list[Change]:
        """Promote the first standby to the primary.

        Args:
            kind: How the primary fails.
            paused: In its block, clients change no keys, and the history has all earlier changes.

        Returns:
            The acknowledged changes that the new primary does not have.
        """
        self.replica_bound = math.inf
        began = time.monotonic()
        first, second = self._standbys
        if kind is not Failover.switched:
            self._kill()
        for name in ("primary", "second"):
            self._proxies[name].move(_NOWHERE)
        if kind is Failover.switched:
            first.catch_up()
        if self._ask(first, "select pg_promote(true, 30)") != [(True,)]:
            raise RuntimeError(f"the standby was not promoted:\n{first.log()}")
        self._primary = first
        with paused():
            lost = self._mark_lost(began)
            self._proxies["listen"].move(first.port, keep=kind is Failover.switched)
            self._proxies["primary"].move(first.port)
            self._proxies["second"].move(second.port)
        return lost

    def replace(self) -> None:
        """Make new standbys of the new primary, and stop the servers of the old timeline."""
        old, self._servers = self._servers, [self._primary]
        self._standbys = self._make_standbys()
        self._proxies["listen"].move(self._primary.port)
        for server in reversed([one for one in old if one is not self._primary]):
            server.__exit__(None, None, None)

    def _make_standbys(self) -> tuple[Standby, Standby]:
        made = tuple(Standby(self._primary, janitor=self._janitor) for _ in range(2))
        self._servers += made
        self._proxies["first"].move(made[0].port)
        self._proxies["second"].move(made[1].port)
        return made[0], made[1]

    def _mark_lost(self, began: float) -> list[Change]:
        """Mark and return the changes that the new primary does not have."""
        active = {
            (kind, key)
            for key, revocable, suspendable in self._states()
            for kind, is_open in (("revoke", revocable), ("suspend", suspendable and revocable))
            if is_open
        }
        lost = [
            one
            for changes in self.history.inactive().values()
            for one in changes
            if (one.kind, one.key) in active and one.lost_at == math.inf
        ]
        for one in lost:
            one.lost_at = began
        return lost

    def _states(self) -> Iterator[tuple[UUID, bool, bool]]:
        url = self._primary.superuser_url(self._database.name)
        with psycopg.connect(url) as owner:
            yield from owner.execute(_STATES)

    def _kill(self) -> None:
        """Kill the primary, like a power failure."""
        [(file,)] = self._ask(self._primary, "select pg_read_file('postmaster.pid')")
        os.kill(int(str(file).split()[0]), signal.SIGKILL)
        self._wait_for(lambda: not self._answers())

    def _answers(self) -> bool:
        try:
            psycopg.connect(self._primary.superuser_url("postgres"), connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True

    @staticmethod
    def _wait_for(true: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _PATIENCE
        while not true():
            if time.monotonic() > deadline:
                raise RuntimeError("the servers did not come to that")
            time.sleep(0.01)

    @staticmethod
    def _ask(server: Server | Standby, query: str) -> list[tuple[object, ...]]:
        with psycopg.connect(server.superuser_url("postgres"), autocommit=True) as session:
            return session.execute(query.encode()).fetchall()
