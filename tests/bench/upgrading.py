"""`make bench WHAT=upgrading`: how long a resolve waits while an upgrade runs.

A separate process resolves a key without a pause. Each round adds all modules to a core, then runs
an upgrade that adds a column to the keys. Before each step, the same statements run on a decoy: a
second keylatch under another name, which the process never uses. The waits during the decoy show
the effect of the busy machine alone.
"""

from __future__ import annotations

import argparse
import multiprocessing
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from multiprocessing.connection import Connection
from typing import NamedTuple

import psycopg
from rich.console import Console
from rich.progress import track
from rich.table import Table

from cli.install.project import next_release
from keylatch_cli.install.apply import apply, read_database
from keylatch_cli.install.migrations import Choice, Release, shipped
from stack import Database, Janitor, Server

BOUND_MS = 50
CORE, ALL = Choice(only=("core",)), Choice(all=True)
ADDS_A_COLUMN = (
    "alter table keylatch_internal.keys add column note text;\n"
    "comment on column keylatch_internal.keys.note is 'A note.';\n"
)
ISSUE = "select key from keylatch.issue_key(gen_random_uuid(), 'secret')"
RESOLVE = b"select count(*) from keylatch.resolve_key(%s)"


class Resolve(NamedTuple):
    """When a resolve began and ended, in seconds of the clock that all processes share."""

    began: float
    ended: float


def resolve(url: str, key: str, pipe: Connection) -> None:
    """Resolve a key until the pipe has a message, then send the measured times."""
    took = []
    with psycopg.connect(url, autocommit=True) as service:
        service.execute("set role keylatch_resolver")
        pipe.send("ready")
        while not pipe.poll():
            began = time.monotonic()
            assert service.execute(RESOLVE, [key]).fetchone() == (1,)
            took.append(Resolve(began, time.monotonic()))
    pipe.send(took)


@contextmanager
def resolving(database: Database) -> Iterator[list[Resolve]]:
    """Resolve in a separate process; the list is filled at the end."""
    row = database.connect().execute(ISSUE.encode()).fetchone()
    assert row
    ours, theirs = multiprocessing.Pipe()
    url = database.authenticator_url
    process = multiprocessing.Process(target=resolve, args=(url, row[0], theirs))
    process.start()
    theirs.close()  # so that a read fails if the process has died
    took: list[Resolve] = []
    try:
        ours.recv()
        yield took
    finally:
        ours.send("stop")
        took += ours.recv()
        process.join()


def decoy(text: str) -> bytes:
    """The same statements for the decoy's schemas."""
    return re.sub(r"\bkeylatch(_internal)?\b", r"decoy\1", text).encode()


def texts(database: Database, release: Release) -> list[str]:
    """The statements that `apply` would run."""
    return [one.text for one in release.plan(read_database(database.connect()), ALL, "keylatch")]


def measure(database: Database) -> dict[str, list[float]]:
    """Run one round; return, for each step, the milliseconds of each resolve during the step."""
    owner = database.connect()
    for one in shipped().plan(None, CORE, "keylatch"):
        with owner.transaction():
            owner.execute(decoy(one.text))
    apply(owner, CORE, "keylatch")
    release = next_release(ADDS_A_COLUMN)
    steps: list[tuple[str, float, float]] = []

    @contextmanager
    def step(name: str) -> Iterator[None]:
        time.sleep(0.2)
        began = time.monotonic()
        yield
        steps.append((name, began, time.monotonic()))

    def control(name: str, statements: list[str]) -> None:
        with step(name):
            for text in statements:
                with owner.transaction():
                    owner.execute(decoy(text))

    with resolving(database) as took:
        with step("idle"):
            time.sleep(0.5)
        control("modules, decoy", texts(database, shipped()))
        with step("modules"):
            apply(owner, ALL)
        control("column, decoy", texts(database, release))
        with step("column"):
            apply(owner, release=release)
    return {
        name: [1000 * (one.ended - one.began) for one in took if overlaps(one, start, end)]
        for name, start, end in steps
    }


def overlaps(one: Resolve, start: float, end: float) -> bool:
    """Whether a resolve ran during a step."""
    return one.began < end and one.ended > start


def main() -> int:
    """Measure and print. Return 1 if a resolve took longer than the bound and than on the decoy."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    rounds: int = parser.parse_args().rounds
    janitor = Janitor()
    found: dict[str, list[float]] = {}
    numbers = count(1)
    with Server(janitor=janitor) as server:
        for _ in track(range(rounds), "upgrading"):
            with Database(server, f"upgraded_{next(numbers)}") as database:
                server.install_platform(database.name)
                for name, took in measure(database).items():
                    found.setdefault(name, []).extend(took)
    janitor.close()
    table = Table(title=f"{rounds} rounds: a resolve took, in ms")
    for column in ("while", "resolves", "median", "p99", "worst", f"over {BOUND_MS}"):
        table.add_column(column, justify="right")
    for name, took in found.items():
        took.sort()
        middle, almost = took[len(took) // 2], took[int(len(took) * 0.99)]
        slow = sum(one > BOUND_MS for one in took)
        figures = (f"{one:.1f}" for one in (middle, almost, took[-1]))
        table.add_row(name, f"{len(took):,}", *figures, str(slow))
    Console(width=80).print(table)
    pairs = (("modules", "modules, decoy"), ("column", "column, decoy"))
    return int(any(found[real][-1] > max(BOUND_MS, found[control][-1]) for real, control in pairs))


if __name__ == "__main__":
    sys.exit(main())
