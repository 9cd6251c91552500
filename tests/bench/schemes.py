"""`make bench WHAT=schemes`: the time of a look-up with 0, 1 and 8 schemes, and of a first use.

The benchmark looks up a key of keylatch, an unknown key and, if there are schemes, a key of the
last scheme. The ways take turns call by call in one run. Then the benchmark measures the first use
of keys with salted hashes. The client and the server share one core.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from itertools import count
from typing import Any
from uuid import uuid4

from rich.console import Console
from rich.progress import track
from rich.table import Table

from bench.resolving import one_core, ratio
from stack import Database, Server

WORKSPACE = uuid4()
RESOLVE = "select key_id from keylatch.resolve_key(%s)"
IMPORT = "select (keylatch.import_keys(%s)).refused"
MISS = "a key that nobody has, {}"
OLD = "the key of an old system, {}"
ROUNDS_OF_PBKDF2 = 100_000


def line(**fields: object) -> dict[str, object]:
    """A line of an import."""
    return {"workspace_id": str(WORKSPACE), "hash_encoding": "hex", **fields}


def database_with(server: Server, schemes: int, opened: ExitStack) -> Database:
    """A database with `schemes` schemes and one imported key for each scheme."""
    database = opened.enter_context(Database(server, f"bench_schemes_{schemes}"))
    database.migrate()
    owner = database.connect()
    for number in range(schemes):
        recipe = {"append": str(number), "digest": "sha512"}
        owner.execute("select keylatch.declare_scheme(%s, %s)", [f"s{number}", json.dumps(recipe)])
        kept = hashlib.sha512(f"{OLD.format(number)}{number}".encode()).hexdigest()
        given = json.dumps([line(scheme=f"s{number}", hash=kept)])
        assert owner.execute(IMPORT, [given]).fetchone() == (0,)
    return database


def lookups(server: Server, opened: ExitStack) -> dict[str, tuple[str, Callable[[], Any]]]:
    """The look-ups: name -> the name of the look-up to compare with, and the call."""
    ways: dict[str, tuple[str, Callable[[], Any]]] = {}
    for schemes in (0, 1, 8):
        database = database_with(server, schemes, opened)
        owner = database.connect()
        (own,) = owner.execute(
            "select key from keylatch.issue_key(%s, 'secret')", [WORKSPACE]
        ).fetchone() or ("",)

        def ask(text: str, connection: Any = owner) -> Any:
            return connection.execute(RESOLVE, [text], prepare=True).fetchone()

        def miss(misses: Iterator[int] = count(), asked: Callable[[str], Any] = ask) -> Any:  # noqa: B008
            return asked(MISS.format(next(misses)))

        name = "1 scheme" if schemes == 1 else f"{schemes} schemes"
        ways[f"{name}: own key"] = (f"{name}: own key", partial(ask, own))
        ways[f"{name}: not found"] = ("0 schemes: not found", miss)
        if schemes:
            last = partial(ask, OLD.format(schemes - 1))
            ways[f"{name}: key of the last"] = (f"{name}: own key", last)
    return ways


def first_uses(server: Server, uses: int, opened: ExitStack) -> Iterable[tuple[str, list[float]]]:
    """The milliseconds of the first use of each key with a salted hash, by the hash's rounds."""
    database = opened.enter_context(Database(server, "bench_first_uses"))
    database.migrate()
    owner = database.connect()
    for rounds in (1, ROUNDS_OF_PBKDF2):
        keys = [f"r{rounds}-{number:06d}-of an old system" for number in range(uses)]
        made = [hashlib.pbkdf2_hmac("sha256", key.encode(), b"salt", rounds).hex() for key in keys]
        given = [
            line(
                alg="pbkdf2_sha256",
                hash=kept,
                salt="salt",
                salt_encoding="text",
                iter=rounds,
                starts_with=key[:14].rstrip("-"),
            )
            for key, kept in zip(keys, made, strict=True)
        ]
        assert owner.execute(IMPORT, [json.dumps(given)]).fetchone() == (0,)
        took = []
        for key in keys:
            begins = time.perf_counter()
            row = owner.execute(
                "select key_id from keylatch.upgrade_key(%s, %s)", [key, WORKSPACE]
            ).fetchone()
            took.append((time.perf_counter() - begins) * 1000)
            assert row, "the key resolves"
        yield f"first use, PBKDF2 of {rounds:,} rounds", took


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2000)
    parser.add_argument("--uses", type=int, default=20)
    options = parser.parse_args()
    with ExitStack() as opened:
        server = opened.enter_context(Server())
        opened.enter_context(one_core(server.pid))
        ways = lookups(server, opened)
        took: dict[str, list[float]] = {name: [] for name in ways}
        for _, way in ways.values():
            way()
        for _ in track(range(options.rounds), "look-ups", transient=True):
            for name, (_, way) in ways.items():
                begins = time.perf_counter_ns()
                found = way()
                took[name].append((time.perf_counter_ns() - begins) / 1000)
                assert (found is None) == name.endswith("not found"), name
        uses = list(first_uses(server, options.uses, opened))
    table = Table("", "median", "least", "times")
    for name, (beside, _) in ways.items():
        times = "" if name == beside else f"{ratio(took[name], took[beside]):.2f}"
        median = f"{statistics.median(took[name]):.0f} µs"
        table.add_row(name, median, f"{min(took[name]):.0f} µs", times)
    for name, waits in uses:
        table.add_row(name, f"{statistics.median(waits):.1f} ms", f"{min(waits):.1f} ms", "")
    Console().print(table)


if __name__ == "__main__":
    main()
