"""`make bench WHAT=events`: what the log of events costs those who write, and whether it holds.

Sessions issue and revoke keys with the events and without, in turns, on a server that writes to its
disk as a real one does. The ratio of the two is what counts: absolute figures mean little on a
shared machine. A workspace of 100,000 keys is deleted, and a million events are sealed and verified
in bounded calls. Then the server is killed with kill -9 while it writes and seals, and the chain is
verified.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from uuid import UUID

import psycopg
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from stack import Database, Server
from stack.database import make_template
from stack.modules import migrations
from stack.tools import ROOT

SESSIONS = 8
SCRIPT = ROOT / "sql" / "bench" / "issue_and_revoke.sql"
# As a server with data to lose.
SETTINGS = {"fsync": "on", "full_page_writes": "on", "max_wal_size": "1GB"}
# The recording triggers, and whether they fire always.
TRIGGERS = {"keys_insert_record_events": "", "keys_update_record_events": "always"}
KEYS = 100_000
MANY = """
insert into keylatch_internal.key_events (
  workspace_id, key_id, event, occurred_at, role, login, address, agent, changes
)
select %s, gen_random_uuid(), 'changed', clock_timestamp(), 'authenticated', 'authenticator',
  '203.0.113.7', 'python-httpx/0.28.1', '{"label": {"old": "before", "new": "after"}}'
from generate_series(1, %s)
"""
CASES = {"8 sessions, 8 workspaces": (8, 1), "8 sessions, 1 workspace": (8, 0), "1 session": (1, 1)}


def workspace(number: int) -> UUID:
    """The workspace of a session, as the script names it."""
    return UUID(f"00000000-0000-4000-8000-{number:012}")


def pgbench(database: Database, sessions: int, spread: int, seconds: float) -> list[str]:
    """The command that lets these sessions issue and revoke."""
    server = database.server
    return [
        *("pgbench", "--no-vacuum", f"--client={sessions}", "--jobs=1"),
        *(f"--time={seconds:.0f}", f"--define=spread={spread}", f"--file={SCRIPT}"),
        *("--host", server.host, "--port", str(server.port), "--username=postgres", database.name),
    ]


def run(database: Database, sessions: int, spread: int, seconds: float) -> float:
    """How many keys a second they issue and revoke, together."""
    done = subprocess.run(
        pgbench(database, sessions, spread, seconds),
        capture_output=True,
        text=True,
        check=True,
        env=_environment(database),
    )
    found = re.search(r"tps = ([\d.]+)", done.stdout)
    assert found is not None, done.stdout
    return float(found[1])


def switch(database: Database, *, on: bool) -> None:
    """Turn the recording of events on or off, as only the owner can."""
    with psycopg.connect(database.url) as owner:
        for name, how in TRIGGERS.items():
            word = f"enable {how}" if on else "disable"
            owner.execute(f"alter table keylatch_internal.keys {word} trigger {name}".encode())


def seal(database: Database) -> tuple[int, float]:
    """Seal all events: how many calls it took, and the longest one in seconds."""
    took = []
    with psycopg.connect(database.url, autocommit=True) as owner:
        is_done = False
        while not is_done:
            began = time.perf_counter()
            row = owner.execute("select is_done from keylatch.seal_events()").fetchone()
            assert row is not None
            is_done = row[0]
            took.append(time.perf_counter() - began)
    return len(took), max(took)


def verify(database: Database) -> tuple[int, int, float]:
    """How many checkpoints and events are intact, all of them, and the longest call in seconds."""
    checkpoints, events, took = 0, 0, 0.0
    start: int | None = 1
    with psycopg.connect(database.url, autocommit=True) as owner:
        while start is not None:
            began = time.perf_counter()
            row = owner.execute(
                "select checkpoints, events, next_checkpoint, problem"
                " from keylatch.verify_events(%s)",
                [start],
            ).fetchone()
            took = max(took, time.perf_counter() - began)
            assert row is not None
            assert row[3] is None, row
            checkpoints, events, start = checkpoints + row[0], events + row[1], row[2]
    return checkpoints, events, took


def fill(database: Database, count: int) -> None:
    """Put this many events into the log, as only the owner can."""
    with psycopg.connect(database.url) as owner:
        for word in ("disable", "enable"):
            owner.execute(
                f"alter table keylatch_internal.key_events {word} trigger key_events_insert_keep"
            )
            if word == "disable":
                owner.execute(MANY, [workspace(0), count])


def delete_workspace(database: Database) -> float:
    """How many seconds the deletion of a workspace with 100,000 keys takes."""
    with psycopg.connect(database.url, autocommit=True) as owner:
        owner.execute("insert into keylatch.workspaces (id, name) values (%s, 'x')", [workspace(9)])
        owner.execute(
            "insert into keylatch_internal.keys (workspace_id, kind)"
            " select %s, 'secret' from generate_series(1, %s)",
            [workspace(9), KEYS],
        )
        began = time.perf_counter()
        owner.execute("delete from keylatch.workspaces where id = %s", [workspace(9)])
        return time.perf_counter() - began


def calls(database: Database, turns: int) -> dict[str, float]:
    """The median of one call in microseconds, in a session that makes nothing else."""
    took: dict[str, list[float]] = {"issue_key": [], "revoke_key": []}
    with psycopg.connect(database.url, autocommit=True) as owner:
        for _ in range(turns):
            began = time.perf_counter()
            row = owner.execute(
                "select id from keylatch.issue_key(%s, 'secret')", [workspace(0)]
            ).fetchone()
            issued = time.perf_counter()
            owner.execute("select keylatch.revoke_key(%s, 'bench')", row)
            took["issue_key"].append(issued - began)
            took["revoke_key"].append(time.perf_counter() - issued)
    return {name: statistics.median(times) * 1e6 for name, times in took.items()}


def crash(server: Server, database: Database) -> None:
    """Kill the server while sessions write and one seals, and start it again."""
    load = subprocess.Popen(
        pgbench(database, SESSIONS, 1, 60),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=_environment(database),
    )
    ends = time.monotonic() + 3
    while time.monotonic() < ends:
        seal(database)
    os.kill(server.pid, signal.SIGKILL)
    load.wait(timeout=60)
    server.stop()
    for attempt in range(20):
        try:
            server.start()
            return
        except RuntimeError:
            # Its last processes still hold the shared memory.
            if attempt == 19:
                raise
            time.sleep(1)


def _environment(database: Database) -> dict[str, str]:
    return {**os.environ, "PGPASSWORD": database.server.passwords["postgres"]}


def main(arguments: list[str]) -> int:
    """Measure, print the table, crash, verify."""
    parser = argparse.ArgumentParser(prog="make bench WHAT=events")
    parser.add_argument("--seconds", type=float, default=30, help="of writing for each case")
    parser.add_argument("--events", type=int, default=1_000_000, help="to seal and verify")
    options = parser.parse_args(arguments)
    rounds, console = 3, Console(highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("", "with", "without", "ratio"):
        table.add_column(name, justify="right" if name else "left")
    with (
        Server(settings=SETTINGS) as server,
        Database(
            server, "events", make_template(server, files=migrations("events", tenancy=True))
        ) as database,
    ):
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task("issuing and revoking", total=(len(CASES) + 1) * rounds * 2)
            rates: dict[tuple[str, bool], list[float]] = {}
            for _ in range(rounds):
                for on in (True, False):
                    switch(database, on=on)
                    for name, (sessions, spread) in CASES.items():
                        seconds = max(options.seconds / rounds / 2, 1)
                        rate = run(database, sessions, spread, seconds)
                        rates.setdefault((name, on), []).append(rate)
                        progress.advance(task)
                    for name, value in calls(database, 150).items():
                        rates.setdefault((name, on), []).append(value)
                    progress.advance(task)
        switch(database, on=True)
        for name in (*CASES, "issue_key", "revoke_key"):
            with_, without = (statistics.median(rates[name, on]) for on in (True, False))
            unit = "keys/s" if name in CASES else "µs"
            ratio = statistics.median(
                one / other
                for one, other in zip(rates[name, True], rates[name, False], strict=True)
            )
            table.add_row(name, f"{with_:.0f} {unit}", f"{without:.0f} {unit}", f"{ratio:.2f}")
        console.print(table)
        console.print(f"deleting a workspace of {KEYS} keys: {delete_workspace(database):.1f} s")
        fill(database, options.events)
        began = time.perf_counter()
        console.print("sealed in {} calls, the longest {:.2f} s".format(*seal(database)), end="; ")
        console.print(f"{time.perf_counter() - began:.0f} s in all")
        began = time.perf_counter()
        found = "intact: {} checkpoints, {} events, the longest call {:.2f} s"
        console.print(found.format(*verify(database)), end="; ")
        console.print(f"{time.perf_counter() - began:.0f} s in all")
        crash(server, database)
        console.print("after kill -9, " + found.format(*verify(database)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
