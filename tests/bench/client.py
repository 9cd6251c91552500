"""`make bench WHAT=client`: the time that the Python client adds to a bare call of resolve_key.

In SQL, the client (with and without claims) is compared with the bare prepared statement on the
same pool. Over HTTP, the client is compared with the bare `rpc` of supabase-py. The ways take turns
call by call; the result is the median of the rounds' ratios in one run. The client and the server
share one core. On two cores the result would be the time in which a sleeping core wakes up.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import psycopg_pool
import supabase
from rich.console import Console
from rich.progress import track
from rich.table import Table

from bench.resolving import one_core, ratio
from keylatch import Keylatch
from stack import Database, Janitor, People, Rest, Server, Tokens

RESOLVER = {"role": "keylatch_resolver"}
BARE = "select * from keylatch.resolve_key(%s, %s)"
BECOME = "select set_config('request.jwt.claims', %s, true), set_config('role', %s, true)"
# name -> the name of the way to compare with, the goal, and the way itself
Ways = dict[str, tuple[str, float | None, Callable[[], object]]]


def over_psycopg(database: Database, text: str, opened: ExitStack) -> Ways:
    """The ways on a pool with the default settings, and on a pool with autocommit."""
    ways: Ways = {}
    for kind, autocommit in (("pool", False), ("pool, autocommit", True)):
        size: dict[str, Any] = {"min_size": 1, "max_size": 1}

        def pool(url: str, options: dict[str, Any] = size, own: bool = autocommit) -> Any:
            made = psycopg_pool.ConnectionPool(url, kwargs={"autocommit": own}, **options)
            return opened.enter_context(made)

        # `postgres` may call resolve_key. `authenticator` first takes the role in the claims.
        plain, through = pool(database.url), pool(database.authenticator_url)
        client = Keylatch.from_psycopg(plain)
        claiming = Keylatch.from_psycopg(through, claims=RESOLVER)

        def bare(own: Any = plain) -> object:
            with own.connection() as connection:
                return connection.execute(BARE, (text, None)).fetchone()

        def by_hand(own: Any = through) -> object:
            with own.connection() as connection:
                asked = connection.cursor()
                with connection.pipeline():
                    connection.execute(BECOME, ("{}", RESOLVER["role"]))
                    asked.execute(BARE, (text, None))
                return asked.fetchone()

        ways[kind] = (kind, None, bare)
        # Setting the claims with psycopg alone, in one round trip: the client cannot be faster.
        ways[f"{kind}: claims by hand"] = (kind, None, by_hand)
        ways[f"{kind}: client"] = (kind, 1.15, partial(client.resolve, text))
        ways[f"{kind}: client, claims"] = (kind, 1.3, partial(claiming.resolve, text))
    return ways


def over_http(rest: Rest, text: str) -> Ways:
    """The ways of supabase-py."""
    client = supabase.create_client(rest.url, rest.service_key)
    kl, schema = Keylatch.from_supabase(client), client.schema("keylatch")
    # The client sends a null, which the types of supabase-py do not allow.
    arguments: Any = {"key": text, "origin": None}
    return {
        "rpc": ("rpc", None, lambda: schema.rpc("resolve_key", arguments).execute().data),
        "rpc: client": ("rpc", 1.06, lambda: kl.resolve(text)),
    }


def measure(ways: Ways, rounds: int) -> dict[str, list[float]]:
    """The microseconds of a call, for each way in each round."""
    took: dict[str, list[float]] = {name: [] for name in ways}
    for _, _, way in ways.values():
        for _ in range(20):  # psycopg prepares a statement after five calls
            assert way(), "the key resolves"
    for _ in track(range(rounds), "client", transient=True):
        for name, (_, _, way) in ways.items():
            way()  # the way before has left its data in the core's cache
            begins = time.perf_counter_ns()
            way()
            took[name].append((time.perf_counter_ns() - begins) / 1000)
    return took


def main() -> int:
    """Measure and print. Return 1 if a way misses its goal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2000)
    options = parser.parse_args()
    tokens = Tokens()
    with ExitStack() as parts:
        janitor = Janitor()
        parts.callback(janitor.close)
        server = parts.enter_context(Server(janitor=janitor))
        database = parts.enter_context(Database(server, "bench_client"))
        database.migrate()
        people = People(tokens)
        people.seed(database.url)
        admin = database.connect("authenticated", people.claims("alice"))
        text = Keylatch.from_psycopg(admin).issue(people.a, kind="secret").key.reveal()
        rest = parts.enter_context(Rest(database, tokens, janitor=janitor))
        parts.enter_context(one_core(server.pid))
        ways = {**over_psycopg(database, text, parts), **over_http(rest, text)}
        took = measure(ways, options.rounds)
    table = Table("", "µs", "least µs", "times", "goal")
    missed = False
    for name, (beside, goal, _) in ways.items():
        median, least = statistics.median(took[name]), min(took[name])
        times = ratio(took[name], took[beside])
        missed = missed or (goal is not None and times > goal)
        told = "" if name == beside else f"{times:.2f}"
        table.add_row(
            name, f"{median:.0f}", f"{least:.0f}", told, "" if goal is None else str(goal)
        )
    Console().print(table)
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
