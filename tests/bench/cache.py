"""`make bench WHAT=cache`: the cost of a cached answer, and how soon a cache hears of a revocation.

Cache hits on one core are compared with a bare sha256 and dict look-up, in rounds that take turns.
The delay is the time from the acknowledgement of a revocation to the first refusal. The delays are
measured again while other keys change all the time.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta

import psycopg
import psycopg_pool
from rich.console import Console
from rich.progress import track
from rich.table import Table

from keylatch import Keylatch
from keylatch.cached import CachedResolver
from stack import Database, Janitor, People, Server, Tokens
from stack.tools import ROOT


def rate(work: Callable[[str], object], texts: list[str], seconds: float) -> float:
    """Calls a second."""
    count, ends = 0, time.perf_counter() + seconds
    began = time.perf_counter()
    while time.perf_counter() < ends:
        for text in texts:
            work(text)
        count += len(texts)
    return count / (time.perf_counter() - began)


def hits(resolver: CachedResolver, texts: list[str], rounds: int) -> tuple[float, float]:
    """The cache hits a second, and their ratio to the bare look-up: medians, on one core."""
    table = {hashlib.sha256(text.encode()).digest(): text for text in texts}
    for text in texts:
        resolver.resolve(text)
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        found = []
        for _ in track(range(rounds), "hits"):
            bare = rate(lambda t: table[hashlib.sha256(t.encode()).digest()], texts, 0.5)
            found.append((rate(resolver.resolve, texts, 0.5), bare))
    finally:
        os.sched_setaffinity(0, before)
    return statistics.median(a for a, _ in found), statistics.median(a / b for a, b in found)


def delays(admin: Keylatch, resolver: CachedResolver, count: int, what: str) -> list[float]:
    """The sorted milliseconds from the acknowledgement of a revocation to the first refusal."""
    found = []
    for _ in track(range(count), what):
        issued = admin.issue(People.a, kind="secret")
        while resolver.resolve(issued.key) is None:
            pass
        admin.revoke(issued.id)
        acknowledged = time.perf_counter()
        while resolver.resolve(issued.key) is not None:
            pass
        found.append(1000 * (time.perf_counter() - acknowledged))
    return sorted(found)


def churn(url: str, done: threading.Event, changed: list[int]) -> None:
    """Change the scopes of other workspaces' keys again and again, a thousand keys at a time."""
    with psycopg.connect(url, autocommit=True) as owner:
        owner.execute("set synchronous_commit = off")
        ids = [
            row[0]
            for row in owner.execute(
                "select id from keylatch_internal.keys where workspace_id <> %s", [People.a]
            )
        ]
        for start in range(0, 1_000_000_000, 1000):
            if done.is_set():
                return
            some = [ids[(start + n) % len(ids)] for n in range(1000)]
            owner.execute(
                "update keylatch_internal.keys set scopes = array['n' || %s] where id = any (%s)",
                [str(start), some],
            )
            changed.append(len(some))


def main() -> int:
    """Measure and print. Return 1 if the cache heard of a revocation later than the bound."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--revocations", type=int, default=1000)
    parser.add_argument("--keys", type=int, default=1_000_000, help="that change meanwhile")
    options = parser.parse_args()
    bound = timedelta(seconds=1)
    janitor = Janitor()
    with Server(janitor=janitor) as server, Database(server, "cache") as database:
        database.migrate()
        with Console().status(f"making {options.keys:,} keys"):
            fill(database, options.keys)
        People(Tokens()).seed(database.url)
        with psycopg_pool.ConnectionPool(database.authenticator_url) as pool:
            runtime = Keylatch.from_psycopg(pool, claims={"role": "keylatch_resolver"})
            admin = Keylatch.from_psycopg(
                psycopg.connect(database.authenticator_url), claims={"role": "service_role"}
            )
            texts = [admin.issue(People.a, kind="secret").key.reveal() for _ in range(1000)]
            with CachedResolver(
                runtime, listen=database.authenticator_url, bound=bound
            ) as resolver:
                while not resolver.stats().is_listening:
                    time.sleep(0.01)
                speed, ratio = hits(resolver, texts, 9)
                quiet = delays(admin, resolver, options.revocations, "revocations")
                done, changed = threading.Event(), list[int]()
                thread = threading.Thread(target=churn, args=(database.url, done, changed))
                thread.start()
                busy = delays(admin, resolver, options.revocations, "and while keys change")
                while sum(changed) < options.keys and thread.is_alive():
                    time.sleep(0.1)
                done.set()
                thread.join()
                stats = resolver.stats()
    janitor.close()
    table = Table(title="CachedResolver")
    table.add_column("what")
    table.add_column("figure", justify="right")
    table.add_row("hits a second, one core", f"{speed:,.0f}")
    table.add_row("of sha256 and a look-up in a dict alone", f"{ratio:.2f}")
    for name, found in (("", quiet), (f", {sum(changed):,} keys changing", busy)):
        for what, at in (("p50", 0.5), ("p99", 0.99), ("worst", 1.0)):
            late = found[min(len(found) - 1, int(at * len(found)))]
            table.add_row(f"revocation to refusal{name}: {what}", f"{late:.1f} ms")
    table.add_row("connections lost", f"{stats.reconnects}")
    Console(width=80).print(table)
    return int(max(quiet[-1], busy[-1]) > 1000 * bound.total_seconds())


def fill(database: Database, keys: int) -> None:
    """Add this many keys of other workspaces, as `make bench` does."""
    setup = (ROOT / "sql" / "bench" / "setup.sql").read_text().replace(":keys", str(keys))
    with psycopg.connect(database.superuser_url) as owner:
        owner.execute("set local synchronous_commit = off")
        owner.execute(setup.encode())


if __name__ == "__main__":
    sys.exit(main())
