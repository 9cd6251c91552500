"""`make bench-events`: what the log of events costs those who write, and whether it holds.

Sessions issue and revoke keys with the events and without, in turns, on a server that writes to its
disk as a real one does. The ratio of the two is what counts: absolute figures mean little on a
shared machine. Then the server is killed with kill -9 in the middle, and every chain is verified.
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
from stack.tools import ROOT

SESSIONS = 8
SCRIPT = ROOT / "sql" / "bench" / "issue_and_revoke.sql"
# As a server with data to lose.
SETTINGS = {"fsync": "on", "full_page_writes": "on", "max_wal_size": "1GB"}
TRIGGERS = ("keys_insert_add_event", "keys_update_add_event")
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
        for name in TRIGGERS:
            word = "enable always" if on else "disable"
            owner.execute(f"alter table keylatch_internal.keys {word} trigger {name}".encode())


def verify(database: Database) -> tuple[int, int]:
    """How many chains and events there are; every chain has to be intact."""
    with psycopg.connect(database.url) as owner:
        rows = owner.execute(
            "select v.is_intact, v.events, v.problem from keylatch_internal.key_event_heads as h"
            " cross join lateral keylatch.verify_events(h.workspace_id) as v"
        ).fetchall()
        unlinked = owner.execute(
            "select count(*) from keylatch_internal.key_events as e where not exists"
            " (select from keylatch_internal.key_event_links as l where l.event_id = e.id)"
        ).fetchone()
    assert all(intact for intact, _, _ in rows), rows
    assert unlinked == (0,), unlinked
    return len(rows), sum(events for _, events, _ in rows)


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
    """Kill the server while sessions write, start it again, and verify."""
    load = subprocess.Popen(
        pgbench(database, SESSIONS, 1, 60),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=_environment(database),
    )
    time.sleep(3)
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
    parser = argparse.ArgumentParser(prog="bench-events")
    parser.add_argument("--seconds", type=float, default=30, help="of writing for each case")
    options = parser.parse_args(arguments)
    rounds, console = 3, Console(highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("", "with", "without", "ratio"):
        table.add_column(name, justify="right" if name else "left")
    with (
        Server(settings=SETTINGS) as server,
        Database(server, "events", make_template(server)) as database,
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
        console.print("intact: {} chains, {} events".format(*verify(database)))
        crash(server, database)
        console.print("after kill -9, intact: {} chains, {} events".format(*verify(database)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
