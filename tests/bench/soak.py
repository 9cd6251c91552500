"""`make soak`, part one: compare a cached resolver with the real states of keys, under faults.

Eight threads resolve keys. One thread issues, rotates, revokes, suspends and unsuspends keys at
random; some suspensions send only the sign that a notice was left out. Every half minute a fault
occurs: the listener is killed, its network stalls without closing, or the server restarts. The
bound is counted from the acknowledged change of a key to the call of the resolver. An answer is
stale if a key resolves that was inactive for longer than the bound. An answer is denied if a key
does not resolve that was active for longer than the bound, and still is.
"""

from __future__ import annotations

import argparse
import random
import resource
import statistics
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import psycopg
import psycopg_pool
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from client.cache.stalling import StallingProxy
from keylatch import Keylatch, Secret
from keylatch.cached import CachedResolver
from keylatch.errors import KeyNotUsable, Unavailable
from stack import Database, Janitor, People, Server, Tokens

KEYS = 3000
THREADS = 8
STALL_SECONDS = 10.0


@dataclass(slots=True, eq=False)
class Known:
    """The real state of a key.

    Attributes:
        key: The key.
        id: The key's id.
        lives: Whether the key resolves; `None` while a change of the key is not acknowledged.
        since: When the last change was acknowledged, by `time.monotonic`.
    """

    key: Secret
    id: object
    lives: bool | None
    since: float

    def becomes(self, lives: bool) -> None:
        """Record an acknowledged change: the time first, so no reader sees the state without it."""
        self.since = time.monotonic()
        self.lives = lives


@dataclass(slots=True)
class Found:
    """The counts of one resolving thread; `stale` and `denied` hold seconds since the change."""

    answers: int = 0
    unavailable: int = 0
    stale: list[float] = field(default_factory=list)
    denied: list[float] = field(default_factory=list)


def resolve(
    resolver: CachedResolver, keys: list[Known], bound: float, done: threading.Event, found: Found
) -> None:
    """Resolve random keys, active and inactive, and compare each answer with the real state."""
    chance = random.Random()  # noqa: S311
    while not done.is_set():
        for _ in range(200):
            one = keys[int(len(keys) * chance.random())]
            lives, since, asked = one.lives, one.since, time.monotonic()
            try:
                answer = resolver.resolve(one.key)
            except Unavailable:
                found.unavailable += 1
                time.sleep(0.05)
                continue
            found.answers += 1
            if lives is None or asked - since < bound or one.since != since:
                continue
            if answer is not None and not lives:
                found.stale.append(asked - since)
            elif answer is None and lives and one.lives:
                found.denied.append(asked - since)
        time.sleep(0.01)


def suspend(admin: Keylatch, key_id: object, *, without_a_notice: bool) -> None:
    """Suspend a key, with its notice or with the sign that a notice was left out."""
    if not without_a_notice:
        admin.suspend(key_id)  # type: ignore[arg-type]
        return
    pool: psycopg_pool.ConnectionPool = admin._transport._source
    with pool.connection() as connection:
        connection.execute("set local keylatch.left_out = 'on'")
        connection.execute(
            "update keylatch_internal.keys set suspended_at = now()"
            " where id = %s and revoked_at is null",
            [key_id],
        )


def change(admin: Keylatch, keys: list[Known], done: threading.Event, made: list[str]) -> None:
    """Issue, rotate, revoke, suspend and unsuspend keys at random, and record their states."""
    chance = random.Random()  # noqa: S311
    while not done.is_set():
        place = chance.randrange(len(keys))
        one = keys[place]
        kind = chance.choice(["revoke", "rotate", "suspend", "issue"])
        before, one.lives = one.lives, None
        try:
            if kind == "issue" or before is None:
                new = admin.issue(People.a, kind="secret")
                keys[place] = Known(new.key, new.id, True, time.monotonic())
            elif kind == "rotate":
                new = admin.rotate(one.id)  # type: ignore[arg-type]
                one.becomes(False)
                keys[chance.randrange(len(keys))] = Known(new.key, new.id, True, time.monotonic())
            elif kind == "revoke":
                admin.revoke(one.id)  # type: ignore[arg-type]
                one.becomes(False)
            else:
                suspend(admin, one.id, without_a_notice=chance.random() < 0.02)
                one.becomes(False)
                time.sleep(chance.random() / 50)
                one.lives = None
                admin.unsuspend(one.id)  # type: ignore[arg-type]
                one.becomes(True)
            made.append(kind)
        except KeyNotUsable:
            one.becomes(False)
        except Unavailable:
            time.sleep(0.05)  # The outcome is unknown, so the state stays uncertain.
        time.sleep(0.004)


def break_something(number: int, server: Server, database: Database, proxy: StallingProxy) -> str:
    """Cause the next fault."""
    if number % 3 == 0:
        with psycopg.connect(database.superuser_url, autocommit=True) as owner:
            owner.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where query like '%read_heartbeat%' and pid <> pg_backend_pid()"
            )
        return "listener killed"
    if number % 3 == 1:
        proxy.stall()
        time.sleep(STALL_SECONDS)
        proxy.flow()
        return "network stalled"
    server.restart()
    return "server restarted"


def resident() -> int:
    """The resident memory of this process in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def main() -> int:
    """Run the soak test and print the result. Return 1 if an answer was wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--bound", type=float, default=0.5, help="seconds")
    parser.add_argument("--ignore-notifications", action="store_true", help="to see it fail")
    options = parser.parse_args()
    console = Console()
    with ExitStack() as opened:
        janitor = Janitor()
        opened.callback(janitor.close)
        server = opened.enter_context(Server(janitor=janitor))
        database = opened.enter_context(Database(server, "soak"))
        database.migrate()
        People(Tokens()).seed(database.url)
        proxy = opened.enter_context(StallingProxy(server.port))
        pools = [
            opened.enter_context(
                psycopg_pool.ConnectionPool(
                    url, min_size=1, max_size=4, check=psycopg_pool.ConnectionPool.check_connection
                )
            )
            for url in (database.authenticator_url, database.url)
        ]
        runtime = Keylatch.from_psycopg(pools[0], claims={"role": "keylatch_resolver"})
        admin = Keylatch.from_psycopg(pools[1], claims={"role": "service_role"})
        keys = [
            Known(issued.key, issued.id, True, time.monotonic())
            for issued in (admin.issue(People.a, kind="secret") for _ in range(KEYS))
        ]
        resolver = CachedResolver(
            runtime,
            listen=database.authenticator_url.replace(f":{server.port}/", f":{proxy.port}/"),
            bound=timedelta(seconds=options.bound),
            size=KEYS // 2,  # so that the cache must drop keys
        )
        if options.ignore_notifications:
            resolver._cache.heard = lambda _: None  # type: ignore[assignment, method-assign]
        opened.enter_context(resolver)
        done = threading.Event()
        found = [Found() for _ in range(THREADS)]
        made: list[str] = []
        pool = opened.enter_context(ThreadPoolExecutor(THREADS + 1))
        opened.callback(done.set)
        running = [pool.submit(resolve, resolver, keys, options.bound, done, one) for one in found]
        running.append(pool.submit(change, admin, keys, done, made))
        faults: list[str] = []
        memory: list[int] = []
        began = broke = time.monotonic()
        with Progress(console=console) as progress:
            bar = progress.add_task("soak", total=options.minutes * 60)
            while (passed := time.monotonic() - began) < options.minutes * 60 and not any(
                one.done() for one in running
            ):
                time.sleep(1)
                memory.append(resident())
                progress.update(bar, completed=passed)
                if time.monotonic() - broke > 30:
                    faults.append(break_something(len(faults), server, database, proxy))
                    broke = time.monotonic()
        done.set()
        for one in running:
            one.result()
        stats = resolver.stats()
    wrong = [late for one in found for late in (*one.stale, *one.denied)]
    table = Table(title=f"{options.minutes:g} minutes, bound {options.bound:g} s")
    table.add_column("what")
    table.add_column("count", justify="right")
    tenth = max(1, len(memory) // 10)
    first, last = statistics.median(memory[tenth : 2 * tenth]), statistics.median(memory[-tenth:])
    for what, count in {
        "answers": sum(one.answers for one in found),
        "from memory": stats.hits + stats.negative_hits,
        "stale avoided": stats.stale_avoided,
        "changes acknowledged": len(made),
        "connections lost": stats.reconnects,
        **{fault: faults.count(fault) for fault in dict.fromkeys(faults)},
        "unavailable, while the server restarted": sum(one.unavailable for one in found),
        "stale": sum(len(one.stale) for one in found),
        "denied": sum(len(one.denied) for one in found),
        "memory at the end, of that at the beginning": last / first,
    }.items():
        table.add_row(what, f"{count:,.2f}" if isinstance(count, float) else f"{count:,}")
    console.print(table)
    if wrong:
        console.print(f"[red]{len(wrong)} wrong answers, the latest {max(wrong):.2f} s late")
    assert made
    assert all(one.answers for one in found)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
