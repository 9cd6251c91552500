"""The clients: some change keys, the others resolve keys, each in its own way."""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from typing import Any, Self
from uuid import UUID

import psycopg
from psycopg_pool import ConnectionPool

from keylatch import Keylatch, Secret
from keylatch.cached import CachedResolver
from keylatch.errors import KeylatchError, KeyNotFound, KeyNotUsable
from security.failovers.fleet import Fleet
from security.failovers.history import Change, Found
from stack import People

# Enough keys that a standby of the old timeline still knows most of them when it is back.
ACTIVE = 300
ENDED = 150
WRITERS = 2
_RUNTIME = {"role": "keylatch_resolver"}
_RESOLVE = "select key_id from keylatch.resolve_key(%s)"

Key = tuple[UUID, Secret]
Ask = Callable[[Secret], UUID | None]


class Clients:
    """All clients of a fleet, each in a thread of its own; a context manager.

    Attributes:
        changes: How many changes were acknowledged.
        unavailable: How many questions got an error and no answer.
    """

    def __init__(self, fleet: Fleet, *, max_lag: timedelta, bound: timedelta) -> None:
        self.changes = 0
        self.unavailable = 0
        self._fleet, self._history = fleet, fleet.history
        self._opened = ExitStack()
        self._done = threading.Event()
        self._writing = [threading.Lock() for _ in range(WRITERS)]
        # All readers ask for the active keys, and for keys that were revoked a moment ago.
        self._active: list[Key] = []
        self._ended: deque[Key] = deque(maxlen=ENDED)
        admin = Keylatch.from_psycopg(self._pool("primary"), claims={"role": "service_role"})
        for _ in range(ACTIVE):
            issued = admin.issue(People.a, kind="secret")
            self._active.append((issued.id, issued.key))
        self.cache = CachedResolver(
            Keylatch.from_psycopg(self._pool("primary"), claims=_RUNTIME),
            listen=fleet.addresses["listen"],
            bound=bound,
        )
        runtime = Keylatch.from_psycopg(self._pool("primary"), claims=_RUNTIME)
        lag, cached = max_lag.total_seconds(), bound.total_seconds()
        readers: dict[str, tuple[Ask, Callable[[], float]]] = {
            "primary": (_by_client(runtime), lambda: 0.0),
            "cache": (_by_client(self.cache), lambda: cached),
        }
        for name in ("first", "second"):
            there = Keylatch.from_psycopg(
                self._pool("primary"), claims=_RUNTIME, reads=self._pool(name), max_lag=max_lag
            )
            readers[f"reads on {name} standby"] = (_by_client(there), lambda: lag)
            sql = _BySql(fleet.addresses[name])
            self._opened.callback(sql.close)
            readers[f"SQL on {name} standby"] = (sql, lambda: fleet.replica_bound)
        self._threads = [
            threading.Thread(target=self._write, args=(lock,), daemon=True)
            for lock in self._writing
        ]
        self._threads += [
            threading.Thread(target=self._read, args=(name, *reader), daemon=True)
            for name, reader in readers.items()
        ]
        self.readers = list(readers)

    def __enter__(self) -> Self:
        self._opened.enter_context(self.cache)
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()
        self._opened.close()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Pause all changes during the block."""
        with ExitStack() as held:
            for lock in self._writing:
                held.enter_context(lock)
            yield

    def _pool(self, address: str) -> ConnectionPool[psycopg.Connection[tuple[Any, ...]]]:
        pool = ConnectionPool(
            self._fleet.addresses[address],
            min_size=1,
            max_size=4,
            timeout=0.5,
            reconnect_timeout=0.1,  # The next question connects again.
            check=ConnectionPool.check_connection,
            open=True,
        )
        self._opened.callback(pool.close)
        return pool

    def _write(self, lock: threading.Lock) -> None:
        chance = random.Random()  # noqa: S311
        admin = Keylatch.from_psycopg(self._pool("primary"), claims={"role": "service_role"})
        while not self._done.is_set():
            # After an error nobody knows whether the change happened.
            with lock, suppress(KeylatchError):
                self._change(admin, chance)
            time.sleep(0.02 * chance.random())

    def _change(self, admin: Keylatch, chance: random.Random) -> None:
        place = chance.randrange(len(self._active))
        key = self._active[place]
        kind = chance.choice(["revoke", "revoke", "suspend", "unsuspend"])
        change = Change(kind, key[0], time.monotonic())
        self._history.note(change)
        try:
            if kind == "revoke":
                admin.revoke(key[0])
            elif kind == "suspend":
                admin.suspend(key[0])
            else:
                admin.unsuspend(key[0])
        except (KeyNotFound, KeyNotUsable):
            kind = "revoke"  # Another writer revoked the key, or a failover lost the key.
        else:
            change.ended = time.monotonic()
            self.changes += 1
        if kind == "revoke":
            self._ended.append(key)
            issued = admin.issue(People.a, kind="secret")
            self._active[place] = (issued.id, issued.key)

    def _read(self, name: str, ask: Ask, bound: Callable[[], float]) -> None:
        chance = random.Random()  # noqa: S311
        while not self._done.is_set():
            keys = self._ended if self._ended and chance.random() < 0.5 else self._active
            key_id, secret = keys[chance.randrange(len(keys))]
            # In this order, because the promise of a standby must be read after the beginning.
            began = time.monotonic()
            promised = bound()
            try:
                found = ask(secret)
            except (KeylatchError, psycopg.Error):
                self.unavailable += 1
                time.sleep(0.02)
                continue
            answer = Found(name, key_id, began, time.monotonic(), promised)
            self._history.asked(name, None if found is None else answer)
            time.sleep(0.002)


def _by_client(client: Keylatch | CachedResolver) -> Ask:
    def ask(secret: Secret) -> UUID | None:
        found = client.resolve(secret)
        return None if found is None else found.key_id

    return ask


class _BySql:
    """Asks in plain SQL, and connects again when the connection is lost."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._session: psycopg.Connection[tuple[Any, ...]] | None = None

    def __call__(self, secret: Secret) -> UUID | None:
        try:
            if self._session is None:
                self._session = psycopg.connect(self._url, autocommit=True)
                self._session.execute("set role keylatch_resolver")
            row = self._session.execute(_RESOLVE, [secret.reveal()]).fetchone()
        except psycopg.Error:
            self.close()
            raise
        return row[0] if row else None

    def close(self) -> None:
        """Close the connection."""
        if self._session is not None:
            self._session.close()
        self._session = None
